"""The table of invariants: what holds for every profile that comes along, whatever its method."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2ForCausalLM

from adatp_cli.cost import paper_cost
from adatp_cli.errors import UsageError
from adatp_cli.model.load import LoadedModel
from adatp_cli.profiles import Profile, builtin_names, load_profile
from adatp_cli.pruning.families import InputCompression
from adatp_cli.pruning.hooks import PrunedPrefill, PruneReport
from adatp_cli.pruning.knobs import PROFILES as KNOWN
from adatp_cli.pruning.knobs import sections_of
from adatp_cli.pruning.method import ClipSignals, LayerStep, PruningPlan, VisualLayout
from adatp_cli.pruning.methods import METHODS, method_of
from adatp_cli.pruning.methods.adatp_plus import AdaTPPlus
from tests.pruning_case import LAYERS, SHAPE, build_model, build_prompt, enter, masked_run, prefill
from tests.session_case import ask, hooks_on, load_random, noisy_clip, session_of

PROFILES = {name: load_profile(name) for name in builtin_names()}
PRUNING = {name: profile for name, profile in PROFILES.items() if profile.method != "vanilla"}
SIZES = [1, 2, 3, 7, 8, 16, 33, 64]
BUDGETS = [0.14, 0.3, 0.6, 0.95]


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return build_model()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


def clip_of(frames: int) -> tuple[VisualLayout, Tensor, ClipSignals]:
    """A clip of noise in scenes of three frames, with every signal that a method may ask for."""
    layout = VisualLayout(start=5, frames=frames, rows=3, cols=3)
    prompt = build_prompt(layout)
    random = torch.Generator().manual_seed(frames)
    scenes = torch.randn(frames // 3 + 1, 9, SHAPE.hidden, generator=random)
    tokens = scenes[torch.arange(frames) // 3] + 0.05 * torch.randn(
        frames, 9, SHAPE.hidden, generator=random
    )
    prompt[0, 5 : 5 + layout.visual] = tokens.flatten(0, 1)
    signals = ClipSignals(
        tower_vectors=tokens.mean(1),
        frame_vectors=torch.nn.functional.normalize(tokens.mean(1), dim=-1),
        question_vector=torch.randn(SHAPE.hidden, generator=random),
        tokens=prompt[0, 5 : 5 + layout.visual],
        probe_attention=torch.rand(frames, 9, generator=random).softmax(-1),
        tower_keys=tokens[..., :8] + 0.1 * torch.randn(frames, 9, 8, generator=random),
    )
    return layout, prompt, signals


def plan_within(
    profile: Profile, budget: float, frames: int
) -> tuple[PruningPlan, Profile, VisualLayout, Tensor]:
    """A plan at the budget, or at the smallest that the method says it can reach."""
    layout, prompt, signals = clip_of(frames)
    chosen = profile.with_budget(budget)
    smallest = smallest_budget(chosen, frames)
    if smallest is not None:
        chosen = profile.with_budget(smallest)
    return method_of(chosen).plan(layout, signals, SHAPE), chosen, layout, prompt


def smallest_budget(profile: Profile, frames: int) -> float | None:
    """What the method names as its smallest budget where it cannot reach the profile's."""
    try:
        method_of(profile).token_schedule(frames, 9, SHAPE)
    except UsageError as error:
        return float(error.hint.split()[-1])
    return None


@pytest.mark.parametrize("name", PRUNING)
def test_a_budget_that_cannot_be_reached_is_told_with_the_smallest_that_can(name: str) -> None:
    wanted = PRUNING[name].with_budget(0.002)
    layout, _, signals = clip_of(8)
    with pytest.raises(UsageError, match=r"a budget of 0\.002 cannot be reached"):
        method_of(wanted).plan(layout, signals, SHAPE)
    smallest = smallest_budget(wanted, 8)
    assert smallest is not None
    assert 0.002 < smallest < 0.3
    assert smallest_budget(wanted.with_budget(smallest), 8) is None
    assert smallest_budget(wanted.with_budget(smallest - 2e-4), 8) is not None


def share(counts: tuple[int, ...], layout: VisualLayout) -> float:
    return paper_cost(counts, SHAPE) / paper_cost([layout.visual] * LAYERS, SHAPE)


def test_every_method_has_a_profile_a_section_and_a_row() -> None:
    assert {profile.method for profile in PROFILES.values()} == set(KNOWN) == set(METHODS)


@pytest.mark.parametrize("frames", SIZES)
@pytest.mark.parametrize("name", PRUNING)
def test_the_plan_costs_what_was_asked_for(name: str, frames: int) -> None:
    for budget in BUDGETS:
        _, chosen, layout, _ = plan_within(PRUNING[name], budget, frames)
        counts = method_of(chosen).token_schedule(frames, 9, SHAPE).visual_per_layer
        assert chosen.budget is not None
        spent = share(counts, layout)
        assert spent <= chosen.budget
        assert all(1 <= b <= a <= layout.visual for a, b in pairwise((layout.visual, *counts)))
        # FastVID takes as many tokens of every frame; the others stop at a single token too many.
        grain = frames if chosen.method == "fastvid" else 1
        assert chosen.budget - spent < max(0.005, 1.5 * grain / layout.visual)


@pytest.mark.parametrize("frames", SIZES)
@pytest.mark.parametrize("name", PRUNING)
def test_choices_follow_the_rules(model: Qwen2ForCausalLM, name: str, frames: int) -> None:
    for budget in BUDGETS:
        plan, chosen, layout, prompt = plan_within(PRUNING[name], budget, frames)
        _, cache, report = prefill(model, plan, prompt, layout)
        planned = method_of(chosen).token_schedule(frames, 9, SHAPE).visual_per_layer
        counts = report.visual_per_layer
        assert all(1 <= count <= most for count, most in zip(counts, planned, strict=True))
        text = prompt.shape[1] - layout.visual  # the newline among it
        lengths = [cache.layers[index].keys.shape[2] for index in range(LAYERS)]
        assert lengths == [count + text for count in counts]
        assert report.text_tokens == text
        alive = list(range(layout.visual))
        for step in report.steps:
            kept = step.kept.tolist()
            assert step.alive_before.tolist() == alive
            assert kept == sorted(set(kept))
            assert set(kept) <= set(alive)
            breaks = int(plan.entry.breaks.sum()) if plan.entry and step.layer == 0 else 0
            assert len(kept) + breaks == counts[step.layer]
            alive = kept
        # AdaTP's strict mode may keep less, as may what merges tokens of a clip that repeats.
        if name not in ("adatp-strict", "fastvid", "unicomp"):
            assert counts == planned


def kept_of(report: PruneReport) -> dict[int, list[int]]:
    return {step.layer: step.kept.tolist() for step in report.steps}


@pytest.mark.parametrize("positions", ["auto", "original", "compact"])
@pytest.mark.parametrize("name", PRUNING)
def test_prefill_and_decoding_equal_a_masked_run_at_full_length(
    model: Qwen2ForCausalLM, name: str, positions: str
) -> None:
    """What a plan keeps is all that decides: positions, caches and scores are right."""
    profile = PRUNING[name].replace(positions=positions)
    plan, _, layout, prompt = plan_within(profile, 0.4, 7)
    token = torch.randn(1, 1, SHAPE.hidden, generator=torch.Generator().manual_seed(2))
    cache, entered = DynamicCache(), enter(plan, prompt, layout)
    with torch.inference_mode(), PrunedPrefill(model.model, plan, layout) as run:
        first = model(inputs_embeds=entered, past_key_values=cache, use_cache=True).logits[0, -1]
        model(inputs_embeds=token, past_key_values=cache, use_cache=True)
        second = model(inputs_embeds=token, past_key_values=cache, use_cache=True).logits[0, -1]
    longer = torch.cat((prompt, token, token), dim=1)
    compact = plan.positions == "compact"
    if plan.entry is not None and bool(plan.entry.breaks.any()):
        # Line breaks have no place in the unpruned prompt: the library's own run of the shorter.
        whole = torch.cat((entered, token, token), dim=1)
        ids = layout.places(plan.entry.owners, longer.shape[1])
        ids = torch.arange(len(ids)) if compact else ids
        with torch.inference_mode():
            plain, ahead = (
                model(
                    inputs_embeds=whole[:, :length],
                    position_ids=ids[None, :length],
                    past_key_values=DynamicCache(),
                ).logits[0, -1]
                for length in (entered.shape[1], whole.shape[1])
            )
    else:
        if plan.entry is not None:
            longer[0, layout.start + plan.entry.owners] = plan.entry.embeddings
        short, kept = longer[:, : prompt.shape[1]], kept_of(run.report)
        plain, _ = masked_run(model, short, kept, layout, compact=compact)
        ahead, _ = masked_run(model, longer, kept, layout, compact=compact)
        unpruned, _ = masked_run(model, prompt, {}, layout)
        assert (first - unpruned).abs().max() > 0.01  # pruning changes something here
    assert (first - plain).abs().max() < 5e-5
    assert (second - ahead).abs().max() < 5e-5


@pytest.mark.parametrize("name", PRUNING)
def test_positions_are_what_the_knob_says(name: str) -> None:
    published = PRUNING[name].published
    for knob in ("auto", "original", "compact"):
        profile = PRUNING[name].replace(positions=knob)
        plan, _, _, _ = plan_within(profile, 0.5, 3)
        assert plan.positions == (published if knob == "auto" else knob)


@pytest.mark.parametrize("name", PRUNING)
def test_the_same_plan_keeps_the_same(model: Qwen2ForCausalLM, name: str) -> None:
    runs = []
    for _ in range(2):
        plan, _, layout, prompt = plan_within(PRUNING[name], 0.3, 8)
        logits, _, report = prefill(model, plan, prompt, layout)
        runs.append((logits, kept_of(report)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize("name", PRUNING)
def test_a_failure_leaves_no_hook_behind(model: Qwen2ForCausalLM, name: str) -> None:
    before = hooks_on(model)
    plan, _, layout, prompt = plan_within(PRUNING[name], 0.3, 8)

    def fail(_step: LayerStep) -> Tensor:
        raise RuntimeError("out of luck")

    def stop(*_: object) -> None:
        raise RuntimeError("out of luck")

    plan.choose = fail  # type: ignore[method-assign]
    handle = model.model.layers[-1].register_forward_pre_hook(stop)
    try:
        with pytest.raises(RuntimeError, match="out of luck"):
            prefill(model, plan, prompt, layout)
    finally:
        handle.remove()
    assert hooks_on(model) == before


@pytest.mark.parametrize("name", PRUNING)
def test_a_whole_budget_is_the_unpruned_answer_bit_for_bit(loaded: LoadedModel, name: str) -> None:
    """`tests/test_session.py` holds vanilla to the library."""
    plain = ask(session_of(loaded, PROFILES["vanilla"], trace=True))
    done = ask(session_of(loaded, PRUNING[name].with_budget(1.0), trace=True))
    assert plain.trace is not None
    assert done.trace is not None
    if name == "adatp-strict":  # drops what stands twice for a position, whatever the budget
        assert done.record.tokens.kept_final <= plain.record.tokens.kept_final
        return
    assert np.array_equal(done.trace.arrays["first_logits"], plain.trace.arrays["first_logits"])
    assert done.record.answer == plain.record.answer
    assert done.record.tokens == plain.record.tokens
    assert done.record.flops.paper.ratio == 1.0
    assert done.record.flops.end_to_end.scoring == 0


@pytest.mark.parametrize("name", PRUNING)
def test_the_record_and_the_trace_tell_what_entered(loaded: LoadedModel, name: str) -> None:
    budget = 0.2 if name == "adatp-plus" else 0.5  # at which it lets the whole clip in
    done = ask(session_of(loaded, PRUNING[name].with_budget(budget), trace=True))
    assert done.trace is not None
    arrays, tokens, paper = done.trace.arrays, done.record.tokens, done.record.flops.paper
    visual = len(noisy_clip()) * 36
    assert tokens.visual == visual
    assert "auto" not in str(done.record.profile)
    assert set(done.record.profile) >= {"name", "method", *sections_of(PRUNING[name].method)}
    assert paper.ratio <= budget
    assert paper.pruned == paper_cost(tokens.kept_per_layer, loaded.shape.language)
    assert len(arrays["visual_tokens"]) == visual + 1
    before = issubclass(METHODS[PRUNING[name].method], InputCompression | AdaTPPlus)
    assert ("entered_tokens" in arrays) == before == (tokens.kept_per_layer[0] < visual)
    if before:
        owner, breaks = arrays["entered_owner"], arrays["entered_break"]
        assert len(owner) == len(arrays["entered_tokens"]) == tokens.kept_per_layer[0]
        assert arrays["kept_0"].tolist() == owner[~breaks].tolist()
        assert arrays["alive_before_0"].tolist() == list(range(visual))
    kept = [layer for layer in range(12) if f"kept_{layer}" in arrays]
    assert kept
    for layer in kept:
        scores = arrays[f"score_{layer}"]
        looks = PRUNING[name].method in ("adatp", "adatp-plus", "fastv", "pyramiddrop")
        looks &= layer > 0
        assert len(scores) == (len(arrays[f"alive_before_{layer}"]) if looks else 0)
