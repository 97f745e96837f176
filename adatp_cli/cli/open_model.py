"""From options to a loaded model with the profiles that answer on it."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adatp_cli.cli.options import RunOptions
from adatp_cli.cli.output import Output
from adatp_cli.errors import UsageError
from adatp_cli.model.checkpoints import RANDOM
from adatp_cli.profiles import Profile, load_profile
from adatp_cli.pruning.knobs import NO_ENCODER
from adatp_cli.text import percent, plural

if TYPE_CHECKING:
    from adatp_cli.answering.decoding import GenerationSettings
    from adatp_cli.answering.plan import FrameBudget
    from adatp_cli.answering.tasks import ProfileRun
    from adatp_cli.cost import ModelShape
    from adatp_cli.model.load import Accepts, LoadedModel
    from adatp_cli.record import ModelInfo, Versions
    from adatp_cli.video.sampling import Sampling

ToFit = Literal["all", "one", "none"]


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A loaded model and the profiles that answer on it, in the order in which they were named."""

    runs: tuple[ProfileRun, ...]
    generation: GenerationSettings
    loaded: LoadedModel  # with the relevance encoder that any of the profiles needs
    model: ModelInfo
    versions: Versions

    def sampling(
        self, options: RunOptions, output: Output, questions: Sequence[str] = ()
    ) -> Sampling:
        """Which frames all profiles look at, their number known before a clip is opened.

        `questions` is what will be asked, where it is known and few. Refused is a `--frames auto`
        that has no one answer for all profiles.
        """
        sampling, default = options.sampling(), self.loaded.default_frames
        wanted = {run.session.profile.frames for run in self.runs}
        if not options.frames_auto:
            own = next(iter(wanted)) if len(wanted) == 1 else None
            return sampling.with_default_frames(own or default)
        budgets = {
            run.name: run.session.plan.frame_budget(
                run.session.profile.frames or default, questions
            )
            for run in self.runs
        }
        if len({budget.frames for budget in budgets.values()}) > 1:
            told = ", ".join(f"{name} {budget.frames}" for name, budget in budgets.items())
            raise UsageError(
                f"--frames auto: the profiles would not look at the same frames ({told})",
                "give one number for all with --frames",
            )
        budget = next(iter(budgets.values()))
        output.note(_frames_note(budget))
        return dataclasses.replace(sampling, frames=budget.frames)

    def key_settings(self, sampling: Sampling) -> dict[str, object]:
        """What decides an answer beside file, question and profile; part of every row's key."""
        # Not the device: a run may be resumed on another machine.
        named = ("name", "revision", "quantization", "dtype")
        generation = dataclasses.asdict(self.generation)
        del generation["stop"]  # no command has any, and keys of older rows are without
        return {
            "model": {name: getattr(self.model, name) for name in named},
            "sampling": dataclasses.asdict(sampling),
            "generation": generation,
        }


def load_profiles(names: Sequence[str], budget: float | None) -> list[Profile]:
    """Profiles by name or file, those that prune with the budget that was asked for."""
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


def open_model(
    profiles: Sequence[Profile],
    options: RunOptions,
    output: Output,
    *,
    most_new_tokens: int | None = None,
    keep_trace: bool = False,
    to_fit: ToFit = "all",
    check: Callable[[], object] = lambda: None,
) -> OpenModel:
    """Load the model once for all profiles, saying what goes on and what was chosen.

    `most_new_tokens` is the longest answer where the options allow a longer one. `keep_trace`
    collects a trace with every answer, as `--trace` does. `to_fit` is which profiles have to fit
    the model's dimensions: all, one that prunes, or none. `check` refuses what needs no model, a
    clip for one: it runs while the libraries are imported, and what it raises goes on before a
    model is looked for.
    """
    if (
        len({profile.frames for profile in profiles}) > 1
        and options.frames is None
        and options.fps is None
    ):
        raise UsageError(
            "the profiles do not want the same number of frames", "give one for all with --frames"
        )

    def accepts(shape: ModelShape, default: int) -> None:
        _check_fits(profiles, options, shape, default, to_fit)

    started = time.perf_counter()
    loaded = _load(_encoder(profiles), options, output, accepts, check)
    seconds = time.perf_counter() - started
    from adatp_cli.answering.records import model_info, versions
    from adatp_cli.answering.session import Session
    from adatp_cli.answering.tasks import ProfileRun

    generation = options.generation()
    if most_new_tokens is not None and most_new_tokens < generation.max_new_tokens:
        generation = dataclasses.replace(generation, max_new_tokens=most_new_tokens)
    draws = options.samples or any(profile.method == "random" for profile in profiles)
    if options.seed is not None and not draws:
        output.note("--seed has no effect on greedy decoding; it needs --temperature")
    names = ", ".join(profile.name for profile in profiles)
    weights = loaded.dtype if loaded.quantization == "none" else loaded.quantization
    output.note(
        f"{loaded.name} in {weights} on {loaded.device}, profile{'s' * (len(profiles) > 1)} {names}"
    )
    # Without an encoder in sight a profile runs as it would alone.
    bare = dataclasses.replace(loaded, relevance=None)
    runs = []
    for profile in profiles:
        own = bare if profile.encoder in NO_ENCODER else loaded
        traced = keep_trace or options.trace is not None
        session = Session(own, profile, generation, keep_trace=traced, load_seconds=seconds)
        runs.append(ProfileRun.of(session, loaded))
    return OpenModel(tuple(runs), generation, loaded, model_info(loaded), versions())


def _encoder(profiles: Sequence[Profile]) -> str:
    """The relevance encoder that the profiles need."""
    wanted = {profile.encoder for profile in profiles} - NO_ENCODER
    if len(wanted) > 1:
        raise UsageError(
            f"the profiles name different relevance encoders: {', '.join(sorted(wanted))}",
            "compare those with one encoder in one run",
        )
    return wanted.pop() if wanted else "none"


def _check_fits(
    profiles: Sequence[Profile],
    options: RunOptions,
    shape: ModelShape,
    default: int,
    to_fit: ToFit,
) -> None:
    """Refuse profiles whose layers or budget a model cannot have, before it is loaded."""
    if to_fit == "none":
        return
    from adatp_cli.pruning.methods import check_fit

    pruning = [profile for profile in profiles if profile.method != "vanilla"]
    refused = []
    for profile in profiles if to_fit == "all" else pruning:
        sampling = options.sampling().with_default_frames(profile.frames or default)
        try:
            check_fit(profile, shape, sampling.frames)
        except UsageError as error:
            if to_fit == "all":
                raise
            refused.append(error)
    if refused and len(refused) == len(pruning):
        raise UsageError("no profile can reach any of these budgets", refused[0].hint)


def _load(
    encoder: str,
    options: RunOptions,
    output: Output,
    accepts: Accepts,
    check: Callable[[], object],
) -> LoadedModel:
    """The model that the options name, with a relevance encoder; `check` runs meanwhile."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            check()
        except BaseException as error:
            raised.append(error)

    output.stage("importing PyTorch and transformers")
    # Not waited for where an import fails: closing the reader ends it.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    import_libraries()
    thread.join()
    if raised:
        raise raised[0]
    from adatp_cli.model.load import LoadRequest, load_model

    request = LoadRequest(
        model=options.model,
        quantization=options.quantize,
        device=options.device,
        dtype=options.dtype,
        offline=options.offline,
        relevance=encoder,
        accepts=accepts,
    )
    if options.model.lower() not in RANDOM:
        return load_model(request, output.progress_line)
    from adatp_cli.bench.synthetic import load_random

    return load_random(request, output.stage)


def import_libraries() -> None:
    """Import all that loading and answering need, with Python's cycle collector at rest.

    The modules' hundreds of thousands of objects stay as long as the process. The collector would
    go through them again and again and find nothing: a fifth of a cold start. At its end it would
    take them apart one by one, a second's work that the end of the process makes needless.
    """
    atexit.unregister(gc.freeze)  # once, however often this is called
    atexit.register(gc.freeze)
    with collector_at_rest():
        # transformers would import the classes at their first use, outside of this block.
        import transformers.models.llava_onevision.modeling_llava_onevision  # noqa: F401

        import adatp_cli.answering.session
        import adatp_cli.model.load  # noqa: F401


@contextlib.contextmanager
def collector_at_rest() -> Iterator[None]:
    """No cycle is looked for within the block; afterwards the collector is as it was."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _frames_note(budget: FrameBudget) -> str:
    """What `--frames auto` chose, in a line."""
    if budget.frames == budget.default:
        why = "this model's context holds no more" if budget.context_bound else "nothing is saved"
        return f"--frames auto: {plural(budget.frames, 'frame')}, as without it: {why}"
    why = " and the model's context holds no more;" if budget.context_bound else ","
    return (
        f"--frames auto: at most {plural(budget.frames, 'frame')}, {percent(budget.language)} of "
        f"what {budget.default} cost the language model unpruned{why} {budget.encoding:.1f} times "
        f"the vision tower's work, {budget.both:.1f} times of both"
    )
