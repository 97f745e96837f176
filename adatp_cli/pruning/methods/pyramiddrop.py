"""PyramidDrop (arXiv 2410.17247): three drops, each by the attention of the layer that follows.

After the released code (Cooperx521/PyramidDrop, 6444f30), which is for images; video was never
released. Before a stage's layer, that layer's own norm, projections and rotary embedding give the
attention of the last prompt token. Keys and that one query are projected, where the release
projects everything. Stages follow the model's depth as in the release (N/4, N/2, 3N/4); lambda,
published as 0.5, follows from the budget, so that methods compare at equal cost (our choice).
"""

from __future__ import annotations

from typing import Literal

from adatp_cli.pruning.budget import pruned_layers
from adatp_cli.pruning.families import LayerDrops
from adatp_cli.pruning.method import ScoreRequest


class PyramidDrop(LayerDrops):
    """Keep lambda, lambda^2 and lambda^3 of the visual tokens, at three layers.

    Positions are compact after every stage, as released.
    """

    request = ScoreRequest(own_layer=True)

    def drops(self, layers: int) -> tuple[int, ...]:
        return stage_layers(layers, self.profile.pyramiddrop.stages)


def stage_layers(layers: int, stages: Literal["quarters", "early"]) -> tuple[int, ...]:
    """The layers before which tokens are dropped, rising; fewer than three in a model of few."""
    if stages == "quarters":
        wanted = [layers // 4, layers // 2, 3 * layers // 4]
    else:
        first, last = pruned_layers(layers, "auto", "auto")
        wanted = [first, (first + last) // 2, last]
    return tuple(sorted({max(1, layer) for layer in wanted}))
