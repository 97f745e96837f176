"""The biases as numbers: on made attention, and against attention that the library computes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from adatp_cli.errors import PruningError
from adatp_cli.evaluation import bias_report
from adatp_cli.evaluation.bias import (
    PARTS,
    AttentionWatch,
    BiasSummary,
    Tally,
    looks_of,
    spread,
    top_tokens,
)
from adatp_cli.model.load import LoadedModel
from adatp_cli.pruning.hooks import PrunedPrefill
from tests.pruning_case import LAYERS, LAYOUT, Fixed, build_model, build_prompt, masked_run
from tests.session_case import QUESTION, answered, load_random, noisy_clip, profile, session_of

THREE_CUTS = {2: list(range(0, 36, 2)), 3: [0, 4, 8, 12, 30, 34], 6: [4, 34]}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


def watched(kept: dict[int, list[int]]) -> list[torch.Tensor]:
    model, plan = build_model(), Fixed(kept)
    with torch.inference_mode(), AttentionWatch(model.model) as watch:
        with PrunedPrefill(model.model, plan, LAYOUT):
            model(inputs_embeds=build_prompt(), past_key_values=DynamicCache(), use_cache=True)
        return watch.rows


def test_the_watched_row_is_the_librarys_own_attention() -> None:
    _, reference = masked_run(build_model(), build_prompt(), {})
    rows = watched({})
    assert len(rows) == LAYERS
    for row, table in zip(rows, reference, strict=True):
        assert row.dtype == torch.float32
        assert float(row.sum()) == pytest.approx(1, abs=1e-5)
        assert (row - table[-1]).abs().max() < 1e-5


def test_a_pruned_run_is_watched_as_it_is() -> None:
    _, reference = masked_run(build_model(), build_prompt(), THREE_CUTS)
    visual = list(range(LAYOUT.visual))
    for layer, row in enumerate(watched(THREE_CUTS)):
        visual = THREE_CUTS.get(layer, visual)
        places = [*range(LAYOUT.start), *(LAYOUT.start + token for token in visual)]
        places += range(LAYOUT.start + LAYOUT.visual, reference[0].shape[-1])
        assert (row - reference[layer][-1, places]).abs().max() < 1e-5


def test_nothing_is_left_behind_and_nothing_is_made_up() -> None:
    model = build_model()
    watch = AttentionWatch(model.model)
    with pytest.raises(PruningError, match="no prefill was seen"), watch:
        _ = watch.rows
    with pytest.raises(RuntimeError, match="stop"):
        interrupted(watch)
    assert not any(module._forward_hooks for module in model.modules())


def interrupted(watch: AttentionWatch) -> None:
    with watch:
        raise RuntimeError("stop")


def test_a_look_is_what_the_method_saw(loaded: LoadedModel) -> None:
    """The scores of a choice before a layer are the attention of the layer before it."""
    session = session_of(loaded, profile(), trace=True, new_tokens=2)
    clip = session.encode("noise", noisy_clip())
    with AttentionWatch(loaded.model.model.language_model) as watch:
        event = answered(session.answer(clip, QUESTION, stream=False))
        rows = [row.numpy() for row in watch.rows]
    assert event.trace is not None
    arrays = event.trace.arrays
    looks = looks_of(arrays, rows)
    counts = [len(tokens) for tokens, _ in looks]
    assert counts == event.record.tokens.kept_per_layer
    steps = [int(name[6:]) for name in arrays if name.startswith("score_")]
    assert steps
    for layer in steps:
        tokens, attention = looks[layer - 1]
        assert tokens.tolist() == arrays[f"alive_before_{layer}"].tolist()
        np.testing.assert_allclose(attention, arrays[f"score_{layer}"], atol=1e-6)


def test_line_breaks_are_no_tokens_of_the_clip() -> None:
    arrays: dict[str, Any] = {
        "video_token_start": np.asarray(2), "frames": np.asarray(2), "grid": np.asarray((1, 2)),
        "kept_0": np.asarray([0, 3]), "entered_owner": np.asarray([0, 0, 3, 3]),
        "entered_break": np.asarray([False, True, False, True]),
    }  # fmt: skip
    row = np.asarray([9, 9, 0.1, 0.2, 0.3, 0.4, 9], dtype=np.float32)
    ((tokens, attention),) = looks_of(arrays, [row])
    assert tokens.tolist() == [0, 3]
    assert attention.tolist() == pytest.approx([0.1, 0.3])


def test_tokens_that_enter_each_layer() -> None:
    arrays: dict[str, Any] = {
        "video_token_start": np.asarray(0), "frames": np.asarray(1), "grid": np.asarray((2, 2)),
        "kept_2": np.asarray([1, 3]),
    }  # fmt: skip
    looks = looks_of(arrays, [np.ones(5, dtype=np.float32)] * 4)
    assert [list(tokens) for tokens, _ in looks] == [[0, 1, 2, 3]] * 2 + [[1, 3]] * 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=70))
def test_spreading_loses_nothing(amounts: list[float]) -> None:
    parts = spread(np.asarray(amounts))
    assert parts.shape == (PARTS,)
    assert parts.sum() == pytest.approx(sum(amounts))
    assert (parts >= -1e-12).all()


def test_spreading_keeps_the_order() -> None:
    assert spread(np.arange(32.0)).tolist() == pytest.approx(list(range(32)))
    assert spread(np.arange(4.0), 2).tolist() == [1.0, 5.0]
    assert spread(np.asarray([3.0, 6.0]), 3).tolist() == pytest.approx([2.0, 3.0, 4.0])


def test_the_top_tenth() -> None:
    values = np.asarray([1.0, 5.0, 5.0, 2.0])
    assert top_tokens(values).tolist() == [1]  # at least one, the earlier of equals
    assert top_tokens(np.arange(40.0)).tolist() == [36, 37, 38, 39]


def traced(frames: int, cols: int, **kept: Any) -> dict[str, Any]:
    """The trace of a clip of frames with 1 x `cols` tokens, at the start of the prompt."""
    arrays = {"video_token_start": 0, "frames": frames, "grid": (1, cols), **kept}
    return {name: np.asarray(value) for name, value in arrays.items()}


def made_summary(attention: Any, kept: list[int], frames: int = 8) -> BiasSummary:
    """One layer that sees all and one that sees `kept`, of frames with 1 x 2 tokens."""
    whole = np.asarray(attention, dtype=np.float32)
    tally = Tally()
    tally.add("vanilla", traced(frames, 2), [whole, whole], prunes=False)
    tally.add("own", traced(frames, 2, kept_1=kept), [whole, whole[kept]], prunes=True)
    return tally.summary("made", {"missing": 2})


def test_attention_without_bias_is_even() -> None:
    layer = made_summary(np.ones(16), [0, 1]).before[0]
    assert layer.eighths == pytest.approx([1 / 8] * 8)
    assert layer.hottest == pytest.approx(1)


def test_attention_at_the_end_and_at_one_place_is_seen() -> None:
    attention = np.zeros(16)
    attention[[13, 15]] = 1, 3  # the right place of the last two frames
    found = made_summary(attention, [1, 15])
    before, kept = found.before[0], found.kept["own"][1]
    assert before.last_eighth == 0.5  # of the top tenth, which are two tokens of sixteen
    assert before.first_eighth == 0
    assert before.eighths[-2:] == pytest.approx([0.25, 0.75])
    assert before.hottest == pytest.approx(2)
    assert (kept.first_eighth, kept.last_eighth) == pytest.approx((0.5, 0.5))
    assert kept.hottest == pytest.approx(2)
    assert kept.tokens == 2
    assert found.kept["own"][0].last_eighth == pytest.approx(1 / 8)
    assert list(found.views) == [
        ("vanilla", "attention"), ("own", "attention"), ("own", "kept"),
    ]  # fmt: skip


def test_questions_weigh_the_same_whatever_their_clips() -> None:
    tally = Tally()
    for frames, hot in ((4, 0), (64, 63)):
        values = np.zeros(frames, dtype=np.float32)
        values[hot] = 1
        tally.add("vanilla", traced(frames, 1), [values], prunes=False)
    (layer,) = tally.summary("made", {}).before
    assert layer.eighths[0] == pytest.approx(0.25)  # half of frame 1 of 4, of one of two questions
    assert layer.eighths[-1] == pytest.approx(0.5)
    assert layer.tokens == 34


def test_attention_that_is_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="zero"):
        made_summary(np.zeros(16), [0])


def test_tables_and_files(tmp_path: Path) -> None:
    attention = np.zeros(16)
    attention[[14, 15]] = 1, 3
    found = made_summary(attention, [1, 15])
    text = bias_report.tables(found)
    assert "| layer | top 10 % by attention | own keeps |" in text
    assert "| 1 | 100.0 % | 50.0 % |" in text
    assert "| 8 | 100.0 % | 50.0 % |" in text
    notes = bias_report.write_report(tmp_path, found, ["a fact"])
    drawn = [name for name in bias_report.pictures(found) if len(notes) == 1]
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert page.startswith("# Biases of attention: made\n\n- a fact\n")
    assert "not measured, over all profiles: 2 missing" in page
    assert text in page
    for name in drawn:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"![{name}]({name})" in page
    rows = list(csv.DictReader(io.StringIO(bias_report.places_csv(found), newline="")))
    own = [
        row for row in rows if (row["profile"], row["what"], row["layer"]) == ("own", "kept", "1")
    ]
    assert [float(row["share"]) for row in own] == [0, 1]
    rows = list(csv.DictReader(io.StringIO(bias_report.frames_csv(found), newline="")))
    assert len(rows) == 3 * 2 * PARTS
    data = bias_report.as_data(found, ["a fact"])
    assert data["views"][2]["layers"][1]["last_eighth"] == pytest.approx(0.5)
