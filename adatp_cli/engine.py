"""One clip and its questions in, a stream of events out: stages, pieces of text, answers."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from adatp_cli import account
from adatp_cli.cost import RelevanceShape
from adatp_cli.encoding import ClipEncoder, EncodeMeanwhile, frames_at_once, synchronize
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.events import Answered, Clip, ClipReady, Stage, TextChunk
from adatp_cli.frame_budget import TEXT_ROOM, FrameBudget, frame_budget, frames_in_context
from adatp_cli.generation import (
    Generated,
    GenerationSettings,
    Request,
    generate,
    generate_streaming,
)
from adatp_cli.model.memory import available_memory, check_run, estimate_run, memory_errors
from adatp_cli.model.prompt import Prompt, build_prompt
from adatp_cli.prefix import SharedPrefix
from adatp_cli.profiles import Profile
from adatp_cli.pruning.method import Circumstances, Outlook, PruningPlan, SignalNeeds, VisualLayout
from adatp_cli.pruning.methods import method_of, resolve_profile
from adatp_cli.sharing import Prefills, compare_prefills
from adatp_cli.trace import build_trace
from adatp_cli.video.frames import Frames
from adatp_cli.video.reader import FrameReader
from adatp_cli.video.resize import Resize
from adatp_cli.video.sampling import Sampling

if TYPE_CHECKING:
    from adatp_cli.model.load import LoadedModel

__all__ = ["Engine"]


class Engine:
    """A loaded model under one profile.

    Parameters
    ----------
    loaded
        The model.
    profile
        What is pruned, and how.
    settings
        How answers are decoded.
    keep_trace
        Collect a `Trace` with every answer.
    load_seconds
        What loading took, for the records.

    `needs` is what the profile's method wants to know of a clip beside its tokens.

    Raises
    ------
    ModelError
        The profile needs a relevance encoder and none is loaded.
    UsageError
        The profile's layers do not exist in this model.
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
        self._loaded, self._settings = loaded, settings
        self._keep_trace, self._load_seconds = keep_trace, load_seconds
        encoder = loaded.relevance.name if loaded.relevance else None
        layers = loaded.shape.language.layers
        self._profile = resolve_profile(profile, Circumstances(layers, encoder, settings.seed))
        self._method = method_of(self._profile)
        self.needs = self._method.needs
        if self.needs.encoder and loaded.relevance is None:
            raise ModelError(
                f"profile {profile.name!r} uses a relevance encoder, and none is loaded",
                "-p adatp-light needs none",
            )

    @property
    def profile(self) -> Profile:
        """The profile as it runs, every `auto` replaced."""
        return self._profile

    @property
    def resize(self) -> Resize:
        """What every frame is resized to before the model sees it."""
        preprocess = self._loaded.preprocess
        return Resize(preprocess.size, preprocess.resample)

    def ask(
        self,
        source: str | os.PathLike[str] | bytes,
        questions: Sequence[str],
        sampling: Sampling,
        *,
        reader: FrameReader,
        video_name: str,
        stream: bool = True,
    ) -> Iterator[Stage | ClipReady | TextChunk | Answered]:
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

        Raises
        ------
        VideoError, UsageError, ModelError, MemoryLimitError
            What keeps the next question from its answer; answers before it were given out.
        """
        clip = yield from self.open(
            source, questions, sampling, reader=reader, video_name=video_name
        )
        shared = SharedPrefix() if len(questions) > 1 else None
        for index, question in enumerate(questions):
            yield from self.answer(clip, question, index, stream=stream, shared=shared)

    def open(
        self,
        source: str | os.PathLike[str] | bytes,
        questions: Sequence[str],
        sampling: Sampling,
        *,
        reader: FrameReader,
        video_name: str,
    ) -> Generator[Stage | ClipReady, None, Clip]:
        """Decode a clip and encode it, the one beside the other where the reader can.

        Parameters and errors are those of `ask`. The clip's `decode_s` is what was waited for its
        frames beside the encoding.
        """
        yield Stage("decode", video_name)

        def begin(frames: int) -> ClipEncoder:
            prompts = [self.prompt(question, frames) for question in questions]
            longest = max((prompt.text_tokens for prompt in prompts), default=0)
            self.check_memory(frames, longest)
            account.reset_peak_memory(self._loaded.device)
            return self._encoder(self.needs)

        meanwhile = EncodeMeanwhile(begin)
        started = time.perf_counter()
        with memory_errors(f"encoding {video_name}"):
            frames = reader.read(
                source, sampling, name=video_name, resize=self.resize, on_frames=meanwhile
            )
        decode_s = time.perf_counter() - started - meanwhile.seconds
        yield ClipReady(account.video_facts(frames), frames.notes)
        encoder, rest = meanwhile.settle(frames.pixels)
        yield Stage("vision", f"{len(frames)} frames")
        with memory_errors(f"encoding {len(frames)} frames of {video_name}"):
            encoder.add(rest)
            encoded = encoder.finish()
        peak = account.peak_memory(self._loaded.device)
        return Clip(video_name, frames, encoded, decode_s, peak)

    def prompt(self, question: str, frames: int) -> Prompt:
        """The prompt of a question about a clip of so many frames.

        Raises
        ------
        UsageError
            It is longer than what the model can read, or the question is no text.
        """
        loaded = self._loaded
        prompt = build_prompt(
            loaded.tokenizer,
            question,
            frames=frames,
            grid=loaded.shape.grid,
            video_token_id=loaded.video_token_id,
        )
        room = loaded.context_length - self._settings.max_new_tokens
        if prompt.length > room:
            fitting = frames_in_context(room, prompt.text_tokens, loaded.shape)
            raise UsageError(
                f"{frames} frames and the question make a prompt of {prompt.length} tokens, and "
                f"{loaded.name} reads at most {room} beside its answer",
                f"--frames {fitting} would fit" if fitting > 0 else "ask a shorter question",
            )
        return prompt

    def outlook(self, frames: int) -> Outlook:
        """What a clip of so many frames will come to, known before anything runs.

        Raises
        ------
        UsageError
            The profile cannot reach its budget on such a clip.
        """
        shape = self._loaded.shape
        return self._method.outlook(frames, shape.tokens_per_frame, shape.language)

    def prefills(self, frames: int, questions: Sequence[str]) -> Prefills:
        """What pruning for each of these questions takes, and one unpruned prefill for all.

        Raises
        ------
        UsageError
            As for `prompt`.
        """
        prompts = [self.prompt(question, frames) for question in questions]
        before, kept = prompts[0].visual_start, self.outlook(frames).visual_per_layer
        behind = [prompt.text_tokens - before for prompt in prompts]
        shape = self._loaded.shape.language
        return compare_prefills(kept, prompts[0].n_visual, before, behind, shape)

    def frame_budget(self, default: int, questions: Sequence[str] = ()) -> FrameBudget:
        """The most frames for what `default` cost unpruned, within the model's context.

        Parameters
        ----------
        questions
            What will be asked, where it is known; the context keeps room for the longest, and for
            one of ordinary length anyway.

        Raises
        ------
        UsageError
            The profile cannot reach its budget, or a question cannot be asked.
        """
        loaded = self._loaded
        longest = max((self.prompt(text, 1).text_tokens for text in questions), default=0)
        room = loaded.context_length - self._settings.max_new_tokens
        most = frames_in_context(room, max(longest, TEXT_ROOM), loaded.shape)
        return frame_budget(self.outlook, loaded.shape, default=default, most=most)

    def check_memory(self, frames: int, text_tokens: int) -> None:
        """Refuse a clip that cannot fit the device's free memory, saying what would.

        Raises
        ------
        MemoryLimitError
            It does not fit.
        """
        loaded = self._loaded

        def needed(count: int) -> int:
            return estimate_run(
                loaded.shape,
                dtype=loaded.dtype,
                frames=count,
                text_tokens=text_tokens + 1,
                new_tokens=self._settings.max_new_tokens,
                frames_at_once=frames_at_once(loaded.device, loaded.shape.vision),
                visual_per_layer=self.outlook(count).visual_per_layer,
                relevance=self._relevance_shape,
                quantization=loaded.quantization,
                device=loaded.device,
            ).total

        check_run(
            needed,
            frames=frames,
            available=available_memory(loaded.device),
            device=loaded.device,
            quantization=loaded.quantization,
            model=loaded.name,
        )

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
        account.reset_peak_memory(self._loaded.device)
        with memory_errors(f"encoding {len(frames)} frames of {name}"):
            encoder = self._encoder(needs or self.needs)
            encoder.add(frames.pixels)
            encoded = encoder.finish()
        peak = account.peak_memory(self._loaded.device)
        return Clip(name, frames, encoded, decode_s, peak)

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
        account.reset_peak_memory(self._loaded.device)
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
            vector = relevance.text_vector(question, self._profile.relevance.text_tokens)
            synchronize(self._loaded.device)
        signals = clip.encoded.signals(vector)
        return self._method.plan(layout, signals, self._loaded.shape.language)

    @property
    def _relevance_shape(self) -> RelevanceShape | None:
        if not self.needs.encoder or self._loaded.relevance is None:
            return None
        shape = self._loaded.relevance.shape
        return shape if self.needs.question_vector else shape.without_text()

    def _answered(
        self,
        clip: Clip,
        question: str,
        request: Request,
        generated: Generated,
        prepared_s: float,
    ) -> Answered:
        record = account.answer_record(
            self._loaded,
            clip,
            question,
            request,
            generated,
            profile=self._profile.to_dict(),
            relevance=self._relevance_shape,
            load_s=self._load_seconds,
            prepared_s=prepared_s,
            embeds=self.needs.question_vector,
        )
        trace = build_trace(request, generated) if self._keep_trace else None
        planned_s = 0.0 if self.needs.question_vector else prepared_s
        return Answered(record, trace, planned_s + generated.choosing_s)
