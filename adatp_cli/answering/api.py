"""The public Python API: `prune` around a model of the user's own, `load` for all at once."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adatp_cli.answering.decoding import DEFAULT_NEW_TOKENS, GenerationSettings
from adatp_cli.answering.encode import TowerWatch, look_at
from adatp_cli.answering.generate import let_in, line_break
from adatp_cli.answering.session import Session
from adatp_cli.errors import PruningError, UsageError
from adatp_cli.model.checkpoints import DEFAULT_ENCODER, find_relevance
from adatp_cli.model.hub import fetch
from adatp_cli.model.layout import model_shape
from adatp_cli.model.load import LoadRequest, load_model
from adatp_cli.model.relevance import RelevanceEncoder, load_relevance
from adatp_cli.profiles import Profile, load_profile
from adatp_cli.pruning.hooks import PrunedPrefill, PruneReport
from adatp_cli.pruning.method import ClipSignals, ModelContext, VisualLayout
from adatp_cli.pruning.methods import check_fit, method_of, resolve_profile

if TYPE_CHECKING:
    from types import TracebackType

    from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

__all__ = ["Pruning", "load", "load_encoder", "prune"]

_FROM_CACHE: dict[str, Any] = {"attention_mask": None, "position_ids": None}

_guard = threading.Lock()
_pruned: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models inside a `prune` block


def prune(
    model: LlavaOnevisionForConditionalGeneration,
    profile: str | os.PathLike[str] | Profile = "adatp-light",
    *,
    budget: float | None = None,
    encoder: RelevanceEncoder | None = None,
    question: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> Pruning:
    """Prune the video tokens of every `model.generate` inside a ``with`` block.

    ::

        with prune(model, "adatp-light", budget=0.2) as run:
            ids = model.generate(**processor(videos=clip, text=prompt, return_tensors="pt"))
        print(run.report.visual_per_layer)

    The model is not changed: forward hooks are added on entering and gone on leaving, after an
    exception too. Every prompt in the block holds one video and no picture.

    Parameters
    ----------
    model
        LLaVA-OneVision as transformers loads it, with any attention but eager.
    profile
        A bundled profile's name, a file, or a `Profile`.
    budget
        Another budget than the profile's: the share of the language model's cost that is left.
    encoder
        For profiles that match the question against frames; see `load_encoder`.
    question
        What is asked, without the chat template, for profiles that embed it.
    tokenizer
        The checkpoint's, for profiles that enter line breaks of text (`unicomp`).
    seed
        Of the profile `random`.

    Returns
    -------
    Pruning
        The context manager; inside it has `reports`, one for each prefill, and `report`, the last.

    Raises
    ------
    UsageError, ProfileError
        The model is of another kind or runs eager attention, the profile does not exist or cannot
        be pruned with here, or something that it needs was not given.
    """
    return Pruning(model, profile, budget, encoder, question, tokenizer, seed)


class Pruning:
    """What `prune` gives: prunes inside its block, and tells what was kept.

    Raises
    ------
    UsageError
        On entering: the model is inside another such block. From inside `generate`: more than one
        prompt, padding, no video or several, pictures beside it.
    PruningError
        From inside `generate`: a prefill in pieces, no growing cache, or two runs on the model at
        once.
    """

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        profile: str | os.PathLike[str] | Profile,
        budget: float | None,
        encoder: RelevanceEncoder | None,
        question: str | None,
        tokenizer: PreTrainedTokenizerBase | None,
        seed: int,
    ) -> None:
        _check_model(model)
        chosen = profile if isinstance(profile, Profile) else load_profile(os.fspath(profile))
        if budget is not None:
            chosen = chosen.with_budget(budget)
        if chosen.reuse_frames is not None:
            raise UsageError(
                f"profile {chosen.name!r} has reuse_frames, which spares passes of the vision "
                "tower, and prune() does not run the tower",
                "leave reuse_frames out, or use adatp_cli.load",
            )
        self._model: Any = model
        self._shape = model_shape(model.config)
        layers = self._shape.language.layers
        self.profile = resolve_profile(
            chosen, ModelContext(layers, encoder.name if encoder is not None else None, seed)
        )
        self._method = method_of(self.profile)
        needs = self._method.needs
        if needs.encoder and encoder is None:
            raise UsageError(
                f"profile {chosen.name!r} uses a relevance encoder, and none was given",
                "pass encoder=adatp_cli.load_encoder(model), or use adatp-light, which needs none",
            )
        if needs.question_vector and not (question or "").strip():
            raise UsageError(
                f"profile {chosen.name!r} matches the question against frames, and none was given",
                "pass question=, the text without the chat template",
            )
        self._encoder = encoder if needs.encoder else None
        self._question, self._tokenizer = question, tokenizer
        self._stack = ExitStack()
        self._prefill = ExitStack()  # the hooks of the prefill that runs or ran last
        self._pruned: PrunedPrefill | None = None
        self._cache: Any = None
        self._layout: VisualLayout | None = None
        self._running: int | None = None  # the thread in a pass of the model
        self._towers: dict[int, ClipSignals] = {}  # of the pass of each thread
        self._watch = TowerWatch(model.model, with_keys=needs.tower_keys, seen=self._saw_tower)
        self.reports: list[PruneReport] = []

    @property
    def report(self) -> PruneReport:
        """What the last prefill kept; a PruningError before there was one."""
        if not self.reports:
            raise PruningError("no prefill has finished inside this block")
        return self.reports[-1]

    def __enter__(self) -> Pruning:
        with _guard:
            if self._model in _pruned:
                raise UsageError(
                    "this model is inside a prune() block already", "leave that block first"
                )
            _pruned.add(self._model)
        self._stack.callback(_pruned.discard, self._model)
        inner = self._model.model
        language = inner.language_model
        for handle in (
            inner.register_forward_pre_hook(self._before_model, with_kwargs=True),
            language.register_forward_pre_hook(self._before_language, with_kwargs=True),
            inner.register_forward_hook(self._after_model, always_call=True),
        ):
            self._stack.callback(handle.remove)
        self._stack.enter_context(self._watch)
        self._stack.callback(lambda: self._prefill.close())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._towers.clear()
        self._cache = self._layout = self._running = None

    @torch.inference_mode()
    def _saw_tower(self, hidden: Tensor, keys: Tensor | None) -> None:
        seen = look_at(self._model.model, hidden, keys, self._encoder)
        vectors = None
        if self._encoder is not None and seen.look is not None:
            vectors = self._encoder.vectors(seen.look[0]).cpu()
        self._towers[threading.get_ident()] = ClipSignals(
            seen.means,
            vectors,
            probe_attention=None if seen.look is None else seen.look[1],
            tower_keys=seen.keys,
        )

    def _before_model(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        """See where the video stands; refuse what cannot be pruned right."""
        ids: Tensor | None = args[0] if args else kwargs.get("input_ids")
        cache = kwargs.get("past_key_values")
        length = ids.shape[1] if ids is not None else kwargs["inputs_embeds"].shape[1]
        with _guard:  # held from here to the end of this pass
            if self._running not in (None, threading.get_ident()):
                raise PruningError(
                    "another thread runs this model inside prune()", "run one generate at a time"
                )
            self._running = threading.get_ident()
        if length == 1 and cache is not None and cache.get_seq_length() > 0:
            if cache is not self._cache:
                raise PruningError(
                    "two runs of generate are under way on one model inside prune()",
                    "finish one before the next begins, or give each a model of its own",
                )
            return
        self._layout = self._find_video(ids, cache, kwargs.get("attention_mask"))
        self._cache = cache

    def _find_video(self, ids: Tensor | None, cache: Any, mask: Tensor | None) -> VisualLayout:
        config = self._model.config
        if ids is None:
            raise UsageError(
                "prune() finds the video in input_ids, and the model was given embeddings alone",
                "pass the processor's input_ids",
            )
        if len(ids) != 1:
            raise UsageError(
                f"prune() works on one prompt at a time, and this is a batch of {len(ids)}",
                "call generate for each; beams and several returned sequences are a batch too",
            )
        if cache is None or getattr(cache, "is_compileable", False):
            raise PruningError(
                "prune() needs a cache that grows as it is filled",
                "leave use_cache and cache_implementation as they are",
            )
        if cache.get_seq_length() != 0:
            raise PruningError(
                "the prompt was prefilled in pieces, or several tokens are decoded at a time",
                "leave out prefill_chunk_size, assistant models and caches of earlier prompts",
            )
        if mask is not None and (mask.ndim != 2 or not bool(mask.all())):
            raise UsageError(
                "prune() takes no padding", "give one prompt, without an attention mask"
            )
        if bool((ids == config.image_token_id).any()):
            raise UsageError(
                "the prompt holds pictures, and prune() is for one video alone",
                "leave the pictures out",
            )
        places = (ids[0] == config.video_token_id).nonzero().flatten()
        rows, cols = self._shape.grid
        frames, over = divmod(len(places) - 1, rows * cols)
        if len(places) == 0:
            raise UsageError(
                "the prompt holds no video, and there is nothing to prune",
                "call generate outside of prune(), or give the processor a video",
            )
        together = int(places[-1] - places[0]) == len(places) - 1
        if over or not together:
            raise UsageError(
                "the prompt holds several videos, a part of one, or one of another grid",
                "give one whole video a prompt, and leave out prefill_chunk_size",
            )
        return VisualLayout(int(places[0]), frames, rows, cols)

    def _before_language(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Plan the pruning of a prompt that is embedded by now, and let the tokens in."""
        if self._layout is None:
            # In a decoding step mask and position count the prompt as it was before pruning; left
            # out, both are made from the cache.
            return args, kwargs | _FROM_CACHE
        layout, self._layout = self._layout, None
        embeddings: Tensor = kwargs["inputs_embeds"]
        plan = self._method.plan(layout, self._signals(layout, embeddings), self._shape.language)
        self._prefill.close()
        self._pruned = self._prefill.enter_context(
            PrunedPrefill(self._model.model.language_model, plan, layout)
        )
        if plan.entry is None:
            return None
        entered = let_in(embeddings, layout, plan.entry, self._line_break)
        return args, kwargs | {"inputs_embeds": entered} | _FROM_CACHE

    def _signals(self, layout: VisualLayout, embeddings: Tensor) -> ClipSignals:
        seen = self._towers.pop(threading.get_ident(), None)
        if seen is None or len(seen.tower_vectors) != layout.frames:
            raise PruningError(
                "the vision tower did not run on this prompt's video inside the block",
                "call generate with pixel_values_videos of one video",
            )
        vector = None
        if self._encoder is not None and self._question and self._method.needs.question_vector:
            with torch.inference_mode():
                vector = self._encoder.text_vector(self._question, self.profile.text_tokens)
        tokens = embeddings[0, layout.start : layout.start + layout.visual]
        return ClipSignals(
            seen.tower_vectors,
            seen.frame_vectors,
            vector,
            tokens,
            seen.probe_attention,
            seen.tower_keys,
        )

    def _line_break(self) -> Tensor:
        """The embedding of a line break of text."""
        if self._tokenizer is None:
            raise UsageError(
                f"profile {self.profile.name!r} enters line breaks of text",
                "pass tokenizer=, the checkpoint's",
            )
        return line_break(self._model, self._tokenizer)

    def _after_model(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._running != threading.get_ident():
            return
        # `output` is None where the pass failed; a decoding step has no report of its own.
        if output is not None and self._pruned is not None:
            self.reports.append(self._pruned.report)
        self._pruned = self._layout = self._running = None


def _check_model(model: Any) -> None:
    from transformers import LlavaOnevisionForConditionalGeneration

    if not isinstance(model, LlavaOnevisionForConditionalGeneration):
        raise UsageError(
            f"prune() is for LlavaOnevisionForConditionalGeneration, not {type(model).__name__}",
            "load the checkpoint with that class of transformers",
        )
    language: Any = model.model.language_model
    if language.config._attn_implementation == "eager":
        raise UsageError(
            "the model runs eager attention, which cannot be pruned",
            'load it with attn_implementation="sdpa"',
        )


def load_encoder(
    model: LlavaOnevisionForConditionalGeneration,
    name: str = DEFAULT_ENCODER,
    *,
    offline: bool = False,
) -> RelevanceEncoder:
    """The relevance encoder that profiles such as `adatp` match questions and frames with.

    Its text tower and pooling head alone are loaded, on the model's device and in its type; fetched
    from the hub once.

    Parameters
    ----------
    name
        A hub id or a folder of SigLIP.
    offline
        Look in the cache alone.

    Raises
    ------
    ModelError
        It cannot be had, is of another kind, or does not belong to the model's vision tower.
    """
    _check_model(model)
    found = find_relevance(name, offline=offline)
    fetch([found.missing], lambda _line: None)
    parameter = next(model.model.multi_modal_projector.parameters())
    width = model_shape(model.config).vision.hidden
    return load_relevance(
        name, found, width=width, device=str(parameter.device), dtype=parameter.dtype
    )


def load(
    model: str = "auto",
    profile: str | os.PathLike[str] | Profile = "adatp",
    *,
    budget: float | None = None,
    quantization: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Session:
    """Load a model with all that a profile needs, to ask clips with `Session.ask`.

    ::

        session = adatp_cli.load("7b")
        record = session.ask("clip.mp4", "what happens?")
        print(record.answer, record.tokens.kept_mean_ratio)

    Parameters
    ----------
    model, quantization, device, dtype, offline
        As the options of `adatp ask`.
    profile, budget
        A bundled profile's name, a file, or a `Profile`; another budget than its own.
    max_new_tokens, temperature, top_p, seed
        How answers are decoded; greedily without a temperature.

    Raises
    ------
    UsageError, ProfileError
        A value is none, or the profile does not exist or fit the model.
    ModelError, MemoryLimitError
        The model cannot be had or does not fit.
    """
    chosen = profile if isinstance(profile, Profile) else load_profile(os.fspath(profile))
    if budget is not None:
        chosen = chosen.with_budget(budget)
    request = LoadRequest(
        model=model,
        quantization=quantization,
        device=device,
        dtype=dtype,
        offline=offline,
        relevance=chosen.encoder,
        accepts=lambda shape, default: check_fit(chosen, shape, chosen.frames or default),
    )
    settings = GenerationSettings(max_new_tokens, temperature, top_p, seed)
    return Session(load_model(request, lambda _line: None), chosen, settings)
