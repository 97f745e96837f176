"""What an answer cost and how it ended, in words: a line, or one for each count."""

from __future__ import annotations

from adatp_cli.record import AnswerRecord, Seconds
from adatp_cli.text import percent, plural

_PREFIXES = ("", "k", "M", "G", "T", "P")


def summary(record: AnswerRecord, own: Seconds | None = None) -> str:
    """What an answer cost in one line: tokens kept, the LLM's share in the paper's count, seconds.

    `own` is what a later question about the clip took, which decoding and encoding are no part of.
    """
    tokens, seconds = record.tokens, own or record.seconds
    return (
        f"{tokens.kept_final} of {tokens.visual} tokens kept, "
        f"{percent(record.flops.paper.ratio)} of the LLM's work, {_time(seconds.total)} s"
        + (", clip reused" if own else "")
    )


def ending(record: AnswerRecord) -> str | None:
    """What there is to say of how an answer ended: that it is empty, or was cut; else None."""
    cut, spent = record.finish_reason == "length", plural(record.tokens.generated, "token")
    more = "--max-new-tokens raises the limit"
    if cut and record.answer:
        return f"the answer was cut at {spent}; {more}"
    if cut:
        return f"the answer is empty: the model gave {spent} without text; {more}"
    if not record.answer:
        return "the answer is empty: the model ended at once; ask in other words"
    return None


def statistics(record: AnswerRecord, own: Seconds | None = None) -> list[tuple[str, str]]:
    """What an answer cost, as label and text; each fits a line of 80 columns. `own` as above."""
    tokens, paper, full = record.tokens, record.flops.paper, record.flops.end_to_end
    seconds = own or record.seconds
    llm = full.prefill + full.scoring + full.generate
    llm_vanilla = full.vanilla - full.vision
    encoders = [f"vision {amount(full.vision)}"]
    before = ["prefill"] if own else ["decode", "vision", "prefill"]
    if full.relevance:
        encoders.append(f"relevance {amount(full.relevance)}")
        before.insert(-1, "relevance")
    generated = f"generate {_time(seconds.generate)} for {plural(tokens.generated, 'token')}"
    begun = "" if own else f"load {_time(seconds.load)}, "
    reused = "; clip reused" if own else ""
    stages = [f"{name} {_time(getattr(seconds, name))}" for name in before]
    used, copied = record.video_info.frames_used, record.video_info.frames_copied
    frames = f"{used - copied} of {used} encoded; the others are near copies, with their tokens"
    return [
        *([("frames", frames)] if copied else []),
        (
            "tokens",
            f"{tokens.visual} visual, {tokens.kept_final} kept to the last layer, "
            f"{percent(tokens.kept_mean_ratio)} mean per layer",
        ),
        (
            "LLM cost",
            f"{amount(paper.pruned)} of {amount(paper.vanilla)}MAC "
            f"({percent(paper.ratio)}, paper), "
            f"{amount(llm)} of {amount(llm_vanilla)}FLOP ({percent(llm / llm_vanilla)})",
        ),
        (
            "end to end",
            f"{amount(full.pruned)} of {amount(full.vanilla)}FLOP ({percent(full.ratio)}), "
            f"{', '.join(encoders)}",
        ),
        ("first token", f"{_time(seconds.first_token)} s: {', '.join(stages)}{reused}"),
        ("in all", f"{_time(seconds.total)} s: {begun}{generated}"),
    ]


def amount(count: float) -> str:
    """Three significant digits and a prefix: 48_821_899_886_592 -> '48.8 T'."""
    power = 0
    while count >= 999.5 and power < len(_PREFIXES) - 1:
        count /= 1000
        power += 1
    digits = 0 if power == 0 or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {_PREFIXES[power]}"


def _time(seconds: float) -> str:
    """At most four characters up to 9999 s: 0.35, 12.5, 125."""
    return f"{seconds:.{2 if seconds < 9.995 else 1 if seconds < 99.95 else 0}f}"
