"""Nodes with pictures that are large enough for shared memory, for tests that run them in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from rmbus import Input, Node, Output, Video, VideoFrame


class Draw(Node):
    """A source of pictures, each filled with its own number."""

    out = Output(Video("rgb24"))

    def __init__(self, n: int, width: int = 640, height: int = 360, every_s: float = 0.0) -> None:
        self.n = n
        self.shape = (height, width, 3)
        self.every_s = every_s

    def process(self) -> Iterator[VideoFrame]:
        for number in range(self.n):
            yield VideoFrame(np.full(self.shape, number % 256, np.uint8), pts=number)
            if self.every_s:
                time.sleep(self.every_s)


class Keep(Node):
    """Sends the first picture on at once, so that its reader can see the memory, and the others at the end."""

    video = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    def initialize(self) -> None:
        self.kept: list[VideoFrame] = []

    def process(self, frame: VideoFrame) -> VideoFrame | None:
        if frame.pts:
            self.kept.append(frame)
            return None
        return frame

    def flush(self) -> Iterator[VideoFrame]:
        yield from self.kept


class Pass(Node):
    """Sends every picture on as it came."""

    video = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    def process(self, frame: VideoFrame) -> VideoFrame:
        return frame


class Invert(Node):
    """Makes a new picture of each."""

    video = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    def process(self, frame: VideoFrame) -> VideoFrame:
        return frame.with_array(255 - frame.array)


class Look(Node):
    """Looks at every picture, and says at the end whether each was what it had to be: its number, or 255 less that."""

    video = Input(Video("rgb24"))

    def __init__(self, every_s: float = 0.0, *, inverted: bool = False) -> None:
        self.every_s = every_s
        self.inverted = inverted

    def initialize(self) -> None:
        self.count = 0
        self.odd: list[str] = []

    def process(self, frame: VideoFrame) -> None:
        time.sleep(self.every_s)
        wanted = (255 - self.count % 256) if self.inverted else self.count % 256
        low, high = int(frame.array.min()), int(frame.array.max())
        if (frame.pts, low, high) != (self.count, wanted, wanted):
            self.odd.append(f"{self.count}: {frame.pts} {low} {high}")
        self.count += 1

    def flush(self) -> None:
        print(f"odd: {self.odd}" if self.odd else f"{self.count} as they had to be")
