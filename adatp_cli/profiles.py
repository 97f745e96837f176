"""Profiles by name or from a YAML file, one clear line for each mistake in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from adatp_cli import profile_yaml
from adatp_cli.errors import ProfileError, UsageError
from adatp_cli.profile_yaml import HINT
from adatp_cli.pruning.knobs import PROFILES, Knobs, schema_of, sections_of
from adatp_cli.pruning.knobs import Profile as Profile
from adatp_cli.text import nearest, shown

DEFAULT_PROFILE = "adatp"


def read_share(text: str) -> float:
    """A share as people write it: `0.25`, or `25%`. Whether it is a budget is `with_budget`'s.

    Raises
    ------
    UsageError
        It is no number.
    """
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
        return parse_profile(profile_yaml.read_text(Path(text).expanduser()), text)
    names = builtin_names()
    if text not in names:
        raise ProfileError(
            f"there is no profile named {shown(text)}{nearest(text, names)}",
            f"choose one of {', '.join(names)}, or give the path of a YAML file",
        )
    path = profile_folder() / f"{text}.yaml"
    return parse_profile(profile_yaml.read_text(path), str(path))


def unpruned(profile: Profile) -> Profile:
    """The profile `vanilla`, with this one's choice of frames."""
    return load_profile("vanilla").replace(frames=profile.frames, reuse_frames=profile.reuse_frames)


def parse_profile(text: str, source: str) -> Profile:
    """A profile from YAML text; `source` names the file in errors.

    Raises
    ------
    ProfileError
        The text is not a valid profile.
    """
    data = profile_yaml.mapping(text, source)
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
            raise ProfileError(f"{source}: the key 'method' is missing", HINT)
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
        return ProfileError(f"{source}: the key {'.'.join(path)!r} is missing", HINT)
    if mistake == "rule":
        path += context["where"].split(".")
        rule, value = context["rule"], context["value"]
        return ProfileError(f"{source}: {'.'.join(path)} must be {rule}, not {shown(value)}", HINT)
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
    return ProfileError(f"{source}: {where} must be {_rule(told)}, not {shown(value)}", HINT)


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
    return ProfileError(f"{source}: {where} expects {expected}, not {given}{near}", HINT)
