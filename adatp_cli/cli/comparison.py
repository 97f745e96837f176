"""From options to several profiles on one loaded model, for the commands that compare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adatp_cli.cli.loading import (
    check_fits,
    frames_note,
    load_model_for,
    weights_of,
)
from adatp_cli.cli.options import RunOptions
from adatp_cli.cli.output import Output
from adatp_cli.errors import UsageError
from adatp_cli.profiles import Profile, load_profile
from adatp_cli.record import ErrorInfo, FailureRecord, ModelInfo, Versions
from adatp_cli.settings import NO_ENCODER

if TYPE_CHECKING:
    from adatp_cli.cost import ModelShape
    from adatp_cli.evaluation.runner import ProfileRun
    from adatp_cli.model.load import Accepts, LoadedModel
    from adatp_cli.settings import GenerationSettings
    from adatp_cli.video.sampling import Sampling

# From an encoder's name, options, output and a judge of its dimensions to a model, and the seconds
# that loading took.
Load = Callable[[str, RunOptions, Output, "Accepts"], "tuple[LoadedModel, float]"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Profiles that answer the same questions about the same frames.

    Parameters
    ----------
    profile_runs
        In the order in which they were named.
    sampling, generation
        The same for all.
    model, versions
        What answers.
    loaded
        The model itself, with the relevance encoder that any of the profiles needs.
    """

    profile_runs: tuple[ProfileRun, ...]
    sampling: Sampling
    generation: GenerationSettings
    model: ModelInfo
    versions: Versions
    loaded: LoadedModel

    @property
    def settings(self) -> dict[str, object]:
        """What decides an answer beside file, question and profile; part of every row's key."""
        # Not the device: a run may be resumed on another machine.
        named = ("name", "revision", "quantization", "dtype")
        return {
            "model": {name: getattr(self.model, name) for name in named},
            "sampling": dataclasses.asdict(self.sampling),
            "generation": dataclasses.asdict(self.generation),
        }


def load_profiles(names: Sequence[str], budget: float | None) -> list[Profile]:
    """Profiles by name or file, those that prune with the budget that was asked for.

    Raises
    ------
    ProfileError, UsageError
        One does not exist or is not valid, two have one name, or the budget fits none.
    """
    profiles = [load_profile(name) for name in names]
    found = [profile.name for profile in profiles]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two of the profiles are called {twice!r}", "each needs a name of its own"
        )
    if budget is None:
        return profiles
    if all(profile.method == "vanilla" for profile in profiles):
        profiles[0].with_budget(budget)  # says that it has no effect
    return [
        profile if profile.method == "vanilla" else profile.with_budget(budget)
        for profile in profiles
    ]


def one_fits(profiles: Sequence[Profile], options: RunOptions) -> Accepts:
    """Refuses a model on which no profile that prunes reaches its budget; one that does will do."""

    def accepts(shape: ModelShape, default: int) -> None:
        pruning = [profile for profile in profiles if profile.method != "vanilla"]
        refused = []
        for profile in pruning:
            try:
                check_fits([profile], options, shape, default)
            except UsageError as error:
                refused.append(error)
        if refused and len(refused) == len(pruning):
            raise UsageError("no profile can reach any of these budgets", refused[0].hint)

    return accepts


def load_comparison(
    profiles: Sequence[Profile],
    options: RunOptions,
    output: Output,
    max_new_tokens: int | None = None,
    *,
    keep_trace: bool = False,
    load: Load = load_model_for,
    accepts: Accepts | None = None,
) -> Comparison:
    """Load the model once for all profiles.

    Parameters
    ----------
    max_new_tokens
        The longest answer, where the options allow a longer one; None: theirs.
    keep_trace
        Collect a trace with every answer.
    load
        Loads the model.
    accepts
        Judges the model's dimensions. Default: every profile has to fit them.

    Raises
    ------
    UsageError
        The profiles cannot look at the same frames, or want different encoders.
    ModelError, MemoryLimitError
        The model cannot be had, does not fit, or does not go with a profile.
    """
    encoder = _encoder(profiles)
    frames = _frames(profiles, options)

    def every_one(shape: ModelShape, default: int) -> None:
        check_fits(profiles, options, shape, default)

    loaded, seconds = load(encoder, options, output, accepts or every_one)
    from adatp_cli.answering import records
    from adatp_cli.answering.session import Engine
    from adatp_cli.evaluation.runner import ProfileRun

    generation = options.generation()
    if max_new_tokens is not None and max_new_tokens < generation.max_new_tokens:
        generation = dataclasses.replace(generation, max_new_tokens=max_new_tokens)
    output.note(f"{weights_of(loaded)}, profiles {', '.join(p.name for p in profiles)}")
    bare = dataclasses.replace(loaded, relevance=None)
    model, versions = records.model_info(loaded), records.versions()
    profile_runs = []
    for profile in profiles:
        # Without an encoder in sight a profile runs as it would alone.
        own: LoadedModel = bare if profile.encoder in NO_ENCODER else loaded
        engine = Engine(own, profile, generation, keep_trace=keep_trace, load_seconds=seconds)
        known = FailureRecord(
            "",
            "",
            ErrorInfo("", "", ""),
            model=model,
            profile=engine.profile.to_dict(),
            versions=versions,
        )
        profile_runs.append(ProfileRun(profile.name, engine, known))
    if options.frames_auto:
        count = _auto_frames(profile_runs, loaded, output)
        sampling = dataclasses.replace(options.sampling(), frames=count)
    else:
        sampling = options.sampling().with_default_frames(frames or loaded.default_frames)
    return Comparison(tuple(profile_runs), sampling, generation, model, versions, loaded)


def _encoder(profiles: Sequence[Profile]) -> str:
    """The relevance encoder that the profiles need."""
    wanted = {profile.encoder for profile in profiles} - NO_ENCODER
    if len(wanted) > 1:
        raise UsageError(
            f"the profiles name different relevance encoders: {', '.join(sorted(wanted))}",
            "compare those with one encoder in one run",
        )
    return wanted.pop() if wanted else "none"


def _auto_frames(profile_runs: Sequence[ProfileRun], loaded: LoadedModel, output: Output) -> int:
    """What `--frames auto` comes to, where it is the same for all."""
    budgets = {}
    for profile_run in profile_runs:
        default = profile_run.engine.profile.frames or loaded.default_frames
        budgets[profile_run.name] = profile_run.engine.frame_budget(default)
    if len({budget.frames for budget in budgets.values()}) > 1:
        told = ", ".join(f"{name} {budget.frames}" for name, budget in budgets.items())
        raise UsageError(
            f"--frames auto: the profiles would not look at the same frames ({told})",
            "give one number for all with --frames",
        )
    budget = next(iter(budgets.values()))
    output.note(frames_note(budget))
    return budget.frames


def _frames(profiles: Sequence[Profile], options: RunOptions) -> int | None:
    """Frames to look at, where no option says how many."""
    wanted = {profile.frames for profile in profiles}
    if len(wanted) > 1 and options.frames is None and options.fps is None:
        raise UsageError(
            "the profiles do not want the same number of frames", "give one for all with --frames"
        )
    return next(iter(wanted)) if len(wanted) == 1 else None
