"""From a share of the vanilla cost to the number of visual tokens that enter each layer.

How many tokens stay is a pure function of the budget, the clip's tokens and the model's shape; it
is known before the forward pass, and which tokens stay never changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from adatp_cli.cost import LanguageShape, paper_cost, paper_layer_cost
from adatp_cli.errors import UsageError

_BISECTIONS = 60
_PUBLISHED_FROM = 24  # layers of the smallest model that the published layers 2 to N-12 are for

LayerOrAuto = int | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many visual tokens may enter each layer.

    Parameters
    ----------
    counts
        One number per decoder layer, never rising, at least 1; all visual tokens before
        `first_layer`, the same number from `last_layer` on.
    first_layer, last_layer
        The layers (0-based, both included) before which tokens are dropped.
    rho
        The geometric factor that the counts follow, up to the last tokens that fill the budget.
    share
        Cost of `counts` over that of keeping everything, paper convention.
    """

    counts: tuple[int, ...]
    first_layer: int
    last_layer: int
    rho: float
    share: float


def pruned_layers(
    layers: int, first_layer: LayerOrAuto, last_layer: LayerOrAuto
) -> tuple[int, int]:
    """First and last layer before which tokens are dropped, checked against the model's depth.

    Parameters
    ----------
    layers
        Decoder layers N.
    first_layer
        At least 1, since its scores come from the layer before. `auto` is the published 2, or in a
        model with fewer than 24 layers the same relative depth, round(2/28 N): our choice.
    last_layer
        `auto` is the published N-12, or in a model with fewer than 24 layers the same relative
        depth, round(4/7 N): our choice.

    Raises
    ------
    UsageError
        When the range is empty or lies outside the model.
    """
    published = layers >= _PUBLISHED_FROM
    if isinstance(first_layer, int):
        first = first_layer
    else:
        first = 2 if published else max(1, round(layers / 14))
    if not 1 <= first < layers:
        raise UsageError(
            f"schedule.first_layer is {first}, but this model has layers 0 to {layers - 1} "
            "and layer 0 must see every token",
            f"choose a first pruned layer between 1 and {layers - 1}",
        )
    if not isinstance(last_layer, int):
        auto = layers - 12 if published else round(4 * layers / 7)
        return first, max(first, auto)
    if not first <= last_layer < layers:
        raise UsageError(
            f"schedule.last_layer is {last_layer}, but it must lie between the first pruned layer "
            f"({first}) and this model's last one ({layers - 1})",
            "choose one in that range, or 'auto'",
        )
    return first, last_layer


def keep_schedule(
    rho: float, visual: int, layers: int, first_layer: int, last_layer: int
) -> tuple[int, ...]:
    """Visual tokens per layer when every pruned layer keeps the share rho of the one before.

    ``K(l) = round(rho^(l - first + 1) * visual)``, at least 1; for the published first layer 2 that
    is rho^(l-1). The geometric form is our choice.

    Returns
    -------
    tuple of int
        One count per layer, never rising.
    """
    counts = []
    for layer in range(layers):
        power = min(layer, last_layer) - first_layer + 1
        counts.append(max(1, round(rho**power * visual)) if power > 0 else visual)
    return tuple(counts)


def solve_budget(
    share: float,
    visual: int,
    shape: LanguageShape,
    first_layer: LayerOrAuto = "auto",
    last_layer: LayerOrAuto = "auto",
) -> Schedule:
    """The fullest geometric schedule whose cost stays within `share` of the vanilla cost.

    Bisection finds the largest rho whose integer counts fit. Rounding makes several layers step at
    the same rho, so single tokens then fill what is left: the result is never above the share, and
    below it by less than one token in one layer (in all layers after the last pruned one, if only
    one is pruned).

    Parameters
    ----------
    share
        0 < share <= 1, of the paper-convention cost of keeping every visual token in every layer.
    visual
        Visual tokens n_v, newline not counted.
    shape
        The decoder.
    first_layer, last_layer
        As in `pruned_layers`.

    Raises
    ------
    UsageError
        For a share outside (0, 1], or one that even a single token per pruned layer exceeds; the
        message names the smallest share that can be reached.
    """
    if not 0.0 < share <= 1.0:
        raise UsageError(
            f"the budget is {share:g}, but it is a share of the vanilla cost",
            "give a number above 0 and at most 1, such as 0.273",
        )
    if visual < 1:
        raise ValueError(f"{visual} visual tokens cannot be pruned")
    first, last = pruned_layers(shape.layers, first_layer, last_layer)
    vanilla = shape.layers * paper_layer_cost(visual, shape)

    def counts_of(rho: float) -> tuple[int, ...]:
        return keep_schedule(rho, visual, shape.layers, first, last)

    def fits(rho: float) -> bool:
        return paper_cost(counts_of(rho), shape) / vanilla <= share

    if not fits(0.0):
        smallest = paper_cost(counts_of(0.0), shape) / vanilla
        raise UsageError(
            f"a budget of {share:g} cannot be reached: the layers that see every token (0 to "
            f"{first - 1} of {shape.layers}) cost too much on their own",
            f"the smallest reachable budget here is {ceil(smallest * 10_000) / 10_000:g}",
        )
    rho = _largest(fits)
    counts = _fill(counts_of(rho), share, shape, first, last)
    return Schedule(counts, first, last, rho, paper_cost(counts, shape) / vanilla)


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest number in [0, 1] that fits, where 0 does and what is too large stays so."""
    if fits(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fill(
    counts: Sequence[int], share: float, shape: LanguageShape, first: int, last: int
) -> tuple[int, ...]:
    """Add single tokens to pruned layers, deepest first, as far as the cost allows."""
    filled = list(counts)
    spent = paper_cost(filled, shape)
    vanilla = shape.layers * paper_layer_cost(filled[0], shape)
    added = True
    while added:
        added = False
        for layer in range(last, first - 1, -1):
            if filled[layer] >= filled[layer - 1]:
                continue
            # Every layer behind the last pruned one holds what that one kept.
            copies = shape.layers - last if layer == last else 1
            more = filled[layer] + 1
            price = copies * (
                paper_layer_cost(more, shape) - paper_layer_cost(filled[layer], shape)
            )
            if (spent + price) / vanilla <= share:
                filled[layer : layer + copies] = [more] * copies
                spent += price
                added = True
    return tuple(filled)
