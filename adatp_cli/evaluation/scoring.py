"""How an answer is judged: one deterministic rule, and the standard harness's own beside it.

The rule for options: an answer counts when it names exactly one of the options that the question
has, by its letter or by its whole text. Anything else is unparsed, and unparsed is wrong.

The rules of lmms-eval (August 2026), one for each benchmark, are reproduced with their
peculiarities, for comparing with published numbers. Where one draws a letter at random, ours is
drawn from the question's id, so that it is the same in every run and under every profile.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable

from adatp_cli.evaluation.questions import Item, Judge, Verdict

# A letter that stands alone, perhaps in brackets: "B", "(B)", "**B**.", "B)", "Option B:".
_LEAD = r"(?:option|answer|choice)?[\s:]*[*_\"'`\[({]*"
_CLOSE = r"[*_\"'`\])}]*"
_ALONE = re.compile(rf"{_LEAD}([a-z]){_CLOSE}[.):,;!]*{_CLOSE}", re.IGNORECASE)
# "B. a red car", "(B) a red car", "B: ...", "B) ..."; "A car" is no letter, "A." is one.
_LABEL = re.compile(rf"{_LEAD}(?:\(([A-Z])\)|([A-Z])[.):])(?:\s|$)")
# "The answer is B", "the correct option is (B)", "best option: B"; the letter must stand alone.
_PHRASE = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|:)[\s:]*(?:option\s+)?[*_\"'`]*"
    rf"(?:\(([A-Z])\)|([A-Z])(?={_CLOSE}(?:[.):,;!]|\s+or\b|\s*$)))",
    re.IGNORECASE,
)
# "A or B", "(A) and (B)", "A/B": two letters offered for one answer.
_EITHER = re.compile(r"(?<!\w)\(?[A-Z]\)?\s*(?:\bor\b|\band\b|/|&)\s*\(?[A-Z]\)?(?!\w)")
_BRACKETED = re.compile(r"\(([A-Z])\)")


def _judge(
    read: Callable[[str, Item], str | None], *, draws: bool = False, counts_empty: bool = True
) -> Judge:
    """A judge from what reads a letter; one that `draws` makes do with any where there is none."""

    def judge(answer: str, item: Item) -> Verdict:
        found = read(answer, item)
        letter = _drawn(item) if draws and found is None else found
        return Verdict(
            letter,
            letter is not None and letter == item.answer,
            guessed=draws and found is None,
            counted=counts_empty or answer != "",
        )

    return judge


def _drawn(item: Item) -> str:
    """A letter of the question's options, by chance and always the same."""
    digest = hashlib.sha256(item.id.encode("utf-8", "surrogatepass")).digest()
    return item.letters[int.from_bytes(digest[:8], "big") % len(item.letters)]


def exact(answer: str, item: Item) -> Verdict:
    """Judge a free answer: right when it is the true one word for word.

    Case, outer white space, runs of it and a full stop at the end do not count.
    """
    given = plain(answer)
    return Verdict(given or None, bool(given) and given == plain(item.answer))


def verbatim(answer: str, item: Item) -> Verdict:
    """Judge a free answer: right when it is the true one, character for character."""
    given = answer.strip()
    return Verdict(given or None, bool(given) and given == item.answer)


def plain(text: str) -> str:
    """Text for comparing: one case, single spaces, no full stop at the end."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.removesuffix(".").rstrip()


def _named(answer: str, item: Item) -> str | None:
    """The letter of the option that an answer names.

    In this order, the first that finds something decides, and two different letters are none,
    also where they are offered as in "A or B": the whole answer is a letter; it begins with a label
    such as "B." or "(B)"; a phrase such as "the answer is B"; letters in brackets; the whole answer
    is the text of one option.
    """
    text = answer.strip()
    alone = _ALONE.fullmatch(text)
    if alone is not None:
        return _only({alone[1].upper()}, item)
    if _EITHER.search(text) is not None:
        return None
    label = _LABEL.match(text)
    if label is not None:
        return _only({label[1] or label[2]}, item)
    for pattern in (_PHRASE, _BRACKETED):
        named = {
            next(group for group in match.groups() if group).upper()
            for match in pattern.finditer(text)
        }
        if named:
            return _only(named, item)
    said = plain(text)
    options = zip(item.letters, item.options, strict=True)
    return _only({letter for letter, option in options if said and plain(option) == said}, item)


def _only(named: set[str], item: Item) -> str | None:
    """The one letter named, if the question has such an option."""
    return named.pop() if len(named) == 1 and named <= set(item.letters) else None


# The rules of lmms-eval, with their peculiarities.
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


def _extract(answer: str, item: Item) -> str | None:
    """Video-MME's and MLVU's: the best placed letter, of several such the last one."""
    if not answer.strip():
        return None
    text = _padded(answer.strip(), (*_STRIPPED, '"'))
    bare = text.strip()
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


def _longvideobench(answer: str, _item: Item) -> str | None:
    """LongVideoBench's: phrases taken away, then the first capital A to E, inside a word too."""
    text = answer.strip()
    for prefix in _LVB_PREFIXES:
        text = text.replace(prefix, "")
    first = re.search("[ABCDE]", text)
    return first[0] if first else None


def _padded(answer: str, marks: Iterable[str] = _STRIPPED) -> str:
    for mark in marks:
        answer = answer.strip(mark)
    return f" {answer} "


def _by_text(text: str, item: Item) -> list[tuple[int, str]]:
    """Options whose text is said in an answer of more than five words: where, and the letter."""
    if len(text.split()) <= 5:
        return []
    lowered = text.lower()
    return [
        (lowered.rfind(option.strip().lower()), letter)
        for letter, option in zip(item.letters, item.options, strict=True)
        if option.strip().lower() in lowered
    ]


def _egoschema(answer: str, item: Item) -> str | None:
    """EgoSchema's: "(A)", "A " and "A." alike, the earliest of each form's last places."""
    text = _padded(answer)
    found = [
        (text.rfind(form), letter)
        for letter in item.letters
        for form in (f"({letter})", f"{letter} ", f"{letter}.")
        if form in text
    ]
    return min(found or _by_text(text, item), default=(0, None))[1]


def _nextqa(answer: str, item: Item) -> str | None:
    """NExT-QA's: "(A)", else "A ", else "A."; of several the last."""
    text = _padded(answer)
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [
            (text.rfind(place.format(letter)), letter)
            for letter in item.letters
            if form.format(letter) in text
        ]
        if found:
            break
    # max() keeps the first of equals.
    last = max(found or _by_text(text, item), key=lambda row: row[0], default=None)
    return last[1] if last else None


choice = _judge(_named)
extract = _judge(_extract)  # Video-MME and MLVU
mvbench = _judge(_mvbench, counts_empty=False)  # there it leaves the denominator
longvideobench = _judge(_longvideobench, draws=True)
egoschema = _judge(_egoschema, draws=True)
nextqa = _judge(_nextqa, draws=True)
