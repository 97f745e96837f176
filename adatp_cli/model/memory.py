"""How much memory a run takes, and how much there is.

Arithmetic on shapes, meant to refuse a run that cannot work before it starts: what is certainly
held at the same time, with one stated allowance for the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from adatp_cli.cost import COLOUR_CHANNELS, LanguageShape, ModelShape, RelevanceShape
from adatp_cli.errors import MemoryLimitError, UsageError
from adatp_cli.model.device import DTYPE_BYTES, QUANTIZATIONS, is_cuda
from adatp_cli.text import gigabytes, plural

# Allocator rounding, temporaries and library workspaces beside what is counted (our choice).
_ALLOWANCE = 1.1
# Share of the free memory that `auto` lets whole weights take, so that a run fits beside them (our
# choice).
_SHARE_FOR_WEIGHTS = 0.8
# Frames that the relevance encoder looks at in one go, as it does so in float32.
LOOKS_AT_ONCE = 16
# Fewer addresses than these do not hold PyTorch's libraries and their heap: importing it or a first
# product ends in one of a dozen ways, a crash among them.
_LEAST_ADDRESSES = 5 * 2**28
_RAISE_LIMIT = "raise it with ulimit -v unlimited"
# How libraries word a failed allocation; the second kind has other causes too.
_FAILED = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "cublas_status_alloc_failed",
    "bad_alloc",
    "failed to map segment",
)
_FAILED_UNDER_A_LIMIT = (
    "could not create a primitive",
    "can't start new thread",
    "error return without exception set",
)
# On a CPU up to 2.7 times what was counted was held, ten times in int8, the rest being holes in the
# heap (docs/memory.md). Where so much is free they do no harm.
_ROOM_FOR_HOLES, _ROOM_FOR_INT8_HOLES = 3, 10
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
_APART = 2**20
_USUAL = 32 * 2**20  # what glibc sets by itself once large blocks have been freed


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one answered question needs beside the weights."""

    frames: int  # as decoded; they stay in the CPU's memory, 0 where the model is elsewhere
    clip: int  # its visual tokens, which wait for the next question
    vision: int  # one pass of tower and projector: its pixels and its largest layer
    relevance: int  # the pooling head on a pass's frames; the text tower's pass is smaller
    # Thinning the clip out before the language model, where the profile does: at most two and a
    # half copies of its tokens in float32.
    choosing: int
    kv_cache: int  # keys and values of every layer, prompt and answer
    # The decoder's largest layer with the keys and values that are there by then, and the
    # embeddings that went in.
    prefill: int

    @property
    def total(self) -> int:
        """Bytes at the peak; the stages follow each other, so the largest of them counts."""
        stages = (self.vision, self.relevance, self.choosing, self.kv_cache, self.prefill)
        return int(_ALLOWANCE * (self.frames + self.clip + max(stages)))


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
    quantization: str = "none",
    device: str = "cuda",
) -> MemoryEstimate:
    """The bytes of one run: tensors, as PyTorch gives them out.

    `text_tokens` are those of the prompt that are not visual, `new_tokens` the most of an answer.
    In one pass the tower encodes `frames_at_once`, or all frames; `visual_per_layer` visual tokens
    enter the layers, or all of them every layer; `relevance` is the encoder, if one runs.
    """
    size, text = DTYPE_BYTES[dtype], shape.language
    on_cpu = device == "cpu"
    visual = frames * shape.tokens_per_frame
    per_layer = visual_per_layer or [visual] * text.layers
    tokens = [count + text_tokens for count in per_layer]
    per_token = 2 * text.kv_heads * text.head_dim * size
    at_once = min(frames, frames_at_once or frames)
    layers = (
        cached * per_token + _decoder_layer(text, count, size, quantization, on_cpu)
        for count, cached in zip(tokens, accumulate(tokens), strict=True)
    )
    # The tower's output, and of the frames that are looked at the float32 and the normed copy.
    patch = at_once * size + 2 * min(at_once, LOOKS_AT_ONCE) * 4
    pooling = shape.vision.patches * shape.vision.hidden * patch
    # The library copies what went in; sine and cosine of its positions go through all layers.
    entered = 2 * tokens[0] * (text.hidden + text.head_dim) * size
    return MemoryEstimate(
        frames=frames * COLOUR_CHANNELS * shape.vision.image_size**2 if on_cpu else 0,
        clip=visual * text.hidden * size,
        vision=_vision_pass(shape, at_once, size),
        relevance=pooling if relevance is not None else 0,
        choosing=10 * visual * text.hidden if per_layer[0] < visual else 0,
        kv_cache=(sum(tokens) + text.layers * new_tokens) * per_token,
        prefill=max(layers) + entered + text.vocab * 8,
    )


def _vision_pass(shape: ModelShape, frames: int, size: int) -> int:
    """Pixels in float32, and the wider of the tower's MLP and the projector with its pooling."""
    tower, width = shape.vision, shape.language.hidden
    pixels = frames * COLOUR_CHANNELS * tower.image_size**2 * 4
    # What entered the layer, the residual stream and its normed copy, then the two of the MLP.
    layer = 3 * tower.hidden + 2 * tower.intermediate
    # The tower's output with and without its last norm; what the projector makes of it, a copy in
    # the pooling's order and one of the interpolation, and the pooled quarter.
    projector = 2 * tower.hidden + 3 * width + (width + 3) // 4
    return pixels + frames * tower.patches * max(layer, projector) * size


def _decoder_layer(
    text: LanguageShape, tokens: int, size: int, quantization: str, on_cpu: bool
) -> int:
    """What one layer holds of `tokens` at once, at its widest: in the gated MLP.

    What entered it, the residual stream and its normed copy; then gate, up and their product, or
    less of these and what multiplying by a quantized matrix takes.
    """
    stream = 3 * tokens * text.hidden * size
    wide = tokens * text.intermediate
    widest = 3 * wide * size
    matrix = text.hidden * text.intermediate
    if quantization == "int8":
        # Whole numbers of 4 bytes; on the CPU three float32 arrays to scale them, or before that,
        # without AVX-512, the matrix in float32; elsewhere float16 and a copy in the model's type.
        scaled = max(16 * wide, 8 * wide + 4 * matrix) if on_cpu else (6 + size) * wide
        widest = max(widest, wide * size + scaled)
    elif quantization != "none":
        # The whole matrix unpacked: on the CPU once, into numbers of 4 bytes and repacked by way of
        # 3 more; elsewhere each time, into the model's type.
        unpacked = 7 * matrix if on_cpu else (wide + matrix) * size
        widest = max(widest, wide * size + unpacked)
    return stream + widest


def available_memory(device: str) -> int | None:
    """Bytes that a new allocation on the device could get; None where the system does not say."""
    if is_cuda(device):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        # What torch has reserved and does not use it gives out before it asks the driver.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    limits = [int(psutil.virtual_memory().available), cgroup_available()]
    if (addresses := address_space_limit()) is not None:
        limits.append(max(0, addresses - int(psutil.Process().memory_info().vms)))
    return min(limit for limit in limits if limit is not None)


def address_space_limit() -> int | None:
    """Bytes of addresses that this process may take (`ulimit -v`); None without a limit."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def check_address_space() -> None:
    """Refuse a limit on addresses under which libraries crash, before they are imported."""
    limit = address_space_limit()
    if limit is not None and limit < _LEAST_ADDRESSES:
        raise MemoryLimitError(
            f"{_limited(limit)}, and PyTorch alone needs {_LEAST_ADDRESSES / 2**30:.1f}",
            _RAISE_LIMIT,
        )


def out_of_memory(doing: str, hint: str) -> MemoryLimitError:
    """The error for an allocation that failed; `doing` is as in `while loading tiny`, or empty.

    A limit of the shell's is named where there is one.
    """
    limit = address_space_limit()
    told = f"the memory ran out {doing}".rstrip()
    if limit is None:
        return MemoryLimitError(told, hint)
    return MemoryLimitError(f"{told}: {_limited(limit)}", f"{_RAISE_LIMIT}; {hint}")


def _limited(limit: int) -> str:
    return f"this process may take {limit / 2**30:.1f} GiB of addresses (ulimit -v)"


def cgroup_available(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Bytes left under the tightest memory limit of this process's control groups; None without.

    A container's limit shows neither in the machine's own figures nor in psutil's. Pages of files
    that the kernel can drop count as free, as they do there.
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
            mount, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            group = mount.joinpath(*parts[:depth])
            with contextlib.suppress(OSError, ValueError):  # `max` among them
                limit, used = (int((group / name).read_text()) for name in names[:2])
                held = (group / "memory.stat").read_text().split()
                droppable = dict(zip(held[::2], held[1::2], strict=False)).get(names[2], 0)
                if limit < 2**60:  # version 1 writes "no limit" as a number close to the largest
                    left.append(max(limit - used + int(droppable), 0))
    return min(left, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is a failed allocation; only its wording shows one on the CPU."""
    torch = sys.modules.get("torch")  # where it is not loaded, it raised nothing
    if isinstance(error, (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))):
        return True
    if not isinstance(error, (RuntimeError, ImportError, OSError, SystemError)):
        return False
    text = str(error).lower()
    phrases = _FAILED if address_space_limit() is None else _FAILED + _FAILED_UNDER_A_LIMIT
    return any(phrase in text for phrase in phrases)


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn an allocation that failed after all into the error that says what helps."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryLimitError) or not is_out_of_memory(error):
            raise
        raise out_of_memory(
            f"while {doing}",
            "fewer --frames, --quantize nf4 or a smaller model (-m 0.5b, -m tiny) needs less",
        ) from error


def fitting_quantization(
    requested: str,
    sizes: Mapping[str, int],
    *,
    device: str,
    model: str,
    progress: Callable[[str], None],
) -> str:
    """Resolve the quantization, and refuse weights that cannot fit.

    `sizes` are the bytes of all weights that will be loaded, by kind of quantization. `auto` is nf4
    on CUDA where whole weights do not leave room for a run, else none. On the CPU it never
    quantizes: the prefill is slower there, though further tokens are faster in nf4
    (docs/memory.md), and whole weights give the answers of the model as it is.
    """
    free, quantization = available_memory(device), requested
    if requested == "auto":
        quantization = "none"
        if is_cuda(device) and free is not None and sizes["none"] > _SHARE_FOR_WEIGHTS * free:
            quantization = "nf4"
            progress("quantization auto: nf4, as the whole weights leave too little room")
    elif requested not in QUANTIZATIONS:
        raise UsageError(
            f"--quantize {requested!r} is not known", f"use auto, {', '.join(QUANTIZATIONS)}"
        )
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


class Placed(Protocol):
    """What a run's estimate has to know of a loaded model; load.py imports this file."""

    shape: ModelShape
    name: str
    quantization: str
    dtype: str
    device: str


def check_run(
    loaded: Placed,
    *,
    frames: int,
    text_tokens: int,
    new_tokens: int,
    frames_at_once: int | None = None,
    visual_per_layer: Callable[[int], Sequence[int]] | None = None,
    relevance: RelevanceShape | None = None,
) -> None:
    """Refuse a run that does not fit, saying what would; nothing where free memory is unknown.

    Where it just fits a CPU's memory, the C library is set to give large blocks back. Parameters
    are as for `estimate_run`; `visual_per_layer` gives that one for a number of frames.
    """

    def needed(count: int) -> int:
        return estimate_run(
            loaded.shape,
            dtype=loaded.dtype,
            frames=count,
            text_tokens=text_tokens,
            new_tokens=new_tokens,
            frames_at_once=frames_at_once,
            visual_per_layer=None if visual_per_layer is None else visual_per_layer(count),
            relevance=relevance,
            quantization=loaded.quantization,
            device=loaded.device,
        ).total

    wanted, available = needed(frames), available_memory(loaded.device)
    if available is None:
        return
    if wanted <= available:
        room = _ROOM_FOR_INT8_HOLES if loaded.quantization == "int8" else _ROOM_FOR_HOLES
        if loaded.device == "cpu" and available < room * wanted:
            _map_apart_from(_APART)
        return
    fitting = bisect_right(range(1, frames), available, key=needed)
    choices = [f"--frames {fitting} would fit"] if fitting else []
    if loaded.quantization == "none":
        choices.append("--quantize nf4 frees most of the weights' memory")
    choices.append(_smaller_model(loaded.name))
    raise MemoryLimitError(
        f"{plural(frames, 'frame needs', 'frames need')} about {gigabytes(wanted)} beside the "
        f"model, and {loaded.device} has {gigabytes(available)} free",
        "; ".join(choices),
    )


def _smaller_model(model: str) -> str:
    return "close other programs" if model == "tiny" else "-m 0.5b or -m tiny is smaller"


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Have glibc map blocks of a mebibyte and more one by one meanwhile, and then as usual."""
    _map_apart_from(_APART)
    try:
        yield
    finally:
        _map_apart_from(_USUAL)


def _map_apart_from(size: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, size)
        library.mallopt(_TRIM_THRESHOLD, 2 * size)
