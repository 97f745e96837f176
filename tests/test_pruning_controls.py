"""The in-model rivals and controls: which tokens each one keeps, by hand and by brute force."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

from adatp_cli.cost import KNOWN_SHAPES
from adatp_cli.errors import UsageError
from adatp_cli.profiles import load_profile
from adatp_cli.pruning.knobs import (
    FastVKnobs,
    FastVProfile,
    PyramidDropProfile,
    RandomKnobs,
    RandomProfile,
    UniformProfile,
)
from adatp_cli.pruning.method import ClipSignals, LayerStep, ModelContext, VisualLayout
from adatp_cli.pruning.methods import method_of, resolve_profile
from adatp_cli.pruning.methods.fastv import FastV
from adatp_cli.pruning.methods.pyramiddrop import PyramidDrop, stage_layers
from adatp_cli.pruning.methods.random_tokens import RandomTokens
from adatp_cli.pruning.methods.uniform import Uniform, spread_positions
from adatp_cli.pruning.segments import largest
from tests.pruning_case import LAYOUT, SHAPE, build_model, build_prompt, masked_run, prefill

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
    assert largest(scores, 2).tolist() == [1, 2]
    assert largest(scores, 4).tolist() == [1, 2, 3, 4]
    assert largest(scores, 5).tolist() == [0, 1, 2, 3, 4]


def test_fastv_ranks_by_the_layer_that_has_just_run(model: Qwen2ForCausalLM) -> None:
    prompt = build_prompt()
    plan = FastV(FastVProfile(name="x", budget=0.5, fastv=FastVKnobs(layer=3))).plan(
        LAYOUT, SIGNALS, SHAPE
    )
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
        method_of(quarter).token_schedule(32, 196, SEVEN_B).visual_per_layer
        == (6272,) * 2 + (1568,) * 26
    )
    tenth = method_of(quarter.with_budget(0.1508)).token_schedule(32, 196, SEVEN_B)
    assert tenth.visual_per_layer[-1] == 627
    with pytest.raises(UsageError, match="layers that see every token"):
        method_of(quarter.with_budget(0.07)).token_schedule(32, 196, SEVEN_B)


@pytest.mark.parametrize("name", ["fastv", "random", "uniform"])
def test_a_layer_that_is_not_there_is_named(name: str) -> None:
    known = ModelContext(layers=8)
    profile = load_profile(name)
    assert getattr(resolve_profile(profile, known), name).layer == 1
    assert getattr(resolve_profile(profile, ModelContext(28)), name).layer == 2
    wrong = profile.to_dict() | {name: {"layer": 8}}
    import yaml

    from adatp_cli.profiles import parse_profile

    with pytest.raises(UsageError, match=f"{name}.layer is 8"):
        resolve_profile(parse_profile(yaml.safe_dump(wrong), "x"), known)


def test_random_draws_by_seed_alone() -> None:
    layout = VisualLayout(0, 8, 6, 6)

    def drawn(seed: int) -> list[int]:
        return (
            RandomTokens(RandomProfile(name="x", budget=0.5, random=RandomKnobs(seed=seed)))
            .choose(step(288, 72), layout)
            .tolist()
        )

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 72
    assert drawn(1) == sorted(drawn(1))
    # Every token has the same chance: with 400 draws of a quarter, 100 +- 5 standard deviations.
    counts = torch.bincount(torch.tensor([t for s in range(400) for t in drawn(s)]), minlength=288)
    assert 55 < int(counts.min()) <= int(counts.max()) < 145


def test_the_seed_is_the_runs_unless_the_profile_has_one() -> None:
    profile = load_profile("random")
    assert resolve_profile(profile, ModelContext(12, seed=7)).random.seed == 7
    fixed = resolve_profile(profile, ModelContext(12, seed=7))
    assert resolve_profile(fixed, ModelContext(12, seed=8)).random.seed == 7


SHARES = [0.05, 0.1, 0.15, 0.273, 0.5]


def kept_uniformly(layout: VisualLayout, keep: int) -> Tensor:
    return Uniform(UniformProfile(name="x", budget=0.5)).choose(step(layout.visual, keep), layout)


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 16, 32, 33])
def test_uniform_keeps_as_many_of_each_frame_and_each_stretch(frames: int) -> None:
    layout = VisualLayout(0, frames, 3, 4)
    before: set[int] = set()
    for keep in range(1, layout.visual + 1):
        kept = kept_uniformly(layout, keep)
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert len(kept) == keep
        assert before < set(kept.tolist())  # a smaller budget keeps no token that this one drops
        before = set(kept.tolist())
        counts = torch.bincount(kept // 12, minlength=frames)
        assert int(counts.max() - counts.min()) <= 1
        # No stretch of frames has much more or less than its share, and no end more than the other.
        over = (
            torch.cat((torch.zeros(1), counts.cumsum(0))) - torch.arange(frames + 1) * keep / frames
        )
        assert float(over.max() - over.min()) < 1.6
        assert abs(float((kept // 12).double().mean()) - (frames - 1) / 2) <= max(frames, 3) / 4
    first = kept_uniformly(layout, 1)
    assert first.tolist() == [frames // 2 * 12 + 6]  # the middle of the middle


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("size", [(32, 14, 14), (16, 14, 14), (8, 10, 10), (16, 6, 6)])
def test_uniform_is_even_in_space_and_time(size: tuple[int, int, int], share: float) -> None:
    frames, rows, cols = size
    layout = VisualLayout(0, *size)
    kept = kept_uniformly(layout, round(share * layout.visual))
    count = len(kept)
    cube = torch.zeros(layout.visual, dtype=torch.float64)
    cube[kept] = 1
    cube = cube.view(size)
    # The border of every frame has its share of the tokens, to three of them or two per cent.
    inner = float(cube[:, 1:-1, 1:-1].sum())
    even = count * (rows - 2) * (cols - 2) / (rows * cols)
    assert abs(inner - even) <= max(3.0, 0.02 * count)
    # Star discrepancy: no box from the first corner is off by what random draws (1 / sqrt) are.
    ends = [torch.arange(1, n + 1, dtype=torch.float64) / n for n in size]
    volume = ends[0][:, None, None] * ends[1][:, None] * ends[2]
    share_in_box = cube.cumsum(0).cumsum(1).cumsum(2) / count
    assert float((share_in_box - volume).abs().max()) < 1.25 * count**-0.6
    # Each eighth of the clip, half by half by half, has an eighth of the tokens.
    blocks = cube.view(2, frames // 2, 2, rows // 2, 2, cols // 2).sum((1, 3, 5))
    assert float((blocks - count / 8).abs().max()) <= max(3.0, 0.03 * count)


@pytest.mark.parametrize("share", SHARES)
def test_uniform_keeps_other_places_in_the_next_frame(share: float) -> None:
    layout = VisualLayout(0, 32, 14, 14)
    kept = kept_uniformly(layout, round(share * layout.visual))
    places = [set((kept[kept // 196 == frame] % 196).tolist()) for frame in range(32)]
    for one, next_one in pairwise(places):
        assert len(one & next_one) <= (share + 0.3) * len(one)
    # Between them the frames see nearly every place, though each has few.
    assert len(set().union(*places)) >= 165


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 3), (7, 16), (27, 27)])
def test_positions_come_once_each_in_any_grid(size: tuple[int, int]) -> None:
    order = spread_positions(*size).tolist()
    assert sorted(order) == list(range(size[0] * size[1]))
    assert order[0] == size[0] // 2 * size[1] + size[1] // 2


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
    counts = (
        method_of(load_profile("pyramiddrop")).token_schedule(32, 196, SEVEN_B).visual_per_layer
    )
    for layer, published in ((0, 6272), (7, 3136), (14, 1568), (21, 784)):
        assert counts[layer] == pytest.approx(published, rel=0.005)
    early = method_of(load_profile("pyramiddrop-early")).token_schedule(32, 196, SEVEN_B)
    assert early.visual_per_layer[16] / early.visual_per_layer[9] == pytest.approx(0.481, abs=0.002)


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_pyramiddrop_ranks_by_the_layer_that_follows(
    model: Qwen2ForCausalLM, positions: str
) -> None:
    prompt = build_prompt()
    method = PyramidDrop(PyramidDropProfile(name="x", budget=0.6, positions=positions))  # type: ignore[arg-type]
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
