"""Pruning profiles: YAML to typed, validated, frozen settings.

A profile names a method and sets every knob of it; the knobs stand in `adatp_cli.settings`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adatp_cli import profile_yaml
from adatp_cli.errors import ProfileError, UsageError
from adatp_cli.settings import (
    AUTO,
    NO_ENCODER,
    EntrySettings,
    FastVIDSettings,
    FastVSettings,
    LayerOrAuto,
    LocalSettings,
    MergeSettings,
    Positions,
    PyramidDropSettings,
    RandomSettings,
    RelevanceSettings,
    ScheduleSettings,
    ScoreSettings,
    SegmentSettings,
    UniCompSettings,
    UniformSettings,
    VidCom2Settings,
)

__all__ = [
    "DEFAULT_PROFILE",
    "METHODS",
    "SECTIONS",
    "EntrySettings",
    "FastVIDSettings",
    "FastVSettings",
    "LayerOrAuto",
    "LocalSettings",
    "MergeSettings",
    "Positions",
    "Profile",
    "PyramidDropSettings",
    "RandomSettings",
    "RelevanceSettings",
    "ScheduleSettings",
    "ScoreSettings",
    "SegmentSettings",
    "UniCompSettings",
    "UniformSettings",
    "VidCom2Settings",
    "builtin_names",
    "load_profile",
    "parse_profile",
    "profile_folder",
    "read_share",
]

DEFAULT_PROFILE = "adatp"

# Each method with the sections of a profile that are its own.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "adatp": ("schedule", "segments", "relevance", "local", "scores"),
    "adatp-plus": ("schedule", "segments", "relevance", "local", "scores", "entry"),
    "fastv": ("fastv",),
    "fastvid": ("fastvid",),
    "pyramiddrop": ("pyramiddrop",),
    "random": ("random",),
    "unicomp": ("unicomp",),
    "uniform": ("uniform",),
    "vanilla": (),
    "vidcom2": ("vidcom2",),
}
METHODS = tuple(SECTIONS)


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything that decides which visual tokens a run keeps.

    Parameters
    ----------
    name, description
        For people; the description is one line.
    method
        One of `METHODS`. Of the sections below, those that `SECTIONS` names have an effect.
    budget
        Share of the unpruned language-model cost, in the paper's convention, 0 < budget <= 1. None
        for `vanilla`, and for it alone.
    frames
        Frames to sample where neither an option nor the checkpoint says otherwise.
    reuse_frames
        A frame takes over the tokens of the last encoded one where its most changed part differs
        from it by at most this share of a pixel's range (`answering.encode`); None encodes
        every frame.
    positions
        Which position ids survivors have: `original`, those that they had in the unpruned sequence;
        `compact`, 0, 1, 2, ... at each layer; `auto`, what the method publishes.
    """

    name: str
    method: Literal[
        "adatp",
        "adatp-plus",
        "fastv",
        "fastvid",
        "pyramiddrop",
        "random",
        "unicomp",
        "uniform",
        "vanilla",
        "vidcom2",
    ]
    description: str = ""
    budget: float | None = None
    frames: int | None = None
    reuse_frames: float | None = None
    positions: Positions | Literal["auto"] = AUTO
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    segments: SegmentSettings = field(default_factory=SegmentSettings)
    relevance: RelevanceSettings = field(default_factory=RelevanceSettings)
    local: LocalSettings = field(default_factory=LocalSettings)
    scores: ScoreSettings = field(default_factory=ScoreSettings)
    entry: EntrySettings = field(default_factory=EntrySettings)
    fastv: FastVSettings = field(default_factory=FastVSettings)
    fastvid: FastVIDSettings = field(default_factory=FastVIDSettings)
    pyramiddrop: PyramidDropSettings = field(default_factory=PyramidDropSettings)
    random: RandomSettings = field(default_factory=RandomSettings)
    unicomp: UniCompSettings = field(default_factory=UniCompSettings)
    uniform: UniformSettings = field(default_factory=UniformSettings)
    vidcom2: VidCom2Settings = field(default_factory=VidCom2Settings)

    @property
    def encoder(self) -> str:
        """The relevance encoder that the method asks for, by name; `none` where it uses none."""
        of_method = {
            "adatp": self.relevance.encoder,
            "adatp-plus": self.relevance.encoder,
            "fastvid": self.fastvid.encoder,
            "unicomp": self.unicomp.encoder,
        }
        return of_method.get(self.method, "none")

    @property
    def share(self) -> float:
        """The budget of a profile that prunes.

        Raises
        ------
        ProfileError
            It has none.
        """
        if self.budget is None:
            raise ProfileError(
                f"profile {self.name!r} prunes but has no budget", "give it one, or use --budget"
            )
        return self.budget

    def positions_or(self, published: Positions) -> Positions:
        """Which positions survivors have, where the method publishes these."""
        return published if self.positions == "auto" else self.positions

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain nested data, in the order of the YAML schema; own sections only."""
        foreign = _foreign_sections(self.method)
        return {k: value for k, value in dataclasses.asdict(self).items() if k not in foreign}

    def with_budget(self, budget: float) -> Profile:
        """This profile at another budget.

        Raises
        ------
        UsageError
            The budget is outside 0 < budget <= 1, or the profile prunes nothing.
        """
        if not 0.0 < budget <= 1.0:
            raise UsageError(
                f"the budget {budget:g} is not a share of the unpruned cost",
                "give a number above 0 and at most 1, such as 0.273 or 27.3%",
            )
        if self.method == "vanilla":
            raise UsageError(
                f"a budget has no effect on the profile {self.name!r}, which prunes nothing",
                "leave the budget out, or choose a profile that prunes, such as adatp",
            )
        return dataclasses.replace(self, budget=budget)

    def unpruned(self) -> Profile:
        """The profile `vanilla`, with this one's choice of frames."""
        frames, reuse = self.frames, self.reuse_frames
        return dataclasses.replace(load_profile("vanilla"), frames=frames, reuse_frames=reuse)


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
        suggestion = profile_yaml.nearest(text, names)
        raise ProfileError(
            f"there is no profile named {profile_yaml.shown(text)}{suggestion}",
            f"choose one of {', '.join(names)}, or give the path of a YAML file",
        )
    path = profile_folder() / f"{text}.yaml"
    return parse_profile(profile_yaml.read_text(path), str(path))


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
    # As in a record, which has every section, and null for those that are not the method's.
    absent = {key for key in _foreign_sections(data.get("method")) if data.get(key, data) is None}
    data = {key: value for key, value in data.items() if key not in absent}
    profile = profile_yaml.build(Profile, data, source)
    for section in sorted(_foreign_sections(profile.method).intersection(data)):
        raise ProfileError(
            f"{source}: {section} does not belong to method {profile.method}",
            f"sections of {profile.method}: {', '.join(SECTIONS[profile.method]) or 'none'}",
        )
    _check(profile, source)
    return profile


def _foreign_sections(method: object) -> frozenset[str]:
    everyone = {section for sections in SECTIONS.values() for section in sections}
    own = SECTIONS.get(method, everyone) if isinstance(method, str) else everyone
    return frozenset(everyone.difference(own))


def _check(profile: Profile, source: str) -> None:
    """What types cannot say: ranges, and keys that exclude or need each other."""
    budget, frames = profile.budget, profile.frames
    if profile.method == "vanilla":
        rule = "null for vanilla, which prunes nothing"
        _require(budget is None, source, "budget", rule, budget)
    else:
        holds = budget is not None and 0.0 < budget <= 1.0
        rule = "above 0 and at most 1 for a method that prunes"
        _require(holds, source, "budget", rule, budget)
    _require(bool(profile.name.strip()), source, "name", "a word", profile.name)
    one_line = "\n" not in profile.description
    _require(one_line, source, "description", "one line", profile.description)
    _require(frames is None or frames >= 1, source, "frames", "at least 1", frames)
    reuse = profile.reuse_frames
    holds = reuse is None or 0 <= reuse <= 1
    _require(holds, source, "reuse_frames", "from 0 to 1, or null", reuse)
    for key, settings in (("schedule", profile.schedule), ("local", profile.local)):
        first, last = settings.first_layer, settings.last_layer
        holds = first == AUTO or first >= 1
        _require(holds, source, f"{key}.first_layer", "at least 1", first)
        lowest = 1 if first == AUTO else first
        rule = f"at least {lowest}, where the first layer is"
        _require(last == AUTO or last >= lowest, source, f"{key}.last_layer", rule, last)
    if profile.method == "adatp-plus":
        holds = profile.relevance.encoder not in NO_ENCODER
        rule = "an encoder for adatp-plus, whose salient tokens are those that it looks at"
        _require(holds, source, "relevance.encoder", rule, profile.relevance.encoder)
    for key, holds_for, rule in _RANGES:
        section, name = key.split(".")
        value = getattr(getattr(profile, section), name)
        _require(holds_for(value), source, key, rule, value)


def _require(holds: bool, source: str, key: str, rule: str, value: object) -> None:
    if not holds:
        given = profile_yaml.shown(value)
        raise ProfileError(f"{source}: {key} must be {rule}, not {given}", profile_yaml.HINT)


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: value == AUTO or low <= value <= high


def _is_name(value: str) -> bool:
    return bool(value.strip())


_COSINE = "a cosine from -1 to 1"
_APART = "from 0 to 2"
_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("segments.threshold", _between(-1, 1), _COSINE),
    ("segments.tower_threshold", _between(-1, 1), _COSINE),
    ("relevance.encoder", _is_name, "a name"),
    ("relevance.weight", _between(0, 1000), "from 0 to 1000"),
    ("relevance.text_tokens", _between(1, 4096), "from 1 to 4096"),
    ("scores.rows", _between(1, 64), "from 1 to 64"),
    ("fastv.layer", _between(1, 1000), "from 1 to 1000"),
    ("random.layer", _between(1, 1000), "from 1 to 1000"),
    ("random.seed", _between(0, 2**63 - 1), "at least 0"),
    ("uniform.layer", _between(1, 1000), "from 1 to 1000"),
    ("entry.left", lambda value: 0 < value <= 1, "above 0 and at most 1"),
    ("fastvid.encoder", _is_name, "a name"),
    ("fastvid.segments", _between(1, 4096), "from 1 to 4096"),
    ("fastvid.threshold", _between(-1, 1), _COSINE),
    *(
        (f"{section}.{key}", holds, rule)
        for section in ("entry", "fastvid")
        for key, holds, rule in (
            ("context", _between(0, 1), "from 0 to 1"),
            ("anchor_step", _between(1, 4096), "from 1 to 4096"),
            ("merge", _between(0, 1), "from 0 to 1"),
            ("neighbours", _between(1, 4096), "from 1 to 4096"),
        )
    ),
    ("unicomp.encoder", _is_name, "a name"),
    ("unicomp.frame_threshold", _between(0, 2), _APART),
    ("unicomp.token_threshold", _between(0, 2), _APART),
)
