"""Position ids of what is left in the sequence, layer by layer, in the prefill and after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adatp_cli.pruning.knobs import Positions


class SequencePositions:
    """Replaces a layer's position arguments where its sequence is not 0, 1, 2, ... any more.

    The model counts positions from the length of layer 0's cache. With `original` positions that
    is wrong once tokens went before layer 0; with `compact` ones it is wrong in the layers behind a
    drop.

    Parameters
    ----------
    mode
        `original` or `compact`.
    ids
        (n,) int64: positions in the unpruned sequence of the tokens that enter layer 0.
    rotary
        The model's rotary embedding: called with (hidden, position ids), gives (cos, sin).
    """

    def __init__(self, mode: Positions, ids: Tensor, rotary: nn.Module) -> None:
        self._mode = mode
        self._entered = len(ids)
        self._rotary = rotary
        counted = torch.arange(len(ids))
        self._ids = ids if mode == "original" else counted
        self._as_counted = torch.equal(self._ids, counted)
        self._table: tuple[Tensor, Tensor] | None = None
        self._shift: dict[int, int] = {}
        self._step: dict[int, dict[str, Any]] = {}
        self._latest = 0

    def cut(self, places: Tensor) -> None:
        """Let only these places of the sequence, ascending, go on."""
        compact = self._mode == "compact"
        self._ids = torch.arange(len(places)) if compact else self._ids[places]
        self._as_counted = False

    def in_prefill(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments to replace when the current sequence enters layer `index`."""
        self._shift[index] = int(self._ids[-1]) + 1 - self._entered
        if self._as_counted:
            return {}
        cos, sin = self._source(hidden, kwargs)
        there = self._ids.to(cos.device)
        ids = self._ids[None]
        if kwargs.get("position_ids") is not None:
            ids = ids.to(kwargs["position_ids"].device)
        return {
            "position_embeddings": (cos.index_select(1, there), sin.index_select(1, there)),
            "position_ids": ids,
        }

    def in_decoding(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments to replace when the next token enters layer `index`."""
        shift = self._shift.get(index, 0)
        if shift == 0:
            return {}
        if index <= self._latest:  # a new token
            self._step.clear()
        self._latest = index
        if shift not in self._step:
            ids = kwargs["position_ids"] + shift
            embeddings = self._rotary(hidden, ids)
            self._step[shift] = {"position_ids": ids, "position_embeddings": embeddings}
        return self._step[shift]

    def _source(self, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """(1, n, head_dim) each: a table with a row for every position id in use."""
        if self._mode == "compact" or self._fits:
            given: tuple[Tensor, Tensor] = kwargs["position_embeddings"]
            return given
        if self._table is None:
            every = torch.arange(int(self._ids[-1]) + 1, device=hidden.device)
            self._table = self._rotary(hidden, every[None])
        return self._table

    @property
    def _fits(self) -> bool:
        return int(self._ids[-1]) < self._entered
