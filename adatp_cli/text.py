"""Words and cells: text of others, such as names and answers, stays text wherever it stands."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import re
import reprlib
from collections.abc import Iterable

# At the start of a CSV file: Excel takes one without it for the country's old encoding. Readers of
# CSV know it, but not every tool in a pipe does, so that a stream gets none.
CSV_MARK = "\ufeff"
# Spreadsheets run a cell that begins so as a formula, and file names and answers are anyone's.
# The full-width signs count as their plain ones in some languages.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # noqa: RUF001
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")
# What begins a tag, an entity, a link, a picture, code or emphasis, or ends a cell.
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")

# Controls but for tabs and line ends, and what turns the direction of the text around it.
_OBEYED = {
    code: ascii(chr(code))[1:-1]
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\t\n"
}


_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmgt])?(i)?b?", re.IGNORECASE)
_PREFIXES = ("", "k", "M", "G", "T", "P")


def is_utf16(data: bytes) -> bool:
    """Whether the bytes say of themselves, in a mark at their start, that they are UTF-16."""
    return data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def decoded(data: bytes, errors: str = "strict") -> str:
    """UTF-8 or, where a mark says so, UTF-16, as spreadsheets and PowerShell write; marks go.

    Raises
    ------
    UnicodeDecodeError
        The bytes are neither.
    """
    return data.decode("utf-16" if is_utf16(data) else "utf-8-sig", errors)


def printable(text: str) -> str:
    """`text` on one line, with control characters and broken encodings written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`text` on one line that is safe to print: white space as one space, controls escaped."""
    return " ".join(printable(word) for word in text.split())


def for_terminal(text: str) -> str:
    """Lines that a terminal shows as they are: what it would obey is written as escapes."""
    return "\r\n".join(part.translate(_OBEYED) for part in text.split("\r\n"))


def shown(value: object) -> str:
    """A value for an error message: one line, never long, never expensive to render."""
    return "null" if value is None else reprlib.repr(value)


def plural(count: int, noun: str, many: str | None = None) -> str:
    """'1 frame', '3 frames'; `many` where the plural takes more than an s."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def nearest(word: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the valid word most like `word`, or nothing."""
    match = difflib.get_close_matches(word[:80], list(valid), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def readable_bytes(count: float) -> str:
    """Decimal units, as the hub's pages show sizes: 1_800_000_000 -> '1.8 GB'."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit != "MB" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def read_bytes(text: str) -> int:
    """The bytes that a size names: 500MB, 1.5 GB, 2GiB or a number of them; else a ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size")
    number, prefix, binary = match.groups()
    unit: int = 1024 if binary else 1000
    return int(float(number) * unit ** " kmgt".index((prefix or " ").lower()))


def gigabytes(count: int) -> str:
    """Binary gigabytes with one digit, as memory is sold."""
    return f"{count / 2**30:.1f} GiB"


def percent(share: float | None) -> str:
    """0.273 -> '27.3 %', and a dash for what is not known."""
    return "-" if share is None else f"{100 * share:.1f} %"


def amount(count: float) -> str:
    """Three significant digits and a prefix: 48_821_899_886_592 -> '48.8 T'."""
    power = 0
    while count >= 999.5 and power < len(_PREFIXES) - 1:
        count /= 1000
        power += 1
    digits = 0 if power == 0 or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {_PREFIXES[power]}"


def duration(seconds: float) -> str:
    """'8 s', '3 min 5 s', '2 h 10 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def markdown_cell(text: str) -> str:
    """Text that stands in a Markdown page or table as it is, and ends neither a cell nor a line."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def csv_line(values: Iterable[object]) -> str:
    r"""A line of CSV (RFC 4180) with its end, valid as UTF-8; None is an empty cell.

    A cell of text that a spreadsheet would run as a formula gets an apostrophe in front, unless it
    is a number. To undo it, take one apostrophe off each cell that matches ``^'+[=+\-@\t\r\n]`` or
    the full-width signs. A file name's bytes that are no UTF-8 become escapes as in ``\udcff``.
    """
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow([_csv_cell(value) for value in values])
    return line.getvalue()


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    runs = _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None
    return f"'{text}" if runs else text
