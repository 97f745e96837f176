"""`adatp eval`: how often profiles are right, on the same questions about the same clips."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adatp_cli.cli.datasets import DatasetOptions, facts
from adatp_cli.cli.errors import INTERRUPTED, SOME_FAILED, Interrupts, failure_of
from adatp_cli.cli.open_model import OpenModel, load_profiles, one_fits, open_model
from adatp_cli.cli.options import (
    COMPARED,
    PROFILES_TO_COMPARE,
    RESUME,
    RETRY_FAILED,
    check_resuming,
    option,
    profile_names,
)
from adatp_cli.cli.output import Output
from adatp_cli.errors import UsageError
from adatp_cli.files import OutputPath, check_outputs
from adatp_cli.profiles import read_share
from adatp_cli.text import duration, plural

if TYPE_CHECKING:
    from adatp_cli.answering.tasks import Ask
    from adatp_cli.batch.results import ResultFile
    from adatp_cli.evaluation.questions import Dataset, ProfileSpec
    from adatp_cli.evaluation.summary import Outcome
    from adatp_cli.video.sampling import Sampling


class RuleOption(StrEnum):
    strict = "strict"
    harness = "harness"


@dataclass(frozen=True, kw_only=True)
class EvalOptions(DatasetOptions):
    profiles: list[Path] | None = PROFILES_TO_COMPARE
    budgets: str | None = option(
        "Pruning",
        "--budgets LIST",
        "Each profile that prunes at each of these, such as 0.3,0.1; one that cannot "
        "reach a budget is left out there.",
    )
    against: str | None = option(
        "Pruning", "--against NAME", "Set every profile against this one too, at equal budgets."
    )
    rule: RuleOption = option(
        "Results",
        "--rule",
        "How a letter is read out of an answer. strict: it names exactly one option, or "
        "is wrong. harness: as lmms-eval does, to compare with published numbers.",
        default=RuleOption.strict,
    )
    output: Path | None = option(
        "Results",
        "--output -o FILE",
        "Write every answer's record here, each the moment it is known.",
    )
    resume: bool = RESUME
    retry_failed: bool = RETRY_FAILED
    report: Path | None = option(
        "Results", "--report FOLDER", "Write a report here: Markdown, CSV, JSON Lines and plots."
    )

    def check(self) -> None:
        super().check()
        check_resuming(self.output, resume=self.resume, retry_failed=self.retry_failed)

    def places(self) -> list[ProfileSpec]:
        """The profiles, at every budget that was asked for."""
        from adatp_cli.evaluation.questions import line_up

        budgets = read_budgets(self.budgets)
        if budgets and self.budget is not None:
            raise UsageError("--budget and --budgets exclude each other", "give one of them")
        names = profile_names(self.profiles, COMPARED)
        places = line_up(load_profiles(names, self.budget), budgets)
        families = dict.fromkeys(place.family for place in places)
        if self.against is not None and self.against not in families:
            raise UsageError(
                f"--against {self.against}: no such profile is in the run",
                f"one of: {', '.join(families)}",
            )
        return places


def read_budgets(text: str | None) -> tuple[float, ...]:
    """Shares with commas between them."""
    return tuple(read_share(part) for part in text.split(",")) if text is not None else ()


def evaluate(options: EvalOptions, output: Output) -> int:
    """Measure how often profiles answer right, on the same questions about the same clips.

    stdout gets the tables as Markdown, or with --json every answer's record.
    """
    return Evaluation(options, output).run()


class Evaluation:
    """One run of `adatp eval`."""

    def __init__(self, options: EvalOptions, output: Output) -> None:
        self._options = options
        self._output = output

    def run(self) -> int:
        """Answer everything, write the tables and return the exit code."""
        from adatp_cli.answering.tasks import FileClip
        from adatp_cli.evaluation.datasets import SHAPES
        from adatp_cli.model.checkpoints import TINY, TINY_KNOWS
        from adatp_cli.model.quiet import quiet_libraries

        wanted, output = self._options, self._output
        self._check_outputs(
            [self._options.dataset, *profile_names(self._options.profiles, COMPARED)]
        )
        places = wanted.places()
        self._options.sampling()  # a wrong one is told before anything is read
        dataset = wanted.open_dataset()
        if self._options.overwrite:
            clips = {item.clip for item in dataset.items}
            self._check_outputs([clip.path for clip in clips if isinstance(clip, FileClip)])
        for note in dataset.notes:
            output.note(note)
        with (
            output.running(),
            quiet_libraries(verbose=self._options.verbose),
            self._file() as file,
        ):
            profiles = [place.profile for place in places]
            opened = open_model(
                profiles,
                self._options,
                output,
                most_new_tokens=dataset.max_new_tokens,
                accepts=one_fits(profiles, self._options) if wanted.budgets else None,
            )
            sampling = opened.sampling(self._options, output)
            if opened.model.name == TINY and wanted.dataset != SHAPES:
                output.note(f"{TINY_KNOWS}: its answers about other clips mean nothing")
            if wanted.budgets:
                opened = self._within_reach(opened, sampling)
            return self._answer(dataset, opened, sampling, places, file)

    def _check_outputs(self, inputs: Sequence[str | Path]) -> None:
        from adatp_cli.evaluation import report

        wanted, overwrite = self._options, self._options.overwrite
        outputs = report.report_outputs(wanted.report, report.FILES)
        if wanted.output is not None:
            outputs.append(OutputPath("-o", wanted.output, resumable=True))
        read = [*inputs, wanted.annotations or ""]
        check_outputs(outputs, read, overwrite=overwrite, resume=wanted.resume)

    def _within_reach(self, opened: OpenModel, sampling: Sampling) -> OpenModel:
        """Without those that cannot reach their budget; shorter clips may still be errors."""
        frames = sampling.frames or opened.loaded.default_frames
        able = []
        for run in opened.runs:
            try:
                run.session.plan.token_schedule(frames)
            except UsageError as error:
                self._output.note(f"{run.name} is left out: {error.hint}")
            else:
                able.append(run)
        return dataclasses.replace(opened, runs=tuple(able))

    @contextlib.contextmanager
    def _file(self) -> Iterator[ResultFile | None]:
        from adatp_cli.batch.results import ResultFile

        wanted = self._options
        if wanted.output is None:
            yield None
            return
        opened = ResultFile.open(
            wanted.output, resume=wanted.resume, overwrite=self._options.overwrite
        )
        with opened as file:
            for note in file.notes:
                self._output.note(note)
            yield file

    def _answer(
        self,
        dataset: Dataset,
        opened: OpenModel,
        sampling: Sampling,
        places: Sequence[ProfileSpec],
        file: ResultFile | None,
    ) -> int:
        from adatp_cli.answering.run import RunLoop
        from adatp_cli.batch.prefetch import FramePrefetcher
        from adatp_cli.batch.row_format import without
        from adatp_cli.evaluation.questions import eval_row, tasks_of
        from adatp_cli.video.isolated import IsolatedReader

        output = self._output
        planned = tasks_of(dataset, opened.runs, opened.key_settings(sampling))
        asks = {ask.key: ask for task in planned for ask in task.asks}
        if file is not None and self._options.retry_failed:
            file.forget_failed(asks)
        before = {} if file is None else {key: file.done[key] for key in asks if key in file.done}
        outcomes = self._outcomes_before(dataset, asks, before)
        total = len(asks) - len(before)
        resize = opened.runs[0].session.plan.resize
        limits = self._options.limits()
        with (
            IsolatedReader(limits) as reader,
            Interrupts(output.note) as interrupts,
            FramePrefetcher(
                without(planned, before), lambda task: task.clip.read(reader, sampling, resize)
            ) as prefetcher,
        ):
            loop = RunLoop(lambda error: failure_of(error).info)
            seen = (output.json and sys.stdout.isatty()) or (file is not None and file.on_terminal)
            with output.progress(total, "answers", rows_seen=seen) as progress:
                for row in loop.rows(prefetcher.results(interrupts.asked), interrupts.asked):
                    data = eval_row(row, dataset)
                    if file is not None:
                        file.write(data)
                    if output.json:
                        output.data(data)
                    outcomes.append(self._outcome(dataset, row.ask, data))
                    progress.advance(row.task.clip.name, row.error_info)
        if before:
            output.note(f"{plural(len(before), 'answer was', 'answers were')} there before")
        output.note(f"{plural(progress.rows, 'answer')} in {duration(progress.seconds)}")
        self._finish(dataset, opened, sampling, places, outcomes)
        if interrupts.asked():
            way = "--resume goes on" if self._options.output is not None else "-o FILE keeps rows"
            left = plural(total - progress.rows, "answer is", "answers are")
            output.note(f"interrupted: {left} missing; {way}")
            return INTERRUPTED
        return SOME_FAILED if any(outcome.error for outcome in outcomes) else 0

    def _outcomes_before(
        self, dataset: Dataset, asks: Mapping[str, Ask], before: Mapping[str, bool]
    ) -> list[Outcome]:
        from adatp_cli.evaluation.summary import stored_rows

        if not before or self._options.output is None:
            return []
        rows = stored_rows(self._options.output, before)
        return [self._outcome(dataset, asks[key], row) for key, row in rows.items()]

    def _outcome(self, dataset: Dataset, ask: Ask, row: Mapping[str, Any]) -> Outcome:
        from adatp_cli.evaluation.questions import Rule
        from adatp_cli.evaluation.summary import outcome_of

        judge = dataset.judge(Rule(self._options.rule))
        return outcome_of(row, ask.about, ask.run.name, judge)

    def _finish(
        self,
        dataset: Dataset,
        opened: OpenModel,
        sampling: Sampling,
        places: Sequence[ProfileSpec],
        outcomes: Sequence[Outcome],
    ) -> None:
        from adatp_cli.evaluation import report
        from adatp_cli.evaluation.questions import Rule
        from adatp_cli.evaluation.summary import summarise

        names = {run.name for run in opened.runs}
        running = [place for place in places if place.profile.name in names]
        rule = Rule(self._options.rule)
        summary = summarise(dataset, running, outcomes, rule, self._options.against)
        if summary.baseline is None:
            self._output.note("no differences without an unpruned run: -p vanilla adds one")
        if not self._output.json:
            self._output.page(report.tables(summary))
        if self._options.report is not None:
            told = facts(dataset, opened, sampling)
            for note in report.write_report(self._options.report, summary, outcomes, told):
                self._output.note(note)
