"""Sends what waits at a node's outputs while the node's own code runs, and its data thread can do nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 0.002
"""What waits is seen to when the data thread has done nothing for so long; then after twice that time, and so on."""

MOST_S: Final = 0.016
"""The longest time between two looks."""


class Attendant:
    """A thread that stands in for the data thread while that runs the user's code.

    The data thread holds the lock, but not while the user's code runs; so of the two never more than one is at work.
    It costs nothing while nothing waits.

    Args:
        attend: sends what can be sent; whether something still waits.
        progress: a number that changes whenever the data thread has got something done.
        broken: called with what `attend` has raised.

    Attributes:
        lock: that of the data thread.
        is_needed: whether something may wait.
    """

    def __init__(
        self, attend: Callable[[], bool], progress: Callable[[], int], broken: Callable[[BaseException], None]
    ) -> None:
        self.lock = threading.RLock()
        self._attend, self._progress, self._broken = attend, progress, broken
        self._needed = threading.Event()
        self._over = threading.Event()
        self.is_needed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to stand by."""
        self._thread = threading.Thread(target=self._run, name="rmbus-attendant", daemon=True)
        self._thread.start()

    def need(self) -> None:
        """Something waits. Called by whoever holds the lock."""
        if not self.is_needed:
            self.is_needed = True
            self._needed.set()

    def end(self) -> None:
        """Nothing is attended to any more. Called by whoever does not hold the lock; harmless where it never began."""
        self._over.set()
        self._needed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        patience_s = PATIENCE_S
        while True:
            self._needed.wait()
            before = self._progress()
            if self._over.wait(patience_s):
                return
            if self._progress() != before:
                patience_s = PATIENCE_S
                continue
            with self.lock:
                if self._over.is_set():
                    return
                try:
                    self.is_needed = self._attend()
                except BaseException as error:  # noqa: BLE001 - the data thread raises it
                    self._broken(error)
                    return
                if self.is_needed:
                    patience_s = min(2 * patience_s, MOST_S)
                else:
                    self._needed.clear()
                    patience_s = PATIENCE_S
