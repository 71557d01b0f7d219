"""Frame headers: one compact msgpack array each.

A header is `[kind, seq, turn, pts, num, den, captured_ns, extra]`; a decoder ignores further elements. What `extra`
holds depends on the kind, see `protocol/README.md`.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import msgpack

from rmbus.errors import MalformedFrame
from rmbus.protocol.codec import unpack
from rmbus.protocol.limits import MAX_HEADER_BYTES


class Kind(enum.IntEnum):
    """What a frame is. Below 16: data, counted and subject to delivery. From 16 on: control, in band and in order."""

    VIDEO = 1
    AUDIO = 2
    PACKET = 3
    DATA = 4
    EOS = 16
    FORMAT = 17
    GAP = 18
    ERROR = 19
    INTERRUPT = 20


class Header(NamedTuple):
    """The header of one frame.

    Attributes:
        kind: what it is.
        seq: its number on its output port, counted from 0, control frames not counted (theirs is the next frame's).
        turn: the turn of the output; an `interrupt` opens the next.
        pts: presentation time in units of `num/den` seconds, or None.
        num, den: the time base.
        captured_ns: when it was captured: UTC nanoseconds since 1970, 0 if unknown.
        extra: by kind; None where the kind has none.
    """

    kind: int
    seq: int
    turn: int = 0
    pts: int | None = None
    num: int = 1
    den: int = 1
    captured_ns: int = 0
    extra: Any = None


def encode_header(header: Header) -> bytes:
    """Return the header as msgpack."""
    data: bytes = msgpack.packb(header)
    return data


_INTS = (0, 1, 2, 4, 5, 6)


def decode_header(data: bytes | memoryview) -> Header:
    """Return the header that the bytes hold.

    Raises:
        MalformedFrame: the bytes are no header. TooLarge: there are too many of them.
    """
    value = unpack(data, limit=MAX_HEADER_BYTES, what="a frame header")
    if not isinstance(value, list) or len(value) < 8:
        raise MalformedFrame("a frame header is an array of at least 8 elements")
    for place in _INTS:
        if type(value[place]) is not int or value[place] < 0:
            raise MalformedFrame(f"element {place} of a frame header is not a whole number from 0 up")
    if value[3] is not None and type(value[3]) is not int:
        raise MalformedFrame("the pts of a frame header is neither null nor a whole number")
    if value[4] == 0 or value[5] == 0:
        raise MalformedFrame("the time base of a frame header has a zero")
    return Header(*value[:8])
