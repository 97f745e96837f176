"""What a profile will cost on a model, told from shapes alone: nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adatp_cli import cost
from adatp_cli.cli.options import DEFAULT_NEW_TOKENS
from adatp_cli.model.layout import DEFAULT_FRAMES
from adatp_cli.profiles import Profile

if TYPE_CHECKING:
    from adatp_cli.answering.plan import FrameBudget

KNOWN_CONTEXT = 32_768  # positions of the published checkpoints
# A question of ordinary length with its chat template, and an answer of a sentence or two (our
# choice).
TEXT_TOKENS = 40
TEXT_BEFORE = 14  # of the published checkpoints' template, before the clip
ANSWER_TOKENS = 32
MEMORY_DTYPE, MEMORY_DEVICE = "bfloat16", "cuda"


@dataclass(frozen=True, slots=True)
class Target:
    """A model as far as its cost goes."""

    name: str
    shape: cost.ModelShape
    relevance: cost.RelevanceShape | None
    frames: int
    context: int = KNOWN_CONTEXT


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a question will come to.

    Planned visual tokens per layer, pruned layers (first, last), both counts of the cost, what
    `--frames auto` is, the memory by kind of quantization, and from how many questions on one
    unpruned prefill for all of them takes less than pruning for each; None where nothing is pruned.
    """

    frames: int
    visual_per_layer: tuple[int, ...]
    pruned_layers: tuple[int, int] | None
    paper_vanilla: int
    paper_pruned: int
    vanilla: cost.EndToEnd
    pruned: cost.EndToEnd
    auto: FrameBudget
    memory: dict[str, RunMemory]
    share_from: int | None


@dataclass(frozen=True, slots=True)
class RunMemory:
    """Bytes on a GPU: of all weights, the relevance encoder's among them, and of a run beside."""

    weights: int
    run: int


def find_target(model: str) -> Target:
    """The shapes of a model by alias, or from the configuration of one that is at hand."""
    if model == "auto":
        from adatp_cli.model.checkpoints import choose_auto
        from adatp_cli.model.device import choose_device

        model = choose_auto(choose_device(model))
    known = cost.KNOWN_SHAPES.get(model.lower())
    if known is not None:
        return Target(model.lower(), known, cost.SO400M_RELEVANCE, DEFAULT_FRAMES)
    from transformers import LlavaOnevisionConfig, SiglipConfig

    from adatp_cli.model.checkpoints import find
    from adatp_cli.model.hub import Hub
    from adatp_cli.model.layout import model_shape, read_description, relevance_shape

    checkpoint = find(model, offline=True, hub=Hub())
    about = read_description(checkpoint.folder)
    relevance = cost.SO400M_RELEVANCE
    if about.relevance_encoder is not None and Path(about.relevance_encoder).is_dir():
        relevance = relevance_shape(SiglipConfig.from_pretrained(about.relevance_encoder))
    config: Any = LlavaOnevisionConfig.from_pretrained(checkpoint.folder)
    return Target(
        checkpoint.name,
        model_shape(config),
        relevance,
        about.default_frames,
        config.text_config.max_position_embeddings,
    )


def forecast(
    profile: Profile, target: Target, frames: int | None = None, *, auto: bool = False
) -> Forecast:
    """The cost of one question under a profile, as far as it does not depend on the clip.

    Parameters
    ----------
    frames
        Of the clip; the profile's or the model's own number when omitted.
    auto
        As many as `--frames auto` comes to.

    Raises
    ------
    UsageError
        The profile's layers or budget do not fit the model.
    """
    from adatp_cli.answering.plan import (
        TEXT_ROOM,
        frame_budget,
        frames_in_context,
        questions_to_share,
    )
    from adatp_cli.pruning.method import ModelContext
    from adatp_cli.pruning.methods import method_of, resolve_profile

    language = target.shape.language
    per_frame = target.shape.tokens_per_frame
    method = method_of(resolve_profile(profile, ModelContext(language.layers)))
    relevance = None
    if method.needs.encoder and target.relevance is not None:
        reads = method.needs.question_vector
        relevance = target.relevance if reads else target.relevance.without_text()
    default = profile.frames or target.frames
    budget = frame_budget(
        lambda count: method.token_schedule(count, per_frame, language),
        target.shape,
        default=default,
        most=frames_in_context(target.context - DEFAULT_NEW_TOKENS, TEXT_ROOM, target.shape),
    )
    frames = budget.frames if auto else frames or default
    token_schedule = method.token_schedule(frames, per_frame, language)
    counts, drops = token_schedule.visual_per_layer, token_schedule.drops
    full = (frames * per_frame,) * language.layers
    # Keys for these scores are projected of all that entered the layer before.
    keys = {layer: counts[layer - 1] + TEXT_TOKENS for layer in token_schedule.score_rows}

    def end_to_end(per_layer: tuple[int, ...], *, prunes: bool) -> cost.EndToEnd:
        return cost.end_to_end_cost(
            target.shape,
            frames=frames,
            text_tokens=TEXT_TOKENS,
            visual_per_layer=per_layer,
            generated=ANSWER_TOKENS,
            score_rows=token_schedule.score_rows if prunes else None,
            score_keys=keys if prunes and token_schedule.own_layer else None,
            relevance=relevance if prunes else None,
        )

    return Forecast(
        frames,
        counts,
        (drops[0], drops[-1]) if drops else None,
        cost.paper_cost(full, language),
        cost.paper_cost(counts, language),
        end_to_end(full, prunes=False),
        end_to_end(counts, prunes=True),
        budget,
        _memory(target.shape, frames, counts, relevance),
        questions_to_share(counts, full[0], TEXT_BEFORE, TEXT_TOKENS - TEXT_BEFORE - 1, language)
        if drops
        else None,
    )


def _memory(
    shape: cost.ModelShape,
    frames: int,
    visual_per_layer: Sequence[int],
    relevance: cost.RelevanceShape | None,
) -> dict[str, RunMemory]:
    """What loading would count, and what a run would be held to, on a GPU."""
    from adatp_cli.answering.encode import frames_at_once
    from adatp_cli.model.layout import count_weights, encoder_bytes
    from adatp_cli.model.memory import estimate_run

    encoder = encoder_bytes(relevance, MEMORY_DTYPE) if relevance is not None else 0

    def run(quantization: str) -> int:
        return estimate_run(
            shape,
            dtype=MEMORY_DTYPE,
            frames=frames,
            text_tokens=TEXT_TOKENS,
            new_tokens=DEFAULT_NEW_TOKENS,
            frames_at_once=frames_at_once(MEMORY_DEVICE, shape.vision),
            visual_per_layer=visual_per_layer,
            relevance=relevance,
            quantization=quantization,
            device=MEMORY_DEVICE,
        ).total

    weights = count_weights(shape).nbytes(MEMORY_DTYPE)
    return {kind: RunMemory(held + encoder, run(kind)) for kind, held in weights.items()}
