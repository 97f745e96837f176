"""`adatp bench` as its users see it, on a small clip and a model of noise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image

import adatp_cli.bench
from tests.conftest import Run

SCHEMA = Path(adatp_cli.bench.__file__).with_name("bench_result.schema.json")
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
FEW = ("-n", "4", "--max-new-tokens", "3", "--dtype", "float32", "--repeat", "1")


@pytest.fixture
def bench(adatp: Run, checkpoint: Path, clip: Path) -> Any:
    def run(*arguments: str | Path) -> Any:
        return adatp("bench", clip, "-m", checkpoint, *FEW, *arguments)

    return run


def test_tables_on_stdout_and_the_result_in_a_file(bench: Any, tmp_path: Path) -> None:
    file, plot = tmp_path / "result.json", tmp_path / "plot.png"
    run = bench("-o", file, "--plot", plot)
    assert run.code == 0, run.err
    assert run.out.count("| seconds | plain transformers | vanilla | adatp |") == 1
    assert "## 4 frames" in run.out
    assert "random weights" not in run.out + run.err  # it is a checkpoint, as far as anyone knows
    result = json.loads(file.read_text())
    VALIDATOR.validate(result)
    assert [row["contender"] for row in result["rows"]] == [
        "plain transformers", "vanilla", "adatp",
    ]  # fmt: skip
    assert result["rows"][2]["tokens"]["generated"] == 3
    assert result["profiles"]["adatp"]["budget"] == 0.273
    with Image.open(plot) as picture:
        assert picture.size[0] > 500


def test_json_is_one_object_on_stdout(bench: Any) -> None:
    run = bench("--json", "-p", "adatp-light", "--frames", "3", "--no-vision", "--questions", "1")
    assert run.code == 0, run.err
    (result,) = run.records
    VALIDATOR.validate(result)
    assert [(row["frames"], row["contender"]) for row in result["rows"]] == [
        (frames, name) for frames in (3, 4) for name in ("plain transformers", "adatp-light")
    ]
    assert result["settings"] == {
        "repeat": 1, "questions": 1, "new_tokens": 3, "vision": False,
        "text_tokens": result["settings"]["text_tokens"],
    }  # fmt: skip
    assert result["model"]["random_weights"] is False


def test_random_weights_are_called_so_wherever_they_show(
    adatp: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adatp_cli.bench import synthetic
    from tests.test_bench_random import small

    monkeypatch.setattr(synthetic, "load_random", lambda *_: small())
    file = tmp_path / "result.json"
    arguments = ("bench", clip, "-m", "0.5b-random", *FEW, "-p", "adatp-light", "-o", file)
    run = adatp(*arguments)
    assert run.code == 0, run.err
    said = "random weights: time and memory mean something, answers nothing"
    assert said in run.out
    assert said in run.err
    assert json.loads(file.read_text())["model"]["random_weights"] is True
    assert adatp(*arguments).error.startswith(f"error: -o {file}: exists already")
    assert adatp(*arguments, "--overwrite").code == 0


def test_the_budget_is_for_those_that_prune(bench: Any) -> None:
    run = bench("--json", "--budget", "0.5")
    shares = [row["flops"]["paper"]["ratio"] for row in run.records[0]["rows"]]
    assert shares[:2] == [1.0, 1.0]
    assert shares[2] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repeat", "0"), "--repeat 0 is not from 1 to 1000"),
        (("--questions", "0"), "--questions 0 is not from 1 to 100"),
        (("--frames", "x"), "not numbers from 1 on"),
        (("--frames", "4,4"), "names a number twice"),
        (("--frames", "0"), "not numbers from 1 on"),
        (("--temperature", "1"), "bench decodes greedily"),
        (("--fps", "1"), "bench looks at numbers of frames"),
        (("--trace", "x.npz"), "--trace would slow"),
        (("--plot", "x.pdf"), "a plot is a .png file"),
        (("-o", "/nowhere/x.json"), "there is no such folder"),
        (("-p", "vanilla", "-p", "vanilla"), "two of the profiles are called"),
        (("--profiles", "vanilla,adatp-light,vanilla"), "two of the profiles are called"),
        (("--profiles", "vanilla,adapt"), "did you mean 'adatp'"),
    ],
)
def test_wrong_options(bench: Any, arguments: tuple[str, ...], message: str) -> None:
    run = bench(*arguments)
    assert run.code == 2
    assert message in run.error
    assert run.out == ""


def test_frames_are_named_once_each_in_any_form_and_those_beyond_the_context_left_out(
    bench: Any,
) -> None:
    run = bench("--json", "--frames", "2,3", "--frames", "2000", "--no-vision", "-p", "vanilla")
    (result,) = run.records
    VALIDATOR.validate(result)
    rows = result["rows"]
    assert [row["frames"] for row in rows] == [2, 2, 3, 3, 4, 4, 2000, 2000]
    assert [row["not_measured"] is None for row in rows] == [True] * 6 + [False] * 2
    assert "2000 frames and the question make a prompt of" in rows[-2]["not_measured"]
    assert [one["frames"] for one in result["scaling"]] == [[2, 3, 4]] * 2


def test_a_clip_that_is_missing_or_too_short(adatp: Run, checkpoint: Path, clip: Path) -> None:
    assert adatp("bench", "gone.mp4", "-m", checkpoint).code == 3
    run = adatp("bench", clip, "-m", checkpoint, "-n", "900", "--dtype", "float32")
    assert run.code == 2
    assert "900 frames are wanted, and it has 32" in run.error


def test_a_picture_without_matplotlib_is_refused_before_anything_is_measured(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    run = bench("--plot", "x.png")
    assert run.code == 4
    assert "--plot needs matplotlib" in run.error
