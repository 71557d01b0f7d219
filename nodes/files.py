"""Reading and writing films."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from rmbus.errors import PipelineError
from rmbus.formats import Audio, Encoded, Video
from rmbus.media import Frame
from rmbus.node import Input, Node, Output
from rmbus.nodes.demuxing import Demuxer, MediaInfo, describe, open_film
from rmbus.nodes.muxing import Choices, Muxer
from rmbus.nodes.pace import Pace
from rmbus.nodes.playing import Part, Playback

_RUNNING = ("_film", "_pace")


def _place(url: str | os.PathLike[str], format: str | None) -> str:
    """Return a path that means the same in another folder; addresses and devices as they are."""
    text = os.fspath(url)
    return text if format is not None or "://" in text else os.path.abspath(os.path.expanduser(text))


def _seconds(value: float) -> Fraction:
    """Return a time as it is written: 0.28 is seven pictures of 25 in a second, and not a little more."""
    return Fraction(str(value))


class _WithFilm(Node):
    def get_state(self) -> Any:
        """Return the parameters: an open film does not travel."""
        return {name: value for name, value in super().get_state().items() if name not in _RUNNING}


class MediaReader(_WithFilm):
    """Reads a film, a sound or a picture: whatever FFmpeg reads. A source.

    Only what is joined is decoded. An output whose stream the file lacks just ends. Frames come in the order in which
    the file holds them, with its own pts and time base.

    Args:
        url: a path or an address.
        start_s: where to begin, in seconds from the film's beginning; times then count from there.
        duration_s: for how long, in seconds; None: to its end.
        loop: begin again at the end, with times that go on.
        realtime: frames come at the speed of their own clock, not as fast as they can.
        pixels: pictures are converted to these.
        format: FFmpeg's name of the container or device, where it cannot be told: "v4l2", "lavfi".
        options: for FFmpeg: {"framerate": "30"}.
    """

    video = Output(Video())
    """The pictures of the video stream."""
    audio = Output(Audio())
    """The sound of the best audio stream, in samples of the codec's own format."""
    packets = Output(Encoded())
    """The packets of the video stream as they are; decoding can start at any key packet, with nothing beside it."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        start_s: float = 0,
        duration_s: float | None = None,
        loop: bool = False,
        realtime: bool = False,
        pixels: str = "rgb24",
        format: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        if not 0 <= start_s < math.inf:
            raise ValueError(f"start_s is a time from 0 on, in seconds, not {start_s}")
        if duration_s is not None and not 0 < duration_s < math.inf:
            raise ValueError(f"duration_s is a time above 0, in seconds, not {duration_s}")
        self.url = _place(url, format)
        self.part = Part(_seconds(start_s), None if duration_s is None else _seconds(duration_s), loop)
        self.realtime = realtime
        self.pixels = pixels
        self.format = format
        self.film_options = dict(options or {})

    @staticmethod
    def probe(
        url: str | os.PathLike[str], *, format: str | None = None, options: Mapping[str, str] | None = None
    ) -> MediaInfo:
        """Return what a film says of itself: duration, frames, size, rate, codecs.

        Raises:
            FormatError: FFmpeg cannot read it. OSError: it is not there, or may not be read.
        """
        with open_film(_place(url, format), format, options or {}) as container:
            return describe(container)

    def initialize(self) -> None:
        """Open the film.

        Raises:
            FormatError: FFmpeg cannot read it. OSError: it is not there, or may not be read.
        """
        joined = frozenset(getattr(self, "joined_outputs", ("video", "audio", "packets")))
        self._pace = Pace()
        film = partial(Demuxer, self.url, joined, self.pixels, self.format, self.film_options)
        self._film = Playback(film, self.part)

    def process(self) -> Iterator[tuple[Output, Frame] | None]:
        """Yield the frames of the outputs that are joined; None now and then while it waits for the time of one."""
        outputs = {"video": self.video, "audio": self.audio, "packets": self.packets}
        for port, frame in self._film.frames():
            if self.realtime:
                yield from self._pace.wait(frame.time_s)
            yield outputs[port], frame

    def cleanup(self) -> None:
        """Close the film."""
        if hasattr(self, "_film"):
            self._pace.close()
            self._film.close()


class MediaWriter(_WithFilm):
    """Writes a film or a sound.

    Frames keep their times, and none is doubled or left out. The film gets its name when it is whole: until then it is
    `name.part.mp4` beside it, where the beginning also stays when the run fails.

    Args:
        path: the film; the end of its name chooses the container, and with it the codecs: H.264 and AAC in mp4, mov,
            mkv and ts, VP9 and Opus in webm. An existing film is replaced.
        video_codec, audio_codec: FFmpeg's names of encoders: "ffv1" in mkv is without any loss.
        pixels: the pixel format in the film; by default yuv420p, or one without loss where the codec is.
        format: FFmpeg's name of the container, where the name does not tell.
        video_options, audio_options: for the encoders: {"crf": "23", "preset": "slow"}.
    """

    video = Input(Video(), optional=True)
    """Pictures, all of one size."""
    audio = Input(Audio(), optional=True)
    """Sound."""
    packets = Input(Encoded(), optional=True)
    """Encoded video, which is written as it is."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        video_codec: str | None = None,
        audio_codec: str | None = None,
        pixels: str | None = None,
        format: str | None = None,
        video_options: Mapping[str, str] | None = None,
        audio_options: Mapping[str, str] | None = None,
    ) -> None:
        self.path = _place(path, None)
        self.choices = Choices(
            format, video_codec, audio_codec, pixels, dict(video_options or {}), dict(audio_options or {})
        )

    def initialize(self) -> None:
        """Make the file.

        Raises:
            PipelineError: no input is joined. FormatError: no container is known by that name. OSError: it cannot be
                written there.
        """
        joined = frozenset(getattr(self, "joined_inputs", ("video", "audio", "packets")))
        if not joined:
            raise PipelineError(f"nothing is joined to the writer of {self.path}: join its video, audio or packets")
        self._film: Muxer | None = Muxer(self.path, joined, self.choices)

    def process(self, frame: Frame, port: str) -> None:
        """Write a frame."""
        assert self._film is not None
        self._film.write(port, frame)

    def ended(self, port: str) -> None:
        """An input has ended: the film need not wait for its first frame."""
        if self._film is not None:
            self._film.ended(port)

    def flush(self) -> None:
        """Finish the film and give it its name."""
        assert self._film is not None
        self._film.finish()
        self._film = None

    def cleanup(self) -> None:
        """Close a film that has not been finished, and say where its beginning is."""
        film = getattr(self, "_film", None)
        if film is not None:
            self._film = None
            film.abandon()
