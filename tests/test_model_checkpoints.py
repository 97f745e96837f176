"""From names to files: aliases, folders, the cache, the hub, and everything that can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint import write_random_checkpoint
from local_hub import COMMIT, LocalHub, serve
from safetensors.torch import load_file, save_file

from adatp_cli.errors import ModelError, UsageError
from adatp_cli.model import checkpoints
from adatp_cli.model.checkpoints import NEEDED, choose_auto, is_hub_id, locate, readable_bytes
from adatp_cli.model.hub import HubNotFoundError, HubUnreachableError, RemoteFile
from adatp_cli.model.layout import check_layout, read_description
from adatp_cli.model.tensors import ByteSource

HALF_B = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("whole"), layers=1)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


class FakeHub:
    """A hub with at most one repository, `remote`, and a cache folder."""

    def __init__(self, cache: Path, remote: Path | None = None, *, offline: bool = False) -> None:
        self.cache_folder, self.remote, self.offline = cache, remote, offline
        self.failure: Exception | None = None
        self.fetched: list[str] = []

    def cached(self, repo: str) -> Path | None:
        snapshot = self.cache_folder / repo.replace("/", "--") / COMMIT
        return snapshot if snapshot.is_dir() else None

    def has_file(self, repo: str, path: str) -> bool:
        return (self.cache_folder / repo.replace("/", "--") / COMMIT / path).is_file()

    def files(self, repo: str, patterns: Sequence[str]) -> list[RemoteFile]:
        if self.failure:
            raise self.failure
        if self.remote is None:
            raise HubNotFoundError(repo)
        found = [path for path in self.remote.rglob("*") if path.is_file()]
        named = [(str(path.relative_to(self.remote)), path.stat().st_size) for path in found]
        return [
            RemoteFile(name, size)
            for name, size in named
            if any(fnmatch(name, pattern) for pattern in patterns)
        ]

    def fetch(self, repo: str, patterns: Sequence[str], progress: Callable[[str], None]) -> Path:
        progress(f"fetching {repo}")
        snapshot = self.cache_folder / repo.replace("/", "--") / COMMIT
        for file in self.files(repo, patterns):
            self.fetched.append(file.path)
            (snapshot / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.remote / file.path, snapshot / file.path)
        return snapshot

    def ranges(self, repo: str, path: str, revision: str) -> ByteSource:
        raise NotImplementedError

    def derived_folder(self, repo: str, revision: str) -> Path:
        raise NotImplementedError


def _locate(name: str, hub: FakeHub, *, offline: bool = False) -> tuple[Any, list[str]]:
    said: list[str] = []
    return locate(name, offline=offline, progress=said.append, hub=hub), said


# Names


@pytest.mark.parametrize(("cuda", "alias"), [(True, "7b"), (False, "0.5b")])
def test_auto_goes_by_the_device(cuda: bool, alias: str) -> None:
    assert choose_auto(cuda=cuda) == alias


def test_a_folder_is_used_as_it_is(folder: Path, tmp_path: Path) -> None:
    found, said = _locate(str(folder), FakeHub(tmp_path / "cache"))
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
def test_names_that_mean_nothing_are_a_usage_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        _locate(name, FakeHub(tmp_path))
    assert "tiny" in caught.value.hint


# Cache and hub


def test_a_first_download_is_announced_with_size_and_cheaper_choices(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    hub = FakeHub(tmp_path / "cache", folder)
    found, said = _locate("7B", hub)
    size = sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".bin", ".py")
    )
    assert found.name == "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    assert found.revision == COMMIT
    assert readable_bytes(size) in said[0]
    assert str(tmp_path / "cache") in said[0]
    assert "-m 0.5b needs about 1.8 GB" in said[0]
    assert "-m tiny needs none" in said[0]
    assert not [name for name in hub.fetched if name.endswith((".bin", ".py"))]


def test_what_is_cached_is_not_fetched_again(folder: Path, tmp_path: Path) -> None:
    hub = FakeHub(tmp_path / "cache", folder)
    _locate("0.5b", hub)
    hub.fetched.clear()
    hub.failure = HubUnreachableError("no route")
    for offline in (False, True):
        found, said = _locate("0.5b", hub, offline=offline)
        assert found.folder == hub.cached(HALF_B)
        assert said == hub.fetched == []


def test_half_a_download_is_completed_and_only_the_rest_is_announced(
    folder: Path, tmp_path: Path
) -> None:
    hub = FakeHub(tmp_path / "cache", folder)
    _locate("0.5b", hub)
    (hub.cache_folder / HALF_B.replace("/", "--") / COMMIT / "tokenizer.json").unlink()
    _, said = _locate("0.5b", hub)
    assert "fetching 1 files" in said[0]
    assert readable_bytes((folder / "tokenizer.json").stat().st_size) in said[0]


@pytest.mark.parametrize("how", ["option", "environment", "network"])
def test_neither_cached_nor_reachable(how: str, folder: Path, tmp_path: Path) -> None:
    hub = FakeHub(tmp_path / "cache", folder, offline=how == "environment")
    if how == "network":
        hub.failure = HubUnreachableError("Name or service not known")
    with pytest.raises(ModelError) as caught:
        _locate("0.5b", hub, offline=how == "option")
    error = caught.value
    assert error.exit_code == 4
    assert HALF_B in error.message
    assert f"hf download {HALF_B}" in error.hint
    assert "adatp demo" in error.hint
    assert "-m tiny" in error.hint
    assert "moving coloured shapes and nothing else" in error.hint
    assert hub.fetched == []


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model some/thing") as caught:
        _locate("some/thing", FakeHub(tmp_path))
    assert "HF_TOKEN" in caught.value.hint


@pytest.mark.parametrize(
    ("lacking", "said"),
    [("config.json", "no config.json"), ("model.safetensors", "no safetensors")],
)
def test_a_repository_that_could_not_be_loaded_is_not_fetched(
    lacking: str, said: str, folder: Path, tmp_path: Path
) -> None:
    (folder / lacking).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    hub = FakeHub(tmp_path / "cache", folder)
    with pytest.raises(ModelError, match=said):
        _locate("owner/name", hub)
    assert hub.fetched == []


def test_a_full_disk_is_told_before_the_download(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
    hub = FakeHub(tmp_path / "cache", folder)
    with pytest.raises(ModelError, match="1 kB left"):
        _locate("0.5b", hub)
    assert hub.fetched == []


# The real adapter, against a hub on this machine and a cache folder of its own

SCRIPT = """
import json, sys
from adatp_cli.errors import AdatpError
from adatp_cli.model.checkpoints import locate
from adatp_cli.model.hub import HuggingFaceHub
said = []
try:
    offline = "--offline" in sys.argv
    found = locate(sys.argv[1], offline=offline, progress=said.append, hub=HuggingFaceHub())
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


# Layouts


def _edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content.update({key: value for key, value in changes.items() if value is not None})
    for key in [key for key, value in changes.items() if value is None]:
        content.pop(key, None)
    path.write_text(json.dumps(content))


def _cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def _to_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _shard(folder: Path) -> None:
    """Split the weights in two files with an index, as large checkpoints are."""
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    parts = {
        "model-00001-of-00002.safetensors": names[:9],
        "model-00002-of-00002.safetensors": names[9:],
    }
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / file, metadata={"format": "pt"})
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def _lose_shard(folder: Path) -> None:
    _shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _empty_shard(folder: Path) -> None:
    _shard(folder)
    save_file({"x": torch.zeros(1)}, folder / "model-00002-of-00002.safetensors")


def _escape(folder: Path) -> None:
    content = {"weight_map": {"x": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


WRONG: list[tuple[str, Callable[[Path], object], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), "no config.json"),
    ("config is no JSON", lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    ("config is a list", lambda f: (f / "config.json").write_text("[]"), "JSON object"),
    ("another model", lambda f: _edit(f / "config.json", model_type="llava"), "is a 'llava' model"),
    (
        "another decoder",
        lambda f: _edit(f / "config.json", text_config={"model_type": "llama"}),
        "text_config is 'llama'",
    ),
    ("no tower", lambda f: _edit(f / "config.json", vision_config=None), "vision_config is None"),
    ("code", lambda f: _edit(f / "config.json", auto_map={"AutoModel": "x.Y"}), "code of its own"),
    (
        "quantized",
        lambda f: _edit(f / "config.json", quantization_config={"load_in_4bit": True}),
        "already quantized",
    ),
    ("no weights", lambda f: (f / "model.safetensors").unlink(), "no weights"),
    ("only pickles", _to_bin, "can run code"),
    ("empty weights", lambda f: _cut(f / "model.safetensors", 0), "does not begin like"),
    ("cut in the header", lambda f: _cut(f / "model.safetensors", 500), "ends inside its header"),
    ("cut in the data", lambda f: _cut(f / "model.safetensors", 200_000), "it has 200000 of its"),
    (
        "rubbish",
        lambda f: (f / "model.safetensors").write_bytes(b"<html>not found</html>" * 99),
        "does not begin like",
    ),
    (
        "header is no JSON",
        lambda f: (f / "model.safetensors").write_bytes((16).to_bytes(8, "little") + b"x" * 99),
        "header cannot be read",
    ),
    ("missing shard", _lose_shard, "lacks the weight file model-00002-of-00002"),
    (
        "shard without its tensors",
        _empty_shard,
        "tensors of the index",
    ),
    ("index that points outside", _escape, "outside its folder"),
    ("no tokenizer", lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
]


@pytest.mark.parametrize(("spoil", "said"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_layouts_are_one_clear_line(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=said) as caught:
        _locate(str(folder), FakeHub(tmp_path / "cache"))
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert str(folder) in caught.value.message


def test_shards_are_a_right_layout(folder: Path) -> None:
    _shard(folder)
    assert check_layout(folder) == folder


def test_only_what_is_read_is_fetched() -> None:
    for name in ("pytorch_model.bin", "modeling_x.py", "model.pt", "README.md", "x.pkl", "a/b.py"):
        assert not any(fnmatch(name, pattern) for pattern in NEEDED)


# adatp.json


def test_description(folder: Path) -> None:
    described = read_description(folder)
    assert described.default_frames == 16
    assert described.relevance_encoder == str(folder / "relevance")
    (folder / "adatp.json").write_text('{"relevance_encoder": "google/siglip"}')
    assert read_description(folder).relevance_encoder == "google/siglip"
    (folder / "adatp.json").unlink()
    assert read_description(folder).default_frames is None


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"default_frames": 0}', '{"default_frames": true}', '{"default_frames": "8"}',
     '{"relevance_encoder": 3}', '{"frames": 3}'],
)  # fmt: skip
def test_wrong_descriptions(folder: Path, text: str) -> None:
    (folder / "adatp.json").write_text(text)
    with pytest.raises(ModelError, match=r"adatp\.json"):
        read_description(folder)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (2_500_000, "2.5 MB"), (16.1e9, "16.1 GB")],
)
def test_sizes_read_like_the_hubs(count: float, text: str) -> None:
    assert readable_bytes(count) == text
