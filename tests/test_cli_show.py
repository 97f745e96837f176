"""`adatp show` as its users see it, on real files and the bundled model."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Run

PANCAKE = Path(__file__).parent / "data" / "flipping_a_pancake.mkv"
TINY = ("-m", "tiny", "--offline", "--max-new-tokens", "8")
QUESTION = "what happens?"


def page_data(path: Path) -> dict[str, Any]:
    (found,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8")
    )
    data: dict[str, Any] = json.loads(found)
    return data


def alive(data: dict[str, Any], panel: int) -> list[int]:
    """Tokens that the page shows as entering each layer."""
    fell = np.asarray(data["panels"][panel]["fell"])
    return [int((fell > layer).sum()) for layer in range(data["layers"])]


def test_a_contact_sheet_of_a_real_clip(adatp: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "p.png"
    run = adatp("show", PANCAKE, QUESTION, *TINY, "-n", "8", "-o", out)
    assert run.code == 0, run.err
    asked = adatp("ask", PANCAKE, QUESTION, *TINY, "-n", "8")
    assert run.out == asked.out  # stdout carries the answer, and the same one
    assert run.err.splitlines()[-1] == f"the picture is {out}"
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.size[0] > 1500
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_the_page_shows_what_the_layers_measured(adatp: Run, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.html"
    run = adatp("show", clip, QUESTION, *TINY, "-o", out, "--json")
    assert run.code == 0, run.err
    (record,) = run.records
    data = page_data(out)
    assert alive(data, 0) == record["tokens"]["kept_per_layer"]
    assert len(data["frames"]) == record["video_info"]["frames_used"] == 16
    text = out.read_text("utf-8")
    assert f"Answer: {record['answer']}" in text
    assert f"{record['tokens']['visual']} visual, {record['tokens']['kept_final']} kept" in text
    for segment in record["segments"]:
        assert f"<td>{segment['relevance']:.3f}</td>" in text
        assert f"<td>{segment['kept']}</td></tr>" in text


@pytest.mark.parametrize("other", ["vanilla", "vidcom2", "unicomp", "fastv"])
def test_two_profiles_side_by_side(adatp: Run, clip: Path, tmp_path: Path, other: str) -> None:
    out = tmp_path / "p.html"
    run = adatp("show", clip, QUESTION, *TINY, "-o", out, "--json", "--compare", other)
    assert run.code == 0, run.err
    assert [record["profile"]["name"] for record in run.records] == ["adatp", other]
    data = page_data(out)
    for number, record in enumerate(run.records):
        breaks = len(record["segments"]) if record["profile"]["name"] == "unicomp" else 0
        measured = [count - breaks for count in record["tokens"]["kept_per_layer"]]
        assert alive(data, number) == measured
    alone = adatp("ask", clip, QUESTION, *TINY, "--json", "-p", other).records[0]
    assert run.records[1]["answer"] == alone["answer"]
    assert run.records[1]["tokens"] == alone["tokens"]
    text = out.read_text("utf-8")
    assert text.count('<section class="panel"') == 2
    assert (", 0 of them" in text, "of them line breaks" in text) == (False, breaks > 0)


def test_both_answers_are_on_stdout(adatp: Run, clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "p.png"
    run = adatp("show", clip, QUESTION, *TINY, "-o", out, "--compare", "vanilla")
    answers = [adatp("ask", clip, QUESTION, *TINY, "-p", name).out for name in ("adatp", "vanilla")]
    assert run.out == "".join(answers)
    assert "1. adatp" in run.err
    assert "2. vanilla" in run.err


def test_the_budget_is_for_those_that_prune(adatp: Run, clip: Path, tmp_path: Path) -> None:
    given = ("show", clip, QUESTION, *TINY, "-o", tmp_path / "p.html", "--json", "--budget", "0.2")
    first, second = adatp(*given, "--compare", "vanilla").records
    assert first["flops"]["paper"]["ratio"] < 0.2
    assert second["flops"]["paper"]["ratio"] == 1


@pytest.mark.parametrize("name", ["p.mp4", "P.MP4"])
def test_a_film(adatp: Run, clip: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    run = adatp("show", clip, QUESTION, *TINY, "-n", "5", "-o", tmp_path / name, "--json")
    assert run.code == 0, run.err
    moments = run.records[0]["video_info"]["timestamps_s"]
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        shown = [frame.time for frame in container.decode(stream)]
    assert shown[:-1] == pytest.approx([moment - moments[0] for moment in moments], abs=2e-3)


def test_clip_and_question_from_stdin(adatp: Run, clip: Path, tmp_path: Path) -> None:
    by_name = adatp("show", clip, QUESTION, *TINY, "-o", tmp_path / "a.html").out
    piped = adatp("show", "-", QUESTION, *TINY, "-o", tmp_path / "b.html", stdin=clip.read_bytes())
    asked = adatp("show", clip, "-", *TINY, "-o", tmp_path / "c.html", stdin=b"what happens?\n")
    assert by_name == piped.out == asked.out
    assert page_data(tmp_path / "a.html") == page_data(tmp_path / "b.html")
    two = adatp("show", clip, "-", *TINY, "-o", tmp_path / "d.html", stdin=b"what?\nwhere?\n")
    assert two.code == 2
    assert "one question" in two.error


def test_the_pictures_are_sharper_than_what_a_small_model_sees(adatp: Run, tmp_path: Path) -> None:
    stripes = np.zeros((480, 480, 3), dtype=np.uint8)
    stripes[:, np.arange(480) % 8 < 4] = 255  # finer than the pixels of a 96 x 96 frame
    with av.open(str(tmp_path / "stripes.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 480, 480, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stripes, format="rgb24")))
        container.mux(stream.encode(None))
    given = (tmp_path / "stripes.mp4", QUESTION, *TINY, "-n", "1")
    assert adatp("show", *given, "-o", tmp_path / "p.html").code == 0
    payload = page_data(tmp_path / "p.html")["frames"][0].partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(payload))) as image:
        assert np.asarray(image.convert("L")).astype(float).std() > 60


def test_traces_of_both(adatp: Run, clip: Path, tmp_path: Path) -> None:
    trace = tmp_path / "t.npz"
    adatp("show", clip, QUESTION, *TINY, "-o", tmp_path / "p.html", "--compare", "vidcom2",
          "--trace", trace)  # fmt: skip
    with np.load(trace) as first, np.load(tmp_path / "t-2.npz") as second:
        assert "kept_1" in first.files
        assert "entered_owner" in second.files


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("p.gif", "a picture is a .png, .html or .mp4 file"),
        ("p", "a picture is a .png, .html or .mp4 file"),
        (".png", "a picture is a .png, .html or .mp4 file"),
        ("none/p.png", "there is no such folder"),
        ("file/p.png", "file is no folder"),
        ("folder.png", "is a folder; name a file in it"),
        ("x" * 300 + ".png", "File name too long"),
        ("old.png", "exists already; replace it with --overwrite"),
        ("/dev/stdout", "something else goes to stdout"),
    ],
)
def test_where_no_picture_can_go(
    adatp: Run, clip: Path, tmp_path: Path, target: str, said: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "old.png").write_text("old")
    run = adatp("show", clip, QUESTION, *TINY, "-o", tmp_path / target, "--json")
    assert run.code == 2
    assert said in run.error
    assert run.out == ""
    assert (tmp_path / "old.png").read_text() == "old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours(adatp: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    run = adatp("show", clip, QUESTION, *TINY, "-o", tmp_path / "locked" / "p.png")
    assert (run.code, "Permission denied" in run.error) == (2, True)


@pytest.mark.parametrize("link", ["same", "symlink", "hard link"])
def test_the_video_is_never_replaced(adatp: Run, clip: Path, tmp_path: Path, link: str) -> None:
    source, target = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    source.write_bytes(clip.read_bytes())
    if link == "same":
        target = source
    elif link == "symlink":
        target.symlink_to(source)
    else:
        target.hardlink_to(source)
    run = adatp("show", source, QUESTION, *TINY, "-o", target, "--overwrite")
    assert run.code == 2
    assert "is read by this run; write to another file" in run.error
    assert source.read_bytes() == clip.read_bytes()


def test_overwriting_replaces_the_file_once_the_new_one_is_there(
    adatp: Run, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.html"
    out.write_text("old")
    failed = adatp("show", tmp_path / "none.mp4", QUESTION, *TINY, "-o", out, "--overwrite")
    assert failed.code == 3
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]
    done = adatp("show", clip, QUESTION, *TINY, "-o", out, "--overwrite")
    assert done.code == 0
    assert page_data(out)["layers"] == 16


def test_without_matplotlib(
    adatp: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for ending in (".png", ".mp4"):
        run = adatp("show", clip, QUESTION, *TINY, "-o", tmp_path / f"p{ending}")
        assert run.code == 4
        assert "needs matplotlib" in run.error
        assert "pip install matplotlib" in run.error
        assert run.out == ""
    assert adatp("show", clip, QUESTION, *TINY, "-o", tmp_path / "p.html").code == 0


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("none.mp4", QUESTION), 3, "no such file"),
        ((PANCAKE, " "), 2, "a question is blank"),
        ((PANCAKE, QUESTION, "--compare", "adatp"), 2, "two of the profiles"),
        ((PANCAKE, QUESTION, "--compare", "nothing"), 2, "nothing"),
        ((PANCAKE, QUESTION, "-p", "vanilla", "--budget", "0.5"), 2, "vanilla"),
        ((PANCAKE, QUESTION, "-n", "0"), 2, "--frames"),
        ((PANCAKE,), 2, "QUESTION is missing"),
    ],
)
def test_what_cannot_be_shown(
    adatp: Run, tmp_path: Path, given: Sequence[str | Path], code: int, said: str
) -> None:
    run = adatp("show", *given, *TINY, "-o", tmp_path / "p.html")
    assert run.code == code
    assert said in run.error
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_a_record_for_each_profile(adatp: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    run = adatp("show", broken, QUESTION, *TINY, "-o", tmp_path / "p.html", "--json",
                "--compare", "vanilla")  # fmt: skip
    assert run.code == 3
    assert [record["ok"] for record in run.records] == [False, False]
    assert [record["profile"]["name"] for record in run.records] == ["adatp", "vanilla"]
    assert {record["error"]["kind"] for record in run.records} == {"not_a_video"}
    assert not (tmp_path / "p.html").exists()
