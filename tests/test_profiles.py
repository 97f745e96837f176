"""Profiles: those that come with adatp, own ones by path, and everything a file can get wrong."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adatp_cli.errors import ProfileError, UsageError
from adatp_cli.profiles import builtin_names, load_profile, parse_profile, profile_folder, to_yaml
from adatp_cli.pruning.knobs import PROFILES, AdaTPProfile, sections_of
from adatp_cli.pruning.methods import METHODS

MINIMAL = "name: mine\nmethod: adatp\nbudget: 0.2\n"
FASTV, RANDOM, FASTVID = (
    MINIMAL.replace("adatp", method) for method in ("fastv", "random", "fastvid")
)


def refusal(text: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, "mine.yaml")
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.message.startswith("mine.yaml")
    return caught.value


def test_every_profile_that_comes_along_is_whole() -> None:
    profiles = {name: load_profile(name) for name in builtin_names()}
    assert {profile.method for profile in profiles.values()} == set(METHODS)
    for name, profile in profiles.items():
        assert profile.name == name
        assert profile.description
        assert (profile.budget is None) == (profile.method == "vanilla")
    assert profiles["adatp"].budget == profiles["adatp-light"].budget == 0.273
    assert profiles["adatp-light"].encoder == "attention"
    assert profiles["adatp"].encoder == "auto"


@pytest.mark.parametrize("name", builtin_names())
def test_a_profile_that_comes_along_sets_every_knob(name: str) -> None:
    """What a file leaves out it gets as a default; these leave out nothing."""
    text = (profile_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text.replace("mode: off", "mode: 'off'")) == load_profile(name).to_dict()


def test_each_ablation_is_one_step_from_the_next() -> None:
    """From the schedule alone to the whole method."""
    order = ["adatp-progressive", "adatp-segments", "adatp-weights", "adatp-strict", "adatp"]
    steps = [load_profile(name).to_dict() for name in order]
    for step in steps:
        del step["name"], step["description"]
    changed = [
        {
            f"{section}.{key}"
            for section in sections_of("adatp")
            for key in one[section]
            if one[section][key] != next_one[section][key]
        }
        for one, next_one in pairwise(steps)
    ]
    assert changed == [
        {"segments.signal", "relevance.encoder", "relevance.weight"},
        {"relevance.weight"},
        {"local.mode"},
        {"local.mode"},
    ]
    # With no segments and no encoder a weight has no effect.
    assert steps[0]["segments"]["signal"] == steps[0]["relevance"]["encoder"] == "none"


def test_a_section_of_another_method_is_refused() -> None:
    error = refusal(MINIMAL + "fastv: {layer: 2}")
    assert error.message == "mine.yaml: fastv does not belong to method adatp"
    assert error.hint == "sections of adatp: schedule, segments, relevance, local, scores"
    text = "name: x\nmethod: fastv\nbudget: 0.2\nlocal: {mode: strict}"
    assert "local does not belong to method fastv" in refusal(text.replace("x", "mine")).message
    assert refusal("name: v\nmethod: vanilla\nfastv: {}").hint == "sections of vanilla: none"


@pytest.mark.parametrize("name", builtin_names())
def test_a_profile_shows_its_own_sections_alone(name: str) -> None:
    profile = load_profile(name)
    general = {"name", "method", "description", "budget", "frames", "reuse_frames", "positions"}
    assert set(profile.to_dict()) == general | set(sections_of(profile.method))


def test_which_methods_load_an_encoder() -> None:
    encoders = {name: load_profile(name).encoder for name in builtin_names()}
    asking = {name for name, encoder in encoders.items() if encoder == "auto"}
    assert asking == {
        "adatp",
        "adatp-aggressive",
        "adatp-plus",
        "adatp-segments",
        "adatp-strict",
        "adatp-weights",
        "fastvid",
        "unicomp",
    }
    assert encoders["vanilla"] == encoders["fastv"] == encoders["adatp-progressive"] == "none"


def test_defaults_are_the_papers_setting() -> None:
    """A file that leaves a knob out gets what the profile `adatp` says."""
    defaults = AdaTPProfile(
        name="adatp", description=load_profile("adatp").description, budget=0.273, positions="auto"
    )
    assert load_profile("adatp") == defaults


def test_every_method_is_one_of_the_tables() -> None:
    assert sorted(PROFILES) == sorted(METHODS)


def test_own_file_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(MINIMAL + "local: {mode: off}\n")
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path / "mine.yaml", "mine.yaml", "./mine.yaml"):
        profile = load_profile(name)
        assert (profile.name, profile.budget, profile.local.mode) == ("mine", 0.2, "off")


def test_a_file_beside_does_not_shadow_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adatp").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_profile("adatp").budget == 0.273


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ProfileError, match="did you mean 'adatp-light'") as caught:
        load_profile("adatp-ligth")
    assert "vanilla" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bugdet: 0.3", "unknown key 'bugdet' (did you mean 'budget'?)"),
        (
            "schedule: {frist_layer: 2}",
            "unknown key 'schedule.frist_layer' (did you mean 'schedule.first_layer'?)",
        ),
        ("1: 2", "unknown key '1'"),
        (
            "schedule: {first_layer: two}",
            "schedule.first_layer expects a whole number or auto, not 'two'",
        ),
        ("schedule: {first_layer: true}", "expects a whole number or auto, not True"),
        ("schedule: {first_layer: 2.5}", "expects a whole number or auto, not 2.5"),
        ("schedule: {last_layer: autoo}", "expects a whole number or auto, not 'autoo' (did you"),
        ("schedule: {first_layer: 0}", "schedule.first_layer must be at least 1, not 0"),
        ("schedule: {first_layer: 9, last_layer: 4}", "schedule.last_layer must be at least 9"),
        ("schedule: 3", "schedule expects a mapping, not 3"),
        ("schedule:", "schedule expects a mapping, not null"),
        ("local: {mode: fill}", "local.mode expects strict, refill or off, not 'fill'"),
        ("local: {mode: false}", "local.mode expects strict, refill or off, not False"),
        ("segments: {threshold: 1.5}", "segments.threshold must be a cosine from -1 to 1"),
        ("segments: {threshold: .nan}", "segments.threshold must be a cosine from -1 to 1"),
        ("segments: {threshold: [0.9]}", "segments.threshold expects a number, not a list"),
        ("relevance: {weight: -1}", "relevance.weight must be from 0"),
        ("relevance: {encoder: ' '}", "relevance.encoder must be a name"),
        ("relevance: {encoder: null}", "relevance.encoder expects text, not null"),
        ("relevance: {text_tokens: 0}", "relevance.text_tokens must be from 1"),
        ("scores: {rows: 0}", "scores.rows must be from 1"),
        ("frames: 0", "frames must be at least 1"),
        ("frames: 99999999999999999999999", "frames expects a whole number or null"),
        ('description: "a\\nb"', "description must be one line"),
        ("name: again", "line 4: the key 'name' stands twice"),
        ("description: &a x\nlocal: *a", "aliases are not supported"),
        ("description: !!python/object/apply:os.system [ls]", "tags are not supported"),
        ("frames: !!int ''", "line 4: tags are not supported"),
        ("local: {mode: !!bool maybe}", "tags are not supported"),
        ("budget: !!timestamp foo", "tags are not supported"),
        ("description: ! x", "tags are not supported"),
        ("!!str description: x", "tags are not supported"),
        ("local: !!omap [a: 1]", "tags are not supported"),
        ("? [a]\n: 2", "unhashable key"),
        ("local: {mode: [", "line"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(text: str, said: str) -> None:
    assert said in refusal(MINIMAL + text).message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the profile is empty"),
        ("# nothing but a comment", "the profile is empty"),
        ("adatp", "expected keys and values, found text"),
        ("[1, 2]", "expected keys and values, found a list"),
        ("method: adatp\nbudget: 0.2", "the key 'name' is missing"),
        ("name: x\nbudget: 0.2", "the key 'method' is missing"),
        ("name: x\nmethod: adatp", "budget must be above 0"),
        ("name: x\nmethod: adatp\nbudget: 0", "budget must be above 0"),
        ("name: x\nmethod: adatp\nbudget: 1.01", "budget must be above 0 and at most 1"),
        ("name: x\nmethod: adatp\nbudget: .nan", "budget must be above 0"),
        ("name: x\nmethod: adatp\nbudget: .inf", "budget must be above 0"),
        ("name: x\nmethod: adatp\nbudget: half", "budget expects a number or null, not 'half'"),
        ("name: x\nmethod: vanilla\nbudget: 0.5", "budget must be null for vanilla"),
        (
            "name: x\nmethod: adapt\nbudget: 0.5",
            "uniform, vanilla or vidcom2, not 'adapt' (did you mean 'adatp'?)",
        ),
        ("name: ''\nmethod: vanilla", "name must be a word"),
        (FASTV + "fastv: {layer: 0}", "fastv.layer must be from 1 to 1000, not 0"),
        (FASTV + "fastv: {layers: 2}", "'fastv.layers' (did you mean 'fastv.layer'?)"),
        (FASTV + "positions: kept", "positions expects original, compact or auto, not 'kept'"),
        (RANDOM + "random: {seed: -1}", "random.seed must be at least 0, not -1"),
        (RANDOM + "random: {seed: 1.5}", "random.seed expects a whole number or auto"),
        (FASTVID + "fastvid: {context: 1.5}", "fastvid.context must be from 0 to 1"),
        (FASTVID + "fastvid: {anchor_step: 0}", "fastvid.anchor_step must be from 1"),
        (FASTVID + "fastvid: {merge: .nan}", "fastvid.merge must be from 0 to 1"),
        (FASTVID + "fastvid: {encoder: ''}", "fastvid.encoder must be a name"),
        ("[" * 40_000, "not valid YAML"),
    ],
)
def test_a_file_that_is_no_profile(text: str, said: str) -> None:
    assert said in refusal(text).message


def test_yaml_1_2_scalars() -> None:
    """`off` is a word and 1e-1 a number, which YAML 1.1 has the other way round."""
    profile = parse_profile("name: on\nmethod: adatp\nbudget: 1e-1\nlocal: {mode: off}", "x")
    assert (profile.name, profile.budget, profile.local.mode) == ("on", 0.1, "off")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x00\x01\x02", "not a text file"),
        (b"name: \xff\xfe", "not a text file"),
        (b"name: x\n" * 20_000, "larger than 64 KiB"),
    ],
)
def test_a_file_that_is_not_text(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=said) as caught:
        load_profile(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no such profile file"):
        load_profile(tmp_path / "none.yaml")
    with pytest.raises(ProfileError, match="directory"):
        load_profile(f"{tmp_path}/")


def test_budget_override() -> None:
    assert load_profile("adatp").with_budget(0.5).budget == 0.5
    for wrong in (0.0, -1.0, 1.01, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="not a share"):
            load_profile("adatp").with_budget(wrong)
    with pytest.raises(UsageError, match="prunes nothing"):
        load_profile("vanilla").with_budget(0.5)


layers = st.none() | st.integers(1, 40)


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    """Plain data of any valid profile."""
    data = load_profile("adatp").to_dict()
    data["name"] = draw(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1))
    data["budget"] = draw(st.floats(0.001, 1.0))
    data["frames"] = draw(st.none() | st.integers(1, 512))
    first = draw(st.integers(1, 20))
    data["schedule"] = {
        "first_layer": first,
        "last_layer": draw(st.just("auto") | st.integers(first, 40)),
    }
    data["segments"]["threshold"] = draw(st.floats(-1, 1))
    data["local"]["mode"] = draw(st.sampled_from(["strict", "refill", "off"]))
    data["relevance"]["weight"] = draw(st.floats(0, 10))
    return data


@given(profiles())
def test_what_is_shown_loads_back(data: dict[str, Any]) -> None:
    """`profiles show` writes the profile's plain data as YAML, and that is a profile file."""
    profile = parse_profile(to_yaml(data), "x")
    assert profile.to_dict() == data
    assert parse_profile(to_yaml(profile.to_dict()), "y") == profile


@pytest.mark.parametrize(
    "name", ["1e100", "off", "~", "0x10", "1_000", "true", "2026-11-21", "a: b"]
)
def test_a_name_that_looks_like_something_else_is_shown_quoted(name: str) -> None:
    data = load_profile("fastv").to_dict() | {"name": name}
    assert parse_profile(to_yaml(data), "x").name == name


@given(st.text(max_size=300))
def test_any_text_is_a_profile_or_refused_in_one_line(text: str) -> None:
    try:
        message = parse_profile(text, "x").name
    except ProfileError as error:
        message = error.message
    assert message
    assert "\n" not in message
