"""Downloads as they go wrong: refused, cut off, stopped, damaged, and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from adatp_cli.errors import MemoryLimitError, ModelError
from adatp_cli.model import hub as hub_module
from adatp_cli.model import memory as memory_module
from adatp_cli.model.checkpoints import DEFAULT_ENCODER, Checkpoint, find_relevance
from adatp_cli.model.hub import fetch
from adatp_cli.model.load import LoadRequest, load_model
from adatp_cli.text import readable_bytes
from tests.checkpoint import write_random_checkpoint, write_random_relevance
from tests.local_hub import LocalHub, locate, locate_encoder

REPO = "owner/model"
HALF_B = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("whole"), layers=1, relevance=False)
    (folder / "adatp.json").unlink()
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_relevance(tmp_path_factory.mktemp("siglip"), whole=True)


@pytest.fixture
def root(whole: Path, siglip: Path, tmp_path: Path) -> Path:
    for repo in (REPO, HALF_B):
        shutil.copytree(whole, tmp_path / "root" / repo)
    shutil.copytree(siglip, tmp_path / "root" / DEFAULT_ENCODER)
    return tmp_path / "root"


@pytest.fixture
def served(root: Path, hub_server: LocalHub) -> LocalHub:
    assert hub_server.root == root
    return hub_server


def _locate(repo: str = REPO, said: list[str] | None = None) -> Checkpoint:
    said = [] if said is None else said
    return locate(repo, said.append)


def _load(said: list[str], **options: str) -> None:
    request = LoadRequest(model="0.5b", device="cpu", **options)
    load_model(request, said.append)


def _bodies(server: LocalHub, name: str) -> list[tuple[str | None, int]]:
    return [
        (wanted, sent)
        for method, path, wanted, sent in server.requests
        if method == "GET" and path.endswith(f"/{name}")
    ]


def _refusal(repo: str = REPO) -> ModelError:
    with pytest.raises(ModelError) as caught:
        _locate(repo)
    assert "\n" not in caught.value.message
    return caught.value


# Judged before anything large is fetched


def test_another_model_is_refused_by_its_configuration_alone(served: LocalHub, root: Path) -> None:
    name = "lmms-lab/llava-onevision-qwen2-7b-ov"
    shutil.copytree(root / REPO, root / name)
    (root / name / "config.json").write_text('{"model_type": "llava"}')
    error = _refusal(name)
    assert f"{name} is a 'llava' model" in error.message
    assert "-m llava-hf/llava-onevision-qwen2-7b-ov-hf" in error.hint
    assert _bodies(served, "model.safetensors") == _bodies(served, "tokenizer.json") == []


@pytest.mark.parametrize(
    ("file", "said"), [("adapter_config.json", "is an adapter (LoRA)"), ("q4.gguf", "as GGUF")]
)
def test_what_is_no_model_is_called_what_it_is(
    served: LocalHub, root: Path, file: str, said: str
) -> None:
    (root / REPO / "config.json").unlink()
    (root / REPO / file).write_text("{}")
    assert said in _refusal().message


def test_what_cannot_fit_the_memory_is_not_fetched(
    served: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "available_memory", lambda _: 1000)
    with pytest.raises(MemoryLimitError, match="for its weights"):
        _load([], relevance="none")
    assert _bodies(served, "model.safetensors") == []


def test_model_and_encoder_are_announced_together(served: LocalHub, root: Path) -> None:
    said: list[str] = []
    _load(said)
    first = next(text for text in said if "fetching" in text)
    assert HALF_B in first
    assert "its text tower and pooling head, 2.5 MB of its 5.9 MB" in first
    assert "in all" in first
    assert "-p adatp-light needs no encoder" in first
    assert "-m tiny needs none" in first
    model = sum(path.stat().st_size for path in (root / HALF_B).iterdir())
    assert readable_bytes(model + 2.5e6)[:3] in first


def test_an_encoder_that_is_not_to_be_had_is_told_before_the_model_is_fetched(
    served: LocalHub, root: Path
) -> None:
    shutil.rmtree(root / DEFAULT_ENCODER)
    with pytest.raises(ModelError, match="no relevance encoder google/siglip") as caught:
        _load([])
    assert _bodies(served, "model.safetensors") == []
    assert "HF_TOKEN" in caught.value.hint


def test_a_folder_does_not_make_anyone_ask_the_hub(
    served: LocalHub, whole: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / "adatp.json").write_text('{"relevance_encoder": "evil-owner/evil-repo"}')
    request = LoadRequest(model=str(folder), device="cpu")
    with pytest.raises(ModelError, match="evil-owner/evil-repo, which is not fetched unasked"):
        load_model(request, lambda _: None)
    assert served.requests == []


# What is here in part


@pytest.mark.parametrize(
    ("lost", "what"),
    [
        (["preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"],
         "preprocessor"),
        (["chat_template.jinja"], "chat template"),
        (["tokenizer.json"], "tokenizer"),
    ],
)  # fmt: skip
def test_a_cache_without_small_files_is_completed(
    served: LocalHub, lost: list[str], what: str
) -> None:
    folder = _locate().folder
    for name in lost:
        (folder / name).unlink()
    served.requests.clear()
    said: list[str] = []
    assert _locate(said=said).folder == folder
    assert f"in the cache without its {what}: fetching" in said[0]
    assert all((folder / name).is_file() for name in lost)
    assert _bodies(served, "model.safetensors") == []


def test_an_encoder_without_its_tokenizer_is_completed(served: LocalHub) -> None:
    def find() -> Path:
        return locate_encoder(DEFAULT_ENCODER, lambda _: None).folder

    folder = find()
    (folder / "tokenizer.json").unlink()
    served.requests.clear()
    assert (find() / "tokenizer.json").is_file()
    assert _bodies(served, "model.safetensors") == []


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_blob_is_fetched_anew(served: LocalHub, root: Path, damage: str) -> None:
    path = _locate().folder / "model.safetensors"
    blob = path.resolve()
    if damage == "cut":
        os.truncate(blob, 5000)
    else:
        blob.write_bytes(b"x" * blob.stat().st_size)
        os.truncate(blob, blob.stat().st_size - 1)
    said: list[str] = []
    _locate(said=said)
    assert "is damaged in the cache: fetching 1 file" in said[0]
    assert path.read_bytes() == (root / REPO / "model.safetensors").read_bytes()


def test_a_damaged_configuration_is_fetched_anew(served: LocalHub) -> None:
    path = _locate().folder / "tokenizer_config.json"
    path.resolve().write_bytes(b"<" * path.stat().st_size)
    _locate()
    assert isinstance(json.loads(path.read_text()), dict)


# Interrupted


class _Stop:
    """Presses Ctrl-C when a part of the download is here."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, text: str) -> None:
        self.said.append(text)
        percent = text.rsplit(":", 1)[-1].split("%")[0].strip()
        if text.startswith("fetching") and percent.isdigit() and 0 < int(percent) < 100:
            raise KeyboardInterrupt


def test_a_stopped_download_says_so_and_goes_on_where_it_was(
    served: LocalHub, root: Path, tmp_path: Path
) -> None:
    stop, name = _Stop(), "model.safetensors"
    with pytest.raises(KeyboardInterrupt):
        locate(REPO, stop)
    assert "stopped at" in stop.said[-1]
    assert "goes on from there" in stop.said[-1]
    (partial,) = (tmp_path / "cache").rglob("*.incomplete")
    here = partial.stat().st_size
    assert here > 0
    served.requests.clear()
    path = _locate().folder / name
    assert path.read_bytes() == (root / REPO / name).read_bytes()
    assert _bodies(served, name)[0] == (
        f"bytes={here}-{path.stat().st_size - 1}", path.stat().st_size - here
    )  # fmt: skip
    assert list((tmp_path / "cache").rglob("*.incomplete")) == []


def test_an_unfinished_file_of_other_bytes_is_not_gone_on_with(
    served: LocalHub, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        locate(REPO, _Stop())
    (partial,) = (tmp_path / "cache").rglob("*.incomplete")
    partial.write_bytes(b"x" * partial.stat().st_size)
    path = _locate().folder / "model.safetensors"
    assert path.read_bytes() == (root / REPO / "model.safetensors").read_bytes()


def test_a_file_that_arrives_damaged_twice_is_refused(
    served: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_sha256", lambda _path: "0" * 64)
    assert "model.safetensors arrives damaged" in _refusal().message
    assert len(_bodies(served, "model.safetensors")) == 2


def test_a_stopped_copy_of_the_encoder_goes_on_where_it_was(
    served: LocalHub, tmp_path: Path
) -> None:
    stop = _Stop()
    with pytest.raises(KeyboardInterrupt):
        locate_encoder(DEFAULT_ENCODER, stop)
    assert "goes on from there" in stop.said[-1]
    (partial,) = (tmp_path / "assets").rglob("*.partial")
    here = partial.stat().st_size
    old = partial.with_name("text-tower-and-head.safetensors.12345.partial")
    old.write_bytes(b"x")
    served.requests.clear()
    found = locate_encoder(DEFAULT_ENCODER, stop.said.append)
    size = found.weights[0].stat().st_size
    sent = sum(count for _, count in _bodies(served, "model.safetensors"))
    assert sent < size - here + 200_000  # and its header
    assert list((tmp_path / "assets").rglob("*.partial")) == []
    shutil.rmtree(found.weights[0].parent)
    again = locate_encoder(DEFAULT_ENCODER, stop.said.append)
    assert again.weights[0].stat().st_size == size


def test_an_encoder_that_another_process_fetched_meanwhile_is_not_fetched_again(
    served: LocalHub,
) -> None:
    found = find_relevance(DEFAULT_ENCODER, offline=False)
    assert found.missing is not None
    weights = locate_encoder(DEFAULT_ENCODER, lambda _: None).weights
    served.requests.clear()
    fetch([found.missing], lambda _: None)
    assert found.weights == weights
    assert weights[0].is_file()
    assert _bodies(served, "model.safetensors") == []


def test_old_unfinished_files_go(served: LocalHub, tmp_path: Path) -> None:
    blobs = tmp_path / "cache" / f"models--{REPO.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    old, new = blobs / "abc.1234abcd.incomplete", blobs / "def.1234abcd.incomplete"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 3600,) * 2)
    _locate()
    assert [path.name for path in blobs.glob("*.incomplete")] == [new.name]


# Refused, silent, somebody else, no room


@pytest.mark.parametrize(
    ("status", "code", "token", "said", "hint"),
    [
        (403, "GatedRepo", None, "is gated", f"https://huggingface.co/{REPO}"),
        (401, "GatedRepo", None, "is gated", f"https://huggingface.co/{REPO}"),
        (403, "", "hf_x", "(403)", f"https://huggingface.co/{REPO}"),
        (401, "", "hf_x", "refuses your token", "hf auth login"),
        (401, "RepoNotFound", None, "no model owner/model that you may read", "HF_TOKEN"),
        (503, "", None, "cannot be reached", "hf download"),
    ],
)
def test_refusals(
    served: LocalHub,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    token: str | None,
    said: str,
    hint: str,
) -> None:
    served.refusal = (status, code)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    error = _refusal()
    assert said in error.message
    assert hint in error.hint


def test_a_sign_in_page_is_not_taken_for_the_hub(served: LocalHub) -> None:
    served.page = b"<html>Welcome to our hotel</html>"
    assert "sign-in page" in _refusal().message


def test_a_hub_that_says_nothing_is_given_up(
    served: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_FIRST_ANSWER_S", 0.2)
    served.silent = True
    assert "cannot be reached" in _refusal().message


def test_a_cache_that_cannot_be_written(
    served: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    error = _refusal()
    assert f"the cache {tmp_path / 'file' / 'hub'} cannot be written" in error.message
    assert "HF_HOME" in error.hint


def _largest_partial(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*.incomplete"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return max(sizes)


def test_ctrl_c_ends_a_download_that_stands_still(
    served: LocalHub, root: Path, tmp_path: Path
) -> None:
    served.stall_after = 600_000
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": served.url}
    script = (
        "from tests.local_hub import locate\n"
        f"locate({REPO!r}, lambda text: print(text, flush=True))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    while not _largest_partial(tmp_path / "home") >= 500_000:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "stopped at" in out.splitlines()[-1]
