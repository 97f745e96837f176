"""What does not fit the memory is refused before it starts, with what would fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from adatp_cli.cost import RelevanceShape
from adatp_cli.errors import MemoryLimitError
from adatp_cli.model.device import is_cuda
from adatp_cli.model.heap import keep_large_blocks_apart
from adatp_cli.model.memory import available_memory, estimate_run
from adatp_cli.model.quantize import choose_quantization
from adatp_cli.text import plural

if TYPE_CHECKING:
    from adatp_cli.model.load import LoadedModel

# On a CPU up to 2.7 times what was counted was held, ten times in int8, the rest being holes in the
# heap (docs/memory.md). Where so much is free they do no harm.
_ROOM_FOR_HOLES, _ROOM_FOR_INT8_HOLES = 3, 10


def fitting_quantization(
    requested: str,
    sizes: Mapping[str, int],
    *,
    device: str,
    model: str,
    progress: Callable[[str], None],
) -> str:
    """Resolve the quantization, and refuse weights that cannot fit.

    Parameters
    ----------
    requested
        `auto`, or one of `sizes`.
    sizes
        Kind of quantization to bytes of all weights that will be loaded.
    device, model
        Where they go, and what the error calls them.
    progress
        Told what `auto` came to, where that is a quantization.

    Raises
    ------
    MemoryLimitError
        They do not fit.
    """
    free = available_memory(device)
    quantization = choose_quantization(
        requested, cuda=is_cuda(device), weights=sizes["none"], free=free
    )
    if requested == "auto" and quantization != "none":
        progress(f"quantization auto: {quantization}, as the whole weights leave too little room")
    if free is None or sizes[quantization] <= free:
        return quantization
    choices = []
    if quantization == "none" and sizes["nf4"] <= free:
        choices.append(f"--quantize nf4 needs {gigabytes(sizes['nf4'])}")
    choices.append(_smaller_model(model))
    raise MemoryLimitError(
        f"{model} needs {gigabytes(sizes[quantization])} for its weights ({quantization} "
        f"quantization), and {device} has {gigabytes(free)} free",
        "; ".join(choices),
    )


def most_frames(estimate: Callable[[int], int], available: int, upper: int) -> int:
    """The largest number of frames, at most `upper`, whose estimate fits; 0 when none does.

    Parameters
    ----------
    estimate
        Frames to bytes, growing with the frames.
    """
    low, high = 0, upper
    while low < high:
        middle = (low + high + 1) // 2
        if estimate(middle) <= available:
            low = middle
        else:
            high = middle - 1
    return low


def check_clip(
    loaded: LoadedModel,
    *,
    frames: int,
    text_tokens: int,
    new_tokens: int,
    at_once: Callable[[int], int],
    visual_per_layer: Callable[[int], Sequence[int]] | None = None,
    relevance: RelevanceShape | None = None,
) -> None:
    """`check_run` for a loaded model.

    Parameters
    ----------
    frames, text_tokens, new_tokens, relevance
        As for `estimate_run`.
    at_once, visual_per_layer
        Frames of a clip to that function's `frames_at_once` and `visual_per_layer`.

    Raises
    ------
    MemoryLimitError
        It does not fit.
    """

    def needed(count: int) -> int:
        return estimate_run(
            loaded.shape,
            dtype=loaded.dtype,
            frames=count,
            text_tokens=text_tokens,
            new_tokens=new_tokens,
            frames_at_once=at_once(count),
            visual_per_layer=None if visual_per_layer is None else visual_per_layer(count),
            relevance=relevance,
            quantization=loaded.quantization,
            device=loaded.device,
        ).total

    check_run(
        needed,
        frames=frames,
        device=loaded.device,
        quantization=loaded.quantization,
        model=loaded.name,
    )


def check_run(
    estimate: Callable[[int], int],
    *,
    frames: int,
    device: str,
    quantization: str,
    model: str,
) -> None:
    """Refuse a run that does not fit, saying what would; nothing where free memory is unknown.

    Where it just fits a CPU's memory, the C library is told to give back what it can.

    Parameters
    ----------
    estimate
        Frames to bytes beside the weights, which are loaded already.
    frames
        Frames asked for.
    device, quantization, model
        What is loaded, for the sentence about what would fit.

    Raises
    ------
    MemoryLimitError
        It does not fit.
    """
    needed, available = estimate(frames), available_memory(device)
    if available is None:
        return
    if needed <= available:
        room = _ROOM_FOR_INT8_HOLES if quantization == "int8" else _ROOM_FOR_HOLES
        if device == "cpu" and available < room * needed:
            keep_large_blocks_apart()
        return
    fitting = most_frames(estimate, available, frames - 1)
    choices = [f"--frames {fitting} would fit"] if fitting else []
    if quantization == "none":
        choices.append("--quantize nf4 frees most of the weights' memory")
    choices.append(_smaller_model(model))
    raise MemoryLimitError(
        f"{plural(frames, 'frame needs', 'frames need')} about {gigabytes(needed)} beside the "
        f"model, and {device} has {gigabytes(available)} free",
        "; ".join(choices),
    )


def gigabytes(count: int) -> str:
    """Binary gigabytes with one digit, as memory is sold."""
    return f"{count / 2**30:.1f} GiB"


def _smaller_model(model: str) -> str:
    return "close other programs" if model == "tiny" else "-m 0.5b or -m tiny is smaller"
