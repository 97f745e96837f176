"""Manifests: a file that names clips and what to ask about each."""

from __future__ import annotations

from pathlib import Path

import pytest

from adatp_cli.batch.inputs import collect
from adatp_cli.errors import UsageError


def jobs(path: Path, *asked: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(job.relative, job.questions) for job in collect(str(path), asked).jobs]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_rows_of_one_file_are_one_job(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "list.JSONL",
        '{"video": "b.mp4", "question": "Who?", "id": 7}\n\n{"video": "/abs/a.mp4"}\n'
        '{"question": "Why?\\u2028Now?", "video": "b.mp4"}\r\n'
        '{"video": "b.mp4", "question": "Who?"}\n{"video": "b.mp4", "question": null}',
    )
    result = collect(str(path), ["All?"])
    assert [(job.path, job.relative, job.questions) for job in result.jobs] == [
        (str(tmp_path / "b.mp4"), "b.mp4", ("Who?", "Why?\u2028Now?", "All?")),
        ("/abs/a.mp4", "/abs/a.mp4", ("All?",)),
    ]
    assert not result.notes


def test_paths_are_relative_to_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lists").mkdir()
    written(tmp_path, "here.csv", "video\n-a.mp4\n")
    written(tmp_path, "lists/there.csv", "video\n../a.mp4\n")
    assert collect("here.csv", ["?"]).jobs[0].path == "-a.mp4"
    assert collect("lists/there.csv", ["?"]).jobs[0].path == "lists/../a.mp4"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_as_spreadsheets_save_it(tmp_path: Path, separator: str, line_end: str) -> None:
    rows = [
        [" Question", "id", "VIDEO "],
        ['"Who, and; ""why""\tand\nwhen?"', "1", "a b.mp4"],
        ["", "2", "été.mp4"],
        ["", "", ""],
        ["What?", "3", "a b.mp4", ""],
    ]
    text = line_end.join(separator.join(row) for row in rows) + line_end * 2
    path = written(tmp_path, "list.csv", b"\xef\xbb\xbf" + text.encode())
    assert jobs(path, "All?") == [
        ("a b.mp4", ('Who, and; "why"\tand\nwhen?', "What?")),
        ("été.mp4", ("All?",)),
    ]


def test_a_file_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = written(tmp_path, "list.jsonl", '{"video": "caf\\udce9.mp4"}')
    assert jobs(path, "?") == [("caf\udce9.mp4", ("?",))]


def test_questions_that_nothing_asks_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, "list.csv", "video,question\na.mp4,Who?\n")
    assert "-q" in collect(str(path), ["What?"]).notes[0]
    assert not collect(str(path), []).notes


BAD = [
    ("a.jsonl", "", "no rows"),
    ("a.jsonl", '{"video": "a", "question": "?"}\n{"video":\n', r"a\.jsonl, line 2: is not JSON"),
    ("a.jsonl", "\n[1]", r"line 2: expects an object, not \[1\]"),
    ("a.jsonl", '{"clip": "a.mp4"}', "line 1: there is no column video, found 'clip'"),
    ("a.jsonl", '{"video": 3, "question": "?"}', "line 1: video expects text, not 3"),
    ("a.jsonl", '{"video": "a", "question": ["?"]}', "line 1: question expects text"),
    ("a.jsonl", '{"video": " ", "question": "?"}', "line 1: the row names no video"),
    ("a.jsonl", '{"video": "a.mp4"}', "line 1: the row has no question"),
    ("a.jsonl", '{"video": "a.mp4", "questions": "?"}', "unknown column 'questions' .*'question'"),
    ("a.jsonl", '{"video": "a.mp4", "question": "?", "Video": "b"}', "stands twice"),
    ("a.jsonl", "[" * 100_000, "line 1: is not JSON"),
    ("a.jsonl", b'{"video": "a", "question": "?"}\n{"video": "\xe9"}', "line 2: is not UTF-8"),
    ("a.csv", "", "no rows"),
    ("a.csv", "video,question\n", "no rows"),
    ("a.csv", "a.mp4,What?\n", "line 1: there is no column video, found 'a.mp4', 'what\\?'"),
    ("a.csv", "video,question\n\nx.mp4,Who, me?\n", "line 3: 3 cells under 2 columns"),
    ("a.csv", 'video,question\n"x\ny.mp4",?\nx.mp4,"Who\n?\n', "line 4: is not CSV"),
    ("a.csv", "video,qeustion\nx.mp4,?\n", "line 1: unknown column 'qeustion'"),
    ("a.csv", "video,question\nx.mp4\n", "line 2: the row has no question"),
    ("a.csv", "video,question\n,Who?\n", "line 2: the row names no video"),
    ("a.csv", b"video,question\na.mp4,?\nb.mp4,caf\xe9?\n", "line 3: is not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_an_ill_formed_manifest_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(UsageError, match=message) as caught:
        collect(str(path), [])
    assert caught.value.hint
    assert str(path) in caught.value.message


@pytest.mark.parametrize("column", ["question_id", "duration", "answer", "queue"])
def test_other_columns_are_left_alone(tmp_path: Path, column: str) -> None:
    path = written(tmp_path, "list.csv", f"video,{column}\na.mp4,5\n")
    assert jobs(path, "What?") == [("a.mp4", ("What?",))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.tsv", "video\tquestion\na, b.mp4\tWho; or: what?\n"),
        ("list.csv", 'sep=;\r\nvideo;question\r\n"a, b.mp4";"Who; or: what?"\r\n'),
        ("list.csv", '"sep=|"\nvideo|question\na, b.mp4|Who; or: what?\n'),
        ("list.jsonl", '{"video": "a, b.mp4", "question": "Who; or: what?"}\n'),
    ],
)
def test_tables_as_excel_and_others_write_them(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    path = written(tmp_path, name, text.encode(encoding))
    assert jobs(path) == [("a, b.mp4", ("Who; or: what?",))]


def test_lines_are_counted_from_the_file_s_own_first(tmp_path: Path) -> None:
    path = written(tmp_path, "list.csv", "sep=;\nvideo;question\na.mp4;Who?\na.mp4;Who?;more\n")
    with pytest.raises(UsageError, match="line 4: 3 cells under 2 columns"):
        jobs(path)
