"""adatp as a model of lmms-eval: `lmms_eval --model adatp --model_args model=7b,profile=adatp`.

Imported by lmms-eval alone, which is not among adatp's dependencies; `lmms_entry` tells it of this.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval.api.model import lmms

from adatp_cli.engine import Engine
from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.events import Answered, Clip
from adatp_cli.model.load import LoadRequest, load_model
from adatp_cli.profiles import load_profile, read_share
from adatp_cli.settings import GenerationSettings
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling

log = logging.getLogger("adatp.lmms_eval")

_MAX_NEW_TOKENS = 1024  # where a task says nothing, as in the harness's LLaVA adapters


@dataclass(frozen=True, slots=True)
class _Request:
    """One question: the text, the clip's path, and how to decode the answer."""

    text: str
    path: str
    settings: GenerationSettings


class AdaTP(lmms):  # type: ignore[misc]  # Any to mypy, which does not have lmms-eval
    """A "simple" model of lmms-eval that answers questions about video files.

    Frames are sampled and the prompt is built as in `adatp ask`. A clip that cannot be read is
    logged and answered with nothing, which the tasks count as wrong.

    Parameters
    ----------
    model, quantize, device, dtype, offline
        As the options of `adatp ask`.
    profile, budget
        Name or file of a profile, and another budget for it.
    frames
        Frames of each clip; the profile's or the model's where not given.
    batch_size, max_batch_size
        lmms-eval passes them; one question is answered at a time.

    Raises
    ------
    AdatpError
        The model or the profile cannot be had, or a batch size above 1 is asked for.
    """

    is_simple = True

    def __init__(
        self,
        model: str = "auto",
        profile: str = "adatp",
        budget: float | str | None = None,
        frames: int | str | None = None,
        quantize: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
    ) -> None:
        super().__init__()
        del max_batch_size
        if str(batch_size) not in ("1", "auto"):
            raise UsageError(f"batch_size={batch_size}: adatp answers one question at a time")
        chosen = load_profile(profile)
        self._profile = chosen if budget is None else chosen.with_budget(read_share(str(budget)))
        self._loaded = load_model(
            LoadRequest(
                model=model,
                quantization=quantize,
                device=device,
                dtype=dtype,
                offline=offline,
                relevance=self._profile.encoder,
            ),
            log.info,
        )
        count = None if frames is None else int(frames)
        self._sampling = Sampling(frames=count).with_default_frames(
            self._profile.frames or self._loaded.default_frames
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, in the order of the requests; questions of a clip share its encoding."""
        asked = [self._request(request.args) for request in requests]
        answers = [""] * len(asked)
        clip: Clip | None = None
        path: str | None = None
        with IsolatedReader() as reader:
            for index in sorted(range(len(asked)), key=lambda index: asked[index].path):
                request = asked[index]
                engine = Engine(self._loaded, self._profile, request.settings)
                try:
                    if path != request.path:
                        path, clip = request.path, None
                        frames = reader.read(path, self._sampling, resize=engine.resize)
                        clip = engine.encode(path, frames)
                    if clip is not None:
                        answers[index] = _answer(engine, clip, request.text)
                except AdatpError as error:
                    log.warning("%s; the question is left without an answer", error.message)
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered."""
        raise NotImplementedError("adatp generates answers; it gives no likelihoods")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("adatp answers in one round")

    def _request(self, arguments: Sequence[Any]) -> _Request:
        context, knobs, doc_to_visual, doc_id, task, split = arguments
        visuals = doc_to_visual(self.task_dict[task][split][doc_id])
        if len(visuals) != 1 or not isinstance(visuals[0], str):
            raise UsageError(
                f"task {task} does not give one video file, and adatp answers about nothing else"
            )
        return _Request(context, visuals[0], _settings(knobs))


def _settings(knobs: Mapping[str, Any]) -> GenerationSettings:
    """lmms-eval's `generation_kwargs`; `until` is dropped, as its LLaVA adapters do."""
    if int(knobs.get("num_beams") or 1) != 1:
        raise UsageError("num_beams: adatp decodes without beams")
    settings = GenerationSettings(max_new_tokens=int(knobs.get("max_new_tokens", _MAX_NEW_TOKENS)))
    temperature = float(knobs.get("temperature") or 0.0)
    if not knobs.get("do_sample", temperature > 0.0) or temperature == 0.0:
        return settings
    top_p = knobs.get("top_p")
    return dataclasses.replace(
        settings, temperature=temperature, top_p=None if top_p is None else float(top_p)
    )


def _answer(engine: Engine, clip: Clip, text: str) -> str:
    for event in engine.answer(clip, text, stream=False):
        if isinstance(event, Answered):
            return event.record.answer
    raise RuntimeError("the engine ended without an answer")
