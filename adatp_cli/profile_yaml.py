"""Profiles as YAML text, read strictly: repeated keys, aliases, tags, binary and oversized files
are refused with the file and the line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from adatp_cli.errors import ProfileError
from adatp_cli.text import decoded, shown

# A profile is a page of text. Anything larger is some other file given by mistake.
MAX_BYTES = 64 * 1024
HINT = "`adatp profiles show adatp` prints a complete profile to start from"


def read_text(path: Path) -> str:
    """The text of a profile file; a ProfileError where it is not there, no text or too large."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ProfileError(f"{path}: there is no such profile file", HINT) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ProfileError(f"{path}: cannot be read as a profile ({reason})", HINT) from None
    if len(raw) > MAX_BYTES:
        size = f"{MAX_BYTES // 1024} KiB"
        raise ProfileError(f"{path}: larger than {size}, so not a profile", HINT)
    try:
        text = decoded(raw)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ProfileError(f"{path}: not a text file, so not a profile", HINT)
    return text


def mapping(text: str, source: str) -> dict[Any, Any]:
    """The keys and values of YAML text; a ProfileError, which names `source`, where it has none."""
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = error.problem or "not valid YAML"
        raise ProfileError(f"{source}{place}: {problem}", HINT) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ProfileError(f"{source}: not valid YAML", HINT) from None
    if data is None:
        raise ProfileError(f"{source}: the profile is empty", HINT)
    if not isinstance(data, dict):
        names = {"str": "text", "list": "a list", "int": "a whole number", "float": "a number"}
        found = type(data).__name__
        found = names.get(found, found)
        raise ProfileError(f"{source}: expected keys and values, found {found}", HINT)
    return data


def dump(data: Mapping[str, Any]) -> str:
    """YAML text that `mapping` reads back as the same data, in the same order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 scalars, no aliases, no tags and no repeated keys.

    YAML 1.1 reads the word `off`, which is a value here, as false, and 1e-1 as text.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the base class's own registry, emptied

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        # A tag makes its constructor read whatever stands behind it, which may fail in any way.
        for what, there in (
            ("aliases", isinstance(event, yaml.AliasEvent)),
            ("tags", getattr(event, "tag", None) is not None),
        ):
            if there:
                message = f"{what} are not supported"
                raise yaml.composer.ComposerError(None, None, message, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key_node, _ in node.value:
            key = (key_node.tag, str(key_node.value))
            if key in seen:
                message = f"the key {shown(key[1])} stands twice"
                raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})", list("-+0123456789")),
    ("float", rf"{_NUMBER}|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    _matches = re.compile(f"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _matches, _first)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that YAML 1.2 reads as something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class's own registry, extended
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *_Loader.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **_Loader.yaml_implicit_resolvers}
    }
