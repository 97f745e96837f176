"""VidCom2: Video Compression Commander (arXiv 2505.14454), before the language model.

Tokens that differ from their frame and from the clip stay, and frames that differ from the clip
keep more. After the released code (xuyang-liu16/VidCom2, 944a17d) and, for an exact count, its
rewrite in vLLM (pull request 47750). Everything is computed in float32: frame budgets follow from
differences that bfloat16 cannot hold.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp_cli.pruning.families import InputCompression, needed
from adatp_cli.pruning.method import ClipSignals, VisualEntry, VisualLayout

_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)
_TEMPERATURE = 0.01
_BISECTIONS = 40


class VidCom2(InputCompression):
    """Select the most unusual tokens."""

    def fewest(self, frames: int) -> int:
        return frames

    def compress(
        self, layout: VisualLayout, signals: ClipSignals, count: int
    ) -> tuple[VisualEntry, None]:
        tokens = needed(signals.tokens, "visual tokens")
        likeness, of_clip = commonness(tokens.view(layout.frames, layout.per_frame, -1))
        if self.profile.vidcom2.count == "exact":
            kept = select_exactly(likeness, of_clip, count)
        else:
            kept = select_as_released(likeness, of_clip, count)
        owners = kept.flatten().nonzero().flatten()
        breaks = torch.zeros(len(owners), dtype=torch.bool)
        return VisualEntry(tokens[owners.to(tokens.device)], owners, breaks), None


def commonness(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """How alike each token of (T, P, D) is to its surroundings, by Gaussian kernels of five widths.

    The half of the channels that varies least over the clip is compared, each token normalised.
    Gives (T, P) float32 twice: likeness to frame and clip together, and to the clip.
    """
    values = tokens.float()
    variance = values.flatten(0, 1).var(0, unbiased=False)
    steady = variance.sort(stable=True).indices[: max(1, len(variance) // 2)]
    unit = F.normalize(values[..., steady], dim=-1)
    of_clip = _kernel(unit, unit.mean((0, 1)))
    of_frame = _kernel(unit, unit.mean(1, keepdim=True))
    return (of_clip + of_frame).cpu(), of_clip.cpu()


def _kernel(points: Tensor, centre: Tensor) -> Tensor:
    squared = (points - centre).square().sum(-1)
    return torch.stack([(-squared / (2 * width)).exp() for width in _WIDTHS]).sum(0)


def frame_budgets(of_clip: Tensor, ratio: float) -> Tensor:
    """(T,) int64: tokens of each frame, from 1 to P; more where a frame is unlike the clip.

    A frame keeps between r (1 - 1/T) and about 2 r of its tokens, r being the `ratio`.
    """
    frames, per_frame = of_clip.shape
    share = (-of_clip.double().mean(1) / _TEMPERATURE).softmax(0)
    scale = (ratio * (1 + share - 1 / frames)).clamp(max=1.0)
    return (scale * per_frame).round().long().clamp(1, per_frame)


def select_exactly(likeness: Tensor, of_clip: Tensor, count: int) -> Tensor:
    """(T, P) bool with `count` true: the frame budgets' choice, repaired over the whole clip.

    With too many, the kept tokens of largest likeness go; with too few, the others of smallest
    likeness come back. Ties go to the earlier token.
    """
    kept = _least_alike(likeness, frame_budgets(of_clip, count / likeness.numel()))
    surplus = int(kept.sum()) - count
    flat, wanted = likeness.flatten(), kept.flatten()
    if surplus > 0:
        order = flat.masked_fill(~wanted, float("-inf")).sort(descending=True, stable=True)
        wanted[order.indices[:surplus]] = False
    elif surplus < 0:
        order = flat.masked_fill(wanted, float("inf")).sort(stable=True)
        wanted[order.indices[:-surplus]] = True
    return wanted.view_as(kept)


def select_as_released(likeness: Tensor, of_clip: Tensor, count: int) -> Tensor:
    """(T, P) bool with at most `count` true: the frame budgets' choice as it comes.

    The released total misses r T P by rounding, so r is the largest whose total fits.
    """
    low, high = 0.0, 2.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = int(frame_budgets(of_clip, middle).sum()) <= count
        low, high = (middle, high) if fits else (low, middle)
    return _least_alike(likeness, frame_budgets(of_clip, low))


def _least_alike(likeness: Tensor, budgets: Tensor) -> Tensor:
    rank = likeness.sort(dim=1, stable=True).indices.argsort(dim=1)
    return rank < budgets[:, None]
