"""The relevance encoder: SigLIP's own vectors from a part of its weights, fetched in parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import SiglipModel, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from adatp_cli.cost import RelevanceShape
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.model.checkpoints import find_relevance
from adatp_cli.model.hub import HubError, read_ranges
from adatp_cli.model.relevance import (
    Pooling,
    QuestionTokenizer,
    RelevanceEncoder,
    canonical,
    load_relevance,
)
from adatp_cli.model.tensors import copy_tensors, file_source, read_header
from tests.checkpoint import IMAGE_SIZE, write_random_relevance
from tests.local_hub import COMMIT, LocalHub, serve

REPO = "owner/siglip"
WANTED = ("text_model.", "vision_model.head.", "vision_model.post_layernorm.")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every tensor of a SiglipModel, as the hub's repositories have."""
    return write_random_relevance(tmp_path_factory.mktemp("siglip"), whole=True)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "encoder"))


def _load(folder: Path, dtype: torch.dtype = torch.float32) -> RelevanceEncoder:
    files = find_relevance(str(folder), offline=True)
    return load_relevance(str(folder), files, width=128, device="cpu", dtype=dtype)


# The vectors


def _frame_vectors(encoder: RelevanceEncoder, hidden: torch.Tensor) -> torch.Tensor:
    return encoder.vectors(encoder.look(hidden)[0])


def test_vectors_are_those_of_the_whole_model(whole: Path) -> None:
    encoder, model = _load(whole), SiglipModel.from_pretrained(whole).eval()
    pixels = torch.randn(5, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    question = "What shape is blue?"
    ids = encoder.tokenizer(question)
    with torch.inference_mode():
        tower = model.vision_model(pixels, output_hidden_states=True)
        frames = model.get_image_features(pixels).pooler_output
        text = model.get_text_features(ids).pooler_output[0]
    # The last hidden state before the post-layernorm, which is what LLaVA-OneVision's tower gives.
    ours = _frame_vectors(encoder, tower.hidden_states[-1])
    assert torch.allclose(ours, frames / frames.norm(dim=-1, keepdim=True), atol=1e-5)
    assert torch.allclose(encoder.text_vector(question), text / text.norm(), atol=1e-5)


def test_vectors_are_float32_of_unit_length_whatever_the_models_type(whole: Path) -> None:
    exact, encoder = _load(whole), _load(whole, torch.bfloat16)
    assert encoder.text_tower.dtype == torch.bfloat16
    hidden = torch.randn(40, 144, 128, dtype=torch.bfloat16)
    frames, text = _frame_vectors(encoder, hidden), encoder.text_vector("where does it move")
    assert frames.shape == (40, 128)
    assert text.shape == (128,)
    for vectors in (frames, text[None]):
        assert vectors.dtype == torch.float32
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)))
    assert torch.equal(frames, _frame_vectors(exact, hidden))
    assert torch.cosine_similarity(text, exact.text_vector("where does it move"), dim=0) > 0.99


def test_frames_do_not_influence_each_other(whole: Path) -> None:
    encoder, hidden = _load(whole), torch.randn(35, 144, 128)
    alone = torch.cat([_frame_vectors(encoder, frame[None]) for frame in hidden])
    assert torch.allclose(_frame_vectors(encoder, hidden), alone, atol=1e-6)


def test_only_the_needed_part_is_in_memory(whole: Path) -> None:
    encoder = _load(whole)
    held = sum(
        parameter.numel()
        for module in (encoder.text_tower, encoder.norm, encoder.head)
        for parameter in module.parameters()
    )
    state = load_file(whole / "model.safetensors")
    assert held == sum(value.numel() for key, value in state.items() if key.startswith(WANTED))
    assert encoder.shape == RelevanceShape(128, 512, 4, 2, 128, 512, 64, 128, 55)


def test_pooling_is_the_head_in_another_order() -> None:
    torch.manual_seed(0)
    config = SiglipVisionConfig(hidden_size=48, intermediate_size=80, num_attention_heads=6)
    head = SiglipMultiheadAttentionPoolingHead(config).eval()
    for value in head.parameters():  # the biases begin as zeros
        torch.nn.init.normal_(value, std=0.3)
    hidden = torch.randn(5, 37, 48)
    with torch.inference_mode():
        probe = head.probe.expand(5, 1, 48)
        _, seen = head.attention(probe, hidden, hidden)
        pooling = Pooling(head)
        means, looked = pooling.look(hidden)
        pooled = pooling.vectors(means)
        torch.testing.assert_close(pooled, head(hidden), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(looked, seen[:, 0], rtol=1e-4, atol=1e-6)


# The question's tokens


def test_questions_end_and_are_padded_to_the_trained_length(whole: Path) -> None:
    tokenizer = _load(whole).tokenizer
    ids = tokenizer("what colour is the circle?")
    assert ids.shape == (1, 64)
    words = ids[0][ids[0] != 1]
    assert 0 < len(words) < 30
    assert (ids[0, len(words) :] == 1).all()


def test_long_questions_are_cut_and_still_end(whole: Path) -> None:
    tokenizer = _load(whole).tokenizer
    long = "where does the green cross move " * 50
    for limit in (None, 10):
        ids = tokenizer(long, limit)[0]
        assert ids.shape == (64,)
        assert (ids[: (limit or 64) - 1] != 1).all()
        assert (ids[(limit or 64) - 1 :] == 1).all()


@pytest.mark.parametrize("limit", [0, 65, -1])
def test_impossible_lengths(whole: Path, limit: int) -> None:
    with pytest.raises(UsageError, match="between 1 and 64"):
        _load(whole).text_vector("what", limit)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("What  COLOUR\tis it?!", "what colour is it"),
        ("</s> <pad>", "s pad"),
        ("...", ""),
        ("É_x", "éx"),
    ],
)
def test_canonical_text(text: str, clean: str) -> None:
    assert canonical(text) == clean


@given(st.text(max_size=40))
def test_canonical_text_stays_as_it_is(text: str) -> None:
    once = canonical(text)
    assert canonical(once) == once


def test_names_of_the_end_and_padding_tokens_come_from_the_settings(folder: Path) -> None:
    settings = {"eos_token": {"content": "<unk>"}, "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = QuestionTokenizer.from_folder(folder, length=8)("")
    assert ids.tolist() == [[2, 0, 0, 0, 0, 0, 0, 0]]


# What cannot be loaded


def _drop(folder: Path, name: str) -> None:
    state = load_file(folder / "model.safetensors")
    assert state.pop(name, None) is not None
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text('{"model_type": "clip"}'), "is a 'clip' model"),
        (lambda f: (f / "config.json").write_text('{"model_type": "siglip"}'), "cannot be used"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be read"),
        (
            lambda f: (f / "tokenizer_config.json").write_text('{"eos_token": "<end>"}'),
            "no token '<end>'",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: os.truncate(f / "model.safetensors", 10_000), "is damaged"),
        (lambda f: _drop(f, "text_model.head.weight"), "lacks 1 tensors of its text tower"),
        (lambda f: _drop(f, "vision_model.head.probe"), "a whole vision_model.head"),
        (
            lambda f: _drop(f, "vision_model.post_layernorm.bias"),
            "whole vision_model.post_layernorm",
        ),
    ],
)
def test_wrong_encoders_are_one_clear_line(folder: Path, spoil: Any, said: str) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=said) as caught:
        _load(folder)
    assert "\n" not in caught.value.message


def test_neither_folder_nor_hub_id() -> None:
    with pytest.raises(ModelError, match="neither a folder nor a hub id") as caught:
        _load(Path("no/such/folder"))
    assert "adatp-light" in caught.value.hint


# Ranged reads


def _url(hub: LocalHub) -> str:
    return f"{hub.url}/{REPO}/resolve/{COMMIT}/model.safetensors"


@pytest.fixture
def hub_root(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "root" / REPO)
    return tmp_path / "root"


def test_a_part_of_a_remote_file_is_read_and_no_more(hub_root: Path, tmp_path: Path) -> None:
    target, told = tmp_path / "part.safetensors", []
    with serve(hub_root) as hub:
        copy_tensors(
            partial(read_ranges, _url(hub)),
            "remote",
            lambda name: name.startswith(WANTED),
            target,
            told.append,
        )
    state = load_file(hub_root / REPO / "model.safetensors")
    part = load_file(target)
    assert set(part) == {name for name in state if name.startswith(WANTED)}
    assert all(torch.equal(value, state[name]) for name, value in part.items())
    wanted = sum(value.numel() * 4 for value in part.values())
    unwanted = sum(value.numel() * 4 for value in state.values()) - wanted
    sent = sum(size for *_, size in hub.requests)
    header = read_header(file_source(hub_root / REPO / "model.safetensors"), "").data_start
    assert wanted + header <= sent < wanted + header + 0.1 * unwanted
    assert sum(told) == wanted
    assert len(hub.requests) <= 6
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == [target.name]


def test_a_broken_connection_is_taken_up_where_it_broke(hub_root: Path) -> None:
    data = (hub_root / REPO / "model.safetensors").read_bytes()
    with serve(hub_root) as hub:
        hub.break_after = 1000
        assert b"".join(read_ranges(_url(hub), 100, 50_000)) == data[100:50_000]
    assert [request[2] for request in hub.requests] == ["bytes=100-49999", "bytes=1100-49999"]


def test_a_server_without_ranges_is_refused_before_its_file_is_read(hub_root: Path) -> None:
    with serve(hub_root) as hub:
        hub.ranges = False
        with pytest.raises(ModelError, match="ignores byte ranges"):
            list(read_ranges(_url(hub), 0, 8))


def test_a_file_that_is_not_there(hub_root: Path) -> None:
    with serve(hub_root) as hub, pytest.raises(HubError) as caught:
        list(read_ranges(f"{hub.url}/{REPO}/resolve/{COMMIT}/other.safetensors", 0, 8))
    assert caught.value.why == "missing"


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adatp_cli.model.hub.time.sleep", lambda _: None)
    with pytest.raises(HubError) as caught:
        list(read_ranges("http://127.0.0.1:9/x", 0, 8))
    assert caught.value.why == "unreachable"


@given(data=st.data())
def test_any_choice_of_tensors_is_copied_exactly(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shapes = data.draw(st.lists(st.lists(st.integers(0, 700), max_size=3), min_size=1, max_size=8))
    dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8])
    state = {
        f"t{index}": torch.arange(torch.Size(shape).numel() % 100_000)
        .resize_(min(torch.Size(shape).numel(), 100_000))
        .to(data.draw(dtypes))
        for index, shape in enumerate(shapes)
    }
    chosen = data.draw(st.sets(st.sampled_from(sorted(state)), min_size=1))
    folder = tmp_path_factory.mktemp("copy")
    save_file(state, folder / "all.safetensors")
    copy_tensors(
        file_source(folder / "all.safetensors"),
        "all",
        lambda name: name in chosen,
        folder / "some.safetensors",
        lambda *_: None,
    )
    copied = load_file(folder / "some.safetensors")
    assert set(copied) == chosen
    assert all(torch.equal(copied[name], state[name]) for name in chosen)


def test_a_source_that_ends_early_leaves_nothing_behind(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole / "model.safetensors", tmp_path / "cut.safetensors"))
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(ModelError, match="ends inside its data"):
        copy_tensors(file_source(path), "cut", lambda _: True, tmp_path / "new", lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.safetensors"]


# The whole way, with huggingface_hub and a cache of its own

SCRIPT = """
import json, sys, torch
from adatp_cli.errors import AdatpError
from adatp_cli.model.checkpoints import find_relevance
from adatp_cli.model.hub import fetch
from adatp_cli.model.relevance import load_relevance
said = []
try:
    files = find_relevance("owner/siglip", offline="--offline" in sys.argv)
    fetch([files.missing], said.append)
    encoder = load_relevance("owner/siglip", files, width=128, device="cpu", dtype=torch.float32)
    print(json.dumps({"vector": encoder.text_vector("a red circle").tolist(), "said": said}))
except AdatpError as error:
    print(json.dumps({"error": error.message, "hint": error.hint, "said": said}))
"""


def _in_process(home: Path, endpoint: str, *args: str) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_an_encoder_from_the_hub_is_fetched_in_part_and_kept(
    whole: Path, hub_root: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with serve(hub_root) as hub:
        refused = _in_process(home, hub.url, "--offline")
        assert "offline" in refused["error"]
        assert hub.requests == []
        first = _in_process(home, hub.url)
        fetched = sum(size for *_, size in hub.requests)
    expected = _load(whole).text_vector("a red circle")
    assert torch.allclose(torch.tensor(first["vector"]), expected, atol=1e-6)
    assert "fetching its text tower and pooling head, 2.5 MB of its 5.9 MB" in first["said"][0]
    assert "adatp-light needs no encoder" in first["said"][0]
    assert fetched < 0.6 * (whole / "model.safetensors").stat().st_size
    kept = list(home.rglob("*.safetensors"))
    assert len(kept) == 1
    with safe_open(kept[0], "pt") as file:
        assert all(name.startswith(WANTED) for name in file.keys())  # noqa: SIM118
    for args in ([], ["--offline"]):
        again = _in_process(home, "http://127.0.0.1:9", *args)
        assert again == {"vector": first["vector"], "said": []}
