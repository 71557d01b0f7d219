"""What travels on a lane between the two ends of an edge.

A message is one part, or two where a payload travels apart. The first part begins with a fixed prefix, little endian:
`type u8, flags u8, reserved u16, number u64`; then the body.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from rmbus.errors import MalformedFrame, TooLarge
from rmbus.protocol.codec import named
from rmbus.protocol.limits import MAX_LANE_BYTES, MAX_PAYLOAD_BYTES

Buffer = bytes | bytearray | memoryview


class Type(enum.IntEnum):
    """The type of a lane message."""

    MARK = 1
    """Producer to consumer, first: `number` is the epoch, the body is the edge's token."""
    MARK_BACK = 2
    """Consumer to producer: the mark came through; `number` is the epoch, the body holds the first grant (u64)."""
    FRAMES = 3
    """Producer to consumer: `number` is the place of the first on the edge, counted from 1, control frames included."""
    CREDIT = 4
    """Consumer to producer: `number` is the last place that was processed; the body holds the grant (u64)."""
    PIECE = 5
    """Producer to consumer, on a fast lane: `number` is the place of the frame whose payload the body continues."""
    WANT_KEY = 6
    """Consumer to producer: nothing can be decoded before the next key frame; `number` is the last place that came."""


class Message(NamedTuple):
    """One message of a lane; `payload` is empty but for the one frame whose payload travels apart."""

    type: int
    number: int
    body: Buffer = b""
    payload: Buffer = b""


_FRAMES: Final = int(Type.FRAMES)
_PREFIX = struct.Struct("<BBHQ")
_GRANT = struct.Struct("<Q")
PREFIX_BYTES = _PREFIX.size


def encode(message: Message) -> list[Buffer]:
    """Return the parts of a message: one, or two where a payload travels apart.

    Raises:
        TooLarge: over a limit. MalformedFrame: its type or its number cannot be written.
    """
    kind, number, body, payload = message
    if len(body) > MAX_LANE_BYTES - PREFIX_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise _too_large(len(body), len(payload))
    try:
        head = _PREFIX.pack(kind, 0, 0, number) + body
    except struct.error as error:
        raise MalformedFrame(f"a lane message of type {kind}, number {number}: {error}") from error
    return [head, payload] if len(payload) else [head]


def encode_frames(number: int, body: bytes) -> bytes:
    """Return the one part of a message of frames that carry their payloads, or say where those lie."""
    return _PREFIX.pack(_FRAMES, 0, 0, number) + body


def decode(parts: list[memoryview]) -> Message:
    """Return the message that the parts hold; its body and its payload are views of them.

    Raises:
        MalformedFrame: they hold none. TooLarge: over a limit.
    """
    if not 1 <= len(parts) <= 2 or len(parts[0]) < PREFIX_BYTES:
        raise MalformedFrame(f"a lane message is one or two parts and begins with {PREFIX_BYTES} bytes of prefix")
    head = parts[0]
    payload = parts[1] if len(parts) == 2 else b""
    if len(head) > MAX_LANE_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise _too_large(len(head) - PREFIX_BYTES, len(payload))
    kind, _flags, _reserved, number = _PREFIX.unpack_from(head)
    return named(Message, (kind, number, head[PREFIX_BYTES:], payload))


def decode_one(head: memoryview) -> Message:
    """Return the message that one part holds, as `decode` does.

    Raises:
        MalformedFrame: it holds none. TooLarge: over a limit.
    """
    if not PREFIX_BYTES <= len(head) <= MAX_LANE_BYTES:
        return decode([head])
    kind, _flags, _reserved, number = _PREFIX.unpack_from(head)
    return named(Message, (kind, number, head[PREFIX_BYTES:], b""))


def pack_grant(grant: int) -> bytes:
    """Return a grant: the last place, counting data frames only, that the producer may send.

    Raises:
        MalformedFrame: it is none of 64 bits.
    """
    try:
        return _GRANT.pack(grant)
    except struct.error as error:
        raise MalformedFrame(f"a grant of {grant}: {error}") from error


def unpack_grant(body: Buffer) -> int:
    """Return the grant that a MARK_BACK or CREDIT holds.

    Raises:
        MalformedFrame: it holds none.
    """
    if len(body) < _GRANT.size:
        raise MalformedFrame("a grant is 8 bytes")
    return int(_GRANT.unpack_from(body)[0])


def _too_large(body: int, payload: int) -> TooLarge:
    if body > MAX_LANE_BYTES - PREFIX_BYTES:
        return TooLarge("a lane message", body + PREFIX_BYTES, MAX_LANE_BYTES)
    return TooLarge("a frame's payload", payload, MAX_PAYLOAD_BYTES)
