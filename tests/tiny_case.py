"""Tiny before its training, and folders of its clips with their questions."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2Tokenizer

from adatp_cli.tiny.clips import held_out_clip, write_mp4
from adatp_cli.tiny.questions import draw_questions
from tests.checkpoint import spread
from training import train
from training.architecture import build_model

Model = LlavaOnevisionForConditionalGeneration
SAMPLES = 4
KINDS = (
    "happens", "first", "last", "middle", "colour", "shape", "motion", "size", "scenes", "count",
    "order", "next", "flash",
)  # fmt: skip


def corpus() -> list[str]:
    """Sentences of a few clips, enough for a tokenizer."""
    return train.corpus(clips=40)


def plain_model(tokenizer: Qwen2Tokenizer) -> Model:
    """Random weights that attend to something, float32, the library's own attention."""
    torch.manual_seed(0)
    return spread(build_model(tokenizer, layers=3)).eval()


def write_clips(folder: Path, count: int, *, seed: int = 0, questions: int = 6) -> Path:
    """Write `count` held-out clips of 4 to 8 seconds, and what to ask about them.

    Returns the path of `questions.jsonl`: video, kind, question and answer in each line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "questions.jsonl"
    with index.open("w", encoding="utf-8") as file:
        for number in range(count):
            clip, seconds, rng = held_out_clip(seed, number)
            name = f"{number:05d}.mp4"
            write_mp4(folder / name, clip, seconds)
            for asked in draw_questions(clip, rng, questions):
                row = {
                    "video": name,
                    "kind": asked.kind,
                    "question": asked.text,
                    "answer": asked.answer,
                }
                file.write(json.dumps(row) + "\n")
    return index
