"""Nodes whose frames bear numbers, for tests in which processes die and are started anew."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np

from rmbus import Input, Node, Output, Video, VideoFrame


def bearing(number: int, shape: tuple[int, ...], pts: int | None = None) -> VideoFrame:
    picture = np.zeros(shape, np.uint8)
    flat = picture.reshape(-1)
    flat[:4] = flat[-4:] = np.frombuffer(np.int32(number).tobytes(), np.uint8)
    return VideoFrame(picture, pts=abs(number) if pts is None else pts)


def number_of(frame: VideoFrame) -> int:
    return int(frame.array.reshape(-1)[:4].view(np.int32)[0])


class Numbers(Node):
    """A source of pictures that bear their number."""

    deterministic = True
    out = Output(Video("rgb24"))

    def __init__(self, n: int, shape: tuple[int, int, int]) -> None:
        self.n = n
        self.shape = shape

    def process(self) -> Iterator[VideoFrame]:
        for number in range(self.n):
            yield bearing(number, self.shape)


class Live(Numbers):
    """A source that is never at the same place again; it writes down what it has emitted."""

    deterministic = False


class Copies(Node):
    """Makes two pictures of each: the one that it was given, and a new one with the negative of its number."""

    deterministic = True
    video = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    def process(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        yield frame
        yield bearing(-number_of(frame), frame.array.shape, frame.pts)


class Unsure(Copies):
    """Does the same, but does not say so."""

    deterministic = False


class Written(Node):
    """A sink that writes every number to a file, a line in one go."""

    video = Input(Video("rgb24"))

    def __init__(self, path: Path, every_s: float = 0.0) -> None:
        self.path = path
        self.every_s = every_s

    def process(self, frame: VideoFrame) -> None:
        first, last = number_of(frame), int(frame.array.reshape(-1)[-4:].view(np.int32)[0])
        with self.path.open("a") as file:
            file.write(f"{first} {last}\n")
        time.sleep(self.every_s)


class Merge(Node):
    """Sends on what comes from either side."""

    deterministic = True
    left = Input(Video("rgb24"))
    right = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    def process(self, frame: VideoFrame, port: str) -> Iterator[VideoFrame]:
        yield bearing(number_of(frame) * (1 if port == "left" else -1), frame.array.shape, frame.pts)


class AsyncCopies(Node):
    """What `Copies` does, but it awaits something in between."""

    deterministic = True
    video = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    async def process(self, frame: VideoFrame) -> AsyncIterator[VideoFrame]:
        yield frame
        await asyncio.sleep(0)
        yield bearing(-number_of(frame), frame.array.shape, frame.pts)


class Doomed(Copies):
    """Dies before it is up, so that its edges are never linked."""

    def initialize(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
