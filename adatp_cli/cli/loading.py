"""From options to an engine: what every command that answers questions does first."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from adatp_cli.cli.costs import percent
from adatp_cli.cli.options import RunOptions
from adatp_cli.cli.output import Output
from adatp_cli.profiles import Profile
from adatp_cli.text import plural

if TYPE_CHECKING:
    from adatp_cli.answering.plan import FrameBudget
    from adatp_cli.answering.session import Engine
    from adatp_cli.cost import ModelShape
    from adatp_cli.model.load import Accepts, LoadedModel
    from adatp_cli.video.sampling import Sampling


class Know(Protocol):
    """Takes facts as they become known, by their names in `FailureRecord`."""

    def __call__(self, **facts: object) -> None: ...


def load_engine(
    profile: Profile,
    options: RunOptions,
    output: Output,
    know: Know,
    check: Callable[[], None] | None = None,
) -> tuple[Engine, LoadedModel]:
    """Load the model that the options name, saying what goes on and what was chosen.

    Parameters
    ----------
    check
        As for `load_model_for`.

    Raises
    ------
    ModelError, MemoryLimitError, UsageError
        The model cannot be had, does not fit, or does not go with the profile.
    """

    def accepts(shape: ModelShape, default: int) -> None:
        check_fits([profile], options, shape, default)

    loaded, seconds = load_model_for(profile.encoder, options, output, accepts, check)
    from adatp_cli.answering import records
    from adatp_cli.answering.session import Engine

    settings = options.generation()
    draws = profile.method == "random" or options.samples
    if options.seed is not None and not draws:
        output.note("--seed has no effect on greedy decoding; it needs --temperature")
    know(model=records.model_info(loaded), versions=records.versions())
    output.note(f"{weights_of(loaded)}, profile {profile.name}")
    keep_trace = options.trace is not None
    engine = Engine(loaded, profile, settings, keep_trace=keep_trace, load_seconds=seconds)
    know(profile=engine.profile.to_dict())
    return engine, loaded


def check_fits(
    profiles: Iterable[Profile], options: RunOptions, shape: ModelShape, default: int
) -> None:
    """Refuse profiles whose layers or budget a model cannot have, before it is loaded.

    Parameters
    ----------
    default
        Frames that the model looks at where nothing else says how many.

    Raises
    ------
    UsageError
        One of them does not fit.
    """
    from adatp_cli.pruning.methods import check_fit

    for profile in profiles:
        sampling = options.sampling().with_default_frames(profile.frames or default)
        check_fit(profile, shape, sampling.frames)


def load_model_for(
    encoder: str,
    options: RunOptions,
    output: Output,
    accepts: Accepts | None = None,
    check: Callable[[], None] | None = None,
) -> tuple[LoadedModel, float]:
    """Load the model that the options name with a relevance encoder, and how long that took.

    Parameters
    ----------
    accepts
        As `LoadRequest` has it.
    check
        Refuses what needs no model, a clip for one. It runs while the libraries are imported, and
        what it raises goes on before a model is looked for.

    Raises
    ------
    ModelError, MemoryLimitError
        The model cannot be had or does not fit.
    UsageError
        Whatever `accepts` refuses.
    """
    started = time.perf_counter()
    output.stage("importing PyTorch and transformers")
    with _beside(check):
        import_libraries()
    from adatp_cli.model.load import LoadRequest, load_model

    loaded = load_model(
        LoadRequest(
            model=options.model,
            quantization=options.quantize.value,
            device=options.device,
            dtype=options.dtype.value,
            offline=options.offline,
            relevance=encoder,
            accepts=accepts,
        ),
        output.progress_line,
    )
    return loaded, time.perf_counter() - started


@contextlib.contextmanager
def _beside(check: Callable[[], None] | None) -> Iterator[None]:
    """Run `check` in a thread while the block runs, and raise what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            if check is not None:
                check()
        except BaseException as error:
            raised.append(error)

    # Not waited for where the block fails: closing the reader ends it.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join()
    for error in raised:
        raise error


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


def sampling_for(
    engine: Engine,
    loaded: LoadedModel,
    options: RunOptions,
    output: Output,
    questions: Sequence[str] = (),
) -> Sampling:
    """Which frames to look at, their number known before a clip is opened.

    Parameters
    ----------
    questions
        What will be asked, where it is known and few.

    Raises
    ------
    UsageError
        A frame count, rate or time makes no sense, or `--frames auto` has no answer.
    """
    sampling, default = options.sampling(), engine.profile.frames or loaded.default_frames
    if not options.frames_auto:
        return sampling.with_default_frames(default)
    budget = engine.frame_budget(default, questions)
    output.note(frames_note(budget))
    return dataclasses.replace(sampling, frames=budget.frames)


def frames_note(budget: FrameBudget) -> str:
    """What `--frames auto` came to, in a line."""
    if budget.frames == budget.default:
        why = "this model's context holds no more" if budget.context_bound else "nothing is saved"
        return f"--frames auto: {plural(budget.frames, 'frame')}, as without it: {why}"
    why = " and the model's context holds no more;" if budget.context_bound else ","
    return (
        f"--frames auto: at most {plural(budget.frames, 'frame')}, {percent(budget.language)} of "
        f"what {budget.default} cost the language model unpruned{why} {budget.encoding:.1f} times "
        f"the vision tower's work, {budget.both:.1f} times of both"
    )


def weights_of(loaded: LoadedModel) -> str:
    """Which weights answer: 'tiny in bfloat16 on cpu'."""
    weights = {"none": loaded.dtype}.get(loaded.quantization, loaded.quantization)
    return f"{loaded.name} in {weights} on {loaded.device}"
