"""`adatp chat`: one question after the other about a clip that stays encoded."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from adatp_cli.cli.ask import check_arguments
from adatp_cli.cli.errors import SOME_FAILED, info_of
from adatp_cli.cli.open_model import OpenModel, load_profiles, open_model
from adatp_cli.cli.options import (
    AUTO_FRAMES,
    STATS,
    RunOptions,
    Stats,
    argument,
    frame_number,
)
from adatp_cli.cli.output import Output, statistics
from adatp_cli.cli.serve import CLIP_CACHE, cache_bytes, cache_for
from adatp_cli.cli.show import ENDINGS, drawer, sharpest
from adatp_cli.cli.streams import OutputClosedError
from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.files import OutputPath, check_outputs, replacing
from adatp_cli.profiles import read_share
from adatp_cli.record import json_line
from adatp_cli.text import decoded, nearest, plural
from adatp_cli.video.source import check_source, local_path

if TYPE_CHECKING:
    from adatp_cli.answering.clips import ClipStore
    from adatp_cli.answering.events import Answered
    from adatp_cli.model.prompt import Message
    from adatp_cli.profiles import Profile
    from adatp_cli.video.frames import Frames, Resize
    from adatp_cli.video.isolated import IsolatedReader
    from adatp_cli.video.sampling import Sampling

_HELP = """\
/clip FILE         ask about another clip; what was said is forgotten
/profile NAME      prune with another profile
/budget SHARE      spend another share of the unpruned cost, such as 0.25
/frames N|auto     look at another number of frames
/show FILE         draw what the last answer looked at: .html, .png or .mp4
/save FILE.jsonl   write the records of all answers so far
/help, /quit
"""


@dataclass(frozen=True, kw_only=True)
class ChatOptions(RunOptions):
    WITHOUT: ClassVar[tuple[str, ...]] = ("trace",)

    video: str = argument("VIDEO", "A video file.")
    clip_cache: str = CLIP_CACHE
    stats: Stats = STATS

    def check(self) -> None:
        super().check()
        cache_bytes(self.clip_cache)


def chat(options: ChatOptions, output: Output) -> int:
    """Ask one question after the other about a clip; earlier ones and their answers are known.

    The model is loaded once, and the clip decoded and encoded once. /help lists what can be typed
    beside questions. Ctrl-C stops an answer, Ctrl-D ends the program. Where stdin is no terminal
    each of its lines is a question.

    Examples:
    adatp chat clip.mp4
    adatp chat clip.mp4 -p adatp-light --frames auto
    """
    from adatp_cli.model.quiet import quiet_libraries
    from adatp_cli.video.isolated import IsolatedReader

    video = check_arguments(options.video, [], output)
    (profile,) = load_profiles([options.profile_name], options.budget)
    wanted = options.sampling()
    clip = check_source(video, options.video)
    with (
        output.running(),
        quiet_libraries(verbose=options.verbose),
        IsolatedReader(options.limits()) as reader,
    ):
        reader.start()
        opened = open_model(
            [profile],
            options,
            output,
            keep_trace=True,
            check=lambda: reader.check(clip, wanted),
        )
        from adatp_cli.answering.clips import ClipStore

        store = ClipStore(cache_for(options.clip_cache, opened.model.device))
        sampling = opened.sampling(options, output)
        talk = Talk(options, output, opened, reader, store, video, sampling, sampling)
        if sys.stdin is not None and sys.stdin.isatty():
            output.note("ask about the clip; /help lists what else can be typed, Ctrl-D ends")
            return talk.hold(_typed(output))
        return talk.hold(_piped())


@dataclass
class Talk:
    """A conversation about one clip."""

    options: ChatOptions
    output: Output
    opened: OpenModel
    reader: IsolatedReader
    store: ClipStore
    video: str
    sampling: Sampling
    looked_at: Sampling  # for the last answer
    history: tuple[Message, ...] = ()
    answers: list[Answered] = field(default_factory=list)
    turn: int = 0
    ended: bool = False

    def hold(self, lines: Iterator[str]) -> int:
        """Take what is typed, line by line, to its end; the exit code."""
        failed = False
        for line in lines:
            text = line.strip()
            if not text:
                continue
            try:
                if text.startswith("/"):
                    self._command(text)
                else:
                    self._ask(text)
            except OutputClosedError:
                raise
            except KeyboardInterrupt:
                self.output.trouble("stopped")
            except AdatpError as error:
                failed = True
                self.output.error(info_of(error))
            if self.ended:
                break
        return SOME_FAILED if failed and not sys.stdin.isatty() else 0

    def _ask(self, question: str) -> None:
        from adatp_cli.answering.events import ClipReady, Stage, TextChunk, TurnsLeftOut
        from adatp_cli.answering.run import Row, RunLoop
        from adatp_cli.model.prompt import Message

        self.turn += 1
        output, known = self.output, len(self.store)
        events = RunLoop(info_of, stream=not output.json).clip(
            self.opened.runs[0],
            self.video,
            [question],
            self.sampling,
            reader=self.reader,
            video_name=self.video,
            history=self.history,
            store=self.store,
        )
        context = self.opened.runs[0].context
        try:
            # Closed at once when it is interrupted: that stops the thread that generates.
            with contextlib.closing(events):
                for event in events:
                    if isinstance(event, Stage):
                        output.stage(f"{event.name}: {event.detail}")
                    elif isinstance(event, ClipReady):
                        if len(self.store) == known:
                            output.note(*event.notes)
                    elif isinstance(event, TurnsLeftOut):
                        output.note(event.note)
                    elif isinstance(event, TextChunk):
                        output.text_chunk(event.text)
                    elif isinstance(event, Row):
                        if event.answered is None:
                            raise event.error or RuntimeError("neither answer nor error")
                        self.answers.append(event.answered)
                        self.looked_at = self.sampling
                        output.answered(event.answered.record, turn=self.turn)
                        said = event.answered.record.answer
                        self.history += (Message("user", question), Message("assistant", said))
        except AdatpError as error:
            output.failed(context.failure(question, info_of(error)), self.turn)
            raise

    def _command(self, text: str) -> None:
        name, _, value = text[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "clip": self._clip,
            "profile": self._profile,
            "budget": self._budget,
            "frames": self._frames,
            "show": self._show,
            "save": self._save,
            "help": lambda _value: self.output.trouble(_HELP.rstrip()),
            "quit": self._quit,
        }
        if name not in commands:
            raise UsageError(f"there is no /{name}{nearest(name, commands)}", "/help lists all")
        if not value.strip() and name not in ("help", "quit"):
            raise UsageError(f"/{name} needs a word more", "see /help")
        commands[name](value.strip())

    def _quit(self, _value: str) -> None:
        self.ended = True

    def _clip(self, value: str) -> None:
        video = local_path(value)
        self.reader.check(check_source(video, value), self.options.sampling())
        self.video, self.history, self.answers = video, (), []
        self.output.note(f"asking about {value} from here on")

    def _profile(self, value: str) -> None:
        (profile,) = load_profiles([value], self.options.budget)
        self._prune_with(profile)

    def _budget(self, value: str) -> None:
        self.options = dataclasses.replace(self.options, budget=read_share(value))
        self._prune_with(self.opened.runs[0].session.profile.with_budget(read_share(value)))

    def _prune_with(self, profile: Profile) -> None:
        from adatp_cli.answering.session import Session
        from adatp_cli.answering.tasks import ProfileRun

        loaded = self.opened.loaded
        session = Session(loaded, profile, self.opened.generation, keep_trace=True)
        self.opened = dataclasses.replace(self.opened, runs=(ProfileRun.of(session, loaded),))
        self.sampling = self.opened.sampling(self.options, self.output)
        self.output.note(f"pruning with {profile.name} from here on")

    def _frames(self, value: str) -> None:
        frame_number(value)
        self.options = dataclasses.replace(self.options, frames=value)
        self.sampling = self.opened.sampling(self.options, self.output)
        if value != AUTO_FRAMES:
            self.output.note(f"looking at up to {value} frames from here on")

    def _show(self, value: str) -> None:
        from adatp_cli.pictures.scene import Panel, Scene

        if not self.answers or (trace := self.answers[-1].trace) is None:
            raise UsageError("there is no answer yet to show", "ask something first")
        target = self._output(value, ENDINGS, "a picture")
        draw, record = drawer(target), self.answers[-1].record
        resize = self.opened.runs[0].session.plan.resize

        def read(resize: Resize) -> Frames:
            return self.reader.read(self.video, self.looked_at, name=self.video, resize=resize)

        panel = Panel.of(record, trace.arrays, statistics(record))
        scene = Scene(sharpest(read, resize, read(resize)), [panel])
        with replacing(target, "the picture") as file:
            draw(scene, file)
        self.output.note(f"the picture is {target}")

    def _save(self, value: str) -> None:
        target = self._output(value, (".jsonl",), "records")
        lines = [json_line(one.record.to_dict()) for one in self.answers]
        with replacing(target, "the records") as file:
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self.output.note(f"{plural(len(lines), 'record')} in {target}")

    def _output(self, value: str, endings: tuple[str, ...], what: str) -> Path:
        target = Path(local_path(value))
        checked = OutputPath(value, target, endings, what)
        check_outputs([checked], [self.video], overwrite=self.options.overwrite)
        return target


def _piped() -> Iterator[str]:
    """Lines of a stdin that is no terminal, each as soon as it is there."""
    if sys.stdin is None:
        return
    for line in sys.stdin.buffer:
        yield decoded(line, errors="replace")


def _typed(output: Output) -> Iterator[str]:
    """Lines typed at a prompt on stderr, edited and called back as in a shell."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.output import create_output

    words = [line.split()[0].rstrip(",") for line in _HELP.splitlines()]
    session: PromptSession[str] = PromptSession(
        output=create_output(stdout=sys.stderr),
        completer=WordCompleter(words, sentence=True),
        complete_while_typing=False,
        reserve_space_for_menu=0,
    )
    while True:
        output.clear()
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
