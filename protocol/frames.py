"""Frame headers: one compact msgpack array each.

A header is `[kind, seq, turn, pts, num, den, captured_ns, extra]`; a decoder ignores further elements. What `extra`
holds depends on the kind, see `protocol/README.md`.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import msgpack

from rmbus.errors import MalformedFrame, TooLarge
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
    """Return the header as msgpack.

    Raises:
        MalformedFrame: a value in it cannot be written: a number beyond 64 bits, say. TooLarge: its `extra` is.
    """
    try:
        data: bytes = msgpack.packb(header)
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedFrame(f"a frame cannot travel with the header {header!r:.300}: {error}") from error
    if len(data) > MAX_HEADER_BYTES:
        raise TooLarge("a frame header", len(data), MAX_HEADER_BYTES)
    return data


def decode_header(data: bytes | memoryview) -> Header:
    """Return the header that the bytes hold.

    Raises:
        MalformedFrame: the bytes are no header. TooLarge: there are too many of them.
    """
    found: object = unpack(data, limit=MAX_HEADER_BYTES, what="a frame header")
    value: list[Any] = [*found] if isinstance(found, list) else []
    if len(value) < 8:
        raise MalformedFrame("a frame header is an array of at least 8 elements")
    header = Header(*value[:8])
    kind, seq, turn, pts, num, den, captured_ns, _ = header
    for number in (kind, seq, turn, num, den, captured_ns):
        if type(number) is not int or number < 0:
            raise MalformedFrame(f"a frame header has {number!r:.80} where a whole number from 0 up is due")
    if pts is not None and type(pts) is not int:
        raise MalformedFrame("the pts of a frame header is neither null nor a whole number")
    if not num or not den:
        raise MalformedFrame("the time base of a frame header has a zero")
    return header
