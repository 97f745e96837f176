"""Text of others stays text: in Markdown, and in the tables that commands write."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from adatp_cli.evaluation.report import csv_text, markdown
from adatp_cli.text import for_terminal, markdown_cell, plural, printable

HOSTILE = (
    "=cmd|'/C calc'!A0", "@SUM(1)", "+1+1", "-1-1", "\t=1", "\x1b[31mred\x1b]0;x\x07", "a|b",
    "<script>alert(1)</script>", "![x](http://evil/p.png)", "[/bold]", "\u202eevil",
    "x\n# forged heading", "`code`",
)  # fmt: skip


def shown(page: str) -> list[str]:
    """The text that a Markdown page shows, by block; nothing but text may be in it."""
    blocks = MarkdownIt("commonmark").enable("table").parse(page)
    found = []
    for block in blocks:
        assert block.type != "html_block"
        if block.type == "inline":
            parts = block.children or []
            assert {part.type for part in parts} <= {"text", "text_special"}, page
            found.append("".join(part.content for part in parts))
    return found


@given(st.text(st.characters(), min_size=1))
@example("![x](http://evil/x.png)")
@example("<img src=http://evil/x.png>&lt;")
@example("_a_ *b* **c** ~~d~~ `e` [f](g) <http://h> \\| $i$ __j__ k_l_m")
@example("a\n\n# b\n\n<script>")
def test_a_cell_shows_what_it_was_given(text: str) -> None:
    head, cell = shown(markdown(["x"], [[f"a {text} b"]]))
    assert head == "x"
    assert cell.split() == f"a {printable(text)} b".split()
    assert shown(f"- a {markdown_cell(text)}") == [f"a {printable(text)}".rstrip()]


def test_plain_names_and_numbers_are_left_as_they_are() -> None:
    for text in ("adatp-plus", "27.3 %", "0.5b_random", "a/b.mp4", "(1 of 2)", "+1.2"):
        assert markdown_cell(text) == text


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_table_runs_or_loads_what_a_question_says(kind: str) -> None:
    (line,) = list(csv.reader(io.StringIO(csv_text([kind], []), newline="")))
    assert line[0] == kind or line[0] == f"'{kind}"
    assert not line[0].startswith(tuple("=+-@\t\r\n"))
    assert len(shown(markdown([kind, "b"], [["1", kind]]))) == 4


def test_a_terminal_gets_nothing_to_obey_and_all_else_as_it_is() -> None:
    told = "a\x1b[2J\x07\r b\x9b c\u202ed \u2066e\tf\n"
    assert for_terminal(told) == "a\\x1b[2J\\x07\\r b\\x9b c\\u202ed \\u2066e\tf\n"
    for text in ("été\u00a0: 日本\u3000x\n", "👩\u200d👧 a\u200cb", "true,a\r\ntrue,b\r\n"):
        assert for_terminal(text) == text


def test_plurals() -> None:
    assert [plural(count, "clip") for count in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert plural(2, "query", "queries") == "2 queries"
