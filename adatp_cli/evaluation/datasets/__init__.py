"""Datasets: the table of benchmarks, anyone's own questions, and generated clips of shapes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adatp_cli.answering.tasks import ClipSource, FileClip
from adatp_cli.errors import UsageError
from adatp_cli.evaluation import scoring
from adatp_cli.evaluation.datasets import benchmarks
from adatp_cli.evaluation.datasets.folder import (
    LETTER_CLOSING,
    Folder,
    letter_of,
    lettered,
    place,
)
from adatp_cli.evaluation.questions import Dataset, Item
from adatp_cli.evaluation.scoring import choice
from adatp_cli.text import nearest, plural, printable
from adatp_cli.tiny.clips import held_out_clip, write_mp4
from adatp_cli.tiny.questions import draw_questions
from adatp_cli.video.frames import FrameReader, Frames, Resize
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import local_path

SHAPES = "shapes"
_OWN_EXTENSION = ".jsonl"
_SHAPES_QUESTIONS = 2  # a clip


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A row of the table."""

    read: Callable[[Folder], Iterable[Item]]
    dataset: Dataset  # without its questions
    tasks: Sequence[str] = ()  # kinds of questions, each of which may be absent


BENCHMARKS: Mapping[str, Benchmark] = {
    "videomme": Benchmark(
        benchmarks.videomme,
        Dataset("videomme", "Video-MME", (), choice, scoring.extract, "", 16, "task type"),
    ),
    "mvbench": Benchmark(
        benchmarks.mvbench,
        Dataset(
            "mvbench", "MVBench", (), choice, scoring.mvbench, "mean of the tasks", 16, "task"
        ),
        tuple(benchmarks.MVBENCH_TASKS),
    ),
    "longvideobench": Benchmark(
        benchmarks.longvideobench,
        Dataset(
            "longvideobench", "LongVideoBench", (), choice, scoring.longvideobench, "", 32,
            "question category",
        ),
    ),
    "mlvu": Benchmark(
        benchmarks.mlvu,
        Dataset("mlvu", "MLVU", (), choice, scoring.extract, "M-Avg", 16, "task"),
        benchmarks.MLVU_TASKS,
    ),
    "egoschema": Benchmark(
        benchmarks.egoschema,
        Dataset("egoschema", "EgoSchema", (), choice, scoring.egoschema, "", 16),
    ),
    "nextqa": Benchmark(
        benchmarks.nextqa,
        Dataset("nextqa", "NExT-QA", (), choice, scoring.nextqa, kind_title="type"),
    ),
}  # fmt: skip


def open_dataset(name: str, folder: Path | None, annotations: Path | None) -> Dataset:
    """A dataset on this machine, by the name of its benchmark or the path of a .jsonl file.

    A `UsageError` or `ModelError` where there is none, or the files do not fit.
    """
    if name in BENCHMARKS:
        if folder is None:
            raise UsageError(f"{name} is read from a folder", "name it with --data FOLDER")
        about = BENCHMARKS[name]
        return _benchmark(about, Folder(_checked(folder), annotations, about.dataset.title))
    if not name.endswith(_OWN_EXTENSION):
        raise UsageError(
            f"there is no dataset {printable(name)!r}{nearest(name, (SHAPES, *BENCHMARKS))}",
            f"one of {SHAPES}, {', '.join(BENCHMARKS)}, or a {_OWN_EXTENSION} file",
        )
    if annotations is not None:
        raise UsageError(f"{printable(name)} is its own annotation file", "leave --annotations out")
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"{place(path)}: no such file", "name a .jsonl file or a benchmark")
    root = path.parent if folder is None else _checked(folder)
    source = Folder(root, path, "your own")
    items = _arranged(_own_questions(source), source)
    return Dataset(
        path.stem,
        path.name,
        items,
        lambda answer, item: (choice if item.options else scoring.exact)(answer, item),
        notes=_missing(items),
    )


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "no such folder"
        raise UsageError(f"{place(folder)}: {what}", "name the benchmark's folder with --data")
    return folder


def _benchmark(about: Benchmark, source: Folder) -> Dataset:
    items = _arranged(about.read(source), source)
    notes = [*source.notes, *_missing(items)]
    there = {item.kind for item in items}
    absent = [task for task in about.tasks if task not in there]
    if absent:
        count = f"{len(about.tasks) - len(absent)} of the {len(about.tasks)} tasks are there"
        notes.append(f"{count}; absent: {', '.join(absent)}")
    wrong = sum(not item.answer for item in items)
    if wrong:
        questions = plural(wrong, "question has", "questions have")
        none = "an answer that is none of the candidates: wrong, whatever is answered"
        notes.append(f"{questions} {none}")
    return replace(about.dataset, items=items, notes=tuple(notes))


def _arranged(items: Iterable[Item], folder: Folder) -> tuple[Item, ...]:
    """The items with those of a clip one behind the other, clips in the order they first come.

    Refused are two items with one id, and a dataset of which not one clip is there.
    """
    seen: set[str] = set()
    clips: dict[ClipSource, list[Item]] = {}
    for item in items:
        if item.id in seen:
            raise UsageError(
                f"{place(folder.source)}: two questions have the id {printable(item.id)!r}",
                "each question stands in the file once",
            )
        seen.add(item.id)
        clips.setdefault(item.clip, []).append(item)
    if not any(clip.exists() for clip in clips):
        first = printable(next(iter(clips)).name)
        raise UsageError(
            f"no clip of {place(folder.source)} is there; the first was expected at {first}",
            "unpack the videos, or name their folder with --data",
        )
    return tuple(item for grouped in clips.values() for item in grouped)


def _missing(items: Sequence[Item]) -> tuple[str, ...]:
    """A line on the clips that are not there; nothing where all are."""
    clips = {item.clip: item.clip.exists() for item in items}
    missing = [clip for clip, there in clips.items() if not there]
    if not missing:
        return ()
    questions = f"{sum(not clips[one.clip] for one in items)} of {plural(len(items), 'question')}"
    gone = f"missing: {len(missing)} of {plural(len(clips), 'clip')}, and {questions} with them"
    return (f"{gone}; the first is {printable(missing[0].name)}",)


def _own_questions(folder: Folder) -> Iterator[Item]:
    """Anyone's own questions: JSON Lines of video, question and answer.

    A row may also have `options`, a list, of which `answer` is a letter or a text; `kind`; and
    `id`. Paths are relative to the folder.
    """
    for number, row in enumerate(folder.table(), 1):
        # The user's own file may name any path, as a manifest of `adatp batch` may.
        video = local_path(row.text("video"), os.fspath(folder.path))
        question = row.text("question")
        answer = row.text("answer").strip()
        options = row.texts("options") if row.cells.get("options") is not None else ()
        if options:
            question = f"{question}\n{lettered(options, '{}. {}')}\n{LETTER_CLOSING}"
            answer = letter_of(answer, options) or row.letter("answer", options)
        name = row.maybe("id") or str(number)
        yield Item(name, FileClip(video), question, answer, options, row.maybe("kind"))


@dataclass(frozen=True, slots=True)
class ShapesClip:
    """Clip `number` of evaluation set `seed`; written as an mp4 only while it is read."""

    seed: int
    number: int

    @property
    def name(self) -> str:
        return f"shapes-{self.seed}-{self.number:05d}.mp4"

    @property
    def key(self) -> str:
        return f"ShapesClip(seed={self.seed}, number={self.number})"

    def exists(self) -> bool:
        return True

    def stamp(self) -> tuple[None, None]:
        return None, None

    def read(self, reader: FrameReader, sampling: Sampling, resize: Resize) -> Frames:
        clip, seconds, _ = held_out_clip(self.seed, self.number)
        with tempfile.TemporaryDirectory(prefix="adatp-shapes-") as folder:
            path = Path(folder) / self.name
            write_mp4(path, clip, seconds)
            return reader.read(os.fspath(path), sampling, name=self.name, resize=resize)


def shapes(clips: int, seed: int) -> Dataset:
    """`clips` clips of set `seed` with up to two questions each; training saw none.

    A larger set begins with the clips of a smaller one.
    """
    items = []
    for number in range(clips):
        source = ShapesClip(seed, number)
        clip, _, rng = held_out_clip(seed, number)
        for index, asked in enumerate(draw_questions(clip, rng, _SHAPES_QUESTIONS)):
            name = f"{seed}-{number}-{index}"
            items.append(Item(name, source, asked.text, asked.answer, kind=asked.kind))
    return Dataset(
        "shapes",
        f"shapes, {plural(clips, 'clip')} of set {seed}",
        tuple(items),
        scoring.verbatim,
        max_new_tokens=48,
        kind_title="kind of question",
    )
