"""What travels on a lane between the two ends of an edge.

A message is one part, or two where a payload is larger than `INLINE_BYTES`. The first part begins with a fixed prefix,
little endian: `type u8, flags u8, header length u16, number u64`; then the header; then, where it rides inline, the
payload.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from rmbus.errors import MalformedFrame, TooLarge
from rmbus.protocol.limits import INLINE_BYTES, MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES

Buffer = bytes | bytearray | memoryview


class Type(enum.IntEnum):
    """The type of a lane message."""

    MARK = 1
    """Producer to consumer, first: `number` is the epoch, the header is the edge's token."""
    MARK_BACK = 2
    """Consumer to producer: the mark came through; `number` is the epoch, the header holds the first grant (u64)."""
    FRAME = 3
    """Producer to consumer: `number` is the place on the edge, counted from 1, control frames included."""
    CREDIT = 4
    """Consumer to producer: `number` is the last place that was processed; the header holds the grant (u64)."""


class Message(NamedTuple):
    """One message of a lane; `payload` is empty but for frames."""

    type: int
    number: int
    header: bytes
    payload: Buffer = b""


_PREFIX = struct.Struct("<BBHQ")
_GRANT = struct.Struct("<Q")


def encode(message: Message) -> list[Buffer]:
    """Return the parts of a message: one, or two where the payload is large.

    Raises:
        TooLarge: over a limit. MalformedFrame: its type or its number cannot be written.
    """
    size = len(message.payload)
    if len(message.header) > MAX_HEADER_BYTES or size > MAX_PAYLOAD_BYTES:
        raise _too_large(len(message.header), size)
    try:
        prefix = _PREFIX.pack(message.type, 0, len(message.header), message.number)
    except struct.error as error:
        raise MalformedFrame(f"a lane message of type {message.type}, number {message.number}: {error}") from error
    if size == 0:
        return [prefix + message.header]
    if size <= INLINE_BYTES:
        return [b"".join((prefix, message.header, message.payload))]
    return [prefix + message.header, message.payload]


def decode(parts: list[memoryview]) -> Message:
    """Return the message that the parts hold; its payload is a view of them.

    Raises:
        MalformedFrame: they hold none. TooLarge: over a limit.
    """
    if not 1 <= len(parts) <= 2 or len(parts[0]) < _PREFIX.size:
        raise MalformedFrame("a lane message is one or two parts and begins with 12 bytes of prefix")
    head = parts[0]
    kind, _flags, length, number = _PREFIX.unpack_from(head)
    end = _PREFIX.size + length
    if end > len(head):
        raise MalformedFrame(f"a lane message claims {length} bytes of header and has {len(head) - _PREFIX.size}")
    inline = head[end:]
    if len(parts) == 2 and len(inline):
        raise MalformedFrame("a lane message has its payload both inline and in a part of its own")
    payload = parts[1] if len(parts) == 2 else inline
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise _too_large(length, len(payload))
    return Message(kind, number, bytes(head[_PREFIX.size : end]), payload)


def pack_grant(grant: int) -> bytes:
    """Return a grant: the last place, counting data frames only, that the producer may send.

    Raises:
        MalformedFrame: it is none of 64 bits.
    """
    try:
        return _GRANT.pack(grant)
    except struct.error as error:
        raise MalformedFrame(f"a grant of {grant}: {error}") from error


def unpack_grant(header: bytes) -> int:
    """Return the grant that a MARK_BACK or CREDIT holds.

    Raises:
        MalformedFrame: it holds none.
    """
    if len(header) < _GRANT.size:
        raise MalformedFrame("a grant is 8 bytes")
    return int(_GRANT.unpack_from(header)[0])


def _too_large(header: int, payload: int) -> TooLarge:
    if header > MAX_HEADER_BYTES:
        return TooLarge("a frame's header", header, MAX_HEADER_BYTES)
    return TooLarge("a frame's payload", payload, MAX_PAYLOAD_BYTES)
