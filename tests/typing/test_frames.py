"""What the types of frames and formats promise. Read by mypy and pyright; as tests they say the same at run time."""

from __future__ import annotations

from fractions import Fraction
from typing import assert_type

import numpy as np
import pytest
from numpy.typing import NDArray

from rmbus import AudioFrame, Data, Video, VideoFrame


def test_video_frame() -> None:
    """Pixels are bytes to the checkers, and a frame made from another is of the same type."""
    frame = VideoFrame(np.zeros((4, 6, 3), np.uint8), rate=25, pts=2)
    assert_type(frame.array, NDArray[np.uint8])
    assert_type(frame.editable(), NDArray[np.uint8])
    assert_type(frame.format, Video)
    assert_type(frame.with_array(frame.editable()), VideoFrame)
    assert_type(frame.time_base, Fraction)
    assert_type(frame.pts, int | None)
    assert frame.time_base == Fraction(1, 25)


def test_audio_frame() -> None:
    """Samples are floats to the checkers."""
    frame = AudioFrame(np.zeros((2, 480), np.float32), rate=48000)
    assert_type(frame.array, NDArray[np.float32])
    assert_type(frame.rate, int)
    assert_type(frame.layout, str)
    assert frame.layout == "stereo"


def test_frames_do_not_change() -> None:
    """Checkers and the frame itself refuse to set a field."""
    frame = Data({"words": 3})
    with pytest.raises(AttributeError):
        frame.pts = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert frame.value == {"words": 3}
