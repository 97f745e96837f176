"""The end-to-end cost in the record against PyTorch's own counter on the same pruned run.

The counter sees nothing of the CPU's fused attention, so the run is made under the MATH backend,
where it counts attention in full, as the record does.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from adatp_cli.model.load import LoadedModel
from adatp_cli.profiles import Profile, load_profile
from adatp_cli.pruning.knobs import LocalKnobs, RelevanceKnobs, ScoreKnobs
from tests.session_case import ask, load_random, noisy_clip, profile, session_of

TOLERANCE = 0.001


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


RUNS = {
    "vanilla": profile(None),
    "refill": profile(0.35),
    "strict": profile(0.5, local=LocalKnobs(mode="strict")),
    "four rows": profile(0.35, scores=ScoreKnobs(rows=4)),
    "attention": profile(0.35, relevance=RelevanceKnobs(encoder="attention")),
} | {
    name: load_profile(name).with_budget(0.4)
    for name in ("fastv", "pyramiddrop", "random", "vidcom2", "fastvid", "unicomp")
}


@pytest.mark.parametrize("name", RUNS)
def test_the_record_agrees_with_the_counter(loaded: LoadedModel, name: str):
    session = session_of(loaded, RUNS[name])
    frames = noisy_clip(8)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as whole:
        with FlopCounterMode(display=False) as vision:
            clip = session.encode("noise", frames)
        done = ask(session, clip)
    measured, recorded = int(whole.get_total_flops()), done.record.flops.end_to_end
    assert recorded.pruned == pytest.approx(measured, rel=TOLERANCE)
    encoded = int(vision.get_total_flops())
    # The pooling head runs with the tower, the question's text pass with the answer.
    text = recorded.relevance - _head_cost(loaded, RUNS[name], 8)
    assert recorded.vision + recorded.relevance - text == pytest.approx(encoded, rel=TOLERANCE)
    assert recorded.prefill + recorded.scoring + recorded.generate + text == pytest.approx(
        measured - encoded, rel=TOLERANCE
    )


def test_the_parts_agree_with_the_counter(loaded: LoadedModel):
    """Prefill with its scores, and generated tokens, apart: runs that differ by tokens alone."""

    def run(new_tokens: int) -> tuple[int, int, int]:
        session = session_of(loaded, RUNS["refill"], new_tokens=new_tokens)
        clip = session.encode("noise", noisy_clip(8))
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            flops = ask(session, clip).record.flops.end_to_end
        text = flops.relevance - _head_cost(loaded, RUNS["refill"], 8)
        return int(counter.get_total_flops()) - text, flops.prefill + flops.scoring, flops.generate

    one, prefill, nothing = run(1)
    many, _, generate = run(9)
    assert nothing == 0
    assert prefill == pytest.approx(one, rel=TOLERANCE)
    assert generate == pytest.approx(many - one, rel=TOLERANCE)


def test_scoring_agrees_with_the_counter(loaded: LoadedModel):
    """One row more in every pruning layer, which is too little to see in a whole run."""

    def run(rows: int) -> tuple[int, int]:
        session = session_of(loaded, profile(0.35, scores=ScoreKnobs(rows=rows)), new_tokens=1)
        clip = session.encode("noise", noisy_clip(8))
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            scoring = ask(session, clip).record.flops.end_to_end.scoring
        return int(counter.get_total_flops()), scoring

    one, many = run(1), run(9)
    assert many[1] - one[1] == pytest.approx(many[0] - one[0], rel=TOLERANCE)
    assert many[1] == 9 * one[1]


def _head_cost(loaded: LoadedModel, chosen: Profile, frames: int) -> int:
    """FLOP that the counter sees of the relevance encoder's pooling head, run on its own."""
    if chosen.encoder in ("none", "attention"):
        return 0
    assert loaded.relevance is not None
    hidden = torch.zeros(frames, 144, 128)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loaded.relevance.vectors(loaded.relevance.look(hidden)[0])
    return int(counter.get_total_flops())
