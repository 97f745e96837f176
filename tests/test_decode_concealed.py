"""Damage that decoders pass over in silence is counted, or the clip is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adatp_cli.errors import VideoError
from adatp_cli.video.decode import read_frames
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling
from tests import fuzz, in_a_row
from tests.decode_case import DATA, EVERY, failure

HOSTILE = DATA / "hostile"
DAMAGED = sorted((HOSTILE / "damaged").iterdir())


@pytest.fixture(scope="module")
def reader() -> Iterator[IsolatedReader]:
    with IsolatedReader() as made:
        yield made


@pytest.mark.parametrize("path", DAMAGED, ids=lambda path: path.name)
def test_frames_that_were_made_up_count_as_lost(reader: IsolatedReader, path: Path) -> None:
    known = in_a_row.count(str(path))
    assert known is not None
    frames, packets = known
    assert frames < packets
    for asked in (EVERY, Sampling(frames=packets)):
        if 2 * frames < packets:
            with pytest.raises(VideoError, match="asked for can be decoded"):
                reader.read(path, asked)
            continue
        read = reader.read(path, asked)
        assert (len(read), read.info.frames_lost) == (frames, packets - frames)
        assert any("not be decoded" in note for note in read.notes)
        assert not any("every frame" in note for note in read.notes)


def test_damage_that_leaves_a_containers_structure_whole_is_not_passed_over(tmp_path: Path) -> None:
    """Boxes, elements, packets dropped, swapped, resized; `tests/fuzz.py` does it by thousands."""
    fuzz.write_corpus(tmp_path, 60, seed=7, mutations=(fuzz.structure,))
    assert in_a_row.disagreements(sorted(tmp_path.iterdir())) == []


def test_the_harness_finds_what_is_passed_over() -> None:
    whole, damaged = DATA / "flipping_a_pancake.mkv", HOSTILE / "damaged" / "m2_00738_b_h264.mp4"
    assert in_a_row.counts([whole, damaged]) == [(310, 310), (18, 20)]


@pytest.mark.parametrize("name", ["pancake_05.mkv", "pancake_10.mp4"])
def test_the_first_second_of_a_clip_is_not_the_clip(name: str) -> None:
    """However few frames are asked for: most moments that they would show are gone."""
    for asked in (16, 8, 2):
        error = failure(HOSTILE / name, Sampling(frames=asked))
        assert error.kind == "truncated"
        assert (
            f"of the {asked} frames asked for" in error.message or " s asked for" in error.message
        )


@pytest.mark.parametrize(
    "digits", ["9" * 400, "-" + "9" * 399, "inf".rjust(400), "0" * 396 + "9" * 4, "1_0" * 133 + "1"]
)
def test_an_absurd_duration_is_not_believed(digits: str) -> None:
    data = (HOSTILE / "long_duration_tag.mkv").read_bytes()
    assert b"9" * 400 in data
    read = read_frames(data.replace(b"9" * 400, digits.encode()), EVERY)
    assert (len(read), read.info.frames_lost) == (20, 0)
    assert read.info.duration_s == pytest.approx(2.0, abs=0.1)
