"""When one unpruned prefill for all questions is cheaper than a pruned one for each."""

from __future__ import annotations

import pytest

from adatp_cli import cost
from adatp_cli.answering.plan import compare_prefills, questions_to_share
from adatp_cli.profiles import load_profile
from adatp_cli.pruning.method import ModelContext
from adatp_cli.pruning.methods import method_of, resolve_profile

SHAPE = cost.KNOWN_SHAPES["7b"].language
BEFORE, BEHIND = 14, 25


def kept(profile: str, frames: int = 32) -> tuple[int, ...]:
    resolved = resolve_profile(load_profile(profile), ModelContext(SHAPE.layers))
    return method_of(resolved).token_schedule(frames, 196, SHAPE).visual_per_layer


def break_even(profile: str, frames: int = 32) -> int | None:
    return questions_to_share(kept(profile, frames), frames * 196, BEFORE, BEHIND, SHAPE)


@pytest.mark.parametrize(("name", "count"), [("adatp-light", 4), ("adatp-aggressive", 10)])
def test_the_break_even_of_the_profiles(name: str, count: int) -> None:
    """7B, 32 frames: from 4 questions on at 27.3 %, and from 10 on at 10 %."""
    assert break_even(name) == count


@pytest.mark.parametrize("frames", [1, 32, 128])
@pytest.mark.parametrize(
    "name", ["adatp-light", "adatp-aggressive", "fastv", "vidcom2", "pyramiddrop"]
)
def test_the_break_even_is_where_the_sums_cross(name: str, frames: int) -> None:
    count = break_even(name, frames)
    assert count is not None
    for questions, pays in ((count - 1, False), (count, True)):
        behind = [BEHIND] * questions
        found = compare_prefills(kept(name, frames), frames * 196, BEFORE, behind, SHAPE)
        assert (found.shared < found.pruned) == pays
        text = BEFORE + 1 + BEHIND
        alone = cost.prefill_cost([text + one for one in kept(name, frames)], SHAPE)
        assert found.pruned == questions * alone


def test_nothing_pruned_is_shared_from_the_second_question_on() -> None:
    assert questions_to_share([6272] * SHAPE.layers, 6272, BEFORE, BEHIND, SHAPE) == 2


def test_one_question_never_pays_for_a_whole_prefill() -> None:
    found = compare_prefills(kept("adatp-light"), 32 * 196, BEFORE, [BEHIND], SHAPE)
    whole = cost.prefill_cost([BEFORE + 1 + BEHIND + 6272] * SHAPE.layers, SHAPE)
    assert found.shared == whole > found.pruned


def test_sharing_never_pays_for_questions_as_long_as_what_is_kept() -> None:
    assert questions_to_share([50] * SHAPE.layers, 50, 5, 1000, SHAPE) is not None
    few = [50, *[1] * (SHAPE.layers - 1)]
    assert questions_to_share(few, 50, 1, 5000, SHAPE) is None


def test_a_count_per_layer_is_wanted() -> None:
    with pytest.raises(ValueError, match="token counts"):
        questions_to_share([1], 1, 1, 1, SHAPE)
