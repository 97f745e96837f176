"""The table of pruning methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adatp_cli.errors import ProfileError
from adatp_cli.profiles import Profile
from adatp_cli.pruning.method import PruningMethod
from adatp_cli.pruning.methods.adatp import AdaTP
from adatp_cli.pruning.methods.vanilla import Vanilla


def _adatp(profile: Profile) -> PruningMethod:
    if profile.budget is None:
        raise ProfileError(
            f"profile {profile.name!r} prunes but has no budget", "give it one, or use --budget"
        )
    return AdaTP(
        profile.budget,
        profile.schedule,
        profile.segments,
        profile.relevance,
        profile.local,
        profile.scores,
    )


METHODS: Mapping[str, Callable[[Profile], PruningMethod]] = {
    "adatp": _adatp,
    "vanilla": lambda _profile: Vanilla(),
}


def method_of(profile: Profile) -> PruningMethod:
    """The profile's method with the profile's knobs.

    Raises
    ------
    ProfileError
        For a method that is not in the table or a budget that is missing.
    """
    if profile.method not in METHODS:
        raise ProfileError(
            f"there is no pruning method named {profile.method!r}",
            f"choose one of {', '.join(METHODS)}",
        )
    return METHODS[profile.method](profile)
