"""Frames that are encoded while others are still decoded, and frames that need no encoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp_cli.answering import encode as encode_module
from adatp_cli.answering.encode import EncodedClip, frames_at_once, largest_change
from adatp_cli.answering.events import ClipReady, Stage
from adatp_cli.cost import KNOWN_SHAPES, VisionShape
from adatp_cli.errors import MemoryLimitError, UsageError, VideoError
from adatp_cli.model import memory as memory_module
from adatp_cli.model.load import LoadedModel
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Filled, Frames, Resize, unwatched
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling
from tests.session_case import (
    FRAMES,
    QUESTION,
    answered,
    ask,
    encoded_in,
    events_of,
    load_random,
    noisy_clip,
    profile,
    session_of,
)
from tests.test_video_worker import same

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


class Telling:
    """A reader that runs a script in the middle of a clip."""

    def __init__(self, script: Callable[[Filled, Frames], None]) -> None:
        self._script = script
        self.frames = noisy_clip()

    def read(self, *_: Any, on_frames: Filled = unwatched, **__: Any) -> Frames:
        self._script(on_frames, self.frames)
        return self.frames


def opened(loaded: LoadedModel, reader: Any, **knobs: Any) -> tuple[list[object], EncodedClip]:
    """What an session says while it opens a clip, and the clip."""
    events = session_of(loaded, profile(**knobs)).open(
        "x", [QUESTION], Sampling(), reader=reader, video_name="x"
    )
    seen: list[object] = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value.encoded


def alike(one: EncodedClip, other: EncodedClip) -> bool:
    return torch.equal(one.visual, other.visual) and torch.equal(
        one.tower_vectors, other.tower_vectors
    )


@pytest.fixture
def passes(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Frames in each pass of the tower, three at once."""
    monkeypatch.setattr(encode_module, "frames_at_once", lambda *_: 3)
    counts: list[int] = []
    tower = loaded.model.model.vision_tower
    handle = tower.register_forward_pre_hook(lambda _module, args: counts.append(len(args[0])))
    yield counts
    handle.remove()


def test_frames_are_encoded_as_they_come(loaded: LoadedModel, passes: list[int]) -> None:
    seen: list[list[int]] = []

    def script(on_frames: Filled, frames: Frames) -> None:
        for done in (1, 2, 5, 6, 8):
            on_frames(frames.pixels, done)
            seen.append([*passes])

    events, clip = opened(loaded, Telling(script))
    assert seen == [[], [], [3], [3, 3], [3, 3]]
    assert passes == [3, 3, 3]
    assert alike(clip, encoded_in(loaded, noisy_clip().pixels))
    names = [one.name if isinstance(one, Stage) else type(one).__name__ for one in events]
    assert names == ["decode", "ClipReady", "vision"]


@settings(max_examples=25)
@given(st.lists(st.integers(0, FRAMES), max_size=8).map(sorted))
def test_how_frames_come_does_not_matter(loaded: LoadedModel, counts: list[int]) -> None:
    pixels = noisy_clip().pixels
    parts = [pixels[a:b] for a, b in zip([0, *counts], [*counts, FRAMES], strict=True)]
    assert alike(encoded_in(loaded, *parts), encoded_in(loaded, pixels))


def test_frames_of_a_decoder_that_gave_up_are_forgotten(
    loaded: LoadedModel, passes: list[int]
) -> None:
    def gives_up(on_frames: Filled, frames: Frames) -> None:
        wrong = 255 - frames.pixels
        on_frames(wrong, 4)
        on_frames(frames.pixels, 3)
        on_frames(frames.pixels, FRAMES)

    _, clip = opened(loaded, Telling(gives_up))
    assert passes == [3, 3, 3, 3]
    assert alike(clip, encoded_in(loaded, noisy_clip().pixels))

    def never_right(on_frames: Filled, frames: Frames) -> None:
        on_frames(frames.pixels.copy(), FRAMES)

    _, clip = opened(loaded, Telling(never_right))
    assert alike(clip, encoded_in(loaded, noisy_clip().pixels))


def test_a_clip_that_cannot_be_asked_about_is_known_before_it_is_refused(
    loaded: LoadedModel, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "available_memory", lambda _device: 1_000)
    told: list[object] = []
    asked = session_of(loaded, profile())
    events = events_of(asked, [QUESTION], reader=Telling(_all_at_once))
    with pytest.raises(MemoryLimitError, match="9 frames need"):
        told.extend(events)
    assert [type(one) for one in told] == [Stage, ClipReady]
    assert passes == []
    monkeypatch.undo()
    monkeypatch.setattr(loaded, "context_length", 100)
    with pytest.raises(UsageError, match="reads at most"):
        opened(loaded, Telling(_all_at_once))


def _all_at_once(on_frames: Filled, frames: Frames) -> None:
    on_frames(frames.pixels, len(frames))


def test_an_error_in_the_middle_of_a_clip_is_the_readers(loaded: LoadedModel) -> None:
    def fails(on_frames: Filled, frames: Frames) -> None:
        on_frames(frames.pixels, 3)
        raise VideoError("x: cut short", "get it again")

    with pytest.raises(VideoError, match="cut short"):
        opened(loaded, Telling(fails))


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("clip", ["flipping_a_pancake.mkv", "unordered.mov"])
def test_a_child_tells_of_frames_while_it_decodes(clip: str, decoder: str) -> None:
    sampling, resize = Sampling(frames=5), Resize(32, "bicubic")
    told: list[tuple[int, Any]] = []
    with IsolatedReader() as reader:
        frames = reader.read(
            DATA / clip,
            sampling,
            resize=resize,
            decoder=decoder,
            on_frames=lambda pixels, done: told.append((done, (pixels, pixels[:done].copy()))),
        )
    decoder = frames.info.decoder
    assert same(frames, read_frames(DATA / clip, sampling, resize=resize, decoder=decoder))
    assert [done for done, _ in told] == list(range(1, len(frames) + 1))
    for done, (pixels, copy) in told:
        assert pixels is frames.pixels
        assert np.array_equal(copy, frames.pixels[:done])


def test_what_the_listener_raises_ends_the_reading_and_the_child() -> None:
    def refuse(_pixels: Any, _done: int) -> None:
        raise ZeroDivisionError

    with IsolatedReader() as reader:
        with pytest.raises(ZeroDivisionError):
            reader.read(DATA / "unordered.mov", Sampling(frames=3), on_frames=refuse)
        assert len(reader.read(DATA / "unordered.mov", Sampling(frames=3))) == 3


def test_passes_are_as_large_as_the_device_likes() -> None:
    small, large = VisionShape(4, 64, 2, 128, 96, 8), KNOWN_SHAPES["7b"].vision
    assert [frames_at_once("cuda:0", shape) for shape in (small, large)] == [32, 32]
    assert [frames_at_once("cpu", shape) for shape in (small, large)] == [32, 1]


def changed(pixels: Any, by: int) -> Any:
    """The same frame with one of its 3 x 4 parts brighter."""
    other = pixels.copy()
    other[:16, 16:32] = other[:16, 16:32].clip(0, 255 - by) + by
    return other


def test_the_most_changed_part_counts() -> None:
    frame = np.full((48, 64, 3), 100, dtype=np.uint8)
    assert largest_change(frame, frame, 4) == 0
    part = frame.copy()
    part[:12, :16] = 151
    assert largest_change(frame, part, 4) == pytest.approx(0.2)
    assert largest_change(part, frame, 4) == pytest.approx(0.2)
    assert largest_change(frame, part, 1) == pytest.approx(0.2 / 16)
    assert largest_change(frame, 255 - frame, 27) == pytest.approx(55 / 255)
    tiny = np.zeros((2, 3, 3), dtype=np.uint8)
    assert largest_change(tiny, tiny + 255, 27) == 1


def test_near_copies_take_over_tokens(loaded: LoadedModel, passes: list[int]) -> None:
    first, second = noisy_clip().pixels[[0, -1]]
    frames = np.stack([first, changed(first, 3), changed(first, 90), second, second, first])
    clip = encoded_in(loaded, frames, reuse=0.02)
    assert sum(passes) == 4
    assert clip.copied == 2
    whole = encoded_in(loaded, frames)
    assert whole.copied == 0
    grid = clip.visual[:-1].unflatten(0, (6, -1))
    assert torch.equal(grid, whole.visual[:-1].unflatten(0, (6, -1))[[0, 0, 2, 3, 3, 5]])
    assert torch.equal(clip.visual[-1], whole.visual[-1])
    for name in ("tower_vectors", "frame_vectors", "probe_attention", "tower_keys"):
        ours, theirs = getattr(clip, name), getattr(whole, name)
        torch.testing.assert_close(ours, theirs[[0, 0, 2, 3, 3, 5]])


def test_drift_is_measured_from_the_frame_whose_tokens_stand_for_it(loaded: LoadedModel) -> None:
    still = np.full((1, 48, 64, 3), 100, dtype=np.uint8)
    drifting = np.concatenate([still + 4 * step for step in range(6)]).astype(np.uint8)
    assert encoded_in(loaded, drifting, reuse=4 / 255).copied == 3
    assert encoded_in(loaded, drifting, reuse=3.9 / 255).copied == 0


def test_the_record_counts_frames_that_were_copied(loaded: LoadedModel) -> None:
    plain, reusing = (session_of(loaded, profile(reuse_frames=reuse)) for reuse in (None, 0.0))
    frames = noisy_clip()
    frames.pixels[1] = frames.pixels[0]
    frames.pixels[5] = frames.pixels[4]
    without = ask(plain, plain.encode("x", frames)).record
    record = ask(reusing, reusing.encode("x", frames)).record
    assert record.answer == without.answer
    assert record.video_info.frames_copied == 2
    assert record.to_dict()["video_info"]["frames_copied"] == 2
    assert without.to_dict()["video_info"]["frames_copied"] == 0
    ours, theirs = record.flops.end_to_end, without.flops.end_to_end
    assert ours.vision == theirs.vision * (FRAMES - 2) // FRAMES
    assert ours.vanilla == theirs.vanilla
    assert ours.pruned < theirs.pruned
    events = reusing.answer(reusing.encode("x", noisy_clip()), QUESTION, stream=False)
    assert answered(events).record.video_info.frames_copied == 0
