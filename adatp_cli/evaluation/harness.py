"""The rules by which lmms-eval reads a letter out of an answer, one for each benchmark.

They are reproduced with their peculiarities, for comparing with published numbers, from lmms-eval
of August 2026. Where a rule draws a letter at random, ours is drawn from the question's id, so that
it is the same in every run and under every profile.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from adatp_cli.evaluation.items import Item
from adatp_cli.evaluation.scoring import Judge, Verdict

_PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is",
    "the best answer is", "best answer is", "the correct option is", "correct option is",
    "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick",
    "my answer is", "my choice is",
)  # fmt: skip
_STRIPPED = (",", ".", "!", "?", ";", ":", "'")
_LVB_PREFIXES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer",
    "The best option is", "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip
_MVBENCH_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def _judge(read: Callable[[str, Item], str | None]) -> Judge:
    """A judge from what reads a letter; it draws none where there is none."""

    def judge(answer: str, item: Item) -> Verdict:
        found = read(answer, item)
        return Verdict(found, found is not None and found == item.answer)

    return judge


def _drawing(read: Callable[[str, Item], str | None]) -> Judge:
    """A judge that draws a letter where none is read."""

    def judge(answer: str, item: Item) -> Verdict:
        found = read(answer, item)
        letter = found or drawn(item)
        return Verdict(letter, letter == item.answer, guessed=found is None)

    return judge


def drawn(item: Item) -> str:
    """A letter of the question's options, by chance and always the same."""
    digest = hashlib.sha256(item.id.encode("utf-8", "surrogatepass")).digest()
    return item.letters[int.from_bytes(digest[:8], "big") % len(item.letters)]


def _extract(answer: str, item: Item) -> str | None:
    """Video-MME's and MLVU's: the best placed letter, of several such the last one."""
    if not answer.strip():
        return None
    bare = answer.strip()
    for mark in (*_STRIPPED, '"'):
        bare = bare.strip(mark)
    text = f" {bare} "
    bare = bare.strip()
    found: list[tuple[int, int, str]] = []
    for letter in item.letters:
        for rank, form in ((6, f"({letter})"), (5, f"{letter}."), (4, f"{letter}:"),
                           (3, f"{letter})"), (2, f"{letter} ")):  # fmt: skip
            if form in text:
                found.append((rank, text.rfind(form), letter))
        for phrase in _PHRASES:
            at = text.lower().find(phrase)
            after = text.find(letter, at + len(phrase)) if at >= 0 else -1
            if after >= 0:
                found.append((7, after, letter))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((9, len(text) - 1, letter))
    if not found:
        found = [(0, text.rfind(letter), letter) for letter in item.letters if letter in text]
    # max() keeps the first of equals, as a stable sort from the top does.
    return max(found, key=lambda row: row[:2])[2] if found else None


def _mvbench(answer: str, _item: Item) -> str | None:
    """MVBench's: "X. ..." at the start, else the first letter a to e that stands alone."""
    labelled = re.match(r"([A-E])\.\s*.+$", answer.strip(), re.IGNORECASE)
    if labelled:
        return labelled[1].upper()
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    cleaned = text
    for mark in _MVBENCH_PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text or re.search(r"\d,\d", text)
        cleaned = cleaned.replace(mark, "" if beside else " ")
    # The harness passes a flag in the place of a count, so it takes away 32 full stops at most.
    cleaned = re.sub(r"\.(?!\d)", "", cleaned, count=32)
    alone = re.search(r"\b([A-E])\b", cleaned, re.IGNORECASE)
    return alone[1].upper() if alone else None


def mvbench(answer: str, item: Item) -> Verdict:
    """Judge as MVBench's task does: an empty answer leaves the denominator."""
    found = _mvbench(answer, item)
    return Verdict(found, found is not None and found == item.answer, counted=answer != "")


def _longvideobench(answer: str, _item: Item) -> str | None:
    """LongVideoBench's: phrases taken away, then the first capital A to E, inside a word too."""
    text = answer.strip()
    for prefix in _LVB_PREFIXES:
        text = text.replace(prefix, "")
    first = re.search("[ABCDE]", text)
    return first[0] if first else None


def _bare(answer: str) -> str:
    for mark in _STRIPPED:
        answer = answer.strip(mark)
    return f" {answer} "


def _by_text(text: str, item: Item) -> dict[str, int]:
    """Letters of the options whose text is said in an answer of more than five words."""
    if len(text.split()) <= 5:
        return {}
    lowered = text.lower()
    return {
        letter: lowered.rfind(option.strip().lower())
        for letter, option in zip(item.letters, item.options, strict=True)
        if option.strip().lower() in lowered
    }


def _egoschema(answer: str, item: Item) -> str | None:
    """EgoSchema's: "(A)", "A " and "A." alike, the earliest of each form's last places."""
    text = _bare(answer)
    found: list[tuple[int, str]] = []
    for form in ("({})", "{} ", "{}."):
        found += [
            (text.rfind(form.format(letter)), letter)
            for letter in item.letters
            if form.format(letter) in text
        ]
    if not found:
        found = [(at, letter) for letter, at in _by_text(text, item).items()]
    return min(found, key=lambda row: row[0])[1] if found else None


def _nextqa(answer: str, item: Item) -> str | None:
    """NExT-QA's: "(A)", else "A ", else "A."; of several the last."""
    text = _bare(answer)
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [
            (text.rfind(place.format(letter)), letter)
            for letter in item.letters
            if form.format(letter) in text
        ]
        if found:
            return max(found, key=lambda row: row[0])[1]
    said = [(at, letter) for letter, at in _by_text(text, item).items()]
    return max(said, key=lambda row: row[0])[1] if said else None


extract = _judge(_extract)
longvideobench = _drawing(_longvideobench)
egoschema = _drawing(_egoschema)
nextqa = _drawing(_nextqa)
