"""Small nodes that tests run in processes of their own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rmbus import Input, Node, Output, Packet, Video, VideoFrame


class Count(Node):
    """A source of whole numbers from 0."""

    def __init__(self, n: int, every_s: float = 0.0) -> None:
        self.n = n
        self.every_s = every_s

    def process(self) -> Iterator[int]:
        for number in range(self.n):
            yield number
            if self.every_s:
                time.sleep(self.every_s)


class Poll(Node):
    """A source that has nothing to give, as a camera that is covered."""

    def process(self) -> Iterator[None]:
        while True:
            yield None
            time.sleep(0.01)


class Double(Node):
    def process(self, frame: Any) -> Any:
        return 2 * frame.value


class Negative(Node):
    video = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    def process(self, frame: Any) -> Any:
        return 255 - frame.array


class Pictures(Node):
    out = Output(Video("rgb24"))

    def process(self) -> Iterator[VideoFrame]:
        for number in range(40):
            yield VideoFrame(np.full((240, 320, 3), number, np.uint8), pts=number)


class Reuse(Node):
    """Draws every picture into the same array, and returns it."""

    video = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    def initialize(self) -> None:
        self.canvas = np.zeros((240, 320, 3), np.uint8)

    def process(self, frame: VideoFrame) -> Any:
        np.copyto(self.canvas, frame.array)
        return self.canvas


class Corners(Node):
    """Says of each picture its time and two of its pixels; it is slow, so that pictures wait for it."""

    video = Input(Video("rgb24"))
    out = Output(list)

    def process(self, frame: VideoFrame) -> list[int | None]:
        time.sleep(0.005)
        return [frame.pts, int(frame.array[0, 0, 0]), int(frame.array[-1, -1, -1])]


class Take(Node):
    """A sink that prints what it was given, once, and takes its time for each frame."""

    def __init__(self, every_s: float = 0.0) -> None:
        self.every_s = every_s
        self.got: list[Any] = []

    def process(self, frame: Any) -> None:
        self.got.append(frame.value)
        time.sleep(self.every_s)

    def flush(self) -> None:
        print(f"got {self.got}")


class Pair(Node):
    """Two inputs; says how many it was given on each."""

    left = Input()
    right = Input()
    sums = Output()

    def initialize(self) -> None:
        self.counts = {"left": 0, "right": 0}

    def process(self, frame: Any, port: str) -> None:
        self.counts[port] += 1

    def flush(self) -> dict[str, int]:
        return self.counts


class TwoSounds(Node):
    """A source with two outputs, one of which is far ahead: `ahead` of it come before the first of the other."""

    early = Output()
    late = Output()

    def __init__(self, n: int, ahead: int) -> None:
        self.n = n
        self.ahead = ahead

    def process(self) -> Iterator[Any]:
        for number in range(self.n + self.ahead):
            if number < self.n:
                yield self.early, number
            if number >= self.ahead:
                yield self.late, number - self.ahead


class Echo(Node):
    """One end of a ring: what comes in goes out again, and one more with it, until nothing can move."""

    independent = True
    back = Input()
    out = Output()

    def process(self, frame: Any) -> Iterator[Any]:
        yield self.out, frame.value
        yield self.out, frame.value


class Spark(Node):
    """What starts the ring."""

    start = Input()
    ring = Input()
    out = Output()

    def process(self, frame: Any, port: str) -> Any:
        return frame.value


class Mute(RuntimeError):
    def __str__(self) -> str:
        raise LookupError("no words")


class Odd(Node):
    """Fails in a way that is hard to tell."""

    def __init__(self, how: str) -> None:
        self.how = how

    def process(self, frame: Any) -> None:
        if self.how == "group":
            raise ExceptionGroup("two of them", [ValueError("a"), KeyError("b")])
        if self.how == "mute":
            raise Mute
        if self.how == "surrogate":
            raise ValueError("bad \udc80 text")
        sys.exit()


class Fork(Node):
    """Forks a child that would live for an hour."""

    def process(self, frame: Any) -> int:
        child = os.fork()
        if child == 0:
            time.sleep(3600)
        return child


class Shout(Node):
    """Prints more than anybody reads."""

    def process(self, frame: Any) -> None:
        for number in range(3000):
            print(f"shout {number}")


class Fail(Node):
    def __init__(self, at: int) -> None:
        self.at = at

    def process(self, frame: Any) -> Any:
        if frame.value == self.at:
            raise ValueError(f"{self.at} is too many")
        return frame.value


class Ahead(Node):
    """A source that sends more than may be under way, then waits in its own code until somebody has seen the last."""

    out = Output()

    def __init__(self, stop: int, seen: str) -> None:
        self.stop = stop
        self.seen = Path(seen)

    def process(self) -> Iterator[int]:
        """Yield the numbers, and wait."""
        yield from range(self.stop)
        while not self.seen.exists():
            time.sleep(0.01)
        self.seen.unlink()


class Burst(Node):
    """Sends many for each that it gets, then waits in its own code until somebody has seen the last."""

    numbers = Input()
    out = Output()

    def __init__(self, each: int, seen: str) -> None:
        self.each = each
        self.seen = Path(seen)

    def process(self, frame: Any) -> Iterator[int]:
        """Yield the numbers, and wait."""
        yield from range(self.each)
        while not self.seen.exists():
            time.sleep(0.01)
        self.seen.unlink()


class Deltas(Node):
    """A source of pictures, then of packets that nobody can decode; its code waits, and must not be spoken to then."""

    out = Output()

    def __init__(self, stop: int, seen: str) -> None:
        self.stop = stop
        self.seen = Path(seen)
        self.is_inside = False
        self.calls: list[bool] = []

    def process(self) -> Iterator[Packet | None]:
        """Yield packets, wait until the last is seen, then until a key frame has been asked for."""
        for number in range(self.stop):
            codec = "mjpeg" if number < self.stop - 60 else "h264"
            yield Packet(b"delta", codec, key=False, pts=number)
        self.is_inside = True
        while not self.seen.exists():
            time.sleep(0.01)
        self.is_inside = False
        while not self.calls:
            time.sleep(0.001)
            yield None
        print("spoken to while its code ran" if any(self.calls) else "asked between two values")

    def key_wanted(self, port: str) -> None:
        """Note whether the node's code runs."""
        self.calls.append(self.is_inside)


class Seer(Node):
    """Says, by a file, that it has seen so many."""

    numbers = Input()

    def __init__(self, each: int, seen: str, every_s: float = 0.0) -> None:
        self.each = each
        self.seen = Path(seen)
        self.every_s = every_s
        self.count = 0

    def process(self, frame: Any) -> None:
        """Count; say it."""
        time.sleep(self.every_s)
        self.count += 1
        if self.count % self.each == 0:
            self.seen.touch()
