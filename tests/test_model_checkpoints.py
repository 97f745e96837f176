"""From names to files: aliases, folders, the cache, the hub, and a download that cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from adatp_cli.errors import ModelError, UsageError
from adatp_cli.model import hub as hub_module
from adatp_cli.model.checkpoints import NEEDED, Checkpoint, choose_auto, find, is_hub_id
from adatp_cli.model.layout import check_layout
from adatp_cli.text import readable_bytes
from tests.checkpoint import write_random_checkpoint
from tests.local_hub import COMMIT, LocalHub, locate, serve, talk_to

HALF_B = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
SEVEN_B = "llava-hf/llava-onevision-qwen2-7b-ov-hf"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("whole"), layers=1)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def _locate(name: str) -> tuple[Checkpoint, list[str]]:
    """What `locate` finds, and what it says meanwhile."""
    said: list[str] = []
    return locate(name, said.append), said


def _fetched(server: LocalHub) -> set[str]:
    """Files of which anything was sent."""
    return {
        path.split("/resolve/")[1].split("/", 1)[1]
        for _, path, _, sent in server.requests
        if "/resolve/" in path and sent
    }


# Names


@pytest.mark.parametrize(("device", "alias"), [("cuda:0", "7b"), ("cpu", "0.5b")])
def test_auto_goes_by_the_device(device: str, alias: str) -> None:
    assert choose_auto(device) == alias


def test_a_folder_is_used_as_it_is(folder: Path) -> None:
    found, said = _locate(str(folder))
    assert (found.folder, found.name, found.revision) == (folder, str(folder), None)
    assert said == []


@pytest.mark.parametrize(
    "name", ["owner/name", "llava-hf/llava-onevision-qwen2-7b-ov-hf", "a/b.c_d-e"]
)
def test_hub_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name", ["8b", "", "/no/such/folder", "a/b/c", "../no/such", "a/..", "a b/c", "./model", "a/"]
)
def test_names_that_mean_nothing_are_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        _locate(name)
    assert "tiny" in caught.value.hint


# Cache and hub


@pytest.fixture
def served(whole: Path, hub_server: LocalHub) -> LocalHub:
    """A hub that has the 0.5B, and an empty cache."""
    shutil.copytree(whole, hub_server.root / HALF_B)
    return hub_server


def test_a_first_download_is_announced_with_size_and_cheaper_choices(
    whole: Path, hub_server: LocalHub, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole, hub_server.root / SEVEN_B))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    found, said = _locate("7B")
    size = sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".bin", ".py")
    )
    assert found.name == SEVEN_B
    assert found.revision == COMMIT
    assert readable_bytes(size) in said[0]
    assert str(tmp_path / "cache") in said[0]
    assert "-m 0.5b needs about 1.8 GB" in said[0]
    assert "-m tiny needs none" in said[0]
    assert not [name for name in _fetched(hub_server) if name.endswith((".bin", ".py"))]


def test_half_a_download_is_completed_and_only_the_rest_is_announced(
    whole: Path, served: LocalHub
) -> None:
    folder = _locate("0.5b")[0].folder
    (folder / "tokenizer.json").unlink()
    _, said = _locate("0.5b")
    assert "in the cache without its tokenizer: fetching 1 file, " in said[0]
    assert readable_bytes((whole / "tokenizer.json").stat().st_size) in said[0]


def test_only_what_is_read_is_fetched() -> None:
    for name in ("pytorch_model.bin", "modeling_x.py", "model.pt", "README.md", "x.pkl", "a/b.py"):
        assert not any(fnmatch(name, pattern) for pattern in NEEDED)


@pytest.mark.parametrize("how", ["option", "environment", "network"])
def test_neither_cached_nor_reachable(
    how: str, served: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "environment")
    if how == "network":
        talk_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ModelError) as caught:
        find("0.5b", offline=how == "option")
    error = caught.value
    assert error.exit_code == 4
    assert HALF_B in error.message
    assert f"hf download {HALF_B}" in error.hint
    assert "adatp demo" in error.hint
    assert "-m tiny" in error.hint
    assert "moving coloured shapes and nothing else" in error.hint
    assert served.requests == []


def test_a_repository_that_is_not_there(served: LocalHub) -> None:
    with pytest.raises(ModelError, match="no model some/thing") as caught:
        _locate("some/thing")
    assert "HF_TOKEN" in caught.value.hint


@pytest.mark.parametrize(
    ("lacking", "said"),
    [("config.json", "no config.json"), ("model.safetensors", "no safetensors")],
)
def test_a_repository_that_could_not_be_loaded_is_not_fetched(
    lacking: str, said: str, served: LocalHub
) -> None:
    (served.root / HALF_B / lacking).unlink()
    (served.root / HALF_B / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=said):
        _locate(HALF_B)
    assert _fetched(served) == set()


def test_a_full_disk_is_told_before_the_download(
    served: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(hub_module, "shutil", SimpleNamespace(disk_usage=lambda _: usage))
    with pytest.raises(ModelError, match="1 kB left"):
        _locate("0.5b")
    assert _fetched(served) == {"config.json", "adatp.json"}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (2_500_000, "2.5 MB"), (16.1e9, "16.1 GB")],
)
def test_sizes_read_like_the_hubs(count: float, text: str) -> None:
    assert readable_bytes(count) == text


# The real adapter, against a hub on this machine and a cache folder of its own

SCRIPT = """
import json, sys
from adatp_cli.errors import AdatpError
from adatp_cli.model.checkpoints import find
from adatp_cli.model.hub import fetch
said = []
try:
    found = find(sys.argv[1], offline="--offline" in sys.argv)
    fetch([found.missing], said.append)
    print(json.dumps({"folder": str(found.folder), "revision": found.revision, "said": said}))
except AdatpError as error:
    print(json.dumps({"error": error.message, "hint": error.hint, "said": said}))
assert "torch" not in sys.modules
"""


def _in_process(home: Path, hub: LocalHub | None, *args: str, **environment: str) -> dict[str, Any]:
    settings = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_HOME": str(home),
        "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *args],
        env=settings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_download_and_cache_of_huggingface_hub(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "root" / HALF_B)
    (tmp_path / "root" / HALF_B / "pytorch_model.bin").write_bytes(b"pickle")
    home = tmp_path / "home"
    with serve(tmp_path / "root") as hub:
        first = _in_process(home, hub, "0.5b")
        assert first["revision"] == COMMIT
        assert "is not in the cache: fetching" in first["said"][0]
        assert check_layout(Path(first["folder"])).is_relative_to(home)
        assert not list(home.rglob("*.bin"))
        missing = _in_process(home, hub, "some/thing")
        assert "no model some/thing" in missing["error"]
    # The hub is gone: the cache answers, whatever the settings say about going out.
    for args, environment in (([], {}), (["--offline"], {}), ([], {"HF_HUB_OFFLINE": "1"})):
        again = _in_process(home, None, "0.5b", *args, **environment)
        assert again == {"folder": first["folder"], "revision": COMMIT, "said": []}
    for environment, why in (({}, "cannot be reached"), ({"HF_HUB_OFFLINE": "1"}, "offline")):
        refused = _in_process(home, None, "7b", **environment)
        assert why in refused["error"]
        assert "hf download llava-hf/llava-onevision-qwen2-7b-ov-hf" in refused["hint"]
