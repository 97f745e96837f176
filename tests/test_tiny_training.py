"""Tiny's training: every stage learns, the same way every time, and what is written is loaded."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2Tokenizer

from adatp_cli.model.load import LoadRequest, load_model
from adatp_cli.model.quiet import quiet_libraries
from tests.checkpoint import spread
from tests.tiny_case import Model, corpus, plain_model
from training import train
from training.architecture import (
    RELEVANCE_FOLDER,
    build_model,
    build_tokenizer,
    write_checkpoint,
)
from training.batches import tower_batch
from training.contrast import Contrast, build_text_tokenizer, pair_batch
from training.losses import LOOK_LAYERS, TowerHeads, tower_features, tower_loss


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return corpus()


@pytest.fixture(scope="module")
def tokenizer(sentences: list[str]) -> Qwen2Tokenizer:
    return build_tokenizer(sentences)


@pytest.fixture(scope="module")
def plain(tokenizer: Qwen2Tokenizer) -> Model:
    return plain_model(tokenizer)


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> train.Recipe:
    """A recipe of two small steps a stage, the tower learning in the decoder's second one too."""
    for name, value in (
        ("TOWER_FRAMES", 4),
        ("STEP_FRAMES", 8),
        ("QUESTIONS", 3),
        ("PAIR_CLIPS", 2),
    ):
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(train, "held_out", lambda *_: "not measured")
    recipe = train.Recipe(tower_steps=2, decoder_steps=2, order_steps=2, relevance_steps=2)
    return replace(recipe, short_steps=2, long_steps=0, joint_steps=1)


def trained(
    recipe: train.Recipe, tokenizer: Qwen2Tokenizer, sentences: list[str]
) -> list[dict[str, Tensor]]:
    """Weights after each stage, as the training command goes through them.

    A stage may not depend on the random state that it is entered with: a broken run goes on.
    """
    torch.manual_seed(recipe.seed)
    model = build_model(tokenizer, layers=max(LOOK_LAYERS) + 1)
    module: nn.Module = model
    module.to(torch.bfloat16)
    after = [copy.deepcopy(model.state_dict())]
    torch.seed()
    train.train_tower(model, recipe)
    after.append(copy.deepcopy(model.state_dict()))
    torch.seed()
    train.train_decoder(model, tokenizer, recipe, compiled=False)
    after.append(copy.deepcopy(model.state_dict()))
    torch.seed()
    train.train_order(model, tokenizer, recipe)
    after.append(copy.deepcopy(model.state_dict()))
    torch.manual_seed(recipe.seed + 2)
    contrast = Contrast(build_text_tokenizer(sentences))
    torch.seed()
    train.train_relevance(model, contrast, recipe)
    return [*after, contrast.state_dict()]


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_training_is_determined_by_its_seed(
    short_steps: train.Recipe, tokenizer: Qwen2Tokenizer, sentences: list[str]
) -> None:
    first, again = (trained(short_steps, tokenizer, sentences) for _ in range(2))
    other = trained(replace(short_steps, seed=1), tokenizer, sentences)
    assert [same(a, b) for a, b in zip(first, again, strict=True)] == [True] * 5
    assert [same(a, b) for a, b in zip(first, other, strict=True)] == [False] * 5
    # Every stage did learn, and the joint step reached the tower.
    start, tower, decoder, order, _ = first
    name = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(start[name], tower[name])
    assert not torch.equal(tower[name], decoder[name])
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(start[name], tower[name])
    assert not torch.equal(tower[name], decoder[name])
    # The tower and what the relevance encoder reads of it are finished before the long stories.
    assert not torch.equal(decoder[name], order[name])
    name = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(decoder[name], order[name])


def test_a_finished_stage_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    done, fresh = nn.Linear(3, 3), nn.Linear(3, 3)
    train._stage(done, tmp_path / "stage.pt", lambda: None)

    def refuse() -> None:
        raise AssertionError("trained again")

    train._stage(fresh, tmp_path / "stage.pt", refuse)
    assert torch.equal(done.weight, fresh.weight)


def test_steps_below_the_resolution_of_bfloat16_add_up() -> None:
    model = nn.ModuleDict({"layers": nn.Linear(4, 4), "norm": nn.LayerNorm(4)}).bfloat16()
    optimiser = train.Optimiser([model], rate=2e-4, steps=200)
    for number in range(60):
        optimiser.step(number, model["norm"].weight.sum() + model["layers"].weight.sum())
    # bfloat16 knows nothing between 1 and 0.996; sixty steps of at most 0.0002 go to 0.991.
    assert model["norm"].weight.tolist() == pytest.approx([0.991] * 4, abs=0.004)
    assert model["norm"].bias.tolist() == [0.0] * 4  # no loss spoke of it


def test_the_tower_learns() -> None:
    torch.manual_seed(0)
    model = build_model(build_tokenizer(["a red circle moves left"]), layers=1)
    heads = TowerHeads()
    fresh = tower_batch(9, 0, 16)
    optimiser = train.Optimiser([model.model.vision_tower, heads], 3e-3, 40)
    with torch.no_grad():
        before = tower_loss(model, heads, fresh).parts
    for number in range(12):
        optimiser.step(number, tower_loss(model, heads, tower_batch(0, number, 8)).total)
    with torch.no_grad():
        after = tower_loss(model, heads, fresh).parts
    for name in ("shape", "colour", "flash", "offset"):
        assert after[name] < 0.8 * before[name], name
    assert after["row"] < before["row"]
    assert after["column"] < before["column"]


def test_what_is_written_is_what_is_loaded(
    plain: Model, tokenizer: Qwen2Tokenizer, sentences: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    contrast = spread(Contrast(build_text_tokenizer(sentences)))
    contrast.bfloat16().float()  # as it will be stored
    model = copy.deepcopy(plain)
    write_checkpoint(tmp_path, model, tokenizer)
    contrast.save(tmp_path / RELEVANCE_FOLDER)
    with quiet_libraries():
        loaded = load_model(
            LoadRequest(str(tmp_path), device="cpu", dtype="float32", offline=True), lambda _: None
        )
    encoder = loaded.relevance
    assert encoder is not None
    written = {name: value.float() for name, value in model.state_dict().items()}
    assert same(dict(loaded.model.state_dict()), written)
    assert loaded.default_frames == 16
    batch = pair_batch(contrast.tokenizer, 0, 0, clips=2)
    question = "Which comes first, the red circle or the blue star?"
    with torch.no_grad():
        features = tower_features(loaded.model, batch.pixels)
        frames = contrast.frame_vectors(features)
        text = contrast.text_vectors(contrast.tokenizer(question))[0]
    torch.testing.assert_close(
        encoder.vectors(encoder.look(features)[0]), frames, rtol=0, atol=1e-6
    )
    torch.testing.assert_close(encoder.text_vector(question), text, rtol=0, atol=1e-6)
    assert frames.std(0).max() > 0.01
