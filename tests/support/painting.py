"""Pictures that tell by every byte which they are, so that a torn or overwritten one is seen wherever it is."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmbus import VideoFrame

LARGE = (240, 320)
"""Height and width of a picture that travels in shared memory."""

SMALL = (60, 120)
"""Of one that rides with its header."""

_BASE = Fraction(1, 1000)
_SHIFT = 32
_STEP = np.uint64(0x9E3779B97F4A7C15)

Words = NDArray[np.uint64]


def paint(stream: int, number: int, size: tuple[int, int] = LARGE) -> NDArray[np.uint8]:
    """Return a picture, uint8[height, width, 3]: each eight bytes are a number of stream, number and place."""
    picture: NDArray[np.uint8] = _words(stream, number, size).view(np.uint8).reshape(*size, 3)
    return picture


def frame_of(stream: int, number: int, size: tuple[int, int] = LARGE) -> VideoFrame:
    """Return the picture as a frame, whose time tells stream and number."""
    return VideoFrame(paint(stream, number, size), pts=pts_of(stream, number), time_base=_BASE)


def pts_of(stream: int, number: int) -> int:
    """Return the time by which a picture is known."""
    return stream << _SHIFT | number


def name_of(pts: int | None) -> tuple[int, int]:
    """Return the stream and the number of a picture."""
    assert pts is not None
    return pts >> _SHIFT, pts & (1 << _SHIFT) - 1


def differs(array: NDArray[Any], pts: int | None) -> str:
    """Say where a picture is not the one that it should be, "" where it is; every byte of it is looked at."""
    stream, number = name_of(pts)
    height, width = array.shape[:2]
    found = np.ascontiguousarray(array).reshape(-1).view(np.uint64)
    wanted = _words(stream, number, (height, width))
    if np.array_equal(found, wanted):
        return ""
    wrong = np.flatnonzero(found != wanted)
    return (
        f"picture {number} of stream {stream}: {len(wrong)} of {len(wanted)} words are others, from word {wrong[0]} on "
        f"({int(found[wrong[0]]):#x} for {int(wanted[wrong[0]]):#x})"
    )


def _words(stream: int, number: int, size: tuple[int, int]) -> Words:
    places = _places(size[0] * size[1] * 3 // 8)
    begin = np.uint64((stream * 0x1000193 + number) * 0xC2B2AE3D27D4EB4F % (1 << 64))
    words: Words = places + begin
    words *= _STEP
    return words


@cache
def _places(count: int) -> Words:
    return np.arange(count, dtype=np.uint64)
