"""What a question speaks of and what shows it: the frames, the evidence, where it is looked for."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, Qwen2Tokenizer

from adatp_cli.tiny.questions import NUMBERS, Question, all_questions
from adatp_cli.tiny.world import COLOURS, SHAPES, Thing, random_clip
from tests.checkpoint import spread
from tests.tiny_case import KINDS, SAMPLES, corpus
from training.architecture import GRID, build_model, build_tokenizer
from training.batches import clip_batch
from training.contrast import Contrast, build_text_tokenizer, match_matrix, pair_batch
from training.labels import draw_lookups, evidence, mentions
from training.losses import (
    LOOK_HEADS,
    LOOK_LAYERS,
    decode,
    look_loss,
    packed_attention,
    tower_features,
)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return corpus()


@pytest.fixture(scope="module")
def tokenizer(sentences: list[str]) -> Qwen2Tokenizer:
    return build_tokenizer(sentences)


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
