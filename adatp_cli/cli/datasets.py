"""Options that say which dataset is looked at; `eval` and `bias` share them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.cli.open_model import OpenModel
from adatp_cli.cli.options import RunOptions, argument, option
from adatp_cli.errors import UsageError
from adatp_cli.text import plural

if TYPE_CHECKING:
    from adatp_cli.evaluation.questions import Dataset
    from adatp_cli.video.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(RunOptions):
    """What the commands that ask the questions of a dataset can be told."""

    dataset: str = argument(
        "DATASET",
        "shapes; videomme, mvbench, longvideobench, mlvu, egoschema or nextqa with "
        "--data; or a .jsonl file with video, question and answer.",
    )
    data: Path | None = option(
        "Dataset",
        "--data FOLDER",
        "Where the benchmark's files are, as they are downloaded and unpacked.",
    )
    annotations: Path | None = option(
        "Dataset", "--annotations FILE", "The annotation file, where it is not in its usual place."
    )
    clips: int = option("Dataset", "--clips N", "shapes: how many clips.", default=100)
    clips_seed: int = option(
        "Dataset", "--clips-seed N", "shapes: which clips; training saw none of any.", default=0
    )

    def check(self) -> None:
        super().check()
        if self.trace is not None:
            raise UsageError(
                "--trace holds one clip's choices, a dataset has many",
                "trace a clip with adatp ask",
            )
        if self.start is not None or self.end is not None:
            raise UsageError(
                "--start and --end are a clip's, and the dataset says what to look at",
                "leave them out",
            )
        if self.clips < 1:
            raise UsageError(f"--clips {self.clips} is not at least 1", "ask about some clips")
        if not 0 <= self.clips_seed < 2**63:
            raise UsageError(
                f"--clips-seed {self.clips_seed} is not a number from 0 to 2^63", "give another"
            )

    def open_dataset(self) -> Dataset:
        from adatp_cli.evaluation.datasets import SHAPES, open_dataset

        if self.dataset != SHAPES:
            return open_dataset(self.dataset, self.data, self.annotations)
        if self.data is not None or self.annotations is not None:
            raise UsageError(
                "shapes are generated, so there is nothing for --data and --annotations to name",
                "leave them out",
            )
        from adatp_cli.evaluation.datasets import shapes

        return shapes(self.clips, self.clips_seed)


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
