"""The table of pruning methods."""

from __future__ import annotations

from collections.abc import Mapping

from adatp_cli.cost import ModelShape
from adatp_cli.pruning.knobs import Profile
from adatp_cli.pruning.method import ModelContext, PruningMethod
from adatp_cli.pruning.methods.adatp import AdaTP
from adatp_cli.pruning.methods.adatp_plus import AdaTPPlus
from adatp_cli.pruning.methods.fastv import FastV
from adatp_cli.pruning.methods.fastvid import FastVID
from adatp_cli.pruning.methods.grid import Grid
from adatp_cli.pruning.methods.pyramiddrop import PyramidDrop
from adatp_cli.pruning.methods.random_tokens import RandomTokens
from adatp_cli.pruning.methods.unicomp import UniComp
from adatp_cli.pruning.methods.uniform import Uniform
from adatp_cli.pruning.methods.vanilla import Vanilla
from adatp_cli.pruning.methods.vidcom2 import VidCom2

METHODS: Mapping[str, type[PruningMethod]] = {
    "adatp": AdaTP,
    "adatp-plus": AdaTPPlus,
    "fastv": FastV,
    "fastvid": FastVID,
    "grid": Grid,
    "pyramiddrop": PyramidDrop,
    "random": RandomTokens,
    "unicomp": UniComp,
    "uniform": Uniform,
    "vanilla": Vanilla,
    "vidcom2": VidCom2,
}


def method_of(profile: Profile) -> PruningMethod:
    """The profile's method with the profile's knobs."""
    return METHODS[profile.method](profile)


def resolve_profile(profile: Profile, context: ModelContext) -> Profile:
    """The profile with every `auto` replaced; a UsageError where the model lacks its layers."""
    resolved: Profile = METHODS[profile.method].resolve(profile, context)
    return resolved


def check_fit(profile: Profile, shape: ModelShape, frames: int | None) -> None:
    """Refuse, as a UsageError, layers that a model lacks and budgets that it cannot reach.

    `frames` is as many as a clip will have at most, as more frames reach smaller budgets; None
    where that is not known.
    """
    resolved = resolve_profile(profile, ModelContext(shape.language.layers))
    if frames is not None:
        method_of(resolved).token_schedule(frames, shape.tokens_per_frame, shape.language)
