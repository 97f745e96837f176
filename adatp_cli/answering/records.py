"""What was measured of one answer, put into its record."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from adatp_cli import __version__
from adatp_cli.cost import EndToEnd, LanguageShape, end_to_end_cost, paper_cost
from adatp_cli.record import (
    AnswerRecord,
    EndToEndFlops,
    Flops,
    ModelInfo,
    PaperFlops,
    Seconds,
    SegmentFacts,
    TokenCounts,
    Versions,
    VideoFacts,
)

if TYPE_CHECKING:
    from adatp_cli.answering.encode import EncodedClip
    from adatp_cli.answering.events import Clip
    from adatp_cli.answering.generate import Generated, Request
    from adatp_cli.answering.plan import Plan
    from adatp_cli.model.load import LoadedModel
    from adatp_cli.video.frames import Frames


def answer_record(
    loaded: LoadedModel,
    plan: Plan,
    clip: Clip,
    question: str,
    request: Request,
    generated: Generated,
    *,
    load_s: float,
    prepared_s: float,
) -> AnswerRecord:
    """Everything that is told of one answer.

    `prepared_s` is the time from the prompt to the prefill: embedding the question where the method
    wants it, else planning alone.
    """
    peak = peak_memory(loaded.device)
    if peak is not None and clip.peak_memory_bytes is not None:
        peak = max(peak, clip.peak_memory_bytes)
    return AnswerRecord(
        video=clip.name,
        question=question,
        answer=generated.text,
        finish_reason=generated.finish_reason,
        model=model_info(loaded),
        profile=plan.profile.to_dict(),
        video_info=replace(video_facts(clip.frames), frames_copied=clip.encoded.copied),
        segments=_segment_facts(request, generated, clip.frames),
        tokens=_token_counts(generated, request.layout.visual),
        flops=_flops(loaded, plan, generated, request.layout.frames, clip.encoded.copied),
        seconds=_seconds(clip, generated, load_s, prepared_s, embeds=plan.needs.question_vector),
        peak_memory_bytes=peak,
        versions=versions(),
    )


def model_info(loaded: LoadedModel) -> ModelInfo:
    """Which weights answer, and where."""
    return ModelInfo(
        name=loaded.name,
        revision=loaded.revision,
        quantization=loaded.quantization,
        dtype=loaded.dtype,
        device=loaded.device,
        layers=loaded.shape.language.layers,
    )


def video_facts(frames: Frames) -> VideoFacts:
    """The clip as it was decoded."""
    info = frames.info
    return VideoFacts(
        decoder=info.decoder,
        codec=info.codec,
        width=info.width,
        height=info.height,
        fps=info.fps,
        duration_s=info.duration_s,
        frames_total=info.frames_total,
        frames_lost=info.frames_lost,
        frames_used=len(frames),
        timestamps_s=[float(moment) for moment in frames.timestamps_s],
        sample_aspect_ratio=info.sample_aspect_ratio,
    )


def _segment_facts(request: Request, generated: Generated, frames: Frames) -> list[SegmentFacts]:
    """The segments, and how many visual tokens of each reach the last layer."""
    table, layout = request.plan.segments, request.layout
    if table is None:
        return []
    steps = generated.report.steps
    kept = steps[-1].kept if steps else torch.arange(layout.visual)
    of_token = table.of_frames()[kept // layout.per_frame]
    counts = torch.bincount(of_token, minlength=len(table.weights)).tolist()
    relevance = table.segment_relevance
    return [
        SegmentFacts(
            first_frame=first,
            last_frame=end - 1,
            start_s=float(frames.timestamps_s[first]),
            end_s=float(frames.timestamps_s[end - 1]),
            relevance=relevance[number] if relevance else None,
            salient=table.salient[number],
            kept=int(counts[number]),
        )
        for number, (first, end) in enumerate(pairwise(table.bounds))
    ]


def _token_counts(generated: Generated, visual: int) -> TokenCounts:
    kept = generated.report.visual_per_layer
    return TokenCounts(
        text=generated.report.text_tokens,
        visual=visual,
        kept_per_layer=list(kept),
        kept_final=kept[-1],
        kept_mean_ratio=sum(kept) / (len(kept) * visual),
        generated=len(generated.ids),
        shared=generated.cached_tokens,
    )


def _flops(
    loaded: LoadedModel, plan: Plan, generated: Generated, frames: int, copied: int
) -> Flops:
    """Both counts of the cost, from what the layers saw; vanilla is the same answer unpruned.

    Of the clip's frames, those that were `copied` from others are in vanilla's count alone.

    Of a prefill that begins behind what an earlier question left, end to end counts what ran; the
    paper's count is one of tokens that layers look at, and the same as without.
    """
    shape, report = loaded.shape, generated.report
    everything = (frames * shape.tokens_per_frame,) * shape.language.layers
    pruned = end_to_end_cost(
        shape,
        frames=frames - copied,
        text_tokens=report.text_tokens,
        visual_per_layer=report.visual_per_layer,
        generated=len(generated.ids),
        score_rows=report.score_rows,
        score_keys=report.score_keys,
        choosing_macs=report.macs,
        relevance=plan.relevance_shape,
        cached_tokens=generated.cached_tokens,
    )
    vanilla = end_to_end_cost(
        shape,
        frames=frames,
        text_tokens=report.text_tokens,
        visual_per_layer=everything,
        generated=len(generated.ids),
    )
    return flops_of(everything, report.visual_per_layer, vanilla, pruned, shape.language)


def flops_of(
    everything: Sequence[int],
    visual_per_layer: Sequence[int],
    vanilla: EndToEnd,
    pruned: EndToEnd,
    shape: LanguageShape,
) -> Flops:
    """Both counts of the cost; without pruning `everything` enters each layer."""
    paper_vanilla, paper = paper_cost(everything, shape), paper_cost(visual_per_layer, shape)
    return Flops(
        PaperFlops(paper_vanilla, paper, paper / paper_vanilla),
        EndToEndFlops(
            vanilla=vanilla.total,
            pruned=pruned.total,
            ratio=pruned.total / vanilla.total,
            **asdict(pruned),
        ),
    )


def _seconds(
    clip: Clip, generated: Generated, load_s: float, prepared_s: float, *, embeds: bool
) -> Seconds:
    """Time per stage as if this question had been the only one, but for a prefill that was shared.

    `first_token` runs from opening the clip, with the loaded model at hand, to the first token;
    `total` has the loading too. Planning belongs to the prefill where no question is embedded.
    """
    encoded = clip.encoded
    relevance_s = encoded.relevance_s + (prepared_s if embeds else 0.0)
    prefill_s = (0.0 if embeds else prepared_s) + generated.first_token_s
    first_token_s = clip.decode_s + encoded.vision_s + relevance_s + prefill_s
    generate_s = generated.total_s - generated.first_token_s
    return Seconds(
        load=load_s,
        decode=clip.decode_s,
        vision=encoded.vision_s,
        relevance=relevance_s,
        prefill=prefill_s,
        first_token=first_token_s,
        generate=generate_s,
        total=load_s + first_token_s + generate_s,
    )


def own_seconds(whole: Seconds, encoded: EncodedClip) -> Seconds:
    """Of a question's seconds, what only it took: nothing of the clip's, and no loading."""
    relevance_s = whole.relevance - encoded.relevance_s
    first_token_s = relevance_s + whole.prefill
    return replace(
        whole,
        load=0.0,
        decode=0.0,
        vision=0.0,
        relevance=relevance_s,
        first_token=first_token_s,
        total=first_token_s + whole.generate,
    )


def versions() -> Versions:
    """Of what decides the numbers."""
    import transformers

    return Versions(__version__, str(torch.__version__), transformers.__version__)


def reset_peak_memory(device: str) -> None:
    """Start a new peak on a GPU; a CPU process has only the one of its life."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> int | None:
    """Most bytes held since `reset_peak_memory` on a GPU, else by the process in its whole life."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
