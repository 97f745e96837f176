"""Where the last prompt token looks, layer by layer, seen from outside an unchanged model."""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from adatp_cli.pruning.attention_rows import project_query
from adatp_cli.pruning.report import PruningError
from adatp_cli.pruning.selection import attention_rows


class AttentionWatch:
    """Context manager that computes one row of attention in every layer of the prefill inside it.

    The row is the last prompt token's, in float32, from what entered the layer's attention and the
    keys in its cache: no attention matrix is built and fused attention stays on. Hooks are removed
    on leaving, whatever happened. It sees pruned prefills as they are.

    Parameters
    ----------
    language_model
        The decoder stack with `layers`, such as ``model.model.language_model``.
    """

    def __init__(self, language_model: nn.Module) -> None:
        layers: Any = language_model.layers
        self._parts: list[nn.Module] = [layer.self_attn for layer in layers]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._rows: dict[int, Tensor] = {}

    def __enter__(self) -> AttentionWatch:
        self._rows = {}
        for index, part in enumerate(self._parts):
            hook = partial(self._see, index)
            self._handles.append(part.register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    @property
    def rows(self) -> list[Tensor]:
        """For each layer (n,) float32 on the CPU: attention to all n tokens that entered it.

        Mean over heads; sums to 1, text included.

        Raises
        ------
        PruningError
            No prefill ran inside.
        """
        if len(self._rows) != len(self._parts):
            raise PruningError("no prefill was seen")
        return [self._rows[index] for index in range(len(self._parts))]

    def _see(
        self, index: int, part: Any, _args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any
    ) -> None:
        hidden: Tensor = kwargs["hidden_states"]
        if hidden.shape[1] == 1:  # decoding
            return
        cos, sin = kwargs["position_embeddings"]
        keys = kwargs["past_key_values"].layers[index].keys[0]
        query = project_query(part, hidden[:, -1:], (cos[0, -1:], sin[0, -1:]))
        seen = torch.tensor([keys.shape[1]])
        row = attention_rows(query.to(keys.device), keys, seen, part.scaling)[0].cpu()
        if not bool(torch.isfinite(row).all()):
            raise PruningError(
                f"the attention of layer {index} is not a finite number",
                "load the model with --dtype bfloat16 or float32",
            )
        self._rows[index] = row
