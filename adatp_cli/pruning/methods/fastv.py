"""FastV: "An Image is Worth 1/2 Tokens After Layer 2" (arXiv 2403.06764).

After the released code (pkunlp-icler/FastV, d165972) where paper and code differ: the score is the
attention of the last prompt token at layer K-1, not the attention received from all tokens. The
newline counts as text. Ties go to the earlier token (our choice).
"""

from __future__ import annotations

from adatp_cli.pruning.families import SingleLayer


class FastV(SingleLayer):
    """Before layer K, keep the visual tokens that the last prompt token attends to most."""
