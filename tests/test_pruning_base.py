"""Pruning inside a model: the same numbers as a masked run, and nothing left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

from adatp_cli.cost import LanguageShape
from adatp_cli.errors import AdatpError, ProfileError
from adatp_cli.profiles import (
    LocalSettings,
    Profile,
    RelevanceSettings,
    ScheduleSettings,
    ScoreSettings,
    SegmentSettings,
)
from adatp_cli.pruning.base import PrunedPrefill, PruneReport, PruningError
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    PruningPlan,
    ScoreRequest,
    VisualLayout,
)
from adatp_cli.pruning.methods import METHODS, method_of
from adatp_cli.pruning.scores import debiased_frame_relevance

LAYERS = 8
SHAPE = LanguageShape(LAYERS, 48, 6, 2, 8, 96, 100)
LAYOUT = VisualLayout(start=5, frames=4, rows=3, cols=3)
LENGTH = LAYOUT.start + LAYOUT.visual + 1 + 7


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=SHAPE.vocab,
        hidden_size=SHAPE.hidden,
        intermediate_size=SHAPE.intermediate,
        num_hidden_layers=LAYERS,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads,
        attn_implementation="sdpa",
        eos_token_id=None,
    )
    model = Qwen2ForCausalLM(config).eval()
    for name, value in model.named_parameters():  # flat attention would hide every mistake
        if value.ndim == 2:
            torch.nn.init.normal_(value, std=1.2 / value.shape[1] ** 0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.5)
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture
def prompt() -> Tensor:
    return torch.randn(1, LENGTH, SHAPE.hidden, generator=torch.Generator().manual_seed(1))


@dataclass
class Fixed(PruningPlan):
    """Keeps what the test says."""

    kept: Mapping[int, list[int]]
    rows: ScoreRequest = field(default_factory=ScoreRequest)
    steps: list[LayerStep] = field(default_factory=list)
    most: int = 10**6

    @property
    def keep_counts(self) -> Mapping[int, int]:
        return dict.fromkeys(self.kept, self.most)

    def request(self, layer: int) -> ScoreRequest:  # noqa: ARG002
        return self.rows

    def choose(self, step: LayerStep) -> Tensor:
        self.steps.append(step)
        return torch.tensor(self.kept[step.layer], dtype=torch.int64)


THREE_CUTS = {
    2: list(range(0, 36, 2)),
    3: [0, 4, 8, 12, 30, 34],
    6: [4, 34],
}


def prefill(
    model: Qwen2ForCausalLM, plan: PruningPlan, prompt: Tensor, **arguments: Any
) -> tuple[Tensor, DynamicCache, PruneReport]:
    cache = DynamicCache()
    with torch.inference_mode(), PrunedPrefill(model.model, plan, LAYOUT) as run:
        output = model(inputs_embeds=prompt, past_key_values=cache, use_cache=True, **arguments)
    return output.logits[0, -1], cache, run.report


def masked_run(
    model: Qwen2ForCausalLM, prompt: Tensor, kept: Mapping[int, list[int]]
) -> tuple[Tensor, list[Tensor]]:
    """Logits of a run at full length in which dropped tokens are invisible from their layer on.

    Also the attention of every layer, mean over heads, as the library's eager code computes it.
    """
    decoder = model.model
    visible = torch.ones(LENGTH, dtype=torch.bool)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    hidden = prompt
    positions = decoder.rotary_emb(prompt, torch.arange(LENGTH)[None])
    attentions = []
    with torch.inference_mode():
        for index, layer in enumerate(decoder.layers):
            if index in kept:
                visible = torch.ones(LENGTH, dtype=torch.bool)
                visible[LAYOUT.start : LAYOUT.start + LAYOUT.visual] = False
                visible[LAYOUT.start + torch.tensor(kept[index])] = True
            # A dropped token's own row must see something; what it computes reaches nobody.
            mask = (causal & visible[None]) | torch.eye(LENGTH, dtype=torch.bool)
            bias = torch.zeros(LENGTH, LENGTH).masked_fill(~mask, float("-inf"))[None, None]
            attention = layer.self_attn
            normed = layer.input_layernorm(hidden)
            query = attention.q_proj(normed).view(1, LENGTH, -1, 8).transpose(1, 2)
            key = attention.k_proj(normed).view(1, LENGTH, -1, 8).transpose(1, 2)
            query, key = apply_rotary_pos_emb(query, key, *positions)
            products = query @ repeat_kv(key, 3).transpose(2, 3) * 8**-0.5 + bias
            attentions.append(products.softmax(-1).mean(1)[0])
            hidden = layer(hidden, attention_mask=bias, position_embeddings=positions)
        return model.lm_head(decoder.norm(hidden))[0, -1], attentions


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
    class Second(Fixed):
        @property
        def keep_counts(self) -> Mapping[int, int]:
            return {2: 18, 4: most}

    with pytest.raises(PruningError, match=complaint):
        prefill(model, Second({2: list(range(0, 36, 2)), 4: kept}), prompt)


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
    return Profile("test", "adatp", budget=budget, schedule=ScheduleSettings(2), **knobs)


VARIANTS = {
    "refill": profile(),
    "strict": profile(local=LocalSettings("strict")),
    "off": profile(local=LocalSettings("off")),
    "attention": profile(relevance=RelevanceSettings("attention")),
    "rows": profile(scores=ScoreSettings(3)),
    "some layers": profile(local=LocalSettings("strict", "middle", 2, 3)),
    "everything": profile(1.0),
    "next to nothing": profile(0.27),
    "vanilla": Profile("test", "vanilla"),
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


def test_all_methods_of_the_table_are_tried():
    assert {variant.method for variant in VARIANTS.values()} == set(METHODS)


def test_a_whole_budget_computes_no_scores(model: Qwen2ForCausalLM, prompt: Tensor):
    plan = method_of(profile(1.0)).plan(LAYOUT, SIGNALS, SHAPE)
    _, _, report = prefill(model, plan, prompt)
    assert report.steps == ()
    assert report.score_rows == {}


def test_segments_come_from_the_signal_that_the_profile_names():
    def bounds(signal: str, signals: ClipSignals) -> tuple[int, ...]:
        knobs = profile(segments=SegmentSettings(signal))  # type: ignore[arg-type]
        segments = method_of(knobs).plan(LAYOUT, signals, SHAPE).segments
        assert segments is not None
        return segments.bounds

    assert bounds("relevance", SIGNALS) == bounds("auto", SIGNALS) == (0, 1, 4)
    assert bounds("tower", SIGNALS) == bounds("auto", NO_ENCODER) == (0, 2, 4)
    with pytest.raises(ProfileError, match="no relevance encoder"):
        bounds("relevance", NO_ENCODER)


def test_matching_segments_keep_more(model: Qwen2ForCausalLM, prompt: Tensor):
    def kept_share(weight: float) -> float:
        knobs = profile(0.4, relevance=RelevanceSettings(weight=weight))
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
