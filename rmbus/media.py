"""What travels on the bus: pictures, sound, encoded packets and data. Frames are immutable values."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, Unpack, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from rmbus import layouts
from rmbus.formats import Audio, Encoded, Format, Rate, Video
from rmbus.layouts import Array
from rmbus.protocol.lane import Buffer
from rmbus.stamps import (
    SECOND,
    UNSTAMPED,
    Stamp,
    Stamped,
    build,
    fill,
    put,
    set_captured_ns,
    set_memory,
    set_pts,
    set_seq,
    set_time_base,
    set_topic,
    setter,
    stamp_from,
    stamp_of,
)

if TYPE_CHECKING:
    import av
    from av.stream import Stream


@attrs.frozen(eq=False, repr=False, init=False)
class VideoFrame(Stamped):
    """A decoded picture.

    Args:
        array: the pixels, `uint8[height, width, 3]` unless `pixels` says otherwise. Contiguous pixels are not copied:
            do not write to them afterwards.
        pixels: FFmpeg's name of the pixel format; by default rgb24, rgba or gray, by the shape of the array.
        rate: pictures in a second, where there is such a number.
        stamp: pts, time_base (by default the time of one picture), captured_ns, seq, topic.

    Attributes:
        array: the pixels, read-only: `editable()` gives a copy to draw on. 16 bits each in gray16le and rgb48le.
        format: the pixel format, size and rate.
    """

    array: NDArray[np.uint8]
    format: Video
    _lent: object = None  # PyAV's frame over this memory: while it lives FFmpeg's filters take the memory for shared

    def __init__(
        self, array: Array, pixels: str | None = None, *, rate: Rate | None = None, **stamp: Unpack[Stamp]
    ) -> None:
        known = layouts.pixels_named(pixels or layouts.pixels_of(array))
        width, height = known.size(array)
        form = Video(known.name, width=width, height=height, rate=rate)
        base = 1 / form.rate if form.rate else SECOND
        fill(self, {**UNSTAMPED, "time_base": base, "array": layouts.locked(array), "format": form}, stamp)

    def editable(self) -> NDArray[np.uint8]:
        """Return a copy of the pixels to draw on; `with_array` makes a frame of it."""
        return self.array.copy()

    def with_array(self, array: Array, pixels: str | None = None) -> VideoFrame:
        """Return a frame with the header of this one and other pixels.

        Args:
            array: the pixels; another size is fine. They are not copied where they are contiguous.
            pixels: their format, by default that of this frame.

        Raises:
            FormatError: the array is no picture of that format.
        """
        form, like = self.format, self.array
        if array.shape == like.shape and array.dtype == like.dtype and pixels in (None, form.pixels):
            frame = picture(layouts.contiguous(array), form, self.pts, self.time_base, self.captured_ns)
            set_seq(frame, self.seq)
            set_topic(frame, self.topic)
            return frame
        name = pixels or str(form.pixels)
        width, height = layouts.pixels_named(name).size(array)
        if (name, width, height) != (form.pixels, form.width, form.height):
            form = Video(name, width=width, height=height, rate=form.rate)
        return build(VideoFrame, {**stamp_of(self), "array": layouts.locked(array), "format": form}, {})

    def to_av(self, *, copy: bool = False) -> av.VideoFrame:
        """Return PyAV's frame over the same memory.

        Encoders and `reformat` only read it. A filter that draws in place (drawbox, drawtext) writes to it, although
        the array is read-only, when it runs after this frame has gone: give such a filter a copy.
        """
        frame = layouts.picture_to(self.editable() if copy else self.array, str(self.format.pixels))
        frame.pts = self.pts
        frame.time_base = self.time_base
        if not copy:
            put(self, "_lent", frame)
        return frame

    @classmethod
    def from_av(
        cls,
        frame: av.VideoFrame,
        pixels: str | None = None,
        *,
        rate: Rate | None = None,
        **stamp: Unpack[Stamp],
    ) -> VideoFrame:
        """Return the picture of PyAV's frame, over the same memory where its rows lie without gaps.

        Args:
            frame: a picture; its pts and time base are taken over.
            pixels: convert to these; by default only what the bus does not carry is converted, to rgb24.
            rate: pictures in a second.
            stamp: header fields.
        """
        wanted = pixels or (frame.format.name if frame.format.name in layouts.PIXELS else "rgb24")
        shown = layouts.convert(frame, wanted)
        stamp = stamp_from(frame.pts, frame.time_base, stamp)
        return cls(layouts.picture_from(shown), wanted, rate=rate, **stamp)

    def _about(self) -> str:
        return f"{self.format.pixels} {self.format.width}x{self.format.height}"


@attrs.frozen(eq=False, repr=False, init=False)
class AudioFrame(Stamped):
    """Decoded sound.

    Args:
        array: the samples, `[channels, samples]`; -1..1 for floats. One axis is one channel.
        rate: samples in a second.
        layout: FFmpeg's name of the channel layout; by default mono, stereo, 5.1 … by the number of channels.
        samples: FFmpeg's name of the sample format; by default the planar one of the array's type.
        stamp: pts, time_base (by default the time of one sample), captured_ns, seq, topic.

    Attributes:
        array: the samples, read-only; float32 in the usual format fltp, else as the format says.
        format: sample format, rate and layout.
    """

    array: NDArray[np.float32]
    format: Audio

    def __init__(
        self,
        array: Array,
        rate: int,
        *,
        layout: str | None = None,
        samples: str | None = None,
        **stamp: Unpack[Stamp],
    ) -> None:
        array = array.reshape(1, -1) if array.ndim == 1 else array
        name = samples or layouts.samples_of(array)
        form = Audio(name, rate=rate, layout=layout or layouts.layout_of(len(array)))
        base = Fraction(1, rate)
        fill(self, {**UNSTAMPED, "time_base": base, "array": layouts.heard(array, form), "format": form}, stamp)

    @property
    def rate(self) -> int:
        """Samples in a second."""
        return cast(int, self.format.rate)

    @property
    def layout(self) -> str:
        """FFmpeg's name of the channel layout."""
        return cast(str, self.format.layout)

    @property
    def duration_s(self) -> float:
        """How long it sounds, in seconds."""
        return float(self.array.shape[1] / self.rate)

    def editable(self) -> NDArray[np.float32]:
        """Return a copy of the samples to write to; `with_array` makes a frame of it."""
        return self.array.copy()

    def with_array(self, array: Array) -> AudioFrame:
        """Return a frame with the header of this one and other samples, of any number.

        Raises:
            FormatError: the array has another type, or another number of channels than the layout.
        """
        return build(
            AudioFrame, {**stamp_of(self), "array": layouts.heard(array, self.format), "format": self.format}, {}
        )

    def to_av(self) -> av.AudioFrame:
        """Return a frame for PyAV with a copy of the samples: its planes lie apart."""
        import av

        name = str(self.format.samples)
        planar = name.endswith("p") or len(self.array) == 1
        lying: Any = self.array if planar else self.array.T.reshape(1, -1)  # PyAV's annotation lists each type
        frame = av.AudioFrame.from_ndarray(lying, name, self.layout)
        frame.sample_rate = self.rate
        frame.pts = self.pts
        frame.time_base = self.time_base
        return frame

    @classmethod
    def from_av(cls, frame: av.AudioFrame, **stamp: Unpack[Stamp]) -> AudioFrame:
        """Return the sound of PyAV's frame; its pts and time base are taken over."""
        name, channels = frame.format.name, frame.layout.nb_channels
        array = cast(Array, frame.to_ndarray())
        if not name.endswith("p"):
            array = array.reshape(-1, channels).T
        stamp = stamp_from(frame.pts, frame.time_base, stamp)
        return cls(array, frame.sample_rate, layout=frame.layout.name, samples=name, **stamp)

    def _about(self) -> str:
        return f"{self.format.samples} {self.rate} Hz {self.layout}, {self.array.shape[1]} samples"


@attrs.frozen(eq=False, repr=False, init=False)
class Packet(Stamped):
    """Encoded video or sound.

    Args:
        data: the bytes.
        format: the codec, or the format with what a decoder must know.
        key: decoding can start here.
        dts: decoding time, in units of `time_base`, where it differs from pts.
        duration: in units of `time_base`, 0 if unknown.
        stamp: pts, time_base, captured_ns, seq, topic.
    """

    data: bytes
    key: bool
    dts: int | None
    duration: int
    format: Encoded

    def __init__(
        self,
        data: Buffer,
        format: Encoded | str,
        *,
        key: bool,
        dts: int | None = None,
        duration: int = 0,
        **stamp: Unpack[Stamp],
    ) -> None:
        form = Encoded(format) if isinstance(format, str) else format
        own = {"data": bytes(data), "key": key, "dts": dts, "duration": duration, "format": form}
        fill(self, {**UNSTAMPED, **own}, stamp)

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self.format.codecs[0]

    def to_av(self) -> av.Packet[Stream]:
        """Return a packet for PyAV."""
        import av

        packet: av.Packet[Stream] = av.Packet(self.data)
        packet.time_base = self.time_base
        packet.pts = self.pts
        packet.dts = self.pts if self.dts is None else self.dts
        packet.duration = self.duration
        packet.is_keyframe = self.key
        return packet

    @classmethod
    def from_av(cls, packet: av.Packet[Any], format: Encoded | str, **stamp: Unpack[Stamp]) -> Packet:
        """Return PyAV's packet as a frame; its times are taken over."""
        stamp = stamp_from(packet.pts, packet.time_base, stamp)
        return cls(
            bytes(packet), format, key=packet.is_keyframe, dts=packet.dts, duration=packet.duration or 0, **stamp
        )

    def _about(self) -> str:
        return f"{self.codec}{' key' if self.key else ''}, {len(self.data)} bytes"


@attrs.frozen(eq=False, repr=False, init=False)
class Data(Stamped):
    """Any other value.

    Args:
        value: None, bool, int, float, str, bytes, list, dict, numpy arrays, attrs classes and dataclasses, nested at
            will. It arrives as plain values: tuples as lists, attrs classes and dataclasses as dicts of their fields.
        format: the type that the port declares.
        stamp: pts, time_base, captured_ns, seq, topic.
    """

    value: Any
    format: Any

    def __init__(self, value: object, *, format: object = Any, **stamp: Unpack[Stamp]) -> None:
        fill(self, {**UNSTAMPED, "value": value, "format": format}, stamp)

    def _about(self) -> str:
        shown = repr(self.value)
        return shown if len(shown) <= 60 else shown[:57] + "..."


Frame: TypeAlias = VideoFrame | AudioFrame | Packet | Data


def now_ns() -> int:
    """Return the time of the clock that `captured_ns` is of: UTC, nanoseconds since 1970."""
    return time.time_ns()


def format_of(frame: Frame) -> Format:
    """Return the format of a frame: what a `format` frame must have told before it is sent."""
    return frame.format


def read_only_advice(error: BaseException) -> str | None:
    """Return what to do where the error is numpy's refusal to write to a frame's array, else None."""
    if isinstance(error, ValueError) and "read-only" in str(error):
        return "a frame's array is read-only, other nodes may see it: draw on frame.editable(), a copy"
    return None


# --- frames that are made quickly, one for each that moves ----------------------------------------------------------

set_content: Final = {
    VideoFrame: (setter(VideoFrame, "array"), setter(VideoFrame, "format")),
    AudioFrame: (setter(AudioFrame, "array"), setter(AudioFrame, "format")),
    Packet: (setter(Packet, "data"), setter(Packet, "format")),
    Data: (setter(Data, "value"), setter(Data, "format")),
}
"""What sets the content and the format of a frame that is being made."""

_F = TypeVar("_F", VideoFrame, AudioFrame, Packet, Data)
_new: Final = object.__new__


def make(
    cls: type[_F],
    content: object,
    form: object,
    pts: int | None,
    time_base: Fraction,
    captured_ns: int,
    seq: int = 0,
    topic: str = "",
) -> _F:
    """Return a new frame, as `build` does, with no dictionary on the way: this is done for every frame that moves."""
    new = _new(cls)
    set_its, set_format = set_content[cls]
    set_its(new, content)
    set_format(new, form)
    set_pts(new, pts)
    set_time_base(new, time_base)
    set_captured_ns(new, captured_ns)
    set_seq(new, seq)
    set_topic(new, topic)
    set_memory(new, None)
    return new


def picture(array: Array, form: Video, pts: int | None, time_base: Fraction, captured_ns: int) -> VideoFrame:
    """Return a frame over an array that is known to be a contiguous picture of a format."""
    view = array.view()
    view.setflags(write=False)
    return make(VideoFrame, view, form, pts, time_base, captured_ns)


def sound(array: Array, form: Audio, pts: int | None, time_base: Fraction, captured_ns: int) -> AudioFrame:
    """Return a frame over an array that is known to be sound of a format, lying as that says."""
    view = array.view()
    view.setflags(write=False)
    return make(AudioFrame, view, form, pts, time_base, captured_ns)


def datum(
    value: object, form: object, pts: int | None = None, time_base: Fraction = SECOND, captured_ns: int = 0
) -> Data:
    """Return a frame of any other value."""
    return make(Data, value, form, pts, time_base, captured_ns)
