"""Pruning inside an unchanged language model: the only file here that touches one.

Forward pre-hooks on the decoder layers slice the hidden states where a method drops tokens, and
position embeddings at every later layer. Survivors keep their original positions; each layer's
cache is as long as what entered it; `generate` goes on from the unpruned position because layer 0
saw every token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from adatp_cli.errors import AdatpError
from adatp_cli.pruning.method import LayerStep, PruningPlan, ScoreRequest, VisualLayout
from adatp_cli.pruning.scores import attention_rows, rotate


class PruningError(AdatpError):
    """A model call that cannot be pruned, or a method that broke a rule of the base."""

    default_kind = "pruning"


@dataclass(frozen=True, slots=True)
class PruneStep:
    """One pruning layer as it happened.

    Parameters
    ----------
    layer
        The layer that the survivors entered.
    alive_before, kept
        Ascending int64 indices of original visual tokens, before and after.
    score
        (len(alive_before),) float32.
    rows
        Attention rows that were recomputed for it.
    """

    layer: int
    alive_before: Tensor
    kept: Tensor
    score: Tensor
    rows: int


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
        One per pruning layer, in order.
    """

    visual_per_layer: tuple[int, ...]
    text_tokens: int
    steps: tuple[PruneStep, ...]

    @property
    def score_rows(self) -> Mapping[int, int]:
        """Pruning layer -> recomputed rows, as `cost.scoring_cost` takes it."""
        return {step.layer: step.rows for step in self.steps}


@dataclass(frozen=True, slots=True)
class _SavedRows:
    """Inputs of one layer at the rows whose attention will be recomputed from them."""

    hidden: Tensor  # (1, rows, D)
    cos: Tensor  # (rows, head_dim)
    sin: Tensor
    seen: Tensor  # (rows,) keys that each row may see
    last: int
    context: int


class PrunedPrefill:
    """Context manager that prunes the one prefill which runs inside it.

    Hooks are removed on leaving, whatever happened. Decoding steps (one token) pass untouched. A
    plan that prunes nowhere adds no hook to any layer.

    Parameters
    ----------
    language_model
        The decoder stack with `layers`, such as ``model.model.language_model``.
    plan
        What to keep, from `PruningMethod.plan`; serves once.
    layout
        Where the visual tokens stand.

    Raises
    ------
    PruningError
        From inside the forward pass: batch above 1, an attention mask, a prefill in pieces or
        without a cache, a second prefill, or a choice that breaks the rules.
    """

    def __init__(self, language_model: nn.Module, plan: PruningPlan, layout: VisualLayout) -> None:
        self._model = language_model
        self._layers: list[nn.Module] = list(language_model.layers)  # type: ignore[arg-type]
        self._plan = plan
        self._layout = layout
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._alive = torch.arange(layout.visual)
        self._pruned = False
        self._length = 0  # tokens of the unpruned prompt
        self._saved: _SavedRows | None = None
        self._steps: list[PruneStep] = []
        self._report: PruneReport | None = None
        wrong = [layer for layer in plan.keep_counts if not 0 < layer < len(self._layers)]
        if wrong:
            raise PruningError(
                f"pruning at layer {wrong[0]} is impossible in a model with layers 0 to "
                f"{len(self._layers) - 1}; layer 0 must see every token"
            )

    def __enter__(self) -> PrunedPrefill:
        self._handles.append(self._model.register_forward_hook(self._after_model, with_kwargs=True))
        if self._plan.keep_counts:
            first = min(self._plan.keep_counts) - 1
            watched = sorted({0, *range(first, len(self._layers))})
            for index in watched:
                hook = partial(self._before_layer, index)
                self._handles.append(
                    self._layers[index].register_forward_pre_hook(hook, with_kwargs=True)
                )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._saved = None

    @property
    def report(self) -> PruneReport:
        """The report of the prefill; a PruningError before there was one."""
        if self._report is None:
            raise PruningError("no prefill has finished under this pruning context")
        return self._report

    def _before_layer(
        self, index: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] == 1:
            return None
        if index == 0:
            self._begin(hidden, kwargs)
        if kwargs.get("attention_mask") is not None or len(args) > 1:
            raise PruningError(
                f"decoder layer {index} got an attention mask, which pruning cannot cut to size",
                "use sdpa or flash attention (never eager) and a prompt without padding",
            )
        if index in self._plan.keep_counts:
            hidden = self._prune(index, hidden, kwargs)
        if self._pruned:
            kwargs = kwargs | self._sliced_positions(kwargs)
        if index + 1 in self._plan.keep_counts:
            self._save_rows(self._plan.request(index + 1), hidden, kwargs)
        if not self._pruned:
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
        text = lengths[0] - self._layout.visual
        visual = tuple(length - text for length in lengths)
        kept = {step.layer: len(step.kept) for step in self._steps}
        expected = self._layout.visual
        for index, count in enumerate(visual):
            expected = kept.get(index, expected)
            if count != expected:
                raise PruningError(
                    f"the cache of layer {index} holds {count} visual tokens instead of {expected}"
                )
        self._report = PruneReport(visual, text, tuple(self._steps))

    def _begin(self, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        if self._length:
            raise PruningError("a pruning context serves one prefill, and this is the second")
        if hidden.shape[0] != 1:
            raise PruningError(f"pruning works on one prompt at a time, not on {hidden.shape[0]}")
        if _cache_of(kwargs).get_seq_length() != 0:
            raise PruningError("the prompt was prefilled in pieces, which pruning cannot follow")
        # The newline and at least one token of text must follow the video.
        shortest = self._layout.start + self._layout.visual + 2
        if hidden.shape[1] < shortest:
            raise PruningError(
                f"a prompt of {hidden.shape[1]} tokens cannot hold this video and a question: "
                f"they take at least {shortest}"
            )
        self._length = hidden.shape[1]

    def _prune(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Let the plan choose, check its choice, and cut `hidden` (1, n, D) down to it."""
        step, rows = self._step(index, _cache_of(kwargs))
        kept = self._plan.choose(step)
        _check_choice(kept, step)
        self._steps.append(PruneStep(index, step.alive, kept, step.scores, rows))
        if len(kept) == len(step.alive):
            return hidden
        start, alive = self._layout.start, len(step.alive)
        places = torch.cat(
            (
                torch.arange(start),
                start + torch.searchsorted(step.alive, kept),
                torch.arange(start + alive, hidden.shape[1]),
            )
        )
        self._alive = kept
        self._pruned = True
        return hidden.index_select(1, places.to(hidden.device))

    def _step(self, index: int, cache: Any) -> tuple[LayerStep, int]:
        """Score for pruning layer `index`, from layer index-1's cached keys and saved inputs."""
        saved = self._saved
        if saved is None:
            raise PruningError(f"the inputs of layer {index - 1} were not seen")
        self._saved = None
        layer: Any = self._layers[index - 1]
        attention = layer.self_attn
        query = attention.q_proj(layer.input_layernorm(saved.hidden))
        query = query.view(*query.shape[:-1], -1, attention.head_dim).transpose(1, 2)[0]
        query = rotate(query.float(), saved.cos.to(query).float(), saved.sin.to(query).float())
        keys = cache.layers[index - 1].keys[0]
        table = attention_rows(query.to(keys.device), keys, saved.seen, attention.scaling)
        start, alive = self._layout.start, len(self._alive)
        table = table[:, start : start + alive].cpu()
        if not bool(torch.isfinite(table).all()):
            raise PruningError(
                f"the attention scores of layer {index - 1} are not finite numbers",
                "load the model with --dtype bfloat16 or float32",
            )
        question = baseline = None
        if saved.context:
            baseline, question = table[saved.last], table[saved.last + 1 :].mean(0)
        scores = table[: saved.last].mean(0)
        keep = self._plan.keep_counts[index]
        return LayerStep(index, keep, self._alive, scores, question, baseline), len(table)

    def _save_rows(self, request: ScoreRequest, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        length = hidden.shape[1]
        newline = self._layout.start + len(self._alive)
        last = min(request.last, length - newline)
        places = list(range(length - last, length))
        context = min(request.context, length - newline - 1)
        if context:
            places += range(newline, newline + 1 + context)
        index = torch.tensor(places)
        cos, sin = kwargs["position_embeddings"]
        # Copies: a view would keep the whole hidden state of this layer in memory.
        self._saved = _SavedRows(
            hidden.index_select(1, index.to(hidden.device)),
            cos[0].index_select(0, index.to(cos.device)),
            sin[0].index_select(0, index.to(sin.device)),
            index + 1,
            last,
            context,
        )

    def _sliced_positions(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Position arguments of the survivors; the model hands every layer the unpruned ones."""
        start = self._layout.start
        kept = torch.cat(
            (
                torch.arange(start),
                start + self._alive,
                torch.arange(start + self._layout.visual, self._length),
            )
        )
        sliced: dict[str, Any] = {}
        if kwargs.get("position_embeddings") is not None:
            cos, sin = kwargs["position_embeddings"]
            kept_there = kept.to(cos.device)
            sliced["position_embeddings"] = (
                cos.index_select(1, kept_there),
                sin.index_select(1, kept_there),
            )
        if kwargs.get("position_ids") is not None:
            ids: Tensor = kwargs["position_ids"]
            sliced["position_ids"] = ids.index_select(-1, kept.to(ids.device))
        return sliced


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
