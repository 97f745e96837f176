"""Plain transformers on the same pixels and prompt, which every other figure is compared with.

`LlavaOnevisionForConditionalGeneration.generate` and the loaded weights, with nothing of ours: no
hook, no session. And `PeakWatch`, which measures the memory of every contender.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adatp_cli.answering.encode import synchronize
from adatp_cli.answering.records import flops_of
from adatp_cli.bench.results import PLAIN, Sample
from adatp_cli.cost import end_to_end_cost
from adatp_cli.model.device import is_cuda
from adatp_cli.model.memory import check_run
from adatp_cli.record import TokenCounts

if TYPE_CHECKING:
    from adatp_cli.model.load import LoadedModel
    from adatp_cli.model.prompt import Prompt
    from adatp_cli.video.frames import Frames

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): set the peak of the resident set to what is resident now


@dataclass(slots=True)
class Peak:
    """Bytes held at the beginning, and the most at any moment; None where it is not measured."""

    before: int | None = None
    most: int | None = None

    @property
    def above(self) -> int | None:
        """The most that was held at once beside what was there before."""
        return None if self.most is None or self.before is None else self.most - self.before


class PeakWatch:
    """Measures peaks on the device where the model is. Nothing is sampled.

    On CUDA the allocator counts; on the CPU the kernel counts the process's resident memory, and
    Linux can set the peak back. Elsewhere nothing is measured.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.method: str | None = None  # how memory is measured, in words
        if is_cuda(device):
            self.method = "bytes that PyTorch's CUDA allocator gave out"
        elif device == "cpu" and _STATUS.is_file():
            with contextlib.suppress(OSError):
                _CLEAR.write_text(_RESET_PEAK)
                self.method = "resident bytes of the process, as the kernel counts them"

    @contextlib.contextmanager
    def watch(self) -> Iterator[Peak]:
        """Measure a block; the result is filled in at its end."""
        peak = Peak()
        if self.method is None:
            yield peak
        elif is_cuda(self._device):
            torch.cuda.reset_peak_memory_stats(self._device)
            peak.before = int(torch.cuda.memory_allocated(self._device))
            yield peak
            peak.most = int(torch.cuda.max_memory_allocated(self._device))
        else:
            gc.collect()
            # The C library gives back what it keeps of earlier work, which no run shall get free.
            with contextlib.suppress(AttributeError, OSError):  # another library than glibc
                ctypes.CDLL(None).malloc_trim(0)
            _CLEAR.write_text(_RESET_PEAK)
            peak.before = _status("VmRSS")
            yield peak
            peak.most = _status("VmHWM")


def _status(field: str) -> int:
    """A line of what the kernel tells of this process, in bytes."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


class _Clock:
    """A streamer that notes when the first token of `generate` came."""

    def __init__(self) -> None:
        self._given = 0
        self.first = 0.0

    def put(self, _value: Tensor) -> None:
        """The prompt comes first, then token by token."""
        self._given += 1
        if self._given == 2:
            self.first = time.perf_counter()

    def end(self) -> None:
        """Nothing is held back."""


@dataclass(frozen=True, slots=True)
class _Generation:
    first_token_s: float
    further_s: float  # from the first token to the last
    generated: int
    cache_bytes: int


class PlainTransformers:
    """The baseline, with answers of `new_tokens` tokens.

    Frames are normalised by the same code as in every other run, and that counts as vision in all.
    """

    def __init__(self, loaded: LoadedModel, new_tokens: int) -> None:
        self._loaded = loaded
        self._model: Any = loaded.model
        self._new_tokens = new_tokens

    def check_memory(self, frames: int, text_tokens: int, *, vision: bool) -> None:
        """Refuse a clip that does not fit: every frame goes through the tower in one pass."""
        check_run(
            self._loaded,
            frames=frames,
            text_tokens=text_tokens,
            new_tokens=self._new_tokens,
            frames_at_once=None if vision else 1,
        )

    @torch.inference_mode()
    def run_language_model(self, visual: Tensor, prompt: Prompt, watch: PeakWatch) -> Sample:
        """Answer one question from (n_v + 1, D) visual tokens on."""
        ids = prompt.input_ids.to(self._loaded.device)
        with watch.watch() as peak:
            made = self._generate(inputs_embeds=self._embeddings(ids, visual))
        seconds = {
            "prefill": made.first_token_s,
            "generate": made.further_s,
            "total": made.first_token_s + made.further_s,
        }
        return self._sample(seconds, prompt, made, peak.above)

    @torch.inference_mode()
    def run(self, frames: Frames, decode_s: float, prompt: Prompt, watch: PeakWatch) -> Sample:
        """Answer one question from the pixels on, and measure the stages apart.

        First token, total and memory are those of one call of `generate` with the pixels. It has no
        seam between vision and prefill, so these two are then run again one after the other:
        `get_video_features`, and `generate` from the embeddings that they make.
        """
        ids = prompt.input_ids.to(self._loaded.device)
        with watch.watch() as peak:
            started = time.perf_counter()
            pixels = self._pixels(frames)
            prepared_s = time.perf_counter() - started
            whole = self._generate(input_ids=ids, pixel_values_videos=pixels)
            del pixels
        vision_s, embeddings = self._encode(frames, ids)
        first_token_s = decode_s + prepared_s + whole.first_token_s
        seconds = {
            "decode": decode_s,
            "vision": vision_s,
            "prefill": self._generate(inputs_embeds=embeddings).first_token_s,
            "first_token": first_token_s,
            # Nothing is kept for the next question but the decoded frames.
            "next_first_token": first_token_s - decode_s,
            "generate": whole.further_s,
            "total": first_token_s + whole.further_s,
        }
        return self._sample(seconds, prompt, whole, peak.above)

    def _sample(
        self, seconds: dict[str, float], prompt: Prompt, made: _Generation, peak: int | None
    ) -> Sample:
        """The counts are those of keeping every token."""
        shape = self._loaded.shape
        visual, text = prompt.n_visual, prompt.text_tokens + 1
        frames = visual // shape.tokens_per_frame
        everything = [visual] * shape.language.layers
        cost = end_to_end_cost(
            shape,
            frames=frames,
            text_tokens=text,
            visual_per_layer=everything,
            generated=made.generated,
        )
        return Sample(
            contender=PLAIN,
            frames=frames,
            seconds=seconds,
            tokens=TokenCounts(text, visual, everything, visual, 1.0, made.generated),
            flops=flops_of(everything, everything, cost, cost, shape.language),
            peak_bytes=peak,
            cache_bytes=made.cache_bytes,
        )

    def _generate(self, **inputs: Tensor) -> _Generation:
        clock = _Clock()
        given = next(iter(inputs.values()))
        synchronize(self._loaded.device)
        started = time.perf_counter()
        output = self._model.generate(
            **inputs,
            attention_mask=torch.ones(given.shape[:2], dtype=torch.int64, device=given.device),
            max_new_tokens=self._new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            streamer=clock,
        )
        synchronize(self._loaded.device)
        finished = time.perf_counter()
        before = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        layers = output.past_key_values.layers
        return _Generation(
            clock.first - started,
            finished - clock.first,
            output.sequences.shape[1] - before,
            sum(layer.keys.nbytes + layer.values.nbytes for layer in layers),
        )

    def _pixels(self, frames: Frames) -> Tensor:
        return self._loaded.preprocess(frames.pixels)[None].to(self._loaded.device)

    def _encode(self, frames: Frames, ids: Tensor) -> tuple[float, Tensor]:
        """Seconds of the vision part, and the embeddings (1, L, D) that the decoder reads."""
        started = time.perf_counter()
        pixels = self._pixels(frames)
        features = self._model.model.get_video_features(pixels, return_dict=True).pooler_output
        synchronize(self._loaded.device)
        vision_s = time.perf_counter() - started
        return vision_s, self._embeddings(ids, features.flatten(0, 1))

    def _embeddings(self, ids: Tensor, visual: Tensor) -> Tensor:
        embeddings: Tensor = self._model.get_input_embeddings()(ids)
        places = (ids == self._loaded.video_token_id)[..., None].expand_as(embeddings)
        return embeddings.masked_scatter(places, visual.to(embeddings))
