"""How an answer is judged: one deterministic rule, and the standard harness's own beside it.

The rule for options: an answer counts when it names exactly one of the options that the question
has, by its letter or by its whole text. Anything else is unparsed, and unparsed is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from adatp_cli.evaluation.items import Item


class Rule(StrEnum):
    """Which verdict counts."""

    strict = "strict"
    harness = "harness"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer came to.

    Parameters
    ----------
    choice
        The letter, or the free answer as it was compared; None where the rule found none.
    right
        Whether that is the right one.
    guessed
        The harness found nothing and drew a letter.
    counted
        Whether the answer is among those that the accuracy is a share of.
    """

    choice: str | None
    right: bool
    guessed: bool = False
    counted: bool = True

    @property
    def parsed(self) -> bool:
        """Whether the answer itself says what was chosen."""
        return self.choice is not None and not self.guessed


Judge = Callable[[str, Item], Verdict]


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a dataset's answers are judged.

    Parameters
    ----------
    strict
        The rule of this module.
    harness
        That of the standard harness; None where there is none.
    """

    strict: Judge
    harness: Judge | None = None

    def judge(self, rule: Rule) -> Judge:
        """The judge that a rule names; where the harness has none, the strict one."""
        return self.harness or self.strict if rule is Rule.harness else self.strict


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


def choice(answer: str, item: Item) -> Verdict:
    """Judge an answer to a question with options, by the module's rule.

    In this order, the first that finds something decides, and two different letters are none,
    also where they are offered as in "A or B": the whole answer is a letter; it begins with a label
    such as "B." or "(B)"; a phrase such as "the answer is B"; letters in brackets; the whole answer
    is the text of one option.
    """
    found = _choice(answer.strip(), item)
    return Verdict(found, found is not None and found == item.answer)


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


def _choice(text: str, item: Item) -> str | None:
    alone = _ALONE.fullmatch(text)
    if alone is not None:
        return _allowed({alone[1].upper()}, item)
    if _EITHER.search(text) is not None:
        return None
    label = _LABEL.match(text)
    if label is not None:
        return _allowed({label[1] or label[2]}, item)
    for pattern in (_PHRASE, _BRACKETED):
        named = {
            next(group for group in match.groups() if group).upper()
            for match in pattern.finditer(text)
        }
        if named:
            return _allowed(named, item)
    said = plain(text)
    same = {
        letter
        for letter, option in zip(item.letters, item.options, strict=True)
        if said and plain(option) == said
    }
    return _allowed(same, item)


def _allowed(named: set[str], item: Item) -> str | None:
    """The one letter named, if the question has such an option."""
    (letter, *others) = named or {""}
    return letter if not others and letter and letter in item.letters else None
