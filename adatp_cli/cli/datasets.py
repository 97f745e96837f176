"""Options that say which dataset is looked at; `eval` and `bias` share them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adatp_cli.cli.open_model import OpenModel
from adatp_cli.cli.options import RunOptions
from adatp_cli.errors import UsageError
from adatp_cli.text import plural

if TYPE_CHECKING:
    from adatp_cli.evaluation.questions import Dataset
    from adatp_cli.video.sampling import Sampling

_DATASET = "Dataset"

DatasetName = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        show_default=False,
        help="shapes; videomme, mvbench, longvideobench, mlvu, egoschema or nextqa with "
        "--data; or a .jsonl file with video, question and answer.",
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        rich_help_panel=_DATASET,
        help="Where the benchmark's files are, as they are downloaded and unpacked.",
    ),
]
AnnotationsFile = Annotated[
    Path | None,
    typer.Option(
        "--annotations",
        metavar="FILE",
        rich_help_panel=_DATASET,
        help="The annotation file, where it is not in its usual place.",
    ),
]
ClipCount = Annotated[
    int,
    typer.Option("--clips", metavar="N", rich_help_panel=_DATASET, help="shapes: how many clips."),
]
ClipsSeed = Annotated[
    int,
    typer.Option(
        "--clips-seed",
        metavar="N",
        rich_help_panel=_DATASET,
        help="shapes: which clips; training saw none of any.",
    ),
]


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What those options say."""

    name: str
    data: Path | None
    annotations: Path | None
    clips: int
    clips_seed: int

    def check(self) -> None:
        """What can be said before anything is read.

        Raises
        ------
        UsageError
            A value out of range.
        """
        if self.clips < 1:
            raise UsageError(f"--clips {self.clips} is not at least 1", "ask about some clips")
        if not 0 <= self.clips_seed < 2**63:
            raise UsageError(
                f"--clips-seed {self.clips_seed} is not a number from 0 to 2^63", "give another"
            )

    def open(self) -> Dataset:
        """The dataset.

        Raises
        ------
        UsageError, ModelError
            There is none of that name, or the files do not fit.
        """
        from adatp_cli.evaluation.datasets import SHAPES, open_dataset

        if self.name != SHAPES:
            return open_dataset(self.name, self.data, self.annotations)
        if self.data is not None or self.annotations is not None:
            raise UsageError(
                "shapes are generated, so there is nothing for --data and --annotations to name",
                "leave them out",
            )
        from adatp_cli.evaluation.datasets.shapes import shapes

        return shapes(self.clips, self.clips_seed)


def check_shared(options: RunOptions) -> None:
    """Refuse shared options that are about one clip.

    Raises
    ------
    UsageError
        One of them was given.
    """
    if options.trace is not None:
        raise UsageError(
            "--trace holds one clip's choices, a dataset has many", "trace a clip with adatp ask"
        )
    if options.start is not None or options.end is not None:
        raise UsageError(
            "--start and --end are a clip's, and the dataset says what to look at", "leave them out"
        )


def facts(dataset: Dataset, opened: OpenModel, sampling: Sampling) -> list[str]:
    """What was run, for a report."""
    items, model, versions = dataset.items, opened.model, opened.versions
    weights = model.dtype if model.quantization == "none" else model.quantization
    looked = f"{plural(sampling.frames, 'frame')} a clip" if sampling.frames else ""
    if sampling.fps is not None:
        looked = f"{sampling.fps:g} frames a second" + (f", at most {looked}" if looked else "")
    clips = len({item.clip for item in items})
    return [
        f"{plural(len(items), 'question')} about {plural(clips, 'clip')}, {looked}",
        f"model {model.name} ({model.revision or 'local'}) in {weights} on {model.device}",
        f"adatp {versions.adatp}, torch {versions.torch}, transformers {versions.transformers}",
    ]
