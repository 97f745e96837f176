"""Pruning inside an unchanged language model: hooks before its decoder layers slice the hidden
states where a method drops tokens, and put right the positions of those that stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adatp_cli.errors import PruningError
from adatp_cli.pruning.attention_rows import QueryRows, project_keys
from adatp_cli.pruning.knobs import Positions
from adatp_cli.pruning.method import LayerStep, PruningPlan, VisualEntry, VisualLayout

_NO_SCORES = torch.zeros(0)


@dataclass(frozen=True, slots=True)
class PruneStep:
    """One place where tokens went, as it happened.

    Parameters
    ----------
    layer
        The layer that the survivors entered; 0 for what was done before the language model.
    alive_before, kept
        Ascending int64 indices of original visual tokens, before and after.
    score
        (len(alive_before),) float32; empty where the method looked at no attention.
    rows, keys
        Attention rows that were computed for it, and tokens whose keys were projected for it alone.
    """

    layer: int
    alive_before: Tensor
    kept: Tensor
    score: Tensor
    rows: int
    keys: int = 0


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prefill really did.

    Parameters
    ----------
    visual_per_layer
        Visual tokens that entered each layer, from the lengths of the layers' caches.
    text_tokens
        All other prompt tokens, the newline among them.
    steps
        One per place where tokens could go, in order.
    macs
        Multiply-accumulates that a method spent before the language model.
    """

    visual_per_layer: tuple[int, ...]
    text_tokens: int
    steps: tuple[PruneStep, ...]
    macs: int = 0

    @property
    def score_rows(self) -> Mapping[int, int]:
        """Pruning layer -> computed rows, as `cost.scoring_cost` takes it."""
        return {step.layer: step.rows for step in self.steps if step.rows}

    @property
    def score_keys(self) -> Mapping[int, int]:
        """Pruning layer -> keys projected for its rows, as `cost.scoring_cost` takes it."""
        return {step.layer: step.keys for step in self.steps if step.keys}


class PrunedPrefill:
    """Context manager that prunes the one prefill which runs inside it.

    `language_model` is the decoder stack with `layers`, such as ``model.model.language_model``;
    `layout` is that of the unpruned sequence. Where the plan has an `entry`, the sequence given to
    the model holds that in the place of the clip's visual tokens. Hooks are removed on leaving,
    whatever happened; until then they see to the positions of decoded tokens too. A plan that
    prunes nowhere adds no hook to any layer.

    Raises
    ------
    PruningError
        For an entry that breaks the rules. From inside the forward pass: batch above 1, an
        attention mask, a prefill in pieces or without a cache, a second prefill, or a choice that
        breaks the rules.
    """

    def __init__(self, language_model: nn.Module, plan: PruningPlan, layout: VisualLayout) -> None:
        self._model: Any = language_model
        layers: Any = language_model.layers
        self._layers: list[nn.Module] = list(layers)
        self._plan = plan
        self._layout = layout
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._owners = torch.arange(layout.visual)
        self._saved: QueryRows | None = None
        self._positions: SequencePositions | None = None
        self._steps: list[PruneStep] = []
        self._report: PruneReport | None = None
        self._choosing = Stopwatch()
        if plan.entry is not None:
            _check_entry(plan.entry, layout, plan.keep_counts.get(0, 0))
            self._owners = plan.entry.owners
            kept = self._owners[~plan.entry.breaks]
            self._steps.append(PruneStep(0, torch.arange(layout.visual), kept, _NO_SCORES, 0))
        self._entered = len(self._owners)
        self._alive = torch.arange(self._entered)
        lowest = 1 if plan.entry is None else 0
        wrong = [layer for layer in plan.keep_counts if not lowest <= layer < len(self._layers)]
        if wrong:
            raise PruningError(
                f"pruning at layer {wrong[0]} is impossible in a model with layers 0 to "
                f"{len(self._layers) - 1}; layer 0 must see every token that enters"
            )

    def __enter__(self) -> PrunedPrefill:
        self._handles.append(self._model.register_forward_hook(self._after_model, with_kwargs=True))
        if self._plan.keep_counts:
            first = max(min(self._plan.keep_counts) - 1, 0)
            watched = sorted({0, *range(first, len(self._layers))})
            for index in watched:
                hook = partial(self._before_layer, index)
                self._handles.append(
                    self._layers[index].register_forward_pre_hook(hook, with_kwargs=True)
                )
        return self

    def __exit__(self, *_error: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._saved = None

    @property
    def report(self) -> PruneReport:
        """The report of the prefill; a PruningError before there was one."""
        if self._report is None:
            raise PruningError("no prefill has finished under this pruning context")
        return self._report

    @property
    def selection_s(self) -> float:
        """Seconds that score rows, choices and the cutting down of what goes on have taken."""
        return self._choosing.seconds

    @property
    def _sequence(self) -> SequencePositions:
        if self._positions is None:
            raise PruningError("a decoder layer ran without layer 0")
        return self._positions

    def _before_layer(
        self, index: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] == 1:
            if self._positions is None:
                return None
            moved = self._positions.in_decoding(index, hidden, kwargs)
            return (args, kwargs | moved) if moved else None
        if index == 0:
            self._begin(hidden, kwargs)
        if kwargs.get("attention_mask") is not None or len(args) > 1:
            raise PruningError(
                f"decoder layer {index} got an attention mask, which pruning cannot cut to size",
                "use sdpa or flash attention (never eager) and a prompt without padding",
            )
        positions = self._sequence
        given = hidden
        with self._choosing.running(hidden.device):
            if index > 0 and index in self._plan.keep_counts:
                hidden = self._prune(index, hidden, kwargs)
            moved = positions.in_prefill(index, hidden, kwargs)
            kwargs = kwargs | moved
            self._save_rows(index + 1, hidden, kwargs)
        if hidden is given and not moved:
            return None
        if args:
            return (hidden, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden}

    def _after_model(
        self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self._report is not None:
            return
        cache = getattr(output, "past_key_values", None)
        cache = _cache_of(kwargs) if cache is None else cache
        lengths = [int(cache.get_seq_length(index)) for index in range(len(self._layers))]
        text = lengths[0] - self._entered
        visual = tuple(length - text for length in lengths)
        kept = {step.layer: len(step.kept) for step in self._steps if step.layer > 0}
        expected = self._entered
        for index, count in enumerate(visual):
            expected = kept.get(index, expected)
            if count != expected:
                raise PruningError(
                    f"the cache of layer {index} holds {count} visual tokens instead of {expected}"
                )
        macs = self._plan.entry.macs if self._plan.entry else 0
        self._report = PruneReport(visual, text, tuple(self._steps), macs)

    def _begin(self, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        if self._positions is not None:
            raise PruningError("a pruning context serves one prefill, and this is the second")
        if hidden.shape[0] != 1:
            raise PruningError(f"pruning works on one prompt at a time, not on {hidden.shape[0]}")
        if _cache_of(kwargs).get_seq_length() != 0:
            raise PruningError("the prompt was prefilled in pieces, which pruning cannot follow")
        # The newline and at least one token of text must follow the video.
        start, length = self._layout.start, hidden.shape[1]
        shortest = start + self._entered + 2
        if length < shortest:
            raise PruningError(
                f"a prompt of {length} tokens cannot hold this video and a question: "
                f"they take at least {shortest}"
            )
        ids = self._layout.places(self._owners, length - self._entered + self._layout.visual)
        self._positions = SequencePositions(self._plan.positions, ids, self._model.rotary_emb)

    def _prune(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Let the plan choose, check its choice, and cut `hidden` (1, n, D) down to it."""
        step, rows, keys = self._step(index, hidden, kwargs)
        kept = self._plan.choose(step)
        _check_choice(kept, step)
        owners = self._owners
        self._steps.append(
            PruneStep(index, owners[step.alive], owners[kept], step.scores, rows, keys)
        )
        if len(kept) == len(step.alive):
            return hidden
        chosen = torch.searchsorted(step.alive, kept)
        places = self._layout.places(chosen, hidden.shape[1], len(step.alive))
        self._alive = kept
        self._sequence.cut(places)
        return hidden.index_select(1, places.to(hidden.device))

    def _step(
        self, index: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[LayerStep, int, int]:
        """What the plan is shown before layer `index`; rows and keys computed for it."""
        request = self._plan.request(index)
        keep, alive = self._plan.keep_counts[index], self._alive
        start, newline = self._layout.start, self._layout.start + len(alive)
        if not request.last:
            return LayerStep(index, keep, alive, self._owners[alive], _NO_SCORES), 0, 0
        source, projected = index - 1, 0
        if request.own_layer:
            kwargs = kwargs | self._sequence.in_prefill(index, hidden, kwargs)
            rotary = kwargs["position_embeddings"]
            rows: QueryRows | None = QueryRows.of(
                request, hidden, rotary, newline, self._layout.question_start
            )
            keys = project_keys(self._layers[index], hidden, rotary)
            source, projected = index, hidden.shape[1]
        else:
            rows, self._saved = self._saved, None
            keys = _cache_of(kwargs).layers[source].keys[0]
        if rows is None:
            raise PruningError(f"the inputs of layer {source} were not seen")
        table = rows.attention(self._layers[source], keys, str(source))[:, start:newline]
        question = baseline = None
        if rows.context:
            baseline, question = table[rows.last], table[rows.last + 1 :].mean(0)
        scores = table[: rows.last].mean(0)
        step = LayerStep(index, keep, alive, self._owners[alive], scores, question, baseline)
        return step, len(rows), projected

    def _save_rows(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Keep what the scores before layer `index` are made of, if of the layer before it."""
        if index not in self._plan.keep_counts:
            return
        request = self._plan.request(index)
        if request.last and not request.own_layer:
            newline = self._layout.start + len(self._alive)
            self._saved = QueryRows.of(
                request,
                hidden,
                kwargs["position_embeddings"],
                newline,
                self._layout.question_start,
            )


def _cache_of(kwargs: dict[str, Any]) -> Any:
    cache = kwargs.get("past_key_values")
    if cache is None:
        raise PruningError("the model was called without a key/value cache, which pruning needs")
    return cache


def _check_choice(kept: Tensor, step: LayerStep) -> None:
    """The rules that hold for every method."""
    problem = ""
    if kept.dtype != torch.int64 or kept.ndim != 1:
        problem = "did not return a list of indices"
    elif not 1 <= len(kept) <= step.keep:
        problem = f"kept {len(kept)} tokens where 1 to {step.keep} are allowed"
    elif bool((kept[1:] <= kept[:-1]).any()):
        problem = "returned indices that do not rise"
    elif not bool(torch.isin(kept, step.alive).all()):
        problem = "kept a token that was already dropped"
    if problem:
        raise PruningError(f"the pruning method {problem} at layer {step.layer}")


def _check_entry(entry: VisualEntry, layout: VisualLayout, most: int) -> None:
    """The rules that hold for everything that is done before the language model."""
    count, problem = len(entry.owners), ""
    owners = entry.owners[~entry.breaks]
    if not count == len(entry.embeddings) == len(entry.breaks):
        problem = "gave tokens, owners and breaks that differ in number"
    elif not 1 <= len(owners) <= count <= most:
        problem = f"kept {count} tokens where 1 to {most} are allowed"
    elif not bool(((owners >= 0) & (owners < layout.visual)).all()):
        problem = "gave a token to an owner that is not in the clip"
    elif bool((owners[1:] <= owners[:-1]).any()) or bool(entry.owners.diff().lt(0).any()):
        problem = "returned tokens out of order"
    if problem:
        raise PruningError(f"the pruning method {problem} before layer 0")


class SequencePositions:
    """Replaces a layer's position arguments where its sequence is not 0, 1, 2, ... any more.

    The model counts positions from the length of layer 0's cache. With `original` positions that
    is wrong once tokens went before layer 0; with `compact` ones it is wrong in the layers behind a
    drop.
    """

    def __init__(self, mode: Positions, ids: Tensor, rotary: nn.Module) -> None:
        self._mode = mode
        self._entered = len(ids)  # ids: (n,) positions in the unpruned sequence
        self._rotary = rotary  # from (hidden, position ids) to (cos, sin)
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
        highest = int(self._ids[-1])
        if self._mode == "compact" or highest < self._entered:
            given: tuple[Tensor, Tensor] = kwargs["position_embeddings"]
            return given
        if self._table is None:
            every = torch.arange(highest + 1, device=hidden.device)
            self._table = self._rotary(hidden, every[None])
        return self._table


class Stopwatch:
    """Adds up the seconds of several blocks.

    On CUDA work is queued, so events are put into the queue around each block: between two of them
    lie the block's own work and the time that the device waited for it. Elsewhere the CPU's clock
    is read.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count a block whose tensors are on `device`."""
        if device.type == "cuda":
            event: Any = torch.cuda.Event  # its constructor is not annotated
            first, last = event(enable_timing=True), event(enable_timing=True)
            stream = torch.cuda.current_stream(device)
            first.record(stream)
            yield
            last.record(stream)
            self._pairs.append((first, last))
            return
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """So far; waits for the device to reach the end of the last block."""
        for first, last in self._pairs:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1000
        self._pairs.clear()
        return self._seconds
