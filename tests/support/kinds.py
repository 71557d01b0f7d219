"""Frames of every kind and size, each filled with what its number says, so that whoever gets one can check it whole."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from rmbus import AudioFrame, Data, Packet, VideoFrame
from rmbus.media import Frame
from rmbus.protocol.limits import INLINE_BYTES

PICTURES: Final = {
    "small": (16, 16),
    "most inline": (256, 256),  # exactly as many bytes as ride with a header
    "least apart": (1, INLINE_BYTES + 1),
    "large": (400, 300),
}
SOUNDS: Final = {
    "planar": ("fltp", 500),
    "large planar": ("fltp", 30_000),
    "interleaved": ("s16", 500),
    "large interleaved": ("s16", 30_000),
    "silent": ("fltp", 0),  # no bytes at all
}
ARRAYS: Final = {"few numbers": 10, "many numbers": 50_000}
TEXTS: Final = {"word": 5, "book": 200_000}
PACKETS: Final = {"packet": 100, "large packet": 100_000}
KINDS: Final = [*PICTURES, *SOUNDS, *ARRAYS, *TEXTS, *PACKETS, "nothing"]
"""Next to each other are frames of different formats, and small ones beside large ones."""


def fill_of(number: int) -> int:
    """Return the value that fills a frame of that number."""
    return number % 120


def make(kind: str, number: int) -> Frame:
    """Return a frame of a kind; its pts is its number."""
    fill = fill_of(number)
    if kind in PICTURES:
        return VideoFrame(np.full(PICTURES[kind], fill, np.uint8), pts=number)
    if kind in SOUNDS:
        samples, length = SOUNDS[kind]
        dtype = np.float32 if samples == "fltp" else np.int16
        return AudioFrame(np.full((2, length), fill, dtype), 48_000, samples=samples, layout="stereo", pts=number)
    if kind in PACKETS:
        return Packet(bytes([fill]) * PACKETS[kind], "h264", key=True, pts=number)
    return Data(_value(kind, fill), pts=number)


def flaw(frame: Frame, kind: str) -> str:
    """Say what is wrong with a frame of a kind, "" where nothing is."""
    assert frame.pts is not None
    wanted = make(kind, frame.pts)
    if type(frame) is not type(wanted) or (frame.format != wanted.format and not isinstance(frame, Data)):
        return f"{frame.pts}: {frame.format} where {wanted.format} was due"
    if content(frame) != content(wanted):
        return f"{frame.pts}: its {kind} holds something else"
    return ""


def content(frame: Frame) -> object:
    """Return what a frame holds, to be compared."""
    if isinstance(frame, VideoFrame | AudioFrame):
        return frame.array.shape, frame.array.tobytes()
    if isinstance(frame, Packet):
        return frame.data, frame.key
    value: Any = frame.value
    return value.tobytes() if isinstance(value, np.ndarray) else value


def _value(kind: str, fill: int) -> object:
    if kind in ARRAYS:
        return np.full(ARRAYS[kind], fill, np.int32)
    return None if kind == "nothing" else chr(97 + fill % 26) * TEXTS[kind]
