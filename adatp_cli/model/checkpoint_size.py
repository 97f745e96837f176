"""What a checkpoint's weights take once loaded, from its files' headers or its config.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from adatp_cli.cost import ModelShape
from adatp_cli.errors import ModelError
from adatp_cli.model.layout import read_json, weight_headers
from adatp_cli.model.quiet import readable_failures
from adatp_cli.model.shapes import model_shape
from adatp_cli.model.transfer import readable_bytes
from adatp_cli.model.weights import WeightCount, count_weights

# The decoder's matrices, in the tensor names of both the published files and of the classes.
_QUANTIZED = re.compile(r"language_model\.(model\.)?layers\.\d+\..*\.weight$")
_HEAD = re.compile(r"(^|\.)lm_head\.weight$")


def weight_bytes(folder: Path, dtype: str) -> dict[str, int]:
    """Bytes of a checkpoint's weights once loaded, for each kind of quantization.

    Counted in the headers of its files. A head that stands in a file beside the embedding that it
    is tied to, as in the published 0.5B's, is not loaded a second time.
    """
    headers = weight_headers(folder)
    tied = _is_tied(read_json(folder / "config.json"))
    decoder = rest = 0
    for header in headers:
        for entry in header.tensors.values():
            if len(entry.shape) == 2 and _QUANTIZED.search(entry.name):
                decoder += entry.elements
            elif not (tied and _HEAD.search(entry.name)):
                rest += entry.elements
    return WeightCount(decoder, rest).nbytes(dtype)


def configured_shape(folder: Path) -> ModelShape:
    """The dimensions that a folder's config.json gives.

    Raises
    ------
    ModelError
        It gives none, or such as no model has.
    """
    from transformers import LlavaOnevisionConfig

    with readable_failures(str(folder)):
        config: Any = LlavaOnevisionConfig.from_pretrained(folder, local_files_only=True)
        return model_shape(config)


def check_count(name: str, folder: Path, dtype: str) -> None:
    """Refuse weights of another size than config.json tells, which would be made up in memory.

    Raises
    ------
    ModelError
        Files and configuration differ by a quarter or more.
    """
    held = weight_bytes(folder, dtype)["none"]
    wanted = count_weights(configured_shape(folder)).nbytes(dtype)["none"]
    if not 0.8 < held / wanted < 1.25:
        raise ModelError(
            f"{name}'s config.json describes {readable_bytes(wanted)} of weights, and its files "
            f"hold {readable_bytes(held)}",
            "use a LLaVA-OneVision checkpoint whose config.json belongs to its weights",
        )


def _is_tied(config: dict[str, Any]) -> bool:
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    return bool(config.get("tie_word_embeddings") or inner)
