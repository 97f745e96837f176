"""Loading: what is asked for is what stands in memory, and the encoder that belongs to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, LlavaOnevisionForConditionalGeneration

from adatp_cli.errors import ModelError
from adatp_cli.model.device import LAYERS, count_quantized, verify_quantization
from adatp_cli.model.layout import weight_bytes
from tests.checkpoint import GRID, write_random_checkpoint, write_random_relevance
from tests.loading_case import answer_logits, load_folder

LINEARS = {"model.vision_tower": 24, "model.multi_modal_projector": 2, "lm_head": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("whole"), layers=3)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


# What the folder's files become


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_in_the_hubs_layout_loads_by_path(whole: Path, dtype: str) -> None:
    loaded = load_folder(whole, dtype=dtype)
    assert (loaded.name, loaded.revision, loaded.folder) == (str(whole), None, whole)
    assert (loaded.quantization, loaded.dtype, loaded.device) == ("none", dtype, "cpu")
    assert loaded.model.dtype == getattr(torch, dtype)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.shape.grid == GRID
    assert loaded.shape.language.layers == 3
    assert loaded.shape.language.head_dim == 48
    assert loaded.shape.vision.patches == 144
    assert loaded.default_frames == 16
    assert loaded.context_length == 32768
    assert loaded.relevance is not None
    assert torch.isfinite(answer_logits(loaded)).all()


def test_the_loaded_weights_are_the_files(whole: Path) -> None:
    state = load_file(whole / "model.safetensors")
    parameters = dict(load_folder(whole, dtype="float32").model.named_parameters())
    for name, saved in (
        ("model.image_newline", "image_newline"),
        (f"{LAYERS}.2.mlp.up_proj.weight", "language_model.model.layers.2.mlp.up_proj.weight"),
    ):
        assert torch.equal(parameters[name], state[saved].float())


def _mapped(path: Path) -> list[range]:
    """Addresses at which this process has a file mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    places = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [range(int(low, 16), int(high, 16)) for low, high in places]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux's account of mappings")
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_weights_stay_in_the_mapped_file(whole: Path, quantization: str) -> None:
    """Nothing is read into memory of its own but what is quantized."""
    loaded = load_folder(whole, dtype="bfloat16", quantization=quantization)
    mapped = _mapped(whole / "model.safetensors")
    held = {
        name: any(value.data_ptr() in place for place in mapped)
        for name, value in loaded.model.named_parameters()
        if value.dtype == torch.bfloat16
    }
    assert len(held) > 50
    assert all(held.values()), [name for name, inside in held.items() if not inside]


def test_attention_is_fused_and_decoding_is_greedy(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": True, "top_k": 3}))
    model = load_folder(folder).model
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert not model.generation_config.do_sample
    assert model.generation_config.top_k != 3
    assert len(model.generation_config.eos_token_id) == 2


def _published(name: str) -> str:
    # The published files keep the names of the classes that they were once saved from.
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def _todays(name: str) -> str:
    return "model." + name.replace("language_model.model.", "language_model.", 1)


@pytest.mark.parametrize("rename", [_published, _todays])
def test_tensor_names_of_all_ages_load(whole: Path, folder: Path, rename: Any) -> None:
    state = load_file(folder / "model.safetensors")
    renamed = {rename(name): value for name, value in state.items()}
    if rename is _published:  # which hold the tied head a second time
        head = renamed["language_model.model.embed_tokens.weight"].clone()
        renamed["language_model.lm_head.weight"] = head
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(answer_logits(load_folder(folder)), answer_logits(load_folder(whole)))
    assert weight_bytes(folder, "bfloat16") == weight_bytes(whole, "bfloat16")


def test_weights_in_bytes(whole: Path) -> None:
    sizes = weight_bytes(whole, "bfloat16")
    state = load_file(whole / "model.safetensors")
    assert sizes["none"] == sum(value.numel() * 2 for value in state.values())
    decoder = sum(
        value.numel()
        for name, value in state.items()
        if ".layers." in name and "language" in name and value.ndim == 2
    )
    assert sizes["none"] - sizes["int8"] == decoder
    assert weight_bytes(whole, "float32")["none"] == 2 * sizes["none"]


def test_the_processors_template_wins_over_the_tokenizers(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages[0].content }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_folder(folder).tokenizer.chat_template == template


# What is quantized


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
def test_only_the_decoder_is_quantized(whole: Path, quantization: str) -> None:
    plain, loaded = load_folder(whole), load_folder(whole, quantization=quantization)
    assert count_quantized(loaded.model) == {
        **{part: (number, 0) for part, number in LINEARS.items()},
        LAYERS: (3 * 7, 3 * 7),
    }
    before = dict(plain.model.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        if "vision_tower" in name or "multi_modal_projector" in name or "newline" in name:
            assert torch.equal(parameter, before[name]), name
    similarity = torch.cosine_similarity(answer_logits(plain), answer_logits(loaded), dim=0)
    assert 0.8 < similarity < 1 - 1e-6


def test_a_quantized_tower_is_noticed(whole: Path) -> None:
    # With a bare name the library matches nothing and quantizes tower and head without a word.
    settings = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["vision_tower"])
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(
        whole, quantization_config=settings, device_map={"": "cpu"}
    )
    with pytest.raises(ModelError, match=r"nf4 quantization went wrong: 24 of 24 .* model\.vision"):
        verify_quantization(model, "nf4")


def test_a_decoder_left_whole_is_noticed(whole: Path) -> None:
    with pytest.raises(ModelError, match=r"0 of 21 linear layers of model\.language_model\.layers"):
        verify_quantization(load_folder(whole).model, "nf4")


# The relevance encoder that belongs to it


def test_which_encoder(whole: Path, tmp_path: Path) -> None:
    for none in ("none", "attention"):
        assert load_folder(whole, relevance=none).relevance is None
    own = load_folder(whole).relevance
    other = load_folder(
        whole, relevance=str(write_random_relevance(tmp_path / "other", seed=5))
    ).relevance
    assert own is not None
    assert other is not None
    assert own.name == str(whole / "relevance")
    assert not torch.equal(own.text_vector("a circle"), other.text_vector("a circle"))
