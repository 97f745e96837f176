"""The one table of options that commands share: their spelling, meaning, default and help."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adatp_cli.errors import UsageError
from adatp_cli.files import OutputPath
from adatp_cli.model.checkpoints import check_name
from adatp_cli.model.device import check_device
from adatp_cli.model.memory import check_address_space
from adatp_cli.profiles import DEFAULT_PROFILE, Profile, load_profile, read_share
from adatp_cli.settings import GenerationSettings

if TYPE_CHECKING:
    from adatp_cli.video.child import Limits
    from adatp_cli.video.sampling import Sampling

AUTO_FRAMES = "auto"
DEFAULT_NEW_TOKENS = 128

_MODEL = "Model"
_PRUNING = "Pruning"
_CLIP = "Clip"
_ANSWER = "Answer"
_OUTPUT = "Output"


class Quantize(StrEnum):
    auto = "auto"
    none = "none"
    int8 = "int8"
    nf4 = "nf4"
    fp4 = "fp4"


class Stats(StrEnum):
    none = "none"
    short = "short"
    full = "full"


class Dtype(StrEnum):
    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="ADATP_MODEL",
        metavar="NAME",
        rich_help_panel=_MODEL,
        help="auto, tiny, 0.5b, 7b, 72b, a hub id, or a local folder. auto: the 7b on CUDA, "
        "the 0.5b without. tiny comes with adatp and knows moving coloured shapes and nothing "
        "else.",
    ),
]
QuantizeOption = Annotated[
    Quantize,
    typer.Option(
        "--quantize",
        "-Q",
        metavar="KIND",
        rich_help_panel=_MODEL,
        help="Weights of the language model's layers: none, int8, nf4, fp4, or auto: nf4 where a "
        "GPU lacks room for them.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        rich_help_panel=_MODEL,
        help="auto, cpu, cuda or cuda:N. auto: the first CUDA device, else the CPU.",
    ),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        metavar="TYPE",
        rich_help_panel=_MODEL,
        help="Number format: bfloat16, float16, float32, or auto: bfloat16 where the device is "
        "fast at it, else float32.",
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", rich_help_panel=_MODEL, help="Use what is on this machine; download nothing."
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        envvar="ADATP_PROFILE",
        metavar="NAME",
        show_default=False,
        rich_help_panel=_PRUNING,
        help="Name of a pruning profile (see `adatp profiles list`) or a YAML file. Default: "
        f"{DEFAULT_PROFILE}.",
    ),
]
ProfilesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--profile",
        "--profiles",
        "-p",
        envvar="ADATP_PROFILE",
        metavar="NAME",
        show_default=False,
        rich_help_panel=_PRUNING,
        help="As for `adatp ask`; several to compare with commas, or one option for each. Default: "
        "vanilla and adatp.",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        parser=read_share,
        metavar="SHARE",
        rich_help_panel=_PRUNING,
        help="Share of the unpruned language model's cost to spend, above 0 and at most 1, such "
        "as 0.25 or 25%, in the paper's convention (visual tokens only); overrides the profile's.",
    ),
]
FrameCount = Annotated[
    str | None,
    typer.Option(
        "--frames",
        "-n",
        metavar="N|auto",
        rich_help_panel=_CLIP,
        help="Frames to look at, spread evenly; with --fps the most to take. Default: the "
        "profile's, else the model's (32 for LLaVA-OneVision). auto: as many as cost the pruned "
        "language model what the default costs it unpruned.",
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(
        "--fps",
        metavar="RATE",
        rich_help_panel=_CLIP,
        help="Frames per second of video to look at, in place of a fixed number.",
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="TIME",
        rich_help_panel=_CLIP,
        help="Look from here on: seconds, mm:ss or hh:mm:ss.",
    ),
]
End = Annotated[
    str | None,
    typer.Option(
        "--end", metavar="TIME", rich_help_panel=_CLIP, help="Look up to here, as for --start."
    ),
]
ClipTimeout = Annotated[
    float | None,
    typer.Option(
        "--clip-timeout",
        metavar="SECONDS",
        show_default=False,
        rich_help_panel=_CLIP,
        help="Most time that decoding one clip may take, over all attempts. Default: 300.",
    ),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(
        "--max-new-tokens",
        metavar="N",
        rich_help_panel=_ANSWER,
        help="Longest answer, in tokens.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        metavar="T",
        rich_help_panel=_ANSWER,
        help="Sample at this temperature. 0, as without it: greedy decoding.",
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        metavar="P",
        rich_help_panel=_ANSWER,
        help="With --temperature: sample from the likeliest tokens that hold this probability.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        rich_help_panel=_ANSWER,
        help="With --temperature: the same seed gives the same answer on this machine. Default: 0.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=_OUTPUT,
        help="One JSON record a line on stdout (see `adatp schema`); nothing is streamed.",
    ),
]
TraceFile = Annotated[
    str | None,
    typer.Option(
        "--trace",
        metavar="FILE.npz",
        rich_help_panel=_OUTPUT,
        help="Write every choice of the pruning as arrays; question 2 goes to FILE-2.npz.",
    ),
]
StatsOption = Annotated[
    Stats,
    typer.Option(
        "--stats",
        rich_help_panel=_OUTPUT,
        help="What an answer cost, on stderr. short: one line; full: five, with both counts and "
        "each stage's time.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        rich_help_panel=_OUTPUT,
        help="Replace what is written to and exists already. Without it that is an error.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        rich_help_panel=_OUTPUT,
        help="No progress, notes or statistics on stderr; errors still come.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        rich_help_panel=_OUTPUT,
        help="Each stage, the libraries' own warnings, and tracebacks of errors, on stderr.",
    ),
]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a command that answers questions was asked to do; each field is one option above."""

    model: Model = "auto"
    quantize: QuantizeOption = Quantize.auto
    device: Device = "auto"
    dtype: DtypeOption = Dtype.auto
    offline: Offline = False
    profile: ProfileOption = None
    budget: Budget = None
    frames: FrameCount = None
    fps: Fps = None
    start: Start = None
    end: End = None
    clip_timeout: ClipTimeout = None
    max_new_tokens: MaxNewTokens = DEFAULT_NEW_TOKENS
    temperature: Temperature = None
    top_p: TopP = None
    seed: Seed = None
    json: Json = False
    trace: TraceFile = None
    overwrite: Overwrite = False
    quiet: Quiet = False
    verbose: Verbose = False

    def check(self, models: Iterable[str] = ()) -> None:
        """What can be said before anything is imported or read.

        Parameters
        ----------
        models
            Names of models that this command knows beside the others.

        Raises
        ------
        UsageError
            Options that exclude each other, or a value out of range.
        MemoryLimitError
            The process may not take as many addresses as the libraries need.
        """
        check_address_space()
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose exclude each other", "give one of them")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed {self.seed} is not a number from 0 to 2^63", "give another")
        if self.clip_timeout is not None and not 0 < self.clip_timeout < math.inf:
            raise UsageError(f"--clip-timeout {self.clip_timeout:g} is no time", "give seconds")
        frame_number(self.frames)
        check_name(self.model, tuple(models))
        check_device(self.device)
        self.generation()

    @property
    def samples(self) -> bool:
        """Whether answers are drawn, at a temperature; 0 is greedy decoding, as without one."""
        return bool(self.temperature)

    def generation(self) -> GenerationSettings:
        """How answers are decoded.

        Raises
        ------
        UsageError
            A value out of range, or --top-p in greedy decoding.
        """
        return GenerationSettings(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature if self.samples else None,
            top_p=self.top_p,
            seed=self.seed or 0,
        )

    def limits(self) -> Limits:
        """What decoding a clip may take."""
        from adatp_cli.video.child import Limits

        return Limits() if self.clip_timeout is None else Limits(clip_s=self.clip_timeout)

    @property
    def frames_auto(self) -> bool:
        """Whether the number of frames is to follow from the profile and the model."""
        return self.frames == AUTO_FRAMES

    @property
    def profile_name(self) -> str:
        """The profile that was named, or the default."""
        return DEFAULT_PROFILE if self.profile is None else self.profile

    def resolved_profile(self) -> Profile:
        """The profile with the budget that was asked for.

        Raises
        ------
        ProfileError, UsageError
            The profile does not exist or is not valid, or the budget does not fit it.
        """
        profile = load_profile(self.profile_name)
        return profile if self.budget is None else profile.with_budget(self.budget)

    def sampling(self) -> Sampling:
        """Which frames to look at; how many is left open by `--frames auto`.

        Raises
        ------
        UsageError
            A frame count, rate or time that makes no sense.
        """
        from adatp_cli.video.sampling import Sampling, parse_time

        return Sampling(
            frames=frame_number(self.frames),
            fps=self.fps,
            start_s=None if self.start is None else parse_time(self.start),
            end_s=None if self.end is None else parse_time(self.end),
        )


def frame_number(text: str | None) -> int | None:
    """The number that `--frames` gives; None for `auto`, or without the option.

    Raises
    ------
    UsageError
        It is neither.
    """
    if text is None or text == AUTO_FRAMES:
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"--frames {text!r} is neither a whole number nor auto", "as in --frames 16"
        ) from None


def profile_names(given: Sequence[Path] | None, default: Sequence[str]) -> list[str]:
    """What several `--profile` name: a file whose name has a comma is one, else commas part."""
    names = [str(one) for one in given or default]
    # Not Path.exists, to which a list longer than a file's name may be is an error.
    return [
        part for name in names for part in ([name] if os.path.exists(name) else name.split(","))
    ]


def trace_outputs(trace: str | None, count: int) -> list[OutputPath]:
    """The files that `--trace` writes for so many questions."""
    if trace is None:
        return []
    paths = [trace_path(trace, index) for index in range(count)]
    return [OutputPath("--trace", path, (".npz",), "a trace") for path in paths]


def trace_path(trace: str, index: int) -> Path:
    """Where the trace of question `index` (from 0) goes: FILE.npz, FILE-2.npz, FILE-3.npz, ..."""
    path = Path(trace)
    return path if index == 0 else path.with_stem(f"{path.stem}-{index + 1}")


Command = typing.TypeVar("Command", bound=Callable[..., None])


def with_run_options(command: Command) -> Command:
    """Give a command every option of `RunOptions`, which it receives as one parameter `options`.

    Typer reads a command's options off its signature. This writes the fields of `RunOptions` into
    it, so that five commands cannot come to define one option in five ways. A command that has a
    parameter `profiles` takes several profiles with it, in place of the one of `RunOptions`, and
    one that has a parameter of a field's name takes that in the field's place; it gets both itself,
    and the fields of `options` keep their defaults.
    """
    taken = set(inspect.signature(command).parameters)
    if "profiles" in taken:
        taken.add("profile")
    hints = typing.get_type_hints(RunOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=item.default,
            annotation=hints[item.name],
        )
        for item in dataclasses.fields(RunOptions)
        if item.name not in taken
    ]
    names = {parameter.name for parameter in shared}

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        options = RunOptions(**{name: given.pop(name) for name in names})
        command(**given, options=options)

    own_hints = typing.get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=own_hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "options"
    ]
    parameters = own + shared
    wrapper.__annotations__ = {item.name: item.annotation for item in parameters}
    setattr(wrapper, "__signature__", inspect.Signature(parameters))  # noqa: B010 - mypy knows none
    return typing.cast(Command, wrapper)
