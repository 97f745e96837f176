"""Contenders run in turns over the same frames, so that other work disturbs all of them alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from adatp_cli.answering.events import Answered, Clip
from adatp_cli.answering.run import Row, RunLoop
from adatp_cli.answering.tasks import Ask, ClipTask, FileClip, ProfileRun
from adatp_cli.bench.baseline import Peak, PeakWatch, PlainTransformers
from adatp_cli.bench.results import PLAIN, Measuring, NotMeasured, Sample
from adatp_cli.bench.synthetic import noise_encoding
from adatp_cli.errors import MemoryLimitError, UsageError
from adatp_cli.model.device import DTYPE_BYTES, is_cuda
from adatp_cli.model.memory import memory_errors
from adatp_cli.pruning.method import SignalNeeds

if TYPE_CHECKING:
    from adatp_cli.answering.plan import Plan
    from adatp_cli.answering.session import Session
    from adatp_cli.model.load import LoadedModel
    from adatp_cli.video.frames import FrameReader, Frames, VideoInfo
    from adatp_cli.video.sampling import Sampling

_T = TypeVar("_T")
Event = Measuring | NotMeasured | Sample

# A GPU's libraries choose their ways by the shapes that they see, so there a run of full size comes
# first; on a CPU a short one loads all that will be needed (our choice).
WARM_UP_FRAMES = 2


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is measured."""

    frames: tuple[int, ...]  # numbers of frames, one after the other
    questions: tuple[str, ...]  # asked one after the other about the encoded clip; at least one
    repeat: int  # rounds that count, each with every contender in it
    new_tokens: int  # of every answer
    sampling: Sampling  # which part of the clip; its number of frames is replaced
    # Whether the tower runs. Without it the language model gets noise in place of visual tokens,
    # and only what begins there is measured.
    vision: bool = True


class Bench:
    """Measures profiles, by sessions on `loaded` that give answers of `plan.new_tokens`.

    `source` is the clip, and `name` what errors call it. After `run`, `video` is what the clip is,
    and `text_tokens` those of the first prompt, the newline among them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        runs: Sequence[ProfileRun],
        plan: BenchPlan,
        reader: FrameReader,
        source: str | os.PathLike[str],
        name: str,
    ) -> None:
        self._loaded = loaded
        self._runs = {run.name: run for run in runs}
        self._shared = runs[0].session.plan  # for what is the same for all profiles
        self._plan = plan
        self._reader = reader
        self._source = source
        self._name = name
        self._plain = PlainTransformers(loaded, plan.new_tokens)
        self._watch = PeakWatch(loaded.device)
        self.memory_method = self._watch.method
        self.video: VideoInfo | None = None
        self.text_tokens = 0

    def run(self) -> Iterator[Event]:
        """Measure, and give each sample out the moment it is there.

        A `VideoError` where the clip cannot be read; a `UsageError` where it has fewer frames than
        are wanted, or the model can read none of the prompts.
        """
        refused = unreadable_frames(self._shared, self._plan.questions, self._plan.frames)
        for count, reason in refused.items():
            for name in (PLAIN, *self._runs):
                yield NotMeasured(name, count, reason)
        settings = self._loaded.model.generation_config
        before, settings.eos_token_id = settings.eos_token_id, None  # answers end by their length
        try:
            for count in self._plan.frames:
                if count not in refused:
                    yield from self._at(count)
        finally:
            settings.eos_token_id = before

    def _at(self, count: int) -> Iterator[Event]:
        running: list[str] = []
        for name in (PLAIN, *self._runs):
            try:
                self._check_memory(name, count)
                running.append(name)
            except (MemoryLimitError, UsageError) as error:
                yield NotMeasured(name, count, error.message)
        for turn in range(self._plan.repeat + 1):
            small = turn == 0 and not is_cuda(self._loaded.device)
            frames, decode_s = self._decode(min(count, WARM_UP_FRAMES) if small else count)
            for event in self._round(frames, decode_s, running, turn):
                if isinstance(event, NotMeasured):
                    running.remove(event.contender)
                    event = replace(event, frames=count)
                if turn > 0 or not isinstance(event, Sample):
                    yield event

    def _check_memory(self, name: str, count: int) -> None:
        """Refuse a contender that cannot be run at so many frames, if that is known."""
        text_tokens = self._shared.prompt(self._plan.questions[0], count).text_tokens
        self.text_tokens = text_tokens + 1
        if name == PLAIN:
            self._plain.check_memory(count, self.text_tokens, vision=self._plan.vision)
        else:
            self._runs[name].session.plan.check_memory(count, text_tokens)

    def _decode(self, count: int) -> tuple[Frames, float]:
        sampling = replace(self._plan.sampling, frames=count)
        resize = self._shared.resize
        started = time.perf_counter()
        frames = self._reader.read(self._source, sampling, name=self._name, resize=resize)
        decode_s = time.perf_counter() - started
        if len(frames) < count:
            raise UsageError(
                f"{self._name}: {count} frames are wanted, and it has {len(frames)}",
                "give a longer clip, or fewer --frames",
            )
        self.video = frames.info
        return frames, decode_s

    def _round(
        self, frames: Frames, decode_s: float, running: Sequence[str], turn: int
    ) -> Iterator[Event]:
        """Every contender once, beginning with another one each time."""

        def wanted_of_a_clip(name: str) -> str:
            session = self._runs[name].session
            return repr((session.plan.needs, session.profile.reuse_frames))

        # Profiles that want the same of a clip share its encoding, as the vision part is the same.
        profiles = sorted((name for name in running if name != PLAIN), key=wanted_of_a_clip)
        units = [list(same) for _, same in groupby(profiles, key=wanted_of_a_clip)]
        if PLAIN in running:
            units.insert(0, [PLAIN])
        for unit in _turned(units, turn):
            if unit == [PLAIN]:
                yield Measuring(PLAIN, len(frames), turn)
                yield self._run_plain(frames, decode_s)
            else:
                yield from self._run_profiles(_turned(unit, turn), frames, decode_s, turn)

    def _run_plain(self, frames: Frames, decode_s: float) -> Sample | NotMeasured:
        prompt = self._shared.prompt(self._plan.questions[0], len(frames))
        try:
            with memory_errors("running plain transformers"):
                if self._plan.vision:
                    return self._plain.run(frames, decode_s, prompt, self._watch)
                visual = noise_encoding(self._loaded, len(frames), SignalNeeds()).visual
                return self._plain.run_language_model(visual, prompt, self._watch)
        except MemoryLimitError as error:
            return NotMeasured(PLAIN, len(frames), error.message)

    def _run_profiles(
        self, names: Sequence[str], frames: Frames, decode_s: float, turn: int
    ) -> Iterator[Event]:
        yield Measuring(names[0], len(frames), turn)
        try:
            with self._watch.watch() as encoding:
                clip = self._open(self._runs[names[0]].session, frames, decode_s)
        except MemoryLimitError as error:
            for name in names:
                yield NotMeasured(name, len(frames), error.message)
            return
        for name in names:
            yield Measuring(name, len(frames), turn)
            try:
                yield self._answer(self._runs[name], clip, encoding)
            except MemoryLimitError as error:
                yield NotMeasured(name, len(frames), error.message)

    def _open(self, session: Session, frames: Frames, decode_s: float) -> Clip:
        """The clip as `ask` opens it, from the file on: decoding runs beside the tower."""
        if not self._plan.vision:
            encoded = noise_encoding(self._loaded, len(frames), session.plan.needs)
            return Clip(self._name, frames, encoded, decode_s, None)
        events = session.open(
            self._source,
            self._plan.questions,
            replace(self._plan.sampling, frames=len(frames)),
            reader=self._reader,
            video_name=self._name,
        )
        while True:
            try:
                next(events)
            except StopIteration as end:
                clip: Clip = end.value
                return clip

    def _answer(self, run: ProfileRun, clip: Clip, encoding: Peak) -> Sample:
        first_question, *further = self._plan.questions
        with self._watch.watch() as answering:
            (first,) = _answered(run, clip, [first_question])
        later = _answered(run, clip, further)
        record = first.record
        taken = record.seconds
        seconds = asdict(taken) | {
            "choosing": first.selection_s,
            "total": taken.first_token + taken.generate,  # loading is no stage of an answer
        }
        if later:
            # A record tells the time as if its question were the only one.
            encoded_s = clip.decode_s + clip.encoded.vision_s + clip.encoded.relevance_s
            seconds["next_first_token"] = (
                statistics.median(one.record.seconds.first_token for one in later) - encoded_s
            )
        peaks = [peak for peak in (encoding.most, answering.most) if peak is not None]
        most = max(peaks) - encoding.before if peaks and encoding.before is not None else None
        if not self._plan.vision:
            stages = ("relevance", "prefill", "choosing", "generate")
            seconds = {stage: seconds[stage] for stage in stages}
            seconds["total"] = taken.relevance + taken.prefill + taken.generate
            most = answering.above
        # From the lengths measured after the prefill; each layer grows by every generated token but
        # the last, which is never fed back.
        tokens, shape = record.tokens, self._loaded.shape.language
        behind = tokens.text + tokens.generated - 1
        held = sum(kept + behind for kept in tokens.kept_per_layer)
        per_token = 2 * shape.kv_heads * shape.head_dim * DTYPE_BYTES[self._loaded.dtype]
        return Sample(
            contender=run.name,
            frames=len(clip.frames),
            seconds=seconds,
            tokens=tokens,
            flops=record.flops,
            peak_bytes=most,
            cache_bytes=held * per_token,
        )


def unreadable_frames(
    plan: Plan, questions: Sequence[str], counts: Sequence[int]
) -> dict[int, str]:
    """The numbers of frames whose prompts the model cannot read, and why; an error if it is all.

    Positions beyond those that it was trained for are no use to plain transformers either, though
    nothing there refuses them; so all contenders stop at the same number.
    """
    refused: dict[int, UsageError] = {}
    for count in counts:
        try:
            for question in questions:
                plan.prompt(question, count)
        except UsageError as error:
            refused[count] = error
    if len(refused) == len(counts):
        raise refused[counts[0]]
    return {count: error.message for count, error in refused.items()}


def _answered(run: ProfileRun, clip: Clip, questions: Sequence[str]) -> list[Answered]:
    task = ClipTask(FileClip(clip.name), tuple(Ask(text, run) for text in questions))
    found = []
    for row in RunLoop().answers(task, {run.name: clip}, clip.frames):
        if isinstance(row, Row):
            if row.answered is None:
                raise row.error or RuntimeError("a question ended without an answer or an error")
            found.append(row.answered)
    return found


def _turned(items: Sequence[_T], turn: int) -> list[_T]:
    """The same items, beginning with another one each turn."""
    at = turn % len(items) if items else 0
    return [*items[at:], *items[:at]]
