"""A film from one time to another, once or again and again: one stream, whose times go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import attrs

from rmbus.media import AudioFrame, Frame, Packet
from rmbus.nodes.demuxing import Demuxer


@attrs.frozen
class Part:
    """What of a film is played.

    Attributes:
        start: where to begin, in seconds from its beginning. duration: for how long; None: to its end.
        loop: begin again at the end.
    """

    start: Fraction
    duration: Fraction | None
    loop: bool


class Playback:
    """Plays a part of a film. Where it begins later than the film, times count from there; else they are the film's own.

    Args:
        open_film: opens the film; once at once, so that one that is missing is an error before anything runs.
    """

    def __init__(self, open_film: Callable[[], Demuxer], part: Part) -> None:
        self._open = open_film
        self._part = part
        self._film: Demuxer | None = open_film()

    def frames(self) -> Iterator[tuple[str, Frame]]:
        """Yield a port and a frame, in the order in which the film holds them; each turn follows the one before it."""
        later = Fraction(0)
        while True:
            film = self._film = self._film or self._open()
            base = film.begin + self._part.start
            shift = later - (base if self._part.start else 0)
            end = base
            for port, frame in self._within(film, base):
                if frame.pts is not None:
                    end = max(end, frame.pts * frame.time_base + _lasts(frame))
                yield port, _shifted(frame, shift)
            self.close()
            if not self._part.loop or end == base:
                return
            later += end - base

    def close(self) -> None:
        """Close the film."""
        film, self._film = self._film, None
        if film is not None:
            film.close()

    def _within(self, film: Demuxer, base: Fraction) -> Iterator[tuple[str, Frame]]:
        """Yield the frames of the part; encoded ones from the first key packet on, for decoding begins there."""
        start, duration = self._part.start, self._part.duration
        until = None if duration is None else base + duration
        begun: set[str] = set() if start else {"video", "audio", "packets"}
        seen: set[str] = set()
        over: set[str] = set()
        if start:
            film.seek(base)
        for port, frame in film.frames():
            seen.add(port)
            time = _time(frame)
            if until is not None and time is not None and time >= until:
                over.add(port)
                if over == seen:
                    return
                continue
            if port not in begun and (time is None or time >= base) and getattr(frame, "key", True):
                begun.add(port)
            if port in begun:
                yield port, frame


def _time(frame: Frame) -> Fraction | None:
    """Return when a frame is needed, in seconds: of packets that is when they are decoded."""
    ticks = frame.dts if isinstance(frame, Packet) and frame.dts is not None else frame.pts
    return None if ticks is None else ticks * frame.time_base


def _lasts(frame: Frame) -> Fraction:
    """Return for how long a frame is shown or heard, in seconds; 0 where it does not say."""
    if isinstance(frame, AudioFrame):
        return Fraction(frame.array.shape[1], frame.rate)
    if isinstance(frame, Packet):
        return frame.duration * frame.time_base
    rate = getattr(frame.format, "rate", None)
    return Fraction(0) if not rate else 1 / Fraction(rate)


def _shifted(frame: Frame, by: Fraction) -> Frame:
    """Return a frame so many seconds later."""
    if not by:
        return frame
    ticks = round(by / frame.time_base)
    pts = None if frame.pts is None else frame.pts + ticks
    if isinstance(frame, Packet):
        return Packet(
            frame.data,
            frame.format,
            key=frame.key,
            dts=None if frame.dts is None else frame.dts + ticks,
            duration=frame.duration,
            pts=pts,
            time_base=frame.time_base,
            captured_ns=frame.captured_ns,
        )
    return frame.stamped(pts=pts)
