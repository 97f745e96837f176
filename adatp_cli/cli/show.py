"""`adatp show`: a picture of what the model looked at."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.cli.ask import STDIN, AnswerWriter, check_arguments, read_clip, read_questions
from adatp_cli.cli.errors import info_of
from adatp_cli.cli.open_model import load_profiles, open_model
from adatp_cli.cli.options import (
    STATS,
    RunOptions,
    Stats,
    argument,
    option,
    trace_outputs,
)
from adatp_cli.cli.output import Output, statistics
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.files import OutputPath, check_outputs, replacing
from adatp_cli.record import RunContext
from adatp_cli.text import plural
from adatp_cli.video.source import check_source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from adatp_cli.pictures.scene import Scene
    from adatp_cli.video.frames import Frames, Resize

    Pixels = npt.NDArray[np.uint8]

ENDINGS = (".png", ".html", ".mp4")
_PAGE = ".html"  # the only one that is not drawn by matplotlib
# Frames are drawn from pictures of at least this side; a small model's own are too coarse to see.
_SIDE = 384


@dataclass(frozen=True, kw_only=True)
class ShowOptions(RunOptions):
    video: str = argument("VIDEO", "A video file, or - for its bytes on stdin.")
    question: str = argument("QUESTION", "One; - reads it from stdin.")
    output: Path = option(
        "Result",
        "--output -o FILE",
        "Where the picture goes. .png: a contact sheet; .html: a page with a slider over "
        "the layers; .mp4: the frames at their moments.",
        default=...,
        show_default=False,
    )
    compare: list[str] | None = option(
        "Result", "--compare PROFILE", "Show this profile beside the other, on the same frames."
    )
    stats: Stats = STATS


def show(options: ShowOptions, output: Output) -> None:
    """Ask one question and draw what the model looked at: which patches were kept to which layer.

    stdout gets the answer, or its record with --json; with --compare there are two.

    Examples:
    adatp show clip.mp4 "what happens?" -o seen.html
    adatp show clip.mp4 "what happens?" -o seen.png --compare fastv
    """
    from adatp_cli.model.quiet import quiet_libraries

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
    outputs = [OutputPath("-o", options.output, ENDINGS, "a picture")]
    outputs += trace_outputs(options.trace, len(names))
    check_outputs(outputs, [video, *names], overwrite=options.overwrite)
    source, name = read_clip(video)
    draw = drawer(options.output)
    with output.running(), quiet_libraries(verbose=options.verbose):
        scene = _scene(source, name, asked, names, options, output)
        output.stage(f"drawing {options.output}")
        with replacing(options.output, "the picture") as file:
            draw(scene, file)
    output.note(f"the picture is {options.output}")


def _scene(
    source: str | bytes,
    video: str,
    question: str,
    names: Sequence[str],
    options: RunOptions,
    output: Output,
) -> Scene:
    """Answer with each profile, write the answers as they come, and gather what is drawn."""
    from adatp_cli.pictures.scene import Panel, Scene
    from adatp_cli.video.isolated import IsolatedReader

    count = len(names)
    contexts = [RunContext(video)] * count
    writer = AnswerWriter(output, options.trace, [question] * count, contexts, names)
    with writer.failing():
        profiles = load_profiles(names, options.budget)
        writer.contexts = [RunContext(video, profile=one.to_dict()) for one in profiles]
        wanted = options.sampling()  # a wrong one is told before anything is read
        clip = check_source(source, video)
        with IsolatedReader(options.limits()) as reader:
            reader.start()
            opened = open_model(
                profiles,
                options,
                output,
                keep_trace=True,
                check=lambda: reader.check(clip, wanted),
            )
            runs = opened.runs
            writer.contexts = [dataclasses.replace(run.context, video=video) for run in runs]
            writer.headings = [run.name for run in runs]
            session, sampling = runs[0].session, opened.sampling(options, output)

            from adatp_cli.answering.records import video_facts
            from adatp_cli.answering.run import RunLoop, encode_for
            from adatp_cli.answering.tasks import Ask, ClipTask, FileClip

            def read(resize: Resize) -> Frames:
                return reader.read(source, sampling, name=video, resize=resize)

            output.stage(f"decode: {video}")
            started = time.perf_counter()
            frames = read(session.plan.resize)
            seconds = time.perf_counter() - started
            writer.know(video_info=video_facts(frames))
            output.note(*frames.notes, *session.remarks(frames))
            pixels = sharpest(read, session.plan.resize, frames)
        for run in runs:
            run.session.plan.check_questions(len(frames), [question])
        output.stage(f"vision: {plural(len(frames), 'frame')}")
        clips = encode_for(runs, video, frames, seconds)
        task = ClipTask(FileClip(video), tuple(Ask(question, run) for run in runs))
        loop = RunLoop(info_of, stream=not output.json)
        # Closed at once when something goes wrong: that stops the thread that generates.
        with contextlib.closing(loop.answers(task, clips, frames)) as events:
            for event in events:
                writer.take(event)
    panels = [
        Panel.of(event.record, event.trace.arrays, statistics(event.record))
        for event in writer.answers
        if event.trace is not None
    ]
    return Scene(pixels, panels)


def sharpest(read: Callable[[Resize], Frames], resize: Resize, frames: Frames) -> Pixels:
    """The frames to draw: those that the model sees, sharper where it sees them coarsely."""
    if resize.size >= _SIDE or frames.pixels.shape[1:3] != (resize.size, resize.size):
        return frames.pixels
    again = read(dataclasses.replace(resize, size=_SIDE))
    same = again.timestamps_s.tolist() == frames.timestamps_s.tolist()
    return again.pixels if same else frames.pixels


def drawer(target: Path) -> Callable[[Scene, Path], None]:
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
