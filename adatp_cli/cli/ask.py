"""`adatp ask`: one clip, one or several questions."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from adatp_cli.answering.tasks import PrefillMode
from adatp_cli.batch.walk import is_video_name
from adatp_cli.cli.options import (
    RunOptions,
    Stats,
    StatsKind,
    argument,
    option,
    trace_outputs,
)
from adatp_cli.cli.output import Output
from adatp_cli.cli.running import AskRun
from adatp_cli.errors import UsageError
from adatp_cli.files import check_outputs, read_whole
from adatp_cli.text import decoded
from adatp_cli.video.source import STDIN_NAME, local_path

STDIN = "-"
# Held in memory; an hour of 1080p is seldom as large.
_CLIP_BYTES = 4 << 30
# What people put behind a flag.
_SWITCHES = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0"})


@dataclass(frozen=True, kw_only=True)
class AskOptions(RunOptions):
    video: Annotated[str, argument("VIDEO", "A video file, or - for its bytes on stdin.")]
    questions: Annotated[
        list[str], argument("QUESTION...", "One or several; - reads one a line from stdin.")
    ]
    prefill: Annotated[
        PrefillMode | None,
        option(
            "Pruning",
            "--prefill",
            "Several questions: prune for each, share one unpruned prefill, or the one of "
            "both that takes fewer FLOP. Default: cheaper; each, with --profile, --budget or "
            "--trace.",
        ),
    ] = None
    stats: StatsKind = Stats.short


def ask(options: AskOptions, output: Output) -> None:
    """Answer one or several questions about one clip, which is decoded and encoded once.

    Put -- before a VIDEO or QUESTION that starts with a dash.
    """
    video = check_arguments(options.video, options.questions, output)
    asked = read_questions(options.questions, stdin_is_video=video == STDIN)
    traces = trace_outputs(options.trace, len(asked))
    check_outputs(traces, [video, options.profile_name], overwrite=options.overwrite)
    source = read_clip() if video == STDIN else video
    name = STDIN_NAME if video == STDIN else video
    AskRun(source, asked, options, output, video_name=name, prefill=options.prefill).run()


def check_arguments(video: str, questions: Sequence[str], output: Output) -> str:
    """The path of VIDEO, and what tells that it or a question was meant to be something else."""
    files = [text for text in questions if _is_file(text)]
    texts = [text for text in questions if text not in files]
    path = video if video == STDIN else local_path(video)
    if files and video != STDIN and not _is_file(video) and not os.path.exists(path):
        asked = " ".join(map(shlex.quote, [video, *texts]))
        raise UsageError(
            f"VIDEO {video!r} is no file, and the question {files[0]!r} is one",
            f"the video comes first: adatp ask {shlex.quote(files[0])} {asked}",
        )
    if files:
        clips = " ".join(map(shlex.quote, [video, *files]))
        options = " ".join(f"-q {shlex.quote(text)}" for text in texts) or "-q QUESTION"
        raise UsageError(
            f"the question {files[0]!r} is a file",
            f"several clips are a batch: adatp batch {clips} {options}",
        )
    word = next((text for text in texts if text.lower() in _SWITCHES), None)
    if word is not None and len(texts) > 1:
        raise UsageError(f"the question {word!r} is none: flags take no value", "leave it out")
    words = [text for text in texts if re.fullmatch(r"\S*[^\s?.!-]", text)]
    if len(words) > 1:
        output.note(
            f"{len(texts)} questions, {words[0]!r} and {words[1]!r} among them: put quotes around "
            "a question of several words"
        )
    return path


def _is_file(text: str) -> bool:
    """Whether a text names a file, or reads as the name of a clip that is not there."""
    return text != STDIN and (
        os.path.isfile(local_path(text)) or (is_video_name(text) and not re.search(r"\s", text))
    )


def read_questions(given: Sequence[str], *, stdin_is_video: bool) -> list[str]:
    """The questions as they were given, a `-` replaced by the lines on stdin."""
    if list(given).count(STDIN) > int(not stdin_is_video):
        other = "the clip" if stdin_is_video else "another question"
        raise UsageError(f"a question - reads stdin, and so does {other}", "use - once")
    questions: list[str] = []
    for text in given:
        if text == STDIN:
            lines = [line.strip() for line in _stdin_text().splitlines()]
            found = [line for line in lines if line]
            if not found:
                raise UsageError("no question on stdin", "write one question a line")
            questions += found
        elif not text.strip():
            raise UsageError("a question is blank", "ask something")
        else:
            questions.append(text)
    return questions


def _stdin_text() -> str:
    if sys.stdin is None:
        return ""
    data = read_whole(sys.stdin.buffer, "the questions on stdin", "write one question a line")
    return decoded(data, errors="replace")


def read_clip() -> bytes:
    """The clip's bytes on stdin."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "VIDEO is -, and stdin is no file or pipe", "as in: adatp ask - QUESTION < clip.mp4"
        )
    hint = "save it to a file, and name that"
    return read_whole(sys.stdin.buffer, "the clip on stdin", hint, most=_CLIP_BYTES)
