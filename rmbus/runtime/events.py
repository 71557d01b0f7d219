"""What hosts tell of their sessions, as whoever listens takes it in. It is best effort: what was missed is counted."""

from __future__ import annotations

import os
import weakref
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import zmq

from rmbus import framing, media
from rmbus.errors import Closed, HostError, RmbusError
from rmbus.media import Frame
from rmbus.protocol.published import EVENTS, decode_published, subscription
from rmbus.runtime.awaiting import awaited
from rmbus.runtime.forks import own
from rmbus.transport.reactor import Reactor
from rmbus.transport.security import Connection
from rmbus.transport.sockets import Socket, open_socket

LOOK_S: Final = 0.25
"""How often it is looked whether what the events are of is over; what has been told by then is still given."""

KEPT: Final = 1000
"""Events that wait here; further ones are missed."""


class EventIntake:
    """The events of some hosts. All but `dropped` and `wake` is for one thread at a time.

    Args:
        connections: to the hosts. ends: whether what the events are of is over; None: they end with an error when a
            host does.

    Attributes:
        is_over: whether nothing more comes.
        look_s: how often `take` is to be called where it is not waited in.
    """

    def __init__(self, connections: Sequence[Connection], ends: Callable[[], bool] | None = None) -> None:
        self.is_over = False
        self.look_s = None if ends is None else LOOK_S
        self._ends = ends
        self._inbox: deque[Frame] = deque()
        self._next: dict[Socket, int] = {}
        self._hosts: list[int] = []
        self._missed: Counter[str] = Counter()
        self._failure: RmbusError | None = None
        self._is_woken = self._is_closed = self._is_ending = False
        self._context: zmq.Context[Socket] = zmq.Context()
        self._reactor = Reactor()
        try:
            for connection in connections:
                self._listen(connection)
        except BaseException:
            self.close()
            raise
        if ends is not None:
            self._look(ends)
        own(self)

    def disown(self) -> None:
        """Another process has it, of which this one is a child: nothing comes here, and nothing is closed there."""
        self._is_closed = True
        self._inbox.clear()
        self._failure = Closed("these events are another process's: ask for them after the fork, not before")

    @property
    def dropped(self) -> dict[str, int]:
        """How many events were missed."""
        return dict(self._missed)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `take` may have something."""
        return self._reactor.fileno()

    def wake(self) -> None:
        """Let a `take` that waits return."""
        self._reactor.call_soon(self._woken)

    def take(self, *, wait: bool) -> Frame | None:
        """Return the next event; None where there is none, as `Inlet.take` does.

        Raises:
            HostError: the host is gone.
        """
        while True:
            if self._inbox:
                return self._inbox.popleft()
            if self._failure is not None:
                raise self._failure
            if self.is_over or self._is_woken:
                self._is_woken = False
                return None
            self._is_woken = not wait
            self._reactor.serve_once(wait=wait)

    def close(self) -> None:
        """Listen no more; harmless when it has ended."""
        if not self._is_closed:
            self._is_closed = True
            self._reactor.close()
            for host in self._hosts:
                os.close(host)
            self._context.destroy(linger=0)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _listen(self, connection: Connection) -> None:
        if not connection.local and not connection.is_forwarded:
            raise HostError(
                f"the host at {connection.address} is on another machine: its events can be read by ssh alone so far",
                host=connection.address,
            )
        opened = open_socket(self._context, zmq.SUB, curve=connection.curve, network=connection.is_forwarded)
        end = self._end_of(connection, opened)
        opened.setsockopt(zmq.RCVHWM, KEPT)
        opened.setsockopt(zmq.SUBSCRIBE, subscription(EVENTS))
        opened.connect(f"ipc://{connection.beside('events.sock')}")
        self._reactor.add(opened, partial(self._receive, opened))
        self._reactor.add(end, partial(self._gone, end, opened, connection.address))

    def _end_of(self, connection: Connection, opened: Socket) -> int | Socket:
        """Return what becomes readable when a host is gone, or the connection to it."""
        if connection.is_forwarded:
            return opened.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            host = os.pidfd_open(connection.pid)
        except OSError as error:
            raise HostError(f"the host at {connection.address} is gone: {error}", host=connection.address) from error
        self._hosts.append(host)
        return host

    def _receive(self, opened: Socket) -> None:
        while True:
            try:
                data = opened.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            topic, entry = decode_published(data)
            header = entry.header
            missed = header.seq - self._next.get(opened, header.seq)
            self._next[opened] = header.seq + 1
            if missed > 0:
                self._missed["overflow"] += missed
            assert isinstance(entry.payload, bytes)  # it was checked
            self._inbox.append(framing.decode(header, entry.payload, Any, topic=topic))

    def _gone(self, host: int | Socket, opened: Socket, address: str) -> None:
        """A host has ended; what it said before is still given."""
        self._reactor.remove(host)
        self._receive(opened)
        if self._ends is None:
            self._failure = HostError(f"the events have ended: the host at {address} has ended", host=address)

    def _look(self, ends: Callable[[], bool]) -> None:
        """Look whether it is over; if so, what is on its way has a moment to arrive."""
        if self._is_ending:
            self.is_over = True
            return
        self._is_ending = ends()
        self._reactor.call_later(LOOK_S, partial(self._look, ends))

    def _woken(self) -> None:
        self._is_woken = True


class SessionEvents(Iterator[Mapping[str, Any]], AsyncIterator[Mapping[str, Any]]):
    """The events of one session, for `for` and for `async for`, until it is over. A context manager too.

    Args:
        session: its name. opened: the events of its hosts.
    """

    def __init__(self, session: str, opened: EventIntake) -> None:
        self._session = session
        self._intake = opened
        self._end = weakref.finalize(self, opened.close)  # a script may leave in the middle

    def __next__(self) -> Mapping[str, Any]:
        while (frame := self._intake.take(wait=True)) is not None:
            if (event := self._event(frame)) is not None:
                return event
        self.close()
        raise StopIteration

    async def __anext__(self) -> Mapping[str, Any]:
        while (frame := await awaited(self._intake)) is not None:
            if (event := self._event(frame)) is not None:
                return event
        self.close()
        raise StopAsyncIteration

    def close(self) -> None:
        """Listen no more; harmless when it has ended."""
        self._intake.is_over = True
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _event(self, frame: Frame) -> Mapping[str, Any] | None:
        """Return an event if it is of this session."""
        assert isinstance(frame, media.Data)  # as hosts send them
        event: Mapping[str, Any] = frame.value
        return event if event.get("session") == self._session else None
