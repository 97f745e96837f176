"""Pruning inside a model: the same numbers as a masked run, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2ForCausalLM

from adatp_cli.errors import AdatpError, ProfileError, PruningError
from adatp_cli.profiles import Profile
from adatp_cli.pruning.hooks import PrunedPrefill
from adatp_cli.pruning.knobs import (
    AdaTPProfile,
    LocalKnobs,
    RelevanceKnobs,
    ScheduleKnobs,
    ScoreKnobs,
    SegmentKnobs,
    VanillaProfile,
)
from adatp_cli.pruning.method import ClipSignals, LayerStep, ScoreRequest
from adatp_cli.pruning.methods import method_of
from adatp_cli.pruning.segments import debiased_frame_relevance
from tests.pruning_case import (
    LAYERS,
    LAYOUT,
    LENGTH,
    SHAPE,
    Fixed,
    build_model,
    build_prompt,
    masked_run,
    prefill,
)


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return build_model()


@pytest.fixture
def prompt() -> Tensor:
    return build_prompt()


THREE_CUTS = {
    2: list(range(0, 36, 2)),
    3: [0, 4, 8, 12, 30, 34],
    6: [4, 34],
}


def test_pruned_logits_equal_a_masked_run_at_full_length(model: Qwen2ForCausalLM, prompt: Tensor):
    logits, _, _ = prefill(model, Fixed(THREE_CUTS), prompt)
    reference, _ = masked_run(model, prompt, THREE_CUTS)
    unpruned, _ = masked_run(model, prompt, {})
    assert (logits - reference).abs().max() < 2e-5
    assert (logits - unpruned).abs().max() > 0.1  # pruning changes something here


def test_scores_are_the_attention_of_the_layer_before(model: Qwen2ForCausalLM, prompt: Tensor):
    plan = Fixed(THREE_CUTS, ScoreRequest(last=2, context=3))
    prefill(model, plan, prompt)
    _, attentions = masked_run(model, prompt, THREE_CUTS)
    newline = LAYOUT.start + LAYOUT.visual
    assert [step.layer for step in plan.steps] == [2, 3, 6]
    for step in plan.steps:
        table = attentions[step.layer - 1][:, LAYOUT.start + step.alive]
        assert step.scores.dtype == torch.float32
        torch.testing.assert_close(step.scores, table[-2:].mean(0))
        assert step.question is not None
        assert step.baseline is not None
        torch.testing.assert_close(step.question, table[newline + 1 : newline + 4].mean(0))
        torch.testing.assert_close(step.baseline, table[newline])


def test_the_report_is_what_the_caches_hold(model: Qwen2ForCausalLM, prompt: Tensor):
    _, cache, report = prefill(model, Fixed(THREE_CUTS), prompt)
    lengths = [cache.layers[index].keys.shape[2] for index in range(LAYERS)]
    assert report.visual_per_layer == (36, 36, 18, 6, 6, 6, 2, 2)
    assert lengths == [LENGTH - 36 + count for count in report.visual_per_layer]
    assert report.text_tokens == LENGTH - 36
    assert [step.kept.tolist() for step in report.steps] == list(THREE_CUTS.values())
    assert report.steps[1].alive_before.tolist() == THREE_CUTS[2]
    assert report.score_rows == {2: 1, 3: 1, 6: 1}


def test_text_and_newline_go_through_every_layer(model: Qwen2ForCausalLM, prompt: Tensor):
    seen: list[Tensor] = []
    handles = [
        layer.self_attn.register_forward_pre_hook(
            lambda _module, _args, kwargs: seen.append(kwargs["position_ids"][0]),
            with_kwargs=True,
        )
        for layer in model.model.layers
    ]
    try:
        prefill(model, Fixed({1: [17]}), prompt)
    finally:
        for handle in handles:
            handle.remove()
    text = [*range(5), *range(5 + 36, LENGTH)]  # 41 is the newline
    assert seen[0].tolist() == list(range(LENGTH))
    for positions in seen[1:]:
        assert positions.tolist() == sorted([*text, 5 + 17])


def test_keeping_all_changes_no_bit(model: Qwen2ForCausalLM, prompt: Tensor):
    with torch.inference_mode():
        plain = model(inputs_embeds=prompt, use_cache=True).logits[0, -1]
    everything = {layer: list(range(36)) for layer in range(1, LAYERS)}
    for plan in (Fixed({}), Fixed(everything)):
        logits, _, report = prefill(model, plan, prompt)
        assert torch.equal(logits, plain)
        assert report.visual_per_layer == (36,) * LAYERS


def test_generation_goes_on_from_the_unpruned_position(model: Qwen2ForCausalLM, prompt: Tensor):
    positions: list[list[int]] = []
    handle = model.model.layers[-1].register_forward_pre_hook(
        lambda _module, _args, kwargs: positions.append(kwargs["position_ids"][0].tolist()),
        with_kwargs=True,
    )
    with torch.inference_mode(), PrunedPrefill(model.model, Fixed({2: [3]}), LAYOUT) as run:
        model.generate(inputs_embeds=prompt, max_new_tokens=4, do_sample=False)
    handle.remove()
    assert positions[1:] == [[LENGTH], [LENGTH + 1], [LENGTH + 2]]
    assert run.report.visual_per_layer == (36, 36, 1, 1, 1, 1, 1, 1)


def hooks_on(model: Qwen2ForCausalLM) -> int:
    return sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()
    )


def test_hooks_are_gone_after_a_failure_in_the_middle(model: Qwen2ForCausalLM, prompt: Tensor):
    class Failing(Fixed):
        def choose(self, step: LayerStep) -> Tensor:
            if step.layer == 3:
                raise RuntimeError("out of luck")
            return super().choose(step)

    before = hooks_on(model)
    plain, _, _ = prefill(model, Fixed({}), prompt)
    with pytest.raises(RuntimeError, match="out of luck"):
        prefill(model, Failing(THREE_CUTS), prompt)
    assert hooks_on(model) == before
    again, _, _ = prefill(model, Fixed({}), prompt)
    assert torch.equal(again, plain)


@pytest.mark.parametrize(
    ("kept", "most", "complaint"),
    [
        ([], 9, "kept 0 tokens"),
        (list(range(10)), 9, "kept 10 tokens where 1 to 9"),
        ([3, 2], 9, "do not rise"),
        ([2, 2], 9, "do not rise"),
        ([1, 3], 9, "already dropped"),
        ([34, 36], 9, "already dropped"),
        ([-2, 0], 9, "already dropped"),
    ],
)
def test_a_choice_against_the_rules_is_refused(
    model: Qwen2ForCausalLM, prompt: Tensor, kept: list[int], most: int, complaint: str
):
    plan = Fixed({2: list(range(0, 36, 2)), 4: kept})
    plan.keep_counts = {2: 18, 4: most}
    with pytest.raises(PruningError, match=complaint):
        prefill(model, plan, prompt)


def test_calls_that_cannot_be_pruned_are_refused(model: Qwen2ForCausalLM, prompt: Tensor):
    def attempt(embeddings: Tensor, **arguments: Any) -> None:
        with torch.inference_mode(), PrunedPrefill(model.model, Fixed({2: [1]}), LAYOUT):
            model(inputs_embeds=embeddings, **arguments)

    mask = torch.ones(1, LENGTH, dtype=torch.int64)
    mask[0, 0] = 0
    with pytest.raises(AdatpError, match="attention mask"):
        attempt(prompt, attention_mask=mask, use_cache=True)
    with pytest.raises(PruningError, match="one prompt at a time, not on 2"):
        attempt(prompt.expand(2, -1, -1), use_cache=True)
    with pytest.raises(PruningError, match="without a key/value cache"):
        attempt(prompt, use_cache=False)
    with pytest.raises(PruningError, match="cannot hold this video"):
        attempt(prompt[:, :42], use_cache=True)
    with pytest.raises(PruningError, match="layer 0 must see every token"):
        PrunedPrefill(model.model, Fixed({0: [1]}), LAYOUT)
    with pytest.raises(PruningError, match="not finite"):
        attempt(prompt * float("nan"), use_cache=True)


def test_a_second_prefill_and_a_prefill_in_pieces_are_refused(
    model: Qwen2ForCausalLM, prompt: Tensor
):
    with torch.inference_mode(), PrunedPrefill(model.model, Fixed({2: [1]}), LAYOUT) as run:
        with pytest.raises(PruningError, match="no prefill has finished"):
            _ = run.report
        model(inputs_embeds=prompt, use_cache=True)
        with pytest.raises(PruningError, match="second"):
            model(inputs_embeds=prompt, use_cache=True)
    cache = DynamicCache()
    with torch.inference_mode():
        model(inputs_embeds=prompt[:, :2], past_key_values=cache, use_cache=True)
        with (
            PrunedPrefill(model.model, Fixed({2: [1]}), LAYOUT),
            pytest.raises(PruningError, match="in pieces"),
        ):
            model(inputs_embeds=prompt, past_key_values=cache, use_cache=True)


SIGNALS = ClipSignals(
    tower_vectors=torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]),
    frame_vectors=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]),
    question_vector=torch.tensor([1.0, 0.0]),
)
NO_ENCODER = ClipSignals(tower_vectors=SIGNALS.tower_vectors)


def profile(budget: float = 0.5, **knobs: Any) -> Profile:
    # The published first layer, which `auto` would move to 1 in a model this small.
    return AdaTPProfile(name="test", budget=budget, schedule=ScheduleKnobs(first_layer=2), **knobs)


VARIANTS = {
    "refill": profile(),
    "strict": profile(local=LocalKnobs(mode="strict")),
    "off": profile(local=LocalKnobs(mode="off")),
    "attention": profile(relevance=RelevanceKnobs(encoder="attention")),
    "rows": profile(scores=ScoreKnobs(rows=3)),
    "some layers": profile(
        local=LocalKnobs(mode="strict", representative="middle", first_layer=2, last_layer=3)
    ),
    "everything": profile(1.0),
    "next to nothing": profile(0.27),
    "vanilla": VanillaProfile(name="test"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("signals", [SIGNALS, NO_ENCODER], ids=["encoder", "no encoder"])
def test_every_method_stays_within_its_plan(
    model: Qwen2ForCausalLM, prompt: Tensor, variant: str, signals: ClipSignals
):
    plan = method_of(VARIANTS[variant]).plan(LAYOUT, signals, SHAPE)
    logits, _, report = prefill(model, plan, prompt)
    counts = report.visual_per_layer
    assert counts[0] == counts[1] == 36
    assert min(counts) >= 1
    for layer, most in plan.keep_counts.items():
        assert counts[layer] <= most
        if variant not in ("strict", "some layers"):
            assert counts[layer] == most
    kept = {step.layer: step.kept.tolist() for step in report.steps}
    reference, _ = masked_run(model, prompt, kept)
    assert (logits - reference).abs().max() < 2e-5


def test_a_whole_budget_computes_no_scores(model: Qwen2ForCausalLM, prompt: Tensor):
    plan = method_of(profile(1.0)).plan(LAYOUT, SIGNALS, SHAPE)
    _, _, report = prefill(model, plan, prompt)
    assert report.steps == ()
    assert report.score_rows == {}


def test_segments_come_from_the_signal_that_the_profile_names():
    def bounds(signal: str, signals: ClipSignals) -> tuple[int, ...]:
        knobs = profile(segments=SegmentKnobs(signal=signal))  # type: ignore[arg-type]
        segments = method_of(knobs).plan(LAYOUT, signals, SHAPE).segments
        assert segments is not None
        return segments.bounds

    assert bounds("relevance", SIGNALS) == bounds("auto", SIGNALS) == (0, 1, 4)
    assert bounds("tower", SIGNALS) == bounds("auto", NO_ENCODER) == (0, 2, 4)
    with pytest.raises(ProfileError, match="no relevance encoder"):
        bounds("relevance", NO_ENCODER)


def test_matching_segments_keep_more(model: Qwen2ForCausalLM, prompt: Tensor):
    def kept_share(weight: float) -> float:
        knobs = profile(0.4, relevance=RelevanceKnobs(weight=weight))
        _, _, report = prefill(model, method_of(knobs).plan(LAYOUT, SIGNALS, SHAPE), prompt)
        kept = report.steps[0].kept
        return float((kept < 9).double().mean())  # frame 0 is the segment that matches

    assert kept_share(0.0) == pytest.approx(1 / 4, abs=0.03)
    assert kept_share(1.0) == pytest.approx(2 / 5, abs=0.03)


def test_attention_weights_are_known_only_after_the_first_pruning_layer(
    model: Qwen2ForCausalLM, prompt: Tensor
):
    knobs = VARIANTS["attention"]
    plan = method_of(knobs).plan(LAYOUT, NO_ENCODER, SHAPE)
    assert plan.segments is not None
    assert plan.segments.relevance is None
    _, _, report = prefill(model, plan, prompt)
    assert plan.segments.relevance is not None
    assert plan.segments.relevance.shape == (4,)
    assert [step.rows for step in report.steps] == [1 + 1 + 7, 1, 1, 1]


def test_attention_relevance_cancels_the_pull_of_a_position():
    frame = torch.arange(4).repeat_interleave(9)
    pull = torch.tensor([0.1, 0.1, 0.2, 0.6])[frame] / 9
    even = debiased_frame_relevance(pull * 0.5, pull, frame, 4)
    assert float(even.max() - even.min()) < 1e-6
    interest = torch.tensor([1.0, 3.0, 1.0, 1.0])[frame]
    assert int(debiased_frame_relevance(pull * interest, pull, frame, 4).argmax()) == 1
