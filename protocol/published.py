"""What a host publishes to whoever subscribes, without credit or acknowledgement: a topic, a zero byte, one frame."""

from __future__ import annotations

from typing import Final

from rmbus.errors import MalformedFrame, ProtocolError
from rmbus.protocol.frames import Entry, decode_frames, join_frames
from rmbus.protocol.topics import check_topic

EVENTS: Final = "rmbus/events"
"""The topic of a host's own events."""

_END: Final = b"\0"  # of the name: what is subscribed to is a prefix


def subscription(topic: str) -> bytes:
    """Return what a subscriber to one topic subscribes to."""
    return topic.encode() + _END


def encode_published(topic: str, frame: bytes) -> bytes:
    """Return the message that holds an encoded frame, payload and all."""
    return subscription(topic) + frame


def decode_published(data: bytes) -> tuple[str, Entry]:
    """Return the topic and the frame of a message.

    Raises:
        MalformedFrame: it holds none, or more, or one whose payload is elsewhere. TooLarge: over the limit of a lane.
    """
    name, end, frame = data.partition(_END)
    try:
        topic = check_topic(name.decode("ascii")) if end else ""
    except (UnicodeDecodeError, ProtocolError) as error:
        raise MalformedFrame(f"a published message names no topic: {error}") from error
    if not topic:
        raise MalformedFrame("a published message begins with a topic and a zero byte")
    (entry,) = decode_frames(join_frames([frame]))
    if type(entry.payload) is not bytes:
        raise MalformedFrame("the payload of a published frame is in the message itself")
    return topic, entry
