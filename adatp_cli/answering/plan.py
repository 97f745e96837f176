"""What questions about a clip will cost, told before anything runs."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.answering.encode import frames_at_once
from adatp_cli.cost import (
    LanguageShape,
    ModelShape,
    RelevanceShape,
    paper_cost,
    prefill_cost,
    vision_cost,
)
from adatp_cli.errors import MemoryLimitError, ModelError, UsageError
from adatp_cli.model.memory import check_run
from adatp_cli.model.prompt import Message, Prompt, build_prompt
from adatp_cli.profiles import Profile
from adatp_cli.pruning.method import ModelContext, TokenSchedule
from adatp_cli.pruning.methods import method_of, resolve_profile
from adatp_cli.text import plural
from adatp_cli.video.frames import Resize

if TYPE_CHECKING:
    from adatp_cli.model.load import LoadedModel


class Plan:
    """What questions about a clip will cost under one profile: prompts, tokens, frames, memory.

    Parameters
    ----------
    loaded
        The model.
    profile
        What is pruned, and how; `profile` is that with every `auto` replaced.
    settings
        How answers are decoded.

    `method` prunes, `needs` is what it wants to know of a clip beside its tokens, and `resize` what
    every frame is resized to before the model sees it.

    Raises
    ------
    ModelError
        The profile needs a relevance encoder and none is loaded.
    UsageError
        The profile's layers do not exist in this model.
    """

    def __init__(self, loaded: LoadedModel, profile: Profile, settings: GenerationSettings) -> None:
        self._loaded = loaded
        self._new_tokens = settings.max_new_tokens
        encoder = loaded.relevance.name if loaded.relevance else None
        context = ModelContext(loaded.shape.language.layers, encoder, settings.seed)
        self.profile = resolve_profile(profile, context)
        self.method = method_of(self.profile)
        self.needs = self.method.needs
        self.resize = Resize(loaded.preprocess.size, loaded.preprocess.resample)
        if self.needs.encoder and loaded.relevance is None:
            raise ModelError(
                f"profile {profile.name!r} uses a relevance encoder, and none is loaded",
                "-p adatp-light needs none",
            )
        # A batch asks few questions about many clips.
        self._rendered = lru_cache(256)(self._render)

    @property
    def relevance_shape(self) -> RelevanceShape | None:
        """What of the relevance encoder runs under this profile; None where nothing does."""
        if not self.needs.encoder or self._loaded.relevance is None:
            return None
        shape = self._loaded.relevance.shape
        return shape if self.needs.question_vector else shape.without_text()

    def prompt(self, question: str, frames: int, history: tuple[Message, ...] = ()) -> Prompt:
        """The prompt of a question about a clip of so many frames, behind earlier turns.

        Raises
        ------
        UsageError
            It is longer than what the model can read, or the question is no text.
        """
        loaded = self._loaded
        prompt = self._rendered(question, history).with_visual(
            frames * loaded.shape.tokens_per_frame
        )
        room = loaded.context_length - self._new_tokens
        if prompt.length > room:
            fitting = frames_in_context(room, prompt.text_tokens, loaded.shape)
            raise UsageError(
                f"{plural(frames, 'frame')} and the question make a prompt of {prompt.length} "
                f"tokens, and {loaded.name} reads at most {room} beside its answer",
                f"--frames {fitting} would fit" if fitting > 0 else "ask a shorter question",
            )
        return prompt

    def fitting(
        self, question: str, frames: int, history: tuple[Message, ...]
    ) -> tuple[Message, ...]:
        """What was said before, the oldest turns left out until context and memory hold it.

        System texts stay; the last try is without any turn.
        """
        system = tuple(one for one in history if one.role == "system")
        said = tuple(one for one in history if one.role != "system")
        while said:
            with contextlib.suppress(UsageError, MemoryLimitError):
                prompt = self.prompt(question, frames, system + said)
                self.check_memory(frames, prompt.text_tokens)
                return system + said
            later = (number for number, one in enumerate(said) if number and one.role == "user")
            said = said[next(later, len(said)) :]
        return system

    def _render(self, question: str, history: tuple[Message, ...]) -> Prompt:
        loaded = self._loaded
        with loaded.turn:  # how a tokenizer reads special tokens is a switch that all threads share
            return build_prompt(
                loaded.tokenizer,
                question,
                frames=1,
                grid=loaded.shape.grid,
                video_token_id=loaded.video_token_id,
                history=history,
            )

    def token_schedule(self, frames: int) -> TokenSchedule:
        """What of a clip of so many frames enters each layer, known before anything runs.

        Raises
        ------
        UsageError
            The profile cannot reach its budget on such a clip.
        """
        shape = self._loaded.shape
        return self.method.token_schedule(frames, shape.tokens_per_frame, shape.language)

    def prefills(self, frames: int, questions: Sequence[str]) -> Prefills:
        """What pruning for each of these questions takes, and one unpruned prefill for all.

        Raises
        ------
        UsageError
            As for `prompt`.
        """
        prompts = [self.prompt(question, frames) for question in questions]
        before, kept = prompts[0].visual_start, self.token_schedule(frames).visual_per_layer
        behind = [prompt.text_tokens - before for prompt in prompts]
        shape = self._loaded.shape.language
        return compare_prefills(kept, prompts[0].n_visual, before, behind, shape)

    def frame_budget(self, default: int, questions: Sequence[str] = ()) -> FrameBudget:
        """The most frames for what `default` cost unpruned, within the model's context.

        The context keeps room for the longest of `questions`, where they are known, and for one of
        ordinary length anyway.

        Raises
        ------
        UsageError
            The profile cannot reach its budget, or a question cannot be asked.
        """
        loaded = self._loaded
        longest = max((self.prompt(text, 1).text_tokens for text in questions), default=0)
        room = loaded.context_length - self._new_tokens
        most = frames_in_context(room, max(longest, TEXT_ROOM), loaded.shape)
        return frame_budget(self.token_schedule, loaded.shape, default=default, most=most)

    def check_questions(
        self, frames: int, questions: Iterable[str], *, skip_unaskable: bool = False
    ) -> None:
        """Refuse questions about so many frames that do not fit the model or the memory.

        With `skip_unaskable` questions that `prompt` refuses are left out: each one's error is told
        by itself later.

        Raises
        ------
        UsageError
            As for `prompt`.
        MemoryLimitError
            As for `check_memory`.
        """
        longest = 0
        for question in questions:
            try:
                longest = max(longest, self.prompt(question, frames).text_tokens)
            except UsageError:
                if not skip_unaskable:
                    raise
        self.check_memory(frames, longest)

    def check_memory(self, frames: int, text_tokens: int) -> None:
        """Refuse a clip that cannot fit the device's free memory, saying what would.

        Raises
        ------
        MemoryLimitError
            It does not fit.
        """
        loaded = self._loaded
        check_run(
            loaded,
            frames=frames,
            text_tokens=text_tokens + 1,
            new_tokens=self._new_tokens,
            frames_at_once=frames_at_once(loaded.device, loaded.shape.vision),
            visual_per_layer=lambda count: self.token_schedule(count).visual_per_layer,
            relevance=self.relevance_shape,
        )


@dataclass(frozen=True, slots=True)
class Prefills:
    """FLOP of the prefills of several questions, done in either way."""

    pruned: int  # for each
    shared: int  # unpruned: whole for the first question, for others only what stands behind


def compare_prefills(
    visual_per_layer: Sequence[int],
    visual: int,
    text_before: int,
    text_behind: Sequence[int],
    shape: LanguageShape,
) -> Prefills:
    """Both ways to ask these questions; the prefills alone, choosing and answers left out.

    `visual_per_layer` visual tokens of the clip's `visual` enter each layer of a pruned prefill;
    `text_behind` has the tokens of text behind the clip's newline, one number per question.
    """
    front = text_before + visual + 1
    text = [text_before + 1 + behind for behind in text_behind]
    pruned = sum(prefill_cost([one + kept for kept in visual_per_layer], shape) for one in text)
    shared = sum(
        prefill_cost([front + behind] * shape.layers, shape, front if number else 0)
        for number, behind in enumerate(text_behind)
    )
    return Prefills(pruned, shared)


def questions_to_share(
    visual_per_layer: Sequence[int],
    visual: int,
    text_before: int,
    text_behind: int,
    shape: LanguageShape,
) -> int | None:
    """From how many questions of one length on one shared unpruned prefill costs less, if ever."""
    one, two = (
        compare_prefills(visual_per_layer, visual, text_before, [text_behind] * count, shape)
        for count in (1, 2)
    )
    later = two.shared - one.shared
    if later >= one.pruned:
        return None
    return (one.shared - later) // (one.pruned - later) + 1


# Tokens of text that the context keeps room for beside the frames (our choice): a multiple-choice
# question of ordinary length with its chat template.
TEXT_ROOM = 256


@dataclass(frozen=True, slots=True)
class FrameBudget:
    """The most frames whose cost stays within that of `default` frames unpruned.

    Ratios are to the same of `default` frames unpruned. Pruning inside the language model spares
    the vision tower nothing; text, answer, relevance encoder and decoding are left out.
    """

    frames: int
    default: int
    context_bound: bool  # whether the model's context, not the cost, allows no more
    language: float  # in the language model, paper convention; at most 1
    encoding: float  # of vision tower and projector
    both: float  # FLOP of tower, projector and the visual tokens' prefill


def frame_budget(
    token_schedule: Callable[[int], TokenSchedule], shape: ModelShape, *, default: int, most: int
) -> FrameBudget:
    """Spend what pruning saves on frames.

    A budget is a share of what the same frames cost unpruned, so cost grows faster than frames do
    and 27.3 % of it does not buy 1 / 0.273 times as many. Found by bisection, so the cost of
    `token_schedule` must grow with the frames. Where the context holds fewer than `default` frames,
    `most` is the answer, but never less than 1.
    """
    language, per_frame = shape.language, shape.tokens_per_frame

    def cost(frames: int) -> int:
        return paper_cost(token_schedule(frames).visual_per_layer, language)

    def both(frames: int, visual_per_layer: Sequence[int]) -> int:
        return vision_cost(frames, shape) + prefill_cost(visual_per_layer, language)

    unpruned = (default * per_frame,) * language.layers
    limit = paper_cost(unpruned, language)
    most = max(most, 1)
    least = min(default, most)
    # `least` frames fit whatever the profile saves.
    frames = bisect_right(range(least + 1, most + 1), limit, key=cost) + least
    kept = token_schedule(frames).visual_per_layer
    return FrameBudget(
        frames,
        default,
        frames == most and (most < default or paper_cost(kept, language) < limit),
        paper_cost(kept, language) / limit,
        frames / default,
        both(frames, kept) / both(default, unpruned),
    )


def frames_in_context(context: int, text_tokens: int, shape: ModelShape) -> int:
    """Frames whose tokens fit a context beside text, an answer's among it, and the newline."""
    return max(context - text_tokens - 1, 0) // shape.tokens_per_frame
