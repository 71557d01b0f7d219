"""What a message holds: its number, and words that depend on it, so that a consumer can tell whole from torn."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PROBE = 2**64 - 1
"""The number of messages that are sent before the first one, until every reader has got one."""

STOP = 2**64 - 2
"""The number of the message after the last one."""

_WORD = struct.Struct("<Q")
_write: Callable[[Any, int, int], None] = _WORD.pack_into  # an array is a buffer, but not to the checkers
_read: Callable[[Any, int], tuple[Any, ...]] = _WORD.unpack_from
_FACTOR = 0x9E3779B97F4A7C15
_ALL = 2**64 - 1


class Payload:
    """Messages of one size, a multiple of eight and at least 64 bytes."""

    def __init__(self, size: int) -> None:
        if size % 8 or size < 64:
            raise ValueError(f"a payload has a multiple of 8 bytes, at least 64, not {size}")
        self.size = size
        self._last = size - 8
        self._between = (8, size // 16 * 8)

    def render(self, array: Array, number: int) -> None:
        """Fill an array as a producer would that draws a whole picture, and stamp it."""
        array.reshape(-1).view(np.uint8).fill(number & 0xFF)
        self.stamp(array, number)
        for offset in self._between:
            _write(array, offset, _word(number, offset))

    def stamp(self, array: Array, number: int) -> None:
        """Write the number into the first bytes, and a word that depends on it into the last: what costs least."""
        _write(array, 0, number)
        _write(array, self._last, _word(number, self._last))

    def is_whole(self, array: Array, number: int, *, rendered: bool = True) -> bool:
        """Whether the array holds that message from its first to its last bytes."""
        if array.nbytes != self.size or number_of(array) != number:
            return False
        offsets = (*self._between, self._last) if rendered else (self._last,)
        return all(_read(array, offset)[0] == _word(number, offset) for offset in offsets)


def number_of(array: Array) -> int:
    """Return the number of the message that the array holds."""
    number: int = _read(array, 0)[0]
    return number


def _word(number: int, offset: int) -> int:
    return (number * _FACTOR ^ offset) & _ALL
