"""Pictures from frames, records and traces, without any model."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from adatp_cli import record
from adatp_cli.errors import UsageError
from adatp_cli.files import replacing
from adatp_cli.pictures import style
from adatp_cli.pictures.film import save_film
from adatp_cli.pictures.page import page, save_page
from adatp_cli.pictures.scene import Panel, Scene, TokenFates
from adatp_cli.pictures.sheet import plan_grid, save_sheet
from tests.records import answer_record

LAYERS = 12
RED = (250, 10, 20)


def arrays(steps: dict[int, list[int]], frames: int = 2, side: int = 2) -> dict[str, Any]:
    """A trace's arrays in which these tokens go on at these layers."""
    alive = np.arange(frames * side * side)
    made: dict[str, Any] = {"frames": np.asarray(frames), "grid": np.asarray((side, side))}
    made |= {"frame_relevance": np.zeros(0), "frame_similarity": np.zeros(0)}
    for layer, kept in steps.items():
        made[f"alive_before_{layer}"] = alive
        made[f"kept_{layer}"] = alive = np.asarray(kept, dtype=np.int64)
    return made


def scene(
    steps: dict[int, list[int]] | None = None,
    *,
    frames: int = 2,
    size: tuple[int, int] = (64, 64),
    panels: int = 1,
    segments: bool = True,
    **changes: Any,
) -> Scene:
    """Red frames of (width, height) with 2 x 2 tokens each."""
    steps = {2: [0, 1, 4, 5, 6], 5: [0, 5]} if steps is None else steps
    width, height = size
    kept = len(steps[max(steps)]) if steps else 4 * frames
    times = [0.25 + 0.5 * number for number in range(frames)]
    facts = record.VideoFacts(
        "pyav", "h264", width, height, 8.0, 0.5 * frames, 4 * frames, 0, frames, times
    )
    cut = [
        record.SegmentFacts(0, 0, 0.25, 0.25, 0.3, True, 1),
        record.SegmentFacts(1, frames - 1, 0.75, times[-1], 0.1, False, 1),
    ]
    tokens = record.TokenCounts(20, 4 * frames, [4 * frames] * LAYERS, kept, 0.5, 6)
    filled = answer_record(
        video_info=facts, segments=cut if segments else [], tokens=tokens, **changes
    )
    traced = arrays(steps, frames)
    if segments:
        traced["frame_relevance"] = np.linspace(0.3, 0.1, frames)
        traced["frame_similarity"] = np.full(frames - 1, 0.5)
    pixels = np.full((frames, height, width, 3), RED, dtype=np.uint8)
    return Scene(
        pixels, [Panel.of(filled, traced, [("tokens", "some"), ("LLM cost", "little")])] * panels
    )


def test_fates_say_where_each_token_fell() -> None:
    fates = TokenFates.of(arrays({2: [0, 1, 4, 5, 6], 5: [0, 5]}), LAYERS)
    assert fates.fell.tolist() == [[[12, 5], [2, 2]], [[5, 12], [5, 2]]]
    assert fates.steps == (2, 5)
    assert fates.kept.sum(axis=(1, 2)).tolist() == [1, 1]


def test_what_went_before_the_model_fell_at_layer_0() -> None:
    fates = TokenFates.of(arrays({0: [3, 4]}), LAYERS)
    assert np.flatnonzero(fates.kept).tolist() == [3, 4]
    assert int((fates.fell == 0).sum()) == 6


def test_nothing_falls_without_pruning() -> None:
    fates = TokenFates.of(arrays({}), LAYERS)
    assert fates.kept.all()
    assert fates.steps == ()


def test_what_is_no_trace_is_refused() -> None:
    with pytest.raises(ValueError, match="no trace"):
        TokenFates.of({"frames": np.asarray(2)}, LAYERS)
    with pytest.raises(ValueError, match="layer 5 of 4"):
        TokenFates.of(arrays({5: [0]}), 4)


def test_dropped_patches_fade_and_the_first_most() -> None:
    drawn = scene()
    faded = style.faded(drawn.pixels, drawn.panels[0].fates).astype(int)
    corner = {"kept": faded[0, 0, 0], "late": faded[0, 0, 63], "early": faded[0, 63, 0]}
    assert corner["kept"].tolist() == list(RED)
    away = {name: np.abs(pixel - style.SHADE).sum() for name, pixel in corner.items()}
    assert away["early"] < away["late"] < away["kept"]
    assert (faded[0, :32, :32] == RED).all()  # the whole patch, and nothing but it
    assert not (faded[0, 32:, :] == RED).all(axis=-1).any()
    assert not (faded[0, :, 32:] == RED).all(axis=-1).any()


def test_fading_falls_from_layer_to_layer() -> None:
    values = list(style.fading((2, 3, 4, 7)).values())
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4
    assert all(0 < value < 1 for value in values)
    assert 0 < style.fading((3,))[3] < 1
    assert style.fading(()) == {}


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_lines_around_what_is_kept(mask: npt.NDArray[np.bool_]) -> None:
    """Every line parts a kept cell from another, and all such borders are drawn once."""
    framed = np.pad(mask, 1)
    borders = set()
    for row, col in np.ndindex(framed.shape[0] - 1, framed.shape[1] - 1):
        if framed[row, col] != framed[row + 1, col]:
            borders.add(("h", col - 1, row))
        if framed[row, col] != framed[row, col + 1]:
            borders.add(("v", col, row - 1))
    drawn = []
    for (x0, y0), (x1, y1) in style.edges(mask).astype(int).tolist():
        if y0 == y1:
            drawn += [("h", x, y0) for x in range(x0, x1)]
        else:
            assert x0 == x1
            drawn += [("v", x0, y) for y in range(y0, y1)]
    assert sorted(drawn) == sorted(borders)


def test_the_lines_stand_around_the_patch_that_is_kept() -> None:
    pytest.importorskip("matplotlib")
    _, page = style.blank_page(9.0, 9.0, 50)
    kept = np.zeros((2, 3), dtype=np.bool_)
    kept[1, 2] = True
    _, outline = style.draw_frame(page, np.zeros((20, 60, 3), np.uint8), kept, (1.0, 7.0, 6.0, 2.0))
    ends = np.concatenate(outline.get_segments())
    assert ends.min(axis=0).tolist() == [5.0, 4.0]
    assert ends.max(axis=0).tolist() == [7.0, 6.0]


def test_lines_of_text_stand_below_each_other() -> None:
    pytest.importorskip("matplotlib")
    _, page = style.blank_page(9.0, 9.0, 50)
    style.write_lines(page, 1.0, 2.0, ["one", "two", "three"], 12, 0.5)
    assert [(text.get_text(), text.get_position()) for text in page.texts] == [
        ("one", (1.0, 2.0)), ("two", (1.0, 2.5)), ("three", (1.0, 3.0)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0.00 s"), (1.25, "1.25 s"), (75.5, "1:15.5"), (119.96, "2:00.0"), (3675.0, "1:01:15")],
)
def test_moments(seconds: float, shown: str) -> None:
    assert style.moment(seconds) == shown


def test_long_text_is_cut_and_made_one_line() -> None:
    lines = style.wrapped("word " * 50, 20, 2)
    assert len(lines) == 2
    assert all(len(line) <= 20 for line in lines)
    assert lines[-1].endswith(" ...")
    assert style.wrapped("a\nb\x1b[0m", 40, 1) == ["a b\\x1b[0m"]
    assert style.wrapped("", 10, 1) == [""]


@given(st.integers(1, 400), st.floats(0.25, 4.0), st.booleans())
def test_every_frame_has_its_place(count: int, aspect: float, alone: bool) -> None:
    width = 13.0 if alone else 8.5
    grid = plan_grid(count, aspect, width=width, shape=2.2 if alone else 1.2, bands=True)
    assert grid.columns * (grid.rows - 1) < count <= grid.columns * grid.rows
    assert grid.cell_width / grid.cell_height == pytest.approx(aspect)
    places = [grid.place(frame) for frame in range(count)]
    assert len(set(places)) == count
    assert max(x for x, _ in places) + grid.cell_width <= grid.width + 1e-9
    assert max(y for _, y in places) + grid.cell_height <= grid.height
    assert grid.band > 0


def test_frames_stay_large_enough_to_see() -> None:
    eight = plan_grid(8, 16 / 9, width=13.0, shape=2.2, bands=True)
    many = plan_grid(64, 16 / 9, width=13.0, shape=2.2, bands=True)
    assert eight.cell_width >= 3
    assert many.cell_width >= 1.3
    assert eight.columns == 4
    assert plan_grid(64, 16 / 9, width=8.5, shape=1.2, bands=True).columns <= 8


def red_share(path: Path) -> float:
    """How much of a picture is the frames' undimmed red, in square inches."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        dpi = image.info["dpi"][0]
    return float((np.abs(pixels - RED).max(-1) <= 3).sum() / dpi**2)


def test_the_sheet_shows_what_was_kept_bright(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    whole, some = tmp_path / "whole.png", tmp_path / "some.png"
    save_sheet(scene({}), whole)
    save_sheet(scene(), some)
    # 2 of 8 patches are bright, but for the lines around them.
    assert red_share(some) / red_share(whole) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("size", [(64, 36), (36, 64), (4000, 8), (8, 4000)])
@pytest.mark.parametrize("panels", [1, 2])
def test_sheets_of_any_shape(tmp_path: Path, size: tuple[int, int], panels: int) -> None:
    pytest.importorskip("matplotlib")
    save_sheet(scene(size=size, panels=panels), tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as image:
        assert max(image.size) < 8000
        assert image.size[0] > 800


def test_a_sheet_of_very_many_frames_has_bounded_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save_sheet(scene({}, frames=600, size=(16, 9)), tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as image:
        assert image.size[0] * image.size[1] <= 50e6


def test_a_clip_of_one_frame(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one = scene({1: [2]}, frames=1, segments=False)
    save_sheet(one, tmp_path / "s.png")
    save_film(one, tmp_path / "s.mp4")
    assert "1 of 4" in page(one)
    assert len(film_times(tmp_path / "s.mp4")) == 2


HOSTILE = "</script><img src=x onerror=alert(1)> & $\\frac{$ 日本 \udcff @@data@@"


def test_any_text_is_drawn_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    odd = scene(question=HOSTILE, answer=HOSTILE, video=HOSTILE)
    save_sheet(odd, tmp_path / "s.png")
    save_film(odd, tmp_path / "s.mp4")
    save_page(odd, tmp_path / "s.html")
    text = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert text.count("@@data@@") == 4  # title, heading, answer and clip: as text


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def test_each_frame_of_the_page_names_its_segment() -> None:
    alts = [found["alt"] for tag, found in Reader(page(scene(frames=3))).tags if tag == "img"]
    assert alts == [
        "frame at 0.25 s, segment 1", "frame at 0.75 s, segment 2", "frame at 1.25 s, segment 2",
    ]  # fmt: skip


def test_the_page_holds_everything_itself() -> None:
    drawn = scene(panels=2)
    text = page(drawn)
    read = Reader(text)
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert not [tag for tag, _ in read.tags if tag in ("link", "iframe", "object")]
    assert not [found for tag, found in read.tags if tag == "script" and "src" in found]
    (policy,) = (found["content"] for tag, found in read.tags if found.get("http-equiv"))
    assert (policy or "").startswith("default-src 'none'; img-src data:")
    data = json.loads(read.scripts[0])
    assert len(data["frames"]) == 2  # once, whatever the panels
    assert len(data["panels"]) == 2
    kind, _, payload = data["frames"][0].partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(payload))) as image:
        assert image.size == (320, 320)
        assert np.abs(np.asarray(image).astype(int) - RED).max() < 12
    assert data["panels"][0]["fell"] == [[12, 5, 2, 2], [5, 12, 5, 2]]
    assert data["panels"][0]["fading"].keys() == {"2", "5"}
    (slider,) = (found for tag, found in read.tags if found.get("type") == "range")
    assert (slider["min"], slider["max"]) == ("0", "12")
    assert len([tag for tag, _ in read.tags if tag == "figure"]) == 4


def film_times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.width % 2 == stream.height % 2 == 0
        return [frame.time for frame in container.decode(stream) if frame.time is not None]


@pytest.mark.parametrize("size", [(64, 64), (36, 64), (77, 33)])
@pytest.mark.parametrize("panels", [1, 2])
def test_the_film_shows_frames_at_their_moments(
    tmp_path: Path, size: tuple[int, int], panels: int
) -> None:
    pytest.importorskip("matplotlib")
    save_film(scene({}, frames=4, size=size, panels=panels), tmp_path / "f.mp4")
    assert film_times(tmp_path / "f.mp4") == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])


def test_frames_and_answers_must_belong_together() -> None:
    good = scene()
    with pytest.raises(ValueError, match="do not belong together"):
        Scene(good.pixels[:1], good.panels)
    with pytest.raises(ValueError, match="at least one"):
        Scene(good.pixels, [])


def write_half(target: Path) -> None:
    with replacing(target, "the picture") as file:
        file.write_text("half")
        raise RuntimeError


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    target.write_text("before")
    with pytest.raises(RuntimeError):
        write_half(target)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    with replacing(target, "the picture") as file:
        file.write_text("whole")
        assert target.read_text() == "before"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").touch()
    with (
        pytest.raises(UsageError, match=r"the picture .*folder cannot be written"),
        replacing(tmp_path / "folder", "the picture") as file,
    ):
        file.write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x.png"]
