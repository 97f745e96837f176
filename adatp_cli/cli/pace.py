"""What a batch says at its end on how well decoding kept up with the model."""

from __future__ import annotations

import math

from adatp_cli.batch.pace import Pace
from adatp_cli.cli.costs import percent

# Below this share of waiting nobody would gain much by faster decoding.
_NOTABLE = 0.05


def waiting(pace: Pace) -> str:
    """The end of the line on clips per minute; empty where only the first clip was waited for."""
    if pace.clips < 2:
        return ""
    return f"; the model waited for frames {percent(pace.waited_share)} of the time"


def decoding_limit(pace: Pace, decoders: int, cores: int) -> list[str]:
    """What kept the model waiting and what would help; nothing where it hardly waited.

    Parameters
    ----------
    decoders
        Clips that were decoded at the same time; 0: none ahead.
    cores
        What this process may use.
    """
    if pace.clips < 2 or pace.waited_share < _NOTABLE:
        return []
    if decoders == 0:
        return ["with --decoders 0 nothing is decoded ahead"]
    decoding, answering = pace.decoding_s / decoders, pace.answering_s
    if decoding > answering:
        reason = (
            f"decoding is the limit: it takes {decoding / pace.clips:.2f} s a clip, "
            f"the model {answering / pace.clips:.2f} s"
        )
    else:
        reason = "some clips take longer to decode than the ones before them to answer"
    if decoders >= cores:
        return [reason, "no core is left for more decoders: scale clips down, or --shard them"]
    enough = math.ceil(min(cores, pace.decoding_s / max(answering, 1e-9)))
    return [reason, f"{cores} cores can do more: try --decoders {max(decoders + 1, enough)}"]
