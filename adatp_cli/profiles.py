"""Profiles by name or from a YAML file, read strictly, with one clear line for each mistake."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from adatp_cli.errors import ProfileError, UsageError
from adatp_cli.pruning.knobs import PROFILES, Knobs, schema_of, sections_of
from adatp_cli.pruning.knobs import Profile as Profile
from adatp_cli.text import decoded, nearest, shown

DEFAULT_PROFILE = "adatp"
# A profile is a page of text. Anything larger is some other file given by mistake.
_MAX_BYTES = 64 * 1024
_HINT = "`adatp profiles show adatp` prints a complete profile to start from"


def read_share(text: str) -> float:
    """A share as people write it: `0.25`, or `25%`. Whether it is a budget, `with_budget` says."""
    number = text.strip().removesuffix("%")
    try:
        return float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        raise UsageError(f"the budget {text!r} is no number", "such as 0.25, or 25%") from None


def profile_folder() -> Path:
    """Folder of the profiles that come with adatp, inside an installed package or a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_profiles"
    return installed if installed.is_dir() else package.parent / "profiles"


def builtin_names() -> list[str]:
    """Names of the profiles that come with adatp, sorted."""
    return sorted(path.stem for path in profile_folder().glob("*.yaml"))


def load_profile(name_or_path: str | os.PathLike[str]) -> Profile:
    """Load a profile by name or from a YAML file.

    A text that ends in .yaml or .yml or holds a path separator is a file, anything else a name.

    Raises
    ------
    ProfileError
        There is no such profile, or it is not a valid one; the message names file and key.
    """
    text = os.fspath(name_or_path)
    if Path(text).suffix.lower() in (".yaml", ".yml") or os.sep in text or "/" in text:
        return parse_profile(_read_text(Path(text).expanduser()), text)
    names = builtin_names()
    if text not in names:
        raise ProfileError(
            f"there is no profile named {shown(text)}{nearest(text, names)}",
            f"choose one of {', '.join(names)}, or give the path of a YAML file",
        )
    path = profile_folder() / f"{text}.yaml"
    return parse_profile(_read_text(path), str(path))


def unpruned(profile: Profile) -> Profile:
    """The profile `vanilla`, with this one's choice of frames."""
    return load_profile("vanilla").replace(frames=profile.frames, reuse_frames=profile.reuse_frames)


def parse_profile(text: str, source: str) -> Profile:
    """A profile from YAML text, or a ProfileError that names `source`, the file, and the key."""
    data = _mapping(text, source)
    budget = data.get("budget")
    if isinstance(budget, str) and budget.strip().endswith("%"):
        with contextlib.suppress(UsageError):  # what is no share is told below
            data["budget"] = read_share(budget)
    method = data.get("method")
    kind = PROFILES.get(method) if isinstance(method, str) else None
    sections = tuple(dict.fromkeys(name for one in sorted(PROFILES) for name in sections_of(one)))
    foreign = set(sections).difference(() if kind is None else kind.model_fields)
    # As in a record, which has every section, and null for those that are not the method's.
    data = {k: value for k, value in data.items() if k not in foreign or value is not None}
    _check_keys(kind or Profile, data, source, known=(*Profile.model_fields, *sections))
    if kind is None:
        if "method" not in data:
            raise ProfileError(f"{source}: the key 'method' is missing", _HINT)
        raise _ill_typed(source, "method", {"enum": sorted(PROFILES)}, method)
    for section in sorted(foreign.intersection(data)):
        raise ProfileError(
            f"{source}: {section} does not belong to method {method}",
            f"sections of {method}: {', '.join(sections_of(str(method))) or 'none'}",
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _told(kind, error, source) from None


def _check_keys(
    kind: type[BaseModel],
    data: Mapping[Any, Any],
    source: str,
    prefix: str = "",
    known: Iterable[str] | None = None,
) -> None:
    """Refuse unknown keys, and sections that are none; `known` are the keys of all methods."""
    valid = tuple(kind.model_fields if known is None else known)
    for key, value in data.items():
        where = f"{prefix}{key if isinstance(key, str) else shown(key)}"
        if key not in valid:
            near = nearest(where, [prefix + name for name in valid])
            hint = f"valid keys here: {', '.join(valid)}"
            raise ProfileError(f"{source}: unknown key {shown(where)}{near}", hint)
        field = kind.model_fields.get(key)
        section = None if field is None else field.annotation
        if isinstance(section, type) and issubclass(section, Knobs):
            if not isinstance(value, dict):
                raise _ill_typed(source, where, {"type": "object"}, value)
            _check_keys(section, value, source, f"{where}.")


def _told(kind: type[Profile], error: ValidationError, source: str) -> ProfileError:
    """The first mistake that pydantic found, in one line."""
    first = error.errors()[0]
    mistake, value, context = first["type"], first["input"], first.get("ctx", {})
    path = [str(part) for part in first["loc"]]
    if mistake == "missing":
        return ProfileError(f"{source}: the key {'.'.join(path)!r} is missing", _HINT)
    if mistake == "rule":
        path += context["where"].split(".")
        rule, value = context["rule"], context["value"]
        return ProfileError(f"{source}: {'.'.join(path)} must be {rule}, not {shown(value)}", _HINT)
    told: dict[str, Any] = schema_of(kind)
    names: list[str] = []
    for part in path:
        if part not in told.get("properties", ()):
            break  # the rest of a place says which of several types was tried
        told = told["properties"][part]
        names.append(part)
    where = ".".join(names)
    if mistake not in _LIMITS:
        return _ill_typed(source, where, told, value)
    if type(value) is int and any(one.get("type") == "number" for one in _options(told)):
        value = float(value)
    return ProfileError(f"{source}: {where} must be {_rule(told)}, not {shown(value)}", _HINT)


# What pydantic calls values of the right type that are not allowed.
_LIMITS = {"greater_than", "greater_than_equal", "less_than_equal", "string_pattern_mismatch"}
_TYPE_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "null": "null",
    "object": "a mapping",
}


def _options(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The schemas of which a value fits one."""
    options: list[dict[str, Any]] = told.get("anyOf", [told])
    return options


def _rule(told: Mapping[str, Any]) -> str:
    """What a value of the right type must be, in words."""
    limits = {key: value for one in (*_options(told), told) for key, value in one.items()}
    if "rule" in limits:
        return str(limits["rule"])
    if "exclusiveMinimum" in limits:
        return f"above {limits['exclusiveMinimum']} and at most {limits['maximum']}"
    if "maximum" in limits:
        return f"from {limits['minimum']} to {limits['maximum']}"
    return f"at least {limits['minimum']}"


def _ill_typed(source: str, where: str, told: Mapping[str, Any], value: object) -> ProfileError:
    words: list[str] = []
    literals: list[str] = []
    for option in _options(told):
        fixed = option.get("enum", [option["const"]] if "const" in option else [])
        literals += fixed
        words += fixed or [_TYPE_NAMES[option["type"]]]
    expected = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    near = nearest(value, literals) if isinstance(value, str) else ""
    given = "a mapping" if isinstance(value, dict) else shown(value)
    given = "a list" if isinstance(value, list) else given
    return ProfileError(f"{source}: {where} expects {expected}, not {given}{near}", _HINT)


def _read_text(path: Path) -> str:
    """The text of a profile file; a ProfileError where it is not there, no text or too large."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ProfileError(f"{path}: there is no such profile file", _HINT) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ProfileError(f"{path}: cannot be read as a profile ({reason})", _HINT) from None
    if len(raw) > _MAX_BYTES:
        size = f"{_MAX_BYTES // 1024} KiB"
        raise ProfileError(f"{path}: larger than {size}, so not a profile", _HINT)
    try:
        text = decoded(raw)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ProfileError(f"{path}: not a text file, so not a profile", _HINT)
    return text


def _mapping(text: str, source: str) -> dict[Any, Any]:
    """The keys and values of YAML text; a ProfileError, which names `source`, where it has none."""
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = error.problem or "not valid YAML"
        raise ProfileError(f"{source}{place}: {problem}", _HINT) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ProfileError(f"{source}: not valid YAML", _HINT) from None
    if data is None:
        raise ProfileError(f"{source}: the profile is empty", _HINT)
    if not isinstance(data, dict):
        names = {"str": "text", "list": "a list", "int": "a whole number", "float": "a number"}
        found = type(data).__name__
        found = names.get(found, found)
        raise ProfileError(f"{source}: expected keys and values, found {found}", _HINT)
    return data


def to_yaml(data: Mapping[str, Any]) -> str:
    """YAML text that `parse_profile` reads back as the same data, in the same order."""
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
