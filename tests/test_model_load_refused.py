"""What cannot be loaded is one clear line: odd values, wrong files, too little memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionForConditionalGeneration

from adatp_cli.errors import MemoryLimitError, ModelError, UsageError
from adatp_cli.model import memory as memory_module
from adatp_cli.model.layout import weight_bytes
from tests.checkpoint import write_random_checkpoint
from tests.loading_case import load_folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("whole"), layers=3)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.mark.parametrize(
    "options", [{"dtype": "int8"}, {"quantization": "int4"}, {"device": "tpu"}]
)
def test_unknown_values_are_usage_errors(whole: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(options.values()))):
        load_folder(whole, **options)


# Files


def _rewrite(folder: Path, change: Any) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("image_newline"), "lacks 1 weights, model.image_newline"),
        (lambda state: state.update(extra=torch.zeros(2)), "no place for 1 weights, extra"),
        (
            lambda state: state.update({"image_newline": torch.zeros(7)}),
            "wrong size of 1 weights, model.image_newline",
        ),
    ],
)
def test_weights_that_are_not_the_configurations(folder: Path, change: Any, said: str) -> None:
    _rewrite(folder, change)
    with pytest.raises(ModelError, match=said) as caught:
        load_folder(folder)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tokenizer.json", "{", "tokenizer"),
        ("tokenizer.json", '{"model": {}}', "tokenizer"),
        ("preprocessor_config.json", "[", "preprocessor"),
        ("video_preprocessor_config.json", '{"size": 64}', "takes 96"),
        ("config.json", None, "cannot be loaded|config"),
    ],
)
def test_files_that_cannot_be_used(folder: Path, name: str, text: str | None, said: str) -> None:
    if name == "preprocessor_config.json":
        (folder / "video_preprocessor_config.json").unlink()
    if text is None:
        content = json.loads((folder / name).read_text())
        content["text_config"]["hidden_size"] = "wide"
        text = json.dumps(content)
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=said) as caught:
        load_folder(folder)
    assert "\n" not in caught.value.message


def test_a_tokenizer_without_the_video_token(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text()) | {"video_token_index": 77}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="no token for videos"):
        load_folder(folder)


def test_no_template_at_all(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_folder(folder)


# Memory


def test_weights_that_do_not_fit_the_memory(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = weight_bytes(whole, "bfloat16")
    monkeypatch.setattr(memory_module, "available_memory", lambda _: sizes["none"] - 1)
    with pytest.raises(MemoryLimitError, match="for its weights") as caught:
        load_folder(whole, dtype="bfloat16", relevance="none")
    assert "--quantize nf4" in caught.value.hint
    assert (
        load_folder(whole, dtype="bfloat16", quantization="nf4", relevance="none").quantization
        == "nf4"
    )


def test_memory_that_runs_out_while_loading(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(LlavaOnevisionForConditionalGeneration, "from_pretrained", fail)
    with pytest.raises(MemoryLimitError) as caught:
        load_folder(whole)
    assert caught.value.exit_code == 5


# The relevance encoder


def test_without_a_named_encoder_siglip_is_wanted(folder: Path) -> None:
    (folder / "adatp.json").unlink()
    with pytest.raises(ModelError, match="google/siglip-so400m-patch14-384") as caught:
        load_folder(folder, offline=True)
    assert "adatp-light" in caught.value.hint


def test_an_encoder_of_another_tower_is_refused(folder: Path) -> None:
    path = folder / "relevance"
    content = json.loads((path / "config.json").read_text())
    content["vision_config"]["hidden_size"] = 64
    (path / "config.json").write_text(json.dumps(content))
    head = load_file(path / "model.safetensors")
    for name, value in head.items():
        if name.startswith("vision_model."):
            shape = [64 if size == 128 else 192 if size == 384 else size for size in value.shape]
            head[name] = torch.zeros(shape)
    save_file(head, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="width 64"):
        load_folder(folder)
