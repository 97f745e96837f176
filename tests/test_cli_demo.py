"""`adatp demo` and `adatp doctor`, here with a model of noise in the place of the bundled one."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from adatp_cli import machine
from adatp_cli.cli import open_model
from adatp_cli.errors import ModelError
from adatp_cli.model import checkpoints
from adatp_cli.record import schema_text
from adatp_cli.tiny.clips import write_demo_clip
from adatp_cli.video.decode import read_frames
from adatp_cli.video.sampling import Sampling
from tests.conftest import Run

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text()))


@pytest.fixture(scope="module")
def brief(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of noise with short answers: three of four tokens end one."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("brief") / "model")
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "eos_token_id": [n for n in range(512) if n % 4]}))
    return folder


@pytest.fixture
def bundle(brief: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoints, "bundled_folder", lambda: brief)
    return brief


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache and no way to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("no_hub")
def test_demo_shows_answers_beside_the_truth(adatp: Run, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "shapes.mp4"
    run = adatp("demo", "--save-clip", target)
    assert run.code == 0
    assert "tiny, the bundled model, knows moving coloured shapes and nothing else" in run.err
    lines = run.err.splitlines()
    told = [line for line in lines if line.startswith("wrong: the truth is ")]
    cost = [line for line in lines if " tokens kept, " in line]
    assert len(told) == len(cost) >= 4
    assert re.match(r"\d+ of 576 tokens kept, 27\.\d % of the LLM's work, \S+ s", cost[0])
    assert f"0 of {len(told)} answers right" in lines
    assert lines[-1].endswith('adatp ask CLIP "what happens?"')
    assert f'adatp show {target} "what happens?" -m tiny -o seen.html' in run.err
    info = read_frames(target, Sampling(frames=2)).info
    assert info.codec == "h264"
    machine = adatp(
        "demo", "--save-clip", target, "--overwrite", "--json", "-p", "vanilla", "--quiet"
    )
    assert machine.err == ""
    for record in machine.records:
        VALIDATOR.validate(record)
        assert record["profile"]["name"] == "vanilla"
        assert record["model"]["name"] == "tiny"
    assert "1. " + machine.records[0]["question"] in run.err


@pytest.mark.parametrize("name", ["clip.avi", "no/such/folder/clip.mp4", "folder.mp4"])
def test_demo_refuses_a_place_it_cannot_write_to(
    adatp: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    run = adatp("demo", "--save-clip", name)
    assert run.code == 2
    assert name in run.error


@pytest.mark.usefixtures("no_hub", "bundle")
def test_tiny_says_once_that_a_clip_is_not_of_its_world(
    adatp: Run, clip: Path, tmp_path: Path
) -> None:
    knows = "tiny knows moving coloured shapes and nothing else"
    few = ("-m", "tiny", "-n", "2", "--max-new-tokens", "2")
    assert adatp("ask", clip, "What?", "Where?", *few).err.count(knows) == 1
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clip, tmp_path / name)
    assert adatp("batch", tmp_path, "-q", "What?", *few).err.count(knows) == 1
    own = tmp_path / "shapes.mp4"
    write_demo_clip(own)
    assert knows not in adatp("ask", own, "What?", *few).err


@pytest.mark.usefixtures("no_hub")
def test_doctor_finds_a_machine_that_answers(adatp: Run, bundle: Path) -> None:
    run = adatp("doctor", "-m", "tiny")
    assert run.code == 0
    assert "PROBLEM" not in run.out
    assert "moving coloured shapes and nothing else" in run.out
    (report,) = adatp("doctor", "-m", "tiny", "--json").records
    assert report["ok"] is True
    assert report["bundled_model"] == str(bundle)
    assert report["decoders"]["pyav"] is True
    assert report["packages"]["torch"]
    assert report["devices"][0]["name"] == "cpu"
    assert report["devices"][0]["free_bytes"] > 0
    assert {model["name"]: model["state"] for model in report["models"]} == {
        "tiny": "bundled",
        "0.5b": "missing",
        "7b": "missing",
        "72b": "missing",
    }


@pytest.mark.usefixtures("no_hub")
def test_doctor_is_not_ready_where_the_plain_ask_would_fail(
    adatp: Run, bundle: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert adatp("ask", clip, "What?").code == 4
    run = adatp("doctor")
    assert run.code == 4
    (problem,) = [line for line in run.out.splitlines() if line.startswith("PROBLEM")]
    assert "`adatp ask` takes 0.5b here when it is not told, which is not in the cache" in problem
    assert problem.endswith("go online once to fetch it; now works: -m tiny")
    assert not any(line.startswith("ready") for line in run.out.splitlines())
    (report,) = adatp("doctor", "--json").records
    assert (report["ok"], report["fetches"], report["bundled_model"]) == (False, False, str(bundle))
    assert problem.endswith(report["problems"][0])

    def listed(*_given: Any) -> list[str]:
        return ["config.json"]

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("adatp_cli.model.hub.list_files", listed)
    run = adatp("doctor")
    assert run.code == 0
    assert "`adatp ask` fetches 0.5b before its first answer; ready now: -m tiny" in run.out


@pytest.mark.usefixtures("no_hub")
def test_doctor_holds_a_model_to_the_memory_as_ask_does(
    adatp: Run, bundle: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adatp_cli.model.memory.available_memory", lambda _device: 1000)
    assert adatp("ask", clip, "What?", "-m", bundle).code == 5
    run = adatp("doctor", "-m", bundle)
    assert run.code == 4
    assert "for its weights (none quantization), and cpu has 0.0 GiB free; " in run.out


@pytest.mark.usefixtures("no_hub")
def test_doctor_asks_for_the_model_that_is_named(
    adatp: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert adatp("doctor", "-m", bundle).code == 0
    for name in ("7b", "auto", "someone/else"):
        run = adatp("doctor", "-m", name)
        assert run.code == 4
        assert "PROBLEM    the model" in run.out
    monkeypatch.setenv("ADATP_MODEL", "72b")
    assert adatp("doctor").code == 4


@pytest.mark.usefixtures("no_hub")
def test_doctor_without_a_bundled_model(adatp: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise ModelError("the bundled model is missing from this installation (x)")

    monkeypatch.setattr(checkpoints, "bundled_folder", missing)
    (report,) = adatp("doctor", "--json").records
    assert report["bundled_model"] is None
    assert adatp("doctor").code == 4


@pytest.mark.usefixtures("no_hub")
def test_doctor_with_a_broken_package(
    adatp: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = importlib.import_module

    def broken(name: str, package: str | None = None) -> Any:
        if name in ("decord", "accelerate"):
            raise OSError(f"{name}.so: cannot open shared object file\nand more")
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    run = adatp("doctor")
    assert run.code == 4
    assert "decord does not work; PyAV decodes in its place" in run.out
    (problem,) = [line for line in run.out.splitlines() if line.startswith("PROBLEM")]
    assert (
        "accelerate cannot be imported (accelerate.so: cannot open shared object file)" in problem
    )


@pytest.mark.usefixtures("no_hub")
def test_a_package_that_does_not_go_with_torch_is_named(
    adatp: Run, bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "operator torchaudio::nms does not exist"
    (tmp_path / "torchaudio.py").write_text(f"raise RuntimeError({reason!r})")
    (tmp_path / "reader.py").write_text("import torchaudio")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(machine._USED, "transformers", "reader")
    monkeypatch.setattr(open_model, "import_libraries", lambda: importlib.import_module("reader"))
    run = adatp("doctor")
    assert run.code == 4
    (problem,) = [line for line in run.out.splitlines() if line.startswith("PROBLEM")]
    run = adatp("ask", clip, "What?", "-m", "tiny")
    assert run.code == 4
    for text in (problem, run.error):
        assert f"the package torchaudio cannot be imported ({reason})" in text
        assert "pip uninstall torchaudio" in text
