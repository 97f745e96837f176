"""`adatp batch`: many clips, a row for every question, and nothing that stops it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.cli.errors import INTERRUPTED, SOME_FAILED
from adatp_cli.cli.open_model import OpenModel, load_profiles, open_model
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
from adatp_cli.cli.running import open_results, running
from adatp_cli.cli.streams import check_stdout
from adatp_cli.errors import UsageError
from adatp_cli.files import OutputPath, check_outputs, is_stdout
from adatp_cli.text import duration, percent, plural, printable

if TYPE_CHECKING:
    from adatp_cli.batch.prefetch import Throughput
    from adatp_cli.batch.results import ResultFile
    from adatp_cli.batch.walk import ClipJob
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

    Examples:
    adatp batch clips/ -q "what happens?" -o answers.jsonl
    find . -name '*.mp4' | adatp batch - -q "what happens?" > rows.jsonl
    """
    from adatp_cli.model.quiet import quiet_libraries

    if options.output is None:
        check_stdout()
    _check_output(options, [*options.sources, options.profile_name])
    profiles = load_profiles([options.profile_name], options.budget)
    options.sampling()  # a wrong one is told before anything is loaded
    jobs = _jobs(options, output)
    if options.overwrite:
        _check_output(options, [job.path for job in jobs])
    with (
        output.running(),
        quiet_libraries(verbose=options.verbose),
        open_results(
            options.output,
            output,
            form=options.output_format.value,
            resume=options.resume,
            overwrite=options.overwrite,
        ) as file,
    ):
        opened = open_model(profiles, options, output)
        sampling = opened.sampling(options, output)
        return _answer(options, output, opened, sampling, jobs, file)


def _check_output(options: BatchOptions, inputs: Sequence[str]) -> None:
    rows = [] if options.output is None else [OutputPath("-o", options.output, resumable=True)]
    read = [*inputs, options.questions_file or ""]
    check_outputs(rows, read, overwrite=options.overwrite, resume=options.resume)


def _jobs(options: BatchOptions, output: Output) -> list[ClipJob]:
    from adatp_cli.batch import inputs

    questions = list(options.questions or ())
    if options.questions_file is not None:
        questions += inputs.read_questions_file(options.questions_file)
    stdin = sys.stdin.buffer if sys.stdin is not None and "-" in options.sources else None
    found = inputs.collect_all(
        options.sources,
        questions,
        stdin=stdin,
        null_separated=options.null_separated,
        follow_links=options.follow_links,
    )
    for item in found.skipped[:_SKIPPED_SHOWN]:
        output.note(f"skipped {item.path}: {item.reason}")
    if len(found.skipped) > _SKIPPED_SHOWN:
        output.note(f"skipped {len(found.skipped) - _SKIPPED_SHOWN} more")
    output.note(*found.notes)
    if options.shard is None:
        return list(found.jobs)
    return inputs.shard(found.jobs, options.shard)


def _answer(
    options: BatchOptions,
    output: Output,
    opened: OpenModel,
    sampling: Sampling,
    jobs: Sequence[ClipJob],
    file: ResultFile | None,
) -> int:
    from adatp_cli.answering.tasks import Ask, FileClip
    from adatp_cli.batch.prefetch import default_readers
    from adatp_cli.batch.row_format import csv_header, csv_line, row_data, task_of
    from adatp_cli.machine import usable_cores
    from adatp_cli.model.device import is_cuda

    run, settings = opened.runs[0], opened.key_settings(sampling)
    planned = [
        task_of(FileClip(job.path), (Ask(text, run) for text in job.questions), settings)
        for job in jobs
    ]
    decoders = options.decoders
    if decoders is None:
        decoders = default_readers(on_gpu=is_cuda(opened.model.device), cores=usable_cores())
    cut = empty = 0
    damaged, said = set[str](), set[str]()
    with running(
        planned,
        opened,
        sampling,
        options,
        output,
        "questions",
        file=file,
        retry_failed=options.retry_failed,
        on_stdout=file is None,
        decoders=decoders,
        share=True,
    ) as going:
        progress = going.progress
        for row in going.rows:
            data = row_data(row)
            if file is not None:
                file.write(data)
            elif options.output_format is OutputFormat.jsonl:
                output.data(data)
            else:
                if not progress.rows:
                    output.write(csv_header())
                output.csv_row(csv_line(data))
            progress.advance(row.task.clip.name, row.error_info)
            if row.answered is not None:
                record = row.answered.record
                cut += record.finish_reason == "length"
                empty += not record.answer
                if record.video_info.frames_lost:
                    damaged.add(record.video)
            output.note(*(note for note in row.notes if note not in said))
            said.update(row.notes)
    output.note(*_told_of_rows(progress))
    if cut:
        answers = plural(cut, "answer was", "answers were")
        output.note(f"{answers} cut; --max-new-tokens raises the limit")
    if empty:
        output.note(f"{plural(empty, 'answer is', 'answers are')} empty")
    if damaged:
        clips = plural(len(damaged), "clip is", "clips are")
        output.note(f"{clips} damaged: video_info.frames_lost counts what is missing")
    if progress.rows:
        rate = progress.clips / max(progress.seconds, 1e-9) * 60
        clips = plural(progress.clips, "clip")
        output.note(f"{clips}, {rate:.1f} a minute{waiting(going.throughput)}")
        output.note(*decoding_limit(going.throughput, decoders, usable_cores()))
    failed_before = list(going.before.values()).count(False)
    if going.before:
        tail = f", {failed_before} of them failed" if failed_before else ""
        output.note(f"{len(going.before)} had rows before{tail}")
    failed = sum(progress.failed.values()) + failed_before
    if going.interrupted():
        output.note("interrupted")
    output.note(*_going_on(options.output, failed=failed, left=going.left))
    if going.interrupted():
        return INTERRUPTED
    return SOME_FAILED if failed else 0


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


def _told_of_rows(progress: BatchProgress) -> list[str]:
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


def _going_on(file: Path | None, *, failed: int, left: int) -> list[str]:
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
