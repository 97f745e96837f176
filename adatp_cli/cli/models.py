"""`adatp models`: which models and encoders are here, fetching one, and where it lies."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

from adatp_cli.cli.errors import INTERRUPTED
from adatp_cli.cli.options import JSON, VERBOSE, argument, flag, option
from adatp_cli.cli.output import Output
from adatp_cli.errors import ModelError
from adatp_cli.text import readable_bytes

if TYPE_CHECKING:
    from adatp_cli.model.checkpoints import Kept
    from adatp_cli.model.hub import Wanted

_ASK_FROM = 1_000_000_000  # bytes from which on somebody at a terminal is asked first

NAME = argument("NAME", "tiny, 0.5b, 7b, 72b, or the hub id of a model or of a relevance encoder.")


def list_models(output: Output, json: bool = JSON) -> None:
    """The models and encoders that adatp knows or has in the cache, and what is missing of them.

    Asks nothing of the hub.

    Examples:
    adatp models list
    adatp models list --json | jq .name
    """
    from adatp_cli.model.checkpoints import kept
    from adatp_cli.model.hub import cache_folder

    for item in kept():
        if json:
            output.data(dataclasses.asdict(item))
        else:
            output.line(_line(item))
    if not json:
        output.line(f"cache: {cache_folder()}")


def path(output: Output, name: str = NAME, json: bool = JSON) -> None:
    """Print the folder of a model or encoder that is here, whole; exit code 4 where it is not.

    Examples:
    adatp models path tiny
    adatp models path 0.5b --json
    """
    from adatp_cli.model.checkpoints import look

    item = look(name)
    if json:
        output.data(dataclasses.asdict(item))
    if not item.ready or item.folder is None:
        raise ModelError(item.missing, f"`adatp models pull {name}` fetches what is missing")
    if not json:
        output.line(item.folder)


def pull(
    output: Output,
    name: str = NAME,
    encoder: bool = option(
        None,
        "--encoder/--no-encoder",
        "With a model, fetch the relevance encoder that the default profile uses.",
        default=True,
    ),
    yes: bool = flag(None, "--yes -y", "Fetch gigabytes without being asked first."),
    verbose: bool = VERBOSE,
) -> int:
    """Fetch what is missing of a model or an encoder, and replace what is damaged.

    What is here is read through. On a terminal you are asked before more than a gigabyte is
    fetched. A download that was stopped goes on where it was.

    Examples:
    adatp models pull 0.5b
    adatp models pull 7b --no-encoder --yes
    """
    from adatp_cli.model.checkpoints import look
    from adatp_cli.model.hub import announcement, fetch
    from adatp_cli.model.quiet import quiet_libraries

    with output.running(), quiet_libraries(verbose=verbose):
        output.stage(f"looking up {name}")
        wanted = _wanted(name, encoder=encoder)
        if sum(item.size for item in wanted) >= _ASK_FROM and not yes and _at_terminal():
            output.note(announcement(wanted))
            if not output.agreed("fetch it?"):
                output.note("nothing was fetched")
                return INTERRUPTED
        fetch(wanted, output.progress_line)
    output.note(_line(look(name)))
    return 0


def _wanted(name: str, *, encoder: bool) -> list[Wanted]:
    """What has to be fetched of a model and its encoder, or of an encoder."""
    from adatp_cli.model.checkpoints import (
        DEFAULT_ENCODER,
        find,
        find_relevance,
        is_encoder,
    )
    from adatp_cli.model.layout import read_description

    if is_encoder(name):
        missing = [find_relevance(name, offline=False).missing]
    else:
        model = find(name, offline=False, thorough=True)
        missing = [model.missing]
        own = read_description(model.folder).relevance_encoder
        if encoder:
            found = find_relevance(own or DEFAULT_ENCODER, offline=False)
            missing.append(found.missing)
    return [item for item in missing if item is not None]


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _line(item: Kept) -> str:
    from adatp_cli.model.checkpoints import TINY, TINY_KNOWS

    called = item.name + (", a relevance encoder" if item.kind == "encoder" else "")
    if item.state == "absent":
        about = "" if item.bytes_whole is None else f", {readable_bytes(item.bytes_whole)} to fetch"
        return f"{called}: not here{about}"
    here = readable_bytes(item.bytes_here)
    if item.ready:
        known = f"; {TINY_KNOWS}" if item.name.lower() == TINY else ""
        return f"{called}: here, {here}{known}"
    return f"{called}: {here} here; {item.missing}"
