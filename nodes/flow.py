"""Nodes that move frames and change nothing, and functions as nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rmbus.media import Data, Frame, Packet
from rmbus.node import Node


class PassThrough(Node):
    """Passes every frame on as it is."""

    deterministic = True

    def process(self, frame: Frame) -> Frame:
        """Return the frame."""
        return frame


class Buffer(Node):
    """Collects what comes into lists, the last of which may be shorter.

    A list holds the values of `Data`, the arrays of pictures and sound, the bytes of packets, and has the time of its
    last frame.

    Args:
        buffer_size: how many make a list.
    """

    deterministic = True

    def __init__(self, buffer_size: int = 4) -> None:
        if buffer_size < 1:
            raise ValueError(f"a buffer holds one frame at least, not {buffer_size}")
        self.buffer_size = buffer_size
        self.held: list[Any] = []

    def process(self, frame: Frame) -> list[Any] | None:
        """Keep the frame; return the list when it is full."""
        self.held.append(_content(frame))
        return self.flush() if len(self.held) >= self.buffer_size else None

    def flush(self) -> list[Any] | None:
        """Return what is held, if anything."""
        full, self.held = self.held, []
        return full or None

    def interrupted(self) -> None:
        """Forget what is held."""
        self.held = []


class Map(Node):
    """A function as a node.

    Args:
        function: takes a frame and returns what `Node.process` may: a frame, an array, any value, None for nothing; a
            generator function yields them, and it may be async.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        if not callable(function):
            raise TypeError(f"Map takes a function, not {function!r}")
        self.function = function

    def process(self, frame: Frame) -> Any:
        """Return what the function makes of the frame."""
        return self.function(frame)


def _content(frame: Frame) -> Any:
    if isinstance(frame, Data):
        return frame.value
    return frame.data if isinstance(frame, Packet) else frame.array
