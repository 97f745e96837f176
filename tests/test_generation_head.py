"""The language-model head's one row in the prefill must not cost a copy of the head's weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled

from adatp_cli.model.load import LoadedModel
from tests.session_case import ask, hooks_on, load_random, noisy_clip, profile, session_of


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """In bfloat16: in float32 no processor's library copies."""
    loaded = load_random(tmp_path_factory.mktemp("model"))
    module: torch.nn.Module = loaded.model
    module.to(torch.bfloat16)
    loaded.dtype = "bfloat16"
    return loaded


def copies_of_the_head(loaded: LoadedModel, run: Callable[[], object]) -> int:
    """Copies of as many numbers as the head has, made in a shape that only a batch of it has."""
    shape = loaded.shape.language
    batch = [1, shape.hidden, shape.vocab]
    with profiled(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        run()
    events = profiler.key_averages(group_by_input_shape=True)
    return sum(
        event.count
        for event in events
        if event.key == "aten::copy_" and event.input_shapes[0] == batch
    )


@pytest.mark.parametrize("budget", [None, 0.4])
def test_the_head_is_multiplied_with_as_it_stands(
    loaded: LoadedModel, budget: float | None
) -> None:
    session = session_of(loaded, profile(budget), new_tokens=3)
    clip = session.encode("noise", noisy_clip())
    assert copies_of_the_head(loaded, lambda: ask(session, clip)) == 0


def test_the_hooks_are_gone_afterwards(loaded: LoadedModel) -> None:
    ask(session_of(loaded, profile(None)))  # transformers adds hooks of its own to the first run
    before = hooks_on(loaded.model)
    ask(session_of(loaded, profile(0.4)))
    assert hooks_on(loaded.model) == before
