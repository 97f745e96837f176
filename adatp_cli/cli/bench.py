"""`adatp bench`: speed and memory of profiles, beside plain transformers, in one run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adatp_cli.cli.errors import reporting
from adatp_cli.cli.open_model import OpenModel, load_model_for, load_profiles, open_model
from adatp_cli.cli.options import (
    AUTO_FRAMES,
    MaxNewTokens,
    ProfilesOption,
    RunOptions,
    profile_names,
    with_run_options,
)
from adatp_cli.cli.output import Output
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.files import OutputPath, check_outputs, replacing
from adatp_cli.model.checkpoints import RANDOM
from adatp_cli.text import plural

if TYPE_CHECKING:
    from adatp_cli.bench.report import BenchResult
    from adatp_cli.bench.runner import BenchPlan
    from adatp_cli.model.load import LoadedModel

_DEFAULT_PROFILES = ("vanilla", "adatp")
_NEW_TOKENS = 32
_MEASURE = "Measurement"
_RESULT = "Result"
# What is asked matters to nobody here; that each is another question does.
_QUESTIONS = (
    "What happens in the video?",
    "What happens first?",
    "What happens last?",
    "What is in the middle of the picture?",
    "Which colours are there?",
)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What `bench` takes beside the options that commands share."""

    video: str | None
    profiles: Sequence[str]
    frames: tuple[int, ...]
    questions: int
    repeat: int
    new_tokens: int
    vision: bool
    output: Path | None
    plot: Path | None

    def check(self) -> None:
        """What can be said before anything is loaded.

        Raises
        ------
        UsageError
            A value out of range, or a plot without the library that draws it.
        """
        for name, value, most in (
            ("--questions", self.questions, 100),
            ("--repeat", self.repeat, 1000),
            ("--max-new-tokens", self.new_tokens, None),
        ):
            if value < 1 or (most is not None and value > most):
                limits = "at least 1" if most is None else f"from 1 to {most}"
                raise UsageError(f"{name} {value} is not {limits}", "give another number")
        if len(set(self.frames)) < len(self.frames):
            raise UsageError("--frames names a number twice", "name each once")
        if self.plot is not None:
            from adatp_cli.pictures.style import can_draw

            if not can_draw():
                raise ModelError(
                    "--plot needs matplotlib, which is not installed", "pip install matplotlib"
                )

    def outputs(self) -> list[OutputPath]:
        """The files that are written."""
        found = [] if self.output is None else [OutputPath("-o", self.output)]
        if self.plot is not None:
            found.append(OutputPath("--plot", self.plot, (".png",), "a plot"))
        return found


@with_run_options
def bench(
    options: RunOptions,
    video: Annotated[
        str | None,
        typer.Argument(
            metavar="[VIDEO]",
            show_default=False,
            help="A video file. Default: a generated clip of 1080p, 8 seconds long.",
        ),
    ] = None,
    profiles: ProfilesOption = None,
    frames: Annotated[
        list[str] | None,
        typer.Option(
            "--frames",
            "-n",
            metavar="N",
            show_default=False,
            rich_help_panel=_MEASURE,
            help="Frames to look at, spread evenly; several with commas, or one option for each. "
            "Three and more show how time and memory grow. Default: the profiles', else the "
            "model's.",
        ),
    ] = None,
    questions: Annotated[
        int,
        typer.Option(
            "--questions",
            metavar="N",
            rich_help_panel=_MEASURE,
            help="Questions asked one after the other about the encoded clip.",
        ),
    ] = 2,
    repeat: Annotated[
        int,
        typer.Option(
            "--repeat",
            metavar="N",
            rich_help_panel=_MEASURE,
            help="Rounds in which everything is measured once, in turns.",
        ),
    ] = 3,
    max_new_tokens: MaxNewTokens = _NEW_TOKENS,
    vision: Annotated[
        bool,
        typer.Option(
            "--vision/--no-vision",
            rich_help_panel=_MEASURE,
            help="Without it the tower is left out: the language model gets noise for visual "
            "tokens, and what begins there is measured.",
        ),
    ] = True,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.json",
            rich_help_panel=_RESULT,
            help="Write the result here too, as JSON.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            rich_help_panel=_RESULT,
            help="Draw where the time goes, and how it grows; needs matplotlib.",
        ),
    ] = None,
) -> None:
    """Measure time and memory of profiles against plain transformers, in turns in one run.

    -m 0.5b-random, 7b-random and 72b-random are LLaVA-OneVision's dimensions with random weights,
    built on the spot: time and memory mean something, answers nothing. Every answer has
    --max-new-tokens tokens. stdout gets tables as Markdown, or with --json one JSON object.
    """
    output = Output(json=options.json, quiet=options.quiet, verbose=options.verbose)
    with reporting(output):
        options.check(models=RANDOM)
        _check_shared(options)
        wanted = BenchOptions(
            video,
            profile_names(profiles, _DEFAULT_PROFILES),
            _counts(frames),
            questions,
            repeat,
            max_new_tokens,
            vision,
            output_file,
            plot,
        )
        wanted.check()
        inputs = [*wanted.profiles, *([] if video is None else [video])]
        check_outputs(wanted.outputs(), inputs, overwrite=options.overwrite)
        _Measurement(wanted, options, output).run()


def _counts(given: Sequence[str] | None) -> tuple[int, ...]:
    if given and AUTO_FRAMES in given:
        raise UsageError(
            "--frames auto: bench shows every profile and plain transformers the same frames",
            "give numbers, as in --frames 16,32",
        )
    parts = [part.strip() for text in given or () for part in text.split(",")]
    try:
        counts = tuple(int(part) for part in parts)
    except ValueError:
        counts = (0,)
    if any(not 1 <= count <= 100_000 for count in counts):
        raise UsageError(
            f"--frames {', '.join(given or ())}: not numbers from 1 on", "as in --frames 16,32"
        )
    return counts


def _check_shared(options: RunOptions) -> None:
    if options.trace is not None:
        raise UsageError("--trace would slow what is measured", "trace a clip with adatp ask")
    if options.samples or options.top_p is not None:
        raise UsageError("bench decodes greedily", "leave out --temperature and --top-p")
    if options.fps is not None:
        raise UsageError("bench looks at numbers of frames", "give --frames in place of --fps")


class _Measurement:
    """One run of `adatp bench`."""

    def __init__(self, wanted: BenchOptions, options: RunOptions, output: Output) -> None:
        self._wanted = wanted
        self._options = dataclasses.replace(
            options,
            # The profiles' own wishes do not count where numbers are given.
            frames=str(wanted.frames[0]) if wanted.frames else None,
            max_new_tokens=wanted.new_tokens,
        )
        self._output = output

    def run(self) -> None:
        """Measure and show.

        Raises
        ------
        AdatpError
            Nothing could be measured, or the result cannot be written.
        """
        from adatp_cli.model.quiet import quiet_libraries

        profiles = load_profiles(self._wanted.profiles, self._options.budget)
        if any(profile.name == "plain transformers" for profile in profiles):
            raise UsageError("a profile is called 'plain transformers'", "the baseline is")
        self._options.sampling()  # a wrong one is told before anything is loaded
        quiet = quiet_libraries(verbose=self._options.verbose)
        with self._output.running(), quiet, self._clip() as source:
            opened = open_model(profiles, self._options, self._output, load=_load)
            result = self._measure(opened, source)
        self._show(result)

    @contextlib.contextmanager
    def _clip(self) -> Iterator[Path]:
        """The clip's path; one that was made for the purpose is gone afterwards."""
        if self._wanted.video is not None:
            from adatp_cli.video.isolated import IsolatedReader
            from adatp_cli.video.source import local_path

            clip = local_path(self._wanted.video)
            with IsolatedReader(self._options.limits()) as reader:
                reader.check(clip, self._options.sampling(), name=self._wanted.video)
            yield Path(clip)
            return
        from adatp_cli.bench.synthetic import HEIGHT, SECONDS, WIDTH, write_clip

        self._output.note(f"a generated clip, {WIDTH}x{HEIGHT}, {SECONDS} seconds")
        self._output.stage("writing a clip")
        with tempfile.TemporaryDirectory(prefix="adatp-bench-") as folder:
            path = Path(folder) / "generated.mp4"
            write_clip(path)
            yield path

    def _measure(self, opened: OpenModel, source: Path) -> BenchResult:
        import datetime

        from adatp_cli.bench.report import RANDOM_WEIGHTS, BenchResult, machine_facts
        from adatp_cli.bench.results import NotMeasured, Sample, summarise
        from adatp_cli.bench.runner import Bench
        from adatp_cli.video.isolated import IsolatedReader

        is_random = opened.model.name.lower() in RANDOM
        if is_random:
            self._output.note(RANDOM_WEIGHTS)
        plan = self._plan(opened)
        began = datetime.datetime.now(datetime.UTC)
        samples: list[Sample] = []
        missing: list[NotMeasured] = []
        with IsolatedReader(self._options.limits()) as reader:
            name = self._wanted.video or "the generated clip"
            bench = Bench(opened.loaded, opened.runs, plan, reader, source, name)
            for event in bench.run():
                if isinstance(event, Sample):
                    samples.append(event)
                elif isinstance(event, NotMeasured):
                    missing.append(event)
                    self._output.note(f"{event.contender} is not measured: {event.reason}")
                else:
                    turn = f"round {event.turn} of {plan.repeat}" if event.turn else "warming up"
                    count = plural(event.frames, "frame")
                    self._output.stage(f"{count}, {turn}: {event.contender}")
        return BenchResult(
            date=began,
            machine=machine_facts(opened.model.device),
            versions=opened.versions,
            model=opened.model,
            random_weights=is_random,
            clip=bench.video,
            clip_generated=self._wanted.video is None,
            plan=plan,
            text_tokens=bench.text_tokens,
            memory_method=bench.memory_method,
            profiles={one.name: one.session.profile.to_dict() for one in opened.runs},
            rows=summarise([one.name for one in opened.runs], samples, missing),
        )

    def _plan(self, opened: OpenModel) -> BenchPlan:
        from adatp_cli.bench.runner import BenchPlan

        wanted = self._wanted
        sampling = opened.sampling(self._options, self._output)
        default = sampling.frames or opened.loaded.default_frames
        turns = -(-wanted.questions // len(_QUESTIONS))
        return BenchPlan(
            frames=wanted.frames or (default,),
            questions=(_QUESTIONS * turns)[: wanted.questions],
            repeat=wanted.repeat,
            new_tokens=wanted.new_tokens,
            sampling=sampling,
            vision=wanted.vision,
        )

    def _show(self, result: BenchResult) -> None:
        from adatp_cli.bench.plots import draw
        from adatp_cli.bench.report import tables

        data = result.to_dict()
        if self._output.json:
            self._output.data(data)
        else:
            self._output.page(tables(result))
        if self._wanted.output is not None:
            text = json.dumps(data, indent=1, allow_nan=False) + "\n"
            with replacing(self._wanted.output, "the result") as path:
                path.write_text(text, encoding="utf-8")
        if self._wanted.plot is not None:
            with replacing(self._wanted.plot, "the plot") as path:
                draw(result, path)


def _load(
    encoder: str, options: RunOptions, output: Output, _accepts: object
) -> tuple[LoadedModel, float]:
    """Load as every command does, or build one of random weights.

    What does not fit is not measured, and told, which is no reason to measure nothing.
    """
    if options.model.lower() not in RANDOM:
        return load_model_for(encoder, options, output)
    from adatp_cli.bench.synthetic import load_random
    from adatp_cli.model.load import LoadRequest

    started = time.perf_counter()
    request = LoadRequest(
        model=options.model,
        quantization=options.quantize.value,
        device=options.device,
        dtype=options.dtype.value,
        offline=options.offline,
        relevance=encoder,
    )
    return load_random(request, output.stage), time.perf_counter() - started
