"""The one table of options that commands share: their spelling, meaning, default and help."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import typer

from adatp_cli.answering.decoding import DEFAULT_NEW_TOKENS, GenerationSettings
from adatp_cli.errors import UsageError
from adatp_cli.files import OutputPath
from adatp_cli.model.checkpoints import ALIASES, AUTO, TINY, check_name
from adatp_cli.model.device import check_device
from adatp_cli.model.memory import check_address_space
from adatp_cli.profiles import DEFAULT_PROFILE, builtin_names, read_share

if TYPE_CHECKING:
    from adatp_cli.video.isolated import Limits
    from adatp_cli.video.sampling import Sampling

AUTO_FRAMES = "auto"

# Of a command's own options, in the order in which its help shows them; the shared ones follow.
OWN_PANELS = (
    "Batch", "Pruning", "Dataset", "Measurement", "Answer", "Result", "Results", "Output", "Server",
)  # fmt: skip


Quantize = Literal["auto", "none", "int8", "nf4", "fp4"]
Stats = Literal["none", "short", "full"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


def option(
    panel: str | None,
    spelled: str,
    help: str,  # noqa: A002 - typer's name
    *,
    default: Any = None,
    **more: Any,
) -> Any:
    """A field that is an option, in a panel of the help; a default of `...`: it must be given.

    `spelled` is how the help spells it: its names, and a word for its value.
    """
    names = [word for word in spelled.split() if word.startswith("-")]
    metavar = next((word for word in spelled.split() if not word.startswith("-")), None)
    declared = typer.Option(*names, metavar=metavar, rich_help_panel=panel, help=help, **more)
    return _field(declared, default)


def flag(panel: str | None, spelled: str, help: str) -> Any:  # noqa: A002 - typer's name
    """An option without a value."""
    return option(panel, spelled, help, default=False)


def argument(metavar: str, help: str, *, default: Any = ...) -> Any:  # noqa: A002 - typer's name
    """A field that is an argument."""
    return _field(typer.Argument(metavar=metavar, show_default=False, help=help), default)


def _field(declared: object, default: Any) -> Any:
    told = {"declared": declared}
    return field(metadata=told) if default is ... else field(default=default, metadata=told)


def _profiles_like(begun: str) -> list[str]:
    """What a shell offers for a profile's name."""
    return [name for name in builtin_names() if name.startswith(begun)]


def _models_like(begun: str) -> list[str]:
    return [name for name in (AUTO, TINY, *ALIASES) if name.startswith(begun)]


# Fields that several classes have, under one name.
JSON = flag(
    "Output",
    "--json",
    "One JSON record a line on stdout (see `adatp schema`); nothing is streamed.",
)
OVERWRITE = flag(
    "Output",
    "--overwrite",
    "Replace what is written to and exists already. Without it that is an error.",
)
QUIET = flag("Output", "--quiet", "No progress, notes or statistics on stderr; errors still come.")
VERBOSE = flag(
    "Output",
    "--verbose",
    "Each stage, the libraries' own warnings, and tracebacks of errors, on stderr.",
)
PROFILE = option(
    "Pruning",
    "--profile -p NAME",
    "Name of a pruning profile (see `adatp profiles list`) or a YAML file. Default: "
    f"{DEFAULT_PROFILE}.",
    envvar="ADATP_PROFILE",
    autocompletion=_profiles_like,
)
STATS = option(
    "Output",
    "--stats",
    "What an answer cost, on stderr. short: one line; full: five, with both counts and each "
    "stage's time.",
    default="short",
)
RESUME = flag("Results", "--resume", "Go on with -o FILE: what has a row there is not asked again.")
RETRY_FAILED = flag("Results", "--retry-failed", "With --resume: ask again what has failed before.")


def profiles_option(help: str) -> Any:  # noqa: A002 - typer's name
    """Several profiles, in place of the one of `RunOptions`."""
    return option(
        "Pruning",
        "--profile --profiles -p NAME",
        help,
        envvar="ADATP_PROFILE",
        autocompletion=_profiles_like,
    )


COMPARED = ("vanilla", "adatp")
PROFILES_TO_COMPARE = profiles_option(
    "As for `adatp ask`; several to compare with commas, or one option for each. Default: "
    "vanilla and adatp."
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every command that answers questions can be told; each adds its own in a subclass."""

    MODELS: ClassVar[tuple[str, ...]] = ()  # names that only this command knows
    WITHOUT: ClassVar[tuple[str, ...]] = ()  # shared options that this command has no use for

    model: str = option(
        "Model",
        "--model -m NAME",
        "auto, tiny, 0.5b, 7b, 72b, a hub id, or a local folder. auto: the 7b on CUDA, the "
        "0.5b without. tiny comes with adatp and knows moving coloured shapes and nothing "
        "else.",
        default="auto",
        envvar="ADATP_MODEL",
        autocompletion=_models_like,
    )
    quantize: Quantize = option(
        "Model",
        "--quantize -Q KIND",
        "Weights of the language model's layers: none, int8, nf4, fp4, or auto: nf4 where a "
        "GPU lacks room for them.",
        default="auto",
    )
    device: str = option(
        "Model",
        "--device DEVICE",
        "auto, cpu, cuda or cuda:N. auto: the first CUDA device, else the CPU.",
        default="auto",
    )
    dtype: Dtype = option(
        "Model",
        "--dtype TYPE",
        "Number format: bfloat16, float16, float32, or auto: bfloat16 where the device is "
        "fast at it, else float32.",
        default="auto",
    )
    offline: bool = flag("Model", "--offline", "Use what is on this machine; download nothing.")
    profile: str | None = PROFILE
    budget: float | None = option(
        "Pruning",
        "--budget SHARE",
        "Share of the unpruned language model's cost to spend, above 0 and at most 1, such "
        "as 0.25 or 25%, in the paper's convention (visual tokens only); overrides the "
        "profile's.",
        parser=read_share,
    )
    frames: str | None = option(
        "Clip",
        "--frames -n N|auto",
        "Frames to look at, spread evenly; with --fps the most to take. Default: the "
        "profile's, else the model's (32 for LLaVA-OneVision). auto: as many as cost the "
        "pruned language model what the default costs it unpruned.",
    )
    fps: float | None = option(
        "Clip", "--fps RATE", "Frames per second of video to look at, in place of a fixed number."
    )
    start: str | None = option(
        "Clip", "--start TIME", "Look from here on: seconds, mm:ss or hh:mm:ss."
    )
    end: str | None = option("Clip", "--end TIME", "Look up to here, as for --start.")
    clip_timeout: float | None = option(
        "Clip",
        "--clip-timeout SECONDS",
        "Most time that decoding one clip may take, over all attempts. Default: 300.",
    )
    max_new_tokens: int = option(
        "Answer", "--max-new-tokens N", "Longest answer, in tokens.", default=DEFAULT_NEW_TOKENS
    )
    temperature: float | None = option(
        "Answer",
        "--temperature T",
        "Sample at this temperature. 0, as without it: greedy decoding.",
    )
    top_p: float | None = option(
        "Answer",
        "--top-p P",
        "With --temperature: sample from the likeliest tokens that hold this probability.",
    )
    seed: int | None = option(
        "Answer",
        "--seed N",
        "With --temperature: the same seed gives the same answer on this machine. Default: 0.",
    )
    json: bool = JSON
    trace: str | None = option(
        "Output",
        "--trace FILE.npz",
        "Write every choice of the pruning as arrays; question 2 goes to FILE-2.npz.",
    )
    overwrite: bool = OVERWRITE
    quiet: bool = QUIET
    verbose: bool = VERBOSE

    def check(self) -> None:
        """Refuse what can be refused before anything is imported or read."""
        check_address_space()
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose exclude each other", "give one of them")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed {self.seed} is not a number from 0 to 2^63", "give another")
        if self.clip_timeout is not None and not 0 < self.clip_timeout < math.inf:
            raise UsageError(f"--clip-timeout {self.clip_timeout:g} is no time", "give seconds")
        frame_number(self.frames)
        check_name(self.model, self.MODELS)
        check_device(self.device)
        self.generation()

    @property
    def samples(self) -> bool:
        """Whether answers are drawn, at a temperature; 0 is greedy decoding, as without one."""
        return bool(self.temperature)

    def generation(self) -> GenerationSettings:
        """How answers are decoded; refuses a value out of range, and --top-p in greedy decoding."""
        return GenerationSettings(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature if self.samples else None,
            top_p=self.top_p,
            seed=self.seed or 0,
        )

    def limits(self) -> Limits:
        """What decoding a clip may take."""
        from adatp_cli.video.isolated import Limits

        return Limits() if self.clip_timeout is None else Limits(clip_s=self.clip_timeout)

    @property
    def frames_auto(self) -> bool:
        """Whether the number of frames is to follow from the profile and the model."""
        return self.frames == AUTO_FRAMES

    @property
    def profile_name(self) -> str:
        """The profile that was named, or the default."""
        return DEFAULT_PROFILE if self.profile is None else self.profile

    def sampling(self) -> Sampling:
        """Which frames to look at; how many is left open by `--frames auto`."""
        from adatp_cli.video.sampling import Sampling, parse_time

        return Sampling(
            frames=frame_number(self.frames),
            fps=self.fps,
            start_s=None if self.start is None else parse_time(self.start),
            end_s=None if self.end is None else parse_time(self.end),
        )


def frame_number(text: str | None) -> int | None:
    """The number that `--frames` gives; None for `auto`, or without the option."""
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


def check_resuming(output: Path | None, *, resume: bool, retry_failed: bool) -> None:
    """Refuse what needs an output file, or `--resume`, where there is none."""
    if output is None and (resume or retry_failed):
        raise UsageError(
            "--resume and --retry-failed are about an output file", "name it with -o FILE"
        )
    if retry_failed and not resume:
        raise UsageError("--retry-failed is a way to resume", "give --resume too")
