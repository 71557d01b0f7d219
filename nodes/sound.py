"""Sound made and worked on with numpy: tones, pieces of one length, gain, levels, and where somebody speaks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from rmbus.formats import Audio
from rmbus.layouts import Array, channel_count
from rmbus.media import AudioFrame, Data
from rmbus.node import Input, Node, Output
from rmbus.nodes.pace import Pace

FLOOR_DB: Final = -120.0
"""The level of silence: below it nothing is told apart."""

MOST_DB: Final = 200.0
"""The greatest gain, up or down."""

_JUMP_S: Final = 0.01


class Tone(Node):
    """A sine, or silence. A source; the same arguments give the same sound.

    Args:
        frequency: in Hz, below half of the rate; 0 is silence.
        rate: samples in a second.
        layout: FFmpeg's name of the channels, which are all alike.
        level_db: of the peak, in decibels below full scale.
        duration_s: how long, in seconds; None for no end.
        samples: of each channel in a frame.
        realtime: it comes at its own speed, not as fast as it can.
    """

    deterministic = True

    audio = Output(Audio("fltp"))
    """The sound."""

    def __init__(
        self,
        frequency: float = 440.0,
        *,
        rate: int = 48_000,
        layout: str = "mono",
        level_db: float = -6.0,
        duration_s: float | None = None,
        samples: int = 1024,
        realtime: bool = False,
    ) -> None:
        if not 0 <= frequency < rate / 2:
            raise ValueError(f"a tone at {rate} Hz has 0 to {rate / 2:g} Hz, not {frequency}")
        if type(samples) is not int or samples < 1:
            raise ValueError(f"a frame has one sample at least, not {samples!r}")
        if not level_db <= 0:
            raise ValueError(f"a level is 0 dB or below, not {level_db}")
        if duration_s is not None and not 0 < duration_s < math.inf:
            raise ValueError(f"a tone is longer than 0 s, not {duration_s}")
        self.frequency, self.rate, self.layout, self.level_db = frequency, rate, layout, level_db
        self.channels = channel_count(layout)
        self.duration_s, self.samples, self.realtime = duration_s, samples, realtime

    def process(self) -> Iterator[AudioFrame | None]:
        """Yield the sound; None now and then while it waits for the time of a frame."""
        peak = 10 ** (self.level_db / 20) if self.frequency else 0.0
        whole = None if self.duration_s is None else round(self.duration_s * self.rate)
        pace = Pace()
        for begin in itertools.count(0, self.samples) if whole is None else range(0, whole, self.samples):
            numbers = np.arange(begin, begin + self.samples if whole is None else min(begin + self.samples, whole))
            turns = numbers * self.frequency / self.rate % 1.0  # the sine of a large number is not exact
            sound = (peak * np.sin(2 * np.pi * turns)).astype(np.float32)
            frame = AudioFrame(np.tile(sound, (self.channels, 1)), self.rate, layout=self.layout, pts=begin)
            if self.realtime:
                yield from pace.wait(frame.time_s)
            yield frame


class Chunk(Node):
    """Cuts sound into pieces of one length. The last piece of a sound is shorter.

    Another format, or a leap of more than 10 ms in the times, begins a new sound: what is held comes out first.

    Args:
        samples: of each channel in a piece.
        pad: the last piece is filled up with silence.
    """

    deterministic = True

    in_ = Input(Audio())
    """Sound in pieces of any length."""
    out = Output(Audio())
    """The same sound, sample by sample."""

    def __init__(self, samples: int = 1024, *, pad: bool = False) -> None:
        if type(samples) is not int or samples < 1:
            raise ValueError(f"a piece has one sample at least, not {samples!r}")
        self.samples = samples
        self.pad = pad
        self._held: list[AudioFrame] = []
        self._count = 0

    def process(self, frame: AudioFrame) -> Iterator[AudioFrame]:
        """Keep the frame; yield the pieces that are full."""
        if not frame.array.size:
            return
        if self._held and not self._goes_on(frame):
            yield from self.flush()
        self._held.append(frame)
        self._count += frame.array.shape[1]
        if self._count < self.samples:
            return
        sound, first = self._joined(), self._held[0]
        whole = self._count - self._count % self.samples
        for begin in range(0, whole, self.samples):
            yield _part(first, sound[:, begin : begin + self.samples], begin)
        rest = sound[:, whole:]
        self._held = [_part(first, rest.copy(), whole)] if rest.size else []
        self._count = rest.shape[1]

    def flush(self) -> Iterator[AudioFrame]:
        """Yield what is held, if anything."""
        held, sound = self._held, self._joined() if self._held else None
        self.interrupted()
        if sound is None:
            return
        if self.pad:
            silence = np.full((len(sound), self.samples - sound.shape[1]), _middle(sound), sound.dtype)
            sound = np.concatenate([sound, silence], axis=1)
        yield _part(held[0], sound, 0)

    def interrupted(self) -> None:
        """Forget what is held."""
        self._held, self._count = [], 0

    def _goes_on(self, frame: AudioFrame) -> bool:
        last = self._held[-1]
        if frame.format != last.format:
            return False
        if last.time_s is None or frame.time_s is None:
            return last.time_s is frame.time_s
        return abs(frame.time_s - last.time_s - last.duration_s) <= _JUMP_S

    def _joined(self) -> Array:
        return np.concatenate([each.array for each in self._held], axis=1)


class Gain(Node):
    """Makes sound louder or softer. Samples that are whole numbers stay within their range; floats are not cut off.

    Args:
        db: by how much, in decibels; 6.02 doubles, -6.02 halves.
    """

    deterministic = True

    in_ = Input(Audio())
    """Sound."""
    out = Output(Audio())
    """The same sound, louder or softer."""

    def __init__(self, db: float) -> None:
        if not -MOST_DB <= db <= MOST_DB:
            raise ValueError(f"a gain is -{MOST_DB:g} to {MOST_DB:g} decibels, not {db}")
        self.db = db

    def process(self, frame: AudioFrame) -> Array:
        """Return the samples times the factor."""
        factor, array = 10 ** (self.db / 20), frame.array
        if array.dtype.kind == "f":
            return array * array.dtype.type(factor)
        middle, limits = _middle(array), _range(array)
        louder = np.rint((array.astype(np.float64) - middle) * factor) + middle
        return louder.clip(limits.min, limits.max).astype(array.dtype)


class LevelMeter(Node):
    """Tells how loud each channel is, again and again.

    Args:
        interval_s: for how long each reading is, in seconds.
    """

    deterministic = True

    in_ = Input(Audio())
    """Sound."""
    out = Output(dict)
    """For each interval `{"rms_db": [...], "peak_db": [...]}`, a number for each channel, in decibels below full scale,
    -120 for silence; its time is that of the first sample."""

    def __init__(self, interval_s: float = 0.1) -> None:
        if not 0 < interval_s < math.inf:
            raise ValueError(f"an interval is longer than 0 s, not {interval_s}")
        self.interval_s = interval_s
        self._chunks: Chunk | None = None
        self._rate = 0

    def process(self, frame: AudioFrame) -> Iterator[Data]:
        """Yield the readings that are complete."""
        if self._chunks is None or frame.rate != self._rate:
            yield from self.flush()
            self._rate = frame.rate
            self._chunks = Chunk(max(1, round(self.interval_s * frame.rate)))
        yield from map(_reading, self._chunks.process(frame))

    def flush(self) -> Iterator[Data]:
        """Yield the last reading, of what there is."""
        chunks, self._chunks = self._chunks, None
        if chunks is not None:
            yield from map(_reading, chunks.flush())

    def interrupted(self) -> None:
        """Forget what is held."""
        self._chunks = None


class VoiceActivity(Node):
    """Tells where somebody speaks, by energy: loud enough windows of each frame are counted.

    Args:
        threshold: the RMS of a window from which on it counts as speech, 0 to 1 of full scale.
        share: of a frame's windows that must at least, for it to be speech, 0 to 1.
        window_s: the length of a window, in seconds.
        only_speech: frames without speech are left out of `audio`.
    """

    deterministic = True

    in_ = Input(Audio())
    """Sound."""
    audio = Output(Audio())
    """The sound; with `only_speech` the frames with speech."""
    activity = Output(dict)
    """For each frame `{"is_speech": bool, "speech_ratio": 0..1, "avg_energy": 0..1}`, at its time."""

    def __init__(
        self, threshold: float = 0.02, *, share: float = 0.3, window_s: float = 0.03, only_speech: bool = False
    ) -> None:
        for what, value in (("threshold", threshold), ("share", share)):
            if not 0 <= value <= 1:
                raise ValueError(f"{what} is 0 to 1, not {value}")
        if not 0 < window_s < math.inf:
            raise ValueError(f"a window is longer than 0 s, not {window_s}")
        self.threshold, self.share, self.window_s, self.only_speech = threshold, share, window_s, only_speech

    def process(self, frame: AudioFrame) -> Iterator[tuple[Output, Any]]:
        """Yield the frame and what is told of it."""
        energies = self._energies(frame)
        ratio = float(np.mean(energies >= self.threshold)) if energies.size else 0.0
        energy = float(energies.mean()) if energies.size else 0.0
        is_speech = ratio > 0 and ratio >= self.share
        if is_speech or not self.only_speech:
            yield self.audio, frame
        told = {"is_speech": is_speech, "speech_ratio": ratio, "avg_energy": energy}
        yield self.activity, told

    def _energies(self, frame: AudioFrame) -> NDArray[np.float64]:
        """Return the RMS of each window, over all channels; one that is cut short by the end counts from half on."""
        sound = _floats(frame.array)
        length = max(1, round(self.window_s * frame.rate))
        count = max(1, round(sound.shape[1] / length))
        windows = np.array_split(sound, range(length, count * length, length), axis=1)
        return np.array([math.sqrt(np.mean(np.square(each))) for each in windows if each.size])


def _part(like: AudioFrame, array: Array, begin: int) -> AudioFrame:
    """Return a part of a sound that began with a frame; its time is so many samples later, by a clock of samples."""
    part = like.with_array(array)
    if like.pts is None:
        return part
    base = Fraction(1, like.rate)
    return part.stamped(pts=round(like.pts * like.time_base / base) + begin, time_base=base)


def _reading(frame: AudioFrame) -> Data:
    sound = _floats(frame.array)
    rms, peak = np.sqrt(np.mean(np.square(sound), axis=1)), np.abs(sound).max(axis=1)
    told = {"rms_db": _decibels(rms), "peak_db": _decibels(peak)}
    return Data(told, pts=frame.pts, time_base=frame.time_base, captured_ns=frame.captured_ns)


def _decibels(values: NDArray[np.float64]) -> list[float]:
    return [max(FLOOR_DB, 20 * math.log10(value)) if value > 0 else FLOOR_DB for value in values.tolist()]


def _middle(array: Array) -> int:
    """Return what silence is: unsigned samples lie around the middle of their range."""
    return 128 if array.dtype == np.uint8 else 0


def _range(array: Array) -> np.iinfo[np.int64]:
    """Return the range of samples that are whole numbers."""
    return np.iinfo(cast(Any, array.dtype))


def _floats(array: Array) -> NDArray[np.float64]:
    """Return samples as floats, -1..1."""
    floats = array.astype(np.float64)
    if array.dtype.kind == "f":
        return floats
    middle = _middle(array)
    return (floats - middle) / (_range(array).max + 1 - middle)
