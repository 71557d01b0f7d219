"""One thread that waits for many things: ZeroMQ sockets, descriptors, timers and calls from other threads.

Level-triggered by `zmq.Poller`, so that no event is ever missed, and free of callbacks in other threads.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable

import zmq

from rmbus.transport.sockets import Socket

Callback = Callable[[], object]


class Timer:
    """A call at a time; `cancel()` takes it back."""

    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Take the call back; harmless when it has been made."""
        self.cancelled = True


class Reactor:
    """Runs callbacks for readable sockets and descriptors, for timers, and for `call_soon` from any thread."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._readers: dict[int | Socket, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._calls: deque[Callback] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._stopping = False
        self.add(self._wake, self._woken)

    def add(self, source: int | Socket, callback: Callback) -> None:
        """Call `callback` whenever `source` is readable."""
        self._readers[source] = callback
        self._poller.register(source, zmq.POLLIN)

    def remove(self, source: int | Socket) -> None:
        """Stop watching `source`; harmless when it is not watched."""
        if self._readers.pop(source, None) is not None:
            self._poller.unregister(source)

    def watches(self, source: int | Socket) -> bool:
        """Whether `source` is being watched."""
        return source in self._readers

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        """Call `callback` once, `delay_s` seconds from now."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def call_soon(self, callback: Callback) -> None:
        """Call `callback` from the reactor's thread. May be called from any thread; after `close` nothing happens."""
        with self._lock:
            if self._wake >= 0:
                self._calls.append(callback)
                os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Let `run` return after the callbacks of this round."""
        self._stopping = True

    def run(self) -> None:
        """Serve until `stop` is called."""
        while not self._stopping:
            self.serve_once(wait=True)

    def serve_once(self, *, wait: bool) -> None:
        """Make one round: run what is due; with `wait`, until something is."""
        for source, _ in self._poller.poll(self._timeout_ms() if wait else 0):
            callback = self._readers.get(source)  # an earlier callback of this round may have removed it
            if callback is not None:
                callback()
        self._run_timers()

    def close(self) -> None:
        """Give the wake-up descriptor back."""
        with self._lock:
            self.remove(self._wake)
            os.close(self._wake)
            self._wake = -1

    def _timeout_ms(self) -> int | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0, int((self._timers[0][0] - time.monotonic()) * 1000) + 1)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.callback()

    def _woken(self) -> None:
        os.eventfd_read(self._wake)
        while self._calls:
            self._calls.popleft()()
