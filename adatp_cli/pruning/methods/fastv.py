"""FastV: "An Image is Worth 1/2 Tokens After Layer 2" (arXiv 2403.06764).

After the released code (pkunlp-icler/FastV, d165972) where paper and code differ: the score is the
attention of the last prompt token at layer K-1, not the attention received from all tokens. The
newline counts as text. Ties go to the earlier token (our choice).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from adatp_cli.profiles import Profile
from adatp_cli.pruning.budget import drop_layer
from adatp_cli.pruning.method import LayerStep, ModelContext, VisualLayout
from adatp_cli.pruning.selection import best
from adatp_cli.pruning.single_layer import DropOnce


@dataclass(frozen=True, slots=True)
class FastV(DropOnce):
    """Before layer K, keep the visual tokens that the last prompt token attends to most."""

    @property
    def name(self) -> str:
        return "fastv"

    @property
    def rows(self) -> int:
        return 1

    def choose(self, step: LayerStep, layout: VisualLayout) -> Tensor:
        del layout  # where a token stands does not matter
        return step.alive[best(step.scores, step.keep)]


def build(profile: Profile) -> FastV:
    """The method with a profile's knobs."""
    return FastV(profile.share, profile.fastv.layer, profile.positions_or("original"))


def resolve(profile: Profile, known: ModelContext) -> Profile:
    """The profile with every `auto` replaced."""
    layer = drop_layer(known.layers, profile.fastv.layer, "fastv.layer")
    return dataclasses.replace(
        profile,
        fastv=dataclasses.replace(profile.fastv, layer=layer),
        positions=profile.positions_or("original"),
    )
