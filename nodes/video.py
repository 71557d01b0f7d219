"""Pictures out of nothing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rmbus.formats import Rate, Video
from rmbus.layouts import picture_shape
from rmbus.media import VideoFrame
from rmbus.node import Node, Output
from rmbus.nodes.pace import Pace

_BITS = 32


class TestPattern(Node):
    """A moving picture that tells its number. A source; the same arguments give the same pictures.

    The upper edge holds the number of the picture in 32 cells, black or white, the highest bit left: `number` reads
    them, also after lossy coding.

    Args:
        width, height: in pixels, 64 and 16 at least.
        rate: pictures in a second.
        frames: how many; None for no end.
        pixels: the pixel format.
        realtime: pictures come at their rate, not as fast as they can.
    """

    __test__: ClassVar[bool] = False  # its name begins as tests do, and it is none

    deterministic = True

    video = Output(Video())
    """The pictures."""

    def __init__(
        self,
        width: int = 640,
        height: int = 360,
        rate: Rate = 25,
        *,
        frames: int | None = None,
        pixels: str = "rgb24",
        realtime: bool = False,
    ) -> None:
        if width < 2 * _BITS or height < 16:
            raise ValueError(f"a test pattern is 64x16 or larger, not {width}x{height}")
        picture_shape(pixels, width, height)  # it says what is wrong
        self.width, self.height = width, height
        self.rate = Video(rate=rate).rate or Fraction(25)
        self.frames = frames
        self.pixels = pixels
        self.realtime = realtime

    def process(self) -> Iterator[VideoFrame | None]:
        """Yield the pictures; None now and then while it waits for the time of one."""
        scene = _scene(self.width, self.height)
        pace = Pace()
        for number in itertools.count() if self.frames is None else range(self.frames):
            shift = number * 4 % self.width
            array = np.ascontiguousarray(scene[:, shift : shift + self.width])
            _write_number(array, number)
            frame = VideoFrame(array, rate=self.rate, pts=number)
            if self.realtime:
                yield from pace.wait(frame.time_s)
            if self.pixels != "rgb24":
                frame = VideoFrame.from_av(frame.to_av(), self.pixels, rate=self.rate)
            yield frame.stamped(captured_ns=time.time_ns())

    @staticmethod
    def number(array: NDArray[Any]) -> int:
        """Return the number that a picture of the pattern tells.

        Args:
            array: its pixels, `[height, width, channels]` or `[height, width]`, of 8 bits.
        """
        height, width = array.shape[:2]
        middles = (np.arange(_BITS) * 2 + 1) * width // (2 * _BITS)
        cells: NDArray[Any] = array[_cell_height(height) // 2, middles].reshape(_BITS, -1)[:, :3]
        return sum(1 << (_BITS - 1 - at) for at in range(_BITS) if int(cells[at].sum()) > 127 * cells.shape[1])


def _cell_height(height: int) -> int:
    return max(8, height // 20)


def _write_number(array: NDArray[np.uint8], number: int) -> None:
    height, width = array.shape[:2]
    bits = np.array([number >> (_BITS - 1 - at) & 1 for at in range(_BITS)], dtype=np.uint8) * 255
    row = bits[np.arange(width) * _BITS // width]
    array[: _cell_height(height)] = row[None, :, None]


def _scene(width: int, height: int) -> NDArray[np.uint8]:
    """Return a picture of twice the width that repeats after the width: soft colours under a fine grid."""
    y, x = np.mgrid[0:height, 0:width]
    across, down = 2 * np.pi * x / width, 2 * np.pi * y / height
    waves = (np.sin(across) + np.sin(down), np.sin(2 * across + down), np.cos(across - down) + np.cos(down))
    colours = np.stack([128 + 50 * wave for wave in waves], axis=-1)
    grid = (x * 16 // width != (x - 1) * 16 // width) | (y * 9 // height != (y - 1) * 9 // height)
    colours[grid] += 25
    scene = colours.clip(0, 255).astype(np.uint8)
    return np.concatenate([scene, scene], axis=1)
