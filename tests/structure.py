"""Mutations that know how a file is built: boxes, elements, chunks, packets.

Blind damage mostly breaks headers; these break what a header says while all around it stays whole.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part of a file: its header from `begin` to `body`, its body from there to `end`.

    `size` is the number in its header that says how long it is, as (place, bytes, byte order).
    """

    kind: str
    begin: int
    body: int
    end: int
    size: tuple[int, int, str] | None = None


_BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"dinf"}
_ELEMENTS = {0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675, 0xA0, 0x1C53BB6B, 0xBB,
             0xB7, 0x1254C367, 0x7373}  # fmt: skip
_MOST = 4000


def parts(data: bytes) -> list[Part]:
    """All parts of a file, outer ones before what is in them; none of a kind that is not known."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"styp"):
        return _boxes(data, 0, len(data))[:_MOST]
    if data[:4] == b"\x1aE\xdf\xa3":
        return _elements(data, 0, len(data))[:_MOST]
    if data[:4] == b"RIFF":
        return _chunks(data, 0, len(data))[:_MOST]
    if data[:1] == b"G" and data[188:189] == b"G":
        return [Part("ts", at, at + 4, at + 188) for at in range(0, len(data) - 187, 188)][:_MOST]
    if data[:4] == b"\0\0\1\xba":
        return _pes(data)[:_MOST]
    return []


def _boxes(data: bytes, at: int, end: int) -> list[Part]:
    found: list[Part] = []
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > end:
            break
        found.append(Part(kind.decode("latin-1"), at, at + 8, at + size, (at, 4, ">")))
        if kind in _BOXES:
            found += _boxes(data, at + 8, at + size)
        at += size
    return found


def _elements(data: bytes, at: int, end: int) -> list[Part]:
    found: list[Part] = []
    while at + 2 <= end:
        kind_bytes = 9 - data[at].bit_length()
        size_at = at + kind_bytes
        if kind_bytes > 4 or size_at >= end or data[size_at] == 0:
            break
        size_bytes = 9 - data[size_at].bit_length()
        kind = int.from_bytes(data[at:size_at], "big")
        unknown = (1 << 7 * size_bytes) - 1
        size = int.from_bytes(data[size_at : size_at + size_bytes], "big") & unknown
        body = size_at + size_bytes
        stop = end if size == unknown else min(end, body + size)
        found.append(Part(f"{kind:x}", at, body, stop, (size_at, size_bytes, "ebml")))
        if kind in _ELEMENTS:
            found += _elements(data, body, stop)
        at = stop
    return found


def _chunks(data: bytes, at: int, end: int) -> list[Part]:
    found: list[Part] = []
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        stop = min(end, at + 8 + size + size % 2)
        found.append(Part(kind.decode("latin-1"), at, at + 8, stop, (at + 4, 4, "<")))
        if kind in (b"RIFF", b"LIST"):
            found += _chunks(data, at + 12, stop)
        at = stop
    return found


def _pes(data: bytes) -> list[Part]:
    begins: list[int] = []
    at = data.find(b"\0\0\1")
    while at >= 0 and len(begins) < _MOST:
        if at + 3 < len(data) and data[at + 3] >= 0xBA:
            begins.append(at)
        at = data.find(b"\0\0\1", at + 3)
    ends = [*begins[1:], len(data)]
    return [
        Part("pes", begin, begin + 6, end, (begin + 4, 2, ">"))
        for begin, end in zip(begins, ends, strict=True)
        if end >= begin + 6
    ]


def drop_a_part(data: bytearray, rng: random.Random, found: list[Part]) -> bytes:
    """A part is missing."""
    part = rng.choice(found)
    return bytes(data[: part.begin] + data[part.end :])


def repeat_a_part(data: bytearray, rng: random.Random, found: list[Part]) -> bytes:
    """A part comes twice."""
    part = rng.choice(found)
    return bytes(data[: part.end] + data[part.begin :])


def swap_parts(data: bytearray, rng: random.Random, found: list[Part]) -> bytes:
    """Two parts have changed places."""
    one, two = sorted(rng.choices(found, k=2), key=lambda part: part.begin)
    if one.end > two.begin:
        return drop_a_part(data, rng, found)
    between = data[one.end : two.begin]
    turned = data[two.begin : two.end] + between + data[one.begin : one.end]
    return bytes(data[: one.begin] + turned + data[two.end :])


def wrong_size(data: bytearray, rng: random.Random, found: list[Part]) -> bytes:
    """A part says that it is shorter or longer than it is."""
    sized = [part for part in found if part.size]
    if not sized:
        return damaged_body(data, rng, found)
    part = rng.choice(sized)
    assert part.size is not None
    place, count, order = part.size
    true = part.end - part.begin
    value = max(0, rng.choice((true - 1, true + 1, true // 2, true * 2, 0, 1 << 8 * count - 2)))
    if order == "ebml":
        value = min(value, (1 << 7 * count) - 2) | 1 << 7 * count
    most = (1 << 8 * count) - 1
    data[place : place + count] = min(value, most).to_bytes(
        count, "little" if order == "<" else "big"
    )
    return bytes(data)


def wrong_number(data: bytearray, rng: random.Random, found: list[Part]) -> bytes:
    """A number of four bytes in a table or header is another one."""
    small = [part for part in found if 4 <= part.end - part.body <= 4096] or found
    part = rng.choice(small)
    place = part.body + 4 * rng.randrange(max(1, (part.end - part.body) // 4))
    old = int.from_bytes(data[place : place + 4], "big")
    new = rng.choice((old + 1, old * 2, 0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
    data[place : place + 4] = (new & 0xFFFFFFFF).to_bytes(4, "big")[: len(data) - place]
    return bytes(data)


def damaged_body(data: bytearray, rng: random.Random, found: list[Part]) -> bytes:
    """A few bits in the largest bodies, which hold the pictures: all the structure stays whole."""
    bodies = sorted(found, key=lambda part: part.end - part.body)[-8:]
    for _ in range(rng.choice((1, 3, 10))):
        part = rng.choice(bodies)
        if part.end > part.body:
            data[rng.randrange(part.body, part.end)] ^= 1 << rng.randrange(8)
    return bytes(data)


KINDS: tuple[Callable[[bytearray, random.Random, list[Part]], bytes], ...] = (
    drop_a_part, repeat_a_part, swap_parts, wrong_size, wrong_number, damaged_body, damaged_body,
)  # fmt: skip


def mutate(data: bytearray, rng: random.Random) -> bytes:
    """One to three mutations of parts; a file without any is left as it is."""
    mutated = bytes(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        found = parts(mutated)
        if not found:
            break
        mutated = rng.choice(KINDS)(bytearray(mutated), rng, found)
    return mutated
