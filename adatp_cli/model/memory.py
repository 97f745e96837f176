"""How much memory a run takes, how much there is, and what would fit when it does not.

The estimate is arithmetic on shapes. It is meant to refuse a run that cannot work before it starts,
so it counts what is certainly held at the same time, with one stated allowance for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adatp_cli.cost import ModelShape, RelevanceShape
from adatp_cli.errors import MemoryLimitError

# Allocator rounding, temporaries and library workspaces beside what is counted (our choice).
_ALLOWANCE = 1.1
_PIXEL_BYTES = 4
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one answered question needs beside the weights.

    Parameters
    ----------
    pixels
        The frames as the vision tower gets them.
    vision
        The tower's and projector's largest layer on the frames that are encoded at once, and the
        tokens that are kept.
    relevance
        The pooling head on the frames encoded at once; the text tower's pass is smaller.
    kv_cache
        Keys and values of every layer, prompt and answer.
    activations
        The decoder's largest layer during prefill, and the logits of one position.
    """

    pixels: int
    vision: int
    relevance: int
    kv_cache: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes at the peak; vision and prefill follow each other, so the larger of them counts."""
        held = self.pixels + self.kv_cache
        return int(_ALLOWANCE * (held + max(self.vision + self.relevance, self.activations)))


def estimate_run(
    shape: ModelShape,
    *,
    dtype: str,
    frames: int,
    text_tokens: int,
    new_tokens: int,
    frames_at_once: int | None = None,
    visual_per_layer: Sequence[int] | None = None,
    relevance: RelevanceShape | None = None,
) -> MemoryEstimate:
    """Estimate the bytes of one run.

    Parameters
    ----------
    shape
        The model.
    dtype
        `float32`, `bfloat16` or `float16`.
    frames, text_tokens, new_tokens
        Frames of the clip, prompt tokens that are not visual, most answer tokens.
    frames_at_once
        Frames that the vision tower encodes in one pass; all of them when omitted.
    visual_per_layer
        Visual tokens that enter each layer; all of them in every layer when omitted.
    relevance
        The relevance encoder, if one runs.
    """
    size, text, tower = DTYPE_BYTES[dtype], shape.language, shape.vision
    visual = frames * shape.tokens_per_frame
    per_layer = visual_per_layer or [visual] * text.layers
    at_once = min(frames, frames_at_once or frames) * tower.patches

    cached = sum(count + text_tokens + new_tokens for count in per_layer)
    prompt = visual + text_tokens
    attention = (2 * text.heads + 2 * text.kv_heads) * text.head_dim
    # Residual stream, its normed copy and float32 norm, then the wider of attention and gated MLP.
    decoder = prompt * (4 * text.hidden + max(attention, 3 * text.intermediate)) * size
    layer = at_once * (3 * tower.hidden + max(4 * tower.hidden, 2 * tower.intermediate)) * size
    projector = at_once * (tower.hidden + 3 * text.hidden) * size
    kept = (visual * text.hidden + frames * tower.patches * tower.hidden) * size
    pooled = 3 * at_once * relevance.head_hidden * 4 if relevance else 0
    return MemoryEstimate(
        pixels=frames * 3 * tower.image_size**2 * _PIXEL_BYTES,
        vision=max(layer, projector) + kept,
        relevance=pooled,
        kv_cache=2 * cached * text.kv_heads * text.head_dim * size,
        activations=decoder + 2 * visual * text.hidden * size + text.vocab * 8,
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


def check_run(
    estimate: Callable[[int], int],
    *,
    frames: int,
    available: int | None,
    device: str,
    quantization: str,
    model: str,
) -> None:
    """Refuse a run that does not fit, saying what would.

    Parameters
    ----------
    estimate
        Frames to bytes beside the weights, which are loaded already.
    frames
        Frames asked for.
    available
        Free bytes on the device; None when unknown, and then nothing is refused.
    device, quantization, model
        What is loaded, for the sentence about what would fit.

    Raises
    ------
    MemoryLimitError
        It does not fit.
    """
    needed = estimate(frames)
    if available is None or needed <= available:
        return
    fitting = most_frames(estimate, available, frames - 1)
    choices = [f"--frames {fitting} would fit"] if fitting else []
    if quantization == "none":
        choices.append("--quantize nf4 frees most of the weights' memory")
    choices.append(_smaller_model(model))
    raise MemoryLimitError(
        f"{frames} frames need about {gigabytes(needed)} beside the model, and {device} has "
        f"{gigabytes(available)} free",
        "; ".join(choices),
    )


def check_weights(
    needed: int,
    *,
    available: int | None,
    device: str,
    quantization: str,
    model: str,
    quantized: int,
) -> None:
    """Refuse to load weights that do not fit, saying what would.

    Parameters
    ----------
    needed
        Bytes of the weights as they would be loaded.
    available
        Free bytes on the device; None when unknown, and then nothing is refused.
    quantized
        Bytes of the weights in nf4.

    Raises
    ------
    MemoryLimitError
        They do not fit.
    """
    if available is None or needed <= available:
        return
    choices = []
    if quantization == "none" and quantized <= available:
        choices.append(f"--quantize nf4 needs {gigabytes(quantized)}")
    choices.append(_smaller_model(model))
    raise MemoryLimitError(
        f"{model} needs {gigabytes(needed)} for its weights ({quantization} quantization), and "
        f"{device} has {gigabytes(available)} free",
        "; ".join(choices),
    )


def gigabytes(count: int) -> str:
    """Binary gigabytes with one digit, as memory is sold."""
    return f"{count / 2**30:.1f} GiB"


def _smaller_model(model: str) -> str:
    return "close other programs" if model == "tiny" else "-m 0.5b or -m tiny is smaller"


def available_memory(device: str) -> int | None:
    """Bytes that a new allocation on the device could get; None when the system does not say."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        # What torch has reserved and does not use it gives out before it asks the driver.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    limits = [int(psutil.virtual_memory().available)]
    group = cgroup_available()
    if group is not None:
        limits.append(group)
    return min(limits)


def cgroup_available(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Bytes left under the tightest memory limit of the control groups that this process is in.

    A container's limit does not show in the machine's own figures. Pages of files that the kernel
    can drop count as free, as they do in the machine's figures.

    Parameters
    ----------
    root, own
        Where the control groups are mounted, and where the process finds its place in them.

    Returns
    -------
    int or None
        None without a limit.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    left = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            left += _left_along(root, path, names)
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            left += _left_along(root / "memory", path, names)
    return min(left, default=None)


def _left_along(root: Path, path: str, names: tuple[str, str, str]) -> list[int]:
    """What is left in each group from the root down to the process's own."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    groups = [root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return [left for group in groups if (left := _left_in(group, *names)) is not None]


def _left_in(group: Path, limit_name: str, used_name: str, cache_name: str) -> int | None:
    try:
        limit_text = (group / limit_name).read_text().strip()
        used = int((group / used_name).read_text())
        statistics = (group / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return None
    # Version 1 writes "no limit" as a number close to the largest one.
    if limit_text == "max" or int(limit_text) >= 2**60:
        return None
    pairs = dict(zip(statistics[::2], statistics[1::2], strict=False))
    return max(int(limit_text) - used + int(pairs.get(cache_name, 0)), 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is a failed allocation, on a GPU or on the CPU.

    On the CPU torch raises a plain RuntimeError; only its allocator's wording tells it apart.
    """
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        phrase in text
        for phrase in (
            "not enough memory",
            "can't allocate memory",
            "out of memory",
            "cublas_status_alloc_failed",
        )
    )


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn an allocation that failed after all into the error that says what helps.

    Raises
    ------
    MemoryLimitError
        In place of what the allocation raised.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryLimitError) or not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            f"the memory ran out while {doing}",
            "fewer --frames, --quantize nf4 or a smaller model (-m 0.5b, -m tiny) needs less",
        ) from error
