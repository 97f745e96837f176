"""How prefill and memory grow: the fit, what is said of it, and where there is none."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adatp_cli.bench.report import BenchResult, MachineFacts, draw, tables
from adatp_cli.bench.results import PLAIN, Curve, NotMeasured, Sample, fit, growth, summarise
from adatp_cli.bench.runner import Bench, BenchPlan, unreadable_frames
from adatp_cli.errors import UsageError
from adatp_cli.model.load import LoadedModel
from adatp_cli.record import (
    EndToEndFlops,
    Flops,
    ModelInfo,
    PaperFlops,
    TokenCounts,
    Versions,
)
from adatp_cli.video.sampling import Sampling
from tests.session_case import load_random, profile, run_of, session_of
from tests.test_bench import NoisyReader
from tests.test_cli_bench import VALIDATOR

FRAMES = (8, 16, 32, 64, 128)
COUNTS = st.lists(st.integers(1, 300), min_size=4, max_size=8, unique=True)
SECONDS: Mapping[str, Callable[[int], float]] = {
    PLAIN: lambda n: 0.5 + 0.8 * n + 0.004 * n * n,
    "ours": lambda n: 0.1 + 0.2 * n + 0.001 * n * n,
}


def sample(contender: str, frames: int, prefill: float, peak: int | None) -> Sample:
    tokens = TokenCounts(10, 196 * frames, [50, 50], 50, 1.0, 5)
    parts = [part * 10**12 for part in (40, 0, 50, 2, 8)]
    flops = Flops(PaperFlops(1, 1, 1.0), EndToEndFlops(10**14, 10**14, 1.0, *parts))
    seconds = {"vision": 4.0, "relevance": 0.1, "prefill": prefill, "choosing": 0.1}
    return Sample(contender, frames, seconds | {"generate": 2.0}, tokens, flops, peak, 3_000_000)


def result_of(
    frames: Sequence[int] = FRAMES,
    *,
    contenders: Sequence[str] = (PLAIN, "ours"),
    peak: Callable[[int], int | None] = lambda n: 10**8 + 10**7 * n,
    missing: Sequence[NotMeasured] = (),
) -> BenchResult:
    """A result whose prefills are those of `SECONDS`, two rounds a tenth above and below."""
    samples = [
        sample(name, count, factor * SECONDS.get(name, SECONDS["ours"])(count), peak(count))
        for count in frames
        for factor in (0.9, 1.1)
        for name in contenders
    ]
    return BenchResult(
        date=datetime.datetime.now(datetime.UTC),
        machine=MachineFacts("a processor", "a processor", 2, 2, 8 * 10**9, "Linux x86_64"),
        versions=Versions("0", "2", "5"),
        model=ModelInfo("model", None, "none", "bfloat16", "cpu", 2),
        random_weights=True,
        clip=None,
        clip_generated=False,
        plan=BenchPlan(tuple(frames), ("What?",), 2, 5, Sampling()),
        text_tokens=20,
        memory_method=None,
        profiles={},
        rows=summarise([name for name in contenders if name != PLAIN], samples, missing),
    )


@settings(max_examples=50)
@given(COUNTS, st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=3))
def test_a_curve_without_noise_is_found_again(frames: list[int], coefficients: list[float]) -> None:
    truth = Curve(tuple(coefficients), None)
    found = fit(frames, [truth.at(count) for count in frames], len(coefficients))
    assert found is not None
    for count in range(1, 301):
        assert found.at(count) == pytest.approx(truth.at(count), rel=0.02)
    assert found.worst_residual == pytest.approx(0, abs=1e-6)


def test_coefficients_are_those_of_the_frames_and_not_of_shares_of_them() -> None:
    found = fit(FRAMES, [SECONDS[PLAIN](count) for count in FRAMES], 3)
    assert found is not None
    assert found.coefficients == pytest.approx((0.5, 0.8, 0.004))


@settings(max_examples=50)
@given(COUNTS, st.data())
def test_no_coefficient_is_negative_and_no_other_such_curve_is_nearer(
    frames: list[int], data: st.DataObject
) -> None:
    """By Karush, Kuhn and Tucker's conditions, which only the best such weights meet."""
    values = [data.draw(st.floats(0.1, 100.0)) for _ in frames]
    found = fit(frames, values, 3)
    assert found is not None
    weights = np.array(found.coefficients)
    assert (weights >= 0).all()
    columns = np.array([[count**power / value for power in range(3)] for count, value in
                        zip(frames, values, strict=True)])  # fmt: skip
    slope = columns.T @ (columns @ weights - 1) / np.linalg.norm(columns, axis=0)
    assert (slope > -1e-6).all()
    assert slope[weights > 0] == pytest.approx(0, abs=1e-6)


def test_a_term_that_would_be_negative_is_left_out() -> None:
    found = fit((1, 2, 4, 8), [1.0, 1.9, 3.4, 5.0], 3)  # bends down
    assert found is not None
    assert found.coefficients[2] == 0


def test_the_residual_is_the_largest_share_of_a_point() -> None:
    values = [10.0, 21.0, 40.0, 80.0]
    found = fit((1, 2, 4, 8), values, 2)
    assert found is not None
    shares = [abs(found.at(n) / value - 1) for n, value in zip((1, 2, 4, 8), values, strict=True)]
    assert found.worst_residual == pytest.approx(max(shares))
    assert 0.02 < max(shares) < 0.05


def test_a_curve_with_a_term_for_every_point_says_nothing_of_how_well_it_fits() -> None:
    found = fit((1, 2, 4), [1.0, 3.0, 10.0], 3)
    line = fit((1, 2, 4), [1.0, 2.0, 4.1], 2)
    assert found is not None
    assert line is not None
    if all(found.coefficients):
        assert found.worst_residual is None
    assert line.worst_residual is not None


@pytest.mark.parametrize(
    ("frames", "values"),
    [((), ()), ((8,), (1.0,)), ((8, 16), (1.0, 2.0)), ((8, 16, 32), (0.0, 1.0, 2.0))],
)
def test_too_few_points_give_no_curve(frames: tuple[int, ...], values: tuple[float, ...]) -> None:
    assert fit(frames, values, 2) is None


def test_growth_goes_by_contender_and_through_the_medians() -> None:
    plain, ours = growth(result_of().rows)
    assert (plain.contender, ours.contender) == (PLAIN, "ours")
    assert plain.frames == FRAMES
    assert plain.prefill_s.coefficients == pytest.approx((0.5, 0.8, 0.004))
    assert ours.prefill_s.coefficients == pytest.approx((0.1, 0.2, 0.001))
    assert ours.peak_bytes is not None
    assert ours.peak_bytes.coefficients == pytest.approx((1e8, 1e7))


def test_who_was_measured_too_seldom_has_no_curve_and_the_others_have() -> None:
    missing = [NotMeasured("ours", count, "no room") for count in FRAMES[2:]]
    (only,) = growth(result_of(missing=missing).rows)
    assert only.contender == PLAIN
    assert growth(result_of((8, 16)).rows) == []


def test_memory_that_is_not_measured_everywhere_has_no_curve() -> None:
    found = growth(result_of(peak=lambda n: None if n == 8 else 100 * n).rows)
    assert [one.peak_bytes for one in found] == [None, None]


@pytest.mark.parametrize("frames", [FRAMES, (8, 16, 32), (8, 16)])
@pytest.mark.parametrize("peak", [lambda n: 1000 * n, lambda _: None])
def test_results_fit_the_schema(frames: tuple[int, ...], peak: Callable[[int], int | None]) -> None:
    data = json.loads(json.dumps(result_of(frames, peak=peak).to_dict(), allow_nan=False))
    VALIDATOR.validate(data)
    assert len(data["scaling"]) == (2 if len(frames) >= 3 else 0)


def test_kept_results_fit_the_schema() -> None:
    kept = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.json"))
    assert kept
    for path in kept:
        VALIDATOR.validate(json.loads(path.read_text()))


def test_the_table_of_growth_fits_eighty_columns() -> None:
    long = ("pyramiddrop-early", "adatp-progressive")
    shown = tables(result_of(contenders=(PLAIN, *long))).partition("## How prefill grows\n")[2]
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert rows[2] == "| plain transformers | 0.5 | 800 | 4000 | 0.0 % |"
    assert rows[7] == "| plain transformers | 100 | 10 | 0.0 % |"
    assert len(rows) == 10
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_the_table_of_costs_has_dashes_for_what_was_not_measured() -> None:
    shown = tables(result_of((8, 16), missing=[NotMeasured("ours", 16, "no room")]))
    assert shown.rpartition("| cost ")[2].splitlines() == [
        "| plain transformers | ours |",
        "|---|---|---|",
        "| visual tokens to the last layer | 50 of 3136 | - |",
        "| LLM cost, paper's count | 100.0 % | - |",
        "| vision, TFLOP | 40.0 | - |",
        "| prefill + scoring, TFLOP | 52.0 | - |",
        "| vision, TFLOP/s | 10.0 | - |",
        "| prefill, TFLOP/s | 3.63 | - |",
        "| peak memory, MB | 260 | - |",
        "| keys and values, MB | 3 | - |",
        "",
        "Not measured: ours: no room.",
    ]


def test_two_numbers_of_frames_have_no_table_of_growth() -> None:
    assert "grows" not in tables(result_of((8, 16)))


def test_where_nothing_was_measured_one_line_says_why() -> None:
    missing = [NotMeasured(name, 256, "too long") for name in (PLAIN, "ours")]
    shown = tables(result_of((8,), missing=missing))
    assert shown.endswith(f"## 256 frames\n\nNot measured: {PLAIN}, ours: too long.\n")


def test_the_picture_has_room_for_the_curves(tmp_path: Path) -> None:
    heights = []
    six = (PLAIN, *"abcde")  # the last has a colour that no stage has
    for name, frames in (("few", (8, 16)), ("many", (8, 16, 32))):
        path = tmp_path / f"{name}.png"
        draw(result_of(frames, contenders=six), path)
        with Image.open(path) as picture:
            heights.append(picture.size[1])
            colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24) or ()}
        assert ((0xE6, 0x9F, 0x00) in colours) == (name == "many")
    assert heights[1] > heights[0] + 400


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


def unreadable(
    loaded: LoadedModel, *counts: int, questions: Sequence[str] = ("What?",)
) -> dict[int, str]:
    plan = session_of(loaded, profile(None), new_tokens=4).plan
    return unreadable_frames(plan, questions, counts)


def test_what_the_model_cannot_read_is_said(loaded: LoadedModel) -> None:
    most = loaded.context_length // loaded.shape.tokens_per_frame
    refused = unreadable(loaded, 5, most - 20, most + 1)
    assert list(refused) == [most + 1]
    assert f"reads at most {loaded.context_length - 4}" in refused[most + 1]


def test_what_the_model_cannot_read_is_measured_for_nobody(loaded: LoadedModel) -> None:
    most = loaded.context_length // loaded.shape.tokens_per_frame
    runs = [run_of("all", session_of(loaded, profile(None), new_tokens=4))]
    plan = BenchPlan((most + 1, 2), ("What?",), 1, 4, Sampling())
    events = Bench(loaded, runs, plan, NoisyReader(), "clip", "clip").run()
    missing = [next(events), next(events)]
    assert [(one.contender, one.frames) for one in missing] == [
        (PLAIN, most + 1),
        ("all", most + 1),
    ]
    assert {event.frames for event in events} == {2}


def test_the_longest_question_decides(loaded: LoadedModel) -> None:
    most = loaded.context_length // loaded.shape.tokens_per_frame
    refused = unreadable(loaded, 5, most - 20, questions=("What?", "what then? " * 500))
    assert list(refused) == [most - 20]


def test_where_nothing_can_be_read_it_is_an_error(loaded: LoadedModel) -> None:
    with pytest.raises(UsageError, match="20000 frames"):
        unreadable(loaded, 20_000)
