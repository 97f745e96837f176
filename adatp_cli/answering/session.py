"""One clip and its questions in, a stream of events out: stages, pieces of text, answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adatp_cli.answering import records
from adatp_cli.answering.encode import ClipEncoder, StreamingEncoder, synchronize
from adatp_cli.answering.events import Answered, Clip, ClipReady, PrefillChosen, Stage, TextChunk
from adatp_cli.answering.generate import (
    Generated,
    Request,
    SharedPrefix,
    generate,
    generate_streaming,
)
from adatp_cli.answering.plan import Planner, PrefillMode
from adatp_cli.answering.trace import build_trace
from adatp_cli.errors import MemoryLimitError, ModelError
from adatp_cli.model.checkpoints import TINY, TINY_KNOWS, TINY_WORLD
from adatp_cli.model.memory import memory_errors
from adatp_cli.model.prompt import Prompt
from adatp_cli.profiles import Profile
from adatp_cli.pruning.method import PruningPlan, SignalNeeds, VisualLayout
from adatp_cli.settings import GenerationSettings
from adatp_cli.text import plural
from adatp_cli.video.frames import Frames
from adatp_cli.video.reader import FrameReader
from adatp_cli.video.sampling import Sampling

if TYPE_CHECKING:
    from adatp_cli.model.load import LoadedModel

__all__ = ["Engine"]


class Engine(Planner):
    """A loaded model under one profile, answering.

    Parameters
    ----------
    loaded, profile, settings
        As for `Planner`, which see for the errors too.
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
        super().__init__(loaded, profile, settings)
        self._keep_trace = keep_trace
        self._load_seconds = load_seconds

    def ask(
        self,
        source: str | os.PathLike[str] | bytes,
        questions: Sequence[str],
        sampling: Sampling,
        *,
        reader: FrameReader,
        video_name: str,
        stream: bool = True,
        prefill: PrefillMode = "cheaper",
    ) -> Iterator[Stage | ClipReady | PrefillChosen | TextChunk | Answered]:
        """Answer questions about one clip, which is decoded and encoded once.

        Parameters
        ----------
        source
            A file, or a clip's bytes.
        reader
            Decodes it.
        video_name
            What records and errors call it.
        stream
            Give out text as it is generated. Without it, each answer's text comes with its record
            only, and everything runs in the caller's thread.
        prefill
            How several questions get theirs. Where one is shared nothing is pruned, and records
            and traces are those of the profile `vanilla`.

        Raises
        ------
        VideoError, UsageError, ModelError, MemoryLimitError
            What keeps the next question from its answer; answers before it were given out.
        """
        asking, chosen = self, None

        def choose(frames: int) -> Engine:
            nonlocal asking, chosen
            asking, chosen = self._choose(frames, questions, prefill)
            return asking

        clip = yield from self.open(
            source, questions, sampling, reader=reader, video_name=video_name, choose=choose
        )
        if chosen is not None:
            yield chosen
        shared = SharedPrefix() if prefill != "each" and len(questions) > 1 else None
        for index, question in enumerate(questions):
            yield from asking.answer(clip, question, index, stream=stream, shared=shared)

    def open(
        self,
        source: str | os.PathLike[str] | bytes,
        questions: Sequence[str],
        sampling: Sampling,
        *,
        reader: FrameReader,
        video_name: str,
        choose: Callable[[int], Engine] | None = None,
    ) -> Generator[Stage | ClipReady, None, Clip]:
        """Decode a clip and encode it, the one beside the other where the reader can.

        Other parameters and errors are those of `ask`. The clip's `decode_s` is what was waited for
        its frames beside the encoding.

        Parameters
        ----------
        choose
            Names, once the number of frames is known, the engine that will answer; this one when
            omitted.
        """
        yield Stage("decode", video_name)

        def begin(frames: int) -> ClipEncoder:
            asking = self if choose is None else choose(frames)
            asking.check_questions(frames, questions)
            records.reset_peak_memory(self._loaded.device)
            return asking._encoder(asking.needs)

        meanwhile = StreamingEncoder(begin)
        started = time.perf_counter()
        with memory_errors(f"encoding {video_name}"):
            frames = reader.read(
                source, sampling, name=video_name, resize=self.resize, on_frames=meanwhile
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

    def _choose(
        self, frames: int, questions: Sequence[str], prefill: PrefillMode
    ) -> tuple[Engine, PrefillChosen | None]:
        """Who answers, and what was chosen where there was something to choose."""
        if len(questions) < 2 or self.profile.method == "vanilla":
            return self, None
        cost = self.prefills(frames, questions)
        if prefill == "each" or (prefill == "cheaper" and cost.pruned <= cost.shared):
            return self, PrefillChosen(self.profile, cost, shared=False)
        unpruned = Engine(
            self._loaded,
            self.profile.unpruned(),
            self._settings,
            keep_trace=self._keep_trace,
            load_seconds=self._load_seconds,
        )
        try:
            unpruned.check_questions(frames, questions)
        except MemoryLimitError:
            if prefill == "shared":
                raise
            return self, PrefillChosen(self.profile, cost, shared=False, fits=False)
        return unpruned, PrefillChosen(unpruned.profile, cost, shared=True)

    def encode(
        self, name: str, frames: Frames, decode_s: float = 0.0, *, needs: SignalNeeds | None = None
    ) -> Clip:
        """Run the vision tower over decoded frames.

        Parameters
        ----------
        needs
            What is computed beside the tokens, where engines of other profiles will use the clip
            too: the union of their `needs`. This engine's when omitted.

        Raises
        ------
        MemoryLimitError
            The memory ran out.
        """
        records.reset_peak_memory(self._loaded.device)
        encoder = self._encoder(needs or self.needs)
        return self._finish(encoder, name, frames, frames.pixels, decode_s)

    def answer(
        self,
        clip: Clip,
        question: str,
        index: int = 0,
        *,
        stream: bool = True,
        shared: SharedPrefix | None = None,
    ) -> Iterator[Stage | TextChunk | Answered]:
        """Answer one question about an encoded clip; see `ask`.

        Parameters
        ----------
        shared
            One object for all questions about the clip: where nothing is pruned, later ones begin
            behind what the first one left. It holds the clip's keys and values on the device.
        """
        records.reset_peak_memory(self._loaded.device)
        with memory_errors(f"answering about {clip.name}"):
            prompt = self.prompt(question, len(clip.frames))
            if self.needs.question_vector:
                yield Stage("relevance", question)
            started = time.perf_counter()
            layout = self._layout(prompt, clip)
            plan = self._plan(layout, clip, question)
            prepared_s = time.perf_counter() - started
            yield Stage("prefill", f"{prompt.length} tokens")
            unpruned = not plan.keep_counts and plan.entry is None
            kept = shared if unpruned else None
            request = Request(prompt.input_ids, clip.encoded.visual, layout, plan, kept)
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
        yield self._answered(clip, question, request, generated, prepared_s)

    def _encoder(self, needs: SignalNeeds) -> ClipEncoder:
        return ClipEncoder(
            self._loaded,
            with_relevance=needs.encoder,
            with_keys=needs.tower_keys,
            reuse=self._profile.reuse_frames,
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
        layout = VisualLayout(prompt.visual_start, clip.encoded.frames, rows, cols)
        if layout.visual + 1 != len(clip.encoded.visual):
            raise ModelError(
                f"the vision tower gave {len(clip.encoded.visual)} tokens, but the prompt has room "
                f"for {layout.visual + 1}",
                "use a checkpoint whose files belong together",
            )
        return layout

    def _plan(self, layout: VisualLayout, clip: Clip, question: str) -> PruningPlan:
        vector, relevance = None, self._loaded.relevance
        if self.needs.question_vector and relevance is not None:
            with self._loaded.turn:
                vector = relevance.text_vector(question, self._profile.relevance.text_tokens)
            synchronize(self._loaded.device)
        signals = clip.encoded.signals(vector)
        return self._method.plan(layout, signals, self._loaded.shape.language)

    def _answered(
        self,
        clip: Clip,
        question: str,
        request: Request,
        generated: Generated,
        prepared_s: float,
    ) -> Answered:
        record = records.answer_record(
            self._loaded,
            clip,
            question,
            request,
            generated,
            profile=self._profile.to_dict(),
            relevance=self.relevance_shape,
            load_s=self._load_seconds,
            prepared_s=prepared_s,
            embeds=self.needs.question_vector,
        )
        trace = build_trace(request, generated) if self._keep_trace else None
        planned_s = 0.0 if self.needs.question_vector else prepared_s
        own = records.own_seconds(record.seconds, clip.encoded)
        return Answered(record, trace, planned_s + generated.selection_s, own)
