"""Questions packed behind one clip: each gets the prompt, logits and answer that it gets alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2Tokenizer

from adatp_cli.model.prompt import build_prompt
from tests.tiny_case import SAMPLES, Model, corpus, plain_model
from training.architecture import GRID, build_model, build_tokenizer
from training.batches import ClipBatch, clip_batch
from training.losses import decode, exact_answers, tower_features, use_packed_attention


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return build_tokenizer(corpus())


@pytest.fixture(scope="module")
def plain(tokenizer: Qwen2Tokenizer) -> Model:
    return plain_model(tokenizer)


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
