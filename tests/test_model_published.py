"""The published checkpoints' own layout: adatp makes of it what plain transformers makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import LlavaOnevisionForConditionalGeneration

from adatp_cli.model.layout import weight_bytes, weight_files
from adatp_cli.model.preprocess import Preprocessor
from tests.loading_case import load_folder
from tests.published import SHARDS, write_published
from tests.session_case import QUESTION, ask, noisy_clip, profile, session_of

# By `AutoProcessor.from_pretrained` of transformers 5.23 (torchvision 0.28, torch 2.13) on the
# folder of `write_published`: the prompt and pixels of `QUESTION` and `noisy_clip(4)`, and what the
# 256 grey levels become, with the published means and deviations and with the library's own.
PROCESSOR = Path(__file__).parent / "data" / "published_processor.npz"
FRAMES, NEW_TOKENS = 4, 8


@dataclass
class Truth:
    """What plain transformers makes of the folder and of the processor's output."""

    tokens: torch.Tensor
    logits: torch.Tensor
    answer: list[int]


@pytest.fixture(scope="module")
def processor() -> dict[str, Any]:
    with np.load(PROCESSOR) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module", params=[True, False], ids=["tied, as the 0.5B", "as the 7B"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"), tied=request.param)


def _plain(folder: Path, dtype: str, processor: dict[str, Any]) -> Truth:
    model: Any = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, dtype=getattr(torch, dtype)
    ).eval()
    ids = torch.from_numpy(processor["input_ids"])[None]
    pixels = torch.from_numpy(processor["pixel_values"])[None]
    with torch.inference_mode():
        tokens = model.get_video_features(pixels, return_dict=True).pooler_output[0]
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=pixels,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    answer = output.sequences[0, ids.shape[1] :].tolist()
    return Truth(tokens.float(), output.logits[0][0].float(), answer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_prompt_pixels_tokens_logits_and_answer_are_plain_transformers(
    folder: Path, dtype: str, processor: dict[str, Any]
) -> None:
    loaded = load_folder(folder, dtype=dtype, relevance="none")
    frames = noisy_clip(FRAMES)
    ours = loaded.preprocess(frames.pixels)
    assert torch.equal(ours, torch.from_numpy(processor["pixel_values"]))
    plain = _plain(folder, dtype, processor)
    session = session_of(loaded, profile(None), new_tokens=NEW_TOKENS, trace=True)
    done = ask(session, session.encode("noise", frames), question=QUESTION)
    assert done.trace is not None
    ours = done.trace.arrays
    assert ours["prompt_ids"].tolist() == processor["input_ids"].tolist()
    assert np.array_equal(ours["visual_tokens"], plain.tokens.numpy())
    assert np.array_equal(ours["first_logits"], plain.logits.numpy())
    assert ours["answer_ids"].tolist() == plain.answer


def test_the_folder_is_laid_out_as_published(folder: Path) -> None:
    names: set[str] = set()
    for file in weight_files(folder):
        with safe_open(folder / file, framework="pt") as weights:
            names |= set(weights.keys())
    assert len(weight_files(folder)) == SHARDS
    assert "language_model.model.layers.5.mlp.up_proj.weight" in names
    assert "vision_tower.vision_model.encoder.layers.25.mlp.fc1.weight" in names
    assert "multi_modal_projector.linear_1.weight" in names
    assert not (folder / "chat_template.jinja").exists()
    loaded = load_folder(folder, dtype="float16", relevance="none")
    held = sum(value.numel() * value.element_size() for value in loaded.model.parameters())
    assert weight_bytes(folder, "float16")["none"] == held
    assert loaded.shape.vision.layers == 26


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("values", "key"), [("mean and deviation 0.5", "levels"), ("", "levels_default")]
)
def test_every_grey_level_is_normalised_as_the_processor_does(
    tmp_path: Path, processor: dict[str, Any], values: str, key: str, dtype: torch.dtype
) -> None:
    halves = ', "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]' if values else ""
    (tmp_path / "preprocessor_config.json").write_text(f'{{"size": 16{halves}}}')
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    made = Preprocessor.from_folder(tmp_path)(levels)[0].flatten(1)
    assert torch.equal(made.to(dtype), torch.from_numpy(processor[key]).to(dtype))
