"""`adatp demo`: a clip made on the spot, the bundled model, answers beside the truth."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from adatp_cli.cli.errors import reporting
from adatp_cli.cli.options import (
    Json,
    ProfileOption,
    Quiet,
    RunOptions,
    Stats,
    StatsOption,
    Verbose,
)
from adatp_cli.cli.output import Output
from adatp_cli.cli.running import Interview
from adatp_cli.errors import UsageError
from adatp_cli.text import plural


def demo(
    clip: Annotated[
        str | None,
        typer.Option(
            "--clip",
            metavar="FILE",
            help="Write the clip here and keep it (an .mp4). Default: a temporary file.",
        ),
    ] = None,
    profile: ProfileOption = None,
    json: Json = False,
    stats: StatsOption = Stats.short,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a small generated mp4 and ask the bundled model about it; needs no network.

    The bundled model tiny knows moving coloured shapes and nothing else.
    """
    output = Output(json=json, quiet=quiet, verbose=verbose, stats=stats)
    options = RunOptions(
        model="tiny", profile=profile, offline=True, json=json, quiet=quiet, verbose=verbose
    )
    with reporting(output):
        options.check()
        if clip is not None:
            path = _check_target(clip)
            output.note(f"{path}: a generated clip of moving coloured shapes")
            _run(path, options, output)
            _next(output, clip)
            return
        output.note("a generated clip of moving coloured shapes; --clip FILE keeps it")
        with tempfile.TemporaryDirectory(prefix="adatp-demo-") as folder:
            _run(Path(folder) / "demo.mp4", options, output)
        _next(output, None)


def _check_target(clip: str) -> Path:
    path = Path(clip)
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"--clip {clip}: the clip is an mp4 file", "end its name in .mp4")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"--clip {clip}: cannot be written there", "name a file in a folder")
    return path


def _run(path: Path, options: RunOptions, output: Output) -> None:
    """Write the clip, ask about it, and say how it went."""
    from adatp_cli.tiny.clips import write_demo_clip

    output.stage("writing a clip")
    try:
        made = write_demo_clip(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{path} cannot be written: {reason}", "name another --clip") from None
    output.note("tiny, the bundled model, knows moving coloured shapes and nothing else")
    interview = Interview(
        str(path),
        [question.text for question in made.questions],
        options,
        output,
        video_name=str(path),
        prefill="each",
        truths=[question.answer for question in made.questions],
    )
    interview.run()
    output.note("", f"{interview.right} of {plural(len(made.questions), 'answer')} right")
    if output.stats is Stats.short:
        output.note(
            "tokens kept: of the clip's, to the last layer; the LLM's work: its share of the "
            "unpruned run's, in the paper's count"
        )


def _next(output: Output, clip: str | None) -> None:
    """What to type after the demo."""
    if output.json:
        return
    output.note("", "next:")
    if clip is not None:
        quoted = shlex.quote(clip)
        output.note(f'what it looked at: adatp show {quoted} "what happens?" -m tiny -o seen.html')
    output.note(
        "which models this machine can run: adatp doctor",
        'a clip of your own, with a model that is fetched once: adatp ask CLIP "what happens?"',
    )
