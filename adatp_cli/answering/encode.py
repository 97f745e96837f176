"""From frames to visual tokens and frame vectors, each frame through the vision tower once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from adatp_cli.errors import AdatpError, ModelError
from adatp_cli.pruning.method import ClipSignals

if TYPE_CHECKING:
    from adatp_cli.cost import VisionShape
    from adatp_cli.model.load import LoadedModel
    from adatp_cli.model.relevance import RelevanceEncoder

# A GPU is busy with the default clip in one pass, and long clips stay in bounded memory.
_MOST_AT_ONCE = 32
# A CPU gains nothing from more than its caches hold: 6 % slower and three times the memory for 8
# frames of SigLIP's tower in one pass (benchmarks/tower.py).
_CPU_STATES = 1_000_000


def frames_at_once(device: str, tower: VisionShape) -> int:
    """Frames per pass of the tower (our choice).

    The fewer they are, the sooner the first pass can begin while others are still decoded.
    """
    if device != "cpu":
        return _MOST_AT_ONCE
    return max(1, min(_MOST_AT_ONCE, _CPU_STATES // (tower.patches * tower.hidden)))


@dataclass(frozen=True, slots=True, eq=False)
class EncodedClip:
    """A clip as the language model and the pruning see it; kept for every question about it.

    What a method may want to know of the frames is as `ClipSignals` has it.
    """

    frames: int
    visual: Tensor  # (n_v + 1, D): T x P tokens frame by frame, then the newline embedding
    tower_vectors: Tensor
    frame_vectors: Tensor | None
    vision_s: float
    relevance_s: float
    probe_attention: Tensor | None = None
    tower_keys: Tensor | None = None
    copied: int = 0  # frames that took over the tokens of the one before

    def signals(self, question_vector: Tensor | None) -> ClipSignals:
        """What a method may know before the language model runs, with the embedded question."""
        return ClipSignals(
            self.tower_vectors,
            self.frame_vectors,
            question_vector,
            self.visual[:-1],
            self.probe_attention,
            self.tower_keys,
        )


class ClipEncoder:
    """Vision tower, projector and pooling over a clip whose frames come part by part.

    The tokens are those of the model's own `get_video_features`, bit for bit; each frame is encoded
    on its own, so passes over parts of the clip give the same. How the frames come does not decide
    which of them share a pass. With `reuse` a frame takes over the tokens of the last encoded one
    where its `largest_change` from it is at most this.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        with_relevance: bool,
        with_keys: bool = False,
        reuse: float | None = None,
        at_once: int | None = None,
    ) -> None:
        self._loaded = loaded
        self._with_relevance = with_relevance and loaded.relevance is not None
        self._with_keys = with_keys
        self._reuse = reuse
        self._cells = loaded.shape.vision.side
        self._at_once = at_once or frames_at_once(loaded.device, loaded.shape.vision)
        self._waiting: list[Picture] = []
        self._last: Picture | None = None
        self._sources: list[int] = []
        self._passes: list[_Pass] = []
        self._relevance_s = 0.0
        self._seconds = 0.0

    def add(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Take the next (n, H, W, 3) uint8 frames, RGB, and encode as far as passes are full."""
        started = time.perf_counter()
        for picture in pixels:
            if self._is_new(picture):
                self._waiting.append(picture)
                self._last = picture
                self._sources.append(self._sources[-1] + 1 if self._sources else 0)
            else:
                self._sources.append(self._sources[-1])
            if len(self._waiting) == self._at_once:
                self._encode()
        self._seconds += time.perf_counter() - started

    def finish(self) -> EncodedClip:
        """Encode what is left, and put the clip together."""
        started = time.perf_counter()
        if self._waiting:
            self._encode()
        parts, encoded = self._passes, self._sources[-1] + 1
        sources = torch.tensor(self._sources)

        def joined(tensors: list[Tensor]) -> Tensor:
            whole = torch.cat(tensors)
            return whole if encoded == len(sources) else whole[sources.to(whole.device)]

        per_frame = joined([part.tokens for part in parts])
        visual = torch.cat((per_frame.flatten(0, 1), parts[-1].newline))
        synchronize(self._loaded.device)
        looks = [part.seen.look for part in parts if part.seen.look is not None]
        vectors = self._vectors([means for means, _ in looks])
        self._seconds += time.perf_counter() - started
        keys = [part.seen.keys for part in parts if part.seen.keys is not None]
        return EncodedClip(
            frames=len(sources),
            visual=visual,
            tower_vectors=joined([part.seen.means for part in parts]),
            frame_vectors=None if vectors is None else joined([vectors]),
            vision_s=self._seconds - self._relevance_s,
            relevance_s=self._relevance_s,
            probe_attention=joined([seen for _, seen in looks]) if looks else None,
            tower_keys=joined(keys) if keys else None,
            copied=len(sources) - encoded,
        )

    def _vectors(self, means: list[Tensor]) -> Tensor | None:
        """The relevance encoder's vectors of all frames that were encoded; None without one."""
        relevance, started = self._loaded.relevance, time.perf_counter()
        if relevance is None or not means:
            return None
        vectors = relevance.vectors(torch.cat(means)).cpu()
        self._relevance_s += time.perf_counter() - started
        return vectors

    def _is_new(self, picture: Picture) -> bool:
        if self._reuse is None or self._last is None or self._last.shape != picture.shape:
            return True
        return largest_change(self._last, picture, self._cells) > self._reuse

    @torch.inference_mode()
    def _encode(self) -> None:
        """One pass over the frames that wait."""
        loaded, relevance = self._loaded, self._loaded.relevance
        inner: Any = loaded.model.model
        features = loaded.preprocess(np.stack(self._waiting))
        self._waiting.clear()
        seen: list[tuple[Tensor, Tensor | None]] = []
        watch = TowerWatch(inner, with_keys=self._with_keys, seen=lambda *one: seen.append(one))
        with loaded.turn, watch:
            output = inner.get_video_features(features[None].to(loaded.device), return_dict=True)
        ((hidden, keys),) = seen
        encoded = output.pooler_output[0]
        if relevance is not None and self._with_relevance:
            synchronize(loaded.device)
        pooling = time.perf_counter()
        look = look_at(inner, hidden, keys, relevance if self._with_relevance else None)
        if look.look is not None:
            self._relevance_s += time.perf_counter() - pooling
        self._passes.append(
            _Pass(encoded[:-1].unflatten(0, (len(features), -1)), encoded[-1:], look)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the pruning wants to know of the frames of one pass of the tower.

    `means` is (n, Dv) float32; `look` what the pooling head of the relevance encoder saw of each
    frame, and where it looked; `keys` those of the tower's last layer. The latter two are pooled as
    tokens are.
    """

    means: Tensor
    look: tuple[Tensor, Tensor] | None
    keys: Tensor | None


def look_at(
    inner: Any, hidden: Tensor, keys: Tensor | None, relevance: RelevanceEncoder | None
) -> Look:
    """Make it of what left the tower, (n, patches, Dv), and of its mean keys where wanted."""
    look = None
    if relevance is not None:
        means, attention = relevance.look(hidden)
        look = means, inner.apply_pooling(attention[..., None])[..., 0].cpu()
    pooled = None if keys is None else inner.apply_pooling(keys).cpu()
    return Look(hidden.float().mean(1).cpu(), look, pooled)


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """(n, P, D) tokens of one pass of the tower, the newline, and what goes with them."""

    tokens: Tensor
    newline: Tensor
    seen: Look


class StreamingEncoder:
    """Encodes a clip's frames while a reader still decodes: its `on_frames`.

    `begin` checks whether a clip of so many frames can be encoded, and gives its encoder; `seconds`
    is what encoding took of the reader's time.
    """

    def __init__(self, begin: Callable[[int], ClipEncoder]) -> None:
        self._begin = begin
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._encoder: ClipEncoder | None = None
        self._taken = 0
        self._failed = False
        self.seconds = 0.0

    def __call__(self, pixels: npt.NDArray[np.uint8], done: int) -> None:
        """Take the frames that have become ready. See `FrameReader.read`."""
        started = time.perf_counter()
        if pixels is not self._pixels:  # the reader began anew
            self._pixels, self._encoder, self._taken, self._failed = pixels, None, 0, False
        if not self._failed:
            try:
                self._encoder = self._encoder or self._begin(len(pixels))
                self._encoder.add(pixels[self._taken : done])
                self._taken = done
            except AdatpError:
                # Told when the clip is known, by trying once more.
                self._encoder, self._failed = None, True
        self.seconds += time.perf_counter() - started

    def settle(self, pixels: npt.NDArray[np.uint8]) -> tuple[ClipEncoder, npt.NDArray[np.uint8]]:
        """The encoder of these frames, all that the clip has, and those that it has not got yet."""
        if pixels is not self._pixels or self._encoder is None:
            self._encoder, self._taken = self._begin(len(pixels)), 0
        return self._encoder, pixels[self._taken :]


def synchronize(device: str) -> None:
    """Wait for queued work, so that a clock read next is right; nothing to wait for on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()


class TowerWatch:
    """Sees what leaves the tower, before any post-layernorm, and if asked its last layer's keys.

    Everything that the pruning wants to know of a frame is made of it, so the tower runs once.
    `seen` is called in each pass with the (n, patches, Dv) states and, `with_keys`, the keys
    (n, patches, dh) float32, mean over heads.
    """

    def __init__(
        self, inner: Any, *, with_keys: bool, seen: Callable[[Tensor, Tensor | None], None]
    ) -> None:
        self._projector: nn.Module = inner.multi_modal_projector
        self._heads = int(inner.config.vision_config.num_attention_heads)
        self._last: nn.Module | None = _last_keys(inner.vision_tower) if with_keys else None
        self._seen = seen
        self._keys = threading.local()

    def __enter__(self) -> TowerWatch:
        self._handles = [self._projector.register_forward_pre_hook(self._see)]
        if self._last is not None:
            self._handles.append(self._last.register_forward_hook(self._see_keys))
        return self

    def _see(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        keys = None
        if self._last is not None:
            given: Tensor = self._keys.given
            keys = given.view(*given.shape[:-1], self._heads, -1).float().mean(-2)
        self._seen(args[0], keys)

    def _see_keys(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        self._keys.given = output

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _last_keys(tower: nn.Module) -> nn.Module:
    """The key projection of the last layer; features are taken from there (`model_shape`)."""
    named: list[nn.Module] = [
        part for name, part in tower.named_modules() if name.endswith("self_attn.k_proj")
    ]
    if not named:
        raise ModelError(
            "the vision tower of this checkpoint has no key projections",
            "use a published LLaVA-OneVision checkpoint",
        )
    return named[-1]


Picture = npt.NDArray[np.uint8]


def largest_change(before: Picture, after: Picture, cells: int) -> float:
    """How much the most changed part of a frame changed, 0 to 1 of the range of a pixel.

    The frame is cut into cells x cells parts, of which each counts by the mean absolute difference
    of its pixels: a small thing that moves shows as much in its own parts as a large one.
    """
    change = np.abs(before.astype(np.int16) - after).sum(-1, dtype=np.int32)
    for axis in (0, 1):
        edges = _edges(change.shape[axis], cells)
        change = np.add.reduceat(change, edges[:-1], axis)
    rows, cols = (np.diff(_edges(side, cells)) for side in before.shape[:2])
    mean = change / (3 * 255 * np.outer(rows, cols))
    return float(mean.max())


def _edges(side: int, cells: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, side, min(cells, side) + 1).astype(np.int64)
