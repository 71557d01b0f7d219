"""What a host publishes: a topic, a zero byte, one frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbus.errors import MalformedFrame, ProtocolError, TooLarge
from rmbus.protocol.frames import Header, Kind, Place, encode_frame
from rmbus.protocol.limits import MAX_LANE_BYTES, MAX_TOPIC_BYTES
from rmbus.protocol.published import EVENTS, decode_published, encode_published, subscription

HEADER = Header(Kind.DATA, 7, captured_ns=5)


@given(payload=st.binary(max_size=300), seq=st.integers(0, 1 << 60))
def test_there_and_back(payload: bytes, seq: int) -> None:
    """The frame is that of a lane, and what is subscribed to is a prefix of it, of this topic alone."""
    header = HEADER._replace(seq=seq)
    data = encode_published("cam/front", encode_frame(header, payload))
    topic, entry = decode_published(data)
    assert (topic, entry.header, entry.payload, entry.ticket) == ("cam/front", header, payload, 0)
    assert data.startswith(subscription("cam/front"))
    assert not data.startswith(subscription("cam"))


def test_the_bytes() -> None:
    """As they are specified."""
    data = encode_published(EVENTS, encode_frame(HEADER, b"\x80"))
    assert data == b"rmbus/events\x00" + bytes([0x9A, 0, 4, 7, 0, 0xC0, 1, 1, 5, 0xC0, 0xC4, 1, 0x80])


FRAME = encode_frame(HEADER, b"")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "begins with a topic and a zero byte"),
        (b"\0" + FRAME, "is no topic"),
        (b"cam" + FRAME.replace(b"\0", b"\1"), "begins with a topic and a zero byte"),
        (b"cam//front\0" + FRAME, "is no topic"),
        (b"c\xc3\xa4m\0" + FRAME, "names no topic"),
        (b"a" * (MAX_TOPIC_BYTES + 1) + b"\0" + FRAME, "is no topic"),
        (b"cam\0", "no msgpack"),
        (b"cam\0" + FRAME + FRAME, "no msgpack"),
        (b"cam\0" + FRAME[:-1], "no msgpack"),
        (b"cam\0\x93\1\2\3", "at least 10 elements"),
        (b"cam\0" + encode_frame(HEADER, 12), "in the message itself"),
        (b"cam\0" + encode_frame(HEADER, Place(1, 0, 12)), "in the message itself"),
    ],
)
def test_what_is_none(data: bytes, error: str) -> None:
    """It is refused, and the reason is said."""
    with pytest.raises(MalformedFrame, match=error):
        decode_published(data)


def test_what_is_too_large() -> None:
    """It is refused before it is decoded."""
    with pytest.raises(TooLarge):
        decode_published(b"cam\0" + encode_frame(HEADER, bytes(MAX_LANE_BYTES)))


@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """They hold a frame, or are refused as what they are."""
    for given_data in (data, b"cam\0" + data):
        try:
            decode_published(given_data)
        except ProtocolError:
            continue
