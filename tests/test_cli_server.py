"""`adatp ask --server`: what it says is what `adatp ask` says, from a server that runs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.goldens.runs import HERE
from tests.test_serving import Server, start

ASKED = ("What colour is the circle?", "What moves?")
# What a warm server's record may have otherwise: time, memory, and who decoded.
LOOSE = ("seconds", "peak_memory_bytes")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("root")
    shutil.copy(HERE / "shapes.mp4", root / "served.mp4")
    process, url = start("--media-root", root)
    yield Server(process, url, root)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """A clip that the server may not read."""
    return Path(shutil.copy(HERE / "shapes.mp4", tmp_path / "sent.mp4"))


def test_answers_are_those_without_a_server(adatp: Run, server: Server, sent: Path) -> None:
    for clip in (sent, server.root / "served.mp4"):
        there = adatp("ask", clip, *ASKED, "--server", server.url)
        here = adatp("ask", clip, *ASKED, "-m", "tiny", "--prefill", "each")
        assert there.code == 0, there.err
        assert there.out == here.out
        assert f"tiny on {server.url}, profile adatp" in there.err
        assert there.err.count("tokens kept") == 2
        assert there.err.count("2. What moves?") == 1


def test_records_are_those_without_a_server(adatp: Run, server: Server, sent: Path) -> None:
    settings = ("-p", "adatp-light", "--budget", "0.2", "-n", "6", "--start", "1")
    there = adatp("ask", sent, *ASKED, "--json", "--server", server.url, *settings)
    here = adatp("ask", sent, *ASKED, "--json", "-m", "tiny", *settings)
    for one, other in zip(there.records, here.records, strict=True):
        assert {**one, **dict.fromkeys(LOOSE)} == {**other, **dict.fromkeys(LOOSE)}
        assert list(one) == list(other)


def test_the_bytes_are_sent_once(adatp: Run, server: Server, sent: Path) -> None:
    data = sent.read_bytes() + b"\0" * 1000
    before = server.metrics()
    done = adatp("ask", "-", *ASKED, "--server", server.url, stdin=data)
    assert done.code == 0, done.err
    after = server.metrics()
    miss = 'clip_cache_lookups_total{result="miss"}'
    assert after[miss] - before[miss] == 1
    uuid = 'refusals_total{code="usage"}'
    assert after[uuid] - before.get(uuid, 0) == 1


REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "another model": (("-m", "7b"), 2, "tiny alone"),
    "a profile of the user's": (("-p", "mine.yaml"), 2, "bundled profiles"),
    "a trace": (("--trace", "a.npz"), 2, "trace"),
    "a way of prefills": (("--prefill", "shared"), 2, "prefill"),
    "a budget that cannot be": (("--budget", "0.00001"), 2, ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_server_cannot_do_is_refused(
    adatp: Run, server: Server, sent: Path, name: str
) -> None:
    options, code, said = REFUSED[name]
    done = adatp("ask", sent, ASKED[0], "--server", server.url, *options)
    assert done.code == code, done.err
    assert said in done.error


def test_a_clip_that_is_none_has_the_same_exit_code_and_kind(
    adatp: Run, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" * 100)
    (tmp_path / "empty.mp4").touch()
    for name in ("broken.mp4", "empty.mp4", "absent.mp4"):
        asked = ("ask", tmp_path / name, ASKED[0], "--json")
        there, here = adatp(*asked, "--server", server.url), adatp(*asked, "-m", "tiny")
        assert there.code == here.code == 3
        (one,), (other,) = there.records, here.records
        assert one["error"]["kind"] == other["error"]["kind"]
        assert name in there.error


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://nowhere.invalid", "nonsense", "http://[", "http://"]
)
def test_nobody_there_is_a_line(adatp: Run, sent: Path, url: str) -> None:
    done = adatp("ask", sent, ASKED[0], "--server", url)
    assert done.code == 4
    assert "no server answers" in done.error


def test_a_server_of_others_is_a_line(adatp: Run, sent: Path, hub_server: Any) -> None:
    done = adatp("ask", sent, ASKED[0], "--server", hub_server.url)
    assert done.code == 4
    assert "adatp serve" in done.error


def test_neither_torch_nor_transformers_is_imported(server: Server, sent: Path) -> None:
    code = (
        "import sys; from adatp_cli.cli.app import main\n"
        f"code = main(['ask', {str(sent)!r}, {ASKED[0]!r}, '--json'])\n"
        "print(code, {'torch', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PATH": "", "ADATP_SERVER": server.url, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stderr.endswith("0 set()\n"), done.stderr
    assert json.loads(done.stdout)["answer"] == "green"
