"""`adatp demo`: a clip made on the spot, the bundled model, answers beside the truth."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.cli.ask import ask_clip
from adatp_cli.cli.options import (
    JSON,
    OVERWRITE,
    PROFILE,
    QUIET,
    STATS,
    VERBOSE,
    RunOptions,
    Stats,
    option,
)
from adatp_cli.cli.output import Output
from adatp_cli.files import OutputPath, check_outputs, replacing
from adatp_cli.text import plural

if TYPE_CHECKING:
    from adatp_cli.tiny.questions import Question


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    save_clip: Path | None = option(
        None,
        "--save-clip FILE",
        "Write the clip here and keep it (an .mp4). Default: a temporary file.",
    )
    overwrite: bool = OVERWRITE
    profile: str | None = PROFILE
    json: bool = JSON
    stats: Stats = STATS
    quiet: bool = QUIET
    verbose: bool = VERBOSE


def demo(options: DemoOptions, output: Output) -> None:
    """Write a small generated mp4 and ask the bundled model about it; needs no network.

    The bundled model tiny knows moving coloured shapes and nothing else.
    """
    target = options.save_clip
    asking = RunOptions(
        model="tiny",
        profile=options.profile,
        offline=True,
        json=options.json,
        quiet=options.quiet,
        verbose=options.verbose,
    )
    asking.check()
    kept = [] if target is None else [OutputPath("--save-clip", target, (".mp4",), "a clip")]
    check_outputs(kept, [asking.profile_name], overwrite=options.overwrite)
    _run(target, asking, output)
    _next(output, target)


def _run(target: Path | None, options: RunOptions, output: Output) -> None:
    """Write the clip, keep it at `target`, ask about it, and say how it went."""
    from adatp_cli.tiny.clips import write_demo_clip

    what = "a generated clip of moving coloured shapes"
    output.note(f"{what}; --save-clip FILE keeps it" if target is None else f"{target}: {what}")
    output.stage("writing a clip")
    with tempfile.TemporaryDirectory(prefix="adatp-demo-") as folder:
        clip = Path(folder) / "demo.mp4"
        questions = write_demo_clip(clip)
        if target is not None:
            with replacing(target, "the clip") as file:
                shutil.copyfile(clip, file)
        _ask(clip, questions, str(target or clip), options, output)


def _ask(
    clip: Path, questions: Sequence[Question], name: str, options: RunOptions, output: Output
) -> None:
    output.note("tiny, the bundled model, knows moving coloured shapes and nothing else")
    answers = ask_clip(
        str(clip),
        [question.text for question in questions],
        options,
        output,
        video_name=name,
        prefill="each",
        truths=[question.answer for question in questions],
    )
    right = sum(
        answer.record.answer == question.answer
        for answer, question in zip(answers, questions, strict=True)
    )
    output.note("", f"{right} of {plural(len(questions), 'answer')} right")
    if output.stats is Stats.short:
        output.note(
            "tokens kept: of the clip's, to the last layer; the LLM's work: its share of the "
            "unpruned run's, in the paper's count"
        )


def _next(output: Output, clip: Path | None) -> None:
    """What to type after the demo."""
    if output.json:
        return
    output.note("", "next:")
    if clip is not None:
        quoted = shlex.quote(str(clip))
        output.note(f'what it looked at: adatp show {quoted} "what happens?" -m tiny -o seen.html')
    output.note(
        "which models this machine can run: adatp doctor",
        'a clip of your own, with a model that is fetched once: adatp ask CLIP "what happens?"',
    )
