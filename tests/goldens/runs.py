"""One run of the program in this process, told as data that is the same each time."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from huggingface_hub import constants
from PIL import Image

from adatp_cli.__main__ import main

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
CHANGED_NS = 1_732_505_257_123_456_789  # when every file was changed last: keys hold it

# What depends on the machine, the moment or the build, wherever it stands in a JSON object.
_TIMED = frozenset(
    {
        *("seconds", "load_seconds", "tokens_per_second", "flop_per_second", "overhead"),
        *("peak_memory_bytes", "peak_bytes", "memory_method"),
        *("date", "machine", "versions", "python", "platform", "packages", "devices"),
    }
)
NOTHING = r"(?!)"  # matches nowhere
_LONG_LIST, _LONG_TEXT = 20, 12_000


@dataclass(frozen=True)
class Case:
    """A command line, and what lies in the current folder.

    Parameters
    ----------
    files
        Texts, and files of `tests/` by path, beside `shapes.mp4`.
    loose
        Parts of texts that differ from run to run, as a pattern.
    unread
        How the names of files end whose content differs from run to run: that they are written is
        what is kept.
    cheap
        Whether it is a test; the others are for `python -m tests.goldens`.
    """

    name: str
    arguments: tuple[str, ...]
    files: dict[str, str | bytes | Path] = field(default_factory=dict)
    stdin: bytes = b""
    loose: str = NOTHING
    unread: tuple[str, ...] = ()
    cheap: bool = True


def told(case: Case, folder: Path) -> dict[str, Any]:
    """Exit code, streams and written files of a run in the empty `folder`."""
    shutil.copy(HERE / "shapes.mp4", folder)
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            content = (REPOSITORY / "tests" / content).read_bytes()
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    there = _files_in(folder)
    for path in there:
        os.utime(path, ns=(CHANGED_NS, CHANGED_NS))
    before = {path: path.read_bytes() for path in there}
    code, out, err = _run(case, folder)
    new = {path: path.read_bytes() for path in _files_in(folder)}
    files = {
        str(path.relative_to(folder)): "written"
        if path.name.endswith(case.unread)
        else _content(path, data, case, folder)
        for path, data in new.items()
        if before.get(path) != data
    }
    came = {
        "out": _text(out, case, folder),
        "err": _text(err, case, folder),
        "files": files,
        "gone": [path.name for path in before if path not in new],
    }
    return {"code": code, **{name: one for name, one in came.items() if one not in ([""], {}, [])}}


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _run(case: Case, folder: Path) -> tuple[int, str, str]:
    out, err = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, _signals_and_hook():
        for name in ("ADATP_MODEL", "ADATP_PROFILE", "HF_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("COLUMNS", "80")
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["adatp", *case.arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(case.stdin), encoding="utf-8"))
        stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
        stderr = io.TextIOWrapper(err, encoding="utf-8", write_through=True)
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        patch.chdir(folder)
        code = main()
        texts = out.getvalue().decode(), err.getvalue().decode()
    return code, *texts


@contextlib.contextmanager
def _signals_and_hook() -> Iterator[None]:
    """Undo what the program does to a process that ends with it."""
    hook, handlers = (
        sys.excepthook,
        {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
    )
    try:
        yield
    finally:
        sys.excepthook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _content(path: Path, data: bytes, case: Case, folder: Path) -> Any:
    if path.suffix == ".npz":
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: _array(arrays[name]) for name in arrays.files}
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        types = {name: str(table.schema.field(name).type) for name in table.schema.names}
        return {"types": types, "sha256": _sha256(json.dumps(table.to_pylist()).encode())}
    if path.suffix == ".png":  # there are times in it
        return list(Image.open(path).size)
    if path.suffix == ".html":
        steady = re.sub(case.loose, "#", data.decode(), flags=re.MULTILINE)
        return {"sha256": _sha256(steady.encode()), "numbers": []}
    if path.suffix == ".json":
        return _steady(json.loads(data))
    if path.suffix == ".csv" and case.loose != NOTHING:
        data = _without_times(data.decode()).encode()
    return _text(data.decode(), case, folder)


def _without_times(table: str) -> str:
    first, *rows = csv.reader(io.StringIO(table, newline=""))
    timed = [number for number, name in enumerate(first) if re.search("seconds|_s$", name)]
    for row in rows:
        for number in set(timed) - {first.index("duration_s") if "duration_s" in first else -1}:
            row[number] = row[number] and "#"
    text = io.StringIO(newline="")
    csv.writer(text).writerows([first, *rows])
    return text.getvalue()


def _array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    facts = {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "sha256": _sha256(np.ascontiguousarray(array).tobytes()),
    }
    if array.dtype.kind == "f":
        facts["numbers"] = _numbers(array.ravel().tolist())
    return facts


def _numbers(values: Sequence[float]) -> list[float]:
    """A few numbers that many numbers are compared by on another machine."""
    if not values:
        return []
    steps = (0, len(values) // 3, len(values) // 2, len(values) - 1)
    return [float(f"{value:.6g}") for value in (math.fsum(values), *(values[i] for i in steps))]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _text(text: str, case: Case, folder: Path) -> Any:
    """Lines; a line that is a JSON object as one, without what differs from run to run."""
    for path, name in ((folder, "HERE"), (REPOSITORY, "REPOSITORY"), (Path.home(), "HOME")):
        text = text.replace(str(path), name)
    text = re.sub(case.loose, "#", text, flags=re.MULTILINE)
    lines = [_json(line) for line in text.split("\n")]
    if len(text) > _LONG_TEXT and all(isinstance(line, str) for line in lines):
        found = [float(number) for number in re.findall(r"-?\d+\.\d+", text)]
        facts = {"lines": len(lines), "first": lines[0], "sha256": _sha256(text.encode())}
        return facts | ({"numbers": _numbers(found)} if found else {})
    return lines


def _json(line: str) -> Any:
    if not line.startswith("{"):
        return line
    try:
        return _steady(json.loads(line))
    except ValueError:
        return line


def _steady(value: Any, key: str = "") -> Any:
    if key == "scaling":  # of seconds, and not of every profile
        return len(value)
    if key in _TIMED or (key == "ratio" and isinstance(value, dict)):
        return _timed(value)
    if isinstance(value, dict):
        return {name: _steady(one, name) for name, one in value.items()}
    if isinstance(value, list):
        if len(value) > _LONG_LIST and all(isinstance(one, int | float) for one in value):
            facts = {"length": len(value), "sha256": _sha256(json.dumps(value).encode())}
            if any(isinstance(one, float) for one in value):
                facts["numbers"] = _numbers(value)
            return facts
        return [_steady(one) for one in value]
    return value


def _timed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timed(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_timed(one) for one in value]
    return None if value is None else "#"


def machine() -> dict[str, str]:
    """What floating-point results depend on: where it is the same, they are equal to the bit."""
    import torch

    processor = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        processor = next((line for line in lines if line.startswith("model name")), processor)
    names = ("torch", "transformers", "numpy", "av", "decord", "pillow")
    return {
        "processor": processor.split(":")[-1].strip(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": os.environ["OMP_NUM_THREADS"],
        **{name: version(name) for name in names},
    }


def differences(expected: Any, found: Any, exact: bool, where: str = "") -> Iterator[str]:
    """Where `found` is not what was written down.

    Unless `exact`, floating-point numbers may differ a little, and hashes of them are not compared:
    kept sets, tokens, words and counts must be equal on every machine, scores need not.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        if list(expected) != list(found):
            new = {key: value for key, value in found.items() if key not in expected}
            yield f"{where}: keys {list(expected)} became {list(found)}; new: {new!r:.500}"
        for key in expected.keys() & found.keys():
            if not (key == "sha256" and "numbers" in expected and not exact):
                yield from differences(expected[key], found[key], exact, f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: {len(expected)} became {len(found)}: {expected!r} became {found!r}"
            return
        for number, pair in enumerate(zip(expected, found, strict=True)):
            yield from differences(*pair, exact, f"{where}[{number}]")
    elif type(expected) is not type(found) or not (
        expected == found or (not exact and _close(expected, found))
    ):
        yield f"{where}: {expected!r} became {found!r}"


def _close(expected: Any, found: Any) -> bool:
    if isinstance(expected, float):
        return math.isclose(expected, found, rel_tol=0.01, abs_tol=0.01)
    if isinstance(expected, str):  # a table of numbers
        number = r"-?\d+\.\d+"
        pairs = zip(re.findall(number, expected), re.findall(number, found), strict=False)
        same_words = re.sub(number, "#", expected) == re.sub(number, "#", found)
        return same_words and all(_close(float(a), float(b)) for a, b in pairs)
    return False
