"""From options to an engine, and from its events to the output; what `ask` and `demo` share."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, cast

from adatp_cli.cli.costs import amount
from adatp_cli.cli.errors import failure_of
from adatp_cli.cli.loading import load_engine, sampling_for
from adatp_cli.cli.options import RunOptions, trace_path
from adatp_cli.cli.output import Output
from adatp_cli.cli.streams import OutputClosedError
from adatp_cli.profiles import Profile
from adatp_cli.record import ErrorInfo, FailureRecord
from adatp_cli.video.source import check_source

if TYPE_CHECKING:
    from adatp_cli.answering.events import Answered, ClipReady, PrefillChosen, Stage, TextChunk
    from adatp_cli.answering.plan import PrefillMode
    from adatp_cli.video.isolated import IsolatedReader


class AskRun:
    """Several questions about one clip, from the options to the last answer.

    Parameters
    ----------
    source, video_name
        The clip, and what records and errors call it.
    questions
        At least one.
    options, output
        What was asked for, and where everything goes.
    prefill
        How several questions get theirs. Not said: whichever costs less, unless something was asked
        of the pruning.
    truths
        What is true, one text per question, to show beside the answers.
    """

    def __init__(
        self,
        source: str | bytes,
        questions: Sequence[str],
        options: RunOptions,
        output: Output,
        *,
        video_name: str,
        prefill: PrefillMode | None = None,
        truths: Sequence[str] | None = None,
    ) -> None:
        self._source = source
        self._questions = questions
        self._options = options
        self._output = output
        self._prefill = prefill
        self._truths = truths
        self._done = 0
        self.right = 0  # answers that are the truth
        self._known = FailureRecord(video_name, "", ErrorInfo("", "", ""))

    def run(self) -> None:
        """Answer every question, writing as the answers come.

        In JSON mode each question without an answer gets a failure record before the error goes on.

        Raises
        ------
        AdatpError
            Whatever keeps a question from its answer.
        """
        from adatp_cli.model.quiet import quiet_libraries
        from adatp_cli.video.isolated import IsolatedReader

        try:
            with (
                self._output.running(),
                quiet_libraries(verbose=self._options.verbose),
                IsolatedReader(self._options.limits()) as reader,
            ):
                self._ask(reader)
        except (OutputClosedError, KeyboardInterrupt):
            raise
        except Exception as error:
            info = failure_of(error).info
            for question in self._questions[self._done :]:
                failure = dataclasses.replace(self._known, question=question, error=info)
                self._output.failed(failure)
            raise

    def _ask(self, reader: IsolatedReader) -> None:
        options, name = self._options, self._known.video
        profile = options.resolved_profile()
        self._know(profile=profile.to_dict())
        wanted = options.sampling()  # a wrong one is told before anything is loaded
        check_source(self._source, name)  # a wrong path must not wait for PyTorch
        reader.start()

        def check() -> None:
            reader.check(self._source, wanted, name=name)

        engine, loaded = load_engine(profile, options, self._output, self._know, check)
        from adatp_cli.answering.events import ClipReady

        sampling = sampling_for(engine, loaded, options, self._output, self._questions)
        events = engine.ask(
            self._source,
            self._questions,
            sampling,
            reader=reader,
            video_name=name,
            stream=not options.json,
            prefill=self._prefill_mode(profile),
        )
        # Closed at once when something goes wrong: the engine then stops its thread.
        with contextlib.closing(
            cast("Generator[Stage | ClipReady | PrefillChosen | TextChunk | Answered]", events)
        ) as run:
            for event in run:
                if isinstance(event, ClipReady):
                    reader.close()  # the model can use its memory
                self._handle(event)

    def _prefill_mode(self, profile: Profile) -> PrefillMode:
        """As asked for; else the cheaper way, but what was asked of the pruning is held to."""
        asked = (self._options.profile, self._options.budget, self._options.trace)
        held_to = profile.method != "vanilla" and any(item is not None for item in asked)
        return self._prefill or ("each" if held_to else "cheaper")

    def _chosen(self, event: PrefillChosen) -> None:
        self._know(profile=event.profile.to_dict())
        cost, cheaper = event.cost, event.cost.shared < event.cost.pruned
        if event.shared:
            then = "nothing is pruned; --prefill each prunes"
        elif not event.fits:
            then = "one prefill for all does not fit the memory"
        elif cheaper and self._prefill is None:
            then = "--prefill shared would cost less, and prune nothing"
        else:
            return
        self._output.note(
            f"{len(self._questions)} questions: {amount(cost.shared)}FLOP on one unpruned prefill, "
            f"{amount(cost.pruned)}FLOP pruned for each",
            then,
        )

    def _handle(self, event: Stage | ClipReady | PrefillChosen | TextChunk | Answered) -> None:
        from adatp_cli.answering.events import Answered, ClipReady, PrefillChosen, TextChunk

        if isinstance(event, Answered):
            self._answered(event)
        elif isinstance(event, TextChunk):
            self._introduce()
            self._output.text_chunk(event.text)
        elif isinstance(event, PrefillChosen):
            self._chosen(event)
        elif isinstance(event, ClipReady):
            self._know(video_info=event.video_info)
            for note in event.notes:
                self._output.note(note)
        else:
            self._output.stage(f"{event.name}: {event.detail}")

    def _answered(self, event: Answered) -> None:
        self._introduce()
        if self._options.trace is not None and event.trace is not None:
            event.trace.save(trace_path(self._options.trace, self._done))
        truth = None if self._truths is None else self._truths[self._done]
        self.right += event.record.answer == truth
        own = event.own if self._done else None  # a later question waits for itself alone
        self._done += 1
        self._output.answered(event.record, own=own, truth=truth)

    def _introduce(self) -> None:
        if len(self._questions) > 1:
            self._output.question(self._done, self._questions[self._done])

    def _know(self, **facts: object) -> None:
        """Remember what a failure record will tell, should one be needed."""
        self._known = dataclasses.replace(self._known, **facts)  # type: ignore[arg-type]
