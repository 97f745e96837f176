"""The in-model rivals and controls: which tokens each one keeps, by hand and by brute force."""

from __future__ import annotations

import pytest
import torch
from pruning_case import LAYOUT, SHAPE, build_model, build_prompt, masked_run, prefill
from torch import Tensor
from transformers import Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

from adatp_cli.cost import KNOWN_SHAPES
from adatp_cli.errors import UsageError
from adatp_cli.profiles import load_profile
from adatp_cli.pruning.method import Circumstances, ClipSignals, LayerStep, VisualLayout
from adatp_cli.pruning.methods import method_of, resolve_profile
from adatp_cli.pruning.methods.fastv import FastV
from adatp_cli.pruning.methods.pyramiddrop import PyramidDrop, stage_layers
from adatp_cli.pruning.methods.random_tokens import RandomTokens
from adatp_cli.pruning.methods.uniform import Uniform, spread_positions
from adatp_cli.pruning.scores import best

SIGNALS = ClipSignals(tower_vectors=torch.zeros(4, 2))
SEVEN_B = KNOWN_SHAPES["7b"].language


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return build_model()


def step(count: int, keep: int, scores: Tensor | None = None) -> LayerStep:
    alive = torch.arange(count)
    return LayerStep(2, keep, alive, alive, torch.zeros(0) if scores is None else scores)


def test_the_best_are_the_largest_and_the_earlier_of_equals() -> None:
    scores = torch.tensor([0.1, 0.5, 0.5, 0.2, 0.5])
    assert best(scores, 2).tolist() == [1, 2]
    assert best(scores, 4).tolist() == [1, 2, 3, 4]
    assert best(scores, 5).tolist() == [0, 1, 2, 3, 4]


def test_fastv_ranks_by_the_layer_that_has_just_run(model: Qwen2ForCausalLM) -> None:
    prompt = build_prompt()
    plan = FastV(0.5, 3).plan(LAYOUT, SIGNALS, SHAPE)
    _, _, report = prefill(model, plan, prompt)
    (only,) = report.steps
    assert only.layer == 3
    _, attentions = masked_run(model, prompt, {})
    row = attentions[2][-1, LAYOUT.start : LAYOUT.start + LAYOUT.visual]
    torch.testing.assert_close(only.score, row)
    order = sorted(range(36), key=lambda i: (-float(only.score[i]), i))
    assert only.kept.tolist() == sorted(order[: len(only.kept)])
    assert len(only.kept) == plan.keep_counts[3]


def test_fastv_keeps_what_the_paper_keeps_at_its_cost() -> None:
    quarter = load_profile("fastv")
    assert (
        method_of(quarter).outlook(32, 196, SEVEN_B).visual_per_layer == (6272,) * 2 + (1568,) * 26
    )
    tenth = method_of(quarter.with_budget(0.1508)).outlook(32, 196, SEVEN_B)
    assert tenth.visual_per_layer[-1] == 627
    with pytest.raises(UsageError, match="layers that see every token"):
        method_of(quarter.with_budget(0.07)).outlook(32, 196, SEVEN_B)


@pytest.mark.parametrize("name", ["fastv", "random", "uniform"])
def test_a_layer_that_is_not_there_is_named(name: str) -> None:
    known = Circumstances(layers=8)
    profile = load_profile(name)
    assert getattr(resolve_profile(profile, known), name).layer == 1
    assert getattr(resolve_profile(profile, Circumstances(28)), name).layer == 2
    wrong = profile.to_dict() | {name: {"layer": 8}}
    import yaml

    from adatp_cli.profiles import parse_profile

    with pytest.raises(UsageError, match=f"{name}.layer is 8"):
        resolve_profile(parse_profile(yaml.safe_dump(wrong), "x"), known)


def test_random_draws_by_seed_alone() -> None:
    layout = VisualLayout(0, 8, 6, 6)

    def drawn(seed: int) -> list[int]:
        return RandomTokens(0.5, seed=seed).choose(step(288, 72), layout).tolist()

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 72
    assert drawn(1) == sorted(drawn(1))
    # Every token has the same chance: with 400 draws of a quarter, 100 +- 5 standard deviations.
    counts = torch.bincount(torch.tensor([t for s in range(400) for t in drawn(s)]), minlength=288)
    assert 55 < int(counts.min()) <= int(counts.max()) < 145


def test_the_seed_is_the_runs_unless_the_profile_has_one() -> None:
    profile = load_profile("random")
    assert resolve_profile(profile, Circumstances(12, seed=7)).random.seed == 7
    fixed = resolve_profile(profile, Circumstances(12, seed=7))
    assert resolve_profile(fixed, Circumstances(12, seed=8)).random.seed == 7


@pytest.mark.parametrize("frames", [1, 3, 8, 32])
@pytest.mark.parametrize("keep", [1, 2, 5, 31, 32, 33, 100])
def test_uniform_is_even_in_time(frames: int, keep: int) -> None:
    layout = VisualLayout(0, frames, 6, 6)
    keep = min(keep, layout.visual)
    kept = Uniform(0.5).choose(step(layout.visual, keep), layout)
    assert len(kept) == keep
    counts = torch.bincount(kept // 36, minlength=frames)
    assert int(counts.max() - counts.min()) <= 1
    order = spread_positions(6, 6)
    for frame, count in enumerate(counts.tolist()):
        assert (kept[kept // 36 == frame] % 36).tolist() == sorted(order[:count].tolist())
    # No stretch of frames has more than its share and one token.
    for length in range(1, frames + 1):
        for first in range(frames - length + 1):
            part = int(counts[first : first + length].sum())
            assert abs(part - keep * length / frames) < 1 + 1e-9


def test_uniform_is_even_in_space() -> None:
    order = spread_positions(3, 3).tolist()
    assert order[0] == 4
    assert set(order[1:5]) == {0, 2, 6, 8}
    assert sorted(order) == list(range(9))
    order = spread_positions(14, 14).tolist()
    assert sorted(order) == list(range(196))
    for count in (5, 20, 49, 100):
        places = [(i // 14, i % 14) for i in order[:count]]
        apart = min(
            (a - c) ** 2 + (b - d) ** 2 for a, b in places for c, d in places if (a, b) != (c, d)
        )
        # A square lattice of so many points has the distance 14 / sqrt(count).
        assert apart**0.5 >= 0.6 * 14 / count**0.5


@pytest.mark.parametrize(
    ("layers", "quarters", "early"),
    [
        (28, (7, 14, 21), (2, 9, 16)),
        (24, (6, 12, 18), (2, 7, 12)),
        (8, (2, 4, 6), (1, 3, 5)),
        (2, (1,), (1,)),
    ],
)
def test_stages_follow_the_depth(
    layers: int, quarters: tuple[int, ...], early: tuple[int, ...]
) -> None:
    assert stage_layers(layers, "quarters") == quarters
    assert stage_layers(layers, "early") == early


def test_pyramiddrop_halves_at_its_own_budget() -> None:
    counts = method_of(load_profile("pyramiddrop")).outlook(32, 196, SEVEN_B).visual_per_layer
    for layer, published in ((0, 6272), (7, 3136), (14, 1568), (21, 784)):
        assert counts[layer] == pytest.approx(published, rel=0.005)
    early = method_of(load_profile("pyramiddrop-early")).outlook(32, 196, SEVEN_B)
    assert early.visual_per_layer[16] / early.visual_per_layer[9] == pytest.approx(0.481, abs=0.002)


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_pyramiddrop_ranks_by_the_layer_that_follows(
    model: Qwen2ForCausalLM, positions: str
) -> None:
    prompt = build_prompt()
    method = PyramidDrop(0.6, "quarters", positions)  # type: ignore[arg-type]
    _, _, report = prefill(model, method.plan(LAYOUT, SIGNALS, SHAPE), prompt)
    assert [entry.layer for entry in report.steps] == [2, 4, 6]
    compact = positions == "compact"
    alive, hidden = torch.arange(prompt.shape[1]), prompt
    ids = alive
    with torch.inference_mode():
        for index, layer in enumerate(model.model.layers):
            if index in (2, 4, 6):
                entry = report.steps[index // 2 - 1]
                table = attention(model, index, hidden, ids)
                visual = slice(LAYOUT.start, LAYOUT.start + len(entry.alive_before))
                torch.testing.assert_close(entry.score, table[-1, visual])
                order = sorted(range(len(entry.score)), key=lambda i: (-float(entry.score[i]), i))[
                    : len(entry.kept)
                ]
                assert entry.kept.tolist() == entry.alive_before[sorted(order)].tolist()
                assert entry.keys == len(alive)
                stays = LAYOUT.start + torch.tensor(sorted(order))
                behind = torch.arange(visual.stop, len(alive))
                places = torch.cat((torch.arange(LAYOUT.start), stays, behind))
                alive, hidden = alive[places], hidden[:, places]
                ids = torch.arange(len(alive)) if compact else alive
            rotary = model.model.rotary_emb(hidden, ids[None])
            hidden = layer(hidden, position_embeddings=rotary)


def attention(model: Qwen2ForCausalLM, index: int, hidden: Tensor, ids: Tensor) -> Tensor:
    """Attention of layer `index` on what enters it, mean over heads."""
    layer, length = model.model.layers[index], hidden.shape[1]
    part, normed = layer.self_attn, layer.input_layernorm(hidden)
    query = part.q_proj(normed).view(1, length, -1, 8).transpose(1, 2)
    key = part.k_proj(normed).view(1, length, -1, 8).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, *model.model.rotary_emb(hidden, ids[None]))
    products = query @ repeat_kv(key, 3).transpose(2, 3) * 8**-0.5
    hidden_ones = torch.ones(length, length, dtype=torch.bool).triu(1)
    return products.masked_fill(hidden_ones, float("-inf")).softmax(-1).mean(1)[0]
