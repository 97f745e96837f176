"""Every question of a dataset under every profile, with the attention of each prefill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from adatp_cli.batch.prefetch import FramePrefetcher
from adatp_cli.evaluation.attention import AttentionWatch
from adatp_cli.evaluation.bias import Sample, sample_of
from adatp_cli.evaluation.questions import ClipSource
from adatp_cli.evaluation.runner import Ask, Pending, encode_pending

if TYPE_CHECKING:
    from adatp_cli.answering.events import Clip
    from adatp_cli.video.frames import Frames


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One question under one profile: a sample, or what kept it from one."""

    ask: Ask
    sample: Sample | Exception


class BiasRunner:
    """Runs the prefill of every question for every profile_run.

    Parameters
    ----------
    language_model
        The decoder stack that the profile_runs share.
    read
        Gives a clip's frames.
    """

    def __init__(self, language_model: nn.Module, read: Callable[[ClipSource], Frames]) -> None:
        self._watch = AttentionWatch(language_model)
        self._read = read

    def run(self, pending: Sequence[Pending], stop: Callable[[], bool]) -> Iterator[Measured]:
        """What was measured, in the order of the plan, each as soon as it is known.

        The contenders' engines must keep traces. A clip is decoded and encoded once.

        Parameters
        ----------
        stop
            Asked after each question; the run ends there when it says so.
        """
        with FramePrefetcher(pending, lambda item: self._read(item.clip)) as ahead:
            for decoded in ahead.results(stop):
                frames = decoded.frames
                clips: dict[str, Clip | Exception] = {}
                if not isinstance(frames, Exception):
                    clips = encode_pending(decoded.item, frames, decoded.seconds)
                for ask in decoded.item.asks:
                    clip = frames if isinstance(frames, Exception) else clips[ask.profile_run.name]
                    yield Measured(ask, self._measure(ask, clip))
                    if stop():
                        return

    def _measure(self, ask: Ask, clip: Clip | Exception) -> Sample | Exception:
        from adatp_cli.answering.events import Answered

        if isinstance(clip, Exception):
            return clip
        try:
            with self._watch as watch:
                for event in ask.profile_run.engine.answer(clip, ask.item.prompt, stream=False):
                    if isinstance(event, Answered) and event.trace is not None:
                        rows = [row.numpy() for row in watch.rows]
                        return sample_of(event.trace.arrays, rows)
        except Exception as error:
            return error
        raise RuntimeError("the engine ended without an answer and its trace")
