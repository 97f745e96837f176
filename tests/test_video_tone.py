"""HDR is shown as a screen without it shows it: as FFmpeg's zscale and tonemap do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Resize
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.shown import HLG, PQ, tone_map
from tests.decode_case import EVERY
from tests.trials_case import TRIALS

CHAIN = "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=clip,zscale=t=bt709"


def by_ffmpeg(clip: Path, filters: str, *options: str) -> np.ndarray:
    """(T, 192, 192, 3): what `ffmpeg` makes of all frames."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg is not there to compare with")
    command = [ffmpeg, "-v", "error", *options, "-i", str(clip), "-vf", filters]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    made = subprocess.run([*command, *raw], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("this ffmpeg has no zscale")
    return np.frombuffer(made.stdout, np.uint8).reshape(-1, 192, 192, 3)


@pytest.mark.parametrize(("name", "kind"), [("e1_pq.mp4", "HDR10 (PQ)"), ("e1_hlg.mp4", "HLG")])
def test_hdr_is_tone_mapped_to_what_the_sdr_clip_shows(name: str, kind: str) -> None:
    for resize in (None, Resize(64, "bicubic")):
        ours = read_frames(TRIALS / name, Sampling(frames=8), resize=resize)
        plain = read_frames(TRIALS / "e1_sdr.mp4", Sampling(frames=8), resize=resize)
        off = np.abs(ours.pixels.astype(int) - plain.pixels.astype(int))
        assert off.mean(axis=(1, 2, 3)).max() < 3
        assert f"its {kind} frames are tone-mapped to SDR" in ours.notes
        assert ours.info.decoder == "pyav"
        assert not any("tone" in note for note in plain.notes)


@pytest.mark.parametrize("name", ["e1_pq.mp4", "e1_hlg.mp4"])
def test_hdr_is_within_three_levels_of_ffmpeg(name: str) -> None:
    theirs = by_ffmpeg(TRIALS / name, f"{CHAIN}:m=bt709:r=tv,format=yuv420p")
    ours = read_frames(TRIALS / name, EVERY).pixels
    off = np.abs(ours.astype(int) - theirs.astype(int))
    assert off.mean(axis=(1, 2, 3)).max() < 3


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "smpte2084"), (HLG, "arib-std-b67")])
def test_highlights_and_strong_colours_are_within_three_levels_of_ffmpeg(
    tmp_path: Path, transfer: int, name: str
) -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.repeat(rng.integers(0, 800 << 6, (8, 8, 3)), 24, 0), 24, 1)
    picture = codes.astype("<u2")
    (tmp_path / "codes").write_bytes(picture.tobytes())
    coded = "scale=out_color_matrix=bt2020nc:out_range=tv,format=yuv444p12le"
    tags = f"setparams=color_primaries=bt2020:color_trc={name}:colorspace=bt2020nc:range=tv"
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", "192x192")
    theirs = by_ffmpeg(tmp_path / "codes", f"{coded},{tags},{CHAIN},format=gbrp", *raw)
    off = np.abs(tone_map(picture, transfer).astype(int) - theirs[0].astype(int))
    assert theirs.min() == 0
    assert theirs.max() == 255
    assert off.mean() < 3
