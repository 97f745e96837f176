"""The bundled model as it is shipped: size, answers, and what quantization leaves of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.answering.events import Answered
from adatp_cli.answering.session import Session
from adatp_cli.model.load import LoadedModel, LoadRequest, load_model
from adatp_cli.profiles import load_profile
from adatp_cli.tiny.clips import write_demo_clip
from adatp_cli.video.decode import read_frames
from adatp_cli.video.sampling import Sampling
from tests.conftest import Run
from tests.tiny_case import write_clips

CLIPS, PER_CLIP = 25, 4
QUANTIZED_CLIPS = 5  # int8 takes half a second an answer on a CPU
Questions = list[tuple[Path, list[dict[str, str]]]]
# The clips of the README's table have seed 0.
SEED = 77


def load(quantization: str = "none", dtype: str = "bfloat16") -> LoadedModel:
    request = LoadRequest("tiny", quantization=quantization, dtype=dtype, offline=True)
    return load_model(request, lambda _: None)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Questions:
    folder = tmp_path_factory.mktemp("clips")
    index = write_clips(folder, CLIPS, seed=SEED, questions=PER_CLIP)
    clips: dict[str, list[dict[str, str]]] = {}
    for line in index.read_text().splitlines():
        row = json.loads(line)
        clips.setdefault(row["video"], []).append(row)
    return [(folder / video, rows) for video, rows in clips.items()]


def answers(loaded: LoadedModel, questions: Questions, profile: str) -> list[str]:
    session = Session(loaded, load_profile(profile), GenerationSettings(max_new_tokens=48))
    given: list[str] = []
    for path, rows in questions:
        clip = session.encode(path.name, read_frames(path, Sampling(frames=16)))
        for row in rows:
            events = list(session.answer(clip, row["question"], stream=False))
            assert isinstance(events[-1], Answered)
            given.append(events[-1].record.answer.strip())
    return given


@pytest.fixture(scope="module")
def vanilla(questions: Questions) -> list[str]:
    return answers(load(), questions, "vanilla")


def truths(questions: Questions) -> list[str]:
    return [row["answer"] for _, rows in questions for row in rows]


def test_the_bundle_is_small_and_deep() -> None:
    loaded = load()
    assert sum(f.stat().st_size for f in loaded.folder.rglob("*") if f.is_file()) <= 16e6
    assert loaded.shape.language.layers >= 12
    assert loaded.default_frames == 16
    assert loaded.relevance is not None


def test_it_answers_held_out_clips(questions: Questions, vanilla: list[str]) -> None:
    """The README has the figure for 1,000 clips; the bar here leaves room for chance on 25."""
    right = [a == b for a, b in zip(vanilla, truths(questions), strict=True)]
    assert len(right) == CLIPS * PER_CLIP
    assert sum(right) >= 0.85 * len(right)
    most_common = Counter(truths(questions)).most_common(1)[0][1]
    assert most_common < 0.3 * len(right)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_answers_agree(
    questions: Questions, vanilla: list[str], quantization: str
) -> None:
    loaded = load(quantization)
    assert loaded.quantization == quantization
    given = answers(loaded, questions[:QUANTIZED_CLIPS], "vanilla")
    same = sum(a == b for a, b in zip(given, vanilla, strict=False))
    assert len(given) == QUANTIZED_CLIPS * PER_CLIP
    assert same >= 0.95 * len(given)


def test_pruning_is_felt_but_does_not_destroy(questions: Questions, vanilla: list[str]) -> None:
    given = answers(load(), questions, "adatp")
    right = sum(a == b for a, b in zip(given, truths(questions), strict=True))
    assert right >= 0.5 * len(given)


def test_scenes_become_segments(questions: Questions) -> None:
    """Cuts are where the relevance encoder's frames differ: mostly the cuts that were drawn."""
    session = Session(load(), load_profile("adatp"), GenerationSettings(max_new_tokens=4))
    met = expected = 0
    for path, rows in questions:
        asked = [row for row in rows if row["kind"] == "scenes"]
        if not asked:
            continue
        clip = session.encode(path.name, read_frames(path, Sampling(frames=16)))
        *_, done = session.answer(clip, asked[0]["question"], stream=False)
        assert isinstance(done, Answered)
        scenes = ["zero", "one", "two", "three"].index(asked[0]["answer"])
        met += len(done.record.segments) >= scenes
        expected += 1
    assert expected >= 3
    assert met >= 0.8 * expected


def test_the_demo_tells_the_truth(adatp: Run, tmp_path: Path) -> None:
    done = adatp("demo", "--save-clip", tmp_path / "clip.mp4", "--json")
    assert done.code == 0
    records = done.records
    assert len(records) >= 5
    assert all(record["ok"] and record["model"]["name"] == "tiny" for record in records)
    told = write_demo_clip(tmp_path / "again.mp4")
    assert [record["answer"] for record in records] == [question.answer for question in told]
    assert records[0]["tokens"]["visual"] == 576
    assert records[0]["tokens"]["kept_final"] < 100


def test_its_encoder_is_called_after_it_wherever_the_package_lies() -> None:
    for wanted in ("auto", "tiny/relevance"):
        loaded = load_model(LoadRequest("tiny", relevance=wanted), lambda _: None)
        assert loaded.relevance is not None
        assert loaded.relevance.name == "tiny/relevance"
