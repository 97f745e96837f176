"""A complete answer record to vary in tests; the numbers are plausible and made up."""

from __future__ import annotations

import dataclasses
from typing import Any

from adatp_cli import record
from adatp_cli.profiles import load_profile


def answer_record(**changes: Any) -> record.AnswerRecord:
    """A record of a pruned run, with the fields in `changes` replaced."""
    complete = record.AnswerRecord(
        video="clip.mp4",
        question="What happens?",
        answer="a red circle moves left",
        finish_reason="eos",
        model=record.ModelInfo("tiny", None, "none", "float32", "cpu", 12),
        profile=load_profile("adatp").to_dict(),
        video_info=record.VideoFacts("decord", "h264", 96, 96, 8.0, 4.0, 32, 0, 2, [1.0, 3.0]),
        segments=[
            record.SegmentFacts(0, 0, 0.0, 2.0, 0.25, True, 12),
            record.SegmentFacts(1, 1, 2.0, 4.0, None, False, 8),
        ],
        tokens=record.TokenCounts(20, 72, [72, 72, 40, 20], 20, 0.7083, 6),
        flops=record.Flops(
            record.PaperFlops(48_821_899_886_592, 13_446_307_381_248, 0.2754),
            record.EndToEndFlops(
                vanilla=119_698_542_364_192,
                pruned=46_400_000_000_000,
                ratio=0.3876,
                vision=21_329_576_460_288,
                relevance=200_000_000_000,
                prefill=24_000_000_000_000,
                scoring=1_000_000_000,
                generate=870_000_000_000,
            ),
        ),
        seconds=record.Seconds(1.2, 0.05, 0.4, 0.0, 0.2, 0.7, 0.1, 1.95),
        peak_memory_bytes=123_456_789,
        versions=record.Versions("0.1.0", "2.13.0", "5.23.0"),
    )
    return dataclasses.replace(complete, **changes)
