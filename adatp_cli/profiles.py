"""Pruning profiles: YAML to typed, validated, frozen settings.

A profile names a method and sets every knob of it. The knobs that the AdaTP paper does not publish
are our choice and are marked so below; they are settings rather than constants for that reason.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adatp_cli import strict_yaml
from adatp_cli.errors import ProfileError, UsageError

METHODS = ("adatp", "vanilla")
AUTO: Literal["auto"] = "auto"
DEFAULT_PROFILE = "adatp"

LayerOrAuto = int | Literal["auto"]


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """In which decoder layers tokens are dropped.

    Parameters
    ----------
    first_layer
        First layer that sees fewer tokens; at least 1, as the first layer must see them all. `auto`
        is 2 (paper) for a model of N >= 24 layers and round(2/28 N) for a smaller one (our choice:
        the same relative depth).
    last_layer
        Last layer at which tokens are dropped. `auto` is N - 12 (paper) for a model of N >= 24
        layers and round(4/7 N) for a smaller one (our choice: the same relative depth).
    """

    first_layer: LayerOrAuto = AUTO
    last_layer: LayerOrAuto = AUTO


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """How the clip is cut into segments.

    Parameters
    ----------
    signal
        What neighbouring frames are compared by: `relevance`, the relevance encoder's pooled frame
        vector; `tower`, the mean of the frame's vision-tower tokens (our choice); `auto`, the first
        where an encoder is loaded, else the second.
    threshold
        A new segment starts where the cosine falls below it. Paper: 0.95.
    tower_threshold
        The same for `tower`, whose cosines lie elsewhere (our choice).
    """

    signal: Literal["auto", "relevance", "tower"] = "auto"
    threshold: float = 0.95
    tower_threshold: float = 0.9


@dataclass(frozen=True, slots=True)
class RelevanceSettings:
    """How much more budget the segments that match the question get.

    Parameters
    ----------
    encoder
        `auto`, what the checkpoint names, else google/siglip-so400m-patch14-384; `none`, equal
        weights; `attention`, the language model's own text-to-visual attention; a hub id or a
        folder.
    weight
        lambda: a matching segment weighs 1 + lambda, any other 1 (our choice).
    text_tokens
        Longest question that the encoder reads, in its tokens (our choice: SigLIP's own 64).
    """

    encoder: str = AUTO
    weight: float = 0.5
    text_tokens: int = 64


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Local debiasing: one representative per spatial position and segment.

    Parameters
    ----------
    mode
        `strict` keeps no more than the representatives; `refill` goes on with the next best tokens
        when the segment's budget is larger than their number; `off` leaves the step out (all our
        reading).
    representative
        Which of a position's alive tokens stands for it: the one of highest `score`, the `first` or
        the `middle` one in time (our choice).
    first_layer, last_layer
        Layers in which the step acts, both included; `auto` is the schedule's own (our choice).
    """

    mode: Literal["strict", "refill", "off"] = "refill"
    representative: Literal["score", "first", "middle"] = "score"
    first_layer: LayerOrAuto = AUTO
    last_layer: LayerOrAuto = AUTO


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """Where the attention scores come from.

    Parameters
    ----------
    rows
        How many of the last prompt tokens' attention rows are averaged (our choice: 1).
    """

    rows: int = 1


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything that decides which visual tokens a run keeps.

    Parameters
    ----------
    name, description
        For people; the description is one line.
    method
        One of `METHODS`.
    budget
        Share of the unpruned language-model cost, in the paper's convention, 0 < budget <= 1. None
        for `vanilla`, and for it alone.
    frames
        Frames to sample where neither an option nor the checkpoint says otherwise.
    """

    name: str
    method: Literal["adatp", "vanilla"]
    description: str = ""
    budget: float | None = None
    frames: int | None = None
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    segments: SegmentSettings = field(default_factory=SegmentSettings)
    relevance: RelevanceSettings = field(default_factory=RelevanceSettings)
    local: LocalSettings = field(default_factory=LocalSettings)
    scores: ScoreSettings = field(default_factory=ScoreSettings)

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain nested data, in the order of the YAML schema."""
        return dataclasses.asdict(self)

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
                "give a number above 0 and at most 1, such as 0.273",
            )
        if self.method == "vanilla":
            raise UsageError(
                f"a budget has no effect on the profile {self.name!r}, which prunes nothing",
                "leave the budget out, or choose a profile that prunes, such as adatp",
            )
        return dataclasses.replace(self, budget=budget)


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
        return parse_profile(strict_yaml.read_text(Path(text)), text)
    names = builtin_names()
    if text not in names:
        suggestion = strict_yaml.nearest(text, names)
        raise ProfileError(
            f"there is no profile named {strict_yaml.shown(text)}{suggestion}",
            f"choose one of {', '.join(names)}, or give the path of a YAML file",
        )
    path = profile_folder() / f"{text}.yaml"
    return parse_profile(strict_yaml.read_text(path), str(path))


def parse_profile(text: str, source: str) -> Profile:
    """A profile from YAML text; `source` names the file in errors.

    Raises
    ------
    ProfileError
        The text is not a valid profile.
    """
    profile = strict_yaml.parse(Profile, text, source)
    _check(profile, source)
    return profile


def _check(profile: Profile, source: str) -> None:
    """What types cannot say: ranges, and keys that exclude or need each other."""

    def require(holds: bool, key: str, rule: str, value: object) -> None:
        if not holds:
            given = strict_yaml.shown(value)
            raise ProfileError(f"{source}: {key} must be {rule}, not {given}", strict_yaml.HINT)

    def require_order(key: str, settings: ScheduleSettings | LocalSettings) -> None:
        first, last = settings.first_layer, settings.last_layer
        require(first == AUTO or first >= 1, f"{key}.first_layer", "at least 1", first)
        lowest = 1 if first == AUTO else first
        rule = f"at least {lowest}, where the first layer is"
        require(last == AUTO or last >= lowest, f"{key}.last_layer", rule, last)

    budget, frames = profile.budget, profile.frames
    if profile.method == "vanilla":
        require(budget is None, "budget", "null for vanilla, which prunes nothing", budget)
    else:
        holds = budget is not None and 0.0 < budget <= 1.0
        require(holds, "budget", "above 0 and at most 1 for a method that prunes", budget)
    require(bool(profile.name.strip()), "name", "a word", profile.name)
    require("\n" not in profile.description, "description", "one line", profile.description)
    require(frames is None or frames >= 1, "frames", "at least 1", frames)
    require_order("schedule", profile.schedule)
    require_order("local", profile.local)
    for key in ("threshold", "tower_threshold"):
        value = getattr(profile.segments, key)
        require(-1.0 <= value <= 1.0, f"segments.{key}", "a cosine from -1 to 1", value)
    relevance, rows = profile.relevance, profile.scores.rows
    require(bool(relevance.encoder.strip()), "relevance.encoder", "a name", relevance.encoder)
    weight, tokens = relevance.weight, relevance.text_tokens
    require(0.0 <= weight <= 1000.0, "relevance.weight", "from 0 to 1000", weight)
    require(1 <= tokens <= 4096, "relevance.text_tokens", "from 1 to 4096", tokens)
    require(1 <= rows <= 64, "scores.rows", "from 1 to 64", rows)
