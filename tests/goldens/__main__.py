"""`python -m tests.goldens --check | --write [GROUP | GROUP/CASE]...`: every case, the dear too."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.goldens.book import GROUPS, Book
from tests.goldens.runs import differences, machine, told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.goldens")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="compare with what is written down")
    action.add_argument("--write", action="store_true", help="write down what comes now")
    parser.add_argument("--cheap", action="store_true", help="only the cases that are tests")
    parser.add_argument("only", nargs="*", metavar="GROUP[/CASE]")
    options = parser.parse_args()
    failed = 0
    for group, cases in GROUPS.items():
        book, began = Book(group), time.process_time()
        chosen = [
            case
            for case in cases
            if not options.only or {group, f"{group}/{case.name}"} & set(options.only)
            if case.cheap or not options.cheap
        ]
        exact = book.machine in ({}, machine())
        for case in chosen:
            with tempfile.TemporaryDirectory() as folder:
                found = told(case, Path(folder).resolve())
            if options.write:
                book.told[case.name] = found
                continue
            lines = list(differences(book.told.get(case.name), found, exact))
            failed += bool(lines)
            for line in lines[:10]:
                print(f"{group}/{case.name}{line}")  # noqa: T201
        if options.write and chosen:
            names = [case.name for case in cases]
            book.told = {name: book.told[name] for name in names if name in book.told}
            book.save()
        seconds = time.process_time() - began
        print(f"{group}: {len(chosen)} cases, {seconds:.1f} s", file=sys.stderr)  # noqa: T201
    print(f"{failed} cases differ" if options.check else "written", file=sys.stderr)  # noqa: T201
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
