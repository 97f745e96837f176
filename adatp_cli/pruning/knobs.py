"""Profiles as types: what every profile says, and each method's knobs with their defaults.

Needs no PyTorch. A YAML file has the fields of its method's class. What a method's paper does not
publish is our choice and marked so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from adatp_cli.errors import UsageError

AUTO: Literal["auto"] = "auto"

# Values of `relevance.encoder` for which no encoder is loaded.
NO_ENCODER = frozenset({"none", "attention"})


def _must_be(rule: str, **limits: Any) -> Any:
    """Limits of a value, and in words what one of the right type must be."""
    return Field(json_schema_extra={"rule": rule}, **limits)


Auto = Literal["auto"]
Positions = Literal["original", "compact"]
LayerOrAuto = int | Auto
LocalMode = Literal["strict", "refill", "off"]
Representative = Literal["score", "first", "middle"]
_Layer = Annotated[int, Field(ge=1)] | Auto
_LastLayer = Annotated[int, _must_be("at least 1, where the first layer is", ge=1)] | Auto
_OneLayer = Annotated[int, Field(ge=1, le=1000)] | Auto
_Count = Annotated[int, Field(ge=1, le=4096)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Cosine = Annotated[float, _must_be("a cosine from -1 to 1", ge=-1, le=1)]
_Apart = Annotated[float, Field(ge=0, le=2)]
_Encoder = Annotated[
    str, _must_be("a name", pattern=r"\S", description="none, attention, a hub id, or a folder")
]


class Knobs(BaseModel):
    """Values that do not change, of exactly their types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def replace(self, **changes: Any) -> Self:
        """The same with other values, which are taken as they are."""
        return self.model_copy(update=changes)


def _broken(where: str, rule: str, value: object) -> PydanticCustomError:
    """A rule about several values; `adatp_cli.profiles` tells it."""
    told = {"where": where, "rule": rule, "value": value}
    return PydanticCustomError("rule", "{where} must be {rule}", told)


def _layers_in_order(knobs: Any) -> Any:
    lowest = 1 if knobs.first_layer == AUTO else knobs.first_layer
    if knobs.last_layer != AUTO and knobs.last_layer < lowest:
        rule = f"at least {lowest}, where the first layer is"
        raise _broken("last_layer", rule, knobs.last_layer)
    return knobs


class ScheduleKnobs(Knobs):
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

    first_layer: _Layer = AUTO
    last_layer: _LastLayer = AUTO

    _in_order = model_validator(mode="after")(_layers_in_order)


class SegmentKnobs(Knobs):
    """How the clip is cut into segments.

    Parameters
    ----------
    signal
        What neighbouring frames are compared by: `relevance`, the relevance encoder's pooled frame
        vector; `tower`, the mean of the frame's vision-tower tokens (our choice); `auto`, the first
        where an encoder is loaded, else the second; `none`, nothing: one segment holds the clip.
    threshold
        A new segment starts where the cosine falls below it. Paper: 0.95.
    tower_threshold
        The same for `tower`, whose cosines lie elsewhere (our choice).
    """

    signal: Literal["auto", "relevance", "tower", "none"] = "auto"
    threshold: _Cosine = 0.95
    tower_threshold: _Cosine = 0.9


class RelevanceKnobs(Knobs):
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

    encoder: _Encoder = AUTO
    weight: Annotated[float, Field(ge=0, le=1000)] = 0.5
    text_tokens: _Count = 64


class LocalKnobs(Knobs):
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

    mode: LocalMode = "refill"
    representative: Representative = "score"
    first_layer: _Layer = AUTO
    last_layer: _LastLayer = AUTO

    _in_order = model_validator(mode="after")(_layers_in_order)


class ScoreKnobs(Knobs):
    """Where the attention scores come from.

    Parameters
    ----------
    rows
        How many of the last prompt tokens' attention rows are averaged (our choice: 1).
    """

    rows: Annotated[int, Field(ge=1, le=64)] = 1


class MergeKnobs(Knobs):
    """FastVID's merging by density (arXiv 2503.11187); all defaults published.

    Parameters
    ----------
    context
        d, share of the kept tokens that are merged ones.
    anchor_step
        p: in a segment, every p-th frame counted from its end takes merged tokens, of the whole
        segment's rest; at 1 every frame, of its own, as the release for LLaVA-OneVision has it.
    merge
        beta, least share of the centre in a merged token.
    neighbours
        k of the density.
    """

    context: _Share = 0.4
    anchor_step: _Count = 4
    merge: _Share = 0.6
    neighbours: _Count = 4


class EntryKnobs(MergeKnobs):
    """What enters layer 0 under `adatp-plus`, merged as `MergeKnobs` says. All our choice.

    Parameters
    ----------
    left
        Share of the entering tokens that is left after the last layer at which tokens are dropped.
        More of them enter when fewer are left.
    """

    context: _Share = 0.2
    left: Annotated[float, Field(gt=0, le=1)] = 0.4


class FastVKnobs(Knobs):
    """FastV (arXiv 2403.06764), which drops tokens once; `uniform` does so by another choice.

    Parameters
    ----------
    layer
        K, the first layer that sees fewer tokens; at least 1. `auto` is 2 (paper) for a model of
        N >= 24 layers and round(2/28 N) for a smaller one (our choice).
    """

    layer: _OneLayer = AUTO


class PyramidDropKnobs(Knobs):
    """PyramidDrop (arXiv 2410.17247), which keeps lambda, lambda^2 and lambda^3 of the tokens.

    Parameters
    ----------
    stages
        Before which layers tokens are dropped: `quarters`, N/4, N/2 and 3N/4 (published); `early`,
        the first, the middle and the last of the layers that AdaTP prunes in (our choice: budgets
        below a quarter need it). lambda follows from the budget; published: 0.5.
    """

    stages: Literal["quarters", "early"] = "quarters"


class RandomKnobs(FastVKnobs):
    """A control: FastV's schedule with tokens drawn at random.

    Parameters
    ----------
    seed
        The same seed keeps the same tokens of every clip of a size. `auto` is the run's seed.
    """

    seed: Annotated[int, Field(ge=0)] | Auto = AUTO


class VidCom2Knobs(Knobs):
    """VidCom2 (arXiv 2505.14454), which keeps the tokens most unlike frame and clip.

    Parameters
    ----------
    count
        `exact`, as many tokens as the budget allows, as vLLM's rewrite repairs them; `release`,
        the released rounding per frame, at the largest ratio whose total fits.
    """

    count: Literal["exact", "release"] = "exact"


class FastVIDKnobs(MergeKnobs):
    """FastVID (arXiv 2503.11187); all defaults published.

    Parameters
    ----------
    encoder
        Whose pooling head compares frames and finds salient tokens: `auto`, what the checkpoint
        names, else google/siglip-so400m-patch14-384; a hub id or a folder.
    segments
        c, fewest segments, as far as there are frames.
    threshold
        tau: a segment also ends where the cosine of neighbouring frames falls below it.
    """

    encoder: _Encoder = AUTO
    segments: _Count = 8
    threshold: _Cosine = 0.9


class UniCompKnobs(Knobs):
    """UniComp (arXiv 2512.03575); all defaults published.

    Parameters
    ----------
    encoder
        Whose pooling head compares frames; as FastVID's.
    frame_threshold
        Uf: frames whose mean tokens differ by at most that (one less cosine) are averaged.
    token_threshold
        Uc: a token stands for those whose keys differ by less than that.
    """

    encoder: _Encoder = AUTO
    frame_threshold: _Apart = 0.005
    token_threshold: _Apart = 0.2


class GridKnobs(Knobs):
    """Every n-th token of the clip, before the language model (a control, ours).

    Parameters
    ----------
    offset
        How many tokens of the even order are passed over: other offsets keep other tokens, as even.
    """

    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class Profile(Knobs):
    """Everything that decides which visual tokens a run keeps. Each method has a class of its own.

    Parameters
    ----------
    name, description
        For people; the description is one line.
    method
        One of `PROFILES`.
    budget
        Share of the unpruned language-model cost, in the paper's convention, 0 < budget <= 1. None
        for `vanilla`, and for it alone.
    frames
        Frames to sample where neither an option nor the checkpoint says otherwise.
    reuse_frames
        A frame takes over the tokens of the last encoded one where its most changed part differs
        from it by at most this share of a pixel's range (`answering.encode`); None encodes every
        frame.
    positions
        Which position ids survivors have: `original`, those that they had in the unpruned sequence;
        `compact`, 0, 1, 2, ... at each layer; `auto`, what the method publishes.
    """

    published: ClassVar[Positions] = "original"

    name: Annotated[str, _must_be("a word", pattern=r"\S")]
    method: str
    description: Annotated[str, _must_be("one line", pattern=r"^[^\n]*$")] = ""
    budget: Annotated[
        float | None,
        Field(
            description="Share of the unpruned language-model cost, paper convention; null without "
            "pruning",
            json_schema_extra={"exclusiveMinimum": 0, "maximum": 1},
        ),
    ] = None
    frames: Annotated[int, Field(ge=1)] | None = None
    reuse_frames: Annotated[
        _Share | None,
        _must_be(
            "from 0 to 1, or null",
            description="Largest change of a frame's parts, of a pixel's range, at which it takes "
            "over the tokens of the last encoded frame; null encodes every frame",
        ),
    ] = None
    positions: Annotated[
        Literal["original", "compact", "auto"],
        Field(description="Position ids of the tokens that are kept"),
    ] = AUTO

    @model_validator(mode="after")
    def _budget_fits(self) -> Self:
        budget = self.budget
        if self.method == "vanilla":
            if budget is not None:
                raise _broken("budget", "null for vanilla, which prunes nothing", budget)
        elif budget is None or not 0.0 < budget <= 1.0:
            rule = "above 0 and at most 1 for a method that prunes"
            raise _broken("budget", rule, budget)
        return self

    @property
    def knobs(self) -> Any:
        """The section that is called after the method."""
        return getattr(self, self.method)

    @property
    def positions_or_published(self) -> Positions:
        """Which positions survivors have."""
        return self.published if self.positions == "auto" else self.positions

    @property
    def encoder(self) -> str:
        """The relevance encoder that the method asks for, by name; `none` where it uses none."""
        return "none"

    @property
    def text_tokens(self) -> int | None:
        """Longest question that the encoder reads; None for as many as it can."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain nested data, in the order of the YAML schema."""
        return self.model_dump()

    def with_budget(self, budget: float) -> Self:
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
        return self.replace(budget=budget)


class AdaTPProfile(Profile):
    """AdaTP (arXiv 2505.20100)."""

    method: Literal["adatp"] = "adatp"
    schedule: ScheduleKnobs = ScheduleKnobs()
    segments: SegmentKnobs = SegmentKnobs()
    relevance: RelevanceKnobs = RelevanceKnobs()
    local: LocalKnobs = LocalKnobs()
    scores: ScoreKnobs = ScoreKnobs()

    @property
    def encoder(self) -> str:
        return self.relevance.encoder

    @property
    def text_tokens(self) -> int | None:
        return self.relevance.text_tokens


class AdaTPPlusProfile(AdaTPProfile):
    """AdaTP on a clip that was thinned out before the model (ours)."""

    method: Literal["adatp-plus"] = "adatp-plus"  # type: ignore[assignment]
    entry: EntryKnobs = EntryKnobs()

    @model_validator(mode="after")
    def _looks_at_frames(self) -> Self:
        if self.relevance.encoder in NO_ENCODER:
            rule = "an encoder for adatp-plus, whose salient tokens are those that it looks at"
            raise _broken("relevance.encoder", rule, self.relevance.encoder)
        return self


class FastVProfile(Profile):
    method: Literal["fastv"] = "fastv"
    fastv: FastVKnobs = FastVKnobs()


class PyramidDropProfile(Profile):
    published: ClassVar[Positions] = "compact"
    method: Literal["pyramiddrop"] = "pyramiddrop"
    pyramiddrop: PyramidDropKnobs = PyramidDropKnobs()


class RandomProfile(Profile):
    method: Literal["random"] = "random"
    random: RandomKnobs = RandomKnobs()


class UniformProfile(Profile):
    method: Literal["uniform"] = "uniform"
    uniform: FastVKnobs = FastVKnobs()


class VidCom2Profile(Profile):
    published: ClassVar[Positions] = "compact"
    method: Literal["vidcom2"] = "vidcom2"
    vidcom2: VidCom2Knobs = VidCom2Knobs()


class _EncoderProfile(Profile):
    """Of a method that only looks at frames through the encoder."""

    @property
    def encoder(self) -> str:
        return str(self.knobs.encoder)


class FastVIDProfile(_EncoderProfile):
    method: Literal["fastvid"] = "fastvid"
    fastvid: FastVIDKnobs = FastVIDKnobs()


class UniCompProfile(_EncoderProfile):
    published: ClassVar[Positions] = "compact"
    method: Literal["unicomp"] = "unicomp"
    unicomp: UniCompKnobs = UniCompKnobs()


class GridProfile(Profile):
    published: ClassVar[Positions] = "compact"
    method: Literal["grid"] = "grid"
    grid: GridKnobs = GridKnobs()


class VanillaProfile(Profile):
    method: Literal["vanilla"] = "vanilla"


# In the order in which records have the sections.
PROFILES: Mapping[str, type[Profile]] = {
    str(kind.model_fields["method"].default): kind
    for kind in (
        AdaTPProfile,
        AdaTPPlusProfile,
        FastVProfile,
        PyramidDropProfile,
        RandomProfile,
        UniformProfile,
        VidCom2Profile,
        FastVIDProfile,
        UniCompProfile,
        GridProfile,
        VanillaProfile,
    )
}


def sections_of(method: str) -> tuple[str, ...]:
    """The sections of a method's profile."""
    return tuple(name for name in PROFILES[method].model_fields if name not in Profile.model_fields)


def profile_schema() -> dict[str, Any]:
    """The JSON Schema of a profile in a record: every section, null for those of other methods."""
    properties: dict[str, Any] = {}
    for kind in PROFILES.values():
        for name, told in schema_of(kind, without=("rule",))["properties"].items():
            general = name in Profile.model_fields
            properties.setdefault(name, told if general else {"anyOf": [told, {"type": "null"}]})
    properties["method"] = {"enum": sorted(PROFILES)}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


def schema_of(kind: type[Knobs], without: Collection[str] = ()) -> dict[str, Any]:
    """The JSON Schema of a class of values in one piece; with each value's `rule` in words."""
    made = kind.model_json_schema()
    plain: dict[str, Any] = _inlined(made, made.pop("$defs", {}), {"title", "default", *without})
    return plain


def _inlined(told: Any, definitions: Mapping[str, Any], without: Collection[str]) -> Any:
    """A part of a schema without references and those keys; records hold every key."""
    if isinstance(told, list):
        return [_inlined(one, definitions, without) for one in told]
    if not isinstance(told, dict):
        return told
    if "$ref" in told:
        return _inlined(definitions[told["$ref"].rsplit("/", 1)[1]], definitions, without)
    left = {
        key: _inlined(value, definitions, without)
        for key, value in told.items()
        if key not in without or isinstance(value, dict)
    }
    if "properties" in left:
        left.pop("description", None)
        left["required"] = list(left["properties"])
    return left
