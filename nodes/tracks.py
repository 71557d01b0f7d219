"""The streams of a film that is being written: one class for pictures, for sound and for what is encoded already."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Protocol

import av
from av.codec.codec import find_best_pix_fmt_of_list
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from rmbus.errors import FormatError
from rmbus.layouts import matrix_for, tag_of
from rmbus.media import AudioFrame, Packet, VideoFrame

_log = logging.getLogger("rmbus.nodes.writer")

_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "superfast", "crf": "17"},
    "libx264rgb": {"preset": "veryfast", "crf": "0"},
    "libx265": {"preset": "veryfast", "crf": "20", "x265-params": "log-level=error"},
    "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
    "libvpx": {"crf": "8", "b": "8000000", "deadline": "realtime", "cpu-used": "4"},
    "libsvtav1": {"crf": "28", "preset": "10"},
    "ffv1": {"level": "3", "slices": "4"},
}
_BITS_PER_PIXEL = 0.25  # for encoders that know no constant quality

_TWO_CHANNELS = frozenset({"libmp3lame", "mp2", "libtwolame"})

# Pixel formats that hold another without loss, the cheapest first.
_HOLDS = {
    "rgb24": ("rgb24", "bgr24", "bgr0", "bgra", "rgba", "gbrp"),
    "bgr24": ("bgr24", "rgb24", "bgr0", "bgra", "rgba", "gbrp"),
    "rgba": ("rgba", "bgra", "gbrap"),
    "bgra": ("bgra", "rgba", "gbrap"),
    "nv12": ("nv12", "yuv420p"),
    "rgb48le": ("rgb48le", "gbrp16le"),
}
_FULL_CHROMA = ("yuv444p", "yuvj444p", "gbrp")


class Track(Protocol):
    """A stream of the film."""

    def encode(self, frame: Any) -> list[av.Packet[Any]]:
        """Return the packets that the frame has brought about."""
        ...

    def flush(self) -> list[av.Packet[Any]]:
        """Return what is left."""
        ...


class VideoTrack:
    """Pictures, encoded; each keeps its time, none is doubled or left out.

    Args:
        container: the film.
        codec: FFmpeg's name of an encoder.
        first: the first picture, which decides size, rate and clock.
        pixels: the pixel format in the film, by default one that suits the codec.
        options: for the encoder.
    """

    def __init__(
        self,
        container: OutputContainer,
        codec: str,
        first: VideoFrame,
        pixels: str | None,
        options: Mapping[str, str],
    ) -> None:
        form = first.format
        assert form.width
        assert form.height
        assert form.pixels
        encoder = _encoder(codec, "video", container)
        self._form = form
        self._pixels = pixels or _choose_pixels(encoder, form.pixels, form.width, form.height)
        self._counts = first.pts is None
        if self._counts and form.rate is None:
            raise FormatError("the pictures have neither pts nor a rate: give VideoFrame(…, rate=25)")
        self._base = 1 / form.rate if self._counts and form.rate else first.time_base
        stream = _add(container, codec, form.rate or Fraction(25), {**_OPTIONS.get(codec, {}), **options})
        context = stream.codec_context
        context.width, context.height = form.width, form.height
        try:
            context.pix_fmt = self._pixels
        except ValueError as error:
            raise FormatError(f"FFmpeg has no pixel format {self._pixels!r}: yuv420p, yuv444p, gray …") from error
        context.time_base = stream.time_base = self._base
        if codec not in _OPTIONS and encoder.lossy and "b" not in options:
            context.bit_rate = int(form.width * form.height * float(form.rate or 25) * _BITS_PER_PIXEL)
        self._matrix = matrix_for(form.height) if self._pixels.startswith(("yuv", "nv")) else None
        if self._matrix:
            # The tags of colour space, primaries and transfer have the same numbers in these two standards.
            context.colorspace = context.color_primaries = context.color_trc = tag_of(self._matrix)
        _open(context, f"{form.width}x{form.height} {self._pixels}")
        self._stream = stream
        self._reformatter = VideoReformatter()
        self._last: int | None = None
        self._number = 0

    def encode(self, frame: VideoFrame) -> list[av.Packet[Any]]:
        """Return the packets that the picture has brought about.

        Raises:
            FormatError: it has another size than the first, or does not follow the last in time.
        """
        form = frame.format
        if (form.width, form.height) != (self._form.width, self._form.height):
            raise FormatError(
                f"picture {self._number} is {form.width}x{form.height}, the film is {self._form.width}x"
                f"{self._form.height}: a film has one size, bring the pictures to it before the writer"
            )
        picture = frame.to_av()
        if picture.format.name != self._pixels:
            picture = self._reformatter.reformat(picture, format=self._pixels, dst_colorspace=self._matrix, threads=1)
        picture.pts = self._time(frame)
        picture.time_base = self._base
        self._number += 1
        return _packets(self._stream, picture)

    def flush(self) -> list[av.Packet[Any]]:
        """Return what the encoder still holds."""
        return _packets(self._stream, None)

    def _time(self, frame: VideoFrame) -> int:
        if self._counts:
            pts = self._number
        elif frame.pts is None:
            raise FormatError(f"picture {self._number} has no pts, and those before it had")
        else:
            pts = frame.pts if frame.time_base == self._base else round(frame.pts * frame.time_base / self._base)
        if self._last is not None and pts <= self._last:
            raise FormatError(
                f"picture {self._number} has the time {float(pts * self._base):.3f} s, and the one before it "
                f"{float(self._last * self._base):.3f} s: pictures of a film follow each other in time"
            )
        self._last = pts
        return pts


class AudioTrack:
    """Sound, encoded, resampled where the codec does not know its rate or sample format.

    Args:
        container: the film.
        codec: FFmpeg's name of an encoder.
        first: the first sound, which decides rate and layout.
        options: for the encoder.
    """

    def __init__(self, container: OutputContainer, codec: str, first: AudioFrame, options: Mapping[str, str]) -> None:
        encoder = _encoder(codec, "audio", container)
        self._form = first.format
        self._stream = _add(container, codec, _rate(encoder, first.rate), options)
        layout = first.layout
        if codec in _TWO_CHANNELS and len(first.array) > 2:
            _log.warning("%s holds two channels: the sound, %s, is mixed down to stereo", codec, layout)
            layout = "stereo"
        self._stream.codec_context.layout = layout
        _open(self._stream.codec_context, f"{first.rate} Hz {layout}")
        self._samples = 0
        self._counts = first.pts is None

    def encode(self, frame: AudioFrame) -> list[av.Packet[Any]]:
        """Return the packets that the sound has brought about.

        Raises:
            FormatError: it has another rate, layout or sample format than the first.
        """
        if frame.format != self._form:
            raise FormatError(f"the sound has become {frame.format}; the film has {self._form}, which cannot change")
        sound = frame.to_av()
        if self._counts:
            sound.pts, sound.time_base = self._samples, Fraction(1, frame.rate)
        self._samples += frame.array.shape[1]
        return _packets(self._stream, sound) if frame.array.shape[1] else []

    def flush(self) -> list[av.Packet[Any]]:
        """Return what the encoder still holds."""
        return _packets(self._stream, None)


class PacketTrack:
    """Encoded video, written as it is. Its parameters are read from its first key packet.

    Args:
        container: the film.
        first: the first packet.
    """

    def __init__(self, container: OutputContainer, first: Packet) -> None:
        if not first.key:
            raise FormatError("the first packet is no key packet: a film cannot begin with it")
        width, height = _size_of(first)
        try:
            any_codec: Any = container  # the stubs leave the keywords untyped
            self._stream: Any = any_codec.add_mux_stream(first.codec, width=width, height=height)
        except ValueError as error:
            raise FormatError(f"{first.codec} packets cannot be written here: {error}") from error
        self._stream.time_base = first.time_base

    def encode(self, frame: Packet) -> list[av.Packet[Any]]:
        """Return the packet for FFmpeg."""
        packet = frame.to_av()
        packet.stream = self._stream
        return [packet]

    def flush(self) -> list[av.Packet[Any]]:
        """Return nothing: nothing is held."""
        return []


def _open(context: Any, what: str) -> None:
    options = dict(context.options)
    try:
        context.open(strict=False)
    except FFmpegError as error:
        raise FormatError(
            f"the encoder {context.codec.name} refuses {what} with the options {options}: {error.strerror}"
        ) from error
    unknown = set(context.options) & set(options)
    if unknown:
        raise FormatError(f"the encoder {context.codec.name} knows no option {', '.join(sorted(unknown))}")


def _packets(stream: Any, frame: object) -> list[av.Packet[Any]]:
    packets: list[av.Packet[Any]] = stream.encode(frame)
    return packets


def _size_of(packet: Packet) -> tuple[int, int]:
    if av.Codec(packet.codec, "r").type != "video":
        raise FormatError(f"packets of {packet.codec} are no video, and only video is written as it is")
    decoder: Any = av.CodecContext.create(packet.codec, "r")
    try:
        decoder.decode(packet.to_av())
        decoder.decode(None)
    except FFmpegError as error:
        raise FormatError(f"the first packet of {packet.codec} cannot be decoded: {error.strerror}") from error
    if not decoder.width or not decoder.height:
        raise FormatError(f"the first packet of {packet.codec} does not tell the size of the picture")
    return int(decoder.width), int(decoder.height)


def _encoder(name: str, kind: str, container: OutputContainer) -> av.Codec:
    if name == "none":
        raise FormatError(f"the container {container.format.name} holds no {kind}: choose .mp4 or .mkv")
    try:
        found = av.Codec(name, "w")
    except ValueError as error:
        raise FormatError(f"FFmpeg has no encoder {name!r}: libx264, libvpx-vp9, ffv1; aac, libopus, flac …") from error
    if found.type != kind:
        raise FormatError(f"{name} encodes {found.type}, not {kind}")
    return found


def _add(container: OutputContainer, codec: str, rate: Fraction | int, options: Mapping[str, str]) -> Any:
    try:
        any_codec: Any = container  # the stubs tell the kinds of streams apart by literal names of codecs
        return any_codec.add_stream(codec, rate=rate, options=dict(options))
    except ValueError as error:
        raise FormatError(f"the container {container.format.name} does not hold {codec}: choose another") from error


def _rate(encoder: av.Codec, rate: int) -> int:
    known = encoder.audio_rates
    if not known or rate in known:
        return rate
    return min((each for each in known if each > rate), default=max(known))


def _choose_pixels(encoder: av.Codec, pixels: str, width: int, height: int) -> str:
    known = [form.name for form in encoder.video_formats or []]
    lossless = next((name for name in _HOLDS.get(pixels, (pixels,)) if name in known), None)
    if not known or (lossless and (pixels.startswith("yuv") or not encoder.lossy or "yuv420p" not in known)):
        return lossless or "yuv420p"
    if "yuv420p" not in known or (not encoder.lossy and lossless is None):
        best, _loss = find_best_pix_fmt_of_list(known, pixels)
        return best.name if best else known[0]
    if width % 2 == 0 and height % 2 == 0:
        return "yuv420p"
    full = next((name for name in _FULL_CHROMA if name in known), None)
    if encoder.name.startswith("libvpx"):  # it takes any size
        return "yuv420p"
    if full is None:
        raise FormatError(
            f"{encoder.name} needs an even width and height, and the pictures are {width}x{height}: cut a row or a "
            "column, frame.with_array(frame.array[: height // 2 * 2, : width // 2 * 2]), or take video_codec='libx264'"
        )
    _log.warning(
        "the pictures are %dx%d, which is odd: the film has %s, which some players refuse", width, height, full
    )
    return full
