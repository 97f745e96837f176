"""Several questions about one clip, from the options to the last answer; for `ask` and `demo`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adatp_cli.cli.errors import failure_of
from adatp_cli.cli.open_model import open_model
from adatp_cli.cli.options import RunOptions, trace_path
from adatp_cli.cli.output import Output
from adatp_cli.cli.streams import OutputClosedError
from adatp_cli.profiles import Profile
from adatp_cli.record import RunContext
from adatp_cli.text import amount
from adatp_cli.video.source import check_source

if TYPE_CHECKING:
    from adatp_cli.answering.events import ClipReady, PrefillChosen, Stage, TextChunk
    from adatp_cli.answering.run import Row
    from adatp_cli.answering.tasks import PrefillMode
    from adatp_cli.video.isolated import IsolatedReader


class AskRun:
    """Asks one clip everything and writes the answers as they come.

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
        self._context = RunContext(video_name)

    def run(self) -> None:
        """Answer every question.

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
                self._output.failed(self._context.failure(question, info))
            raise

    def _ask(self, reader: IsolatedReader) -> None:
        options, name = self._options, self._context.video
        profile = options.resolved_profile()
        self._know(profile=profile.to_dict())
        wanted = options.sampling()  # a wrong one is told before anything is loaded
        check_source(self._source, name)  # a wrong path must not wait for PyTorch
        reader.start()
        opened = open_model(
            [profile],
            options,
            self._output,
            check=lambda: reader.check(self._source, wanted, name=name),
        )
        from adatp_cli.answering.events import ClipReady
        from adatp_cli.answering.run import RunLoop

        self._context = dataclasses.replace(opened.runs[0].context, video=name)
        sampling = opened.sampling(options, self._output, self._questions)
        prefill = self._prefill_mode(profile)
        loop = RunLoop(
            lambda error: failure_of(error).info,
            share=prefill != "each",
            stream=not options.json,
        )
        events = loop.clip(
            opened.runs[0],
            self._source,
            self._questions,
            sampling,
            reader=reader,
            video_name=name,
            prefill=prefill,
        )
        # Closed at once when something goes wrong: that stops the thread that generates.
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, ClipReady):
                    reader.close()  # the model can use its memory
                self._handle(event)

    def _prefill_mode(self, profile: Profile) -> PrefillMode:
        """As asked for; else the cheaper way, but what was asked of the pruning is held to."""
        asked = (self._options.profile, self._options.budget, self._options.trace)
        held_to = profile.method != "vanilla" and any(item is not None for item in asked)
        return self._prefill or ("each" if held_to else "cheaper")

    def _handle(self, event: Stage | ClipReady | PrefillChosen | TextChunk | Row) -> None:
        from adatp_cli.answering.events import ClipReady, PrefillChosen, Stage, TextChunk

        if isinstance(event, TextChunk):
            self._introduce()
            self._output.text_chunk(event.text)
        elif isinstance(event, PrefillChosen):
            self._chosen(event)
        elif isinstance(event, ClipReady):
            self._know(video_info=event.video_info)
            for note in event.notes:
                self._output.note(note)
        elif isinstance(event, Stage):
            self._output.stage(f"{event.name}: {event.detail}")
        else:
            self._answered(event)

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

    def _answered(self, row: Row) -> None:
        answered = row.answered
        if answered is None:
            raise row.error or RuntimeError("a question ended without an answer or an error")
        self._introduce()
        if self._options.trace is not None and answered.trace is not None:
            answered.trace.save(trace_path(self._options.trace, self._done))
        truth = None if self._truths is None else self._truths[self._done]
        self.right += answered.record.answer == truth
        own = answered.own if self._done else None  # a later question waits for itself alone
        self._done += 1
        self._output.answered(answered.record, own=own, truth=truth)

    def _introduce(self) -> None:
        if len(self._questions) > 1:
            self._output.question(self._done, self._questions[self._done])

    def _know(self, **facts: object) -> None:
        """Remember what a failure record will tell, should one be needed."""
        self._context = dataclasses.replace(self._context, **facts)  # type: ignore[arg-type]
