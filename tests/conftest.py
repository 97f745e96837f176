"""What test files share: the program run in this process, a model of noise, short clips."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from huggingface_hub import constants
from hypothesis import settings

# Threads that wait for each other spin, which costs the small models here most of their time. Set
# before anything loads PyTorch; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from adatp_cli.cli.app import main
from adatp_cli.model import hub
from adatp_cli.video import isolated
from tests.checkpoint import write_random_checkpoint
from tests.decode_case import write_clip
from tests.forked_decoders import ForkedDecoders
from tests.local_hub import LocalHub, serve, talk_to

# How long an example takes says more about the machine than about the code.
settings.register_profile("adatp", deadline=None)
settings.load_profile("adatp")


_modules_frozen = 0


# Files that take long begin first, so that two workers end at the same time.
_LONGEST = (
    "test_goldens.py", "test_streams.py", "test_tiny_bundle.py", "test_cli_chat.py",
    "test_batch_hostile.py", "test_serving.py", "test_cli_server.py",
    "test_session_sharing.py", "test_cli_eval.py", "test_cli_show.py", "test_cli_batch.py",
    "test_cli_options.py", "test_pruning_methods.py", "test_batch_throughput.py",
    "test_model_relevance.py", "test_cli_ask.py", "test_bench.py", "test_cli_bench.py",
    "test_docs_batch.py", "test_cli_bias.py", "test_api.py", "test_pictures.py",
    "test_cost_measured.py", "test_tiny_training.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_runtest_setup() -> None:
    """Keep what was imported out of garbage collections, which would walk through it each time."""
    global _modules_frozen
    if len(sys.modules) > _modules_frozen + 100:
        gc.freeze()
        _modules_frozen = len(sys.modules)


@dataclass(frozen=True)
class Finished:
    """A run of the program: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The one line that says what went wrong; that it is one is part of the contract."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


Run = Callable[..., Finished]


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub of `tmp_path / "root"` for huggingface_hub to talk to, and an empty cache."""
    (tmp_path / "root").mkdir(exist_ok=True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(hub, "_REPORT_EVERY_S", 0.0)
    with serve(tmp_path / "root") as server:
        talk_to(server.url, monkeypatch)
        yield server


@pytest.fixture(scope="session")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """What to start in place of `isolated.WORKER`, which imports for a fifth of a second."""
    decoders = ForkedDecoders(tmp_path_factory.mktemp("decoders"))
    yield decoders.command
    decoders.close()


@pytest.fixture
def adatp(
    decoders: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """`adatp("ask", ..., stdin=b"...")`: the program in this process, without its environment."""
    monkeypatch.setattr(isolated, "WORKER", decoders)
    for name in ("ADATP_MODEL", "ADATP_PROFILE", "ADATP_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str | Path, stdin: bytes = b"") -> Finished:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def program(
    decoders: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ...]]:
    """The command `adatp` as a process of its own that begins at once."""
    from tests.door import Door

    door = Door(tmp_path_factory.mktemp("door"), decoders)
    yield door.command
    door.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-OneVision folder whose answers are noise."""
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a moving bar, then a cut and two of a flickering one, at 8 frames a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(32):
            pixels = np.full((64, 96, 3), 30 if number < 16 else 200, dtype=np.uint8)
            pixels[20:40, 5 * (number % 16) : 5 * (number % 16) + 20, number % 3] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `plain.mp4`, `sound.mp4` and `start.mp4`: 60 numbered frames each, to be read."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "plain.mp4")
    write_clip(folder / "sound.mp4", sound=True)
    write_clip(folder / "start.mp4", mux={"movflags": "faststart"})
    return folder
