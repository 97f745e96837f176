"""FastVID (arXiv 2503.11187): segments, salient tokens, and merging by density.

After the released code for LLaVA-OneVision (LunarShen/FastVID, a40a109). Where it fails we choose:
fewer than eight frames have at most as many segments as frames, a pool smaller than the context
tokens asked for gives what it has, and ties in density go to the earlier token instead of by noise.
With one merged token a frame and every second frame an anchor, the release takes a segment of odd
length for single frames and loses what lies between; here its anchors take that in, as elsewhere.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp_cli.pruning.families import InputCompression, needed
from adatp_cli.pruning.knobs import MergeKnobs
from adatp_cli.pruning.method import ClipSignals, SignalNeeds, VisualEntry, VisualLayout
from adatp_cli.pruning.segments import SegmentTable, largest, neighbour_similarity


class FastVID(InputCompression):
    """Per frame the salient tokens; per segment, at anchor frames, merged ones of the rest."""

    @property
    def needs(self) -> SignalNeeds:
        return SignalNeeds(frame_vectors=True, probe_attention=True)

    def fewest(self, frames: int) -> int:
        return frames

    def planned(self, frames: int, count: int) -> int:
        return count // frames * frames

    def compress(
        self, layout: VisualLayout, signals: ClipSignals, count: int
    ) -> tuple[VisualEntry, SegmentTable]:
        tokens = needed(signals.tokens, "visual tokens")
        vectors = needed(signals.frame_vectors, "pooled frame vectors")
        attention = needed(signals.probe_attention, "the pooling head's attention")
        knobs = self.profile.fastvid
        similarity = neighbour_similarity(vectors)
        bounds = cut(similarity, knobs.segments, knobs.threshold)
        per_frame = count // layout.frames
        context = int(per_frame * knobs.context)
        salient = largest(attention, per_frame - context)
        grid = tokens.view(layout.frames, layout.per_frame, -1)
        merged, owners, macs = merge(grid, salient, bounds, context, knobs)
        first = torch.arange(layout.frames)[:, None] * layout.per_frame
        chosen = (first + salient).flatten()
        owners = torch.cat((chosen, owners))
        order = owners.argsort()
        made = torch.cat((tokens[chosen.to(tokens.device)], merged.to(tokens)))
        breaks = torch.zeros(len(owners), dtype=torch.bool)
        entry = VisualEntry(made[order.to(made.device)], owners[order], breaks, macs)
        return entry, SegmentTable(bounds, similarity)


def cut(similarity: Tensor, segments: int, threshold: float) -> tuple[int, ...]:
    """Frame numbers at which segments begin, and T at the end: dynamic segmentation.

    Cuts are the ``segments - 1`` smallest of the similarities (T-1,), ties to the earlier, and all
    that are below the threshold.
    """
    fewest = similarity.sort(stable=True).indices[: min(segments - 1, len(similarity))]
    cuts = {*fewest.tolist(), *(similarity < threshold).nonzero().flatten().tolist()}
    return (0, *(place + 1 for place in sorted(cuts)), len(similarity) + 1)


def merge(
    tokens: Tensor, salient: Tensor, bounds: tuple[int, ...], context: int, knobs: MergeKnobs
) -> tuple[Tensor, Tensor, int]:
    """Context tokens of (T, P, D): at every anchor frame, centres that take in the segment's rest.

    `salient` are (T, S) positions that are kept unchanged, the others of a frame its pool;
    `context` tokens there are per frame on average. Gives (n, D) float32 merged tokens, (n,) int64
    owners, their centres, and multiply-accumulates.
    """
    per_frame = tokens.shape[1]
    made, owners, macs = [], [], 0
    for begin, end in pairwise(bounds):
        centres = context * (end - begin) // len(anchors_of(end - begin, knobs))
        found = merge_segment(tokens[begin:end], salient[begin:end], centres, knobs)
        made.append(found[0])
        owners.append(found[1] + begin * per_frame)
        macs += found[2]
    return torch.cat(made), torch.cat(owners), macs


def anchors_of(length: int, knobs: MergeKnobs) -> range:
    """The frames of a segment of so many that take merged tokens, the last one first."""
    return range(length - 1, -1, -knobs.anchor_step)


def merge_segment(
    tokens: Tensor, salient: Tensor, centres: int, knobs: MergeKnobs
) -> tuple[Tensor, Tensor, int]:
    """The same for one segment's (L, P, D), with as many centres at each anchor as the pool has.

    Where every frame is an anchor, each takes in its own rest alone.
    """
    length, per_frame, width = tokens.shape
    outside = torch.ones(length, per_frame, dtype=torch.bool).scatter_(1, salient, value=False)
    pool = outside.nonzero()[:, 1].view(length, per_frame - salient.shape[1])
    size = pool.shape[1]
    centres = min(centres, size)
    made, owners, macs = [tokens.new_zeros(0, width, dtype=torch.float32)], [pool.new_zeros(0)], 0
    if centres > 0:
        places = pool.to(tokens.device)[..., None].expand(-1, -1, width)
        rest = tokens.gather(1, places).float()
        unit = F.normalize(rest, dim=-1)
        for anchor in anchors_of(length, knobs):
            best = largest(density_peaks(rest[anchor], knobs.neighbours), centres)
            inside = slice(anchor, anchor + 1) if knobs.anchor_step == 1 else slice(None)
            points = rest[inside].flatten(0, 1)
            nearest = (unit[inside].flatten(0, 1) @ unit[anchor, best].T).argmax(-1)
            made.append(_merged(points, rest[anchor, best], nearest, knobs.merge))
            owners.append(anchor * per_frame + pool[anchor, best.cpu()])
            macs += width * (size * size + len(points) * centres)
    return torch.cat(made), torch.cat(owners), macs


def _merged(points: Tensor, centres: Tensor, nearest: Tensor, own: float) -> Tensor:
    """(m, D): each centre, and the mean of the points (n, D) that are nearest to it.

    The centre's share is `own`, or more where it has few members.
    """
    count = torch.bincount(nearest, minlength=len(centres))[:, None]
    mean = torch.zeros_like(centres).index_add_(0, nearest, points) / count.clamp_min(1)
    share = (1 / (count + 1)).clamp_min(own)
    return share * centres + (1 - share) * mean


def squared_distances(points: Tensor) -> Tensor:
    """(n, n) float32: mean squared difference per channel between rows of (n, D)."""
    points = points.float()
    norms = points.square().sum(-1)
    products = points @ points.T
    squared = (norms[:, None] + norms[None] - 2 * products).clamp_min(0.0)
    squared.fill_diagonal_(0.0)
    return squared / points.shape[-1]


def density_peaks(points: Tensor, neighbours: int) -> Tensor:
    """(n,) float32: how well each point serves as a cluster's centre: dense, far from the denser.

    Density is ``exp(-mean of the k smallest squared distances)``, the point itself among them; the
    score is density times the distance to the nearest denser point, or to the farthest of all pairs
    for the densest. Of equally dense points the earlier counts as denser.
    """
    squared = squared_distances(points)
    count = len(squared)
    if count == 0:
        return squared.new_zeros(0)
    nearest = squared.topk(min(neighbours, count), largest=False).values
    density = (-nearest.mean(-1)).exp()
    distance = squared.sqrt()
    order = torch.arange(count, device=squared.device)
    denser = density[None] > density[:, None]
    denser |= (density[None] == density[:, None]) & (order[None] < order[:, None])
    apart = distance.masked_fill(~denser, float("inf")).min(-1).values
    return density * torch.where(denser.any(-1), apart, distance.max())
