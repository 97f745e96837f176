"""From a share of the vanilla cost to the number of visual tokens that enter each layer.

How many tokens stay is a pure function of the budget, the clip's tokens and the model's shape; it
is known before the forward pass, and which tokens stay never changes it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from adatp_cli.cost import LanguageShape, paper_cost, paper_layer_cost
from adatp_cli.errors import UsageError
from adatp_cli.pruning.knobs import LayerOrAuto

_BISECTIONS = 60
_PUBLISHED_FROM = 24  # layers of the smallest model that the published layers 2 to N-12 are for


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many visual tokens may enter each layer.

    `counts` has one number per decoder layer, never rising, at least 1; all visual tokens before
    the first drop, the same number from the last one on.
    """

    counts: tuple[int, ...]
    drops: tuple[int, ...]  # layers, 0-based and rising, before which tokens are dropped
    rho: float  # the factor that counts follow, up to the last tokens that fill the budget


def pruned_layers(
    layers: int, first_layer: LayerOrAuto, last_layer: LayerOrAuto
) -> tuple[int, int]:
    """First and last layer before which tokens are dropped, checked against the model's depth.

    `auto` is as `ScheduleKnobs` has it. A range that is empty or outside the model is a UsageError.
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


def drop_layer(layers: int, layer: LayerOrAuto, key: str) -> int:
    """The one layer before which a method drops tokens, checked against the model's depth.

    `auto` is the first layer of `pruned_layers`; `key` is what the profile calls it.
    """
    if not isinstance(layer, int):
        return pruned_layers(layers, "auto", "auto")[0]
    if not 1 <= layer < layers:
        raise UsageError(
            f"{key} is {layer}, but this model has layers 0 to {layers - 1}",
            f"choose a layer between 1 and {layers - 1}",
        )
    return layer


def keep_schedule(rho: float, visual: int, layers: int, drops: Sequence[int]) -> tuple[int, ...]:
    """Visual tokens per layer when each drop keeps the share rho of what the one before kept.

    ``round(rho^(j + 1) * visual)`` from drop j on, at least 1; for AdaTP's published layers 2, 3,
    ... that is rho^(l-1) at layer l. The geometric form is our choice for AdaTP.
    """
    counts = [visual] * layers
    for power, layer in enumerate(drops, start=1):
        counts[layer:] = [max(1, round(rho**power * visual))] * (layers - layer)
    return tuple(counts)


def solve_budget(share: float, visual: int, shape: LanguageShape, drops: Sequence[int]) -> Schedule:
    """The fullest geometric schedule whose cost stays within `share` of the vanilla cost.

    Bisection finds the largest rho whose integer counts fit. Rounding makes several layers step at
    the same rho, so single tokens then fill what is left: the result is never above the share, and
    below it by less than one token in the layers between two drops.

    The share is of the paper-convention cost; `drops` are the rising layers before which tokens are
    dropped, of which layer 0 stands for what happens before the language model. A UsageError where
    even a single token after each drop exceeds it; it names the smallest share that can be reached.
    """
    if visual < 1:
        raise ValueError(f"{visual} visual tokens cannot be pruned")
    vanilla = shape.layers * paper_layer_cost(visual, shape)

    def counts_of(rho: float) -> tuple[int, ...]:
        return keep_schedule(rho, visual, shape.layers, drops)

    def fits(rho: float) -> bool:
        return paper_cost(counts_of(rho), shape) / vanilla <= share

    if not fits(0.0):
        smallest = paper_cost(counts_of(0.0), shape) / vanilla
        why = "a single visual token costs more"
        if drops[0] > 0:
            seeing = f"0 to {drops[0] - 1} of {shape.layers}"
            why = f"the layers that see every token ({seeing}) cost too much"
        raise unreachable(share, smallest, why)
    low, high = (1.0, 1.0) if fits(1.0) else (0.0, 1.0)
    for _ in range(_BISECTIONS if low < high else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Schedule(_fill(counts_of(low), visual, share, shape, drops), tuple(drops), low)


def solve_entry(
    share: float, visual: int, shape: LanguageShape, drops: Sequence[int], left: float
) -> Schedule:
    """The most tokens that may enter layer 0 when each drop keeps the same share of them.

    Of n tokens that enter, ``round(n left^(j / J))`` are there after the j-th of J drops. Where the
    whole clip may enter at that, `solve_budget` leaves more of it. The drops are behind layer 0.
    """
    rho = left ** (1 / len(drops))
    vanilla = shape.layers * paper_layer_cost(visual, shape)

    def counts_of(entering: int) -> tuple[int, ...]:
        return keep_schedule(rho, entering, shape.layers, drops)

    def cost(entering: int) -> float:
        return paper_cost(counts_of(entering), shape) / vanilla

    if cost(visual) <= share:
        return solve_budget(share, visual, shape, drops)
    fullest = solve_budget(share, visual, shape, (0,)).counts[0]
    entering = bisect_right(range(fullest, visual), share, key=cost) + fullest - 1
    return Schedule(counts_of(entering), tuple(drops), rho)


def unreachable(share: float, smallest: float, why: str) -> UsageError:
    """The error for a budget below the smallest that a method can reach, both as shares."""
    return UsageError(
        f"a budget of {share:g} cannot be reached: {why}",
        f"the smallest reachable budget here is {ceil(smallest * 10_000) / 10_000:g}",
    )


def _fill(
    counts: Sequence[int], visual: int, share: float, shape: LanguageShape, drops: Sequence[int]
) -> tuple[int, ...]:
    """Add single tokens after the drops, deepest first, as far as the cost allows."""
    filled = list(counts)
    spent = paper_cost(filled, shape)
    vanilla = shape.layers * paper_layer_cost(visual, shape)
    added = True
    while added:
        added = False
        for first, end in reversed([*pairwise((*drops, shape.layers))]):
            before = filled[first - 1] if first > 0 else visual
            if filled[first] >= before:
                continue
            more = filled[first] + 1
            price = (end - first) * (
                paper_layer_cost(more, shape) - paper_layer_cost(filled[first], shape)
            )
            if (spent + price) / vanilla <= share:
                filled[first:end] = [more] * (end - first)
                spent += price
                added = True
    return tuple(filled)
