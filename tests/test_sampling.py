"""Sampling: which frames a request means, without any video."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adatp_cli.errors import UsageError
from adatp_cli.video.sampling import Sampling, parse_time, sample_indices

totals = st.integers(1, 400)
counts = st.integers(1, 500)
rates = st.sampled_from([1.0, 10.0, 23.976, 24.0, 25.0, 29.97, 30.0, 59.94, 60.0, 240.0])


@st.composite
def uneven_times(draw: st.DrawFn) -> np.ndarray:
    """Strictly increasing timestamps of a clip with a variable frame rate."""
    gaps = draw(st.lists(st.integers(5, 4000), min_size=1, max_size=120))
    return np.cumsum(gaps) / 1000.0


# What a user sees.


def test_sixteen_of_a_hundred_and_sixty_are_every_tenth_from_the_fifth() -> None:
    assert sample_indices((160, 30.0), Sampling(frames=16)).tolist() == list(range(5, 160, 10))


def test_one_frame_is_the_middle_one() -> None:
    assert sample_indices((101, 30.0), Sampling(frames=1)).tolist() == [50]


def test_a_short_clip_gives_each_frame_once() -> None:
    assert sample_indices((4, 30.0), Sampling(frames=16)).tolist() == [0, 1, 2, 3]


def test_two_frames_a_second_of_three_seconds() -> None:
    chosen = sample_indices((90, 30.0), Sampling(fps=2))
    assert chosen.tolist() == [7, 22, 37, 52, 67, 82]  # Middles of half seconds: 0.25 s, 0.75 s ...


def test_a_rate_above_the_clips_own_gives_every_frame_once() -> None:
    assert sample_indices((30, 30.0), Sampling(fps=120)).tolist() == list(range(30))


def test_rate_and_count_together_thin_the_rate_evenly() -> None:
    by_rate = sample_indices((300, 30.0), Sampling(fps=3))
    both = sample_indices((300, 30.0), Sampling(fps=3, frames=10))
    assert len(by_rate) == 30
    assert both.tolist() == by_rate[1::3].tolist()


def test_the_count_does_not_raise_the_rate() -> None:
    both = sample_indices((300, 30.0), Sampling(fps=0.5, frames=100))
    assert both.tolist() == sample_indices((300, 30.0), Sampling(fps=0.5)).tolist()
    assert len(both) == 5


def test_a_range_takes_frames_from_it_alone() -> None:
    chosen = sample_indices((300, 30.0), Sampling(frames=4, start_s=2.0, end_s=4.0))
    assert chosen.tolist() == [67, 82, 97, 112]


def test_a_range_between_two_frames_gives_the_frame_shown_then() -> None:
    chosen = sample_indices((10, 1.0), Sampling(frames=4, start_s=3.2, end_s=3.4))
    assert chosen.tolist() == [3]


def test_a_long_shown_frame_is_used_once_by_count_and_by_rate() -> None:
    times = [0.0, 1.0, 2.0, 12.0, 13.0, 14.0]
    assert sample_indices(times, Sampling(frames=4), duration_s=15.0).tolist() == [0, 2, 3, 5]
    assert sample_indices(times, Sampling(fps=0.5), duration_s=15.0).tolist() == [1, 2, 4]


def test_milliseconds_rounding_of_a_container_changes_nothing() -> None:
    exact = np.arange(64) / 30
    for count in (1, 2, 4, 8, 16, 32):
        rounded = sample_indices(np.round(exact, 3), Sampling(frames=count), duration_s=64 / 30)
        assert rounded.tolist() == sample_indices((64, 30.0), Sampling(frames=count)).tolist()


def test_neither_count_nor_rate_is_every_frame_until_a_default_is_filled_in() -> None:
    assert len(sample_indices((50, 25.0), Sampling())) == 50
    assert Sampling().with_default_frames(16) == Sampling(frames=16)
    assert Sampling(frames=3).with_default_frames(16) == Sampling(frames=3)
    assert Sampling(fps=1.0).with_default_frames(16) == Sampling(fps=1.0)


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        (Sampling(frames=2, start_s=10.0), "--start 10 s is beyond the end: cat.mp4 is 10.00 s"),
        (Sampling(frames=2, start_s=99.0), "--start 99 s is beyond the end: cat.mp4 is 10.00 s"),
        (Sampling(frames=2, end_s=12.0), "--end 12 s is beyond the end: cat.mp4 is 10.00 s"),
    ],
)
def test_a_range_beyond_the_clip_names_its_length(sampling: Sampling, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        sample_indices((300, 30.0), sampling, name="cat.mp4")
    assert says in caught.value.message


def test_an_end_rounded_up_by_a_player_is_accepted() -> None:
    chosen = sample_indices((297, 30.0), Sampling(frames=2, end_s=10.0))
    assert chosen.tolist() == sample_indices((297, 30.0), Sampling(frames=2)).tolist()


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"frames": 0}, "--frames"),
        ({"frames": -3}, "--frames"),
        ({"frames": True}, "--frames"),
        ({"frames": 2.5}, "--frames"),
        ({"fps": 0.0}, "--fps"),
        ({"fps": -1.0}, "--fps"),
        ({"fps": float("nan")}, "--fps"),
        ({"fps": float("inf")}, "--fps"),
        ({"start_s": -1.0}, "--start"),
        ({"start_s": float("nan")}, "--start"),
        ({"end_s": 0.0}, "--end"),
        ({"end_s": float("inf")}, "--end"),
        ({"start_s": 5.0, "end_s": 5.0}, "--end"),
        ({"start_s": 6.0, "end_s": 5.0}, "--end"),
    ],
)
def test_senseless_values_are_refused_by_their_option(values: dict, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(**values)
    assert caught.value.message.startswith(option)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("12.5", 12.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("90", 90.0),
        ("1:30", 90.0),
        ("01:02:03.25", 3723.25),
        ("90:00", 5400.0),
        (" 7 ", 7.0),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1:60", "1:60:00", "1:2:3:4", "abc", "1e3", "nan", "inf", ":30", "1:", "5s", "٣"],
)
def test_other_texts_are_no_times(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(text)
    assert repr(text) in caught.value.message
    assert "mm:ss" in caught.value.hint


# What always holds.


@given(totals, rates, counts)
def test_constant_rate_is_exactly_the_middles_of_equal_spans(n: int, fps: float, k: int) -> None:
    chosen = sample_indices((n, fps), Sampling(frames=k))
    if k >= n:
        assert chosen.tolist() == list(range(n))
    else:
        assert chosen.tolist() == [(2 * i + 1) * n // (2 * k) for i in range(k)]


@given(uneven_times(), counts)
def test_frames_are_increasing_in_range_and_as_many_as_there_can_be(
    times: np.ndarray, k: int
) -> None:
    chosen = sample_indices(times, Sampling(frames=k))
    assert chosen.dtype == np.int64
    assert len(chosen) == min(k, len(times))
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < len(times)


@given(uneven_times(), counts, st.floats(0, 1), st.floats(0, 1))
def test_a_range_holds_its_frames(times: np.ndarray, k: int, a: float, b: float) -> None:
    end_of_clip = float(times[-1]) + 0.04
    start, end = sorted((a * end_of_clip, b * end_of_clip))
    if not (start < end and start < end_of_clip):
        return
    asked = Sampling(frames=k, start_s=start, end_s=end)
    chosen = sample_indices(times, asked, duration_s=end_of_clip)
    inside = np.flatnonzero((times >= start) & (times < end))
    # A millisecond of slack at both ends may let one more in.
    assert min(k, len(inside)) - 1 <= len(chosen) <= min(k, len(inside) + 1)
    assert len(chosen) >= 1
    assert (np.diff(chosen) > 0).all()
    if len(inside) > 1:
        assert (times[chosen] >= start - 0.0011).all()
        assert (times[chosen] < end).all()


@given(uneven_times(), st.integers(1, 40))
def test_a_frame_that_is_no_neighbours_stand_in_is_shown_at_the_middle(
    times: np.ndarray, k: int
) -> None:
    end = float(times[-1]) + 0.5
    chosen = sample_indices(times, Sampling(frames=k), duration_s=end)
    if len(chosen) < k or k == len(times):
        return
    bounds = np.append(times, end)
    middles = times[0] + (np.arange(k) + 0.5) * (end - times[0]) / k
    shown = np.searchsorted(times, middles + 1e-3, side="right") - 1
    if len(np.unique(shown)) == k:  # No frame covers two middles: nobody had to move.
        assert (times[chosen] <= middles + 1.001e-3).all()
        assert (middles <= bounds[chosen + 1] + 1e-9).all()


@given(totals, rates, st.integers(1, 40), st.integers(0, 300))
def test_starting_later_is_the_same_as_a_clip_without_the_beginning(
    n: int, fps: float, k: int, skipped: int
) -> None:
    later = sample_indices((n + skipped, fps), Sampling(frames=k, start_s=skipped / fps))
    from_zero = sample_indices((n, fps), Sampling(frames=k))
    assert len(later) == len(from_zero)
    # Equal, but where a middle falls on the border of two frames and rounding decides.
    assert np.abs(later - skipped - from_zero).max() <= 1
    assert (later >= skipped).all()
    if (2 * n) % k:
        assert (later - skipped == from_zero).mean() > 0.5


@given(uneven_times(), st.floats(0.01, 900))
def test_a_rate_uses_exactly_the_frames_that_are_shown_at_a_middle(
    times: np.ndarray, fps: float
) -> None:
    end = float(times[-1]) + 0.04
    if (end - times[0]) * fps > 50_000:
        return
    chosen = sample_indices(times, Sampling(fps=fps), duration_s=end)
    middles = times[0] + (np.arange(int((end - times[0]) * fps) + 2) + 0.5) / fps
    slack = min(1e-3, 0.1 * float(np.median(np.diff(times)))) if len(times) > 1 else 0.0
    inside = middles[middles < end]
    shown = np.unique(np.searchsorted(times, inside + slack, side="right") - 1)
    if len(shown) == 0:
        assert len(chosen) == 1
    else:
        assert len(np.setxor1d(chosen, shown)) <= 1  # Rounding at one border.


@given(uneven_times(), st.floats(0.01, 900), counts)
def test_rate_and_count_are_a_part_of_the_rate(times: np.ndarray, fps: float, k: int) -> None:
    by_rate = sample_indices(times, Sampling(fps=fps))
    both = sample_indices(times, Sampling(fps=fps, frames=k))
    assert len(both) == min(k, len(by_rate))
    assert np.isin(both, by_rate).all()
    assert (np.diff(both) > 0).all()


@given(st.integers(1, 200), st.sampled_from([24.0, 25.0, 30.0, 60.0]))
def test_a_rate_is_the_count_that_it_comes_to(seconds: int, fps: float) -> None:
    n = seconds * int(fps)
    by_rate = sample_indices((n, fps), Sampling(fps=1.0))
    by_count = sample_indices((n, fps), Sampling(frames=seconds))
    assert len(by_rate) == seconds
    assert np.abs(by_rate - by_count).max() <= 1  # Rounding at the border of two frames.


def test_a_clip_without_frames_gives_none() -> None:
    assert sample_indices(np.zeros(0), Sampling(frames=4)).tolist() == []
