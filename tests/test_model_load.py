"""Loading: what is asked for is what stands in memory, and anything else is an error."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint import GRID, write_random_checkpoint, write_random_relevance
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, LlavaOnevisionForConditionalGeneration

from adatp_cli.errors import MemoryLimitError, ModelError, UsageError
from adatp_cli.model import fitting
from adatp_cli.model import load as loading
from adatp_cli.model.device import choose_device, choose_dtype, cpu_is_fast_at_bfloat16
from adatp_cli.model.load import LoadedModel, LoadRequest, load_model, weight_bytes
from adatp_cli.model.prompt import build_prompt
from adatp_cli.model.quantize import (
    LAYERS,
    choose_quantization,
    count_quantized,
    verify_quantization,
)
from adatp_cli.model.quiet import quiet_libraries

LINEARS = {"model.vision_tower": 24, "model.multi_modal_projector": 2, "lm_head": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("whole"), layers=3)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def _load(folder: Path, **options: Any) -> LoadedModel:
    request = LoadRequest(model=str(folder), **({"device": "cpu"} | options))
    return load_model(request, lambda _: None)


def _answer(loaded: LoadedModel) -> torch.Tensor:
    prompt = build_prompt(
        loaded.tokenizer,
        "What colour is the circle?",
        frames=2,
        grid=loaded.shape.grid,
        video_token_id=loaded.video_token_id,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), np.uint8)
    values = loaded.preprocess(pixels)[None].to(loaded.model.dtype)
    with torch.inference_mode():
        output = loaded.model(input_ids=prompt.input_ids, pixel_values_videos=values)
    return output.logits[0, -1].float()


# What is loaded


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_in_the_hubs_layout_loads_by_path(whole: Path, dtype: str) -> None:
    loaded = _load(whole, dtype=dtype)
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
    assert torch.isfinite(_answer(loaded)).all()


def test_the_loaded_weights_are_the_files(whole: Path) -> None:
    state = load_file(whole / "model.safetensors")
    parameters = dict(_load(whole, dtype="float32").model.named_parameters())
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
    loaded = _load(whole, dtype="bfloat16", quantization=quantization)
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
    model = _load(folder).model
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
    assert torch.equal(_answer(_load(folder)), _answer(_load(whole)))
    assert weight_bytes(folder, "bfloat16") == weight_bytes(whole, "bfloat16")


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
def test_only_the_decoder_is_quantized(whole: Path, quantization: str) -> None:
    plain, loaded = _load(whole), _load(whole, quantization=quantization)
    counts = count_quantized(loaded.model)
    assert {part: (count.linear, count.quantized) for part, count in counts.items()} == {
        **{part: (number, 0) for part, number in LINEARS.items()},
        LAYERS: (3 * 7, 3 * 7),
    }
    before = dict(plain.model.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        if "vision_tower" in name or "multi_modal_projector" in name or "newline" in name:
            assert torch.equal(parameter, before[name]), name
    similarity = torch.cosine_similarity(_answer(plain), _answer(loaded), dim=0)
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
        verify_quantization(_load(whole).model, "nf4")


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


# Choices


@pytest.mark.parametrize(
    ("requested", "cuda", "free", "expected"),
    [
        ("auto", False, 10, "none"),
        ("auto", True, 100, "none"),
        ("auto", True, 17, "nf4"),
        ("auto", True, None, "none"),
        ("int8", True, 100, "int8"),
        ("none", True, 10, "none"),
    ],
)
def test_auto_quantization(requested: str, cuda: bool, free: int | None, expected: str) -> None:
    assert choose_quantization(requested, cuda=cuda, weights=16, free=free) == expected


def test_auto_dtype_on_the_cpu_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (
        ({"avx2": True, "avx512_f": True}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"neon": True}, "float32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert choose_dtype("auto", "cpu") == expected
        assert cpu_is_fast_at_bfloat16() == (expected == "bfloat16")


@pytest.mark.parametrize(("short", "long"), [("bf16", "bfloat16"), ("float32", "float32")])
def test_dtype_names(short: str, long: str) -> None:
    assert choose_dtype(short, "cpu") == long


@pytest.mark.parametrize("name", ["cpu:0", "gpu", "cuda:x", "", "mps", "cuda:-1"])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        choose_device(name)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="this machine has") as caught:
        choose_device("cuda:99")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "options", [{"dtype": "int8"}, {"quantization": "int4"}, {"device": "tpu"}]
)
def test_unknown_values_are_usage_errors(whole: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(options.values()))):
        _load(whole, **options)


def test_auto_without_cuda_is_the_half_billion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading.checkpoints, "ALIASES", {"0.5b": "no-one/has-this"})
    with pytest.raises(ModelError, match="no-one/has-this"):
        load_model(LoadRequest(offline=True), said.append)
    assert said == ["model auto: 0.5b, as the device is cpu"]


# What cannot be loaded


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
        _load(folder)
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
        _load(folder)
    assert "\n" not in caught.value.message


def test_a_tokenizer_without_the_video_token(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text()) | {"video_token_index": 77}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="no token for videos"):
        _load(folder)


def test_the_processors_template_wins_over_the_tokenizers(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages[0].content }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert _load(folder).tokenizer.chat_template == template


def test_no_template_at_all(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        _load(folder)


def test_weights_that_do_not_fit_the_memory(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = weight_bytes(whole, "bfloat16")
    monkeypatch.setattr(fitting, "available_memory", lambda _: sizes["none"] - 1)
    with pytest.raises(MemoryLimitError, match="for its weights") as caught:
        _load(whole, dtype="bfloat16", relevance="none")
    assert "--quantize nf4" in caught.value.hint
    assert (
        _load(whole, dtype="bfloat16", quantization="nf4", relevance="none").quantization == "nf4"
    )


def test_memory_that_runs_out_while_loading(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(LlavaOnevisionForConditionalGeneration, "from_pretrained", fail)
    with pytest.raises(MemoryLimitError) as caught:
        _load(whole)
    assert caught.value.exit_code == 5


# The relevance encoder that belongs to it


def test_which_encoder(whole: Path, tmp_path: Path) -> None:
    for none in ("none", "attention"):
        assert _load(whole, relevance=none).relevance is None
    own = _load(whole).relevance
    other = _load(
        whole, relevance=str(write_random_relevance(tmp_path / "other", seed=5))
    ).relevance
    assert own is not None
    assert other is not None
    assert own.name == str(whole / "relevance")
    assert not torch.equal(own.text_vector("a circle"), other.text_vector("a circle"))


def test_without_a_named_encoder_siglip_is_wanted(folder: Path) -> None:
    (folder / "adatp.json").unlink()
    with pytest.raises(ModelError, match="google/siglip-so400m-patch14-384") as caught:
        _load(folder, offline=True)
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
        _load(folder)


# What the libraries say


def test_loading_is_reported_and_nothing_else_reaches_the_screen(
    whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with quiet_libraries():
        request = LoadRequest(model=str(whole), device="cpu", dtype="float32", quantization="int8")
        loaded = load_model(request, said.append)
        _answer(loaded)
    assert said[0] == f"loading {whole} (float32, int8 quantization) on cpu"
    assert capfd.readouterr() == ("", "")


def test_a_slow_load_tells_how_far_it_is(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("adatp_cli.model.quiet._SLOW_S", -1.0)
    load_model(LoadRequest(model=str(whole), device="cpu", relevance="none"), said.append)
    assert [line.rpartition(": ")[2] for line in said[1:]] == ["25 %", "50 %", "75 %", "100 %"]


@pytest.mark.parametrize("verbose", [False, True])
def test_warnings_are_dropped_unless_asked_for(
    verbose: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("bitsandbytes.backends")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_libraries(verbose=verbose):
            logger.warning("kernels")
            logger.error("broken")
            warnings.warn("deprecated", stacklevel=1)
        logger.warning("after")
    heard = Counter(record.getMessage() for record in caplog.records)
    assert heard == Counter({"kernels": int(verbose), "broken": 1, "after": 1}) + Counter()
    assert len(caught) == int(verbose)


def test_quiet_ends_with_an_exception() -> None:
    before = logging.root.manager.disable
    with pytest.raises(KeyError), quiet_libraries():
        raise KeyError
    assert logging.root.manager.disable == before
