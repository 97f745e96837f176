"""`adatp bias`: where attention piles up, and what a profile's kept tokens make of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.cli.datasets import DatasetOptions, facts
from adatp_cli.cli.errors import INTERRUPTED, SOME_FAILED, Interrupts, failure_of
from adatp_cli.cli.open_model import OpenModel, load_profiles, open_model
from adatp_cli.cli.options import option, profile_names, profiles_option
from adatp_cli.cli.output import Output
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
    """
    return Measurement(options, output).run()


class Measurement:
    """One run of `adatp bias`."""

    def __init__(self, options: BiasOptions, output: Output) -> None:
        self._options = options
        self._output = output

    def run(self) -> int:
        """Measure, write the tables and return the exit code."""
        from adatp_cli.evaluation import bias_report
        from adatp_cli.evaluation.report import report_outputs
        from adatp_cli.model.quiet import quiet_libraries

        wanted, output = self._options, self._output
        check_outputs(
            report_outputs(wanted.report, bias_report.FILES),
            [wanted.dataset, wanted.annotations or "", *wanted.profile_names],
            overwrite=self._options.overwrite,
        )
        profiles = self._profiles()
        self._options.sampling()  # a wrong one is told before anything is read
        dataset = wanted.open_dataset()
        for note in dataset.notes:
            output.note(note)
        with output.running(), quiet_libraries(verbose=self._options.verbose):
            opened = open_model(profiles, self._options, output, most_new_tokens=1, keep_trace=True)
            return self._measure(dataset, opened, opened.sampling(self._options, output))

    def _profiles(self) -> list[Profile]:
        profiles = load_profiles(self._options.profile_names, self._options.budget)
        first = next((one for one in profiles if one.method == _BEFORE), None)
        if first is None:
            first = load_profile(_BEFORE)
            clashing = next((one.name for one in profiles if one.name == first.name), None)
            if clashing is not None:
                raise UsageError(f"a profile called {clashing!r} prunes", "give it another name")
        return [first, *(one for one in profiles if one is not first)]

    def _measure(self, dataset: Dataset, opened: OpenModel, sampling: Sampling) -> int:
        from adatp_cli.answering.run import RunLoop
        from adatp_cli.batch.prefetch import FramePrefetcher
        from adatp_cli.evaluation.bias import AttentionWatch, Tally, sample_of
        from adatp_cli.evaluation.questions import tasks_of
        from adatp_cli.video.isolated import IsolatedReader

        output, tally = self._output, Tally()
        planned = tasks_of(dataset, opened.runs, opened.key_settings(sampling))
        total = sum(len(task.asks) for task in planned)
        failed: Counter[str] = Counter()
        last: Exception | None = None
        resize = opened.runs[0].session.plan.resize
        watch = AttentionWatch(opened.loaded.model.model.language_model)
        with (
            IsolatedReader(self._options.limits()) as reader,
            Interrupts(output.note) as interrupts,
            FramePrefetcher(
                planned, lambda task: task.clip.read(reader, sampling, resize)
            ) as prefetcher,
        ):
            loop = RunLoop(lambda error: failure_of(error).info, around=lambda: watch)
            with output.progress(total, "passes", rows_seen=False) as progress:
                for row in loop.rows(prefetcher.results(interrupts.asked), interrupts.asked):
                    if row.answered is None or row.answered.trace is None:
                        last = row.error
                    else:
                        sample = sample_of(
                            row.answered.trace.arrays, [seen.numpy() for seen in watch.rows]
                        )
                        prunes = row.ask.run.session.profile.method != _BEFORE
                        tally.add(row.ask.run.name, sample, prunes=prunes)
                    if row.error_info is not None:
                        failed[row.error_info.kind] += 1
                    progress.advance(row.task.clip.name, row.error_info)
        output.note(f"{plural(progress.answered, 'prefill')} in {duration(progress.seconds)}")
        for kind, count in failed.most_common():
            output.note(f"  {count} failed: {kind}")
        summary = tally.summary(dataset.title, failed)
        whole = len(summary.questions) == len(opened.runs)
        if last is not None and not whole:
            raise last  # there is a profile that nothing is known of
        if whole:
            self._finish(facts(dataset, opened, sampling), opened.model.name, summary)
        if interrupts.asked():
            left = plural(total - progress.rows, "prefill is", "prefills are")
            output.note(f"interrupted: {left} missing")
            return INTERRUPTED
        return SOME_FAILED if failed else 0

    def _finish(self, told: list[str], model: str, summary: BiasSummary) -> None:
        from adatp_cli.evaluation import bias_report

        if model == "tiny":
            told.append(bias_report.SMALL_MODEL)
        if self._output.json:
            self._output.data(bias_report.as_data(summary, told))
        else:
            self._output.page(bias_report.tables(summary))
            if model == "tiny":
                self._output.line(f"\n{bias_report.SMALL_MODEL}.")
        if self._options.report is not None:
            for note in bias_report.write_report(self._options.report, summary, told):
                self._output.note(note)
