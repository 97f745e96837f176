"""A control: every n-th token of the clip, before the language model.

The floor under every method: it costs what the budget says and nothing for choosing, and looks at
neither clip nor question.
"""

from __future__ import annotations

import torch

from adatp_cli.pruning.families import InputCompression, needed
from adatp_cli.pruning.method import ClipSignals, VisualEntry, VisualLayout
from adatp_cli.pruning.methods.uniform import spread_tokens


class Grid(InputCompression):
    """Let in the first tokens of an order that is even in time and space, and no others."""

    def compress(
        self, layout: VisualLayout, signals: ClipSignals, count: int
    ) -> tuple[VisualEntry, None]:
        tokens = needed(signals.tokens, "visual tokens")
        order = spread_tokens(layout.frames, layout.rows, layout.cols)
        owners = order.roll(-self.profile.grid.offset)[:count].sort().values
        breaks = torch.zeros(count, dtype=torch.bool)
        return VisualEntry(tokens[owners.to(tokens.device)], owners, breaks), None
