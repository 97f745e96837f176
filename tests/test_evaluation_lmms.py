"""The adapter for lmms-eval: against that package where it is installed, else its interface."""

from __future__ import annotations

import abc
import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from adatp_cli.answering.session import Session
from adatp_cli.errors import UsageError
from adatp_cli.record import schema_text
from tests.conftest import Run


class StandIn(abc.ABC):
    """`lmms_eval.api.model.lmms`, as far as a model has to do with it."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}
        self._rank, self._world_size = 0, 1

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size

    @abc.abstractmethod
    def generate_until(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: Any) -> Any: ...


@dataclass(frozen=True)
class ManifestStandIn:
    """`lmms_eval.models.registry_v2.ModelManifest`."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenCounts:
    """`lmms_eval.api.instance.TokenCounts`."""

    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class GenerationResult:
    """`lmms_eval.api.instance.GenerationResult`."""

    text: str
    token_counts: TokenCounts | None = None


@dataclass(frozen=True)
class Instance:
    """A request of a simple model."""

    args: tuple[Any, ...]


Adapter = Callable[..., Any]


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Adapter]:
    """The model's class, loaded from where the entry point says."""
    if importlib.util.find_spec("lmms_eval") is None:
        for name, content in (
            ("lmms_eval", {}), ("lmms_eval.api", {}), ("lmms_eval.api.model", {"lmms": StandIn}),
            ("lmms_eval.api.instance",
             {"GenerationResult": GenerationResult, "TokenCounts": TokenCounts}),
            ("lmms_eval.models", {}),
            ("lmms_eval.models.registry_v2", {"ModelManifest": ManifestStandIn}),
        ):  # fmt: skip
            module = types.ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
    from adatp_cli.evaluation.lmms_entry import manifest

    path = manifest().simple_class_path
    module_name, class_name = path.rsplit(".", 1)
    yield getattr(importlib.import_module(module_name), class_name)
    sys.modules.pop(module_name)


def request(text: str, doc_id: int, **knobs: Any) -> Instance:
    def visual(doc: dict[str, Any]) -> list[Any]:
        return [doc["path"]]

    return Instance((text, {"max_new_tokens": 3, **knobs}, visual, doc_id, "task", "test"))


def test_it_is_registered() -> None:
    found = entry_points(group="lmms_eval.models")
    if not any(point.name == "adatp" for point in found):
        pytest.skip("adatp is not installed here, or was before it had the entry point")
    (point,) = [point for point in found if point.name == "adatp"]
    assert point.value == "adatp_cli.evaluation.lmms_entry:manifest"


def test_answers_come_in_the_order_of_the_requests(
    adapter: Adapter, adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = tmp_path / "0-other.mp4"
    other.write_bytes(clip.read_bytes())
    encoded: list[str] = []
    encode = Session.encode

    def counted(self: Session, name: str, *rest: Any, **knobs: Any) -> Any:
        encoded.append(name)
        return encode(self, name, *rest, **knobs)

    monkeypatch.setattr(Session, "encode", counted)
    model = adapter(model=str(checkpoint), dtype="float32", frames="4", batch_size="1",
                    max_batch_size=8, device="cpu")  # fmt: skip
    docs = [{"path": str(clip)}, {"path": str(other)}, {"path": str(tmp_path / "gone.mp4")}]
    model.task_dict = {"task": {"test": docs}}
    asked = [("What?", 0), ("Where?", 1), ("Which?", 0), ("Who?", 2), ("When?", 1)]
    results = model.generate_until([request(text, doc) for text, doc in asked])
    assert results[3] == ""
    answers = [result and result.text for result in results]
    assert sorted(encoded) == sorted([str(clip), str(other)])
    for (text, doc), answer in zip(asked, answers, strict=True):
        if doc == 0:
            alone = adatp("ask", clip, text, "-m", checkpoint, "--dtype", "float32", "-n", "4",
                          "--max-new-tokens", "3", "--json")  # fmt: skip
            assert answer == alone.records[0]["answer"]
            tokens = alone.records[0]["tokens"]
            counts = results[asked.index((text, doc))].token_counts
            assert counts.input_tokens == tokens["text"] + tokens["visual"]
            assert counts.output_tokens == tokens["generated"]
    assert len({answers[0], answers[2]}) == 2


def test_what_it_does_not_do_is_said(adapter: Adapter, checkpoint: Path, clip: Path) -> None:
    assert adapter.is_simple  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="batch_size=4"):
        adapter(model=str(checkpoint), batch_size=4)
    model = adapter(model=str(checkpoint), dtype="float32", frames=2, profile="vanilla")
    model.task_dict = {"task": {"test": [{"path": str(clip)}, {"path": object()}]}}
    with pytest.raises(UsageError, match="task task does not give one video file"):
        model.generate_until([request("What?", 1)])
    with pytest.raises(UsageError, match="beams"):
        model.generate_until([request("What?", 0, num_beams=3)])
    with pytest.raises(NotImplementedError):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError):
        model.generate_until_multi_round([])
    # What tasks pass for greedy decoding is taken as that.
    greedy = {"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n"]}
    assert model.generate_until([request("What?", 0, **greedy)])


def test_each_repeat_of_a_sampled_question_has_a_seed_of_its_own(
    adapter: Adapter, checkpoint: Path, clip: Path
) -> None:
    def answers(seed: int) -> list[str]:
        model = adapter(model=str(checkpoint), dtype="float32", frames=2, device="cpu", seed=seed)
        model.task_dict = {"task": {"test": [{"path": str(clip)}]}}
        asked = request("What?", 0, temperature=1.0, do_sample=True, max_new_tokens=8)
        return [result.text for result in model.generate_until([asked] * 3)]

    first = answers(0)
    assert len(set(first)) == 3
    assert answers(1)[:2] == first[1:]


def test_own_rows_are_kept_beside_each_as_it_is_known(
    adapter: Adapter, checkpoint: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"model": str(checkpoint), "dtype": "float32", "frames": 2, "device": "cpu",
             "records": str(tmp_path / "rows.jsonl")}  # fmt: skip
    model = adapter(**given)
    gone = tmp_path / "gone.mp4"
    model.task_dict = {"task": {"test": [{"path": str(clip)}, {"path": str(gone)}]}}
    model.generate_until([request("What?", 1), request("Who?", 1), request("What?", 0)])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    for row in rows:
        validator.validate(row)
    told = {(row["video"], row["question"]): (row["error"] or {}).get("kind") for row in rows}
    assert told == {(str(clip), "What?"): None, (str(gone), "What?"): "missing",
                    (str(gone), "Who?"): "missing"}  # fmt: skip
    with pytest.raises(UsageError, match="exists already"):
        adapter(**given)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = adapter(**given)
    assert (second.rank, second.world_size) == (1, 2)
    assert str(second.device) == "cpu"
    assert (tmp_path / "rows-1.jsonl").exists()


def test_frames_auto_is_what_ask_takes_and_other_words_are_refused(
    adapter: Adapter, adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    model = adapter(model=str(checkpoint), frames="auto", dtype="float32", profile="adatp-light",
                    device="cpu", records=str(tmp_path / "rows.jsonl"))  # fmt: skip
    model.task_dict = {"task": {"test": [{"path": str(clip)}]}}
    model.generate_until([request("What?", 0)])
    alone = adatp("ask", clip, "What?", "-m", checkpoint, "-n", "auto", "-p", "adatp-light",
                  "--dtype", "float32", "--json", "--max-new-tokens", "3").records[0]  # fmt: skip
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["video_info"]["frames_used"] == alone["video_info"]["frames_used"]
    for name, value in (("frames", "many"), ("seed", "x")):
        with pytest.raises(UsageError, match=f"{name}={value}: is no number"):
            adapter(model=str(checkpoint), **{name: value})
