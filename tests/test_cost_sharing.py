"""When one unpruned prefill for all questions is cheaper than a pruned one for each."""

from __future__ import annotations

import pytest

from adatp_cli import cost
from adatp_cli.profiles import load_profile
from adatp_cli.pruning.method import Circumstances
from adatp_cli.pruning.methods import method_of, resolve_profile
from adatp_cli.sharing import compare_prefills, questions_to_share, shared_prefill_cost

SHAPE = cost.KNOWN_SHAPES["7b"].language
BEFORE, BEHIND = 14, 26


def kept(profile: str, frames: int = 32) -> tuple[int, ...]:
    resolved = resolve_profile(load_profile(profile), Circumstances(SHAPE.layers))
    return method_of(resolved).outlook(frames, 196, SHAPE).visual_per_layer


def test_one_question_that_is_shared_costs_what_it_costs_alone() -> None:
    """But for the attention of the prefix to the question, which the causal count leaves in."""
    visual = 100
    alone = cost.prefill_cost([BEFORE + visual + BEHIND] * SHAPE.layers, SHAPE)
    shared = shared_prefill_cost(BEFORE + visual + 1, [BEHIND - 1], SHAPE)
    unseen = (BEFORE + visual + 1) * (BEHIND - 1)
    assert alone - shared == 4 * SHAPE.layers * unseen * SHAPE.heads * SHAPE.head_dim


def test_the_break_even_is_where_the_sums_cross() -> None:
    for profile in ("adatp-light", "adatp-aggressive", "fastv"):
        visual = kept(profile)
        count = questions_to_share(visual, BEFORE, BEHIND, SHAPE)
        assert count is not None
        pruned = cost.prefill_cost([BEFORE + BEHIND + one for one in visual], SHAPE)

        def shared(questions: int) -> int:
            prefix = BEFORE + 32 * 196 + 1
            return shared_prefill_cost(prefix, [BEHIND - 1] * questions, SHAPE)

        assert shared(count) <= count * pruned
        assert shared(count - 1) > (count - 1) * pruned


def test_the_break_even_of_the_profiles() -> None:
    """7B, 32 frames: from 4 questions on at 27.3 %, and from 10 on at 10 %."""
    assert questions_to_share(kept("adatp-light"), BEFORE, BEHIND, SHAPE) == 4
    assert questions_to_share(kept("adatp-aggressive"), BEFORE, BEHIND, SHAPE) == 10


@pytest.mark.parametrize(("name", "count"), [("adatp-light", 4), ("adatp-aggressive", 10)])
def test_questions_of_one_length_are_compared_alike(name: str, count: int) -> None:
    """The first one's whole prefill moves the break-even by less than a question."""
    for questions, pays in ((count - 1, False), (count, True)):
        behind = [BEHIND - 1] * questions
        found = compare_prefills(kept(name), 32 * 196, BEFORE, behind, SHAPE)
        assert (found.shared < found.pruned) == pays
        alone = cost.prefill_cost([BEFORE + BEHIND + one for one in kept(name)], SHAPE)
        assert found.pruned == questions * alone


def test_one_question_never_pays_for_a_whole_prefill() -> None:
    found = compare_prefills(kept("adatp-light"), 32 * 196, BEFORE, [BEHIND - 1], SHAPE)
    assert found.shared == cost.prefill_cost([BEFORE + BEHIND + 6272] * SHAPE.layers, SHAPE)
    assert found.shared > found.pruned


def test_sharing_never_pays_for_questions_as_long_as_what_is_kept() -> None:
    assert questions_to_share([50] * SHAPE.layers, 5, 1000, SHAPE) is not None
    few = [50, *[1] * (SHAPE.layers - 1)]
    assert questions_to_share(few, 1, 5000, SHAPE) is None


def test_a_count_per_layer_is_wanted() -> None:
    with pytest.raises(ValueError, match="token counts"):
        questions_to_share([1], 1, 1, SHAPE)
