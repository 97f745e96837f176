"""`adatp models`: what is here and what is missing, fetching it, and where it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adatp_cli.cli import models
from adatp_cli.model.checkpoints import DEFAULT_ENCODER
from tests.checkpoint import write_random_checkpoint, write_random_relevance
from tests.conftest import Finished, Run
from tests.local_hub import LocalHub

HALF_B = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repositories")
    write_random_checkpoint(root / HALF_B, layers=1, relevance=False)
    (root / HALF_B / "adatp.json").unlink()
    write_random_relevance(root / DEFAULT_ENCODER, whole=True)
    return root


@pytest.fixture
def served(repositories: Path, hub_server: LocalHub) -> LocalHub:
    shutil.copytree(repositories, hub_server.root, dirs_exist_ok=True)
    return hub_server


def _line(run: Finished, name: str) -> str:
    (line,) = [line for line in run.out.splitlines() if line.startswith(name)]
    return line


def test_what_is_not_here_is_listed_with_its_size_and_nothing_is_asked(
    adatp: Run, served: LocalHub
) -> None:
    run = adatp("models", "list")
    assert run.code == 0
    assert "here, " in _line(run, "tiny:")
    assert "moving coloured shapes and nothing else" in _line(run, "tiny:")
    assert _line(run, "0.5b:") == "0.5b: not here, 1.8 GB to fetch"
    assert _line(run, "72b:") == "72b: not here, 146.0 GB to fetch"
    assert "not here, 1.9 GB" in _line(run, DEFAULT_ENCODER)
    assert served.requests == []


def test_a_model_is_pulled_with_its_encoder_and_has_a_path(adatp: Run, served: LocalHub) -> None:
    gone = adatp("models", "path", "0.5b")
    assert gone.code == 4
    assert "`adatp models pull 0.5b` fetches" in gone.error
    pulled = adatp("models", "pull", "0.5b")
    assert pulled.code == 0
    assert "in all" in pulled.err
    assert "0.5b: here, " in pulled.err
    path = adatp("models", "path", "0.5b")
    assert (Path(path.out.strip()) / "config.json").is_file()
    assert (Path(adatp("models", "path", DEFAULT_ENCODER).out.strip()) / "tokenizer.json").is_file()
    rows = {row["name"]: row for row in adatp("models", "list", "--json").records}
    assert rows["0.5b"]["state"] == rows[DEFAULT_ENCODER]["state"] == "cached"
    assert rows["0.5b"]["missing"] == rows[DEFAULT_ENCODER]["missing"] == ""
    assert rows["7b"]["state"] == "absent"


def test_what_is_missing_is_named_and_pulled(adatp: Run, served: LocalHub) -> None:
    adatp("models", "pull", "0.5b", "--no-encoder")
    folder = Path(adatp("models", "path", "0.5b").out.strip())
    (folder / "tokenizer.json").unlink()
    assert "in the cache without its tokenizer" in _line(adatp("models", "list"), "0.5b:")
    assert adatp("models", "pull", "0.5b", "--no-encoder").code == 0
    assert (folder / "tokenizer.json").is_file()


def test_pull_finds_damage_within_a_file(adatp: Run, served: LocalHub) -> None:
    adatp("models", "pull", "0.5b", "--no-encoder")
    path = Path(adatp("models", "path", "0.5b").out.strip()) / "model.safetensors"
    data = path.read_bytes()
    path.resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    run = adatp("models", "pull", "0.5b", "--no-encoder")
    assert "is damaged in the cache" in run.err
    assert path.read_bytes() == data


def test_a_model_that_cannot_be_compared_is_not_called_damaged(
    adatp: Run, served: LocalHub
) -> None:
    adatp("models", "pull", "0.5b", "--no-encoder")
    served.refusal = (503, "")
    run = adatp("models", "pull", "0.5b", "--no-encoder")
    assert run.code == 4
    assert f"{HALF_B} is in the cache, unchecked, and the hub cannot be reached" in run.error


@pytest.mark.parametrize("answer", ["n", "", "y"])
def test_gigabytes_wait_for_a_yes_on_a_terminal(
    adatp: Run, served: LocalHub, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(models, "_ASK_FROM", 1000)
    monkeypatch.setattr(models, "_at_terminal", lambda: True)
    run = adatp("models", "pull", "0.5b", "--no-encoder", stdin=f"{answer}\n".encode())
    fetched = any(path.endswith("model.safetensors") for _, path, *_ in served.requests)
    assert fetched == (answer == "y")
    assert run.code == (0 if answer == "y" else 130)
    assert "llava-hf/llava-onevision-qwen2-0.5b-ov-hf is not in the cache: fetching" in run.err
    assert "fetch it? [y/N] " in run.err
    assert run.out == ""


def test_a_name_that_is_none_is_a_usage_error(adatp: Run) -> None:
    run = adatp("models", "path", "tinny")
    assert run.code == 2
    assert "did you mean 'tiny'?" in run.error
