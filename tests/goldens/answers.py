"""Cases that ask tiny."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.goldens.runs import HERE, NOTHING, Case
from tests.goldens.words import BUNDLED

_TINY = ("-m", "tiny", "--dtype", "float32")
_ASKED = ("What moves first?", "where does the yellow square move?", "how many scenes are there?")
# Seconds, rates and what follows from them.
_TIMES = (
    r"\b\d+(\.\d+)? s\b|^\d+ clips?, .* a minute.*$|^decoding is the limit.*$"
    r"|^the model is the limit.*$|^\d+ cores can do more.*$"
    r"|(?:(?<=decode )|(?<=vision )|(?<=relevance )|(?<=prefill )|(?<=load )|(?<=generate ))"
    r"\d+\.\d+\b(?! [kMGT])"
)
_SHAPES = Path("goldens/shapes.mp4")
_CLIPS: dict[str, str | bytes | Path] = {
    "clips/a.mp4": _SHAPES,
    "clips/b.mov": Path("data/video_90.mov"),
    "clips/bad.mp4": "no clip at all",
    "clips/notes.txt": "hello\n",
}
_MINE = """\
{"video": "clips/a.mp4", "question": "What moves first?", "answer": "yellow square", "kind": "what"}
{"video": "clips/a.mp4", "question": "Where does the yellow square move?", "answer": "B", \
"options": ["left", "right"], "kind": "where"}
{"video": "clips/b.mov", "question": "Which?", "answer": "A", "options": ["red", "blue"], \
"kind": "what"}
{"video": "clips/bad.mp4", "question": "What?", "answer": "nothing", "kind": "what"}
{"video": "clips/a.mp4", "question": "And then?", "answer": "cross", "kind": "what", \
"start": 2, "end": 4}
"""
_ROWS = {path.name: path.read_bytes() for path in sorted((HERE / "rows").iterdir())}


def _ask(
    name: str, *options: str, questions: int = 1, cheap: bool = True, loose: str = NOTHING
) -> Case:
    arguments = ("ask", "shapes.mp4", *_ASKED[:questions], *_TINY, *options)
    return Case(name, arguments, cheap=cheap, loose=loose)


_JSON = ("-n", "4", "--json", "--quiet")
_CHEAP_AUTO = ("adatp",)
_CHEAP_SHARED = ("adatp",)
_CHEAP_THREE = ("adatp-plus", "random", "unicomp")

RECORDS = [
    *(_ask(f"{name}, one question", "-p", name, *_JSON, "--trace", "t.npz") for name in BUNDLED),
    *(
        _ask(f"{name}, three", "-p", name, *_JSON, questions=3, cheap=name in _CHEAP_THREE)
        for name in BUNDLED
    ),
    *(
        _ask(
            f"{name}, {prefill}",
            *("-p", name, *_JSON, "--prefill", prefill),
            questions=3,
            cheap=prefill == "shared" and name in _CHEAP_SHARED,
        )
        for name in BUNDLED
        for prefill in ("shared", "each", "cheaper")
    ),
    *(
        _ask(
            f"{name}, auto",
            *("-p", name, "-n", "auto", "--json", "--quiet"),
            cheap=name in _CHEAP_AUTO,
        )
        for name in BUNDLED
    ),
    _ask("the default prefill", *_JSON, questions=3),
    *(
        _ask(" ".join(options), *options, *_JSON, *trace)
        for options, trace in (
            (("--budget", "0.5"), ("--trace", "t.npz")),
            (("--budget", "10%", "-p", "fastvid"), ()),
            (("--start", "1", "--end", "0:03"), ()),
            (("--fps", "1"), ()),
            (("--temperature", "0.7", "--seed", "3"), ()),
            (("--temperature", "0.9", "--top-p", "0.5"), ()),
            (("--max-new-tokens", "1"), ()),
            (("-p", "random", "--seed", "7"), ("--trace", "t.npz")),
        )
    ),
    _ask("traces of two", *_JSON, "--trace", "t.npz", questions=2),
    *(
        Case(
            f"a profile with {name}",
            ("ask", "shapes.mp4", _ASKED[0], *_TINY, *_JSON, "-p", "m.yaml", "--trace", "t.npz"),
            {"m.yaml": f"name: mine\n{text}"},
        )
        for name, text in {
            "compact positions": "method: adatp\nbudget: 0.3\npositions: compact\n",
            "original positions": "method: vidcom2\nbudget: 0.3\npositions: original\n",
            "reused frames": "method: adatp\nbudget: 0.3\nreuse_frames: 0.2\n",
            "its own frames": "method: fastv\nbudget: 0.3\nframes: 3\n",
            "attention": "method: adatp\nbudget: 0.3\nrelevance:\n  encoder: attention\n",
            "no encoder": "method: adatp\nbudget: 0.3\nrelevance:\n  encoder: none\n",
            "strict debiasing": "method: adatp\nbudget: 0.3\nlocal:\n  mode: strict\n"
            "  representative: middle\n  first_layer: 3\n",
            "the release's count": "method: vidcom2\nbudget: 0.3\nvidcom2:\n  count: release\n",
            "more rows": "method: adatp-plus\nbudget: 0.2\nscores:\n  rows: 4\nentry:\n"
            "  left: 0.7\n  anchor_step: 1\n",
        }.items()
    ),
    _ask("as text", "-n", "4", "--stats", "full", "--verbose", loose=_TIMES, questions=2),
    _ask("as text, shared", "-n", "4", "--prefill", "shared", loose=_TIMES, questions=2),
    _ask("as text, auto", "-n", "auto", loose=_TIMES, cheap=False),
    Case(
        "a clip and questions on stdin",
        ("ask", "-", "What?", *_TINY, "-n", "2", "--json"),
        stdin=(HERE / "shapes.mp4").read_bytes(),
        loose=_TIMES,
    ),
    Case(
        "questions on stdin",
        ("ask", "shapes.mp4", "-", *_TINY, "-n", "2"),
        stdin=b"What?\n\nWhere?\n",
        loose=_TIMES,
    ),
    *(
        Case(
            f"the clip {path}",
            ("ask", name, "What?", *_TINY, "-n", "2", "--json", "--max-new-tokens", "4"),
            {name: Path("data") / path},
            loose=_TIMES,
        )
        for path in (
            "unordered.mov",
            "video_90.mov",
            "corrupted.mp4",
            "hostile/long_duration_tag.mkv",
            "hostile/damaged/m1_00556_video_90.mov",
            "trials/a3_trim.mp4",
        )
        for name in (Path(path).name,)
    ),
    *(
        Case(
            " ".join(("demo", *options)),
            ("demo", "--save-clip", "demo.mp4", *options),
            unread=(".mp4",),
            loose=_TIMES,
            cheap=False,
        )
        for options in ((), ("--json", "--quiet"))
    ),
    Case("doctor", ("doctor", "-m", "tiny", "--json"), cheap=False),
]

_BATCH = ("batch", "clips", "-q", "What moves first?", "-q", "how many?", *_TINY, "-n", "2")
_ONE = ("batch", "clips/a.mp4", "-q", "What?", *_TINY, "--quiet")


def _batch(name: str, *arguments: str, **kept: bytes | str | Path) -> Case:
    return Case(name, arguments, {**_CLIPS, **kept}, loose=_TIMES)


BATCH = [
    _batch("to stdout", *_BATCH),
    _batch("to a file", *_BATCH, "-o", "rows.jsonl"),
    _batch("as csv", *_BATCH, "--quiet", "-o", "rows.csv", "--output-format", "csv"),
    *(
        _batch(f"half a file resumed, {cut}", *_BATCH, *to, **{"rows.jsonl": half})
        for cut in (3000, 9000)
        for half in (_ROWS["batch.jsonl"][:cut],)
        for to in (("-o", "rows.jsonl", "--resume"),)
    ),
    _batch(
        "half a table resumed",
        *(*_BATCH, "-o", "rows.csv", "--output-format", "csv", "--resume", "--quiet"),
        **{"rows.csv": _ROWS["batch.csv"][:500]},
    ),
    _batch(
        "a whole file resumed",
        *(*_BATCH, "-o", "rows.jsonl", "--resume"),
        **{"rows.jsonl": _ROWS["batch.jsonl"]},
    ),
    _batch(
        "failed rows asked again",
        *(*_BATCH, "-o", "rows.jsonl", "--resume", "--retry-failed"),
        **{"rows.jsonl": _ROWS["batch.jsonl"]},
    ),
    *(
        _batch(" ".join(options), *_ONE, *options)
        for options in (
            ("-n", "2", "--max-new-tokens", "3"),
            ("-n", "2", "--temperature", "0.7", "--seed", "3"),
            ("-n", "2", "--temperature", "0.7", "--top-p", "0.5"),
            ("--fps", "0.5", "--start", "1", "--end", "5"),
            ("-n", "2", "-p", "adatp-plus", "--budget", "0.2"),
            ("-n", "2", "-p", "random", "--seed", "5"),
            ("-n", "2", "-p", "vanilla", "--decoders", "0"),
        )
    ),
    _batch("-n auto", *_ONE, "-n", "auto"),
    Case(
        "a list on stdin",
        ("batch", "-", "-q", "What?", *_TINY, "-n", "2", "--quiet"),
        _CLIPS,
        stdin=b"clips/a.mp4\nclips/../clips/b.mov\nclips/none.mp4\n",
    ),
    _batch("a glob and a folder", "batch", "clips/*.m*", "clips", "-q", "What?", *_TINY, "-n", "2"),
    *(_batch(f"--shard {part}", *_BATCH, "--quiet", "--shard", part) for part in ("1/2", "2/2")),
    _batch(
        "a manifest",
        *("batch", "list.jsonl", *_TINY, "-n", "2"),
        **{
            "list.jsonl": '{"video": "clips/a.mp4", "question": "What?"}\n'
            '{"video": "clips/a.mp4", "question": "Where?"}\n'
            '{"video": "clips/none.mp4", "question": "Where?"}\n'
        },
    ),
    _batch(
        "a manifest as csv and questions in a file",
        *("batch", "list.csv", "--questions", "asked.txt", *_TINY, "-n", "2"),
        **{"list.csv": "video\nclips/a.mp4\nclips/bad.mp4\n", "asked.txt": "What?\nWhere?\n"},
    ),
    Case(
        "rows as a table", ("export", "rows.jsonl", "o.csv"), {"rows.jsonl": _ROWS["batch.jsonl"]}
    ),
    Case(
        "rows as parquet",
        ("export", "rows.jsonl", "more.jsonl", "out.parquet"),
        {"rows.jsonl": _ROWS["batch.jsonl"], "more.jsonl": _ROWS["eval.jsonl"]},
    ),
]

_EVAL = ("eval", "mine.jsonl", *_TINY, "-n", "2", "-p", "vanilla,adatp-light")
_SHAPES_OF = ("shapes", "--clips", "1", *_TINY, "-n", "2")


def _eval(name: str, *arguments: str, cheap: bool = True, **kept: bytes) -> Case:
    files = {**_CLIPS, "mine.jsonl": _MINE, **kept}
    return Case(name, arguments, files, loose=_TIMES, cheap=cheap, unread=(".png",))


EVAL = [
    _eval("to a file", *_EVAL, "-o", "rows.jsonl"),
    _eval("records", *_EVAL, "--json", "--quiet"),
    _eval("as the harness does", *_EVAL, "--rule", "harness"),
    *(
        _eval(f"half a file resumed, {cut}", *_EVAL, *to, **{"rows.jsonl": half})
        for cut in (5000, 14000)
        for half in (_ROWS["eval.jsonl"][:cut],)
        for to in (("-o", "rows.jsonl", "--resume"),)
    ),
    _eval(
        "failed rows asked again",
        *(*_EVAL, "-o", "rows.jsonl", "--resume", "--retry-failed"),
        **{"rows.jsonl": _ROWS["eval.jsonl"]},
    ),
    _eval("shapes", "eval", *_SHAPES_OF, "--json", "--quiet", "--clips-seed", "5"),
    _eval(
        "budgets against a profile",
        *("eval", *_SHAPES_OF, "-p", "vanilla,adatp,uniform", "--budgets", "0.5,0.3,0.01"),
        *("--against", "uniform", "--json"),
    ),
    _eval("a report", *_EVAL, "--report", "report", cheap=False),
    _eval(
        "a report of budgets",
        *("eval", *_SHAPES_OF, "-p", "vanilla,adatp,uniform", "--budgets", "0.5,0.3"),
        *("--against", "uniform", "--report", "report"),
        cheap=False,
    ),
]
BIAS = [
    Case("tables", ("bias", *_SHAPES_OF, "-p", "adatp"), loose=_TIMES),
    Case("one object", ("bias", *_SHAPES_OF, "-p", "fastv", "--json", "--quiet")),
    Case(
        "a report",
        ("bias", *_SHAPES_OF, "--report", "report"),
        loose=_TIMES,
        unread=(".png",),
        cheap=False,
    ),
]
_BENCH = ("bench", "shapes.mp4", *_TINY, "--repeat", "1", "--max-new-tokens", "3")
_MEASURED = r"\d+(\.\d+)?|(?<=^# tiny in float32 on ).*"
BENCH = [
    Case(
        "one object",
        (*_BENCH, "-n", "2", "-p", "adatp", "--json", "--quiet", "-o", "out.json"),
    ),
    Case("tables", (*_BENCH, "-n", "2,3,4", "-p", "adatp"), loose=_MEASURED, cheap=False),
    Case(
        "no tower",
        (*_BENCH, "-n", "2", "--no-vision", "--json", "--questions", "1", "-p", "fastv"),
        cheap=False,
    ),
    Case(
        "a plot",
        (*_BENCH, "-n", "2,3,4", "--json", "--plot", "plot.png"),
        unread=(".png",),
        cheap=False,
    ),
]
_SHOW = ("show", "shapes.mp4", "What moves first?", *_TINY, "-n", "4")
PICTURES = [
    Case("a page", (*_SHOW, "-o", "seen.html", "--compare", "fastvid"), loose=_TIMES),
    Case("a sheet", (*_SHOW, "-o", "seen.png", "--json"), loose=_TIMES),
    Case("a film", (*_SHOW, "-o", "seen.mp4"), unread=(".mp4",), loose=_TIMES, cheap=False),
]

# Of answers that differ by an option alone, a few are tests.
_DEAR = frozenset(
    {
        *("--fps 1", "--max-new-tokens 1", "--temperature 0.9 --top-p 0.5"),
        *("--budget 10% -p fastvid", "-p random --seed 7", "as text, shared"),
        *("a profile with its own frames", "a profile with no encoder"),
        *("a profile with original positions", "a profile with more rows"),
        *("the clip unordered.mov", "the clip video_90.mov", "the clip trials/a3_trim.mp4"),
        *("the clip hostile/damaged/m1_00556_video_90.mov", "questions on stdin"),
        *("-n 2 --temperature 0.7 --top-p 0.5", "-n 2 -p random --seed 5", "--shard 1/2"),
        *("-n 2 -p adatp-plus --budget 0.2", "half a file resumed, 3000", "-n auto"),
        *("a list on stdin", "half a file resumed, 5000", "as the harness does"),
    }
)
RECORDS, BATCH, EVAL = (
    [dataclasses.replace(case, cheap=case.cheap and case.name not in _DEAR) for case in cases]
    for cases in (RECORDS, BATCH, EVAL)
)
