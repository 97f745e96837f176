"""Every frame by its time, in 28 pairs of container and codec, against decoding in a row."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from adatp_cli.video.container import ClipFile
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import unwatched
from adatp_cli.video.index import index_clip
from adatp_cli.video.pyav_decoder import Cursor
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import check_source
from tests.decode_case import EVERY, number_of, numbers, write_clip

FRAMES = 48
SHORT = {"g": "12", "bf": "2"}
X264 = {"preset": "ultrafast", "x264-params": "keyint=12:bframes=2:log-level=-1"}
X264_OPEN = {"preset": "ultrafast", "x264-params": "keyint=12:bframes=2:open-gop=1:log-level=-1"}
X264_REFRESH = {"preset": "ultrafast", "x264-params": "keyint=12:intra-refresh=1:log-level=-1"}
X265 = {"preset": "ultrafast", "x265-params": "keyint=12:open-gop=1:log-level=none"}
VPX = {"g": "12", "deadline": "realtime", "auto-alt-ref": "0"}
ALTREF = {"g": "12", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "12"}
AV1 = {"g": "12", "preset": "12", "svtav1-params": "lp=1"}
PAIRS = [
    ("mp4", "libx264", X264),
    ("mov", "libx264", X264_OPEN),
    ("mkv", "libx264", X264_OPEN),
    ("ts", "libx264", X264),
    ("ts", "libx264", X264_REFRESH),
    ("flv", "libx264", X264),
    ("avi", "libx264", X264),
    ("nut", "libx264", X264),
    ("mp4", "libx265", X265),
    ("mkv", "libx265", X265),
    ("ts", "libx265", X265),
    ("mpg", "mpeg1video", SHORT),
    ("vob", "mpeg2video", SHORT),
    ("ts", "mpeg2video", SHORT),
    ("mkv", "mpeg2video", SHORT),
    ("mxf", "mpeg2video", SHORT),
    ("avi", "mpeg4", SHORT),
    ("mp4", "mpeg4", SHORT),
    ("asf", "wmv2", {"g": "12"}),
    ("flv", "flv", {"g": "12"}),
    ("webm", "libvpx", VPX),
    ("webm", "libvpx", ALTREF),
    ("webm", "libvpx-vp9", ALTREF),
    ("mp4", "libvpx-vp9", VPX),
    ("mkv", "libsvtav1", AV1),
    ("mov", "mjpeg", {"strict": "unofficial"}),
    ("mkv", "ffv1", {"g": "12"}),
    ("ivf", "libvpx", VPX),
]


@pytest.mark.parametrize(("container", "codec", "options"), PAIRS)
def test_every_frame_by_its_time_is_that_of_decoding_in_a_row(
    tmp_path: Path, container: str, codec: str, options: dict[str, str]
) -> None:
    clip = tmp_path / f"clip.{container}"
    write_clip(clip, FRAMES, codec, options)
    with av.open(clip) as plain:
        truth = [number_of(frame.to_ndarray(format="rgb24")) for frame in plain.decode(video=0)]
    assert truth == list(range(FRAMES))
    frames = read_frames(clip, EVERY)
    assert numbers(frames) == frames.indices.tolist() == truth
    assert frames.info.frames_lost == 0
    assert frames.timestamps_s - frames.timestamps_s[0] == pytest.approx(
        np.arange(FRAMES) / 30, abs=2e-3
    )
    assert numbers(read_frames(clip, Sampling(frames=3), decoder="pyav")) == [8, 24, 40]
    file = ClipFile(check_source(clip))
    index = index_clip(file)
    if not index.exact:  # all of it is decoded in a row, whatever is asked for
        return
    with file.stream(index.stream) as (opened, stream):
        cursor = Cursor(opened, stream, index, unwatched)
        for place in [*range(FRAMES - 1, -1, -1), 5, 40, 6, 39]:
            frame = cursor.frame_at(place)
            assert frame is not None, place
            assert number_of(frame.to_ndarray(format="rgb24")) == truth[place]
        assert cursor.errors.count == 0
