"""The layouts that datasets come in, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from adatp_cli.errors import UsageError
from adatp_cli.evaluation.layouts import (
    egoschema,
    longvideobench,
    mlvu,
    mvbench,
    nextqa,
    plain,
    videomme,
)
from adatp_cli.evaluation.questions import Dataset
from adatp_cli.profile_yaml import nearest
from adatp_cli.video.source import printable

SHAPES = "shapes"

# Each reads a folder, and annotations that are not in their usual place.
LAYOUTS: Mapping[str, Callable[[Path, Path | None], Dataset]] = {
    "videomme": videomme.read,
    "mvbench": mvbench.read,
    "longvideobench": longvideobench.read,
    "mlvu": mlvu.read,
    "egoschema": egoschema.read,
    "nextqa": nextqa.read,
}


def open_dataset(name: str, folder: Path | None, annotations: Path | None) -> Dataset:
    """A dataset on this machine, by the name of its layout or the path of a .jsonl file.

    Raises
    ------
    UsageError, ModelError
        There is no such layout or file, or the files do not fit.
    """
    if name in LAYOUTS:
        if folder is None:
            raise UsageError(f"{name} is read from a folder", "name it with --data FOLDER")
        return LAYOUTS[name](folder, annotations)
    if not name.endswith(plain.EXTENSION):
        raise UsageError(
            f"there is no dataset {printable(name)!r}{nearest(name, (SHAPES, *LAYOUTS))}",
            f"one of {SHAPES}, {', '.join(LAYOUTS)}, or a {plain.EXTENSION} file",
        )
    if annotations is not None:
        raise UsageError(f"{printable(name)} is its own annotation file", "leave --annotations out")
    return plain.read(Path(name), folder)
