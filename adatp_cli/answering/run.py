"""The one run loop: clips x profiles x questions in, a row for each question out.

`ask`, `batch`, `eval`, `bias`, `bench` and `show` differ in where clips come from and where rows
go; what happens to a clip in between, and to one that fails, is here.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adatp_cli.answering.clips import ClipStore, clip_key
from adatp_cli.answering.events import (
    Answered,
    ClipReady,
    PrefillChosen,
    Stage,
    TextChunk,
    TurnsLeftOut,
)
from adatp_cli.answering.generate import SharedPrefix
from adatp_cli.answering.records import video_facts
from adatp_cli.answering.tasks import Ask, ClipTask, Decoded, FileClip, ProfileRun
from adatp_cli.errors import AdatpError
from adatp_cli.record import AnswerRecord, ErrorInfo, FailureRecord
from adatp_cli.text import printable

if TYPE_CHECKING:
    from adatp_cli.answering.decoding import PrefillMode
    from adatp_cli.answering.events import Clip
    from adatp_cli.answering.session import Session
    from adatp_cli.model.prompt import Message
    from adatp_cli.video.frames import FrameReader, Frames
    from adatp_cli.video.sampling import Sampling
    from adatp_cli.video.source import Source

Describe = Callable[[BaseException], ErrorInfo]


def error_info(error: BaseException) -> ErrorInfo:
    """What a row tells of an error of ours."""
    if isinstance(error, AdatpError):
        return ErrorInfo(error.kind, error.message, error.hint)
    return ErrorInfo("unexpected", f"{type(error).__name__}: {error}", "")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """The end of one question: `answered`, or the `error` that kept it from an answer.

    `notes` is what to tell of the clip, a line each, with its first answer.
    """

    ask: Ask
    task: ClipTask
    record: AnswerRecord | FailureRecord
    answered: Answered | None = None
    error: Exception | None = None
    notes: tuple[str, ...] = ()

    @property
    def error_info(self) -> ErrorInfo | None:
        """What the row tells of its error."""
        return self.record.error if isinstance(self.record, FailureRecord) else None


@dataclass(frozen=True, slots=True)
class RunLoop:
    """How a run's questions are answered."""

    describe: Describe = error_info  # what a row tells of an exception
    share: bool = False  # questions about one clip share a prefill where nothing is pruned
    stream: bool = False  # give out pieces of text as they are generated
    around: Callable[[], AbstractContextManager[object]] = nullcontext  # entered for each answer

    def rows(self, decoded: Iterable[Decoded[ClipTask]], stop: Callable[[], bool]) -> Iterator[Row]:
        """The rows of many clips in their order, each as soon as it is known.

        `stop` is asked before each row; the run ends without that row when it says so.
        """
        for one in decoded:
            task, frames = one.item, one.frames
            clips = _encoded(task, frames, one.seconds)
            readable = None if isinstance(frames, Exception) else frames
            for event in self.answers(task, clips, readable):
                if isinstance(event, Row):
                    yield event
                    if stop():
                        return

    def clip(
        self,
        run: ProfileRun,
        source: str | os.PathLike[str] | bytes | Source,
        questions: Sequence[str],
        sampling: Sampling,
        *,
        reader: FrameReader,
        video_name: str,
        prefill: PrefillMode = "cheaper",
        history: tuple[Message, ...] = (),
        store: ClipStore | None = None,
    ) -> Generator[Stage | ClipReady | PrefillChosen | TurnsLeftOut | TextChunk | Row]:
        """Ask one clip everything; it is encoded while it is decoded.

        A clip that is in the `store` is neither decoded nor encoded again, and its records tell the
        seconds of their question alone.

        Where questions share an unpruned prefill, rows and traces are those of the profile
        `vanilla`.

        Raises
        ------
        VideoError, UsageError, ModelError, MemoryLimitError
            What keeps the clip from every answer.
        """
        session, chosen = run.session, None

        def choose(frames: int) -> Session:
            nonlocal session, chosen
            session, chosen = run.session.choose(frames, questions, prefill)
            return session

        key = None if store is None else clip_key(source, sampling, run.session)
        warm = None if store is None or key is None else store.get(key)
        if warm is None:
            clip = yield from run.session.open(
                source, questions, sampling, reader=reader, video_name=video_name, choose=choose
            )
            # Not where the file was replaced meanwhile.
            same = isinstance(source, bytes) or key == clip_key(source, sampling, run.session)
            if store is not None and key is not None and same:
                store.put(key, clip)
        else:
            clip = dataclasses.replace(warm, name=video_name)
            choose(len(clip.frames)).plan.check_questions(len(clip.frames), questions)
            notes = clip.frames.notes + run.session.remarks(clip.frames)
            yield ClipReady(video_facts(clip.frames), notes)
        if chosen is not None:
            yield chosen
        context = dataclasses.replace(run.context, profile=session.profile.to_dict())
        asked = dataclasses.replace(run, session=session, context=context)
        if history:
            longest = max(questions, key=len)
            kept = session.plan.fitting(longest, len(clip.frames), history)
            if len(kept) < len(history):
                yield TurnsLeftOut(len(history) - len(kept))
            history = kept
        asks = tuple(Ask(text, asked, history=history) for text in questions)
        task = ClipTask(FileClip(video_name), asks)
        for event in self.answers(task, {run.name: clip}, clip.frames):
            if warm is not None and isinstance(event, Row) and event.answered is not None:
                record = dataclasses.replace(event.answered.record, seconds=event.answered.own)
                answered = dataclasses.replace(event.answered, record=record)
                yield dataclasses.replace(event, record=record, answered=answered)
            else:
                yield event

    def answers(
        self, task: ClipTask, clips: Mapping[str, Clip | Exception], frames: Frames | None
    ) -> Generator[Stage | TextChunk | Row]:
        """Ask everything about one clip, which each profile got encoded or as its error."""
        notes: tuple[str, ...] | None = None
        info = None if frames is None else video_facts(frames)
        sharing = self.share and len(task.asks) > 1
        prefixes = {ask.run.name: SharedPrefix() for ask in task.asks} if sharing else {}
        for index, ask in enumerate(task.asks):
            session, clip = ask.run.session, clips[ask.run.name]
            shared = prefixes.get(ask.run.name)
            try:
                if isinstance(clip, Exception):
                    raise clip
                events = session.answer(
                    clip, ask.text, index, history=ask.history, stream=self.stream, shared=shared
                )
                # Closed at once when the reader goes away: that stops the thread that generates.
                with self.around(), closing(events):
                    for event in events:
                        if isinstance(event, Answered):
                            answered = event
                        else:
                            yield event
            except Exception as error:
                known = dataclasses.replace(ask.run.context, video=task.clip.name, video_info=info)
                record = known.failure(ask.text, self.describe(error))
                yield Row(ask, task, record, error=error)
                continue
            if notes is None and frames is not None:
                notes = _notes(task.clip.name, frames, session)
            yield Row(ask, task, answered.record, answered, None, notes or ())
            notes = ()


def _notes(name: str, frames: Frames, session: Session) -> tuple[str, ...]:
    """Of what is known about a clip, what a reader of thousands of rows should know."""
    if not frames.info.frames_lost:
        return session.remarks(frames)
    return (f"{printable(name)}: {'; '.join(frames.notes)}", *session.remarks(frames))


def _encoded(
    task: ClipTask, frames: Frames | Exception, decode_s: float
) -> Mapping[str, Clip | Exception]:
    """The clip for each profile by name, or what keeps that one from answering."""
    runs = {ask.run.name: ask.run for ask in task.asks}
    if isinstance(frames, Exception):
        return dict.fromkeys(runs, frames)
    found: dict[str, Clip | Exception] = {}
    questions = {ask.text for ask in task.asks}
    for name, run in runs.items():
        try:
            run.session.plan.check_questions(len(frames), questions, skip_unaskable=True)
        except Exception as error:
            found[name] = error
    able = [run for name, run in runs.items() if name not in found]
    if not able:
        return found
    try:
        return found | encode_for(able, task.clip.name, frames, decode_s)
    except Exception as error:
        return found | dict.fromkeys((run.name for run in able), error)


def encode_for(
    runs: Sequence[ProfileRun], name: str, frames: Frames, decode_s: float
) -> dict[str, Clip]:
    """The clip for each profile by name, encoded once with whatever any of them wants of it.

    Profiles that differ in which frames they encode get an encoding of their own.
    """
    found: dict[str, Clip] = {}
    for reuse in dict.fromkeys(run.session.profile.reuse_frames for run in runs):
        alike = [run for run in runs if run.session.profile.reuse_frames == reuse]
        needs = functools.reduce(operator.or_, (run.session.plan.needs for run in alike))
        # A session that needs the relevance encoder has it; the others need not.
        first = next((run for run in alike if run.session.plan.needs.encoder), alike[0])
        clip = first.session.encode(name, frames, decode_s, needs=needs)
        found |= {run.name: _as_alone(clip, run.session) for run in alike}
    return found


def _as_alone(clip: Clip, session: Session) -> Clip:
    """The clip as a session that uses no relevance encoder would have got it, its seconds too."""
    if session.plan.needs.encoder:
        return clip
    encoded = dataclasses.replace(
        clip.encoded, frame_vectors=None, probe_attention=None, relevance_s=0.0
    )
    return dataclasses.replace(clip, encoded=encoded)
