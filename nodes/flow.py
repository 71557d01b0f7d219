"""Nodes that move frames and change nothing, and functions as nodes."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from time import monotonic_ns
from typing import Any, Final

from rmbus.errors import FormatError
from rmbus.formats import Rate, Video, is_inter_coded
from rmbus.media import Data, Frame, Packet
from rmbus.node import Input, Node, Output

SECOND_NS: Final = 1_000_000_000


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


class Select(Node):
    """Passes on the frames that a function wants.

    Args:
        function: takes a frame, and returns whether it is wanted.
    """

    def __init__(self, function: Callable[[Any], object]) -> None:
        if not callable(function):
            raise TypeError(f"Select takes a function, not {function!r}")
        self.function = function

    def process(self, frame: Frame) -> Frame | None:
        """Return the frame, or nothing."""
        return frame if self.function(frame) else None


class Throttle(Node):
    """Passes on so many frames in a second at most: the first, and each that comes an interval after the last one.

    Frames that leave no room for others, packets of most codecs, are not for it.

    Args:
        rate: frames in a second of their own time; frames without one are counted by the clock.
    """

    def __init__(self, rate: Rate) -> None:
        known = Video(rate=rate).rate
        if known is None:
            raise ValueError("Throttle takes a number of frames in a second")
        self.rate = known
        self._next: Fraction | None = None

    def process(self, frame: Frame) -> Frame | None:
        """Return the frame, or nothing.

        Raises:
            FormatError: others cannot be decoded without it.
        """
        if isinstance(frame, Packet) and is_inter_coded(frame.format):
            raise FormatError(f"{self.name}: packets of {frame.codec} cannot be left out: throttle the pictures")
        time = Fraction(monotonic_ns(), SECOND_NS) if frame.pts is None else frame.pts * frame.time_base
        interval = 1 / self.rate
        if self._next is not None and self._next - interval <= time < self._next:
            return None
        on_time = self._next is not None and self._next <= time < self._next + interval
        self._next = (self._next if on_time and self._next is not None else time) + interval
        return frame

    def interrupted(self) -> None:
        """The next frame is the first of its turn."""
        self._next = None


class Merge(Node):
    """Passes on the frames of any number of outputs, as they come."""

    in_ = Input(many=True)
    """Frames of any kind."""
    out = Output()
    """The same frames."""

    def process(self, frame: Frame) -> Frame:
        """Return the frame."""
        return frame


def _content(frame: Frame) -> Any:
    if isinstance(frame, Data):
        return frame.value
    return frame.data if isinstance(frame, Packet) else frame.array
