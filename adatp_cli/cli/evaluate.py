"""`adatp eval`: how often profiles are right, on the same questions about the same clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.cli.datasets import DatasetOptions, facts
from adatp_cli.cli.errors import INTERRUPTED, SOME_FAILED
from adatp_cli.cli.open_model import OpenModel, load_profiles, open_model
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
from adatp_cli.cli.running import open_results, running
from adatp_cli.errors import UsageError
from adatp_cli.evaluation.questions import Rule
from adatp_cli.files import OutputPath, check_outputs
from adatp_cli.profiles import read_share
from adatp_cli.text import duration, plural

if TYPE_CHECKING:
    from adatp_cli.batch.results import ResultFile
    from adatp_cli.evaluation.questions import Dataset, ProfileSpec
    from adatp_cli.video.sampling import Sampling


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
    rule: Rule = option(
        "Results",
        "--rule",
        "How a letter is read out of an answer. strict: it names exactly one option, or "
        "is wrong. harness: as lmms-eval does, to compare with published numbers.",
        default=Rule.strict,
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

    def specs(self) -> list[ProfileSpec]:
        """The profiles, at every budget that was asked for."""
        from adatp_cli.evaluation.questions import line_up

        budgets = read_budgets(self.budgets)
        if budgets and self.budget is not None:
            raise UsageError("--budget and --budgets exclude each other", "give one of them")
        names = profile_names(self.profiles, COMPARED)
        specs = line_up(load_profiles(names, self.budget), budgets)
        families = dict.fromkeys(spec.family for spec in specs)
        if self.against is not None and self.against not in families:
            raise UsageError(
                f"--against {self.against}: no such profile is in the run",
                f"one of: {', '.join(families)}",
            )
        return specs


def read_budgets(text: str | None) -> tuple[float, ...]:
    """Shares with commas between them."""
    return tuple(read_share(part) for part in text.split(",")) if text is not None else ()


def evaluate(options: EvalOptions, output: Output) -> int:
    """Measure how often profiles answer right, on the same questions about the same clips.

    stdout gets the tables as Markdown, or with --json every answer's record.

    Examples:
    adatp eval shapes -m tiny -p vanilla,adatp --clips 50
    adatp eval videomme --data VIDEO-MME -m 7b -o rows.jsonl --report report
    """
    from adatp_cli.answering.tasks import FileClip
    from adatp_cli.evaluation.datasets import SHAPES
    from adatp_cli.model.checkpoints import TINY, TINY_KNOWS
    from adatp_cli.model.quiet import quiet_libraries

    _check_outputs(options, [options.dataset, *profile_names(options.profiles, COMPARED)])
    specs = options.specs()
    options.sampling()  # a wrong one is told before anything is read
    dataset = options.open_dataset()
    if options.overwrite:
        clips = {item.clip for item in dataset.items}
        _check_outputs(options, [clip.path for clip in clips if isinstance(clip, FileClip)])
    output.note(*dataset.notes)
    with (
        output.running(),
        quiet_libraries(verbose=options.verbose),
        open_results(
            options.output, output, resume=options.resume, overwrite=options.overwrite
        ) as file,
    ):
        profiles = [spec.profile for spec in specs]
        opened = open_model(
            profiles,
            options,
            output,
            most_new_tokens=dataset.max_new_tokens,
            to_fit="one" if options.budgets else "all",
        )
        sampling = opened.sampling(options, output)
        if opened.model.name == TINY and options.dataset != SHAPES:
            output.note(f"{TINY_KNOWS}: its answers about other clips mean nothing")
        if options.budgets:
            opened = _within_reach(opened, sampling, output)
        return _answer(options, output, dataset, opened, sampling, specs, file)


def _check_outputs(options: EvalOptions, inputs: Sequence[str]) -> None:
    from adatp_cli.evaluation import report

    outputs = report.report_outputs(options.report, report.FILES)
    if options.output is not None:
        outputs.append(OutputPath("-o", options.output, resumable=True))
    read = [*inputs, options.annotations or ""]
    check_outputs(outputs, read, overwrite=options.overwrite, resume=options.resume)


def _within_reach(opened: OpenModel, sampling: Sampling, output: Output) -> OpenModel:
    """Without those that cannot reach their budget; shorter clips may still be errors."""
    frames = sampling.frames or opened.loaded.default_frames
    able = []
    for run in opened.runs:
        try:
            run.session.plan.token_schedule(frames)
        except UsageError as error:
            output.note(f"{run.name} is left out: {error.hint}")
        else:
            able.append(run)
    return dataclasses.replace(opened, runs=tuple(able))


def _answer(
    options: EvalOptions,
    output: Output,
    dataset: Dataset,
    opened: OpenModel,
    sampling: Sampling,
    specs: Sequence[ProfileSpec],
    file: ResultFile | None,
) -> int:
    from adatp_cli.evaluation import report
    from adatp_cli.evaluation.questions import eval_row, tasks_of
    from adatp_cli.evaluation.summary import outcome_of, stored_rows, summarise

    judge = dataset.judge(options.rule)
    planned = tasks_of(dataset, opened.runs, opened.key_settings(sampling))
    with running(
        planned,
        opened,
        sampling,
        options,
        output,
        "answers",
        file=file,
        retry_failed=options.retry_failed,
        on_stdout=output.json,
    ) as going:
        outcomes = []
        if going.before and options.output is not None:
            asks = {ask.key: ask for task in planned for ask in task.asks}
            for key, data in stored_rows(options.output, going.before).items():
                outcomes.append(outcome_of(data, asks[key].about, asks[key].run.name, judge))
        for row in going.rows:
            data = eval_row(row, dataset)
            if file is not None:
                file.write(data)
            if output.json:
                output.data(data)
            outcomes.append(outcome_of(data, row.ask.about, row.ask.run.name, judge))
            going.progress.advance(row.task.clip.name, row.error_info)
    if going.before:
        output.note(f"{plural(len(going.before), 'answer was', 'answers were')} there before")
    answers = plural(going.progress.rows, "answer")
    output.note(f"{answers} in {duration(going.progress.seconds)}")
    names = {run.name for run in opened.runs}
    asked = [spec for spec in specs if spec.profile.name in names]
    summary = summarise(dataset, asked, outcomes, options.rule, options.against)
    if summary.baseline is None:
        output.note("no differences without an unpruned run: -p vanilla adds one")
    if not output.json:
        output.page(report.tables(summary))
    if options.report is not None:
        told = facts(dataset, opened, sampling)
        output.note(*report.write_report(options.report, summary, outcomes, told))
    if going.interrupted():
        way = "--resume goes on" if options.output is not None else "-o FILE keeps rows"
        output.note(f"interrupted: {plural(going.left, 'answer is', 'answers are')} missing; {way}")
        return INTERRUPTED
    return SOME_FAILED if any(outcome.error for outcome in outcomes) else 0
