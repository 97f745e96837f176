"""A run over many clips: its rows as they come, and the file that they go to."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adatp_cli.cli.errors import info_of, interrupts
from adatp_cli.cli.open_model import OpenModel
from adatp_cli.cli.options import RunOptions
from adatp_cli.cli.output import BatchProgress, Output

if TYPE_CHECKING:
    from adatp_cli.answering.run import Row
    from adatp_cli.answering.tasks import ClipTask
    from adatp_cli.batch.prefetch import Throughput
    from adatp_cli.batch.results import ResultFile
    from adatp_cli.video.frames import FrameReader, Frames
    from adatp_cli.video.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Running:
    rows: Iterator[Row]  # each as soon as it is known; ends early at Ctrl-C
    progress: BatchProgress  # to be advanced with each row
    total: int  # rows that are to come
    before: Mapping[str, bool]  # rows that the file has already, by key; True: an answer
    throughput: Throughput
    interrupted: Callable[[], bool]

    @property
    def left(self) -> int:
        """Rows that did not come."""
        return self.total - self.progress.rows


@contextlib.contextmanager
def running(
    planned: Sequence[ClipTask],
    opened: OpenModel,
    sampling: Sampling,
    options: RunOptions,
    output: Output,
    noun: str,
    *,
    file: ResultFile | None = None,
    retry_failed: bool = False,
    on_stdout: bool = False,
    decoders: int = 1,
    **loop: Any,
) -> Iterator[Running]:
    """Decode the next clips while one is answered, and show how many `noun` are done.

    `file` has rows of an earlier run; what `retry_failed` asks again is taken out of it. With
    `on_stdout` rows go there. `loop` is what `RunLoop` is told.
    """
    from adatp_cli.answering.run import RunLoop
    from adatp_cli.batch.prefetch import FramePrefetcher
    from adatp_cli.batch.row_format import without
    from adatp_cli.video.isolated import IsolatedReader

    keys = dict.fromkeys(ask.key for task in planned for ask in task.asks)
    if file is not None and retry_failed:
        file.forget_failed(keys)
    before = {} if file is None else {key: file.done[key] for key in keys if key in file.done}
    total = len(keys) - len(before)
    seen = (on_stdout and sys.stdout.isatty()) or (file is not None and file.on_terminal)
    resize = opened.runs[0].session.plan.resize

    def read_by(reader: FrameReader) -> Callable[[ClipTask], Frames]:
        return lambda task: task.clip.read(reader, sampling, resize)

    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(IsolatedReader(options.limits())) for _ in range(max(1, decoders))
        ]
        stop = stack.enter_context(interrupts(output.note))
        prefetcher = stack.enter_context(
            FramePrefetcher(without(planned, before), *map(read_by, readers), ahead=decoders > 0)
        )
        progress = stack.enter_context(output.progress(total, noun, rows_seen=seen))
        rows = RunLoop(info_of, **loop).rows(prefetcher.results(stop), stop)
        yield Running(rows, progress, total, before, prefetcher.throughput, stop)


def open_results(
    path: Path | None,
    output: Output,
    *,
    form: str = "jsonl",
    resume: bool,
    overwrite: bool,
) -> AbstractContextManager[ResultFile | None]:
    """The file that rows go to, where there is one."""
    from adatp_cli.batch.results import ResultFile

    if path is None:
        return nullcontext()
    file = ResultFile.open(path, format=form, resume=resume, overwrite=overwrite)
    output.note(*file.notes)
    return file
