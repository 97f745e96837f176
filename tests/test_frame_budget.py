"""`--frames auto`: how many frames fit the cost of fewer unpruned, told from shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from adatp_cli import cost
from adatp_cli.answering.plan import TEXT_ROOM, FrameBudget, frame_budget, frames_in_context
from adatp_cli.errors import UsageError
from adatp_cli.profiles import builtin_names, load_profile
from adatp_cli.pruning.method import ModelContext, PruningMethod, TokenSchedule
from adatp_cli.pruning.methods import method_of, resolve_profile
from tests.conftest import Run

SEVEN = cost.KNOWN_SHAPES["7b"]
MANY = 400
FEW = ("--max-new-tokens", "2", "--dtype", "float32")


def method(name: str, budget: float | None = None, shape: cost.ModelShape = SEVEN) -> PruningMethod:
    profile = load_profile(name)
    if budget is not None:
        profile = profile.with_budget(budget)
    return method_of(resolve_profile(profile, ModelContext(shape.language.layers)))


def auto(
    pruning: PruningMethod, *, default: int = 32, most: int = MANY, shape: cost.ModelShape = SEVEN
) -> FrameBudget:
    def token_schedule(frames: int) -> TokenSchedule:
        return pruning.token_schedule(frames, shape.tokens_per_frame, shape.language)

    return frame_budget(token_schedule, shape, default=default, most=most)


def paper(pruning: PruningMethod, frames: int, shape: cost.ModelShape = SEVEN) -> int:
    found = pruning.token_schedule(frames, shape.tokens_per_frame, shape.language)
    return cost.paper_cost(found.visual_per_layer, shape.language)


@pytest.mark.parametrize("name", builtin_names())
def test_it_is_the_last_number_whose_cost_fits(name: str) -> None:
    pruning, limit = method(name), paper(method("vanilla"), 32)
    found = auto(pruning)
    assert paper(pruning, found.frames) <= limit < paper(pruning, found.frames + 1)
    assert not found.context_bound
    assert found.language == paper(pruning, found.frames) / limit
    assert found.encoding == found.frames / 32


def test_the_7b_at_the_papers_setting() -> None:
    """90 frames, not 32 / 0.273 = 117: attention makes more frames dearer than that."""
    found = auto(method("adatp"))
    assert (found.frames, found.default) == (90, 32)
    # b (linear T + quadratic T^2) = linear 32 + quadratic 32^2, per token and in units of D.
    tokens, width, inner, keys = 196, 3584, 18944, 512
    linear, quadratic = 2 * keys + 2 * width + 3 * inner, 2 * tokens
    spent = (linear * 32 + quadratic * 32**2) / 0.273
    by_hand = (-linear + (linear**2 + 4 * quadratic * spent) ** 0.5) / (2 * quadratic)
    assert int(by_hand) == found.frames
    assert found.language == pytest.approx(0.993, abs=0.001)


def test_the_work_with_vision_is_counted_as_the_record_counts_it() -> None:
    found = auto(method("adatp-light"))

    def both(frames: int, per_layer: tuple[int, ...]) -> int:
        told = cost.end_to_end_cost(
            SEVEN, frames=frames, text_tokens=0, visual_per_layer=per_layer, generated=1
        )
        return told.vision + told.prefill

    kept = method("adatp-light").token_schedule(90, 196, SEVEN.language).visual_per_layer
    plain = both(32, (32 * 196,) * 28)
    assert found.both == pytest.approx(both(90, kept) / plain)
    assert found.both > 1.3  # the tower's part is not saved


def test_nothing_saved_buys_nothing() -> None:
    for pruning in (method("vanilla"), method("adatp-light", 1.0)):
        found = auto(pruning)
        assert (found.frames, found.language, found.both) == (32, 1.0, 1.0)
        assert not found.context_bound


def test_the_context_bounds_it() -> None:
    most = frames_in_context(32_768 - 128, TEXT_ROOM, SEVEN)
    assert most * 196 + TEXT_ROOM + 1 + 128 <= 32_768 < (most + 1) * 196 + TEXT_ROOM + 1 + 128
    found = auto(method("adatp-aggressive"), most=most)
    assert (found.frames, found.context_bound) == (most, True)
    assert found.language < 0.9
    short = auto(method("vanilla"), most=20)
    assert (short.frames, short.context_bound) == (20, True)
    assert auto(method("adatp"), most=0).frames == 1
    assert frames_in_context(100, 200, SEVEN) == 0


def test_a_budget_out_of_reach_is_told() -> None:
    with pytest.raises(UsageError, match="cannot be reached"):
        auto(method("adatp", 0.05))


def test_ask_looks_at_as_many_and_says_so(adatp: Run, checkpoint: Path, clip: Path) -> None:
    given = ("ask", clip, "What?", "-m", checkpoint, *FEW, "--json")
    run = adatp(*given, "-n", "auto", "-p", "adatp-light", "--budget", "0.6")
    (record,) = run.records
    (plain,) = adatp(*given, "-p", "vanilla").records
    used = record["video_info"]["frames_used"]
    assert 16 < used < 32  # more than the checkpoint's own number, fewer than the clip has
    limit = plain["flops"]["paper"]["vanilla"]
    assert record["flops"]["paper"]["pruned"] <= limit
    (more,) = adatp(*given, "-n", str(used + 1), "-p", "adatp-light", "--budget", "0.6").records
    assert more["flops"]["paper"]["pruned"] > limit
    share = 100 * record["flops"]["paper"]["pruned"] / limit
    assert (
        f"--frames auto: at most {used} frames, {share:.1f} % of what 16 cost the language model "
        f"unpruned, {used / 16:.1f} times the vision tower's work, "
    ) in run.err
    quiet = adatp(*given, "-n", "auto", "--budget", "0.6", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")


def test_the_clip_may_have_fewer_and_a_rate_is_capped(
    adatp: Run, checkpoint: Path, clip: Path
) -> None:
    given = ("ask", clip, "What?", "-m", checkpoint, *FEW, "--json", "-p", "adatp-light")
    (whole,) = adatp(*given, "-n", "auto").records
    assert whole["video_info"]["frames_used"] == whole["video_info"]["frames_total"] == 32
    (slow,) = adatp(*given, "-n", "auto", "--fps", "2").records
    assert slow["video_info"]["frames_used"] == 8


def test_vanilla_looks_at_its_own_number(adatp: Run, checkpoint: Path, clip: Path) -> None:
    run = adatp(
        "ask", clip, "What?", "-m", checkpoint, *FEW, "--json", "-n", "auto", "-p", "vanilla"
    )
    assert run.records[0]["video_info"]["frames_used"] == 16
    assert "--frames auto: 16 frames, as without it: nothing is saved" in run.err


def test_batch_looks_at_as_many(adatp: Run, checkpoint: Path, clip: Path) -> None:
    given = ("-m", checkpoint, *FEW, "-n", "auto", "-p", "adatp-light", "--budget", "0.6")
    batch = adatp("batch", clip, "-q", "What?", *given)
    asked = adatp("ask", clip, "What?", *given, "--json")
    assert batch.records[0]["video_info"] == asked.records[0]["video_info"]
    assert "--frames auto: at most" in batch.err


def test_profiles_that_would_look_at_different_frames_are_refused(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    given = ("-m", checkpoint, *FEW, "-n", "auto")
    several = ("-p", "vanilla", "-p", "adatp-light")
    run = adatp("eval", "shapes", "--clips", "1", *given, *several)
    assert run.code == 2
    assert "would not look at the same frames (vanilla 16, adatp-light " in run.error
    run = adatp("eval", "shapes", "--clips", "1", *given, "-p", "adatp-light", "--json")
    assert run.code == 0
    assert "--frames auto: at most" in run.err
    picture = tmp_path / "seen.html"
    shown = ("show", clip, "What?", "-o", picture, *given, "-p", "vanilla")
    assert adatp(*shown, "--compare", "adatp-light").code == 2
    run = adatp("bench", clip, *given[2:], "-m", checkpoint, "-p", "adatp-light")
    assert run.code == 2
    assert "--frames auto: bench shows every profile" in run.error
