"""Many clips through one engine: a row for every question, whatever happens to a clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adatp_cli.answering.generate import SharedPrefix
from adatp_cli.answering.records import video_facts
from adatp_cli.batch.inputs import ClipJob
from adatp_cli.batch.prefetch import Decoded, FramePrefetcher, Throughput
from adatp_cli.batch.row_format import file_stamp, row_key, stamp
from adatp_cli.record import AnswerRecord, ErrorInfo, FailureRecord
from adatp_cli.video.source import printable

if TYPE_CHECKING:
    from adatp_cli.answering.events import Clip
    from adatp_cli.answering.session import Engine
    from adatp_cli.video.frames import Frames

Describe = Callable[[BaseException], ErrorInfo]


@dataclass(frozen=True, slots=True)
class Pending:
    """A clip with the questions that have no row yet.

    Parameters
    ----------
    job
        The clip and everything that is asked about it.
    questions
        Each with its row's key.
    size_bytes, mtime_ns
        The file as it was when the run was planned; None where it cannot be looked at.
    """

    job: ClipJob
    questions: tuple[tuple[str, str], ...]
    size_bytes: int | None
    mtime_ns: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the results: the record with its `batch` object, and what a summary counts.

    `notes` is what to tell of the clip, a line each, with its first row.
    """

    data: dict[str, Any]
    error: ErrorInfo | None
    notes: tuple[str, ...] = ()


def plan(jobs: Sequence[ClipJob], settings: Mapping[str, object]) -> list[Pending]:
    """Every clip with the keys of its rows.

    Parameters
    ----------
    jobs
        Clips and questions.
    settings
        Whatever else decides an answer: the resolved profile, the model, which frames.
    """
    planned: list[Pending] = []
    for job in jobs:
        size, mtime = file_stamp(job.path)
        keyed = tuple(
            (question, row_key(job.path, size, mtime, question, settings))
            for question in job.questions
        )
        planned.append(Pending(job, keyed, size, mtime))
    return planned


def without(planned: Sequence[Pending], done: Mapping[str, bool]) -> list[Pending]:
    """What is left of a plan when the rows with the keys of `done` exist."""
    left: list[Pending] = []
    for item in planned:
        questions = tuple(row for row in item.questions if row[1] not in done)
        if questions:
            left.append(dataclasses.replace(item, questions=questions))
    return left


class BatchRunner:
    """Answers every question of every clip.

    Parameters
    ----------
    engine
        Model and profile.
    reads
        Each gives the frames of a file, in a thread of its own; one or more.
    describe
        Turns an exception into what a row tells of it.
    known
        What every failure row holds: model, profile, versions.
    ahead
        Decode the next clips meanwhile; without it, one clip after the other.

    `throughput` tells where the last run's time went.
    """

    def __init__(
        self,
        engine: Engine,
        reads: Sequence[Callable[[str], Frames]],
        describe: Describe,
        known: FailureRecord,
        *,
        ahead: bool = True,
    ) -> None:
        self.throughput = Throughput()
        self._engine = engine
        self._reads = tuple(map(_of_pending, reads))
        self._describe = describe
        self._known = known
        self._ahead = ahead

    def run(self, pending: Sequence[Pending], stop: Callable[[], bool]) -> Iterator[Row]:
        """The rows, in the order of the plan, each as soon as it is known.

        Parameters
        ----------
        pending
            What to answer. A clip is decoded and encoded once for all of its questions.
        stop
            Asked before each row; the run ends without that row when it says so.
        """
        with FramePrefetcher(pending, *self._reads, ahead=self._ahead) as ahead:
            self.throughput = ahead.throughput
            for decoded in ahead.results(stop):
                for row in self._rows(decoded):
                    yield row
                    if stop():
                        return

    def _rows(self, decoded: Decoded[Pending]) -> Iterator[Row]:
        item, frames = decoded.item, decoded.frames
        known = dataclasses.replace(self._known, video=item.job.path)
        if isinstance(frames, Exception):
            for question, key in item.questions:
                yield self._failed(item, known, question, key, frames)
            return
        known = dataclasses.replace(known, video_info=video_facts(frames))
        clip: Clip | Exception
        try:
            clip = self._encoded(item, frames, decoded.seconds)
        except Exception as error:
            clip = error
        shared = SharedPrefix() if len(item.questions) > 1 else None
        notes = self._notes(item.job.path, frames)
        for question, key in item.questions:
            if isinstance(clip, Exception):
                yield self._failed(item, known, question, key, clip)
                continue
            try:
                record = self._answer(clip, question, shared)
            except Exception as error:
                yield self._failed(item, known, question, key, error)
            else:
                yield Row(self._data(record, item, key), None, notes)
                notes = ()

    def _encoded(self, item: Pending, frames: Frames, seconds: float) -> Clip:
        questions = (question for question, _ in item.questions)
        self._engine.check_questions(len(frames), questions, skip_unaskable=True)
        return self._engine.encode(item.job.path, frames, seconds)

    def _notes(self, path: str, frames: Frames) -> tuple[str, ...]:
        """Of what is known about a clip, what a reader of thousands of rows should know."""
        if not frames.info.frames_lost:
            return self._engine.remarks(frames)
        lost = f"{printable(path)}: {'; '.join(frames.notes)}"
        return (lost, *self._engine.remarks(frames))

    def _answer(self, clip: Clip, question: str, shared: SharedPrefix | None) -> AnswerRecord:
        from adatp_cli.answering.events import Answered

        for event in self._engine.answer(clip, question, stream=False, shared=shared):
            if isinstance(event, Answered):
                return event.record
        raise RuntimeError("the engine ended without an answer")

    def _failed(
        self, item: Pending, known: FailureRecord, question: str, key: str, error: Exception
    ) -> Row:
        info = self._describe(error)
        record = dataclasses.replace(known, question=question, error=info)
        return Row(self._data(record, item, key), info)

    def _data(
        self, record: AnswerRecord | FailureRecord, item: Pending, key: str
    ) -> dict[str, Any]:
        return {**record.to_dict(), "batch": stamp(key, item.size_bytes, item.mtime_ns)}


def _of_pending(read: Callable[[str], Frames]) -> Callable[[Pending], Frames]:
    return lambda item: read(item.job.path)
