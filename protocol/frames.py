"""Frames as they travel: one compact msgpack array for each, its header and its payload in one.

A frame is `[ticket, kind, seq, turn, pts, num, den, captured_ns, extra, payload]`. An eleventh may be its identity; a
decoder ignores further elements.
What `extra` holds depends on the kind, see `protocol/README.md`. The payload is bytes, or says where the bytes are: a
size, where they travel apart; `[segment, offset, size]`, where they lie in shared memory.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import msgpack

from rmbus.errors import MalformedFrame, TooLarge
from rmbus.protocol.codec import is_deeper, named, unpack
from rmbus.protocol.limits import MAX_DEPTH, MAX_FRAMES, MAX_HEADER_BYTES, MAX_LANE_BYTES, MAX_PAYLOAD_BYTES, TICKETS


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


class Place(NamedTuple):
    """Where a payload lies in shared memory: `size` bytes from `offset` on in a segment."""

    segment: int
    offset: int
    size: int


Identity = tuple[int, ...]
"""What a frame is known again by, when a producer that was started anew makes it once more: `(stream, number, …)`.
Of one stream and on one edge, it only goes up."""

Payload = bytes | int | Place
"""A payload on its way: its bytes, its size where the bytes travel apart, or its place in shared memory."""


class Entry(NamedTuple):
    """One frame of a message. `ticket`, from 1 up, is what the consumer gives back when it lets go of the place."""

    ticket: int
    header: Header
    payload: Payload


def _array_head(count: int) -> bytes:
    return bytes((0x90 | count,)) if count < 16 else struct.pack(">BH", 0xDC, count)


pack_frame: Final = cast("Callable[[tuple[Any, ...]], bytes]", msgpack.Packer().pack)
"""Encode the ten elements of a frame that are known to be in their ranges."""

_ENTRY: Final = _array_head(10)
_IDENTIFIED: Final = _array_head(11)
_UNTICKETED: Final = len(_ENTRY) + 1
_TICKETED: Final = [_ENTRY + msgpack.packb(ticket) for ticket in range(TICKETS + 1)]
_HEADS: Final = [_array_head(count) for count in range(MAX_FRAMES + 1)]


def encode_frame(header: Header, payload: Payload | bytearray | memoryview = b"") -> bytes:
    """Return a frame as msgpack, with no ticket.

    Raises:
        MalformedFrame: a value in it cannot be written: a number beyond 64 bits, say. TooLarge: its header is.
    """
    try:
        data: bytes = pack_frame((0, *header, payload))
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedFrame(f"a frame cannot travel with the header {header!r:.300}: {error}") from error
    if len(data) > MAX_HEADER_BYTES:
        inline = 0 if isinstance(payload, int | tuple) else len(payload)
        if len(data) - inline > MAX_HEADER_BYTES:
            raise TooLarge("a frame header", len(data) - inline, MAX_HEADER_BYTES)
    return data


def with_ticket(frame: bytes, ticket: int) -> bytes:
    """Return an encoded frame with a ticket, from 1 to `TICKETS`."""
    return _TICKETED[ticket] + frame[_UNTICKETED:]


def with_identity(frame: bytes, identity: bytes) -> bytes:
    """Return an encoded frame, with a ticket or without, with its identity as an eleventh element."""
    return _IDENTIFIED + frame[len(_ENTRY) :] + identity


def encode_identity(identity: Identity) -> bytes:
    """Return an identity as `with_identity` takes it."""
    data: bytes = pack_frame(identity)
    return data


def identities(body: bytes | bytearray | memoryview) -> list[Identity | None]:
    """Return the identity of each frame of a message, None for those that have none.

    Raises:
        MalformedFrame: an identity is none.
    """
    found: list[list[Any]] = unpack(body, limit=MAX_LANE_BYTES, what="a message of frames", deep=False)
    return [None if len(frame) == 10 else _identity(frame[10]) for frame in found]


def _identity(found: Any) -> Identity | None:
    if found is None:
        return None
    if type(found) is not list or not 2 <= len(found) <= MAX_DEPTH:
        raise MalformedFrame(f"the identity of a frame is an array of 2 to {MAX_DEPTH} numbers")
    if any(type(number) is not int or number < 0 for number in found):  # pyright: ignore[reportUnknownVariableType] -- a peer's value
        raise MalformedFrame("the identity of a frame holds what is no number from 0 up")
    return tuple(found)  # pyright: ignore[reportUnknownArgumentType] -- likewise


def join_frames(frames: Sequence[bytes]) -> bytes:
    """Return the body of a message of encoded frames, at most `MAX_FRAMES`."""
    return _HEADS[len(frames)] + b"".join(frames)


def decode_frames(body: bytes | bytearray | memoryview) -> list[Entry]:
    """Return the frames that the body of a message holds.

    Raises:
        MalformedFrame: the bytes are no frames. TooLarge: there are too many of them.
    """
    found: object = unpack(body, limit=MAX_LANE_BYTES, what="a message of frames", deep=False)
    if not isinstance(found, list) or not 0 < len(found) <= MAX_FRAMES:  # pyright: ignore[reportUnknownArgumentType] -- a peer's value
        raise MalformedFrame(f"a message of frames is an array of 1 to {MAX_FRAMES}")
    return [*map(_entry, found)]  # pyright: ignore[reportUnknownArgumentType] -- likewise


def _entry(frame: Any) -> Entry:
    if type(frame) is not list or len(frame) < 10:
        raise MalformedFrame("a frame is an array of at least 10 elements")
    ticket, kind, seq, turn, pts, num, den, captured_ns, extra, payload = frame if len(frame) == 10 else frame[:10]
    if not (
        int is type(ticket) is type(kind) is type(seq) is type(turn) is type(num) is type(den) is type(captured_ns)
    ):
        raise MalformedFrame(f"a frame has {_odd(frame)} where a whole number is due")
    # the bits of several numbers together are below 0 if one of them is
    if ticket | kind | seq | turn | captured_ns < 0 or ticket > TICKETS or num < 1 or den < 1:
        raise MalformedFrame(
            f"a number of a frame is out of its range: ticket {ticket}, kind {kind}, seq {seq}, turn {turn}, "
            f"captured_ns {captured_ns}, time base {num}/{den}"
        )
    if pts is not None and type(pts) is not int:
        raise MalformedFrame("the pts of a frame is neither null nor a whole number")
    if extra is not None and is_deeper(extra, MAX_DEPTH):
        raise MalformedFrame(f"the extra of a frame is nested deeper than {MAX_DEPTH}")
    if type(payload) is not bytes:
        payload = _elsewhere(payload)
    return named(Entry, (ticket, named(Header, (kind, seq, turn, pts, num, den, captured_ns, extra)), payload))


def _elsewhere(payload: Any) -> Payload:
    """Return a payload that is not in the message itself."""
    if type(payload) is int and 0 <= payload <= MAX_PAYLOAD_BYTES:
        return payload
    if type(payload) is list and len(payload) >= 3:
        segment, offset, size = payload if len(payload) == 3 else payload[:3]
        are_numbers = int is type(segment) is type(offset) is type(size)
        if are_numbers and segment | offset | size >= 0 and size <= MAX_PAYLOAD_BYTES:
            return named(Place, (segment, offset, size))
    raise MalformedFrame("the payload of a frame is bytes, a size within the limit, or [segment, offset, size]")


def _odd(frame: list[Any]) -> str:
    """Name the type of what is no number: what a peer has nested a thousand times cannot be shown."""
    return next(type(frame[place]).__name__ for place in (0, 1, 2, 3, 5, 6, 7) if type(frame[place]) is not int)
