"""What questions about a clip will come to, told before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from adatp_cli.cost import RelevanceShape
from adatp_cli.encoding import frames_at_once
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.frame_budget import TEXT_ROOM, FrameBudget, frame_budget, frames_in_context
from adatp_cli.model.fitting import check_clip
from adatp_cli.model.prompt import Prompt, build_prompt
from adatp_cli.profiles import Profile
from adatp_cli.pruning.method import Circumstances, Outlook
from adatp_cli.pruning.methods import method_of, resolve_profile
from adatp_cli.settings import GenerationSettings
from adatp_cli.sharing import Prefills, compare_prefills
from adatp_cli.text import plural
from adatp_cli.video.resize import Resize

if TYPE_CHECKING:
    from adatp_cli.model.load import LoadedModel


class Planner:
    """A loaded model under one profile: prompts, planned tokens, frames and memory.

    Parameters
    ----------
    loaded
        The model.
    profile
        What is pruned, and how.
    settings
        How answers are decoded.

    `needs` is what the profile's method wants to know of a clip beside its tokens.

    Raises
    ------
    ModelError
        The profile needs a relevance encoder and none is loaded.
    UsageError
        The profile's layers do not exist in this model.
    """

    def __init__(self, loaded: LoadedModel, profile: Profile, settings: GenerationSettings) -> None:
        self._loaded = loaded
        self._settings = settings
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

    @property
    def relevance_shape(self) -> RelevanceShape | None:
        """What of the relevance encoder runs under this profile; None where nothing does."""
        if not self.needs.encoder or self._loaded.relevance is None:
            return None
        shape = self._loaded.relevance.shape
        return shape if self.needs.question_vector else shape.without_text()

    def prompt(self, question: str, frames: int) -> Prompt:
        """The prompt of a question about a clip of so many frames.

        Raises
        ------
        UsageError
            It is longer than what the model can read, or the question is no text.
        """
        loaded = self._loaded
        with loaded.turn:  # how a tokenizer reads special tokens is a switch that all threads share
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
                f"{plural(frames, 'frame')} and the question make a prompt of {prompt.length} "
                f"tokens, and {loaded.name} reads at most {room} beside its answer",
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

    def check_questions(
        self, frames: int, questions: Iterable[str], *, skip_unaskable: bool = False
    ) -> None:
        """Refuse questions about so many frames that do not fit the model or the memory.

        Parameters
        ----------
        skip_unaskable
            Leave out what `prompt` refuses, where each question's error is told by itself later.

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
        check_clip(
            loaded,
            frames=frames,
            text_tokens=text_tokens + 1,
            new_tokens=self._settings.max_new_tokens,
            at_once=lambda _frames: frames_at_once(loaded.device, loaded.shape.vision),
            visual_per_layer=lambda count: self.outlook(count).visual_per_layer,
            relevance=self.relevance_shape,
        )
