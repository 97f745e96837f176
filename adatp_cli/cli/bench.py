"""`adatp bench`: speed and memory of profiles, beside plain transformers, in one run."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from adatp_cli.cli.open_model import OpenModel, load_profiles, open_model
from adatp_cli.cli.options import (
    AUTO_FRAMES,
    COMPARED,
    PROFILES_TO_COMPARE,
    RunOptions,
    argument,
    option,
    profile_names,
)
from adatp_cli.cli.output import Output
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.files import OutputPath, check_outputs, replacing
from adatp_cli.model.checkpoints import RANDOM
from adatp_cli.text import plural
from adatp_cli.video.source import check_source, local_path

if TYPE_CHECKING:
    from adatp_cli.bench.report import BenchResult
    from adatp_cli.video.isolated import IsolatedReader

# What is asked matters to nobody here; that each is another question does.
_QUESTIONS = (
    "What happens in the video?",
    "What happens first?",
    "What happens last?",
    "What is in the middle of the picture?",
    "Which colours are there?",
)


@dataclass(frozen=True, kw_only=True)
class BenchOptions(RunOptions):
    MODELS: ClassVar = tuple(RANDOM)

    video: str | None = argument(
        "[VIDEO]", "A video file. Default: a generated clip of 1080p, 8 seconds long.", default=None
    )
    profiles: list[Path] | None = PROFILES_TO_COMPARE
    counts: list[str] | None = option(
        "Measurement",
        "--frames -n N",
        "Frames to look at, spread evenly; several with commas, or one option for each. "
        "Three and more show how time and memory grow. Default: the profiles', else the "
        "model's.",
    )
    questions: int = option(
        "Measurement",
        "--questions N",
        "Questions asked one after the other about the encoded clip.",
        default=2,
    )
    repeat: int = option(
        "Measurement",
        "--repeat N",
        "Rounds in which everything is measured once, in turns.",
        default=3,
    )
    max_new_tokens: int = option(
        "Answer", "--max-new-tokens N", "Longest answer, in tokens.", default=32
    )
    vision: bool = option(
        "Measurement",
        "--vision/--no-vision",
        "Without it the tower is left out: the language model gets noise for visual "
        "tokens, and what begins there is measured.",
        default=True,
    )
    output: Path | None = option(
        "Result", "--output -o FILE.json", "Write the result here too, as JSON."
    )
    plot: Path | None = option(
        "Result", "--plot FILE.png", "Draw where the time goes, and how it grows; needs matplotlib."
    )

    def check(self) -> None:
        for name, value, most, limits in (
            ("--questions", self.questions, 100, "from 1 to 100"),
            ("--repeat", self.repeat, 1000, "from 1 to 1000"),
            ("--max-new-tokens", self.max_new_tokens, math.inf, "at least 1"),
        ):
            if not 1 <= value <= most:
                raise UsageError(f"{name} {value} is not {limits}", "give another number")
        super().check()
        if self.trace is not None:
            raise UsageError("--trace would slow what is measured", "trace a clip with adatp ask")
        if self.samples or self.top_p is not None:
            raise UsageError("bench decodes greedily", "leave out --temperature and --top-p")
        if self.fps is not None:
            raise UsageError("bench looks at numbers of frames", "give --frames in place of --fps")
        frames = self.frame_counts()
        if len(set(frames)) < len(frames):
            raise UsageError("--frames names a number twice", "name each once")
        if self.plot is not None:
            from adatp_cli.pictures.style import can_draw

            if not can_draw():
                raise ModelError(
                    "--plot needs matplotlib, which is not installed", "pip install matplotlib"
                )

    def frame_counts(self) -> tuple[int, ...]:
        """The numbers of frames that were asked for."""
        given = self.counts or ()
        if AUTO_FRAMES in given:
            raise UsageError(
                "--frames auto: bench shows every profile and plain transformers the same frames",
                "give numbers, as in --frames 16,32",
            )
        try:
            counts = tuple(int(part) for text in given for part in text.split(","))
        except ValueError:
            counts = (0,)
        if any(not 1 <= count <= 100_000 for count in counts):
            raise UsageError(
                f"--frames {', '.join(given)}: not numbers from 1 on", "as in --frames 16,32"
            )
        return counts


def bench(options: BenchOptions, output: Output) -> None:
    """Measure time and memory of profiles against plain transformers, in turns in one run.

    -m 0.5b-random, 7b-random and 72b-random are LLaVA-OneVision's dimensions with random weights,
    built on the spot: time and memory mean something, answers nothing. Every answer has
    --max-new-tokens tokens. stdout gets tables as Markdown, or with --json one JSON object.

    Examples:
    adatp bench -m tiny --repeat 1
    adatp bench -m 0.5b-random -n 16,32 -p vanilla,adatp -o result.json
    """
    from adatp_cli.bench.results import PLAIN
    from adatp_cli.model.quiet import quiet_libraries
    from adatp_cli.video.isolated import IsolatedReader

    outputs = [] if options.output is None else [OutputPath("-o", options.output)]
    if options.plot is not None:
        outputs.append(OutputPath("--plot", options.plot, (".png",), "a plot"))
    names = profile_names(options.profiles, COMPARED)
    inputs = [*names, *([] if options.video is None else [options.video])]
    check_outputs(outputs, inputs, overwrite=options.overwrite)
    frames = options.frame_counts()
    # The profiles' own wishes do not count where numbers are given.
    options = dataclasses.replace(options, frames=str(frames[0]) if frames else None)
    profiles = load_profiles(names, options.budget)
    if any(profile.name == PLAIN for profile in profiles):
        raise UsageError(f"a profile is called {PLAIN!r}", "the baseline is")
    options.sampling()  # a wrong one is told before anything is loaded
    with (
        output.running(),
        quiet_libraries(verbose=options.verbose),
        IsolatedReader(options.limits()) as reader,
        _clip(options, output, reader) as source,
    ):
        # What does not fit is told as not measured, which is no reason to measure nothing.
        opened = open_model(profiles, options, output, to_fit="none")
        result = _measure(options, output, opened, reader, source)
    from adatp_cli.bench.report import draw, tables

    data = result.to_dict()
    if output.json:
        output.data(data)
    else:
        output.page(tables(result))
    if options.output is not None:
        text = json.dumps(data, indent=1, allow_nan=False) + "\n"
        with replacing(options.output, "the result") as path:
            path.write_text(text, encoding="utf-8")
    if options.plot is not None:
        with replacing(options.plot, "the plot") as path:
            draw(result, path)


@contextlib.contextmanager
def _clip(options: BenchOptions, output: Output, reader: IsolatedReader) -> Iterator[Path]:
    """The clip's path; one that was made for the purpose is gone afterwards."""
    if options.video is not None:
        clip = local_path(options.video)
        reader.check(check_source(clip, options.video), options.sampling())
        yield Path(clip)
        return
    from adatp_cli.bench.synthetic import HEIGHT, SECONDS, WIDTH, write_clip

    output.note(f"a generated clip, {WIDTH}x{HEIGHT}, {SECONDS} seconds")
    output.stage("writing a clip")
    with tempfile.TemporaryDirectory(prefix="adatp-bench-") as folder:
        path = Path(folder) / "generated.mp4"
        write_clip(path)
        yield path


def _measure(
    options: BenchOptions,
    output: Output,
    opened: OpenModel,
    reader: IsolatedReader,
    source: Path,
) -> BenchResult:
    from adatp_cli.bench.report import RANDOM_WEIGHTS, BenchResult, machine_facts
    from adatp_cli.bench.results import NotMeasured, Sample, summarise
    from adatp_cli.bench.runner import Bench, BenchPlan

    is_random = opened.model.name.lower() in RANDOM
    if is_random:
        output.note(RANDOM_WEIGHTS)
    sampling = opened.sampling(options, output)
    default = sampling.frames or opened.loaded.default_frames
    plan = BenchPlan(
        frames=options.frame_counts() or (default,),
        questions=tuple(itertools.islice(itertools.cycle(_QUESTIONS), options.questions)),
        repeat=options.repeat,
        new_tokens=options.max_new_tokens,
        sampling=sampling,
        vision=options.vision,
    )
    began = datetime.datetime.now(datetime.UTC)
    samples: list[Sample] = []
    missing: list[NotMeasured] = []
    name = options.video or "the generated clip"
    bench = Bench(opened.loaded, opened.runs, plan, reader, source, name)
    for event in bench.run():
        if isinstance(event, Sample):
            samples.append(event)
        elif isinstance(event, NotMeasured):
            missing.append(event)
            output.note(f"{event.contender} is not measured: {event.reason}")
        else:
            turn = f"round {event.turn} of {plan.repeat}" if event.turn else "warming up"
            output.stage(f"{plural(event.frames, 'frame')}, {turn}: {event.contender}")
    return BenchResult(
        date=began,
        machine=machine_facts(opened.model.device),
        versions=opened.versions,
        model=opened.model,
        random_weights=is_random,
        clip=bench.video,
        clip_generated=options.video is None,
        plan=plan,
        text_tokens=bench.text_tokens,
        memory_method=bench.memory_method,
        profiles={one.name: one.session.profile.to_dict() for one in opened.runs},
        rows=summarise([one.name for one in opened.runs], samples, missing),
    )
