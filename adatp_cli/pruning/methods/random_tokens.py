"""A control: FastV's schedule with tokens drawn at random.

What a method gains over this one at the same cost is what its choice is worth.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from adatp_cli.profiles import Profile
from adatp_cli.pruning.budget import drop_layer
from adatp_cli.pruning.method import LayerStep, ModelContext, VisualLayout
from adatp_cli.pruning.single_layer import DropOnce


@dataclass(frozen=True, slots=True)
class RandomTokens(DropOnce):
    """Before layer K, keep tokens drawn without replacement.

    Parameters
    ----------
    seed
        The same seed draws the same tokens of every clip of a size, on every machine.
    """

    seed: int = 0

    @property
    def name(self) -> str:
        return "random"

    def choose(self, step: LayerStep, layout: VisualLayout) -> Tensor:
        del layout  # where a token stands does not matter
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(len(step.alive), generator=generator)[: step.keep]
        return step.alive[drawn.sort().values]


def build(profile: Profile) -> RandomTokens:
    """The method with a profile's knobs; a seed that is left to the run counts as 0."""
    knobs = profile.random
    seed = 0 if knobs.seed == "auto" else knobs.seed
    return RandomTokens(profile.share, knobs.layer, profile.positions_or("original"), seed)


def resolve(profile: Profile, known: ModelContext) -> Profile:
    """The profile with every `auto` replaced."""
    knobs = profile.random
    layer = drop_layer(known.layers, knobs.layer, "random.layer")
    seed = known.seed if knobs.seed == "auto" else knobs.seed
    return dataclasses.replace(
        profile,
        random=dataclasses.replace(knobs, layer=layer, seed=seed),
        positions=profile.positions_or("original"),
    )
