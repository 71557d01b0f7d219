"""A client that says to a host, message by message, what a session says to it, and what it should not."""

from __future__ import annotations

import queue
import sys
import threading
from types import TracebackType
from typing import Self

import zmq

from rmbus.client import HostClient, find_connection
from rmbus.protocol import messages
from rmbus.protocol.limits import CHUNK_BYTES
from rmbus.transport.reactor import Reactor
from rmbus.transport.sockets import Socket


class Talk:
    """A connection to a host of this user. A context manager.

    Attributes:
        events: what the host tells unasked.
    """

    def __init__(self, address: str) -> None:
        self.events: queue.Queue[messages.Message] = queue.Queue()
        self._reactor = Reactor()
        self._context: zmq.Context[Socket] = zmq.Context()
        self._thread = threading.Thread(target=self._reactor.run, name="talk")
        self._thread.start()
        self._client = HostClient(self._reactor, self._context, find_connection(address))
        self._client.on_event = self.events.put
        try:
            self._client.greet(10)
        except BaseException:
            self.close()
            raise

    def have(self, address: str) -> bool:
        """Ask whether a package is there as a whole."""
        return bool(self._client.ask(messages.Have(address), messages.Ok).value["complete"])

    def put(self, address: str, data: bytes) -> None:
        """Send a package, whatever the host has of it."""
        for offset in range(0, len(data), CHUNK_BYTES):
            chunk = data[offset : offset + CHUNK_BYTES]
            self._client.ask(messages.Put(address, offset, len(data)), messages.Ok, blob=chunk)

    def start(
        self,
        address: str,
        state: bytes,
        *,
        session: str = "0" * 16,
        python: tuple[int, int] = sys.version_info[:2],
        implementation: str = sys.implementation.name,
    ) -> messages.Started:
        """Start a node of a package."""
        start = messages.Start(session, 0, "far", "m:C", address, python, implementation)
        return self._client.ask(start, messages.Started, blob=state)

    def attach(self, id: str) -> messages.Held:
        """Hold an object that is there."""
        return self._client.ask(messages.AttachObject(id), messages.Held)

    def drop(self, session: str = "0" * 16) -> None:
        """End a session."""
        self._client.ask(messages.Stop(session, drain=False), messages.Ok)

    def said(self, kind: type[messages.Message]) -> messages.Message:
        """Wait for the next event of a kind."""
        while True:
            event = self.events.get(timeout=15)
            if isinstance(event, kind):
                return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._reactor.call_soon(self._client.close)
        self._reactor.call_soon(self._reactor.stop)
        self._thread.join(5)
        self._reactor.close()
        self._context.destroy(linger=0)
