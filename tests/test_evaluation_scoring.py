"""What counts as naming an option, by our rule and by each benchmark's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adatp_cli.answering.tasks import FileClip
from adatp_cli.evaluation import scoring
from adatp_cli.evaluation.questions import Dataset, Item, Rule
from adatp_cli.evaluation.scoring import choice, exact, verbatim

OPTIONS = ("a red car", "A blue bus", "no vehicle at all", "both of them")


def item(answer: str = "B", options: tuple[str, ...] = OPTIONS, name: str = "1") -> Item:
    return Item(name, FileClip("x.mp4"), "?", answer, options)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("b", "B"), (" B ", "B"), ("B.", "B"), ("(B)", "B"), ("(b).", "B"), ("B)", "B"),
        ("[B]", "B"), ("**B**", "B"), ("**B.**", "B"), ("`B`", "B"), ("Option B", "B"),
        ("Answer: B", "B"), ("answer: (B)", "B"),
        ("B. a blue bus", "B"), ("B) A blue bus", "B"), ("(B) A blue bus", "B"),
        ("B: it is blue", "B"), ("B.\nBecause A is red.", "B"),
        ("The answer is B.", "B"), ("The correct answer is (B)", "B"),
        ("the best option is: B", "B"),
        ("I think the answer is B, as it is blue.", "B"),
        ("It must be (B), the bus.", "B"),
        ("A blue bus", "B"), ("a  blue BUS.", "B"), ("a red car", "A"),
    ],
)  # fmt: skip
def test_an_answer_that_names_one_option(answer: str, letter: str) -> None:
    verdict = choice(answer, item())
    assert verdict.choice == letter
    assert verdict.right is (letter == "B")
    assert verdict.parsed


@pytest.mark.parametrize(
    "answer",
    [
        "", " ", ".", "A man crosses the street", "I do not know", "E", "(F)", "5", "AB", "A or B",
        "The answer is A or the answer is B.", "(A) or (B)", "a blue", "The answer is a bus",
        "The answer is A blue thing", "Best of all", "The answer is A or B", "B/C", "\x00", "é",
    ],
)  # fmt: skip
def test_an_answer_that_names_none_or_two_is_wrong(answer: str) -> None:
    for right in "ABCD":
        verdict = choice(answer, item(right))
        assert verdict.choice is None
        assert not verdict.right
        assert not verdict.parsed


def test_letters_follow_the_questions_own_options() -> None:
    assert choice("D", item("D")).right
    assert choice("D", item("A", OPTIONS[:3])).choice is None
    assert choice("E", item("E", (*OPTIONS, "none"))).right
    assert choice("same", item("A", ("same", "Same", "other"))).choice is None


@given(st.text(max_size=40), st.integers(1, 26))
def test_any_text_is_judged(answer: str, count: int) -> None:
    asked = item("A", tuple(f"option {number}" for number in range(count)))
    for judge in (choice, scoring.extract, scoring.mvbench, scoring.longvideobench,
                  scoring.egoschema, scoring.nextqa):  # fmt: skip
        verdict = judge(answer, asked)
        assert verdict == judge(answer, asked)
        assert verdict.right <= (verdict.choice == "A")


def test_an_answer_that_is_not_among_the_options_is_never_right() -> None:
    for judge in (choice, scoring.extract, scoring.mvbench, scoring.nextqa, exact, verbatim):
        for answer in ("", "A", "none of them"):
            assert not judge(answer, item("")).right


def test_free_answers() -> None:
    asked = item("a red car moves", ())
    assert exact(" A red  car moves.\n", asked).right
    assert not exact("a red car", asked).right
    assert not exact("", asked).parsed
    assert verbatim("a red car moves\n", asked).right
    assert not verbatim("A red car moves", asked).right


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("B.", "B"), ("(B)", "B"), ("B. text", "B"),
        ("A man is shown", "A"),  # the article, as the harness has it
        ("It is C", "C"),  # at the end
        ("The answer is B because A is red", "A"),  # the last letter behind the phrase
        ("first (A), later (B) perhaps", "B"),  # of one form the last
        ("so C. or (B) here", "B"),  # brackets before a full stop
        ("Bus", "B"), ("bus", None), ("", None), ("  ", None), ("E", None),
    ],
)  # fmt: skip
def test_the_shared_extractor(answer: str, letter: str | None) -> None:
    assert scoring.extract(answer, item()).choice == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B. a blue bus", "B"), ("b. a blue bus", "B"), ("(B) a blue bus", "B"), ("(b)", "B"),
        ("a man", "A"), ("It shows a bus (B)", "A"), ("Best option: (C)", "C"), ("bus", None),
    ],
)  # fmt: skip
def test_mvbench(answer: str, letter: str | None) -> None:
    verdict = scoring.mvbench(answer, item())
    assert verdict.choice == letter
    assert verdict.counted


def test_an_empty_answer_leaves_mvbenchs_denominator() -> None:
    assert not scoring.mvbench("", item()).counted
    assert scoring.mvbench(" ", item()).counted


@pytest.mark.parametrize(
    ("judge", "answer", "letter"),
    [
        (scoring.longvideobench, "The best answer is B", "B"),
        (scoring.longvideobench, "It is a Dog", "D"),
        (scoring.longvideobench, "The answer is: (C)", "C"),
        (scoring.egoschema, "(C)", "C"),
        (scoring.egoschema, "not B but (A)", "B"),
        (scoring.egoschema, "C. something", "C"),
        (scoring.egoschema, "I would say that a blue bus is there", "B"),
        (scoring.nextqa, "first (A) then (C)", "C"),
        (scoring.nextqa, "C", "C"),
        (scoring.nextqa, "A B", "B"),
        (scoring.nextqa, "I would say that no vehicle at all", "C"),
    ],
)
def test_the_other_harness_rules(judge: object, answer: str, letter: str) -> None:
    verdict = judge(answer, item())  # type: ignore[operator]
    assert verdict.choice == letter
    assert verdict.parsed


def test_where_the_harness_draws_a_letter_it_is_always_the_same() -> None:
    questions = [item("B", name=f"q{number}") for number in range(400)]
    for judge in (scoring.longvideobench, scoring.egoschema, scoring.nextqa):
        drawn = [judge("...", asked) for asked in questions]
        assert drawn == [judge("...", asked) for asked in questions]
        assert all(verdict.guessed and not verdict.parsed for verdict in drawn)
        for letter in "ABCD":
            assert 60 < sum(verdict.choice == letter for verdict in drawn) < 140


def test_the_rule_that_is_asked_for() -> None:
    both = Dataset("d", "D", (), choice, scoring.extract)
    assert both.judge(Rule.strict) is choice
    assert both.judge(Rule.harness) is scoring.extract
    assert Dataset("d", "D", (), exact).judge(Rule.harness) is exact
