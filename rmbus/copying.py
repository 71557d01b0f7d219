"""How what is large is copied, see the decision on large copies: past the caches, from `LARGE_BYTES` on.

The C library's way of doing so reads and writes in turn at the same place of several pages. Where the destination lies
a little behind the source by their places in a page, what it reads next seems to a processor to be what it has just
written, and it takes three times as long: so large arrays are put elsewhere in their page (`roomy`), and what lies so
all the same is copied in pieces that stay in the caches.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rmbus.protocol.lane import Buffer

LARGE_BYTES: Final = 4 << 20
"""What a host tells the C library of its processes."""

_PAGE: Final = 4096
_BEHIND: Final = 512
_PIECE: Final = 1 << 20


def copy_into(room: memoryview, data: Buffer) -> None:
    """Copy bytes to where there is room for as many.

    Raises:
        ValueError: there is room for more or fewer.
    """
    size = len(data)
    if LARGE_BYTES <= size == len(room) and is_behind(address(_bytes(room)), address(_bytes(data))):
        view = memoryview(data)
        for at in range(0, size, _PIECE):
            room[at : at + _PIECE] = view[at : at + _PIECE]
    else:
        room[:] = data


def is_behind(room: int, data: int) -> bool:
    """Whether one address lies a little behind another by their places in a page."""
    return 0 < (room - data) % _PAGE <= _BEHIND


def roomy(place: int) -> int:
    """Return the next place for a large array that lies in the middle of a page, as no allocator gives it out."""
    return -(-(place - _PAGE // 2) // _PAGE) * _PAGE + _PAGE // 2


def address(array: NDArray[Any]) -> int:
    """Return where an array begins in this process's memory."""
    found: int = array.__array_interface__["data"][0]
    return found


def _bytes(data: Buffer) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
