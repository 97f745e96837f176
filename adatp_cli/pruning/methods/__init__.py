"""The table of pruning methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adatp_cli.cost import ModelShape
from adatp_cli.errors import ProfileError
from adatp_cli.profiles import Profile
from adatp_cli.pruning.method import ModelContext, PruningMethod
from adatp_cli.pruning.methods import (
    adatp,
    adatp_plus,
    fastv,
    fastvid,
    pyramiddrop,
    random_tokens,
    unicomp,
    uniform,
    vanilla,
    vidcom2,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """From a profile to the method with its knobs, and to the profile without `auto`."""

    build: Callable[[Profile], PruningMethod]
    resolve: Callable[[Profile, ModelContext], Profile]


METHODS: Mapping[str, Entry] = {
    "adatp": Entry(adatp.build, adatp.resolve),
    "adatp-plus": Entry(adatp_plus.build, adatp_plus.resolve),
    "fastv": Entry(fastv.build, fastv.resolve),
    "fastvid": Entry(fastvid.build, fastvid.resolve),
    "pyramiddrop": Entry(pyramiddrop.build, pyramiddrop.resolve),
    "random": Entry(random_tokens.build, random_tokens.resolve),
    "unicomp": Entry(unicomp.build, unicomp.resolve),
    "uniform": Entry(uniform.build, uniform.resolve),
    "vanilla": Entry(vanilla.build, vanilla.resolve),
    "vidcom2": Entry(vidcom2.build, vidcom2.resolve),
}


def method_of(profile: Profile) -> PruningMethod:
    """The profile's method with the profile's knobs.

    Raises
    ------
    ProfileError
        For a method that is not in the table or a budget that is missing.
    """
    return _entry(profile).build(profile)


def resolve_profile(profile: Profile, known: ModelContext) -> Profile:
    """The profile with every `auto` replaced by what it comes to.

    Raises
    ------
    ProfileError, UsageError
        As `method_of`; its layers do not exist in the model.
    """
    return _entry(profile).resolve(profile, known)


def check_fit(profile: Profile, shape: ModelShape, frames: int | None) -> None:
    """Refuse what a profile cannot do on a model, from the model's dimensions alone.

    Parameters
    ----------
    frames
        As many as a clip will have at most: more frames reach smaller budgets. None: not known.

    Raises
    ------
    UsageError
        Its layers do not exist in the model, or its budget cannot be reached.
    """
    resolved = resolve_profile(profile, ModelContext(shape.language.layers))
    if frames is not None:
        method_of(resolved).token_schedule(frames, shape.tokens_per_frame, shape.language)


def _entry(profile: Profile) -> Entry:
    if profile.method not in METHODS:
        raise ProfileError(
            f"there is no pruning method named {profile.method!r}",
            f"choose one of {', '.join(METHODS)}",
        )
    return METHODS[profile.method]
