"""A loaded random model and a clip to ask it about, for the tests of the session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.answering.encode import ClipEncoder, EncodedClip
from adatp_cli.answering.events import Answered, Clip
from adatp_cli.answering.run import Row, RunLoop
from adatp_cli.answering.session import Session
from adatp_cli.answering.tasks import ProfileRun
from adatp_cli.model.load import LoadedModel, LoadRequest, load_model
from adatp_cli.model.quiet import quiet_libraries
from adatp_cli.profiles import Profile
from adatp_cli.pruning.knobs import AdaTPProfile, VanillaProfile
from adatp_cli.record import RunContext
from adatp_cli.video.frames import Frames, VideoInfo
from adatp_cli.video.sampling import Sampling
from tests.checkpoint import write_random_checkpoint

FRAMES = 9
QUESTION = "What happens first?"


def load_random(folder: Path) -> LoadedModel:
    """The random checkpoint in float32 on the CPU."""
    write_random_checkpoint(folder)
    request = LoadRequest(model=str(folder), device="cpu", dtype="float32", offline=True)
    with quiet_libraries():
        return load_model(request, lambda _text: None)


def noisy_clip(frames: int = FRAMES, seed: int = 0) -> Frames:
    """Frames in three scenes of noise, so that there is something to cut and to choose from."""
    random = np.random.default_rng(seed)
    scenes = random.integers(0, 256, (3, 48, 64, 3))
    shift = random.integers(-20, 21, (frames, 48, 64, 3))
    pixels = scenes[np.arange(frames) * 3 // frames] + shift
    return Frames(
        pixels.clip(0, 255).astype(np.uint8),
        np.arange(frames) * 0.5,
        np.arange(frames) * 4,
        VideoInfo("pyav", "h264", 64, 48, 8.0, frames * 0.5, frames * 4, 0),
    )


def profile(budget: float | None = 0.4, **knobs: Any) -> Profile:
    """AdaTP with its knobs, or vanilla without a budget."""
    if budget is None:
        return VanillaProfile(name="test", **knobs)
    return AdaTPProfile(name="test", budget=budget, **knobs)


def session_of(
    loaded: LoadedModel, chosen: Profile, *, new_tokens: int = 6, trace: bool = False
) -> Session:
    """An session that decodes greedily."""
    settings = GenerationSettings(max_new_tokens=new_tokens)
    return Session(loaded, chosen, settings, keep_trace=trace)


def run_of(name: str, session: Session) -> ProfileRun:
    """A profile in a run, as a name and its session."""
    return ProfileRun(name, session, RunContext())


def answered(events: Iterator[Any]) -> Answered:
    """The last event of an answer."""
    last = list(events)[-1]
    if isinstance(last, Row):
        last = last.answered
    assert isinstance(last, Answered)
    return last


def events_of(
    session: Session, questions: Sequence[str], sampling: Sampling | None = None, **named: Any
) -> Iterator[Any]:
    """What a run gives out that asks one clip everything; `named` as of `RunLoop.clip`."""
    source = named.pop("source", "x")
    run = run_of(session.profile.name, session)
    loop = RunLoop(share=named.get("prefill") != "each", stream=named.pop("stream", True))
    return loop.clip(run, source, questions, sampling or Sampling(), **{"video_name": "x", **named})


def ask(session: Session, clip: Clip | None = None, *, question: str = QUESTION) -> Answered:
    """One unstreamed answer about the noisy clip."""
    clip = clip or session.encode("noise", noisy_clip())
    return answered(session.answer(clip, question, stream=False))


def encoded_in(
    loaded: LoadedModel, *parts: npt.NDArray[np.uint8], reuse: float | None = None
) -> EncodedClip:
    """Frames that come in these parts, with all that can be known of them."""
    encoder = ClipEncoder(loaded, with_relevance=True, with_keys=True, reuse=reuse)
    for part in parts:
        encoder.add(part)
    return encoder.finish()


def hooks_on(model: torch.nn.Module) -> int:
    """Forward hooks on all modules, ours and the library's."""
    return sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()
    )
