"""FastV: "An Image is Worth 1/2 Tokens After Layer 2" (arXiv 2403.06764).

After the released code (pkunlp-icler/FastV, d165972) where paper and code differ: the score is the
attention of the last prompt token at layer K-1, not the attention received from all tokens. The
newline counts as text. Ties go to the earlier token (our choice).
"""

from __future__ import annotations

from torch import Tensor

from adatp_cli.pruning.method import LayerStep, VisualLayout
from adatp_cli.pruning.selection import largest
from adatp_cli.pruning.single_layer import DropOnce


class FastV(DropOnce):
    """Before layer K, keep the visual tokens that the last prompt token attends to most."""

    rows = 1

    def choose(self, step: LayerStep, layout: VisualLayout) -> Tensor:
        del layout  # where a token stands does not matter
        return step.alive[largest(step.scores, step.keep)]
