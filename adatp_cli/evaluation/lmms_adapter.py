"""adatp as a model of lmms-eval: `lmms-eval --model adatp --model_args model=7b,profile=adatp`.

Imported by lmms-eval alone, which is not among adatp's dependencies; `lmms_entry` tells it of this.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm  # type: ignore[import-untyped]

from adatp_cli.answering import records
from adatp_cli.answering.events import Clip
from adatp_cli.answering.session import Session
from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.model.load import LoadRequest, load_model
from adatp_cli.profiles import Profile, load_profile, read_share
from adatp_cli.record import AnswerRecord, ErrorInfo, FailureRecord
from adatp_cli.settings import GenerationSettings
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling

log = logging.getLogger("adatp.lmms_eval")

Number = TypeVar("Number")

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
    logged and answered with nothing, which the tasks count as wrong. Answers come with the numbers
    of their tokens. Several processes, started by torchrun or accelerate, share the questions; each
    takes the GPU of its local rank.

    Parameters
    ----------
    model, quantize, device, dtype, offline
        As the options of `adatp ask`.
    profile, budget
        Name or file of a profile, and another budget for it.
    frames
        Frames of each clip, or `auto`; the profile's or the model's where not given.
    seed
        Of sampling, where a task asks for it; each repeat of a question adds one.
    records
        A new file for adatp's own rows, as of `adatp ask --json`, each the moment it is known; of
        several processes each but the first adds its rank to the name.
    batch_size, max_batch_size
        lmms-eval passes them; one question is answered at a time.

    Raises
    ------
    AdatpError
        The model or the profile cannot be had, a value is none, or the file of records exists.
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
        seed: int | str = 0,
        records: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
    ) -> None:
        super().__init__()
        del max_batch_size
        if str(batch_size) not in ("1", "auto"):
            raise UsageError(f"batch_size={batch_size}: adatp answers one question at a time")
        # What starts several processes tells each its number so; lmms-eval itself sets it later.
        self._rank = int(os.environ.get("RANK", "0"))
        self._world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if device in ("auto", "cuda") and self._world_size > 1 and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        chosen = load_profile(profile)
        self._profile = chosen if budget is None else chosen.with_budget(read_share(str(budget)))
        self._seed = _number(int, "seed", seed)
        self._records = None if records is None else _opened(Path(records), self._rank)
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
        self._sampling = self._sampling_for(frames)

    @property
    def device(self) -> torch.device:
        """Where the model is, and where lmms-eval puts what processes tell each other."""
        return torch.device(self._loaded.device)

    def _sampling_for(self, frames: int | str | None) -> Sampling:
        default = self._profile.frames or self._loaded.default_frames
        if frames == "auto":
            session = Session(self._loaded, self._profile, GenerationSettings(_MAX_NEW_TOKENS))
            count = session.plan.frame_budget(default).frames
            log.info("frames=auto: %d frames", count)
        else:
            count = default if frames is None else _number(int, "frames", frames)
        return Sampling(frames=count)

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """The answers, in the order of the requests; questions of a clip share its encoding."""
        asked, times = [], Counter[tuple[Any, ...]]()
        for request in requests:
            _, _, _, doc, task, split = request.args
            asked.append(self._request(request.args, times[task, split, doc]))
            times[task, split, doc] += 1
        answers: list[Any] = [""] * len(asked)
        clip: Clip | AdatpError | None = None
        path: str | None = None
        order = sorted(range(len(asked)), key=lambda index: asked[index].path)
        with IsolatedReader() as reader:
            for index in tqdm(order, desc="adatp", disable=self.rank != 0):
                request = asked[index]
                session = Session(self._loaded, self._profile, request.settings)
                if clip is None or path != request.path:
                    path, clip = request.path, self._clip(reader, session, request.path)
                try:
                    if isinstance(clip, AdatpError):
                        raise clip
                    record = session.answered(clip, request.text).record
                except AdatpError as error:
                    log.warning("%s; the question is left without an answer", error.message)
                    self._keep(self._failed(request, session.profile, error))
                else:
                    answers[index] = _result(record)
                    self._keep(record)
        return answers

    def _clip(self, reader: IsolatedReader, session: Session, path: str) -> Clip | AdatpError:
        """The encoded clip, or what keeps it from that."""
        try:
            return session.encode(
                path, reader.read(path, self._sampling, resize=session.plan.resize)
            )
        except AdatpError as error:
            return error

    def _keep(self, record: AnswerRecord | FailureRecord) -> None:
        if self._records is not None:
            self._records.write(f"{record.to_json()}\n")
            self._records.flush()

    def _failed(self, request: _Request, profile: Profile, error: AdatpError) -> FailureRecord:
        return FailureRecord(
            request.path,
            request.text,
            ErrorInfo(error.kind, error.message, error.hint),
            model=records.model_info(self._loaded),
            profile=profile.to_dict(),
            versions=records.versions(),
        )

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered."""
        raise NotImplementedError("adatp generates answers; it gives no likelihoods")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("adatp answers in one round")

    def _request(self, arguments: Sequence[Any], repeat: int) -> _Request:
        context, knobs, doc_to_visual, doc_id, task, split = arguments
        visuals = doc_to_visual(self.task_dict[task][split][doc_id])
        if len(visuals) != 1 or not isinstance(visuals[0], str):
            raise UsageError(
                f"task {task} does not give one video file, and adatp answers about nothing else"
            )
        return _Request(context, visuals[0], _settings(knobs, self._seed + repeat))


def _settings(knobs: Mapping[str, Any], seed: int) -> GenerationSettings:
    """lmms-eval's `generation_kwargs`; `until` is dropped, as its LLaVA adapters do."""
    if int(knobs.get("num_beams") or 1) != 1:
        raise UsageError("num_beams: adatp decodes without beams")
    settings = GenerationSettings(max_new_tokens=int(knobs.get("max_new_tokens", _MAX_NEW_TOKENS)))
    temperature = float(knobs.get("temperature") or 0.0)
    if not knobs.get("do_sample", temperature > 0.0) or temperature == 0.0:
        return settings
    top_p = knobs.get("top_p")
    return dataclasses.replace(
        settings,
        temperature=temperature,
        top_p=None if top_p is None else float(top_p),
        seed=seed,
    )


def _result(record: AnswerRecord) -> Any:
    """An answer as lmms-eval takes it; the prompt as it is before pruning."""
    tokens = record.tokens
    return GenerationResult(
        record.answer,
        TokenCounts(input_tokens=tokens.text + tokens.visual, output_tokens=tokens.generated),
    )


def _number(kind: Callable[[Any], Number], name: str, given: object) -> Number:
    try:
        return kind(given)
    except (TypeError, ValueError):
        raise UsageError(f"{name}={given}: is no number", f"as in {name}={kind(1)}") from None


def _opened(path: Path, rank: int) -> TextIO:
    """A new file for the records of one process.

    Raises
    ------
    UsageError
        It is there already, or cannot be made.
    """
    path = path.with_name(f"{path.stem}-{rank}{path.suffix}") if rank else path
    try:
        return path.open("x", encoding="ascii")
    except FileExistsError:
        raise UsageError(f"records={path}: exists already", "name another file") from None
    except OSError as error:
        raise UsageError(f"records={path}: {error.strerror}", "name another file") from None
