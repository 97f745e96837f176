"""The floors of the house: what imports what, and that docs/architecture.md says so."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FLOORS = (
    ("cli",),
    ("bench", "evaluation", "serving"),
    ("batch", "pictures"),
    ("answering", "machine"),
    ("model", "pruning", "tiny", "video"),
    ("cost", "errors", "files", "knobs", "profiles", "record", "tables", "text"),
)
# The package's face: it imports lazily what it offers, and of it the rooms take the version alone.
FACE = ("adatp_cli", "adatp_cli.__main__")


def modules() -> dict[str, Path]:
    """All modules of the package by name."""
    paths = (ROOT / "adatp_cli").rglob("*.py")
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def imported(path: Path) -> set[str]:
    """Everything that a file imports anywhere: in functions and for type checkers, too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(module: str) -> str:
    """A module's room; the knobs are one of their own, which profiles and records are made of."""
    return "knobs" if module == "adatp_cli.pruning.knobs" else module.split(".")[1]


MODULES = modules()
IMPORTS = {
    module: {
        name if name in MODULES else name.rpartition(".")[0]
        for name in imported(path)
        if name.split(".")[0] == "adatp_cli"
    }
    - {module}
    for module, path in MODULES.items()
}


def between_rooms() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for module, names in IMPORTS.items():
        if module not in FACE:
            found[room(module)] |= {room(name) for name in names if name not in FACE}
    return {name: names - {name} for name, names in found.items()}


def test_every_room_has_a_floor() -> None:
    rooms = {room(module) for module in MODULES if module not in FACE}
    assert rooms == {name for floor in FLOORS for name in floor}


def test_nothing_imports_upwards() -> None:
    floor = {name: depth for depth, names in enumerate(FLOORS) for name in names}
    upwards = [
        (name, other)
        for name, others in between_rooms().items()
        for other in others
        if floor[other] < floor[name]
    ]
    assert not upwards


def test_no_modules_and_no_rooms_import_each_other_in_circles() -> None:
    below = {name: names - set(FACE) for name, names in IMPORTS.items() if name not in FACE}
    list(graphlib.TopologicalSorter(below).static_order())
    list(graphlib.TopologicalSorter(between_rooms()).static_order())


def test_the_rooms_take_nothing_but_the_version_from_the_face() -> None:
    for module, path in MODULES.items():
        taken = {name for name in imported(path) if name.rpartition(".")[0] == "adatp_cli"}
        if module not in FACE:
            assert {name for name in taken if name not in MODULES} <= {"adatp_cli.__version__"}


def test_only_the_command_line_imports_what_draws_it() -> None:
    drawing = {"click", "rich", "typer"}
    users = {
        room(module)
        for module, path in MODULES.items()
        if drawing & {name.split(".")[0] for name in imported(path)}
    }
    assert users == {"cli"}


def test_the_page_draws_these_floors() -> None:
    (drawing,) = re.findall(r"```text\n(.*?)```", PAGE.split("## Rooms")[1], flags=re.DOTALL)
    assert [tuple(line.split()) for line in drawing.splitlines() if line.strip(" |v")] == [
        tuple(floor) for floor in FLOORS
    ]


def test_the_table_has_what_each_room_imports() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE.split("## The way")[0], re.MULTILINE)
    said = {name: set(re.findall(r"`(\w+)`", others)) for name, others in rows}
    assert said == {name: between_rooms().get(name, set()) for name in said}
    assert set(said) == {name for floor in FLOORS for name in floor}
