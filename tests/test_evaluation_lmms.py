"""The adapter for lmms-eval: against that package where it is installed, else its interface."""

from __future__ import annotations

import abc
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from adatp_cli.engine import Engine
from adatp_cli.errors import UsageError
from tests.conftest import Run


class StandIn(abc.ABC):
    """`lmms_eval.api.model.lmms`, as far as a model has to do with it."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}

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
    encode = Engine.encode

    def counted(self: Engine, name: str, *rest: Any) -> Any:
        encoded.append(name)
        return encode(self, name, *rest)

    monkeypatch.setattr(Engine, "encode", counted)
    model = adapter(model=str(checkpoint), dtype="float32", frames="4", batch_size="1",
                    max_batch_size=8, device="cpu")  # fmt: skip
    docs = [{"path": str(clip)}, {"path": str(other)}, {"path": str(tmp_path / "gone.mp4")}]
    model.task_dict = {"task": {"test": docs}}
    asked = [("What?", 0), ("Where?", 1), ("Which?", 0), ("Who?", 2), ("When?", 1)]
    answers = model.generate_until([request(text, doc) for text, doc in asked])
    assert sorted(encoded) == sorted([str(clip), str(other)])
    assert answers[3] == ""
    for (text, doc), answer in zip(asked, answers, strict=True):
        if doc == 0:
            alone = adatp("ask", clip, text, "-m", checkpoint, "--dtype", "float32", "-n", "4",
                          "--max-new-tokens", "3", "--json")  # fmt: skip
            assert answer == alone.records[0]["answer"]
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
