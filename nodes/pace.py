"""Showing frames at the speed of their own clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

_LOOK_S = 0.05


class Pace:
    """Waits until frames are due, by their presentation times and a clock that never jumps."""

    def __init__(self) -> None:
        self._origin: float | None = None
        self._closed = threading.Event()

    def wait(self, time_s: float | None) -> Iterator[None]:
        """Yield None now and then until a frame of that time is due; the first frame is due at once.

        So a source that passes the None on gives its runtime room to stop it.
        """
        if time_s is None:
            return
        if self._origin is None:
            self._origin = time.monotonic() - time_s
        while (left := self._origin + time_s - time.monotonic()) > 0 and not self._closed.is_set():
            self._closed.wait(min(left, _LOOK_S))
            yield None

    def close(self) -> None:
        """Let whoever waits go on; from any thread."""
        self._closed.set()
