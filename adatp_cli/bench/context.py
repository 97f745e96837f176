"""Which numbers of frames no contender is measured at, as the model cannot read their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adatp_cli.answering.tasks import ProfileRun
from adatp_cli.bench.runner import NotMeasured
from adatp_cli.bench.sample import PLAIN
from adatp_cli.errors import UsageError

if TYPE_CHECKING:
    from adatp_cli.answering.session import Session


def readable_frames(
    runs: Sequence[ProfileRun], questions: Sequence[str], counts: Sequence[int]
) -> tuple[tuple[int, ...], list[NotMeasured]]:
    """The numbers of frames whose prompts the model can read, and who is not measured at others.

    Positions beyond those that it was trained for are no use to plain transformers either, though
    nothing there refuses them; so all contenders stop at the same number.

    Raises
    ------
    UsageError
        It can read none of them.
    """
    fitting: list[int] = []
    missing: list[NotMeasured] = []
    first: UsageError | None = None
    for count in counts:
        error = _refusal(runs[0].session, questions, count)
        if error is None:
            fitting.append(count)
            continue
        first = first or error
        names = [PLAIN, *(run.name for run in runs)]
        missing += [NotMeasured(name, count, error.message) for name in names]
    if first is not None and not fitting:
        raise first
    return tuple(fitting), missing


def _refusal(session: Session, questions: Sequence[str], count: int) -> UsageError | None:
    try:
        for question in questions:
            session.plan.prompt(question, count)
    except UsageError as error:
        return error
    return None
