"""The answer record: one line of JSON that fits the schema that ships with the package."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adatp_cli import record
from adatp_cli.profiles import builtin_names, load_profile, parse_profile
from tests.records import answer_record

SCHEMA = json.loads(record.schema_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
PROFILE_KEYS = SCHEMA["$defs"]["profile"]["properties"]
KEYS = {
    "": "schema_version ok video question answer finish_reason error model profile video_info "
    "segments tokens flops seconds peak_memory_bytes versions batch eval",
    "model": "name revision quantization dtype device layers",
    "video_info": "decoder codec width height fps duration_s frames_total frames_lost frames_used "
    "timestamps_s frames_copied sample_aspect_ratio",
    "tokens": "text visual kept_per_layer kept_final kept_mean_ratio generated shared",
    "flops": "paper end_to_end",
    "seconds": "load decode vision relevance prefill first_token generate total",
    "versions": "adatp torch transformers",
}


def failure(**changes: Any) -> record.FailureRecord:
    error = record.ErrorInfo("missing", "clip.mp4: no such file", "check the path")
    return dataclasses.replace(record.FailureRecord("clip.mp4", "What?", error), **changes)


def test_the_schema_is_a_valid_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_an_answer_fits_the_schema_and_has_the_contracts_keys_in_order() -> None:
    data = json.loads(answer_record().to_json())
    VALIDATOR.validate(data)
    assert data["schema_version"] == 2
    assert data["ok"] is True
    for key, names in KEYS.items():
        assert list(data[key] if key else data) == names.split(), key
    assert list(data["segments"][0]) == (
        ["first_frame", "last_frame", "start_s", "end_s", "relevance", "salient", "kept"]
    )
    assert list(data["flops"]["paper"]) == ["vanilla", "pruned", "ratio"]
    assert list(data["flops"]["end_to_end"]) == (
        ["vanilla", "pruned", "ratio", "vision", "relevance", "prefill", "scoring", "generate"]
    )


def test_a_failure_fits_the_schema_and_has_the_same_keys_whatever_is_known() -> None:
    bare = json.loads(failure().to_json())
    assert list(bare) == KEYS[""].split()
    told = [key for key, value in bare.items() if value is not None]
    assert told == ["schema_version", "ok", "video", "question", "error"]
    VALIDATOR.validate(bare)
    known = answer_record()
    full = failure(
        model=known.model,
        profile=known.profile,
        video_info=known.video_info,
        versions=known.versions,
    )
    VALIDATOR.validate(json.loads(full.to_json()))


def every_object(schema: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if isinstance(schema, dict):
        found += [schema] if schema.get("type") == "object" else []
        for value in schema.values():
            found += every_object(value)
    elif isinstance(schema, list):
        for value in schema:
            found += every_object(value)
    return found


def test_the_schema_is_closed_everywhere() -> None:
    objects = every_object(SCHEMA)
    assert len(objects) > 15
    for item in objects:
        if "properties" not in item:  # a table by names that are not known beforehand
            assert item["additionalProperties"].keys() == {"type"}
            continue
        assert item["additionalProperties"] is False
        # Only rows of a conversation have a turn.
        assert item["required"] == [key for key in item["properties"] if key != "turn"]


@pytest.mark.parametrize("path", [(), ("model",), ("tokens",), ("flops", "paper"), ("profile",)])
def test_a_missing_or_an_extra_key_is_refused(path: tuple[str, ...]) -> None:
    for change in ("missing", "extra"):
        data = json.loads(answer_record().to_json())
        target = data
        for key in path:
            target = target[key]
        if change == "missing":
            target.pop(list(target)[-1])
        else:
            target["more"] = 1
        assert not VALIDATOR.is_valid(data), change


@pytest.mark.parametrize("name", builtin_names())
def test_every_profile_fits_the_schema(name: str) -> None:
    profile = load_profile(name)
    data = json.loads(answer_record(profile=profile.to_dict()).to_json())
    VALIDATOR.validate(data)
    assert list(data["profile"]) == list(PROFILE_KEYS)
    assert parse_profile(json.dumps(data["profile"]), "row") == profile


def test_not_a_number_never_gets_out() -> None:
    seconds = dataclasses.replace(answer_record().seconds, load=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        answer_record(seconds=seconds).to_json()


@given(st.text(), st.text(st.characters(exclude_categories=[]), max_size=50))
def test_any_text_stays_on_one_ascii_line_and_comes_back(answer: str, video: str) -> None:
    line = answer_record(answer=answer, video=video).to_json()
    assert line.isascii()
    assert len(line.splitlines()) == 1
    back = json.loads(line)
    assert back["answer"] == answer
    whole = json.loads(json.dumps(video))  # two halves side by side are a character
    assert back["video"] == whole.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize("name", ["\udcff.mp4", "\ud800", "\\\ud800", "\udc00\ud800\\"])
def test_text_that_is_no_unicode_is_written_out(name: str) -> None:
    line = failure(video=name).to_json()
    assert json.loads(line)["video"] == name.encode("utf-8", "backslashreplace").decode()
    if shutil.which("jq"):
        subprocess.run(["jq", "-e", ".video"], input=line.encode(), check=True, capture_output=True)
