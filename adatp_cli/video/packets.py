"""One pass over the packets of a clip: when each is shown, and where decoding may start."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from adatp_cli.video.container import decoding_errors
from adatp_cli.video.frames import Progress

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# A step back in time: between frames as they are stored, and where only the order of showing is
# known, in which frames are out of order themselves.
_STEP_BACK_S = 0.5
_STEP_BACK_SHOWN_S = 5.0


@dataclass(slots=True)
class Packets:
    """The packets of one stream, in the order they are stored.

    Parameters
    ----------
    stored, sizes
        When each is shown, in units of the stream's time base (made up where `exact` is false),
        and its bytes; with those that an edit list hides, which are decoded for the sake of others.
    keys, keys_dts
        Places of the key frames, and when they are to be decoded.
    pts
        When each that is shown is shown.
    parts
        Where the clock steps back: clips joined to one file, each with a clock of its own. Places
        in `pts`, the first one 0.
    timed
        Whether there is any timestamp at all.
    exact
        Whether each packet says when it is shown.
    closed
        Whether no packet is stored after a key frame and shown before it.
    encrypted
        Whether any is.
    last_duration
        Of the packet shown last, 0 where it is not known.
    """

    stored: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    keys_dts: array[int] = field(default_factory=lambda: array("q"))
    pts: array[int] = field(default_factory=lambda: array("q"))
    parts: array[int] = field(default_factory=lambda: array("q", [0]))
    timed: bool = False
    exact: bool = True
    closed: bool = True
    encrypted: bool = False
    last_duration: int = 0
    _newest: int = 0
    _decoded: int | None = None

    def add(self, packet: Packet[VideoStream], base: float) -> None:
        """The next packet; `base` is the time base in seconds."""
        moment = self._moment(packet)
        self.encrypted |= packet.has_sidedata("encryption_info")
        if packet.is_keyframe:
            self.keys.append(len(self.stored))
            self.keys_dts.append(moment if packet.dts is None else packet.dts)
        elif not self.keys or moment < self.stored[self.keys[-1]]:
            self.closed = False
        self.stored.append(moment)
        self.sizes.append(packet.size)
        if packet.is_discard:
            return
        if self.pts and self._steps_back(packet, moment, base):
            self.parts.append(len(self.pts))
            self._newest = moment
        if packet.dts is not None:
            self._decoded = packet.dts
        if not self.pts or moment >= self._newest:
            self._newest = moment
            self.last_duration = packet.duration or 0
        self.pts.append(moment)

    def _steps_back(self, packet: Packet[VideoStream], moment: int, base: float) -> bool:
        if self._decoded is not None and packet.dts is not None:
            return packet.dts < self._decoded - _STEP_BACK_S / base
        return moment < self._newest - _STEP_BACK_SHOWN_S / base

    def _moment(self, packet: Packet[VideoStream]) -> int:
        self.timed |= packet.pts is not None or packet.dts is not None
        if packet.pts is not None:
            return packet.pts
        self.exact = False
        if packet.dts is not None:
            return packet.dts
        return self.stored[-1] + 1 if self.stored else 0


def read_packets(
    container: InputContainer, streams: list[VideoStream], progress: Progress
) -> dict[int, Packets]:
    """The packets of each of the streams, by its number."""
    found = {stream.index: Packets() for stream in streams}
    bases = {stream.index: float(stream.time_base or 1) for stream in streams}
    try:
        for packet in container.demux(streams):
            progress()
            if packet.size == 0:
                continue
            number = packet.stream_index
            found[number].add(cast("Packet[VideoStream]", packet), bases[number])
    except decoding_errors():
        pass  # What came before counts; the file's ending says whether more was to come.
    return found
