"""`adatp bias`: where attention piles up, and what a profile's kept tokens make of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.cli.datasets import DatasetOptions, facts
from adatp_cli.cli.errors import INTERRUPTED, SOME_FAILED, info_of
from adatp_cli.cli.open_model import OpenModel, load_profiles, open_model
from adatp_cli.cli.options import option, profile_names, profiles_option
from adatp_cli.cli.output import Output
from adatp_cli.cli.running import Running, running
from adatp_cli.errors import UsageError
from adatp_cli.files import check_outputs
from adatp_cli.profiles import Profile, load_profile
from adatp_cli.text import duration, plural

if TYPE_CHECKING:
    from adatp_cli.evaluation.bias import BiasSummary
    from adatp_cli.evaluation.questions import Dataset
    from adatp_cli.video.sampling import Sampling

_BEFORE = "vanilla"


@dataclass(frozen=True, kw_only=True)
class BiasOptions(DatasetOptions):
    profiles: list[Path] | None = profiles_option(
        "What is kept under this profile; several as in `adatp eval`. Default: "
        "adatp-progressive, which prunes by attention as it is, and adatp. The unpruned run "
        "always comes first."
    )
    report: Path | None = option(
        "Results", "--report FOLDER", "Write a report here: Markdown, CSV and plots."
    )

    def check(self) -> None:
        super().check()
        if self.samples or self.top_p is not None:
            raise UsageError("attention is read, no answer is generated", "leave sampling out")

    @property
    def profile_names(self) -> list[str]:
        return profile_names(self.profiles, ("adatp-progressive", "adatp"))


def bias(options: BiasOptions, output: Output) -> int:
    """Measure where attention piles up in clip and frame, before and after debiasing.

    stdout gets the tables as Markdown, or with --json one object with every number.

    Examples:
    adatp bias shapes -m tiny --clips 20
    adatp bias mvbench --data MVBENCH -m 7b --report report
    """
    from adatp_cli.evaluation import bias_report
    from adatp_cli.evaluation.report import report_outputs
    from adatp_cli.model.checkpoints import TINY
    from adatp_cli.model.quiet import quiet_libraries

    check_outputs(
        report_outputs(options.report, bias_report.FILES),
        [options.dataset, options.annotations or "", *options.profile_names],
        overwrite=options.overwrite,
    )
    profiles = _vanilla_first(load_profiles(options.profile_names, options.budget))
    options.sampling()  # a wrong one is told before anything is read
    dataset = options.open_dataset()
    output.note(*dataset.notes)
    with output.running(), quiet_libraries(verbose=options.verbose):
        opened = open_model(profiles, options, output, most_new_tokens=1, keep_trace=True)
        sampling = opened.sampling(options, output)
        going, summary = _measure(options, output, dataset, opened, sampling)
        if summary is not None:
            told = facts(dataset, opened, sampling)
            small = opened.model.name == TINY
            if small:
                told.append(bias_report.SMALL_MODEL)
            if output.json:
                output.data(bias_report.as_data(summary, told))
            else:
                output.page(bias_report.tables(summary))
                if small:
                    output.line(f"\n{bias_report.SMALL_MODEL}.")
            if options.report is not None:
                output.note(*bias_report.write_report(options.report, summary, told))
        if going.interrupted():
            left = plural(going.left, "prefill is", "prefills are")
            output.note(f"interrupted: {left} missing")
            return INTERRUPTED
        return SOME_FAILED if going.progress.failed else 0


def _vanilla_first(profiles: list[Profile]) -> list[Profile]:
    first = next((one for one in profiles if one.method == _BEFORE), None)
    if first is None:
        first = load_profile(_BEFORE)
        if any(one.name == first.name for one in profiles):
            raise UsageError(f"a profile called {first.name!r} prunes", "give it another name")
    return [first, *(one for one in profiles if one is not first)]


def _measure(
    options: BiasOptions, output: Output, dataset: Dataset, opened: OpenModel, sampling: Sampling
) -> tuple[Running, BiasSummary | None]:
    """The run at its end, and what was measured; None where it ended before every profile was."""
    from adatp_cli.evaluation.bias import AttentionWatch, Tally
    from adatp_cli.evaluation.questions import tasks_of

    tally, watch = Tally(), AttentionWatch(opened.loaded.model.model.language_model)
    planned = tasks_of(dataset, opened.runs, opened.key_settings(sampling))
    last: Exception | None = None
    with running(
        planned, opened, sampling, options, output, "passes", around=lambda: watch
    ) as going:
        for row in going.rows:
            error = row.error
            if row.answered is not None and row.answered.trace is not None:
                run = row.ask.run
                try:
                    seen = [one.numpy() for one in watch.rows]
                    prunes = run.session.profile.method != _BEFORE
                    tally.add(run.name, row.answered.trace.arrays, seen, prunes=prunes)
                except Exception as wrong:  # one question is not measured, and the run goes on
                    error = wrong
            last = error or last
            info = None if error is None else info_of(error)
            going.progress.advance(row.task.clip.name, info)
    progress = going.progress
    output.note(f"{plural(progress.answered, 'prefill')} in {duration(progress.seconds)}")
    for kind, count in progress.failed.most_common():
        output.note(f"  {count} failed: {kind}")
    summary = tally.summary(dataset.title, progress.failed)
    if len(summary.questions) == len(opened.runs):
        return going, summary
    if last is not None:
        raise last  # there is a profile that nothing is known of
    return going, None
