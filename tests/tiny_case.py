"""Tiny before its training, for the tests of what it is taught: its sentences, a model of noise."""

from __future__ import annotations

import torch
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2Tokenizer

from adatp_cli.tiny import train
from adatp_cli.tiny.architecture import build_model
from tests.checkpoint import spread

Model = LlavaOnevisionForConditionalGeneration
SAMPLES = 4


def corpus() -> list[str]:
    """Sentences of a few clips, enough for a tokenizer."""
    return train.corpus(clips=40)


def plain_model(tokenizer: Qwen2Tokenizer) -> Model:
    """Random weights that attend to something, float32, the library's own attention."""
    torch.manual_seed(0)
    return spread(build_model(tokenizer, layers=3)).eval()
