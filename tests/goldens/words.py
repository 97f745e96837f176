"""Cases that run no model: help, profiles, and what is refused."""

from __future__ import annotations

from pathlib import Path

from tests.goldens.runs import Case

BUNDLED = [
    "adatp",
    "adatp-aggressive",
    "adatp-light",
    "adatp-plus",
    "adatp-progressive",
    "adatp-segments",
    "adatp-strict",
    "adatp-weights",
    "fastv",
    "fastvid",
    "pyramiddrop",
    "pyramiddrop-early",
    "random",
    "unicomp",
    "uniform",
    "vanilla",
    "vidcom2",
]


def _line(typed: str, **kept: object) -> Case:
    return Case(typed, tuple(typed.split()), **kept)  # type: ignore[arg-type]


_COMMANDS = """\
ask
batch
bench
bias
demo
doctor
eval
export
models
models list
models path
models pull
profiles
profiles list
profiles show
profiles validate
schema
show
"""

HELP = [
    _line("--help"),
    *(_line(f"{command} --help") for command in _COMMANDS.splitlines()),
    _line("schema"),
    _line("models path tiny"),
    _line("models list"),
    _line("models list --json"),
]

MINE = """\
name: mine
description: a profile of my own
method: {method}
budget: {budget}
"""


def _mine(text: str = "", method: str = "adatp", budget: object = 0.3) -> str:
    return MINE.format(method=method, budget=budget) + text


PROFILES = [
    _line("profiles list"),
    _line("profiles list --json"),
    *(
        _line(f"profiles show {name}{options}")
        for name in BUNDLED
        for options in ("", " --json", " -m tiny")
    ),
    *(
        _line(f"profiles show adatp {options}")
        for options in (
            "-m 0.5b",
            "-m 72b -n 64",
            "-n auto",
            "--budget 10%",
            "--budget 0.5 -m tiny -n 8 --json",
        )
    ),
    *(
        Case(f"a file of {method}", ("profiles", "show", "mine.yaml"), {"mine.yaml": text})
        for method, text in {
            "defaults": _mine(),
            "percent": _mine(budget="25%"),
            "one knob": _mine("segments:\n  threshold: 0.5\n"),
            "layers": _mine("schedule:\n  first_layer: 3\n  last_layer: 9\n"),
            "frames": _mine("frames: 12\nreuse_frames: 0.05\npositions: compact\n"),
            "a null section": _mine("fastv: null\n"),
            "fastv": _mine("fastv:\n  layer: 5\n", "fastv"),
            "random": _mine("random:\n  seed: 7\n", "random"),
            "pyramiddrop": _mine("pyramiddrop:\n  stages: early\n", "pyramiddrop"),
            "vidcom2": _mine("vidcom2:\n  count: release\n", "vidcom2"),
            "fastvid": _mine("fastvid:\n  segments: 3\n  context: 0.1\n", "fastvid"),
            "unicomp": _mine("unicomp:\n  token_threshold: 1\n", "unicomp"),
            "adatp-plus": _mine("entry:\n  left: 1\n  merge: 0\n", "adatp-plus"),
            "vanilla": _mine(method="vanilla", budget="null"),
        }.items()
    ),
    _line("profiles validate adatp"),
    Case("a valid file", ("profiles", "validate", "mine.yaml"), {"mine.yaml": _mine()}),
]

# Each knob out of its range or of another type, by section.
_KNOBS = {
    "adatp": {
        "schedule.first_layer": ("0", "-1", "1.5", "first", "null", "true"),
        "schedule.last_layer": ("0", "last", "[3]"),
        "segments.signal": ("towr", "1", "null"),
        "segments.threshold": ("1.5", "-2", "high", ".nan", ".inf", "null"),
        "segments.tower_threshold": ("2", "yes"),
        "relevance.encoder": ("' '", "1", "null"),
        "relevance.weight": ("-1", "1001", "much"),
        "relevance.text_tokens": ("0", "4097", "1.5"),
        "local.mode": ("refil", "true"),
        "local.representative": ("last", "0"),
        "local.first_layer": ("0", "auto2"),
        "local.last_layer": ("0",),
        "scores.rows": ("0", "65", "'1'"),
    },
    "adatp-plus": {
        "entry.left": ("0", "1.1", "half"),
        "entry.context": ("-0.1", "2"),
        "entry.anchor_step": ("0", "4097"),
        "entry.merge": ("1.01",),
        "entry.neighbours": ("0", "1.0"),
        "relevance.encoder": ("none", "attention"),
    },
    "fastv": {"fastv.layer": ("0", "1001", "two")},
    "pyramiddrop": {"pyramiddrop.stages": ("late", "2")},
    "random": {"random.layer": ("0",), "random.seed": ("-1", "1e3", "99999999999999999999")},
    "uniform": {"uniform.layer": ("0",)},
    "vidcom2": {"vidcom2.count": ("exakt",)},
    "fastvid": {
        "fastvid.encoder": ("''",),
        "fastvid.segments": ("0",),
        "fastvid.threshold": ("1.5",),
        "fastvid.context": ("1.5",),
        "fastvid.anchor_step": ("0",),
        "fastvid.merge": ("-1",),
        "fastvid.neighbours": ("5000",),
    },
    "unicomp": {
        "unicomp.encoder": ("3",),
        "unicomp.frame_threshold": ("2.5",),
        "unicomp.token_threshold": ("-0.5",),
    },
}

_BAD_PROFILES = {
    **{
        f"{method}: {knob} is {value}": _mine(
            "{}:\n  {}: {}\n".format(*knob.split("."), value), method
        )
        for method, knobs in _KNOBS.items()
        for knob, values in knobs.items()
        for value in values
    },
    **{
        f"budget is {value}": _mine(budget=value)
        for value in ("0", "-0.1", "1.01", "null", "150%", "half%", "most", ".nan", "true")
    },
    "vanilla with a budget": _mine(method="vanilla"),
    **{
        f"{key} is {value}": _mine(f"{key}: {value}\n")
        for key, value in {
            "frames": "0",
            "reuse_frames": "1.5",
            "positions": "orginal",
            "schedule": "fast",
            "shedule": "1",
            "fastv": "{}",
            "1": "2",
            "'a\\nb'": "2",
        }.items()
    },
    "frames of another type": _mine("frames: many\n"),
    "the first layer behind the last": _mine("schedule:\n  first_layer: 9\n  last_layer: 3\n"),
    "an unknown key in a section": _mine("segments:\n  treshold: 0.5\n"),
    "an unlike key in a section": _mine("segments:\n  xyzzy: 0.5\n"),
    "an unknown method": _mine(method="adapt"),
    "a method of another type": _mine(method="[adatp]"),
    "no method": "name: mine\nbudget: 0.3\n",
    "no name": "method: adatp\nbudget: 0.3\n",
    "an empty name": _mine().replace("name: mine", "name: ' '"),
    "two lines of description": _mine().replace("a profile of my own", '"a\\nb"'),
    "nothing": "",
    "a list": "- name\n",
    "a word": "adatp\n",
    "no YAML": "name: [mine\n",
    "a key twice": _mine("budget: 0.2\n"),
    "an alias": _mine("segments: &a\n  threshold: 0.5\nlocal: *a\n"),
    "a tag": _mine("frames: !!int 3\n"),
    "two documents": _mine("---\nname: other\n"),
    "a tab": "name:\tmine\n\tmethod: adatp\n",
    "a NUL": "name: mine\0\n",
    "too large": _mine("# " + 70_000 * "x" + "\n"),
    "deep": _mine("segments: " + 500 * "[" + 500 * "]" + "\n"),
}

_ASK = "ask shapes.mp4 What?"
_TINY = "-m tiny -n 2 --dtype float32"

_TYPED = f"""\

profiles
ask
ask shapes.mp4
batch
show shapes.mp4 What?
profiles show
export rows.jsonl
bach
profiles shwo
xyzzy
--frob
{_ASK} --modle tiny
{_ASK} --frob
{_ASK} --no-quiet
ask shapes.mp4 -what
{_ASK} -n
{_ASK} --quantize
{_ASK} --json=1
{_ASK} --seed x
{_ASK} --max-new-tokens 1.5
{_ASK} --fps fast
{_ASK} --temperature hot
{_ASK} -Q int3
batch clips -q What? --decoders 99
batch clips -q What? --decoders -1
show shapes.mp4 What? is this -o a.png
schema now
{_ASK} --quiet --verbose
{_ASK} --budget 0
{_ASK} --budget 1.5
{_ASK} --budget 150%
{_ASK} --budget nan
{_ASK} --budget most
{_ASK} --budget 0.5 -p vanilla
{_ASK} --budget 0.001 {_TINY}
{_ASK} --budget 0.1 -p pyramiddrop {_TINY}
{_ASK} -p adapt
{_ASK} -p none.yaml
{_ASK} -p folder.yaml
{_ASK} -p ''
{_ASK} -p bad.yaml
{_ASK} --frames 0
{_ASK} --frames many
{_ASK} --fps 0
{_ASK} --start soon
{_ASK} --start 3 --end 2
{_ASK} --start 1:00:00 {_TINY}
{_ASK} --start -1
{_ASK} --dtype float8
{_ASK} --device gpu
{_ASK} --device cuda:x
{_ASK} --max-new-tokens 0
{_ASK} --temperature -1
{_ASK} --temperature nan
{_ASK} --temperature 0 --top-p 0.9
{_ASK} --top-p 0.9
{_ASK} --top-p 2 --temperature 1
{_ASK} --seed 99999999999999999999
{_ASK} --seed -1
{_ASK} --clip-timeout 0
{_ASK} --prefill chaper
{_ASK} --stats all
{_ASK} --trace t.json
{_ASK} --trace /no/such/folder/t.npz
{_ASK} --trace there.npz {_TINY}
{_ASK} --trace notes.txt/t.npz {_TINY}
{_ASK} -m tinny
{_ASK} -m 7bb
{_ASK} -m 7b-random
{_ASK} -m ./none
{_ASK} -m ./clips
{_ASK} -m some-one/some-model --offline
{_ASK} -m 0.5b --offline
{_ASK} -m tiny -Q nf4 --device cuda
ask shapes.mp4 {_TINY} --
ask none.mp4 What? {_TINY}
ask clips What? {_TINY}
ask notes.txt What? {_TINY}
ask empty.mp4 What? {_TINY}
ask clips/bad.mp4 What? {_TINY}
ask pancake_05.mkv What? {_TINY}
ask pancake_10.mp4 What? {_TINY}
ask shapes.mp4 shapes.mp4 {_TINY}
ask What? shapes.mp4 {_TINY}
ask https://x.org/v.mp4?t=1 What?
ask rtsp://cam/1 What?
ask s3://x/v.mp4 What?
ask file:///none.mp4 What? {_TINY}
ask - What? {_TINY}
ask shapes.mp4 - {_TINY}
ask - - {_TINY}
ask /dev/null What? {_TINY}
batch none -q What? {_TINY}
batch folder -q What? {_TINY}
batch clips {_TINY}
batch clips -q What? --resume {_TINY}
batch clips -q What? -o there.jsonl {_TINY}
batch clips -q What? -o there.jsonl --resume {_TINY}
batch clips -q What? -o notes.txt --resume {_TINY}
batch clips -q What? --retry-failed {_TINY}
batch clips -q What? -o there.jsonl --overwrite --resume {_TINY}
batch clips -q What? -o /no/such/folder/rows.jsonl {_TINY}
batch clips -q What? -o folder {_TINY}
batch clips -q What? --output-format xml {_TINY}
batch clips -q What? --shard 3/2 {_TINY}
batch clips -q What? --shard one {_TINY}
batch clips --questions none.txt {_TINY}
batch clips --questions empty.mp4 {_TINY}
batch list.jsonl {_TINY}
batch broken.jsonl {_TINY}
batch - -q What? {_TINY}
batch clips/*.avi -q What? {_TINY}
batch clips -q What? --null {_TINY}
eval shape
eval videomme
eval videomme --data none
eval videomme --data clips
eval none.jsonl {_TINY}
eval notes.txt {_TINY}
eval broken.jsonl {_TINY}
eval list.jsonl {_TINY}
eval shapes --budgets 50,0.2
eval shapes --budgets ''
eval shapes --clips 0
eval shapes --clips-seed -1
eval shapes --against uniform -p vanilla {_TINY}
eval shapes -p adatp,adatp {_TINY}
eval shapes -p vanilla,adapt {_TINY}
eval shapes --data clips {_TINY}
eval shapes --rule lax
eval shapes --report notes.txt {_TINY}
eval shapes --clips 1 -o there.jsonl {_TINY}
eval shapes --clips 1 --retry-failed {_TINY}
eval shapes --clips 1 --trace t.npz {_TINY}
bias shapes --clips 1 --trace t.npz {_TINY}
batch clips -q What? --trace t.npz {_TINY}
bias shapes --clips 0
bias none.jsonl {_TINY}
bias shapes --report notes.txt {_TINY}
bench none.mp4 {_TINY}
bench clips {_TINY}
bench shapes.mp4 --repeat 0
bench shapes.mp4 --questions 0
bench shapes.mp4 -n 0
bench shapes.mp4 -n 4,x
bench -m 7b-radnom
bench shapes.mp4 -o there.json {_TINY}
bench shapes.mp4 --plot plot.txt {_TINY}
bench shapes.mp4 --no-vision -n 2 -m tiny --start 3 --end 2
show shapes.mp4 What? -o seen.txt
show shapes.mp4 What? -o there.png {_TINY}
show shapes.mp4 What? -o /no/such/folder/seen.png
show shapes.mp4 What? -o seen.png --compare adapt
show none.mp4 What? -o seen.png {_TINY}
export none.jsonl out.csv
export rows.jsonl out.txt
export broken.jsonl out.csv
export there.jsonl out.csv
export notes.txt out.parquet
export rows.jsonl there.csv
demo --save-clip shapes.mp4
demo --save-clip clip.avi
demo -p adapt
doctor -m tinny
models path 0.5b
models path tinny
models pull tinny
models path none/none
profiles show adapt
profiles show none.yaml
profiles show adatp -m tinny
profiles show adatp --budget 2
profiles show vanilla --budget 0.5
profiles show adatp -n 0
profiles validate ~/none/mine.yaml
profiles validate notes.txt
profiles validate shapes.mp4
profiles validate shapes.yaml
"""

_ROW = '{"video": "shapes.mp4", "question": "What?", "answer": "B", "options": ["red", "blue"]}\n'
WORLD: dict[str, str | bytes | Path] = {
    "notes.txt": "hello\n",
    "empty.mp4": "",
    "clips/bad.mp4": "no clip at all",
    "folder/notes.txt": "hello\n",
    "folder.yaml/notes.txt": "hello\n",
    "pancake_05.mkv": Path("data/hostile/pancake_05.mkv"),
    "pancake_10.mp4": Path("data/hostile/pancake_10.mp4"),
    "bad.yaml": _mine("frames: 0\n"),
    "shapes.yaml": Path("goldens/shapes.mp4"),
    "list.jsonl": '{"video": "none.mp4", "questoin": "What?"}\n',
    "broken.jsonl": _ROW + "{no json\n",
    "rows.jsonl": _ROW,
    **dict.fromkeys(("there.npz", "there.jsonl", "there.json", "there.png", "there.csv"), "here\n"),
}

REFUSALS = [
    *(
        Case(f"adatp {typed}", tuple(typed.replace("''", "").split(" ")) if typed else (), WORLD)
        for typed in _TYPED.splitlines()
    ),
    *(
        Case(f"a profile: {name}", ("profiles", "validate", "mine.yaml"), {"mine.yaml": text})
        for name, text in _BAD_PROFILES.items()
    ),
]
