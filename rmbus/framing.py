"""How frames go to the wire, and how they come from it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final, TypeVar

import numpy as np

from rmbus import layouts, values
from rmbus.errors import MalformedFrame
from rmbus.formats import Audio, Encoded, Format, Video
from rmbus.layouts import Array
from rmbus.media import AudioFrame, Data, Frame, Packet, VideoFrame, make, set_content
from rmbus.protocol.frames import Header, Kind
from rmbus.protocol.lane import Buffer
from rmbus.stamps import (
    SECOND,
    put,
    set_captured_ns,
    set_memory,
    set_pts,
    set_seq,
    set_time_base,
    set_topic,
)

_F = TypeVar("_F", VideoFrame, AudioFrame, Packet, Data)
_new: Final = object.__new__
_DATA: Final = int(Kind.DATA)


def encode(frame: Frame) -> tuple[Kind, Any, Buffer | values.Draft]:
    """Return the kind, the header's `extra` and the payload of a frame, of which nothing is copied.

    Raises:
        FormatError: the value of a Data cannot travel.
    """
    if isinstance(frame, VideoFrame):
        return Kind.VIDEO, None, frame.array.data.cast("B")
    if isinstance(frame, AudioFrame):
        lying = frame.array if frame.array.flags.c_contiguous else frame.array.T
        return Kind.AUDIO, None, lying.data.cast("B") if lying.size else b""
    if isinstance(frame, Packet):
        return Kind.PACKET, [frame.key, frame.dts, frame.duration], frame.data
    length, payload = values.dump(frame.value)
    return Kind.DATA, length, payload


def own(frame: Frame) -> Frame:
    """Return a frame that its maker can change no more: with a copy, where he still holds what lies below its array."""
    if isinstance(frame, VideoFrame | AudioFrame) and layouts.is_writable(frame.array):
        array = frame.array.copy(order="K")
        array.setflags(write=False)
        return frame.with_array(array)
    return frame


def bare(frame: Frame) -> Frame:
    """Return a frame with the header and the format of this one and no content of its own: its array is all zeros."""
    if isinstance(frame, Packet):
        return frame
    pts, base, captured_ns, seq, topic = frame.pts, frame.time_base, frame.captured_ns, frame.seq, frame.topic
    if isinstance(frame, Data):
        return make(Data, None, frame.format, pts, base, captured_ns, seq, topic)
    nothing = _nothing(frame.array.shape, frame.array.dtype)
    if isinstance(frame, VideoFrame):
        return make(VideoFrame, nothing, frame.format, pts, base, captured_ns, seq, topic)
    return make(AudioFrame, nothing, frame.format, pts, base, captured_ns, seq, topic)


@functools.lru_cache(maxsize=64)
def _nothing(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a read-only array of zeros that takes the memory of one."""
    return np.ndarray(shape, dtype, bytes(dtype.itemsize), strides=(0,) * len(shape))


def settled(frame: Frame, payload: Buffer | values.Draft) -> Buffer:
    """Return the payload of a frame as nobody can change it any more: a copy, where its maker still holds the array.

    Frames wait in mailboxes while the node goes on, and it may well draw the next picture into the same array.
    """
    if isinstance(payload, values.Draft) or (
        isinstance(frame, VideoFrame | AudioFrame) and layouts.is_writable(frame.array)
    ):
        return bytes(payload)
    return payload


def decode(header: Header, payload: Buffer, format: Format, *, topic: str = "") -> Frame:
    """Return the frame that a header and its payload make; its array is a read-only view of the payload.

    Args:
        header: the header.
        payload: the payload; it must not change while the frame lives.
        format: the format that was last told on this edge.
        topic: where the frame came from.

    Raises:
        MalformedFrame: they do not fit each other.
    """
    kind, seq, _, pts, num, den, captured_ns, extra = header
    base = _time_base(num, den)
    if kind == Kind.VIDEO and isinstance(format, Video):
        array = layouts.picture_in(payload, format)
        return make(VideoFrame, array, format, pts, base, captured_ns, seq, topic)
    if kind == Kind.AUDIO and isinstance(format, Audio):
        array = layouts.sound_in(payload, format)
        return make(AudioFrame, array, format, pts, base, captured_ns, seq, topic)
    if kind == Kind.DATA:
        value = values.load(extra, payload)
        return make(Data, value, format, pts, base, captured_ns, seq, topic)
    if kind == Kind.PACKET and isinstance(format, Encoded):
        key, dts, duration = _packet_extra(extra)
        packet = make(Packet, bytes(payload), format, pts, base, captured_ns, seq, topic)
        put(packet, "key", key)
        put(packet, "dts", dts)
        put(packet, "duration", duration)
        return packet
    raise MalformedFrame(f"a frame of kind {kind} came after the format {format!r} of another kind")


def decoder(format: Format, topic: str) -> Callable[[Header, Any], Frame]:
    """Return what does `decode` for frames of one format: what can be known of it is found once."""
    if isinstance(format, Video) and format.pixels and format.width and format.height:
        layout = layouts.picture_layout(format)
        return _array_decoder(
            VideoFrame, Kind.VIDEO, format, topic, lambda payload: layouts.picture_over(payload, layout)
        )
    if isinstance(format, Audio) and format.samples and format.rate and format.layout:
        sound = layouts.sound_layout(format)
        return _array_decoder(AudioFrame, Kind.AUDIO, format, topic, lambda payload: layouts.sound_over(payload, sound))
    return lambda header, payload: _decode_data(header, payload, format, topic)


def _decode_data(header: Header, payload: Any, format: Format, topic: str) -> Frame:
    """Do what `decode` does, for Data by the shortest way."""
    kind, seq, _, pts, num, den, captured_ns, extra = header
    if kind != _DATA:
        return decode(header, payload, format, topic=topic)
    return make(Data, values.load(extra, payload), format, pts, _time_base(num, den), captured_ns, seq, topic)


def _array_decoder(
    cls: type[VideoFrame | AudioFrame], of: Kind, format: Format, topic: str, over: Callable[[Any], Array]
) -> Callable[[Header, Any], Frame]:
    wanted, last, base = int(of), (1, 1), SECOND
    set_array, set_format = set_content[cls]

    def decode_array(header: Header, payload: Any) -> Frame:
        nonlocal last, base
        kind, seq, _, pts, num, den, captured_ns, _ = header
        if kind != wanted:
            return decode(header, payload, format, topic=topic)
        if last != (num, den):
            last, base = (num, den), _time_base(num, den)
        new = _new(cls)
        set_array(new, over(payload))
        set_format(new, format)
        set_pts(new, pts)
        set_time_base(new, base)
        set_captured_ns(new, captured_ns)
        set_seq(new, seq)
        set_topic(new, topic)
        set_memory(new, None)
        return new

    return decode_array


@functools.lru_cache(maxsize=256)
def _time_base(num: int, den: int) -> Fraction:
    return Fraction(num, den)


def _packet_extra(extra: Any) -> tuple[bool, int | None, int]:
    fields: list[Any] = [*extra, None, None, None] if isinstance(extra, list) else [None] * 3
    key, dts, duration = fields[:3]
    if type(key) is not bool or type(duration) is not int or (dts is not None and type(dts) is not int):
        raise MalformedFrame("the extra of a packet's header is [key, dts, duration]")
    return key, dts, duration
