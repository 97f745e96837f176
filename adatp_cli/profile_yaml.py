"""Settings files, read strictly: YAML to frozen dataclasses, one clear line for each mistake.

Knows nothing of what the settings mean. Unknown keys, ill-typed values, repeated keys, aliases,
tags, binary and oversized files are refused with the file, the key and the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from adatp_cli.errors import ProfileError
from adatp_cli.text import decoded

Settings = TypeVar("Settings")

# A settings file is a page of text. Anything larger is some other file given by mistake.
MAX_BYTES = 64 * 1024
HINT = "`adatp profiles show adatp` prints a complete profile to start from"


def read_text(path: Path) -> str:
    """The text of a settings file.

    Raises
    ------
    ProfileError
        The file is not there, not readable, not text or too large.
    """
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
    """The keys and values of YAML text; `source` names the file in errors.

    Raises
    ------
    ProfileError
        The text is not a mapping.
    """
    data = _parse_yaml(text, source)
    if data is None:
        raise ProfileError(f"{source}: the profile is empty", HINT)
    if not isinstance(data, dict):
        raise ProfileError(f"{source}: expected keys and values, found {_type_name(data)}", HINT)
    return data


def build(cls: type[Settings], data: Mapping[Any, Any], source: str) -> Settings:
    """An instance of the dataclass `cls` from what `mapping` gave.

    Raises
    ------
    ProfileError
        A key or a value does not fit the dataclass's fields and their types.
    """
    settings: Settings = _build(cls, data, source, "")
    return settings


def dump(data: Mapping[str, Any]) -> str:
    """YAML text that `mapping` reads back as the same data, in the same order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def nearest(word: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the valid word most like `word`, or nothing."""
    match = difflib.get_close_matches(word[:80], list(valid), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def shown(value: object) -> str:
    """A value for an error message: one line, never long, never expensive to render."""
    return "null" if value is None else reprlib.repr(value)


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


def _parse_yaml(text: str, source: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = error.problem or "not valid YAML"
        raise ProfileError(f"{source}{place}: {problem}", HINT) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ProfileError(f"{source}: not valid YAML", HINT) from None


def _build(cls: Any, data: Mapping[Any, Any], source: str, prefix: str) -> Any:
    """An instance of the settings dataclass `cls` from a mapping, each key and value checked."""
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        where = f"{prefix}{key if isinstance(key, str) else shown(key)}"
        if key not in fields:
            suggestion = nearest(where, [prefix + name for name in fields])
            hint = f"valid keys here: {', '.join(fields)}"
            raise ProfileError(f"{source}: unknown key {shown(where)}{suggestion}", hint)
        expected = hints[key]
        if not dataclasses.is_dataclass(expected):
            values[key] = _convert(expected, value, source, where)
        elif isinstance(value, dict):
            values[key] = _build(expected, value, source, f"{where}.")
        else:
            raise _ill_typed(source, where, "a mapping", value)
    for name, item in fields.items():
        required = item.default is item.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ProfileError(f"{source}: the key {prefix + name!r} is missing", HINT)
    return cls(**values)


def _convert(expected: Any, value: Any, source: str, where: str) -> Any:
    """`value` as the field type `expected`: a scalar, a literal, or a union of these."""
    is_union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    options = typing.get_args(expected) if is_union else (expected,)
    words: list[str] = []
    for option in options:
        if typing.get_origin(option) is Literal:
            words += typing.get_args(option)
        elif option is float and type(value) in (int, float):
            return float(value)
        elif type(value) is option:  # exactly: a bool is no int here
            return value
    if isinstance(value, str) and value in words:
        return value
    suggestion = nearest(value, words) if isinstance(value, str) else ""
    raise _ill_typed(source, where, _describe(options), value, suggestion)


_TYPE_NAMES: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
    dict: "a mapping",
    list: "a list",
}


def _describe(options: Iterable[Any]) -> str:
    parts: list[str] = []
    for option in options:
        literals = typing.get_args(option)
        parts += [str(word) for word in literals] if literals else [_TYPE_NAMES[option]]
    return " or ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _type_name(value: object) -> str:
    return _TYPE_NAMES.get(type(value), type(value).__name__)


def _ill_typed(
    source: str, where: str, expected: str, value: object, suggestion: str = ""
) -> ProfileError:
    given = _type_name(value) if isinstance(value, dict | list) else shown(value)
    return ProfileError(f"{source}: {where} expects {expected}, not {given}{suggestion}", HINT)
