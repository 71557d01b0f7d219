"""One thread that waits for many things: ZeroMQ sockets, descriptors, timers and calls from other threads.

Descriptors are watched level-triggered. A ZeroMQ socket is watched by its own descriptor, which tells of changes only,
and only once: so each is asked what it has (`ZMQ_EVENTS`) before every wait, and no event is missed whatever was done
with it in between. Nothing is called back in another thread.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
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
        self._epoll = select.epoll()
        self._readers: dict[int | Socket, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._sockets: dict[Socket, int] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._calls: deque[Callback] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._stopping = False
        self._is_stale = False
        self.add(self._wake, self._woken)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to serve, for whoever waits for more."""
        return self._epoll.fileno()

    def add(self, source: int | Socket, callback: Callback) -> None:
        """Call `callback` whenever `source` is readable."""
        if source not in self._readers:
            if isinstance(source, int):
                self._epoll.register(source, select.EPOLLIN)
            else:
                self._sockets[source] = int(source.getsockopt(zmq.FD))
                self._epoll.register(self._sockets[source], select.EPOLLIN)
        self._readers[source] = callback

    def remove(self, source: int | Socket) -> None:
        """Stop watching `source`; harmless when it is not watched."""
        if self._readers.pop(source, None) is None:
            return
        if not isinstance(source, int):
            self._epoll.unregister(self._sockets.pop(source))
        else:
            self._writers.pop(source, None)
            self._epoll.unregister(source)
            self._is_stale = True

    def add_writer(self, source: int | Socket, callback: Callback) -> None:
        """Call `callback` once, when a descriptor, which is being watched, takes more. ZeroMQ sockets queue."""
        if not isinstance(source, int):
            return
        self._writers[source] = callback
        self._epoll.modify(source, select.EPOLLIN | select.EPOLLOUT)

    @property
    def is_called(self) -> bool:
        """Whether something that was asked for by `call_soon` has not been done yet."""
        return bool(self._calls)

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

    def serve_once(self, *, wait: bool) -> bool:
        """Make one round: run what is due; with `wait`, until something is. Whether anything was."""
        served = self._serve_sockets() if self._sockets else False
        found = self._epoll.poll(self._timeout_s() if wait and not served else 0)
        self._is_stale = False
        return self._serve_found(found) or served

    def wait(self, timeout_s: float | None = None) -> list[tuple[int, int]]:
        """Wait until there is something to serve, and return what, for `serve`. Nothing is called back meanwhile."""
        return self._epoll.poll(timeout_s)

    def serve(self, found: list[tuple[int, int]]) -> None:
        """Serve what `wait` has found, and all ZeroMQ sockets; what is not there any more is left out."""
        self._is_stale = False
        if self._sockets:
            self._serve_sockets()
        self._serve_found(found)

    def _serve_found(self, found: list[tuple[int, int]]) -> bool:
        """Call back for descriptors that have something, and for timers; whether there was one."""
        served = False
        for descriptor, events in found:
            served = True
            if self._is_stale:
                break  # a number may have been given away and be another's by now; what is left is told again
            if events & select.EPOLLOUT and descriptor in self._writers:
                self._epoll.modify(descriptor, select.EPOLLIN)
                self._writers.pop(descriptor)()
            callback = self._readers.get(descriptor)  # an earlier callback of this round may have removed it
            if callback is not None and events & ~select.EPOLLOUT:
                callback()
        return self._run_timers() or served if self._timers else served

    def _serve_sockets(self) -> bool:
        """Call back for each ZeroMQ socket that has something; whether any had."""
        served = False
        for socket in list(self._sockets):
            if socket in self._sockets and int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                self._readers[socket]()
                served = True
        return served

    def close(self) -> None:
        """Give the wake-up descriptor back."""
        with self._lock:
            self.remove(self._wake)
            os.close(self._wake)
            self._wake = -1
            self._epoll.close()

    def _timeout_s(self) -> float | None:
        timers = self._timers
        while timers and timers[0][2].cancelled:
            heapq.heappop(timers)
        return max(0.0, timers[0][0] - time.monotonic()) if timers else None

    def _run_timers(self) -> bool:
        """Call back for each timer whose time has come; whether there was one."""
        now, ran = time.monotonic(), False
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                ran = True
                timer.callback()
        return ran

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):  # whoever served in between has read it
            os.eventfd_read(self._wake)
        while self._calls:
            self._calls.popleft()()
