"""Every question of a dataset under every profile; each clip is decoded and encoded once."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from adatp_cli.account import video_facts
from adatp_cli.batch.ahead import DecodeAhead, Decoded
from adatp_cli.batch.rows import row_key, stamp
from adatp_cli.batch.runner import Describe, Row
from adatp_cli.evaluation.items import ClipSource, Dataset, Item
from adatp_cli.evaluation.scoring import Verdict
from adatp_cli.record import AnswerRecord, FailureRecord

if TYPE_CHECKING:
    from adatp_cli.engine import Engine
    from adatp_cli.events import Clip
    from adatp_cli.video.frames import Frames


@dataclass(frozen=True, slots=True)
class Contender:
    """A profile that answers.

    Parameters
    ----------
    name
        The profile's, which no other contender has.
    engine
        The model under this profile; all contenders share the model.
    known
        What every failure row of it holds: model, profile, versions.
    """

    name: str
    engine: Engine
    known: FailureRecord


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to one contender, and the key of its row."""

    item: Item
    contender: Contender
    key: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A clip with what is to be asked about it.

    Parameters
    ----------
    clip
        Where its frames come from.
    asks
        Question by question, and each to one contender after the other.
    size_bytes, mtime_ns
        The file as it was when the run was planned; None where there is none.
    """

    clip: ClipSource
    asks: tuple[Ask, ...]
    size_bytes: int | None
    mtime_ns: int | None


def plan(
    dataset: Dataset, contenders: Sequence[Contender], settings: Mapping[str, object]
) -> list[Pending]:
    """Every clip with its questions.

    Parameters
    ----------
    settings
        Whatever decides an answer beside file, question and profile: model, frames, generation.
    """
    planned = []
    for clip, items in groupby(dataset.items, key=lambda item: item.clip):
        size, mtime = clip.stamp()
        asks = tuple(
            Ask(item, contender, _key(dataset, item, contender, (size, mtime), settings))
            for item in items
            for contender in contenders
        )
        planned.append(Pending(clip, asks, size, mtime))
    return planned


def without(planned: Sequence[Pending], done: Mapping[str, bool]) -> list[Pending]:
    """What is left of a plan when the rows with the keys of `done` exist."""
    left = []
    for pending in planned:
        asks = tuple(ask for ask in pending.asks if ask.key not in done)
        if asks:
            left.append(dataclasses.replace(pending, asks=asks))
    return left


def _key(
    dataset: Dataset,
    item: Item,
    contender: Contender,
    stamp: tuple[int | None, int | None],
    settings: Mapping[str, object],
) -> str:
    # With the clip itself: a file asked about in parts has one name, size and time for all.
    named = {
        **settings,
        "profile": contender.engine.profile.to_dict(),
        "dataset": dataset.name,
        "item": item.id,
        "clip": repr(item.clip),
    }
    return row_key(item.clip.name, *stamp, item.prompt, named)


class EvalRunner:
    """Asks every question of every contender.

    Parameters
    ----------
    dataset
        The questions, and how answers are judged.
    read
        Gives a clip's frames.
    describe
        Turns an exception into what a row tells of it.
    """

    def __init__(
        self, dataset: Dataset, read: Callable[[ClipSource], Frames], describe: Describe
    ) -> None:
        self._dataset = dataset
        self._read = read
        self._describe = describe

    def run(
        self, pending: Sequence[Pending], stop: Callable[[], bool]
    ) -> Iterator[tuple[Ask, Row]]:
        """The rows, in the order of the plan, each as soon as it is known.

        Parameters
        ----------
        stop
            Asked before each row; the run ends without that row when it says so.
        """
        with DecodeAhead(pending, lambda item: self._read(item.clip)) as ahead:
            for decoded in ahead.results(stop):
                for row in self._rows(decoded):
                    yield row
                    if stop():
                        return

    def _rows(self, decoded: Decoded[Pending]) -> Iterator[tuple[Ask, Row]]:
        pending, frames = decoded.item, decoded.frames
        if isinstance(frames, Exception):
            for ask in pending.asks:
                yield ask, self._failed(pending, ask, frames, None)
            return
        clips = encode_pending(pending, frames, decoded.seconds)
        for ask in pending.asks:
            clip = clips[ask.contender.name]
            if isinstance(clip, Exception):
                yield ask, self._failed(pending, ask, clip, frames)
                continue
            try:
                record = _answer(ask.contender.engine, clip, ask.item.prompt)
            except Exception as error:
                yield ask, self._failed(pending, ask, error, frames)
            else:
                facts = self._facts(ask.item, record.answer)
                yield ask, Row(_data(record, pending, ask.key, facts), None)

    def _failed(self, pending: Pending, ask: Ask, error: Exception, frames: Frames | None) -> Row:
        info = self._describe(error)
        record = dataclasses.replace(
            ask.contender.known,
            video=pending.clip.name,
            question=ask.item.prompt,
            error=info,
            video_info=None if frames is None else video_facts(frames),
        )
        return Row(_data(record, pending, ask.key, self._facts(ask.item, None)), info)

    def _facts(self, item: Item, answer: str | None) -> dict[str, Any]:
        """The row's object `eval`: which question this is, and what the answer came to."""
        scoring = self._dataset.scoring
        strict = None if answer is None else scoring.strict(answer, item)
        harness = None
        if answer is not None and scoring.harness is not None:
            harness = _told(scoring.harness(answer, item))
        return {
            "dataset": self._dataset.name,
            "item": item.id,
            "kind": item.kind,
            "groups": dict(item.groups) or None,
            "truth": item.answer,
            **_told(strict),
            "harness": harness,
        }


def _told(verdict: Verdict | None) -> dict[str, Any]:
    return {name: getattr(verdict, name, None) for name in ("choice", "parsed", "right", "counted")}


def encode_pending(pending: Pending, frames: Frames, seconds: float) -> dict[str, Clip | Exception]:
    """The clip for each contender by its name, or what keeps that one from answering.

    It is encoded once, with whatever any of them wants to know of it.
    """
    contenders = {ask.contender.name: ask.contender for ask in pending.asks}
    found: dict[str, Clip | Exception] = {}
    for name, contender in contenders.items():
        try:
            prompts = {ask.item.prompt for ask in pending.asks}
            contender.engine.check_questions(len(frames), prompts, skip_unaskable=True)
        except Exception as error:
            found[name] = error
    able = [contender for name, contender in contenders.items() if name not in found]
    if not able:
        return found
    try:
        return found | encode_for(able, pending.clip.name, frames, seconds)
    except Exception as error:
        return found | dict.fromkeys((contender.name for contender in able), error)


def encode_for(
    contenders: Sequence[Contender], name: str, frames: Frames, decode_s: float
) -> dict[str, Clip]:
    """The clip for each contender by its name, encoded once with whatever any of them wants of it.

    Profiles that differ in which frames they encode get an encoding of their own.

    Raises
    ------
    MemoryLimitError
        The memory ran out.
    """
    found: dict[str, Clip] = {}
    for reuse in dict.fromkeys(one.engine.profile.reuse_frames for one in contenders):
        alike = [one for one in contenders if one.engine.profile.reuse_frames == reuse]
        found |= _encode_alike(alike, name, frames, decode_s)
    return found


def _encode_alike(
    contenders: Sequence[Contender], name: str, frames: Frames, decode_s: float
) -> dict[str, Clip]:
    engines = [contender.engine for contender in contenders]
    wanted = functools.reduce(operator.or_, (engine.needs for engine in engines))
    # An engine that needs the relevance encoder has it; the others need not.
    first = next((engine for engine in engines if engine.needs.encoder), engines[0])
    clip = first.encode(name, frames, decode_s, needs=wanted)
    return {contender.name: _as_alone(clip, contender.engine) for contender in contenders}


def _as_alone(clip: Clip, engine: Engine) -> Clip:
    """The clip as an engine that uses no relevance encoder would have got it, its seconds too."""
    if engine.needs.encoder:
        return clip
    encoded = dataclasses.replace(
        clip.encoded, frame_vectors=None, probe_attention=None, relevance_s=0.0
    )
    return dataclasses.replace(clip, encoded=encoded)


def _answer(engine: Engine, clip: Clip, prompt: str) -> AnswerRecord:
    from adatp_cli.events import Answered

    for event in engine.answer(clip, prompt, stream=False):
        if isinstance(event, Answered):
            return event.record
    raise RuntimeError("the engine ended without an answer")


def _data(
    record: AnswerRecord | FailureRecord, pending: Pending, key: str, facts: dict[str, Any]
) -> dict[str, Any]:
    batch = stamp(key, pending.size_bytes, pending.mtime_ns)
    return {**record.to_dict(), "batch": batch, "eval": facts}
