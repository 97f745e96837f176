"""Tiny's training: it teaches what is asked later, the same way every time, and can be loaded."""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, LlavaOnevisionForConditionalGeneration, Qwen2Tokenizer

from adatp_cli.model.load import LoadRequest, load_model
from adatp_cli.model.prompt import build_prompt
from adatp_cli.model.quiet import quiet_libraries
from adatp_cli.model.relevance import load_relevance
from adatp_cli.tiny import train
from adatp_cli.tiny.architecture import (
    GRID,
    RELEVANCE_FOLDER,
    build_model,
    build_tokenizer,
    write_checkpoint,
)
from adatp_cli.tiny.batches import ClipBatch, clip_batch, tower_batch
from adatp_cli.tiny.contrast import (
    Contrast,
    build_text_tokenizer,
    match_matrix,
    pair_batch,
)
from adatp_cli.tiny.grounding import LOOK_HEADS, LOOK_LAYERS, look_loss
from adatp_cli.tiny.learning import (
    TowerHeads,
    decode,
    exact_answers,
    packed_attention,
    tower_features,
    tower_loss,
    use_packed_attention,
)
from adatp_cli.tiny.questions import (
    KINDS,
    NUMBERS,
    Question,
    all_questions,
    draw_lookups,
    evidence,
    mentions,
)
from adatp_cli.tiny.world import COLOURS, SHAPES, Thing, random_clip
from tests.checkpoint import spread

Model = LlavaOnevisionForConditionalGeneration
SAMPLES = 4


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return train.corpus(clips=40)


@pytest.fixture(scope="module")
def tokenizer(sentences: list[str]) -> Qwen2Tokenizer:
    return build_tokenizer(sentences)


@pytest.fixture(scope="module")
def plain(tokenizer: Qwen2Tokenizer) -> Model:
    """Random weights that attend to something, float32, the library's own attention."""
    torch.manual_seed(0)
    return spread(build_model(tokenizer, layers=3)).eval()


def packed(model: Model) -> Model:
    twin = copy.deepcopy(model)
    use_packed_attention(twin)
    return twin


def questions_of(tokenizer: Qwen2Tokenizer, clips: int, questions: int) -> ClipBatch:
    return clip_batch(tokenizer, 1, 0, clips=clips, samples=SAMPLES, questions=questions)


def prompt_ids(model: Model, tokenizer: Qwen2Tokenizer, text: str) -> Tensor:
    video = model.config.video_token_id
    grid = (GRID, GRID)
    return build_prompt(tokenizer, text, frames=SAMPLES, grid=grid, video_token_id=video).input_ids


@torch.no_grad()
def test_a_packed_question_gets_the_logits_that_it_gets_alone(
    plain: Model, tokenizer: Qwen2Tokenizer
) -> None:
    batch = questions_of(tokenizer, clips=2, questions=5)
    features = tower_features(plain, batch.pixels.flatten(0, 1))
    logits, targets, _, _ = decode(packed(plain), features, batch)
    clip, token = batch.is_answer.nonzero(as_tuple=True)
    number = batch.owner[clip, token]
    for b, asked in enumerate(batch.questions):
        assert len(asked) == 5
        for n, question in enumerate(asked, start=1):
            mine = (clip == b) & (number == n)
            answer = tokenizer.encode(f"{question.answer}<|im_end|>", add_special_tokens=False)
            assert targets[mine].tolist() == answer
            before = prompt_ids(plain, tokenizer, question.text)
            alone = plain(
                input_ids=torch.cat([before, torch.tensor([answer])], 1),
                pixel_values_videos=batch.pixels[b : b + 1],
            ).logits[0, before.shape[1] - 1 : -1]
            torch.testing.assert_close(logits[mine], alone, rtol=1e-4, atol=1e-4)


def test_a_packed_question_is_spelt_as_the_prompt_spells_it(
    plain: Model, tokenizer: Qwen2Tokenizer
) -> None:
    batch = questions_of(tokenizer, clips=2, questions=12)
    video = torch.full((SAMPLES * GRID**2 + 1,), plain.config.video_token_id)
    for b, asked in enumerate(batch.questions):
        for n, question in enumerate(asked, start=1):
            before = (batch.owner[b] == n) & ~batch.is_answer[b]
            ids = torch.cat([batch.head_ids, video, batch.text_ids[b, before]])
            assert torch.equal(ids[None], prompt_ids(plain, tokenizer, question.text))
            count = int((batch.owner[b] == n).sum())
            assert batch.offset[b, batch.owner[b] == n].tolist() == list(range(count))


def test_exact_answers_are_those_of_greedy_generation(
    plain: Model, tokenizer: Qwen2Tokenizer
) -> None:
    """On a model that has learnt the first few of a clip's questions by heart."""
    learnt, asked = (questions_of(tokenizer, clips=1, questions=count) for count in (4, 12))
    torch.manual_seed(0)
    student = build_model(tokenizer, layers=3)
    use_packed_attention(student)
    with torch.no_grad():
        features = tower_features(student, learnt.pixels.flatten(0, 1))
    optimiser = torch.optim.AdamW(student.parameters(), 2e-3)
    said: list[float] = []
    for _ in range(80):
        logits, targets, *_ = decode(student, features, learnt)
        loss = functional.cross_entropy(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        said.append(float(loss.detach()))
    assert said[-1] < 0.1 * said[0]

    verdicts = exact_answers(student, features, asked)
    twin = build_model(tokenizer, layers=3).eval()
    twin.load_state_dict(student.state_dict())
    generated: dict[str, list[bool]] = {}
    for question in asked.questions[0]:
        ids = prompt_ids(twin, tokenizer, question.text)
        answer = twin.generate(
            input_ids=ids,
            pixel_values_videos=asked.pixels,
            max_new_tokens=24,
            do_sample=False,
        )
        text = tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)
        generated.setdefault(question.kind, []).append(text == question.answer)
    assert verdicts == generated
    assert {v for rows in verdicts.values() for v in rows} == {True, False}


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
    train.train_decoder(model, tokenizer, recipe, lambda: None, compiled=False)
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
        encoder = load_relevance(
            str(tmp_path / RELEVANCE_FOLDER),
            device="cpu",
            dtype=torch.float32,
            offline=True,
            progress=lambda _: None,
        )
    written = {name: value.float() for name, value in model.state_dict().items()}
    assert same(dict(loaded.model.state_dict()), written)
    assert loaded.default_frames == 16
    batch = pair_batch(contrast.tokenizer, 0, 0, clips=2)
    question = "Which comes first, the red circle or the blue star?"
    with torch.no_grad():
        features = tower_features(loaded.model, batch.pixels)
        frames = contrast.frame_vectors(features)
        text = contrast.text_vectors(contrast.tokenizer(question))[0]
    torch.testing.assert_close(encoder.frame_vectors(features), frames, rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.text_vector(question), text, rtol=0, atol=1e-6)
    assert frames.std(0).max() > 0.01


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("what happens?", []),
        ("what colour is the circle?", [(None, "circle")]),
        ("What shape is red", [("red", None)]),
        ("what shape is the white one?", [("white", None)]),
        ("is the green cross small or large?", [("green", "cross")]),
        ("which comes last, the red star or the circle?", [("red", "star"), (None, "circle")]),
        ("how many shapes are in the first scene?", []),
    ],
)
def test_what_a_question_speaks_of(text: str, things: list[tuple[str | None, str | None]]) -> None:
    assert mentions(text) == things


def thing(colour: str, shape: str) -> Thing:
    return Thing(shape, colour, "still", True, 0.2, (0.5, 0.5), (0.5, 0.5))


def test_a_question_matches_the_frames_that_show_what_it_speaks_of() -> None:
    frames = [
        [thing("red", "circle"), thing("blue", "star")],
        [thing("red", "star")],
        [thing("blue", "circle")],
        [],
    ]
    rows = {
        "where does the red circle move?": [True, False, False, False],
        "what colour is the star?": [True, True, False, False],
        "what shape is blue?": [True, False, True, False],
        "which comes first, the red star or the blue circle?": [False, True, True, False],
        "which way does the green circle move?": [False] * 4,
    }
    matches = match_matrix(list(rows), frames)
    assert matches.dtype == torch.bool
    assert matches.tolist() == list(rows.values())


def test_a_batch_of_pairs_has_matches_and_mismatches(sentences: list[str]) -> None:
    contrast = Contrast(build_text_tokenizer(sentences))
    batch = pair_batch(contrast.tokenizer, 0, 0, clips=3)
    assert batch.matches.shape == (len(batch.token_ids), len(batch.pixels))
    # A question is about a clip's own thing, but four frames may all miss the moment it is seen.
    assert 0.02 < batch.matches.float().mean() < 0.6


def test_look_ups_name_no_colour_or_ask_for_an_order() -> None:
    kinds: Counter[str] = Counter()
    for number in range(40):
        clip = random_clip(np.random.default_rng(number))
        for asked in draw_lookups(clip, np.random.default_rng(number), 4):
            kinds[asked.kind] += 1
            if asked.kind in ("order", "next"):
                continue
            ((colour, shape),) = mentions(asked.text)
            assert colour is None
            (found,), (answers,) = evidence(clip, asked)
            assert found is answers
            assert found in [t for t in clip.things if t.shape == shape]
    assert set(kinds) == {"colour", "motion", "order", "next"}


def test_the_evidence_holds_the_answer() -> None:
    """What a question is made to look at shows every word of the answer that names a look."""
    kinds: set[str] = set()
    for number in range(60):
        clip = random_clip(np.random.default_rng(number))
        for kind, wordings, answer in all_questions(clip):
            for text in wordings:
                found, answers = evidence(clip, Question(kind, text, answer))
                kinds.add(kind)
                looks = [word for thing in answers for word in (thing.colour, thing.shape)]
                named = re.findall("|".join([*COLOURS, *SHAPES]), answer)
                assert set(named) <= set(looks)
                if kind == "count":
                    assert NUMBERS[len(answers)] == answer
                if kind == "order":
                    assert len(found) == 2
                    assert answers[0] in found
                if kind == "next":
                    assert abs(clip.things.index(found[0]) - clip.things.index(answers[0])) > 0
                if kind == "motion":
                    assert answers[0].motion in answer
                assert bool(answers) == (kind != "scenes" and answer != "nothing")
    assert kinds == set(KINDS)


@torch.no_grad()
def test_the_look_loss_is_read_off_the_attention(tokenizer: Qwen2Tokenizer) -> None:
    """What the layer really computes, renormalised over what stands before the text."""
    torch.manual_seed(0)
    model = spread(build_model(tokenizer, layers=4)).eval()
    batch = clip_batch(tokenizer, 0, 0, clips=3, samples=SAMPLES, questions=6, lookups=2)
    kept: dict[int, Tensor] = {}

    def watching(module: Any, query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        scores = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) * options["scaling"]
        kept[module.layer_idx] = scores
        return packed_attention(module, query, key, *rest, **options)

    AttentionInterface.register("watching", watching)
    model.model.language_model.set_attn_implementation("watching")
    features = tower_features(model, batch.pixels.flatten(0, 1))
    *_, hidden, start = decode(model, features, batch)
    count = SAMPLES * GRID * GRID
    targets = torch.zeros(len(batch.asked), count, dtype=torch.bool)
    targets[1:, 5:9] = True  # the first question's thing is in no frame, and does not count
    assert len(targets) > 4
    layer, prefix = min(LOOK_LAYERS), start + count + 1
    clip, row = batch.asked[1:, 0], batch.asked[1:, 1]
    scores = kept[layer][clip, :LOOK_HEADS, prefix + row, :prefix]
    share = scores.softmax(-1)[..., start + 5 : start + 9].sum(-1)
    loss = look_loss(model, hidden[layer], layer, batch, targets)
    assert float(loss) == pytest.approx(float(-share.log().mean()), rel=1e-3)
