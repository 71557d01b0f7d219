"""A film from one time to another, once or again and again: one stream, whose times go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import attrs

from rmbus.errors import FormatError
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
    """Plays a part of a film. One that begins later counts its times from there; else they are the film's own.

    Args:
        open_film: opens the film; once at once, so that one that is missing is an error before anything runs.
    """

    def __init__(self, open_film: Callable[[], Demuxer], part: Part) -> None:
        self._open = open_film
        self._part = part
        self._film: Demuxer | None = open_film()

    def frames(self) -> Iterator[tuple[str, Frame]]:
        """Yield a port and a frame, in the order in which the film holds them; each turn follows the one before it.

        Raises:
            FormatError: the film is to be played again, or from a later time, and tells no times.
        """
        later = Fraction(0)
        while True:
            film = self._film = self._film or self._open()
            base = film.begin + self._part.start
            shift = later - (base if self._part.start else 0)
            end = base
            has_come = False
            for port, frame in self._within(film, base):
                has_come = True
                if frame.pts is not None:
                    end = max(end, frame.pts * frame.time_base + _lasts(frame, film.rate))
                yield port, _shifted(frame, shift)
            self.close()
            if not self._part.loop or not has_come:
                return
            if end == base:
                raise FormatError(f"{film.url} cannot be played again at its end: its frames have no times")
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
        begun = set[str]() if start else set(film.ports)
        over = set[str]()
        if start:
            film.seek(base)
        for port, frame in film.frames():
            if until is not None and _is_behind(frame, until):
                over.add(port)
                if over == film.ports:
                    return
                continue
            if port not in begun and _is_key(frame) and not _is_before(frame, base):
                begun.add(port)
            if port in begun:
                yield port, frame


def _is_before(frame: Frame, time: Fraction) -> bool:
    return frame.pts is not None and frame.pts * frame.time_base < time


def _is_behind(frame: Frame, time: Fraction) -> bool:
    """Tell whether a frame is not needed any more at a time: a packet is needed when it is decoded."""
    ticks = frame.dts if isinstance(frame, Packet) and frame.dts is not None else frame.pts
    return ticks is not None and ticks * frame.time_base >= time


def _is_key(frame: Frame) -> bool:
    return frame.key if isinstance(frame, Packet) else True


def _lasts(frame: Frame, rate: Fraction | None) -> Fraction:
    """Return for how long a frame is shown or heard, in seconds; 0 where nothing tells it."""
    if isinstance(frame, AudioFrame):
        return Fraction(frame.array.shape[1], frame.rate)
    if isinstance(frame, Packet) and frame.duration:
        return frame.duration * frame.time_base
    return 1 / rate if rate else Fraction(0)


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
