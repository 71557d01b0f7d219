"""Reading films: what MediaReader does with FFmpeg."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NoReturn

import attrs
import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError, PatchWelcomeError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from rmbus.errors import FormatError
from rmbus.layouts import convert, picture_from, pixels_named
from rmbus.media import AudioFrame, Frame, Packet, VideoFrame

_log = logging.getLogger("rmbus.nodes.reader")

# The parameters of these codecs lie beside the packets in most containers; the filters put them into the key packets.
_IN_BAND = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb", "mpeg4": "dump_extra", "mpeg2video": "dump_extra"}


@attrs.frozen
class MediaInfo:
    """What a film says of itself; None where it does not.

    Attributes:
        container: FFmpeg's name of the container.
        duration_s: how long it is.
        frames: pictures, counted by the container, or else from duration and rate.
        width, height, rate, video_codec: of the video stream.
        sample_rate, layout, audio_codec: of the audio stream.
    """

    container: str
    duration_s: float | None = None
    frames: int | None = None
    width: int | None = None
    height: int | None = None
    rate: Fraction | None = None
    video_codec: str | None = None
    sample_rate: int | None = None
    layout: str | None = None
    audio_codec: str | None = None


def open_film(url: str, format: str | None, options: Mapping[str, str]) -> InputContainer:
    """Open a film for reading.

    Raises:
        FormatError: FFmpeg cannot read it. OSError: it is not there, or may not be read.
    """
    try:
        return av.open(url, format=format, options=dict(options), metadata_errors="replace")
    except FFmpegError as error:
        _raise(url, error)
    except ValueError as error:
        raise FormatError(f"cannot open {url}: {error}") from error


def _raise(url: str, error: FFmpegError) -> NoReturn:
    number = error.errno or 0
    if number == errno.ENOENT:
        raise FileNotFoundError(number, "there is no such film", url) from error
    if isinstance(error, OSError) and number in errno.errorcode:
        raise OSError(number, f"cannot read the film: {os.strerror(number)}", url) from error
    raise FormatError(f"{url} is no film, sound or picture that FFmpeg can read: {error.strerror}") from error


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """Return the stream of moving pictures: not the cover of a record."""
    found = container.streams.best("video")
    if not isinstance(found, av.VideoStream) or found.disposition & Disposition.attached_pic:
        return None
    return found


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    """Return the best stream of sound."""
    found = container.streams.best("audio")
    return found if isinstance(found, av.AudioStream) else None


def describe(container: InputContainer) -> MediaInfo:
    """Return what the film says of itself."""
    video, audio = video_stream(container), audio_stream(container)
    duration = None if container.duration is None else container.duration / av.time_base
    info = MediaInfo(container.format.name, duration)
    if video is not None:
        rate = video.average_rate or video.guessed_rate
        if video.duration is not None and video.time_base:
            duration = float(video.duration * video.time_base)
        guess = round(duration * rate) if duration and rate else None
        info = attrs.evolve(
            info,
            frames=video.frames or guess,
            width=video.width,
            height=video.height,
            rate=rate,
            video_codec=video.codec_context.name,
        )
    if audio is not None:
        codec = audio.codec_context
        info = attrs.evolve(info, sample_rate=codec.sample_rate, layout=codec.layout.name, audio_codec=codec.name)
    return info


class Demuxer:
    """An open film, decoded as far as it is wanted.

    Args:
        url: the film.
        wanted: of `video`, `audio` and `packets`.
        pixels: what pictures are converted to.
        format: FFmpeg's name of the container or device, by default found out.
        options: for FFmpeg.

    Attributes:
        url: the film. rate: of its pictures, where it tells one.
    """

    def __init__(
        self, url: str, wanted: frozenset[str], pixels: str, format: str | None, options: Mapping[str, str]
    ) -> None:
        self._pixels = pixels_named(pixels).name
        self.url = url
        self._container = open_film(url, format, options)
        self._wanted = wanted
        self._video = video_stream(self._container) if wanted & {"video", "packets"} else None
        self._audio = audio_stream(self._container) if "audio" in wanted else None
        self._reformatter = VideoReformatter()
        self.rate: Fraction | None = None
        self._filter: BitStreamFilterContext | None = None
        self._lost = 0  # packets that gave nothing
        self._damaged = 0  # frames of which FFmpeg has made up a part
        if self._video is not None:
            self._video.thread_type = "AUTO"
            self.rate = self._video.average_rate or self._video.guessed_rate
            self._filter = _in_band(self._video) if "packets" in wanted else None

    @property
    def ports(self) -> frozenset[str]:
        """What it gives: what is wanted, and there."""
        video = self._wanted & {"video", "packets"} if self._video is not None else frozenset[str]()
        return video if self._audio is None else video | {"audio"}

    @property
    def begin(self) -> Fraction:
        """The time of the film's beginning, by its own clock, in seconds."""
        return Fraction(self._container.start_time or 0, av.time_base)

    def seek(self, time: Fraction) -> None:
        """Go on at the last place before a time from which everything can be decoded.

        Args:
            time: by the film's own clock, in seconds.

        Raises:
            FormatError: nothing can be sought in it: it is a stream, say.
        """
        try:
            self._container.seek(int(time * av.time_base))
        except FFmpegError as error:
            raise FormatError(f"{self.url}: FFmpeg cannot go to {float(time):g} s: {error.strerror}") from error

    def frames(self) -> Iterator[tuple[str, Frame]]:
        """Yield a port and a frame, in the order in which the film holds them."""
        streams = [stream for stream in (self._video, self._audio) if stream is not None]
        if not streams:
            return
        for packet in self._packets(streams):
            if packet.stream is self._audio:
                yield from (("audio", self._sound(frame)) for frame in self._decode(packet))
                continue
            if "video" in self._wanted:
                yield from (("video", self._picture(frame)) for frame in self._decode(packet))
            if "packets" in self._wanted:
                yield from (("packets", frame) for frame in self._encoded(packet))
        if self._lost or self._damaged:
            _log.warning(
                "%s is corrupt: %d packets gave no frame, %d frames are damaged", self.url, self._lost, self._damaged
            )

    def close(self) -> None:
        """Close the film."""
        self._container.close()

    def _packets(self, streams: list[Any]) -> Iterator[av.Packet[Any]]:
        packets = self._container.demux(*streams)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except FFmpegError as error:
                _log.warning("%s ends early, it is damaged: %s", self.url, error.strerror)
                for stream in streams:
                    end: av.Packet[Any] = av.Packet()
                    end.stream = stream
                    yield end
                return

    def _decode(self, packet: av.Packet[Any]) -> list[Any]:
        try:
            frames: list[Any] = packet.decode()
        except (InvalidDataError, PatchWelcomeError) as error:
            self._lost += 1
            self._tell_first("a packet", packet.pts, error.strerror or "")
            return []
        damaged = [frame for frame in frames if frame.is_corrupt]
        if damaged:
            self._damaged += len(damaged)
            self._tell_first("a frame", damaged[0].pts, "a part of it is made up")
        return frames

    def _tell_first(self, what: str, pts: int | None, why: str) -> None:
        if self._lost + self._damaged == 1:
            _log.warning("%s is corrupt, first %s at pts %s: %s", self.url, what, pts, why)

    def _picture(self, frame: av.VideoFrame) -> VideoFrame:
        turns = round(frame.rotation / 90) % 4
        shown = convert(frame, self._pixels, self._reformatter)
        array = picture_from(shown)
        if turns and not pixels_named(self._pixels).planar:
            array = np.rot90(array, turns)
        base = frame.time_base or Fraction(1)
        return VideoFrame(
            array, self._pixels, rate=self.rate, pts=frame.pts, time_base=base, captured_ns=time.time_ns()
        )

    def _sound(self, frame: av.AudioFrame) -> AudioFrame:
        return AudioFrame.from_av(frame, captured_ns=time.time_ns())

    def _encoded(self, packet: av.Packet[Any]) -> Iterator[Packet]:
        if not packet.size:
            return
        assert self._video is not None
        codec = self._video.codec_context.name
        filtered: Any = self._filter  # the stubs leave its packets' streams open
        packets: list[av.Packet[Any]] = [packet] if filtered is None else filtered.filter(packet)
        for each in packets:
            each.time_base = each.time_base or self._video.time_base or Fraction(1)
            yield Packet.from_av(each, codec, captured_ns=time.time_ns())


def _in_band(stream: av.VideoStream) -> BitStreamFilterContext | None:
    context = stream.codec_context
    name = _IN_BAND.get(context.name)
    if name is None or not context.extradata or (name.endswith("annexb") and context.extradata[:1] != b"\1"):
        return None
    return BitStreamFilterContext(name, stream)
