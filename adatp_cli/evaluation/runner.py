"""Every question of a dataset under every profile; each clip is decoded and encoded once."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from adatp_cli.answering.records import video_facts
from adatp_cli.batch.prefetch import Decoded, FramePrefetcher
from adatp_cli.batch.row_format import row_key, stamp
from adatp_cli.batch.runner import Describe, Row
from adatp_cli.errors import UsageError
from adatp_cli.evaluation.questions import ClipSource, Dataset, Item, Verdict
from adatp_cli.profiles import Profile
from adatp_cli.record import AnswerRecord, FailureRecord

if TYPE_CHECKING:
    from adatp_cli.answering.events import Clip
    from adatp_cli.answering.session import Engine
    from adatp_cli.video.frames import Frames


@dataclass(frozen=True, slots=True)
class ProfileRun:
    """A profile that answers.

    Parameters
    ----------
    name
        The profile's, which no other profile_run has.
    engine
        The model under this profile; all profile_runs share the model.
    known
        What every failure row of it holds: model, profile, versions.
    """

    name: str
    engine: Engine
    known: FailureRecord


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to one profile_run, and the key of its row."""

    item: Item
    profile_run: ProfileRun
    key: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A clip with what is to be asked about it.

    Parameters
    ----------
    clip
        Where its frames come from.
    asks
        Question by question, and each to one profile_run after the other.
    size_bytes, mtime_ns
        The file as it was when the run was planned; None where there is none.
    """

    clip: ClipSource
    asks: tuple[Ask, ...]
    size_bytes: int | None
    mtime_ns: int | None


def plan(
    dataset: Dataset, profile_runs: Sequence[ProfileRun], settings: Mapping[str, object]
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
            Ask(item, profile_run, _key(dataset, item, profile_run, (size, mtime), settings))
            for item in items
            for profile_run in profile_runs
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
    profile_run: ProfileRun,
    stamp: tuple[int | None, int | None],
    settings: Mapping[str, object],
) -> str:
    # With the clip itself: a file asked about in parts has one name, size and time for all.
    named = {
        **settings,
        "profile": profile_run.engine.profile.to_dict(),
        "dataset": dataset.name,
        "item": item.id,
        "clip": item.clip.key,
    }
    return row_key(item.clip.name, *stamp, item.prompt, named)


class EvalRunner:
    """Asks every question of every profile_run.

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
        with FramePrefetcher(pending, lambda item: self._read(item.clip)) as ahead:
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
            clip = clips[ask.profile_run.name]
            if isinstance(clip, Exception):
                yield ask, self._failed(pending, ask, clip, frames)
                continue
            try:
                record = _answer(ask.profile_run.engine, clip, ask.item.prompt)
            except Exception as error:
                yield ask, self._failed(pending, ask, error, frames)
            else:
                facts = self._facts(ask.item, record.answer)
                yield ask, Row(_data(record, pending, ask.key, facts), None)

    def _failed(self, pending: Pending, ask: Ask, error: Exception, frames: Frames | None) -> Row:
        info = self._describe(error)
        record = dataclasses.replace(
            ask.profile_run.known,
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
    """The clip for each profile_run by its name, or what keeps that one from answering.

    It is encoded once, with whatever any of them wants to know of it.
    """
    profile_runs = {ask.profile_run.name: ask.profile_run for ask in pending.asks}
    found: dict[str, Clip | Exception] = {}
    for name, profile_run in profile_runs.items():
        try:
            prompts = {ask.item.prompt for ask in pending.asks}
            profile_run.engine.check_questions(len(frames), prompts, skip_unaskable=True)
        except Exception as error:
            found[name] = error
    able = [profile_run for name, profile_run in profile_runs.items() if name not in found]
    if not able:
        return found
    try:
        return found | encode_for(able, pending.clip.name, frames, seconds)
    except Exception as error:
        return found | dict.fromkeys((profile_run.name for profile_run in able), error)


def encode_for(
    profile_runs: Sequence[ProfileRun], name: str, frames: Frames, decode_s: float
) -> dict[str, Clip]:
    """The clip for each profile by name, encoded once with whatever any of them wants of it.

    Profiles that differ in which frames they encode get an encoding of their own.

    Raises
    ------
    MemoryLimitError
        The memory ran out.
    """
    found: dict[str, Clip] = {}
    for reuse in dict.fromkeys(one.engine.profile.reuse_frames for one in profile_runs):
        alike = [one for one in profile_runs if one.engine.profile.reuse_frames == reuse]
        found |= _encode_alike(alike, name, frames, decode_s)
    return found


def _encode_alike(
    profile_runs: Sequence[ProfileRun], name: str, frames: Frames, decode_s: float
) -> dict[str, Clip]:
    engines = [profile_run.engine for profile_run in profile_runs]
    wanted = functools.reduce(operator.or_, (engine.needs for engine in engines))
    # An engine that needs the relevance encoder has it; the others need not.
    first = next((engine for engine in engines if engine.needs.encoder), engines[0])
    clip = first.encode(name, frames, decode_s, needs=wanted)
    return {profile_run.name: _as_alone(clip, profile_run.engine) for profile_run in profile_runs}


def _as_alone(clip: Clip, engine: Engine) -> Clip:
    """The clip as an engine that uses no relevance encoder would have got it, its seconds too."""
    if engine.needs.encoder:
        return clip
    encoded = dataclasses.replace(
        clip.encoded, frame_vectors=None, probe_attention=None, relevance_s=0.0
    )
    return dataclasses.replace(clip, encoded=encoded)


def _answer(engine: Engine, clip: Clip, prompt: str) -> AnswerRecord:
    from adatp_cli.answering.events import Answered

    for event in engine.answer(clip, prompt, stream=False):
        if isinstance(event, Answered):
            return event.record
    raise RuntimeError("the engine ended without an answer")


def _data(
    record: AnswerRecord | FailureRecord, pending: Pending, key: str, facts: dict[str, Any]
) -> dict[str, Any]:
    batch = stamp(key, pending.size_bytes, pending.mtime_ns)
    return {**record.to_dict(), "batch": batch, "eval": facts}


@dataclass(frozen=True, slots=True)
class ProfileSpec:
    """One profile at one budget.

    Parameters
    ----------
    profile
        As it runs; its name tells the budget where it runs at several.
    family
        The name that it has at every budget.
    """

    profile: Profile
    family: str


def line_up(profiles: Sequence[Profile], budgets: Sequence[float]) -> list[ProfileSpec]:
    """Every profile, those that prune once for each budget.

    Parameters
    ----------
    budgets
        Shares of the unpruned cost; none leaves every profile at its own.

    Raises
    ------
    UsageError
        A budget is none, or stands there twice.
    """
    if len(set(budgets)) < len(budgets):
        raise UsageError("a budget is given twice", "name each once")
    places = []
    for profile in profiles:
        if profile.method == "vanilla" or not budgets:
            places.append(ProfileSpec(profile, profile.name))
            continue
        for budget in budgets:
            name = f"{profile.name}@{budget:g}"
            at = dataclasses.replace(profile.with_budget(budget), name=name)
            places.append(ProfileSpec(at, profile.name))
    return places


def opponents(places: Iterable[ProfileSpec], family: str) -> dict[str, str]:
    """For each place by name, the one of `family` at the same budget, where there is one.

    Without budgets of their own, all are set against the one place of the family.
    """
    listed = list(places)
    theirs = [place.profile for place in listed if place.family == family]
    by_budget = {profile.budget: profile.name for profile in theirs}
    several = len(theirs) > 1
    found = {}
    for place in listed:
        profile = place.profile
        if place.family == family or profile.method == "vanilla":
            continue
        rival = by_budget.get(profile.budget) if several else next(iter(by_budget.values()), None)
        if rival is not None:
            found[profile.name] = rival
    return found
