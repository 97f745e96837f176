"""Training batches: clips of the world as pixels, labels, and packed questions.

Several questions stand behind one clip. Each attends to the clip and to itself only and its
positions start where the clip's end, so that every one sees just what it would see alone, for a
fraction of the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from adatp_cli.tiny.clips import Pixels, render, sample_times
from adatp_cli.tiny.questions import Question, draw_questions
from adatp_cli.tiny.world import MAX_SCENES, Clip, Thing, random_clip
from training.architecture import GRID, IMAGE_SIZE, PATCHES
from training.labels import LOOK_CODES, Labels, draw_lookups, evidence, label, look_code


@dataclass(frozen=True, slots=True)
class TowerBatch:
    """F single frames with what each patch of the tower shows."""

    pixels: Tensor  # (F, 3, S, S), normalised
    labels: Labels  # with F in the place of T, on the tower's patches


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """B clips of T frames: head, T x GRID x GRID visual tokens, a newline, then the packed text."""

    pixels: Tensor  # (B, T, 3, S, S), normalised
    labels: list[Labels]  # per clip, on the pooled grid
    head_ids: Tensor  # (H,)
    text_ids: Tensor  # (B, L)
    owner: Tensor  # (B, L) number of the question from 1, 0 for padding
    offset: Tensor  # (B, L) place inside its question
    is_answer: Tensor  # (B, L) whether the token is to be predicted from the one before it
    questions: list[list[Question]]
    # One row per question that things answer: clip, place of the last prompt token in its text.
    asked: Tensor
    # (rows of `asked`, 2, LOOK_CODES) bool: the things to find for it, and those that answer it.
    evidence: Tensor


def normalise(pixels: Pixels) -> Tensor:
    """(.., S, S, 3) uint8 to (.., 3, S, S) float32 in [-1, 1], as the preprocessor files say."""
    return torch.from_numpy(pixels).movedim(-1, -3).float() / 127.5 - 1.0


def _generator(seed: int, step: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, step, number])


def tower_batch(seed: int, step: int, frames: int, per_clip: int = 4) -> TowerBatch:
    """Frames of fresh clips at any moments, the flash's among them where there is one."""
    pixels: list[Pixels] = []
    labels: list[Labels] = []
    for number in range(frames // per_clip):
        rng = _generator(seed, step, number)
        clip = random_clip(rng)
        times = rng.uniform(0.0, 1.0, per_clip)
        if clip.flash is not None:
            times[0] = rng.uniform(clip.flash.begin, clip.flash.end)
        pixels.append(render(clip, times, IMAGE_SIZE))
        labels.append(label(clip, times, PATCHES))
    together = Labels(
        *(np.concatenate([getattr(row, name) for row in labels]) for name in Labels.__slots__)
    )
    return TowerBatch(normalise(np.concatenate(pixels)), together)


def encode_question(tokenizer: Qwen2Tokenizer, question: Question) -> tuple[list[int], int]:
    """Ids from the newline after the clip to the answer's end token.

    Also how many of them come before the answer.
    """
    asked = f"\n{question.text}<|im_end|><|im_start|>assistant\n"
    before = tokenizer.encode(asked, add_special_tokens=False)
    answer = tokenizer.encode(f"{question.answer}<|im_end|>", add_special_tokens=False)
    return before + answer, len(before)


def clip_batch(
    tokenizer: Qwen2Tokenizer,
    seed: int,
    step: int,
    *,
    clips: int,
    samples: int,
    questions: int,
    lookups: int = 0,
    long_stories: bool = False,
) -> ClipBatch:
    """A batch of fresh clips that `samples` frames suffice for.

    Each has `questions` questions of all kinds, and `lookups` more of the hardest. With
    `long_stories` two of three clips have as many scenes as there can be.
    """
    drawn: list[tuple[Clip, list[Question]]] = []
    for number in range(clips):
        rng = _generator(seed, step, number)
        scenes = MAX_SCENES if long_stories and number % 3 else None
        clip = random_clip(rng, samples=samples, scenes=scenes)
        asked = draw_questions(clip, rng, questions)
        drawn.append((clip, asked + draw_lookups(clip, rng, lookups)))
    times = sample_times(samples)
    pixels = np.stack([render(clip, times, IMAGE_SIZE) for clip, _ in drawn])
    encoded = [[encode_question(tokenizer, question) for question in asked] for _, asked in drawn]
    longest = max(sum(len(ids) for ids, _ in row) for row in encoded)
    length = -(-longest // 32) * 32  # few different lengths, for compiled layers
    text, owner, offset, answer = (np.zeros((clips, length), np.int64) for _ in range(4))
    asked_at: list[tuple[int, int]] = []
    wanted: list[Tensor] = []
    for b, row in enumerate(encoded):
        at = 0
        for number, (ids, before) in enumerate(row, start=1):
            things = evidence(drawn[b][0], drawn[b][1][number - 1])
            if things[0]:
                asked_at.append((b, at + before - 1))
                wanted.append(_codes_of(things))
            span = slice(at, at + len(ids))
            text[b, span], owner[b, span], offset[b, span] = ids, number, np.arange(len(ids))
            answer[b, at + before : at + len(ids)] = 1
            at += len(ids)
    return ClipBatch(
        pixels=normalise(pixels),
        labels=[label(clip, times, GRID) for clip, _ in drawn],
        head_ids=torch.tensor(tokenizer.encode("<|im_start|>user ", add_special_tokens=False)),
        text_ids=torch.from_numpy(text),
        owner=torch.from_numpy(owner),
        offset=torch.from_numpy(offset),
        is_answer=torch.from_numpy(answer).bool(),
        questions=[asked for _, asked in drawn],
        asked=torch.tensor(asked_at, dtype=torch.int64).reshape(-1, 2),
        evidence=torch.stack(wanted),
    )


def _codes_of(parts: tuple[list[Thing], list[Thing]]) -> Tensor:
    marked = torch.zeros(len(parts), LOOK_CODES, dtype=torch.bool)
    for row, things in zip(marked, parts, strict=True):
        row[[look_code(thing) for thing in things]] = True
    return marked


def packed_bias(owner: Tensor, prefix: int) -> Tensor:
    """Attention bias of the text's rows, (B, 1, L, prefix + L): 0 or, where forbidden, -infinity.

    A question sees the clip, itself, and no other question; padding (owner 0) sees the clip, and is
    seen by padding alone.
    """
    length = owner.shape[1]
    own = owner[:, :, None] == owner[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    bias = torch.zeros(len(owner), length, prefix + length)
    bias[:, :, prefix:].masked_fill_(~(own & causal), float("-inf"))
    return bias[:, None]
