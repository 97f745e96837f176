"""One loaded model, several threads: each clip and each answer is what it is alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch

from adatp_cli.answering.encode import EncodedClip
from adatp_cli.model.load import LoadedModel
from tests.session_case import ask, encoded_in, load_random, noisy_clip, profile, session_of

T = TypeVar("T")
THREADS = 4
ROUNDS = 3


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


def beside_each_other(work: Callable[[int], T]) -> list[T]:
    """What `work` gives for each number, several at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, range(THREADS * ROUNDS)))


def test_clips_encoded_at_once_have_their_own_vectors(loaded: LoadedModel) -> None:
    def encoded(number: int) -> EncodedClip:
        return encoded_in(loaded, noisy_clip(frames=5, seed=number).pixels)

    alone = [encoded(number) for number in range(THREADS * ROUNDS)]
    for mine, found in zip(alone, beside_each_other(encoded), strict=True):
        for name in ("visual", "tower_vectors", "frame_vectors", "probe_attention", "tower_keys"):
            assert torch.equal(getattr(found, name), getattr(mine, name)), name


@pytest.mark.parametrize("budget", [None, 0.4])
def test_questions_answered_at_once_have_their_own_answers(
    loaded: LoadedModel, budget: float | None
) -> None:
    session = session_of(loaded, profile(budget))
    clips = [session.encode("noise", noisy_clip(seed=number)) for number in range(THREADS)]

    def answer(number: int) -> tuple[str, list[int]]:
        question = f"What happens {number} times?"
        record = ask(session, clips[number % THREADS], question=question).record
        return record.answer, record.tokens.kept_per_layer

    alone = [answer(number) for number in range(THREADS * ROUNDS)]
    assert len({text for text, _ in alone}) > 1
    assert beside_each_other(answer) == alone
