"""What a checkpoint's folder holds: wrong ones are one clear line, and `adatp.json` is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adatp_cli.errors import ModelError
from adatp_cli.model.checkpoints import find
from adatp_cli.model.layout import check_layout, read_description
from tests.checkpoint import write_random_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("whole"), layers=1)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


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
    folder: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=said) as caught:
        find(str(folder), offline=True)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert str(folder) in caught.value.message


def test_shards_are_a_right_layout(folder: Path) -> None:
    _shard(folder)
    assert check_layout(folder) == folder


# adatp.json


def test_description(folder: Path) -> None:
    described = read_description(folder)
    assert described.default_frames == 16
    assert described.relevance_encoder == str(folder / "relevance")
    (folder / "adatp.json").write_text('{"relevance_encoder": "google/siglip"}')
    assert read_description(folder).relevance_encoder == "google/siglip"
    (folder / "adatp.json").unlink()
    assert read_description(folder).default_frames == 32


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"default_frames": 0}', '{"default_frames": true}', '{"default_frames": "8"}',
     '{"relevance_encoder": 3}', '{"frames": 3}'],
)  # fmt: skip
def test_wrong_descriptions(folder: Path, text: str) -> None:
    (folder / "adatp.json").write_text(text)
    with pytest.raises(ModelError, match=r"adatp\.json"):
        read_description(folder)
