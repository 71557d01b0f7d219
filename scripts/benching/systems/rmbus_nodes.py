"""The nodes that rmbus is measured with: a source that paces itself, a relay, and a sink."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benching.measured.payload import Array, number_of
from benching.measured.records import Reader, Source, note
from benching.measured.task import Task
from rmbus import Audio, AudioFrame, Input, Node, Output, Video, VideoFrame

SHAPES = {1920 * 1080 * 3: (1080, 1920, 3), 640 * 480 * 3: (480, 640, 3), 3840 * 2160 * 3: (2160, 3840, 3)}
SAMPLES_BYTES = 1920
LOOKED_AT = 3
"""The message, of the warm-up, whose place in memory every node of a chain tells."""


def make_frame(size: int) -> VideoFrame | AudioFrame:
    """Return a frame of so many bytes: 480 samples, a picture of rgb24, or a grey square."""
    if size == SAMPLES_BYTES:
        return AudioFrame(np.zeros((1, size // 4), np.float32), 48_000)
    if size in SHAPES:
        return VideoFrame(np.zeros(SHAPES[size], np.uint8), "rgb24")
    side = round(size**0.5)
    if side * side != size:
        raise ValueError(f"no frame has {size} bytes: take a square, or one of {', '.join(map(str, SHAPES))}")
    return VideoFrame(np.zeros((side, side), np.uint8), "gray")


class FrameSource(Node):
    """Sends the messages of a task: arrays that it yields, or frames that it is lent."""

    out = Output()

    def __init__(self, task: Task) -> None:
        self.task = task

    def initialize(self) -> None:
        """Make room for the times, and the array."""
        self.source = Source(self.task)
        self.frame = make_frame(self.task.size)
        self.array = np.zeros_like(self.frame.array)

    def process(self) -> Iterator[Any]:
        """Send everything, at the task's pace."""
        yield from self._lent() if self.task.variant.startswith("loan") else self._own()
        self.source.close()

    def _own(self) -> Iterator[Array]:
        for number in self.source.pace().numbers():
            self.source.prepare(self.array, number)
            yield self.array

    def _lent(self) -> Iterator[None]:
        for number in self.source.pace().numbers():
            with self.out.loan(like=self.frame) as frame:
                self.source.prepare(frame.array, number)
            yield None


class GreySource(FrameSource):
    """Sends grey pictures."""

    out = Output(Video("gray"))


class PictureSource(FrameSource):
    """Sends pictures of rgb24."""

    out = Output(Video("rgb24"))


class SoundSource(FrameSource):
    """Sends samples."""

    out = Output(Audio(rate=48_000))


def source_of(task: Task) -> FrameSource:
    """Return the source whose output carries the task's frames."""
    if task.size == SAMPLES_BYTES:
        return SoundSource(task)
    return PictureSource(task) if task.size in SHAPES else GreySource(task)


class Relay(Node):
    """Passes every frame on as it is."""

    frames = Input()
    out = Output()

    def __init__(self, task: Task, number: int) -> None:
        self.task = task
        self.number = number

    def process(self, frame: Any) -> Any:
        """Return the frame."""
        if number_of(frame.array) == LOOKED_AT:
            note_place(self.task, f"relay-{self.number}", frame.array)
        return frame


class Sink(Node):
    """Takes what comes."""

    frames = Input()

    def __init__(self, task: Task, number: int) -> None:
        self.task = task
        self.number = number

    def initialize(self) -> None:
        """Make room for the times."""
        self.reader = Reader(self.task, self.number)

    def process(self, frame: Any) -> None:
        """Take a frame."""
        if self.task.relays and number_of(frame.array) == LOOKED_AT:
            note_place(self.task, "sink", frame.array)
        self.reader.take(frame.array)

    def flush(self) -> None:
        """Nothing more comes."""
        self.reader.end()

    def cleanup(self) -> None:
        """Save the times."""
        self.reader.close()


def note_place(task: Task, name: str, array: Array) -> None:
    """Write down in which memory an array lies: two nodes that tell the same place share it, and nothing was copied."""
    place = place_of(array.ctypes.data, Path("/proc/self/maps").read_text(encoding="utf-8"))
    note(Path(task.folder) / f"place-{name}.json", {"place": place})


def place_of(address: int, maps: str) -> str:
    """Return the file and the offset in it that an address is mapped from; of private memory, the process as well."""
    for line in maps.splitlines():
        span, mode, offset, device, inode, *_ = line.split(maxsplit=5)
        first, last = (int(each, 16) for each in span.split("-"))
        if first <= address < last and mode.endswith("s"):
            return f"{device} {inode} {int(offset, 16) + address - first:#x}"
    return f"process {os.getpid()} {address:#x}"
