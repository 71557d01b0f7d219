"""A real H.264 encoder that hears when a key frame is wanted, and a decoder that sees when one was."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray
from steps import wait_for

from rmbus import Encoded, Input, Node, Output, Packet

WIDTH, HEIGHT = 160, 96
MOST_OFF: Final = 12.0
"""A decoded picture differs by less, on average, from what was encoded; one that lacks what it depends on, by more."""


def picture(number: int) -> NDArray[np.uint8]:
    """Return the picture of that number, gray, uint8[height, width]: no part of it is that of the one before."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = np.sin((x + 9 * number) / 11) + np.sin((y - 5 * number) / 7) + np.sin(number * 0.7)
    return np.asarray(128 + 40 * waves, np.uint8)


class Encode(Node):
    """A source of packets, of which only the first is a key unless it is asked for another.

    Args:
        note: the file that it writes to at its end: the numbers of its keys, and how often it was asked.
        asked: a mark that it makes when it is asked. deaf: how often it does nothing about it.
        more: pictures after the first key that it was asked for, then it ends. until: a mark that ends it instead.
    """

    out = Output(Encoded("h264"))

    def __init__(self, note: Path, *, asked: Path, deaf: int = 0, more: int = 40, until: Path | None = None) -> None:
        self.note, self.asked, self.deaf, self.more, self.until = note, asked, deaf, more, until

    def initialize(self) -> None:
        codec: Any = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt, codec.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, 25)
        codec.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "100000", "sc_threshold": "0"}
        self.codec = codec
        self.keys: list[int] = []
        self.wishes: list[float] = []
        self.is_wanted = False

    def key_wanted(self, port: str) -> None:
        self.wishes.append(time.monotonic())
        self.is_wanted = len(self.wishes) > self.deaf
        self.asked.touch()

    def process(self) -> Iterator[Packet]:
        left = self.more
        for number in itertools.count():
            yield from self._encoded(number)
            time.sleep(0.005)
            left -= len(self.keys) > 1
            if left < 0 if self.until is None else self.until.exists():
                return

    def _encoded(self, number: int) -> Iterator[Packet]:
        frame = av.VideoFrame.from_ndarray(picture(number), "gray").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        frame.pict_type = PictureType.I if self.is_wanted else PictureType.NONE
        self.is_wanted = False
        for packet in self.codec.encode(frame):
            if packet.is_keyframe:
                self.keys.append(number)
            yield Packet.from_av(packet, "h264")

    def flush(self) -> None:
        self.note.write_text(json.dumps({"keys": self.keys, "wishes": self.wishes}))


class PassOn(Node):
    """Sends packets on, and knows nothing of keys."""

    packets = Input(Encoded())
    out = Output(Encoded())

    def process(self, packet: Packet) -> Packet:
        return packet


class Decode(Node):
    """Decodes what it is given, and writes down at the end which packets that were, and which pictures were wrong.

    Args:
        note: the file. waits: a mark that it waits for with the first packet.
    """

    packets = Input(Encoded("h264"))

    def __init__(self, note: Path, waits: Path) -> None:
        self.note, self.waits = note, waits

    def initialize(self) -> None:
        self.decoder = Decoder()

    def process(self, packet: Packet) -> None:
        self.decoder.take(packet)
        if len(self.decoder.seen) == 1:
            wait_for(self.waits)

    def flush(self) -> None:
        self.note.write_text(json.dumps({"seen": self.decoder.seen, "flaws": self.decoder.flaws}))


class Decoder:
    """What decodes, and compares.

    Attributes:
        seen: the numbers of the packets. flaws: what was wrong with the pictures.
    """

    def __init__(self) -> None:
        self.codec: Any = av.CodecContext.create("h264", "r")
        self.codec.thread_count = 1
        self.seen: list[int] = []
        self.flaws: list[str] = []

    def take(self, packet: Packet) -> None:
        """Decode a packet, of which one picture must come."""
        assert packet.pts is not None
        self.seen.append(packet.pts)
        pictures = self.codec.decode(packet.to_av())
        if len(pictures) != 1 or pictures[0].is_corrupt:
            self.flaws.append(f"{packet.pts}: {len(pictures)} pictures, or a corrupt one")
            return
        off = np.abs(pictures[0].to_ndarray(format="gray").astype(float) - picture(packet.pts)).mean()
        if off > MOST_OFF:
            self.flaws.append(f"{packet.pts}: off by {off:.0f}")
