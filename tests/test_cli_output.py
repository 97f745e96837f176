"""What stands on a line: numbers, statistics, and text from outside."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from adatp_cli import record
from adatp_cli.cli.output import ending, statistics, summary
from adatp_cli.cli.streams import WordWrap, aligned
from adatp_cli.evaluation.report import markdown
from adatp_cli.text import amount, one_line, percent
from tests.records import answer_record


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 "),
        (7, "7 "),
        (999, "999 "),
        (1000, "1.00 k"),
        (9_994, "9.99 k"),
        (9_996, "10.0 k"),
        (99_949, "99.9 k"),
        (99_960, "100 k"),
        (999_400, "999 k"),
        (999_600, "1.00 M"),
        (48_821_899_886_592, "48.8 T"),
        (1_234_000_000_000_000, "1.23 P"),
        (12_340_000_000_000_000_000, "12340 P"),
    ],
)
def test_amounts_have_three_digits_and_a_prefix(count: int, shown: str) -> None:
    assert amount(count) == shown


def test_percent() -> None:
    assert [percent(share) for share in (0, 0.2734, 1)] == ["0.0 %", "27.3 %", "100.0 %"]


@given(
    visual=st.integers(1, 200_000),
    cost=st.integers(10**6, 10**17),
    seconds=st.floats(0, 9999),
    tokens=st.integers(0, 4096),
)
def test_statistics_fit_80_columns(visual: int, cost: int, seconds: float, tokens: int) -> None:
    """Each label takes 12 columns, and no text may take more than the other 68."""
    flops = record.Flops(
        record.PaperFlops(cost, cost, 1.0),
        record.EndToEndFlops(3 * cost, 3 * cost, 1.0, cost, cost, cost, cost, cost),
    )
    times = record.Seconds(*[seconds] * 8)
    told = answer_record(
        tokens=record.TokenCounts(20, visual, [visual], visual, 1.0, tokens),
        flops=flops,
        seconds=times,
    )
    for own in (None, times):
        assert len(summary(told, own)) <= 80
        for label, text in statistics(told, own):
            assert len(label) < 12
            assert len(text) <= 68


@pytest.mark.parametrize(
    ("answer", "finish_reason", "generated", "said"),
    [
        ("a circle", "eos", 3, None),
        ("a circle", "length", 128, "cut at 128 tokens; --max-new-tokens raises the limit"),
        ("a", "length", 1, "cut at 1 token;"),
        ("", "eos", 1, "the answer is empty: the model ended at once; ask in other words"),
        ("", "length", 5, "empty: the model gave 5 tokens without text; --max-new-tokens"),
    ],
)
def test_an_answer_that_is_empty_or_cut_is_told(
    answer: str, finish_reason: str, generated: int, said: str | None
) -> None:
    tokens = dataclasses.replace(answer_record().tokens, generated=generated)
    told = ending(answer_record(answer=answer, finish_reason=finish_reason, tokens=tokens))
    assert told is None if said is None else said in str(told)


def test_a_part_that_did_not_run_is_not_told() -> None:
    known = answer_record()
    full = dataclasses.replace(known.flops.end_to_end, relevance=0)
    without = answer_record(flops=record.Flops(known.flops.paper, full))
    assert any("relevance" in text for _, text in statistics(known))
    assert not any("relevance" in text for _, text in statistics(without))


def test_frames_that_were_copied_are_told() -> None:
    known = answer_record()
    assert "frames" not in dict(statistics(known))
    clip = dataclasses.replace(known.video_info, frames_used=1600, frames_copied=1200)
    told = dict(statistics(answer_record(video_info=clip)))["frames"]
    assert told == "400 of 1600 encoded; the others are near copies, with their tokens"
    assert len(told) <= 68


@given(st.text())
def test_text_from_outside_stays_one_printable_line(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert shown.isprintable()


def test_words_are_kept() -> None:
    assert one_line("a  name\nwith\x1b[31m colour") == "a name with\\x1b[31m colour"


@given(st.lists(st.text("ab  \n日x", max_size=9)), st.integers(5, 30))
def test_an_answer_that_comes_in_pieces_breaks_between_words(
    pieces: list[str], columns: int
) -> None:
    wrap = WordWrap(columns)
    shown = "".join(map(wrap.feed, pieces)) + wrap.rest()
    assert shown.split() == "".join(pieces).split()
    for line in shown.split("\n"):
        assert cell_len(line) <= columns or " " not in line.strip()
    whole = "".join(pieces)
    if all(cell_len(line) <= columns for line in whole.split("\n")):
        assert [line.rstrip() for line in shown.split("\n")] == (
            [line.rstrip() for line in whole.split("\n")]
        )


def test_tables_are_aligned_on_a_terminal_and_no_wider_than_it() -> None:
    page = (
        "# Title\n\n- a fact\n\n"
        + markdown(
            ["method", "right", "cost"], [["a|b*", "98.5 %", "27.3 %"], ["日本", "9.5 %", "-"]]
        )
        + "\nend.\n"
    )
    assert aligned(page, 80) == (
        "Title\n\n- a fact\n\n"
        "method   right    cost\n"
        "a|b*    98.5 %  27.3 %\n"
        "日本     9.5 %       -\n"
        "\nend.\n"
    )
    wide = markdown([f"column {n}" for n in range(9)], [[str(n) for n in range(9)]] * 2)
    parts = aligned(wide, 40).split("\n\n")
    assert len(parts) > 2
    assert all(part.startswith("column 0") for part in parts)
    assert max(cell_len(line) for line in aligned(wide, 40).split("\n")) <= 40
