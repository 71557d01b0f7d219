"""Writing films: what MediaWriter does with FFmpeg."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import attrs
import av
from av.container import OutputContainer
from av.error import FFmpegError

from rmbus.errors import FormatError, PipelineError
from rmbus.media import AudioFrame, Packet, VideoFrame
from rmbus.nodes.tracks import AudioTrack, PacketTrack, Track, VideoTrack

_log = logging.getLogger("rmbus.nodes.writer")

_HELD_BYTES = 256 << 20

_VIDEO = {"mp4": "libx264", "mov": "libx264", "matroska": "libx264", "webm": "libvpx-vp9", "mpegts": "libx264"}
_AUDIO = {
    "mp4": "aac",
    "mov": "aac",
    "ipod": "aac",
    "matroska": "aac",
    "mpegts": "aac",
    "webm": "libopus",
    "ogg": "libopus",
    "opus": "libopus",
    "mp3": "libmp3lame",
    "avi": "libmp3lame",
}


@attrs.frozen
class Choices:
    """How a film is to be written; None and nothing where the container decides.

    Attributes:
        format: FFmpeg's name of the container.
        video_codec, audio_codec: FFmpeg's names of the encoders.
        pixels: the pixel format in the film.
        video_options, audio_options: for the encoders.
    """

    format: str | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    pixels: str | None = None
    video_options: Mapping[str, str] = attrs.field(factory=dict[str, str])
    audio_options: Mapping[str, str] = attrs.field(factory=dict[str, str])


class Muxer:
    """A film that is being written, under another name until it is whole.

    The header needs to know every stream, so packets are held until each input has given its first frame or ended.

    Args:
        path: the film. An existing one is replaced when the new one is whole.
        wanted: the inputs that are joined, of `video`, `audio` and `packets`.
        choices: how it is written.
    """

    def __init__(self, path: str, wanted: frozenset[str], choices: Choices) -> None:
        self._path = path
        self._partial = _partial(path)
        self._choices = choices
        self._missing = set(wanted)
        self._tracks: dict[str, Track] = {}
        self._held: list[av.Packet[Any]] = []
        self._held_bytes = 0
        self._started = False
        self._container = self._open()

    def write(self, port: str, frame: object) -> None:
        """Take a frame.

        Raises:
            FormatError: it cannot be written. OSError: the disk is full, or the like.
        """
        try:
            track = self._tracks.get(port) or self._begin(port, frame)
            packets = track.encode(frame)
        except FFmpegError as error:
            self._raise(error)
        self._mux(packets)

    def ended(self, port: str) -> None:
        """An input has ended: nothing more comes from it.

        Raises:
            OSError: the disk is full, or the like.
        """
        self._missing.discard(port)
        self._mux([])

    def finish(self) -> None:
        """Write what is left, and give the film its name.

        Raises:
            PipelineError: no frame has come. OSError: the disk is full, or the like.
        """
        if not self._tracks:
            raise PipelineError(f"no frame came, so {self._path} is not written")
        self._missing.clear()
        try:
            for track in self._tracks.values():
                self._mux(track.flush())
            self._container.close()
        except FFmpegError as error:
            self._raise(error)
        if self._partial != self._path:
            os.replace(self._partial, self._path)

    def abandon(self) -> None:
        """Close a film that will not be whole: its beginning is kept, under the other name."""
        try:
            self._container.close()
        except FFmpegError as error:
            _log.warning("the unfinished film %s has no end: %s", self._partial, error.strerror)
        if self._partial == self._path:
            return
        if self._started:
            _log.warning("%s is not written; its beginning is kept in %s", self._path, self._partial)
        else:
            Path(self._partial).unlink(missing_ok=True)

    def _open(self) -> OutputContainer:
        try:
            if self._partial != self._path:
                Path(self._partial).write_bytes(b"")  # so that what forbids it is said before anything runs
            return av.open(self._partial, "w", format=self._choices.format)
        except FFmpegError as error:
            self._raise(error)
        except OSError as error:
            raise OSError(error.errno, f"cannot write the film: {error.strerror}", self._path) from error
        except ValueError as error:
            Path(self._partial).unlink(missing_ok=True)
            raise FormatError(
                f"{self._path} does not tell in which container the film is to be: end its name in .mp4, .mkv, .webm, "
                ".wav … or give format="
            ) from error

    def _begin(self, port: str, frame: object) -> Track:
        if self._started:
            raise FormatError(f"the first frame of input {port!r} came when the film had begun without it")
        track = self._track(frame)
        self._tracks[port] = track
        self._missing.discard(port)
        return track

    def _track(self, frame: object) -> Track:
        form, choices = self._container.format.name, self._choices
        if isinstance(frame, VideoFrame):
            codec = choices.video_codec or _VIDEO.get(form) or self._container.default_video_codec
            return VideoTrack(self._container, codec, frame, choices.pixels, choices.video_options)
        if isinstance(frame, AudioFrame):
            codec = choices.audio_codec or _AUDIO.get(form) or self._container.default_audio_codec
            return AudioTrack(self._container, codec, frame, choices.audio_options)
        if isinstance(frame, Packet):
            return PacketTrack(self._container, frame)
        raise FormatError(f"a film takes pictures, sound and packets, not {type(frame).__name__}")

    def _mux(self, packets: list[av.Packet[Any]]) -> None:
        if not self._started:
            self._held += packets
            self._held_bytes += sum(packet.size for packet in packets)
            if self._held_bytes > _HELD_BYTES and self._missing:
                _log.warning("%s begins without %s: no frame has come", self._path, ", ".join(sorted(self._missing)))
                self._missing.clear()
            if self._missing or not self._held:
                return
            packets, self._held, self._started = self._held, [], True
        try:
            untyped: Any = self._container  # the stubs leave the packets' streams open
            untyped.mux(packets)
        except FFmpegError as error:
            self._raise(error)

    def _raise(self, error: FFmpegError) -> NoReturn:
        number = error.errno or 0
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(number, f"no room to write the film: {os.strerror(number)}", self._path) from error
        if isinstance(error, OSError) and number in errno.errorcode:
            raise OSError(number, f"cannot write the film: {os.strerror(number)}", self._path) from error
        raise FormatError(f"cannot write {self._path}: {error.strerror}") from error


def _partial(path: str) -> str:
    """Return the name under which the film is written; its own where it is no ordinary file."""
    target = Path(path)
    if "://" in path or (target.exists() and not target.is_file()):
        return path
    return str(target.with_name(f"{target.stem}.part{target.suffix}"))
