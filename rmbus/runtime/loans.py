"""A frame that is lent to be written to, and sent when that is done."""

from __future__ import annotations

import numpy as np

from rmbus.errors import FormatError
from rmbus.media import AudioFrame, VideoFrame
from rmbus.stamps import put, remember
from rmbus.transport.memory import Held


class Loan:
    """A frame like another, writable until it is finished.

    Args:
        model: what it is like. held: shared memory for its content; None: it is on the heap, and all zeros at first.

    Attributes:
        frame: what is written to. held: the memory.
    """

    def __init__(self, model: VideoFrame | AudioFrame, held: Held | None) -> None:
        if held is None:
            array = np.zeros_like(model.array)
        else:
            array = held.view().view(model.array.dtype).reshape(model.array.shape)
        self.frame = model.with_array(array)
        put(self.frame, "array", array)
        self._array, self.held = array, held

    def seal(self) -> None:
        """Nothing more can be written."""
        self._array.setflags(write=False)

    def finish(self) -> VideoFrame | AudioFrame:
        """Return what was written, as a frame to be sent; nothing more can be written."""
        sent = remember(self.frame.with_array(self._array), self.held)
        self.seal()
        put(self.frame, "array", sent.array)
        return sent


def model_of(like: object) -> VideoFrame | AudioFrame:
    """Return the frame that a loan is to be like.

    Raises:
        FormatError: it is none that can be lent.
    """
    if isinstance(like, VideoFrame | AudioFrame):
        return like
    raise FormatError(f"loan() lends a video or audio frame: give `like=` one, not {type(like).__name__}")
