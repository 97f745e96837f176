"""The safetensors container: read headers, check files, copy a few tensors out of a large one.

Its header alone tells what a checkpoint holds, how much memory it takes and whether it was cut off.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adatp_cli.errors import ModelError

DAMAGED = "model_damaged"  # the kind of the errors that a new copy of the file would cure
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100 * 2**20  # the format's own limit
_PIECE = 8 * 2**20
# What reading a header raises that is none, such as an endless number or brackets without end.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: its type, shape and byte range, counted from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.end - self.start


# A file whose bytes can be read by range, a local one or a remote one over HTTP: yields the bytes
# from the first number up to, not including, the second, in pieces.
ByteSource = Callable[[int, int], Iterable[bytes]]


def file_source(path: Path) -> ByteSource:
    """A local file as a `ByteSource`."""

    def read(start: int, end: int) -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            while start < end and (piece := file.read(min(end - start, _PIECE))):
                start += len(piece)
                yield piece

    return read


@dataclass(frozen=True, slots=True)
class Header:
    """A file's tensors by name, in the order of their data, and where the data begins."""

    tensors: Mapping[str, TensorEntry]
    data_start: int

    @property
    def file_size(self) -> int:
        """Bytes that a whole file has."""
        return self.data_start + max((entry.end for entry in self.tensors.values()), default=0)


def read_header(source: ByteSource, name: str) -> Header:
    """Read and check a file's header; errors call it `name`."""
    first = b"".join(source(0, _LENGTH_BYTES))
    length = int.from_bytes(first, "little")
    if len(first) < _LENGTH_BYTES or not 2 <= length <= _LARGEST_HEADER:
        raise _damaged(name, "it does not begin like a safetensors file")
    text = b"".join(source(_LENGTH_BYTES, _LENGTH_BYTES + length))
    if len(text) < length:
        raise _damaged(name, "it ends inside its header")
    try:
        entries = [
            _entry(key, value) for key, value in json.loads(text).items() if key != "__metadata__"
        ]
    except _MALFORMED as error:
        raise _damaged(name, "its header cannot be read") from error
    entries.sort(key=lambda entry: entry.start)
    return Header({entry.name: entry for entry in entries}, _LENGTH_BYTES + length)


def check_file(path: Path) -> Header:
    """Read a local file's header and check that the file is as long as the header says."""
    try:
        size = path.stat().st_size
        header = read_header(file_source(path), str(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    if size < header.file_size:
        raise _damaged(str(path), f"it has {size} of its {header.file_size} bytes")
    return header


def copy_tensors(
    source: ByteSource,
    name: str,
    wanted: Callable[[str], bool],
    target: Path,
    progress: Callable[[int], None],
) -> None:
    """Write a smaller safetensors file with only the tensors that are wanted, reading no others.

    `target` appears only when complete; an interrupted copy continues where it stopped. `progress`
    is called with the bytes that such a copy left, then with those of each piece.
    """
    header = read_header(source, name)
    entries = [entry for entry in header.tensors.values() if wanted(entry.name)]
    if not entries:
        raise ModelError(f"{name} holds none of the tensors that are needed")
    spans: list[tuple[int, int]] = []
    for entry in entries:
        start = entry.start
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, entry.end))
    partial = target.with_name(f"{target.name}.partial")
    head = _new_header(entries)
    skip = _already_copied(partial, head, sum(entry.nbytes for entry in entries))
    try:
        with partial.open("ab") as file:
            progress(skip)
            for start, end in spans:
                begin, skip = min(start + skip, end), max(0, skip - (end - start))
                for piece in source(header.data_start + begin, header.data_start + end):
                    file.write(piece)
                    progress(len(piece))
                    begin += len(piece)
                if begin < end:
                    raise _damaged(name, "it ends inside its data")
        os.replace(partial, target)
    except ModelError:  # a damaged copy is not continued
        partial.unlink(missing_ok=True)
        raise


def _already_copied(partial: Path, head: bytes, total: int) -> int:
    """Bytes of data that an interrupted copy of the same tensors left; 0, and a new file."""
    if partial.is_file():
        with partial.open("rb") as file:
            same = file.read(len(head)) == head
        have = partial.stat().st_size - len(head)
        if same and have <= total:
            return have
    partial.write_bytes(head)
    return 0


def _new_header(entries: list[TensorEntry]) -> bytes:
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        described[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # the data begins aligned
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _entry(name: str, value: Mapping[str, object]) -> TensorEntry:
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError(name)
    start, end = (int(offset) for offset in offsets)
    entry = TensorEntry(name, dtype, tuple(int(size) for size in shape), start, end)
    if not 0 <= start <= end or entry.nbytes * 8 != entry.elements * _BITS[dtype]:
        raise ValueError(name)
    return entry


def _damaged(name: str, what: str) -> ModelError:
    hint = "delete the file and download or copy it again"
    return ModelError(f"{name} is damaged: {what}", hint, kind=DAMAGED)
