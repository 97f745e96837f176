"""The world: clips that can be seen, questions that have one true answer, files that play."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp_cli.tiny.clips import SIDE, render, sample_times, write_demo_clip, write_mp4
from adatp_cli.tiny.questions import NUMBERS, all_questions, draw_questions
from adatp_cli.tiny.world import COLOURS, MOTIONS, Clip, Flash, Scene, Thing, random_clip
from adatp_cli.video.decode import read_frames
from adatp_cli.video.sampling import Sampling
from tests.tiny_case import KINDS, write_clips
from training.labels import label

seeds = st.integers(0, 10**6)
lengths = st.sampled_from([8, 12, 16, 24, 32])


def clip_of(seed: int, samples: int = 16) -> Clip:
    return random_clip(np.random.default_rng(seed), samples=samples)


@given(seeds, lengths)
@settings(max_examples=60, deadline=None)
def test_every_scene_and_flash_is_met_by_the_samples_it_was_made_for(
    seed: int, samples: int
) -> None:
    clip = clip_of(seed, samples)
    times = sample_times(samples)
    looks = Counter(-1 if clip.in_flash(t) else clip.scene_at(t) for t in times)
    assert all(looks[k] >= 2 for k in range(len(clip.scenes)))
    assert (clip.flash is None) or 1 <= looks[-1] <= 2
    assert clip.scenes[0].begin == 0.0
    assert clip.scenes[-1].end == 1.0


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_things_stay_in_the_picture_and_apart(seed: int) -> None:
    progress = np.linspace(0, 1, 13)
    for scene in clip_of(seed).scenes:
        assert [thing.large for thing in scene.things] == [True] + [False] * (len(scene.things) - 1)
        for number, thing in enumerate(scene.things):
            way = thing.centre(progress)
            assert way.min() - thing.radius >= 0.0
            assert way.max() + thing.radius <= 1.0
            for other in scene.things[:number]:
                gap = np.hypot(*(way - other.centre(progress))).min()
                assert gap > thing.radius + other.radius
                assert thing.colour != other.colour
                assert thing.shape != other.shape


def things_seen_by_eye(clip: Clip, frame: np.ndarray) -> set[str]:
    """Colours with enough pixels of their own, for an eye that knows nothing of the renderer."""
    flat = frame.reshape(-1, 3).astype(int)
    return {
        name
        for name, value in COLOURS.items()
        if (np.abs(flat - value).max(1) < 12).sum() > 0.004 * len(flat)
    }


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_what_is_drawn_is_what_the_labels_and_the_plan_say(seed: int) -> None:
    clip = clip_of(seed)
    times = sample_times(8)
    frames, labels = render(clip, times, 96), label(clip, times, 12)
    for t, time in enumerate(times):
        if clip.in_flash(time):
            assert clip.flash is not None
            expected = {clip.flash.thing.colour}
        else:
            expected = {thing.colour for thing in clip.scenes[clip.scene_at(time)].things}
        assert things_seen_by_eye(clip, frames[t]) == expected
        named = {list(COLOURS)[c - 1] for c in np.unique(labels.colour[t]) if c}
        assert named == expected
        assert labels.count[t] == len(expected)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_every_question_has_one_answer(seed: int) -> None:
    answers: dict[str, set[str]] = {}
    for kind, wordings, answer in all_questions(clip_of(seed)):
        assert kind in KINDS
        for wording in wordings:
            answers.setdefault(wording, set()).add(answer)
    assert all(len(given) == 1 for given in answers.values()), answers


def test_questions_can_be_answered_from_the_plan() -> None:
    """An independent reading of a clip written by hand."""
    red = Thing("circle", "red", "left", True, 0.2, (0.7, 0.5), (0.25, 0.5))
    small = Thing("star", "white", "still", False, 0.11, (0.2, 0.15), (0.2, 0.15))
    blue = Thing("circle", "blue", "up", True, 0.2, (0.5, 0.7), (0.5, 0.25))
    green = Thing("cross", "green", "still", True, 0.2, (0.5, 0.5), (0.5, 0.5))
    clip = Clip(
        (Scene(0.0, 0.4, (red, small), 1), Scene(0.4, 1.0, (blue,), 2)), Flash(0.6, 0.7, green)
    )
    rows = {wording: answer for _, wordings, answer in all_questions(clip) for wording in wordings}
    assert rows["what happens?"] == "a red circle moves left, then a blue circle moves up"
    assert rows["what happens last?"] == "a blue circle moves up"
    assert rows["what colour is the star?"] == "white"
    assert "what colour is the circle?" not in rows  # there are two
    assert rows["which way does the red circle move?"] == "left"
    assert rows["where does the star move?"] == "it stays still"
    assert rows["how many shapes are in the first scene?"] == "two"
    assert rows["how many scenes are there?"] == "two"  # a flash is no scene
    assert rows["which comes last, the red circle or the blue circle?"] == "the blue circle"
    assert rows["what flashes?"] == "a green cross"
    assert "what happens in the middle?" not in rows
    assert set(NUMBERS) >= {"one", "two", "three"}


def test_drawn_questions_spread_over_the_kinds() -> None:
    rng = np.random.default_rng(5)
    drawn = Counter(q.kind for n in range(300) for q in draw_questions(clip_of(n), rng, 6))
    assert set(drawn) == set(KINDS)
    assert max(drawn.values()) < 6 * min(drawn[k] for k in ("happens", "colour", "motion", "flash"))


def test_motions_are_drawn_evenly() -> None:
    drawn = Counter(
        t.motion for n in range(400) for s in clip_of(n).scenes for t in s.things if t.large
    )
    assert set(drawn) == set(MOTIONS)
    assert max(drawn.values()) < 1.6 * min(drawn.values())


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_the_file_shows_what_was_rendered(tmp_path: Path, decoder: str) -> None:
    clip = clip_of(11)
    write_mp4(tmp_path / "clip.mp4", clip, 4.0)
    frames = read_frames(tmp_path / "clip.mp4", Sampling(frames=8), decoder=decoder)
    assert frames.info.codec == "h264"
    assert frames.info.decoder.startswith(decoder)
    assert frames.pixels.shape == (8, SIDE, SIDE, 3)
    # The moment of frame i of n at rate r is (i + 1/2) / n of the clip.
    moments = (frames.indices + 0.5) / frames.info.frames_total
    expected = render(clip, moments, SIDE).astype(float)
    assert np.abs(frames.pixels - expected).mean() < 6.0


def test_a_folder_of_clips_is_the_same_every_time(tmp_path: Path) -> None:
    first = write_clips(tmp_path / "a", 2, seed=4, questions=3)
    second = write_clips(tmp_path / "b", 2, seed=4, questions=3)
    assert first.read_text() == second.read_text()
    assert (tmp_path / "a/00001.mp4").read_bytes() == (tmp_path / "b/00001.mp4").read_bytes()
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    assert len(rows) == 6
    assert set(rows[0]) == {"video", "kind", "question", "answer"}
    assert write_clips(tmp_path / "c", 2, seed=5, questions=3).read_text() != first.read_text()


def test_the_demo_clip_asks_questions_that_it_answers(tmp_path: Path) -> None:
    questions = write_demo_clip(tmp_path / "demo.mp4")
    assert (tmp_path / "demo.mp4").stat().st_size > 1000
    assert len(questions) >= 5
    assert questions[0].text == "what happens?"
