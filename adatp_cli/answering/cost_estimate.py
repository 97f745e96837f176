"""What a profile will cost on a model, told from shapes alone: nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adatp_cli import cost
from adatp_cli.answering.decoding import DEFAULT_NEW_TOKENS
from adatp_cli.answering.encode import frames_at_once
from adatp_cli.answering.plan import (
    TEXT_ROOM,
    FrameBudget,
    frame_budget,
    frames_in_context,
    questions_to_share,
)
from adatp_cli.answering.records import flops_of
from adatp_cli.model.checkpoints import choose_auto, find
from adatp_cli.model.device import choose_device
from adatp_cli.model.layout import (
    DEFAULT_FRAMES,
    count_weights,
    encoder_bytes,
    model_shape,
    read_description,
    relevance_shape,
)
from adatp_cli.model.memory import estimate_run
from adatp_cli.profiles import Profile
from adatp_cli.pruning.method import ModelContext
from adatp_cli.pruning.methods import method_of, resolve_profile
from adatp_cli.record import Flops

KNOWN_CONTEXT = 32_768  # positions of the published checkpoints


@dataclass(frozen=True, slots=True)
class Target:
    """A model as far as its cost goes."""

    name: str
    shape: cost.ModelShape
    relevance: cost.RelevanceShape | None
    frames: int
    context: int = KNOWN_CONTEXT


@dataclass(frozen=True, slots=True)
class Assumed:
    """What an estimate takes for granted (our choice)."""

    text_tokens: int = 40  # a question of ordinary length with its chat template
    text_before: int = 14  # of the published checkpoints' template, before the clip
    generated: int = 32  # an answer of a sentence or two
    memory_dtype: str = "bfloat16"
    memory_device: str = "cuda"
    memory_generated: int = DEFAULT_NEW_TOKENS


@dataclass(frozen=True, slots=True)
class RunMemory:
    """Bytes on a GPU: of all weights, the relevance encoder's among them, and of a run beside."""

    weights: int
    run: int


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What one question costs, as `adatp profiles show --json` has it."""

    frames: int
    visual_per_layer: tuple[int, ...]  # planned visual tokens
    pruned_layers: tuple[int, int] | None  # the first and the last
    flops: Flops
    frames_auto: FrameBudget  # what `--frames auto` is
    # From how many questions on one unpruned prefill for all takes less than pruning for each; None
    # where it never does, or nothing is pruned.
    questions_to_share: int | None
    memory: dict[str, RunMemory]  # by kind of quantization
    assumed: Assumed


def find_target(model: str) -> Target:
    """The shapes of a model by alias, or from the configuration of one that is at hand."""
    if model == "auto":
        model = choose_auto(choose_device(model))
    known = cost.KNOWN_SHAPES.get(model.lower())
    if known is not None:
        return Target(model.lower(), known, cost.SO400M_RELEVANCE, DEFAULT_FRAMES)
    from transformers import LlavaOnevisionConfig, SiglipConfig

    checkpoint = find(model, offline=True)
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


def estimate_cost(
    profile: Profile, target: Target, frames: int | None = None, *, auto: bool = False
) -> CostEstimate:
    """The cost of one question under a profile, as far as it does not depend on the clip.

    `frames` is the profile's or the model's own number when omitted, and with `auto` that of
    `--frames auto`. A `UsageError` where the profile's layers or budget do not fit the model.
    """
    assumed, shape = Assumed(), target.shape
    language, per_frame = shape.language, shape.tokens_per_frame
    method = method_of(resolve_profile(profile, ModelContext(language.layers)))
    relevance = None
    if method.needs.encoder and target.relevance is not None:
        reads = method.needs.question_vector
        relevance = target.relevance if reads else target.relevance.without_text()
    default = profile.frames or target.frames
    budget = frame_budget(
        lambda count: method.token_schedule(count, per_frame, language),
        shape,
        default=default,
        most=frames_in_context(target.context - DEFAULT_NEW_TOKENS, TEXT_ROOM, shape),
    )
    frames = budget.frames if auto else frames or default
    schedule = method.token_schedule(frames, per_frame, language)
    counts, drops = schedule.visual_per_layer, schedule.drops
    full = (frames * per_frame,) * language.layers
    # Keys for these scores are projected of all that entered the layer before.
    keys = {layer: counts[layer - 1] + assumed.text_tokens for layer in schedule.score_rows}
    vanilla = cost.end_to_end_cost(
        shape,
        frames=frames,
        text_tokens=assumed.text_tokens,
        visual_per_layer=full,
        generated=assumed.generated,
    )
    pruned = cost.end_to_end_cost(
        shape,
        frames=frames,
        text_tokens=assumed.text_tokens,
        visual_per_layer=counts,
        generated=assumed.generated,
        score_rows=schedule.score_rows,
        score_keys=keys if schedule.own_layer else None,
        relevance=relevance,
    )
    share_from = None
    if drops:
        behind = assumed.text_tokens - assumed.text_before - 1
        share_from = questions_to_share(counts, full[0], assumed.text_before, behind, language)
    encoder = encoder_bytes(relevance, assumed.memory_dtype) if relevance is not None else 0
    memory = {}
    for kind, held in count_weights(shape).nbytes(assumed.memory_dtype).items():
        run = estimate_run(
            shape,
            dtype=assumed.memory_dtype,
            frames=frames,
            text_tokens=assumed.text_tokens,
            new_tokens=assumed.memory_generated,
            frames_at_once=frames_at_once(assumed.memory_device, shape.vision),
            visual_per_layer=counts,
            relevance=relevance,
            quantization=kind,
            device=assumed.memory_device,
        )
        memory[kind] = RunMemory(held + encoder, run.total)
    return CostEstimate(
        frames,
        counts,
        (drops[0], drops[-1]) if drops else None,
        flops_of(full, counts, vanilla, pruned, language),
        budget,
        share_from,
        memory,
        assumed,
    )
