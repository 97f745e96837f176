"""`adatp batch`: many clips, a row for every question, and nothing that stops it."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adatp_cli.cli.errors import INTERRUPTED, SOME_FAILED, Interrupts, failure_of
from adatp_cli.cli.open_model import OpenModel, open_model
from adatp_cli.cli.options import (
    RESUME,
    RETRY_FAILED,
    RunOptions,
    argument,
    check_resuming,
    flag,
    option,
)
from adatp_cli.cli.output import BatchProgress, Output
from adatp_cli.cli.streams import check_stdout
from adatp_cli.errors import UsageError
from adatp_cli.files import OutputPath, check_outputs, is_stdout
from adatp_cli.text import duration, percent, plural, printable

if TYPE_CHECKING:
    from adatp_cli.batch.inputs import ClipJob
    from adatp_cli.batch.prefetch import Throughput
    from adatp_cli.video.frames import FrameReader, Frames
    from adatp_cli.video.sampling import Sampling

_SKIPPED_SHOWN = _CLIPS_SHOWN = 5
# Below this share of waiting nobody would gain much by faster decoding.
_NOTABLE = 0.05


class OutputFormat(StrEnum):
    jsonl = "jsonl"
    csv = "csv"


@dataclass(frozen=True, kw_only=True)
class BatchOptions(RunOptions):
    sources: list[str] = argument(
        "SOURCE...",
        "Folders, videos, quoted globs, manifests (.jsonl, .csv or .tsv with columns "
        "video and question), or - for a list of files on stdin; a file that several name "
        "comes once.",
    )
    questions: list[str] | None = option(
        "Batch", "--question -q TEXT", "Ask this about every clip; may be given several times."
    )
    questions_file: Path | None = option(
        "Batch", "--questions FILE", "Ask every line of this file about every clip."
    )
    null_separated: bool = flag(
        "Batch", "--null -0", "The list on stdin is separated by NUL, as find -print0 writes it."
    )
    follow_links: bool = flag(
        "Batch",
        "--follow-links",
        "Take clips that links in a folder or pattern name outside of it.",
    )
    output_file: Path | None = option(
        "Results",
        "--output -o FILE",
        "Write the rows here, each the moment it is known. Default: stdout.",
    )
    output_format: OutputFormat = option(
        "Results",
        "--output-format",
        "jsonl: whole records (see `adatp schema`). csv: a few columns, for spreadsheets.",
        default=OutputFormat.jsonl,
    )
    resume: bool = RESUME
    retry_failed: bool = RETRY_FAILED
    shard: str | None = option(
        "Batch",
        "--shard I/N",
        "Only the I-th of N parts of the clips, the same clips on every machine.",
    )
    decoders: int | None = option(
        "Batch",
        "--decoders N",
        "Decode N clips at the same time, ahead of the model. 0: none ahead, one clip "
        "after the other. Default: 1, or up to 4 for a model on a GPU.",
        min=0,
        max=64,
    )

    def check(self) -> None:
        super().check()
        if self.trace is not None:
            raise UsageError(
                "--trace holds one clip's choices, a batch has many",
                "trace a clip with adatp ask",
            )
        check_resuming(self.output, resume=self.resume, retry_failed=self.retry_failed)
        if any(not question.strip() for question in self.questions or ()):
            raise UsageError("a question is blank", "ask something")

    @property
    def output(self) -> Path | None:
        """The file that the rows go to; None: stdout, also by name."""
        return None if self.output_file is None or is_stdout(self.output_file) else self.output_file


def batch(options: BatchOptions, output: Output) -> int:
    """Answer questions about many clips; a clip that fails is a row, and the batch goes on.

    Rows are JSON Lines. Ctrl-C finishes the row it is at; a second one stops at once.
    """
    if options.output is None:
        check_stdout()
    return Batch(options, output).run()


class Batch:
    """One run of `adatp batch`."""

    def __init__(self, options: BatchOptions, output: Output) -> None:
        self._options = options
        self._output = output

    def run(self) -> int:
        """Answer everything and return the exit code."""
        from adatp_cli.model.quiet import quiet_libraries

        self._check_output([*self._options.sources, self._options.profile_name])
        profile = self._options.resolved_profile()
        self._options.sampling()  # a wrong one is told before anything is loaded
        jobs = self._jobs()
        if self._options.overwrite:
            self._check_output([job.path for job in jobs])
        with (
            self._output.running(),
            quiet_libraries(verbose=self._options.verbose),
            self._sink() as sink,
        ):
            opened = open_model([profile], self._options, self._output)
            sampling = opened.sampling(self._options, self._output)
            return self._answer(opened, sampling, jobs, sink)

    def _check_output(self, inputs: Sequence[str]) -> None:
        wanted = self._options
        rows = [] if wanted.output is None else [OutputPath("-o", wanted.output, resumable=True)]
        read = [*inputs, wanted.questions_file or ""]
        check_outputs(rows, read, overwrite=self._options.overwrite, resume=wanted.resume)

    def _jobs(self) -> list[ClipJob]:
        from adatp_cli.batch import inputs

        wanted = self._options
        questions = list(wanted.questions or ())
        if wanted.questions_file is not None:
            questions += inputs.read_questions_file(wanted.questions_file)
        stdin = sys.stdin.buffer if sys.stdin is not None and "-" in self._options.sources else None
        found = inputs.collect_all(
            self._options.sources,
            questions,
            stdin=stdin,
            null_separated=wanted.null_separated,
            follow_links=wanted.follow_links,
        )
        for item in found.skipped[:_SKIPPED_SHOWN]:
            self._output.note(f"skipped {item.path}: {item.reason}")
        if len(found.skipped) > _SKIPPED_SHOWN:
            self._output.note(f"skipped {len(found.skipped) - _SKIPPED_SHOWN} more")
        for note in found.notes:
            self._output.note(note)
        jobs = list(found.jobs)
        if wanted.shard is not None:
            jobs = list(inputs.select(jobs, inputs.parse_shard(wanted.shard)))
        return jobs

    @contextlib.contextmanager
    def _sink(self) -> Iterator[Sink]:
        from adatp_cli.batch.results import ResultFile

        wanted = self._options
        if wanted.output is None:
            yield StdoutRows(self._output, wanted.output_format)
            return
        opened = ResultFile.open(
            wanted.output,
            format=wanted.output_format.value,
            resume=wanted.resume,
            overwrite=self._options.overwrite,
        )
        with opened as file:
            for note in file.notes:
                self._output.note(note)
            yield file

    def _answer(
        self, opened: OpenModel, sampling: Sampling, jobs: Sequence[ClipJob], sink: Sink
    ) -> int:
        from adatp_cli.answering.run import RunLoop
        from adatp_cli.answering.tasks import Ask, ClipTask, FileClip
        from adatp_cli.batch.prefetch import FramePrefetcher
        from adatp_cli.batch.row_format import row_data, task_of, without
        from adatp_cli.video.isolated import IsolatedReader

        run, settings = opened.runs[0], opened.key_settings(sampling)
        resize = run.session.plan.resize
        planned = [
            task_of(FileClip(job.path), (Ask(text, run) for text in job.questions), settings)
            for job in jobs
        ]
        keys = [ask.key for task in planned for ask in task.asks]
        if self._options.retry_failed:
            sink.forget_failed(keys)
        before = {key: sink.done[key] for key in keys if key in sink.done}
        total = len(keys) - len(before)
        decoders = self._decoders(opened)

        def read_by(reader: FrameReader) -> Callable[[ClipTask], Frames]:
            return lambda task: task.clip.read(reader, sampling, resize)

        with contextlib.ExitStack() as stack:
            readers = [
                stack.enter_context(IsolatedReader(self._options.limits()))
                for _ in range(max(1, decoders))
            ]
            interrupts = stack.enter_context(Interrupts(self._output.note))
            prefetcher = stack.enter_context(
                FramePrefetcher(
                    without(planned, before), *map(read_by, readers), ahead=decoders > 0
                )
            )
            loop = RunLoop(lambda error: failure_of(error).info, share=True)
            remarks, said = Remarks(), set[str]()
            with self._output.progress(total, "questions", rows_seen=sink.on_terminal) as progress:
                for row in loop.rows(prefetcher.results(interrupts.asked), interrupts.asked):
                    data = row_data(row)
                    sink.write(data)
                    progress.advance(row.task.clip.name, row.error_info)
                    remarks.add(data)
                    for note in row.notes:
                        if note not in said:
                            self._output.note(note)
                    said.update(row.notes)
        self._summary(before, progress, remarks, prefetcher.throughput, decoders)
        failed = sum(progress.failed.values()) + list(before.values()).count(False)
        left = total - progress.rows
        if interrupts.asked():
            self._output.note("interrupted")
        for line in going_on(self._options.output, failed=failed, left=left):
            self._output.note(line)
        if interrupts.asked():
            return INTERRUPTED
        return SOME_FAILED if failed else 0

    def _decoders(self, opened: OpenModel) -> int:
        from adatp_cli.batch.prefetch import default_readers
        from adatp_cli.machine import usable_cores
        from adatp_cli.model.device import is_cuda

        if self._options.decoders is not None:
            return self._options.decoders
        return default_readers(on_gpu=is_cuda(opened.model.device), cores=usable_cores())

    def _summary(
        self,
        before: Mapping[str, bool],
        progress: BatchProgress,
        remarks: Remarks,
        throughput: Throughput,
        decoders: int,
    ) -> None:
        from adatp_cli.machine import usable_cores

        lines = [*outcome(progress), *remarks.lines()]
        if progress.rows:
            rate = progress.clips / max(progress.seconds, 1e-9) * 60
            lines.append(
                f"{plural(progress.clips, 'clip')}, {rate:.1f} a minute{waiting(throughput)}"
            )
            lines += decoding_limit(throughput, decoders, usable_cores())
        if before:
            missed = list(before.values()).count(False)
            tail = f", {missed} of them failed" if missed else ""
            lines.append(f"{len(before)} had rows before{tail}")
        for line in lines:
            self._output.note(line)


class Sink(Protocol):
    """Where rows go."""

    @property
    def done(self) -> Mapping[str, bool]:
        """Keys of the rows that are there already, and whether they are answers."""

    @property
    def on_terminal(self) -> bool:
        """Whether the rows are seen as they come: no bar can stand between them."""

    def write(self, row: dict[str, Any]) -> None:
        """Add a row for good."""

    def forget_failed(self, keys: Collection[str]) -> None:
        """Take failed rows out."""


class StdoutRows:
    """Rows on stdout, where nothing was before."""

    def __init__(self, output: Output, form: OutputFormat) -> None:
        self._output = output
        self._csv = form is OutputFormat.csv
        self._begun = False
        self.done: Mapping[str, bool] = {}
        self.on_terminal = sys.stdout.isatty()

    def write(self, row: dict[str, Any]) -> None:
        from adatp_cli.batch.results import csv_header, csv_line

        if not self._csv:
            self._output.data(row)
            return
        if not self._begun:
            self._output.write(csv_header())
        self._begun = True
        self._output.csv_row(csv_line(row))

    def forget_failed(self, keys: Collection[str]) -> None:
        """There are none."""


def waiting(throughput: Throughput) -> str:
    """The end of the line on clips per minute; empty where only the first clip was waited for."""
    if throughput.clips < 2:
        return ""
    return f"; the model waited for frames {percent(throughput.waited_share)} of the time"


def decoding_limit(throughput: Throughput, decoders: int, cores: int) -> list[str]:
    """What kept the model waiting and what would help; nothing where it hardly waited."""
    if throughput.clips < 2 or throughput.waited_share < _NOTABLE:
        return []
    if decoders == 0:
        return ["with --decoders 0 nothing is decoded ahead"]
    decoding, answering = throughput.decoding_s / decoders, throughput.answering_s
    if decoding > answering:
        reason = (
            f"decoding is the limit: it takes {decoding / throughput.clips:.2f} s a clip, "
            f"the model {answering / throughput.clips:.2f} s"
        )
    else:
        reason = "some clips take longer to decode than the ones before them to answer"
    if decoders >= cores:
        return [reason, "no core is left for more decoders: scale clips down, or --shard them"]
    enough = math.ceil(min(cores, throughput.decoding_s / max(answering, 1e-9)))
    return [reason, f"{cores} cores can do more: try --decoders {max(decoders + 1, enough)}"]


class Remarks:
    """Counts what is worth a word about rows that are answers."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()
        self._damaged: set[str] = set()

    def add(self, row: Mapping[str, Any]) -> None:
        """Look at one more row."""
        if not row["ok"]:
            return
        if row["video_info"]["frames_lost"]:
            self._damaged.add(row["video"])
        self._found["cut"] += row["finish_reason"] == "length"
        self._found["empty"] += not row["answer"]

    def lines(self) -> list[str]:
        """A line for each kind that was met."""
        lines = []
        if self._found["cut"]:
            cut = plural(self._found["cut"], "answer was", "answers were")
            lines.append(f"{cut} cut; --max-new-tokens raises the limit")
        if self._found["empty"]:
            lines.append(f"{plural(self._found['empty'], 'answer is', 'answers are')} empty")
        if self._damaged:
            damaged = plural(len(self._damaged), "clip is", "clips are")
            lines.append(f"{damaged} damaged: video_info.frames_lost counts what is missing")
        return lines


def outcome(progress: BatchProgress) -> list[str]:
    """How many questions and clips, and which clips failed."""
    failed = sum(progress.failed.values())
    about = f"{plural(progress.rows, 'question')} about {plural(progress.clips, 'clip')}: "
    lines = [
        f"{about if progress.rows else ''}{progress.answered} answered, {failed} failed in "
        f"{duration(progress.seconds)}"
    ]
    lines += [f"  {count} {kind}" for kind, count in progress.failed.most_common()]
    clips = list(progress.failed_clips.items())
    for video, message in clips[:_CLIPS_SHOWN]:
        name = printable(video)
        lines.append(f"  {message if message.startswith(name) else f'{name}: {message}'}")
    if len(clips) > _CLIPS_SHOWN:
        lines.append(f"  and {plural(len(clips) - _CLIPS_SHOWN, 'clip')} more")
    return lines


def going_on(file: Path | None, *, failed: int, left: int) -> list[str]:
    """Where the rows are, and how to get those that failed and those that are left."""
    ways = []
    if left:
        ways.append(
            f"--resume asks the {plural(left, 'question')} that {'is' if left == 1 else 'are'} left"
        )
    if failed:
        ways.append(f"--resume --retry-failed asks the {failed} that failed again")
    if file is None:
        return [f"with -o FILE, {' and '.join(ways)}"] if ways else []
    return ["; ".join([f"the rows are in {printable(str(file))}", *ways])]
