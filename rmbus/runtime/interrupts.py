"""How the user's code is stopped when nobody waits for it any more, or its time is over: an exception in its thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final, TypeVar

CANCEL: Final = signal.SIGUSR2
LIMIT: Final = signal.SIGALRM

_T = TypeVar("_T")

AGAIN_S: Final = 0.5
"""Code that goes on when its time is over is told so again."""

Key = tuple[str, int]
"""What runs: the port of its caller, and the caller's number for it."""


class Interrupted(BaseException):
    """Raised in the user's code, which is to end."""


class Interrupts:
    """Stops what runs in the main thread, which has made this. Code that never returns to Python cannot be stopped."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._running: Key | None = None
        self._cancelled: Key | None = None
        self._is_limited = False
        self.was_late = False
        signal.signal(CANCEL, self._arrived)
        signal.signal(LIMIT, self._arrived)

    def run(self, key: Key, limit_s: float, call: Callable[[], _T]) -> _T:
        """Call something that can be stopped: by `cancel(key)`, or when its time is over (0: it has any).

        Raises:
            Interrupted: it was; `was_late` says whether by the time. Whatever `call` raises.
        """
        self.was_late, self._cancelled = False, None
        try:
            self._running = key
            if limit_s:
                self._is_limited = True
                signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)
            return call()
        finally:
            self._leave()

    def _leave(self) -> None:
        """Nothing runs any more: what arrives from the first line of this on stops nothing."""
        self._running = None
        if self._is_limited:
            self._is_limited = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    @property
    def running(self) -> Key | None:
        """The key of what runs now, None where nothing does."""
        return self._running

    def cancel(self, key: Key) -> bool:
        """Stop what runs under a key, from another thread; whether it ran."""
        if self._running != key:
            return False
        self._cancelled = key
        signal.pthread_kill(self._thread, CANCEL)
        return True

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._running is None or (frame is not None and frame.f_code is Interrupts._leave.__code__):
            return  # it has ended meanwhile
        if number == LIMIT:
            self.was_late = True
        elif self._cancelled != self._running:
            return  # what was meant has ended, and another runs
        raise Interrupted
