"""`adatp demo`: a clip made on the spot, the bundled model, answers beside the truth."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path

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


def demo(
    output: Output,
    save_clip: Path | None = option(
        None,
        "--save-clip FILE",
        "Write the clip here and keep it (an .mp4). Default: a temporary file.",
    ),
    overwrite: bool = OVERWRITE,
    profile: str | None = PROFILE,
    json: bool = JSON,
    stats: Stats = STATS,
    quiet: bool = QUIET,
    verbose: bool = VERBOSE,
) -> None:
    """Write a small generated mp4 and ask the bundled model about it; needs no network.

    The bundled model tiny knows moving coloured shapes and nothing else.

    Examples:
    adatp demo
    adatp demo --save-clip shapes.mp4
    """
    options = RunOptions(
        model="tiny", profile=profile, offline=True, json=json, quiet=quiet, verbose=verbose
    )
    options.check()
    kept = [] if save_clip is None else [OutputPath("--save-clip", save_clip, (".mp4",), "a clip")]
    check_outputs(kept, [options.profile_name], overwrite=overwrite)
    from adatp_cli.tiny.clips import write_demo_clip

    what = "a generated clip of moving coloured shapes"
    output.note(f"{save_clip}: {what}" if save_clip else f"{what}; --save-clip FILE keeps it")
    output.stage("writing a clip")
    with tempfile.TemporaryDirectory(prefix="adatp-demo-") as folder:
        made = Path(folder) / "demo.mp4"
        questions = write_demo_clip(made)
        if save_clip is not None:
            with replacing(save_clip, "the clip") as file:
                shutil.copyfile(made, file)
        output.note("tiny, the bundled model, knows moving coloured shapes and nothing else")
        answers = ask_clip(
            str(made),
            [question.text for question in questions],
            options,
            output,
            video_name=str(save_clip or made),
            prefill="each",
            truths=[question.answer for question in questions],
        )
    right = sum(
        answer.record.answer == question.answer
        for answer, question in zip(answers, questions, strict=True)
    )
    output.note("", f"{right} of {plural(len(questions), 'answer')} right")
    if stats == "short":
        output.note(
            "tokens kept: of the clip's, to the last layer; the LLM's work: its share of the "
            "unpruned run's, in the paper's count"
        )
    if json:
        return
    output.note("", "next:")
    if save_clip is not None:
        clip = shlex.quote(str(save_clip))
        output.note(f'what it looked at: adatp show {clip} "what happens?" -m tiny -o seen.html')
    output.note(
        "which models this machine can run: adatp doctor",
        'a clip of your own, with a model that is fetched once: adatp ask CLIP "what happens?"',
    )
