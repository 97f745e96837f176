"""`adatp ask`: one clip, one or several questions."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adatp_cli.answering.decoding import PrefillMode
from adatp_cli.batch.walk import is_video_name
from adatp_cli.cli.errors import info_of
from adatp_cli.cli.open_model import load_profiles, open_model
from adatp_cli.cli.options import (
    STATS,
    RunOptions,
    Stats,
    argument,
    option,
    trace_outputs,
    trace_path,
)
from adatp_cli.cli.output import Output
from adatp_cli.cli.remote import ask_server
from adatp_cli.cli.streams import OutputClosedError
from adatp_cli.errors import UsageError
from adatp_cli.files import check_outputs, read_whole
from adatp_cli.record import RunContext
from adatp_cli.text import amount, decoded
from adatp_cli.video.source import STDIN_NAME, check_source, local_path

if TYPE_CHECKING:
    from adatp_cli.answering.events import (
        Answered,
        PrefillChosen,
        Stage,
        TextChunk,
        TurnsLeftOut,
    )
    from adatp_cli.answering.run import Row

STDIN = "-"
# Held in memory; an hour of 1080p is seldom as large.
_CLIP_BYTES = 4 << 30
# What people put behind a flag.
_SWITCHES = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0"})


@dataclass(frozen=True, kw_only=True)
class AskOptions(RunOptions):
    video: str = argument("VIDEO", "A video file, or - for its bytes on stdin.")
    questions: list[str] = argument("QUESTION...", "One or several; - reads one a line from stdin.")
    prefill: PrefillMode | None = option(
        "Pruning",
        "--prefill",
        "Several questions: prune for each, share one unpruned prefill, or the one of "
        "both that takes fewer FLOP. Default: cheaper; each, with --profile, --budget or "
        "--trace.",
    )
    stats: Stats = STATS
    server: str | None = option(
        "Server",
        "--server URL",
        "Ask a running `adatp serve`, which has its model loaded; model and profile are the "
        "server's where none is named.",
        envvar="ADATP_SERVER",
    )

    def check(self) -> None:
        super().check()
        if self.server is not None and self.prefill is not None:
            raise UsageError("a server has its own way of prefills", "leave out --prefill")


def ask(options: AskOptions, output: Output) -> None:
    """Answer one or several questions about one clip, which is decoded and encoded once.

    Put -- before a VIDEO or QUESTION that starts with a dash.

    Examples:
    adatp ask clip.mp4 "what happens?"
    adatp ask clip.mp4 "who speaks?" "and then?" --start 1:30 --end 2:00 -n 64
    """
    video = check_arguments(options.video, options.questions, output)
    asked = read_questions(options.questions, stdin_is_video=video == STDIN)
    traces = trace_outputs(options.trace, len(asked))
    check_outputs(traces, [video, options.profile_name], overwrite=options.overwrite)
    source, name = read_clip(video)
    if options.server is not None:
        ask_server(options.server, source, asked, options, output, video_name=name)
        return
    ask_clip(source, asked, options, output, video_name=name, prefill=options.prefill)


@dataclass(slots=True)
class AnswerWriter:
    """Writes answers as they come; in JSON mode what gets none gets a failure record."""

    output: Output
    trace: str | None  # where traces go, as `--trace` names it
    questions: Sequence[str]  # of each answer to come: what is asked,
    contexts: Sequence[RunContext]  # what is known,
    headings: Sequence[str]  # and what stands above it where there are several
    truths: Sequence[str] | None = None  # to be shown beside the answers
    answers: list[Answered] = field(default_factory=list)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """A block whose error ends all that has no answer yet; the error goes on."""
        try:
            yield
        except (OutputClosedError, KeyboardInterrupt):
            raise
        except Exception as error:
            info, done = info_of(error), len(self.answers)
            for context, question in zip(self.contexts[done:], self.questions[done:], strict=True):
                self.output.failed(context.failure(question, info))
            raise

    def know(self, **facts: Any) -> None:
        """Remember what a failure record will tell, should one be needed."""
        self.contexts = [dataclasses.replace(one, **facts) for one in self.contexts]

    def take(self, event: Stage | TurnsLeftOut | TextChunk | Row) -> None:
        from adatp_cli.answering.events import Stage, TextChunk, TurnsLeftOut

        number = len(self.answers)
        if isinstance(event, Stage):
            self.output.stage(f"{event.name}: {event.detail}")
        elif isinstance(event, TurnsLeftOut):
            self.output.note(event.note)
        elif isinstance(event, TextChunk):
            self._introduce(number)
            self.output.text_chunk(event.text)
        elif event.error is not None:
            raise event.error
        elif (answered := event.answered) is not None:
            self._introduce(number)
            if self.trace is not None and answered.trace is not None:
                answered.trace.save(trace_path(self.trace, number))
            self.answers.append(answered)
            truth = None if self.truths is None else self.truths[number]
            own = answered.own if number else None  # a later question waits for itself alone
            self.output.answered(answered.record, own=own, truth=truth)

    def _introduce(self, number: int) -> None:
        if len(self.questions) > 1:
            self.output.question(number, self.headings[number])


def ask_clip(
    source: str | bytes,
    questions: Sequence[str],
    options: RunOptions,
    output: Output,
    *,
    video_name: str,
    prefill: PrefillMode | None = None,
    truths: Sequence[str] | None = None,
) -> list[Answered]:
    """Ask one clip everything and write the answers as they come; `demo` does it too.

    `prefill` is how several questions get theirs. Not said: whichever costs less, unless something
    was asked of the pruning.
    """
    from adatp_cli.model.quiet import quiet_libraries
    from adatp_cli.video.isolated import IsolatedReader

    contexts = [RunContext(video_name)] * len(questions)
    writer = AnswerWriter(output, options.trace, questions, contexts, questions, truths)
    with (
        writer.failing(),
        output.running(),
        quiet_libraries(verbose=options.verbose),
        IsolatedReader(options.limits()) as reader,
    ):
        (profile,) = load_profiles([options.profile_name], options.budget)
        writer.know(profile=profile.to_dict())
        wanted = options.sampling()  # a wrong one is told before anything is loaded
        clip = check_source(source, video_name)  # a wrong path must not wait for PyTorch
        reader.start()
        opened = open_model(
            [profile],
            options,
            output,
            check=lambda: reader.check(clip, wanted),
        )
        from adatp_cli.answering.events import ClipReady, PrefillChosen
        from adatp_cli.answering.run import RunLoop

        run = opened.runs[0]
        writer.contexts = [dataclasses.replace(run.context, video=video_name)] * len(questions)
        sampling = opened.sampling(options, output, questions)
        # What was asked of the pruning is held to.
        asked = (options.profile, options.budget, options.trace)
        held_to = profile.method != "vanilla" and any(item is not None for item in asked)
        mode: PrefillMode = prefill or ("each" if held_to else "cheaper")
        loop = RunLoop(info_of, share=mode != "each", stream=not options.json)
        events = loop.clip(
            run, source, questions, sampling, reader=reader, video_name=video_name, prefill=mode
        )
        # Closed at once when something goes wrong: that stops the thread that generates.
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, ClipReady):
                    reader.close()  # the model can use its memory
                    writer.know(video_info=event.video_info)
                    output.note(*event.notes)
                elif isinstance(event, PrefillChosen):
                    writer.know(profile=event.profile.to_dict())
                    output.note(*_told_of_prefills(event, len(questions), prefill))
                else:
                    writer.take(event)
    return writer.answers


def _told_of_prefills(
    event: PrefillChosen, questions: int, prefill: PrefillMode | None
) -> list[str]:
    """What to say of how several questions get their prefills, where there is something to."""
    cost = event.cost
    if event.shared:
        then = "nothing is pruned; --prefill each prunes"
    elif not event.fits:
        then = "one prefill for all does not fit the memory"
    elif cost.shared < cost.pruned and prefill is None:
        then = "--prefill shared would cost less, and prune nothing"
    else:
        return []
    return [
        f"{questions} questions: {amount(cost.shared)}FLOP on one unpruned prefill, "
        f"{amount(cost.pruned)}FLOP pruned for each",
        then,
    ]


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
            hint = "write one question a line"
            data = b""
            if sys.stdin is not None:
                data = read_whole(sys.stdin.buffer, "the questions on stdin", hint)
            lines = decoded(data, errors="replace").splitlines()
            found = [line.strip() for line in lines if line.strip()]
            if not found:
                raise UsageError("no question on stdin", hint)
            questions += found
        elif not text.strip():
            raise UsageError("a question is blank", "ask something")
        else:
            questions.append(text)
    return questions


def read_clip(video: str) -> tuple[str | bytes, str]:
    """What frames are read from, the bytes on stdin for -, and what it is called."""
    if video != STDIN:
        return video, video
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "VIDEO is -, and stdin is no file or pipe", "as in: adatp ask - QUESTION < clip.mp4"
        )
    hint = "save it to a file, and name that"
    data = read_whole(sys.stdin.buffer, "the clip on stdin", hint, most=_CLIP_BYTES)
    return data, STDIN_NAME
