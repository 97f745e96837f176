"""A loaded model under one profile: opens clips and answers questions about them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adatp_cli.answering import records
from adatp_cli.answering.decoding import GenerationSettings, PrefillMode
from adatp_cli.answering.encode import ClipEncoder, StreamingEncoder, synchronize
from adatp_cli.answering.events import Answered, Clip, ClipReady, PrefillChosen, Stage, TextChunk
from adatp_cli.answering.generate import (
    Generated,
    Request,
    SharedPrefix,
    generate,
    generate_streaming,
)
from adatp_cli.answering.plan import Plan
from adatp_cli.answering.trace import build_trace
from adatp_cli.errors import MemoryLimitError, ModelError
from adatp_cli.model.checkpoints import TINY, TINY_KNOWS, TINY_WORLD
from adatp_cli.model.memory import memory_errors
from adatp_cli.model.prompt import Message, Prompt
from adatp_cli.profiles import Profile, unpruned
from adatp_cli.pruning.method import SignalNeeds, VisualLayout
from adatp_cli.text import plural
from adatp_cli.video.frames import FrameReader, Frames
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import Source

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaOnevisionForConditionalGeneration

    from adatp_cli.model.load import LoadedModel
    from adatp_cli.record import AnswerRecord

__all__ = ["Session"]


class Session:
    """A loaded model under one profile, answering; `plan` tells what questions will cost.

    Parameters
    ----------
    loaded, profile, settings
        As for `Plan`, which see for the errors too.
    keep_trace
        Collect a `Trace` with every answer.
    load_seconds
        What loading took, for the records.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        profile: Profile,
        settings: GenerationSettings,
        *,
        keep_trace: bool = False,
        load_seconds: float = 0.0,
    ) -> None:
        self.plan = Plan(loaded, profile, settings)
        self._loaded = loaded
        self._settings = settings
        self._keep_trace = keep_trace
        self._load_seconds = load_seconds

    @property
    def profile(self) -> Profile:
        """The profile as it runs, every `auto` replaced."""
        return self.plan.profile

    def ask(
        self,
        video: str | os.PathLike[str],
        question: str,
        *,
        frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> AnswerRecord:
        """Answer one question about one clip, as `adatp ask` does.

        Parameters
        ----------
        video
            A file.
        frames, fps
            Frames to look at, or frames a second; as many as profile or model say when omitted.
        start, end
            Seconds; the part of the clip to look at.

        Returns
        -------
        AnswerRecord
            `answer`, what was kept of the clip in `tokens`, the cost in `flops` and `seconds`.

        Raises
        ------
        VideoError, UsageError, ModelError, MemoryLimitError
            What keeps the question from its answer.
        """
        from adatp_cli.video.isolated import IsolatedReader

        sampling = self._sampling(frames, fps, start, end)
        with IsolatedReader() as reader:
            opening = self.open(
                video, [question], sampling, reader=reader, video_name=os.fspath(video)
            )
            try:
                while True:
                    next(opening)
            except StopIteration as end_of_opening:
                clip: Clip = end_of_opening.value
        return self.answered(clip, question).record

    @property
    def model(self) -> LlavaOnevisionForConditionalGeneration:
        """The model that answers, as transformers knows it."""
        return self._loaded.model

    def inputs(
        self,
        video: str | os.PathLike[str],
        question: str,
        *,
        frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> dict[str, Tensor]:
        """What `model.generate` takes for a question about a clip, as the processor makes it.

        For those who have no torchvision, which the processor of transformers needs. Parameters and
        errors are those of `ask`.

        Returns
        -------
        dict
            `input_ids` and `attention_mask` (1, L) int64, and `pixel_values_videos` (1, T, 3, H, W)
            in the model's type, on its device.
        """
        from adatp_cli.video.isolated import IsolatedReader

        loaded = self._loaded
        with IsolatedReader() as reader:
            decoded = reader.read(
                video,
                self._sampling(frames, fps, start, end),
                name=os.fspath(video),
                resize=self.plan.resize,
            )
        ids = self.plan.prompt(question, len(decoded)).input_ids.to(loaded.device)
        pixels = loaded.preprocess(decoded.pixels)[None].to(loaded.device, loaded.model.dtype)
        return {
            "input_ids": ids,
            "attention_mask": ids.new_ones(ids.shape),
            "pixel_values_videos": pixels,
        }

    def _sampling(
        self, frames: int | None, fps: float | None, start: float | None, end: float | None
    ) -> Sampling:
        default = self.profile.frames or self._loaded.default_frames
        return Sampling(frames, fps, start, end).with_default_frames(default)

    def open(
        self,
        source: str | os.PathLike[str] | bytes | Source,
        questions: Sequence[str],
        sampling: Sampling,
        *,
        reader: FrameReader,
        video_name: str,
        choose: Callable[[int], Session] | None = None,
    ) -> Generator[Stage | ClipReady, None, Clip]:
        """Decode a clip and encode it, the one beside the other where the reader can.

        The clip's `decode_s` is what was waited for its frames beside the encoding.

        Parameters
        ----------
        source
            A file, or a clip's bytes.
        questions
            What will be asked: a clip too long for them is refused before it is encoded.
        video_name
            What records and errors call it.
        choose
            Names, once the number of frames is known, the session that will answer; this one when
            omitted.

        Raises
        ------
        VideoError, UsageError, MemoryLimitError
            What keeps the clip from being decoded or encoded.
        """
        yield Stage("decode", video_name)

        def begin(frames: int) -> ClipEncoder:
            asking = self if choose is None else choose(frames)
            asking.plan.check_questions(frames, questions)
            records.reset_peak_memory(self._loaded.device)
            return asking._encoder(asking.plan.needs)

        meanwhile = StreamingEncoder(begin)
        started = time.perf_counter()
        with memory_errors(f"encoding {video_name}"):
            frames = reader.read(
                source, sampling, name=video_name, resize=self.plan.resize, on_frames=meanwhile
            )
        decode_s = time.perf_counter() - started - meanwhile.seconds
        yield ClipReady(records.video_facts(frames), frames.notes + self.remarks(frames))
        encoder, rest = meanwhile.settle(frames.pixels)
        yield Stage("vision", f"{plural(len(frames), 'frame')}")
        return self._finish(encoder, video_name, frames, rest, decode_s)

    def remarks(self, frames: Frames) -> tuple[str, ...]:
        """What to tell of a clip that this model answers about: a small world's model about others.

        Clips of the world of `tiny` say so in their headers.
        """
        if self._loaded.name != TINY or frames.info.comment == TINY_WORLD:
            return ()
        return (f"{TINY_KNOWS}: its answers about this clip mean nothing",)

    def choose(
        self, frames: int, questions: Sequence[str], prefill: PrefillMode
    ) -> tuple[Session, PrefillChosen | None]:
        """Who answers, and what was chosen where there was something to choose.

        Raises
        ------
        UsageError, MemoryLimitError
            A question cannot be asked, or sharing was asked for and does not fit.
        """
        if len(questions) < 2 or self.profile.method == "vanilla":
            return self, None
        cost = self.plan.prefills(frames, questions)
        if prefill == "each" or (prefill == "cheaper" and cost.pruned <= cost.shared):
            return self, PrefillChosen(self.profile, cost, shared=False)
        whole = Session(
            self._loaded,
            unpruned(self.profile),
            self._settings,
            keep_trace=self._keep_trace,
            load_seconds=self._load_seconds,
        )
        try:
            whole.plan.check_questions(frames, questions)
        except MemoryLimitError:
            if prefill == "shared":
                raise
            return self, PrefillChosen(self.profile, cost, shared=False, fits=False)
        return whole, PrefillChosen(whole.profile, cost, shared=True)

    def encode(
        self, name: str, frames: Frames, decode_s: float = 0.0, *, needs: SignalNeeds | None = None
    ) -> Clip:
        """Run the vision tower over decoded frames.

        `needs` is what is computed beside the tokens, where sessions of other profiles will use the
        clip too: the union of their needs; this one's when omitted.

        Raises
        ------
        MemoryLimitError
            The memory ran out.
        """
        records.reset_peak_memory(self._loaded.device)
        encoder = self._encoder(needs or self.plan.needs)
        return self._finish(encoder, name, frames, frames.pixels, decode_s)

    def answer(
        self,
        clip: Clip,
        question: str,
        index: int = 0,
        *,
        history: tuple[Message, ...] = (),
        stream: bool = True,
        shared: SharedPrefix | None = None,
    ) -> Generator[Stage | TextChunk | Answered]:
        """Answer one question about an encoded clip.

        Parameters
        ----------
        index
            The question's number, for its pieces of text.
        history
            What was said before; the pruning looks at this question alone.
        stream
            Give out text as it is generated. Without it the text comes with the record only, and
            everything runs in the caller's thread.
        shared
            One object for all questions about the clip: where nothing is pruned, later ones begin
            behind what the first one left. It holds the clip's keys and values on the device.

        Raises
        ------
        UsageError, ModelError, MemoryLimitError
            What keeps the question from its answer.
        """
        plan = self.plan
        records.reset_peak_memory(self._loaded.device)
        with memory_errors(f"answering about {clip.name}"):
            prompt = plan.prompt(question, len(clip.frames), history)
            if plan.needs.question_vector:
                yield Stage("relevance", question)
            started = time.perf_counter()
            layout = self._layout(prompt, clip)
            signals = clip.encoded.signals(self._question_vector(question))
            pruning = plan.method.plan(layout, signals, self._loaded.shape.language)
            prepared_s = time.perf_counter() - started
            yield Stage("prefill", f"{prompt.length} tokens")
            keeps_all = not pruning.keep_counts and pruning.entry is None
            kept = shared if keeps_all else None
            request = Request(prompt.input_ids, clip.encoded.visual, layout, pruning, kept)
            generated: Generated | None = None
            if stream:
                for piece in generate_streaming(self._loaded, request, self._settings):
                    if isinstance(piece, Generated):
                        generated = piece
                    else:
                        yield TextChunk(index, piece)
            else:
                generated = generate(self._loaded, request, self._settings)
        if generated is None:
            raise ModelError("the model ended without an answer")
        embeds = plan.needs.question_vector
        record = records.answer_record(
            self._loaded, plan, clip, question, request, generated,
            load_s=self._load_seconds, prepared_s=prepared_s,
        )  # fmt: skip
        yield Answered(
            record,
            build_trace(request, generated) if self._keep_trace else None,
            selection_s=generated.selection_s + (0.0 if embeds else prepared_s),
            own=records.own_seconds(record.seconds, clip.encoded),
        )

    def answered(
        self, clip: Clip, question: str, *, shared: SharedPrefix | None = None
    ) -> Answered:
        """`answer` without its stages and pieces of text."""
        *_, last = self.answer(clip, question, stream=False, shared=shared)
        if not isinstance(last, Answered):
            raise ModelError("the model ended without an answer")
        return last

    def _encoder(self, needs: SignalNeeds) -> ClipEncoder:
        return ClipEncoder(
            self._loaded,
            with_relevance=needs.encoder,
            with_keys=needs.tower_keys,
            reuse=self.profile.reuse_frames,
        )

    def _finish(
        self,
        encoder: ClipEncoder,
        name: str,
        frames: Frames,
        rest: npt.NDArray[np.uint8],
        decode_s: float,
    ) -> Clip:
        """The clip, once the frames that the encoder has not got yet went through it."""
        with memory_errors(f"encoding {plural(len(frames), 'frame')} of {name}"):
            encoder.add(rest)
            encoded = encoder.finish()
        peak = records.peak_memory(self._loaded.device)
        return Clip(name, frames, encoded, decode_s, peak)

    def _layout(self, prompt: Prompt, clip: Clip) -> VisualLayout:
        rows, cols = self._loaded.shape.grid
        frames = clip.encoded.frames
        layout = VisualLayout(prompt.visual_start, frames, rows, cols, prompt.question_start)
        if layout.visual + 1 != len(clip.encoded.visual):
            raise ModelError(
                f"the vision tower gave {len(clip.encoded.visual)} tokens, but the prompt has room "
                f"for {layout.visual + 1}",
                "use a checkpoint whose files belong together",
            )
        return layout

    def _question_vector(self, question: str) -> Tensor | None:
        relevance = self._loaded.relevance
        if not self.plan.needs.question_vector or relevance is None:
            return None
        with self._loaded.turn:
            vector = relevance.text_vector(question, self.profile.text_tokens)
        synchronize(self._loaded.device)
        return vector
