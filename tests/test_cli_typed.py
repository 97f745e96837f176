"""What people type: slips and shortcuts are taken or told, in adatp's own words."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import adatp_cli.model.load
from adatp_cli.cli.evaluate import read_budgets
from adatp_cli.errors import ModelError
from adatp_cli.model.checkpoints import Checkpoint, find
from adatp_cli.profiles import load_profile, read_share
from adatp_cli.video.source import local_path
from tests.conftest import Run

# Phrases of the libraries that read the command line and check its values.
FOREIGN = re.compile(
    r"Input should|Value error|Invalid value|unable to parse|Missing (argument|option|command)"
    r"|No such|unexpected extra|requires an argument|does not take"
)


@pytest.fixture
def here(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `a.mp4` and `a b.mp4`; the home folder is `home` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("a.mp4", "a b.mp4", "home/c.mp4"):
        shutil.copy(clip, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", None),
        ("profiles", None),
        (
            "ask",
            "VIDEO is missing; usage: adatp ask [OPTIONS] VIDEO QUESTION...; `adatp ask --help`",
        ),
        ("ask a.mp4", "QUESTION is missing"),
        ("batch", "SOURCE is missing"),
        (
            "show a.mp4 what",
            "--output is missing; usage: adatp show [OPTIONS] VIDEO QUESTION; `adatp show --help`",
        ),
        (
            "profiles show",
            "NAME is missing; usage: adatp profiles show [OPTIONS] NAME; `adatp profiles",
        ),
        ("bach", "there is no command 'bach' (did you mean 'batch'?); one of: ask, batch"),
        ("profiles shwo", "there is no command 'shwo' (did you mean 'show'?); one of: list"),
        ("xyzzy", "there is no command 'xyzzy'; one of: ask"),
        ("ask a.mp4 what --modle tiny", "there is no option --modle (did you mean --model?)"),
        ("ask a.mp4 what --frob", "there is no option --frob; `adatp ask --help`"),
        ("ask a.mp4 what --no-quiet", "there is no option --no-quiet (did you mean --quiet?)"),
        ("ask a.mp4 -what", "there is no option -w"),
        ("ask a.mp4 -what", "put -- before a file or question that starts with a dash"),
        ("--frob", "there is no option --frob; `adatp --help`"),
        ("ask a.mp4 what -n", "-n needs a value; as in -n N|auto"),
        ("ask a.mp4 what --quantize", "--quantize needs a value; one of: auto, none, int8"),
        ("ask a.mp4 what --json=1", "--json takes no value; leave out what stands behind it"),
        ("ask a.mp4 what --seed x", "--seed 'x' is not a whole number"),
        ("ask a.mp4 what --max-new-tokens 1.5", "'1.5' is not a whole number; as in --max-new"),
        ("ask a.mp4 what --fps fast", "--fps 'fast' is not a number"),
        ("ask a.mp4 what --temperature hot", "--temperature 'hot' is not a number"),
        ("ask a.mp4 what -Q int3", "--quantize 'int3' is not known (did you mean 'int8'?); one of"),
        ("batch a.mp4 -q what --decoders 99", "--decoders '99' is above 64"),
        ("batch a.mp4 -q what --decoders -1", "--decoders '-1' is below 0"),
        ("show a.mp4 what is this -o a.png", "nothing more is taken here: is this; put quotes"),
        ("schema now", "nothing more is taken here: now"),
        ("ask a.mp4 what --quiet --verbose", "--quiet and --verbose exclude each other"),
    ],
)
def test_a_slip_is_told_in_our_own_words(adatp: Run, typed: str, said: str | None) -> None:
    run = adatp(*typed.split())
    assert run.code == 2
    assert not FOREIGN.search(run.err)
    if said is None:
        assert run.err == ""
    else:
        assert said in run.error


def test_a_flag_shows_no_value_in_any_help(adatp: Run) -> None:
    for command in ("", "ask", "batch", "bench", "bias", "demo", "doctor", "eval", "profiles"):
        run = adatp(*command.split(), "--help")
        assert "--help" in run.out
        assert "<bool>" not in run.out


def test_a_deleted_current_folder_is_one_line(
    adatp: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for command in (
        "ask /clip.mp4 what",
        "demo",
        "doctor",
        "batch /clips -q what",
        "profiles list",
    ):
        run = adatp(*command.split())
        assert run.code == 2
        assert "the current folder has been deleted; cd to one that exists" in run.error
    assert adatp("--help").code == 0
    os.chdir(tmp_path)


TOLD_AT_ONCE = {
    "ask a.mp4 what -m tinny": "known name (did you mean 'tiny'?)",
    "show a.mp4 what -o a.png -m 7bb": "known name (did you mean '7b'?)",
    "batch . -q what -m 0.5": "known name (did you mean '0.5b'?)",
    "bench -m 7b-radnom": "known name (did you mean '7b-random'?)",
    "ask a.mp4 what -m 7b-random": "--model 7b-random: only `adatp bench` builds it",
    "profiles show adatp -m tinny": "known name (did you mean 'tiny'?)",
    "doctor -m tinny": "known name (did you mean 'tiny'?)",
    "ask a.mp4 what -p adapt": "no profile named 'adapt' (did you mean 'adatp'?)",
    "eval shape": "there is no dataset 'shape' (did you mean 'shapes'?)",
    "ask a.mp4 what --device gpu": "--device 'gpu' is not known; use auto, cpu, cuda",
    "ask a.mp4 what --temperature -1": "the temperature -1 is not above 0",
    "ask a.mp4 what --max-new-tokens 0": "at least one new token",
    "ask a.mp4 what --budget 150%": "the budget 1.5 is not a share",
    "eval shapes --budgets 50,0.2": "the budget 50 is not a share",
}


def test_a_wrong_name_or_value_is_told_before_pytorch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from adatp_cli.cli.app import main\n"
        f"for line in {list(TOLD_AT_ONCE)!r}:\n"
        "    print(main(line.split()), 'torch' in sys.modules, file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = run.stderr.splitlines()
    assert lines[1::2] == ["2 False"] * len(TOLD_AT_ONCE)
    for told, said in zip(lines[::2], TOLD_AT_ONCE.values(), strict=True):
        assert said in told


def test_a_known_name_wins_over_a_folder_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("tiny", "7b"):
        (tmp_path / name).mkdir()

    def called(name: str) -> str:
        try:
            found = find(name, offline=True)
        except ModelError as error:
            return error.message
        assert isinstance(found, Checkpoint)
        return found.name

    assert called("tiny") == "tiny"
    assert called("7B").startswith("llava-hf/llava-onevision-qwen2-7b-ov-hf is not in the cache")
    assert called("./tiny") == "tiny is no model: it has no config.json"
    assert called("./7b") == "7b is no model: it has no config.json"


def test_a_share_may_be_a_percentage_wherever_one_is_taken(adatp: Run, tmp_path: Path) -> None:
    assert read_share("25%") == read_share(" 25 % ") == read_share("0.25") == 0.25
    assert read_budgets("30%,0.1") == (0.3, 0.1)
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nmethod: adatp\nbudget: 25%\n")
    assert load_profile(file).budget == 0.25
    file.write_text("name: mine\nmethod: adatp\nbudget: half%\n")
    assert (
        "budget expects a number or null, not 'half%'" in adatp("profiles", "validate", file).error
    )
    assert "budget: 0.25" in adatp("profiles", "show", "adatp", "--budget", "25%").out


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (
            ("ask", "a.mp4", "a b.mp4", "What is it?"),
            2,
            "the question 'a b.mp4' is a file; several clips are a batch: "
            "adatp batch a.mp4 'a b.mp4' -q 'What is it?'",
        ),
        (("ask", "a.mp4", "none.mp4"), 2, "adatp batch a.mp4 none.mp4 -q QUESTION"),
        (("ask", "-", "a.mp4"), 2, "the question 'a.mp4' is a file"),
        (("show", "a.mp4", "a b.mp4", "-o", "x.png"), 2, "the question 'a b.mp4' is a file"),
        (
            ("ask", "What is it?", "a.mp4"),
            2,
            "VIDEO 'What is it?' is no file, and the question 'a.mp4' is one; the video comes "
            "first: adatp ask a.mp4 'What is it?'",
        ),
        (("show", "What?", "a.mp4", "-o", "x.png"), 2, "the video comes first"),
        (("ask", "a.mp4", "--quiet", "true", "What?"), 2, "'true' is none: flags take no value"),
        (
            ("ask", "https://x.org/v.mp4?t=1", "What?"),
            3,
            "https://x.org/v.mp4?t=1: is an address, and adatp reads files of this machine; "
            "curl -L 'https://x.org/v.mp4?t=1' | adatp ask - QUESTION",
        ),
        (("ask", "RTSP://cam/1", "What?"), 3, "ffmpeg -i RTSP://cam/1 -t 60 -c copy clip.mkv"),
        (("show", "s3://x/v.mp4", "What?", "-o", "x.png"), 3, "copy it to this machine first"),
        (("ask", "file://server/a.mp4", "What?"), 3, "copy it to this machine first"),
        (("bench", "http://x.org/a.mp4"), 3, "http://x.org/a.mp4: is an address"),
        (("ask", "file:///none%20such.mp4", "What?"), 3, "/none such.mp4: no such file"),
        (("profiles", "validate", "~/mine.yaml"), 2, "mine.yaml: there is no such profile file"),
    ],
)
def test_arguments_that_are_meant_otherwise_are_told(
    adatp: Run, here: Path, typed: tuple[str, ...], code: int, said: str
) -> None:
    run = adatp(*typed)
    assert run.code == code
    assert said in run.error


def test_a_question_without_quotes_is_noted(adatp: Run, here: Path) -> None:
    def noted(*questions: str) -> bool:
        return "put quotes around" in adatp("ask", "a.mp4", *questions, "-p", "none").err

    assert noted("what", "is", "it")
    assert noted("what", "is", "it?")
    assert not noted("what")
    assert not noted("What is it?", "Where?")
    assert not noted("What?", "Where?")
    assert not noted("What is it", "-")


def test_paths_are_taken_as_people_and_programs_write_them(here: Path) -> None:
    home = str(here / "home" / "c.mp4")
    assert local_path("a.mp4") == "a.mp4"
    assert local_path(f"file://{here}/a%20b.mp4") == str(here / "a b.mp4")
    assert local_path(f"FILE://localhost{here}/a%20b.mp4") == str(here / "a b.mp4")
    assert local_path("~/c.mp4") == local_path("~/c.mp4", "clips") == home
    assert local_path("c.mp4", "home") == os.path.join("home", "c.mp4")
    assert local_path("http://x.org/a.mp4", "home") == "http://x.org/a.mp4"
    (here / "http:").mkdir()
    (here / "http:" / "a.mp4").touch()
    assert local_path("http://a.mp4") == "http://a.mp4"
    (here / "~").mkdir()
    (here / "~" / "c.mp4").touch()
    assert local_path("~/c.mp4") == "~/c.mp4"


def test_home_behind_an_equals_sign_is_home(adatp: Run, here: Path) -> None:
    run = adatp("profiles", "show", "adatp", "--model=~/none")
    assert f"--model {here}/home/none: there is no such folder" in run.error


FAR = "name: far\nmethod: adatp\nbudget: 0.3\nlocal: "


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("-p far.yaml", "local.first_layer is 900 and local.last_layer 9, but tokens are dropped"),
        ("-p past.yaml", "in layers 1 to 9 of this model's 0 to 15; choose layers in that range"),
        ("--budget 0.001", "the smallest reachable budget here is"),
        ("-p fastv.yaml", "fastv.layer is 900, but this model has layers 0 to 15"),
    ],
)
def test_a_profile_that_a_model_cannot_have_is_told_before_it_is_loaded(
    adatp: Run, here: Path, monkeypatch: pytest.MonkeyPatch, typed: str, said: str
) -> None:
    (here / "far.yaml").write_text(FAR + "{first_layer: 900}\n")
    (here / "past.yaml").write_text(FAR + "{last_layer: 16}\n")
    (here / "fastv.yaml").write_text("name: f\nmethod: fastv\nbudget: 0.5\nfastv: {layer: 900}\n")
    monkeypatch.setattr(adatp_cli.model.load, "_load_weights", None)
    for command in ("ask a.mp4 What?", "show a.mp4 What? -o x.html", "batch a.mp4 -q What?"):
        run = adatp(*command.split(), "-m", "tiny", *typed.split())
        assert run.code == 2
        assert said in run.error


def test_a_local_step_that_is_off_may_name_any_layer(adatp: Run, here: Path) -> None:
    (here / "off.yaml").write_text(FAR + "{first_layer: 900, mode: 'off'}\n")
    assert adatp("profiles", "show", "off.yaml", "-m", "tiny").code == 0
    (here / "far.yaml").write_text(FAR + "{first_layer: 900}\n")
    assert adatp("profiles", "show", "far.yaml", "-m", "tiny").code == 2


def test_budgets_that_nobody_can_reach_are_refused_before_a_model_is_loaded(
    adatp: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adatp_cli.model.load, "_load_weights", None)
    for profiles in ("adatp", "vanilla,adatp,fastv"):
        run = adatp("eval", "shapes", "-m", "tiny", "-p", profiles, "--budgets", "0.001,0.1%")
        assert run.code == 2
        assert "a budget is given twice" in run.error
        run = adatp("eval", "shapes", "-m", "tiny", "-p", profiles, "--budgets", "0.001,0.002")
        assert run.code == 2
        assert "no profile can reach any of these budgets; the smallest reachable" in run.error


def test_a_missing_matplotlib_is_exit_4_wherever_a_picture_is_wanted(
    adatp: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for command in ("show a.mp4 What? -o x.png", "show a.mp4 What? -o x.mp4", "bench --plot x.png"):
        run = adatp(*command.split(), "-m", "tiny")
        assert run.code == 4
        assert "needs matplotlib, which is not installed" in run.error


def test_a_second_comparison_is_refused(adatp: Run, here: Path) -> None:
    run = adatp(
        *[
            "show",
            "a.mp4",
            "What?",
            "-o",
            "x.png",
            "--compare",
            "fastv",
            "--compare",
            "vanilla",
            "-m",
            "tiny",
        ]
    )
    assert run.code == 2
    assert "--compare is given twice, and a picture shows two profiles" in run.error
