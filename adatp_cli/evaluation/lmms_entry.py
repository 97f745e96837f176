"""What lmms-eval finds under the entry point `lmms_eval.models`."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The `ModelManifest` of model `adatp`; its class is imported when it is used."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("adatp", simple_class_path="adatp_cli.evaluation.lmms_adapter.AdaTP")
