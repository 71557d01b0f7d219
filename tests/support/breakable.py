"""Nodes that paint, pass on and keep pictures of which every byte is known, and that may be killed on the way."""

from __future__ import annotations

import os
import select
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import breaking
import numpy as np
from numpy.typing import NDArray
from painting import LARGE, SMALL, differs, frame_of, name_of

from rmbus import Input, Node, Output, Video, VideoFrame

SMALL_EVERY = 5


class Breakable(Node):
    """What these nodes have in common.

    Attributes:
        given: the arguments that it was made with, by name.
        line: a descriptor that is closed at the other end when all is over, for what has been forked.
        bad: what was seen of pictures that were not as they should be; it is printed too. seen: pictures, by stream.
        kept: pictures that are looked at again and again. joined: whether it is on the bus.
    """

    def __init__(self, forks_at: int = 0, fault: tuple[str, int] | None = None, **given: float) -> None:
        self.given: dict[str, Any] = {"forks_at": forks_at, **given}
        self.forks_at = forks_at
        self.fault = fault
        self.joined = False
        self.line = -1
        self.forked: list[int] = []
        self.bad: list[str] = []
        self.seen: defaultdict[int, int] = defaultdict(int)
        self.kept: list[tuple[NDArray[Any], int | None]] = []
        self._last: dict[int, int] = {}

    def initialize(self) -> None:
        self.joined = True
        if self.fault is not None:
            breaking.arm(breaking.Fault(*self.fault))

    def forget(self) -> None:
        """Let go of all that was kept."""
        self.kept.clear()
        self.seen.clear()

    def look_again(self) -> list[str]:
        """Return what is wrong with the pictures that are kept, and what was seen to be wrong before."""
        return self.bad + [f"kept: {what}" for array, pts in list(self.kept) if (what := differs(array, pts))]

    def look(self, frame: VideoFrame) -> None:
        """Look at a picture as it comes."""
        stream, number = name_of(frame.pts)
        self.seen[stream] += 1
        wrong = [differs(frame.array, frame.pts)]
        if self.kept:
            wrong.append(differs(*self.kept[self.seen[stream] % len(self.kept)]))
        if number <= self._last.get(stream, -1):
            wrong.append(f"picture {number} of stream {stream} came after {self._last[stream]}")
        self._last[stream] = number
        for what in filter(None, wrong):
            self.bad.append(what)
            print(f"torn: {what}")
        if self.forks_at and sum(self.seen.values()) == self.forks_at:
            self.fork()

    def fork(self) -> None:
        """Fork a child that lets go of all that it has inherited, and stays until all is over."""
        child = os.fork()
        if child:
            self.forked.append(child)
            return
        self.kept.clear()
        waiting = select.poll()
        waiting.register(self.line, 0)
        waiting.poll(60_000)  # until the other end is closed
        os._exit(0)


class Painter(Breakable):
    """A source of pictures, lent and copied, large and small, until it is told to finish."""

    out = Output(Video("rgb24"))

    def __init__(
        self, stream: int, every_s: float = 0.0, forks_at: int = 0, fault: tuple[str, int] | None = None
    ) -> None:
        super().__init__(forks_at, fault, stream=stream, every_s=every_s)
        self.stream, self.every_s = stream, every_s
        self.finishing = False

    def process(self) -> Iterator[VideoFrame | None]:
        number = 0
        while not self.finishing:
            self.seen[self.stream] += 1
            if number == self.forks_at - 1:
                self.fork()
            picture = frame_of(self.stream, number, SMALL if number % SMALL_EVERY == SMALL_EVERY - 1 else LARGE)
            if number % 2:
                yield picture
            else:
                breaking.reached(breaking.BEFORE_LOAN)
                with self.out.loan(like=picture) as lent:
                    half = len(picture.array) // 2
                    lent.array[:half] = picture.array[:half]
                    breaking.reached(breaking.INSIDE_LOAN)
                    lent.array[half:] = picture.array[half:]
                yield None
            number += 1
            if self.every_s:
                time.sleep(self.every_s)


class Passer(Breakable):
    """Passes pictures on: some as they are, some copied, some drawn into memory that is lent for it."""

    video = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    def __init__(self, forks_at: int = 0, fault: tuple[str, int] | None = None) -> None:
        super().__init__(forks_at, fault)

    def process(self, frame: VideoFrame) -> Iterator[VideoFrame | None]:
        self.kept = [*self.kept[-5:], (frame.array, frame.pts)]
        self.look(frame)
        breaking.reached(breaking.INSIDE)
        how = sum(self.seen.values()) % 4
        if how == 1:
            breaking.reached(breaking.BEFORE_LOAN)
            with self.out.loan() as lent:
                half = len(frame.array) // 2
                lent.array[:half] = frame.array[:half]
                breaking.reached(breaking.INSIDE_LOAN)
                lent.array[half:] = frame.array[half:]
            yield None
        elif how == 3:
            yield frame.with_array(np.array(frame.array))
        else:
            yield frame


class Keeper(Breakable):
    """Looks at every byte of each picture, and keeps some to the end, as they came."""

    video = Input(Video("rgb24"))

    def __init__(
        self, keeps: int = 12, every_s: float = 0.0, forks_at: int = 0, fault: tuple[str, int] | None = None
    ) -> None:
        super().__init__(forks_at, fault, keeps=keeps, every_s=every_s)
        self.keeps, self.every_s = keeps, every_s

    def process(self, frame: VideoFrame) -> None:
        if sum(self.seen.values()) % 2 == 0 and len(self.kept) < self.keeps:
            self.kept.append((frame.array, frame.pts))
        breaking.reached(breaking.INSIDE)
        self.look(frame)
        if self.every_s:
            time.sleep(self.every_s)


KINDS: dict[str, type[Breakable]] = {"painter": Painter, "passer": Passer, "keeper": Keeper}
