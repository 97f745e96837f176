"""A control: FastV's schedule with tokens drawn at random.

What a method gains over this one at the same cost is what its choice is worth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adatp_cli.pruning.families import SingleLayer
from adatp_cli.pruning.knobs import RandomProfile
from adatp_cli.pruning.method import LayerStep, ModelContext, ScoreRequest, VisualLayout


class RandomTokens(SingleLayer):
    """Before layer K, keep tokens drawn without replacement.

    The same seed draws the same tokens of every clip of a size, on every machine; one that is left
    to the run counts as 0.
    """

    request = ScoreRequest(last=0)

    @classmethod
    def resolve(cls, profile: RandomProfile, context: ModelContext) -> Any:
        knobs = profile.random
        seed = context.seed if knobs.seed == "auto" else knobs.seed
        return super().resolve(profile.replace(random=knobs.replace(seed=seed)), context)

    def choose(self, step: LayerStep, layout: VisualLayout) -> Tensor:  # noqa: ARG002
        seed = self.profile.random.seed
        generator = torch.Generator().manual_seed(0 if seed == "auto" else seed)
        drawn = torch.randperm(len(step.alive), generator=generator)[: step.keep]
        return step.alive[drawn.sort().values]
