"""adatp as a model of lmms-eval: `lmms-eval --model adatp --model_args model=7b,profile=adatp`.

Imported by lmms-eval alone, which is not among adatp's dependencies; `lmms_entry` tells it of this.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm  # type: ignore[import-untyped]

from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.answering.run import Row, RunLoop
from adatp_cli.answering.session import Session
from adatp_cli.answering.tasks import Ask, ClipTask, FileClip, ProfileRun
from adatp_cli.batch.prefetch import FramePrefetcher
from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.model.load import LoadRequest, load_model
from adatp_cli.profiles import load_profile, read_share
from adatp_cli.record import FailureRecord
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling

log = logging.getLogger("adatp.lmms_eval")

_MAX_NEW_TOKENS = 1024  # where a task says nothing, as in the harness's LLaVA adapters


class AdaTP(lmms):  # type: ignore[misc]  # Any to mypy, which does not have lmms-eval
    """A "simple" model of lmms-eval that answers questions about video files.

    Frames are sampled and the prompt is built as in `adatp ask`, and its arguments are as the
    options there; docs/evaluation.md has the others. `batch_size` and `max_batch_size` are passed
    by lmms-eval. An `AdatpError` where the model or the profile cannot be had, a value is none, or
    the file of records exists.
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
        self._seed = _whole("seed", seed)
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
        count = self._profile.frames or self._loaded.default_frames
        if frames == "auto":
            session = Session(self._loaded, self._profile, GenerationSettings(_MAX_NEW_TOKENS))
            count = session.plan.frame_budget(count).frames
            log.info("frames=auto: %d frames", count)
        elif frames is not None:
            count = _whole("frames", frames)
        self._sampling = Sampling(frames=count)

    @property
    def device(self) -> torch.device:
        """Where the model is, and where lmms-eval puts what processes tell each other."""
        return torch.device(self._loaded.device)

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """The answers, in the order of the requests; questions of a clip share its encoding."""
        runs: dict[GenerationSettings, ProfileRun] = {}
        asks: dict[str, list[Ask]] = {}
        times = Counter[tuple[Any, ...]]()
        for index, request in enumerate(requests):
            text, knobs, doc_to_visual, doc, task, split = request.args
            settings = _settings(knobs, self._seed + times[task, split, doc])
            times[task, split, doc] += 1
            if settings not in runs:
                session = Session(self._loaded, self._profile, settings)
                run = ProfileRun.of(session, self._loaded)
                runs[settings] = dataclasses.replace(run, name=str(len(runs)))
            visuals = doc_to_visual(self.task_dict[task][split][doc])
            if len(visuals) != 1 or not isinstance(visuals[0], str):
                raise UsageError(
                    f"task {task} does not give one video file, and adatp answers about nothing "
                    "else"
                )
            asks.setdefault(visuals[0], []).append(Ask(text, runs[settings], about=index))
        answers: list[Any] = [""] * len(requests)
        tasks = [ClipTask(FileClip(path), tuple(asks[path])) for path in sorted(asks)]
        with (
            IsolatedReader() as reader,
            FramePrefetcher(
                tasks,
                lambda task: task.clip.read(
                    reader, self._sampling, task.asks[0].run.session.plan.resize
                ),
            ) as prefetcher,
            tqdm(total=len(requests), desc="adatp", disable=self.rank != 0) as bar,
        ):
            for row in RunLoop().rows(prefetcher.results(_never), _never):
                bar.update()
                answers[row.ask.about] = self._answer(row)
        return answers

    def _answer(self, row: Row) -> Any:
        """An answer as lmms-eval takes it, the prompt as before pruning; "" where there is none."""
        if row.error is not None and not isinstance(row.error, AdatpError):
            raise row.error
        record = row.record
        if self._records is not None:
            self._records.write(f"{record.to_json()}\n")
            self._records.flush()
        if isinstance(record, FailureRecord):
            log.warning("%s; the question is left without an answer", record.error.message)
            return ""
        tokens = record.tokens
        asked = tokens.text + tokens.visual
        counts = TokenCounts(input_tokens=asked, output_tokens=tokens.generated)
        return GenerationResult(record.answer, counts)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("adatp generates answers; it gives no likelihoods")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("adatp answers in one round")


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


def _never() -> bool:
    return False


def _whole(name: str, given: int | str) -> int:
    try:
        return int(given)
    except ValueError:
        raise UsageError(f"{name}={given}: is no number", f"as in {name}=1") from None


def _opened(path: Path, rank: int) -> TextIO:
    """A new file for the records of one process, or a `UsageError`."""
    path = path.with_name(f"{path.stem}-{rank}{path.suffix}") if rank else path
    try:
        return path.open("x", encoding="ascii")
    except FileExistsError:
        raise UsageError(f"records={path}: exists already", "name another file") from None
    except OSError as error:
        raise UsageError(f"records={path}: {error.strerror}", "name another file") from None
