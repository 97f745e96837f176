"""What is said while a model loads: how far it is, and nothing of what the libraries say."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path

import pytest

from adatp_cli.model.load import LoadRequest, load_model
from adatp_cli.model.quiet import quiet_libraries
from tests.checkpoint import write_random_checkpoint
from tests.loading_case import answer_logits


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("whole"), layers=3)


def test_loading_is_reported_and_nothing_else_reaches_the_screen(
    whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with quiet_libraries():
        request = LoadRequest(model=str(whole), device="cpu", dtype="float32", quantization="int8")
        loaded = load_model(request, said.append)
        answer_logits(loaded)
    assert said[0] == f"loading {whole} (float32, int8 quantization) on cpu"
    assert capfd.readouterr() == ("", "")


def test_a_slow_load_tells_how_far_it_is(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("adatp_cli.model.quiet._SLOW_S", -1.0)
    load_model(LoadRequest(model=str(whole), device="cpu", relevance="none"), said.append)
    assert [line.rpartition(": ")[2] for line in said[1:]] == ["25 %", "50 %", "75 %", "100 %"]


@pytest.mark.parametrize("verbose", [False, True])
def test_warnings_are_dropped_unless_asked_for(
    verbose: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("bitsandbytes.backends")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_libraries(verbose=verbose):
            logger.warning("kernels")
            logger.error("broken")
            warnings.warn("deprecated", stacklevel=1)
        logger.warning("after")
    heard = Counter(record.getMessage() for record in caplog.records)
    assert heard == Counter({"kernels": int(verbose), "broken": 1, "after": 1}) + Counter()
    assert len(caught) == int(verbose)


def test_quiet_ends_with_an_exception() -> None:
    before = logging.root.manager.disable
    with pytest.raises(KeyError), quiet_libraries():
        raise KeyError
    assert logging.root.manager.disable == before
