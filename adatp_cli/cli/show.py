"""`adatp show`: a picture of what the model looked at."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from adatp_cli.cli.ask import STDIN, check_arguments, read_clip, read_questions
from adatp_cli.cli.errors import failure_of
from adatp_cli.cli.open_model import load_profiles, open_model
from adatp_cli.cli.options import (
    RunOptions,
    Stats,
    StatsKind,
    argument,
    option,
    trace_outputs,
    trace_path,
)
from adatp_cli.cli.output import Output, statistics
from adatp_cli.cli.streams import OutputClosedError
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.files import OutputPath, check_outputs, replacing
from adatp_cli.record import RunContext
from adatp_cli.text import plural
from adatp_cli.video.source import STDIN_NAME, check_source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from adatp_cli.answering.events import Answered, Stage, TextChunk
    from adatp_cli.answering.run import Row
    from adatp_cli.answering.session import Session
    from adatp_cli.answering.tasks import ProfileRun
    from adatp_cli.pictures.scene import Scene
    from adatp_cli.video.frames import Frames, Resize
    from adatp_cli.video.isolated import IsolatedReader
    from adatp_cli.video.sampling import Sampling

    Pixels = npt.NDArray[np.uint8]

_ENDINGS = (".png", ".html", ".mp4")
_PAGE = ".html"  # the only one that is not drawn by matplotlib
# Frames are drawn from pictures of at least this side; a small model's own are too coarse to see.
_SIDE = 384


@dataclass(frozen=True, kw_only=True)
class ShowOptions(RunOptions):
    video: Annotated[str, argument("VIDEO", "A video file, or - for its bytes on stdin.")]
    question: Annotated[str, argument("QUESTION", "One; - reads it from stdin.")]
    output: Annotated[
        Path,
        option(
            "Result",
            "--output -o",
            "Where the picture goes. .png: a contact sheet; .html: a page with a slider over "
            "the layers; .mp4: the frames at their moments.",
            "FILE",
            show_default=False,
        ),
    ]
    compare: Annotated[
        list[str] | None,
        option(
            "Result",
            "--compare",
            "Show this profile beside the other, on the same frames.",
            "PROFILE",
        ),
    ] = None
    stats: StatsKind = Stats.short


def show(options: ShowOptions, output: Output) -> None:
    """Ask one question and draw what the model looked at: which patches were kept to which layer.

    stdout gets the answer, or its record with --json; with --compare there are two.
    """
    video = check_arguments(options.video, [options.question], output)
    (asked, *more) = read_questions([options.question], stdin_is_video=video == STDIN)
    if more:
        raise UsageError("a picture is about one question", "draw one for each")
    compared = options.compare or []
    if len(compared) > 1:
        raise UsageError(
            "--compare is given twice, and a picture shows two profiles", "draw one for each"
        )
    names = [options.profile_name, *compared]
    outputs = [OutputPath("-o", options.output, _ENDINGS, "a picture")]
    outputs += trace_outputs(options.trace, len(names))
    check_outputs(outputs, [video, *names], overwrite=options.overwrite)
    source = read_clip() if video == STDIN else video
    name = STDIN_NAME if video == STDIN else video
    Show(Clipping(source, name, asked), names, options.output, options, output).run()


@dataclass(frozen=True, slots=True)
class Clipping:
    """A clip, what it is called, and what is asked about it."""

    source: str | bytes
    name: str
    question: str


class Show:
    """One run of `adatp show`."""

    def __init__(
        self,
        about: Clipping,
        profiles: Sequence[str],
        target: Path,
        options: RunOptions,
        output: Output,
    ) -> None:
        self._about = about
        self._profiles = profiles
        self._target = target
        self._options = options
        self._output = output
        self._contexts = [RunContext(about.name)] * len(profiles)
        self._names: list[str] = []
        self._answered: list[Answered] = []

    def run(self) -> None:
        """Answer, write the answers as they come, and draw.

        In JSON mode each profile without an answer gets a failure record before the error goes on.

        Raises
        ------
        AdatpError
            Whatever keeps the picture from being drawn.
        """
        from adatp_cli.model.quiet import quiet_libraries

        draw = _drawer(self._target)
        with self._output.running(), quiet_libraries(verbose=self._options.verbose):
            try:
                scene = self._scene()
            except (OutputClosedError, KeyboardInterrupt):
                raise
            except Exception as error:
                info = failure_of(error).info
                for context in self._contexts[len(self._answered) :]:
                    self._output.failed(context.failure(self._about.question, info))
                raise
            self._output.stage(f"drawing {self._target}")
            with replacing(self._target, "the picture") as file:
                draw(scene, file)
        self._output.note(f"the picture is {self._target}")

    def _scene(self) -> Scene:
        from adatp_cli.pictures.scene import Panel, Scene
        from adatp_cli.video.isolated import IsolatedReader

        profiles = load_profiles(self._profiles, self._options.budget)
        self._contexts = [
            RunContext(self._about.name, profile=profile.to_dict()) for profile in profiles
        ]
        wanted = self._options.sampling()  # a wrong one is told before anything is read
        source, name = self._about.source, self._about.name
        check_source(source, name)
        with IsolatedReader(self._options.limits()) as reader:
            reader.start()
            opened = open_model(
                profiles,
                self._options,
                self._output,
                keep_trace=True,
                check=lambda: reader.check(source, wanted, name=name),
            )
            self._contexts = [dataclasses.replace(run.context, video=name) for run in opened.runs]
            self._names = [run.name for run in opened.runs]
            sampling = opened.sampling(self._options, self._output)
            session = opened.runs[0].session
            frames, seconds = self._read(reader, session, sampling)
            pixels = self._pixels(reader, session.plan.resize, sampling, frames)
        self._answer(opened.runs, frames, seconds)
        panels = []
        for event in self._answered:
            if event.trace is not None:
                costs = statistics(event.record)
                panels.append(Panel.of(event.record, event.trace.arrays, costs))
        return Scene(pixels, panels)

    def _read(
        self, reader: IsolatedReader, session: Session, sampling: Sampling
    ) -> tuple[Frames, float]:
        from adatp_cli.answering.records import video_facts

        about = self._about
        self._output.stage(f"decode: {about.name}")
        started = time.perf_counter()
        frames = reader.read(about.source, sampling, name=about.name, resize=session.plan.resize)
        seconds = time.perf_counter() - started
        facts = video_facts(frames)
        self._contexts = [dataclasses.replace(one, video_info=facts) for one in self._contexts]
        for note in frames.notes + session.remarks(frames):
            self._output.note(note)
        return frames, seconds

    def _pixels(
        self, reader: IsolatedReader, resize: Resize, sampling: Sampling, frames: Frames
    ) -> Pixels:
        """The frames to draw: those that the model sees, sharper where it sees them coarsely."""
        if resize.size >= _SIDE or frames.pixels.shape[1:3] != (resize.size, resize.size):
            return frames.pixels
        sharper = dataclasses.replace(resize, size=_SIDE)
        about = self._about
        again = reader.read(about.source, sampling, name=about.name, resize=sharper)
        same = again.timestamps_s.tolist() == frames.timestamps_s.tolist()
        return again.pixels if same else frames.pixels

    def _answer(self, runs: Sequence[ProfileRun], frames: Frames, seconds: float) -> None:
        from adatp_cli.answering.run import Row, RunLoop, encode_for
        from adatp_cli.answering.tasks import Ask, ClipTask, FileClip

        about, output = self._about, self._output
        for run in runs:
            prompt = run.session.plan.prompt(about.question, len(frames))
            run.session.plan.check_memory(len(frames), prompt.text_tokens)
        output.stage(f"vision: {plural(len(frames), 'frame')}")
        clips = encode_for(runs, about.name, frames, seconds)
        task = ClipTask(FileClip(about.name), tuple(Ask(about.question, run) for run in runs))
        loop = RunLoop(lambda error: failure_of(error).info, stream=not output.json)
        # Closed at once when something goes wrong: that stops the thread that generates.
        with contextlib.closing(loop.answers(task, clips, frames)) as events:
            for event in events:
                if isinstance(event, Row):
                    self._keep(event)
                else:
                    self._tell(event)

    def _tell(self, event: Stage | TextChunk) -> None:
        from adatp_cli.answering.events import TextChunk

        if isinstance(event, TextChunk):
            self._introduce()
            self._output.text_chunk(event.text)
        else:
            self._output.stage(f"{event.name}: {event.detail}")

    def _keep(self, row: Row) -> None:
        answered, number = row.answered, len(self._answered)
        if answered is None:
            raise row.error or RuntimeError("a question ended without an answer or an error")
        self._introduce()
        if self._options.trace is not None and answered.trace is not None:
            answered.trace.save(trace_path(self._options.trace, number))
        self._answered.append(answered)
        self._output.answered(answered.record, own=answered.own if number else None)

    def _introduce(self) -> None:
        if len(self._profiles) > 1:
            number = len(self._answered)
            self._output.question(number, self._names[number])


def _drawer(target: Path) -> Callable[[Scene, Path], None]:
    """What draws the kind of picture that the target's name ends in; a stream gets a PNG."""
    ending = target.suffix.lower() or ".png"
    if ending == _PAGE:
        from adatp_cli.pictures.page import save_page

        return save_page
    from adatp_cli.pictures import style

    if not style.can_draw():
        raise ModelError(
            f"a {ending} picture needs matplotlib, which is not installed",
            f"pip install matplotlib, or draw a {_PAGE} page, which needs none",
        )
    from adatp_cli.pictures.film import save_film
    from adatp_cli.pictures.sheet import save_sheet

    return save_film if ending == ".mp4" else save_sheet
