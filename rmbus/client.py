"""A client's connection to a host: requests with their replies, events, and the end of the connection."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import zmq
from zmq.utils.monitor import recv_monitor_message

import rmbus
from rmbus import errors
from rmbus.errors import ConnectFailed, HostError, ProtocolError, RmbusError
from rmbus.protocol import messages
from rmbus.protocol.limits import CHUNK_BYTES
from rmbus.protocol.version import VERSIONS
from rmbus.transport import security
from rmbus.transport.reactor import Reactor
from rmbus.transport.security import Connection
from rmbus.transport.sockets import Socket, open_socket

_M = TypeVar("_M", bound=messages.Message)


class HostClient:
    """One host, as a client sees it. Its methods may be called from any thread but the reactor's.

    Attributes:
        address: as it was given. welcome: what the host said of itself.
        on_event: called in the reactor's thread. on_lost: likewise, when the connection has failed.
    """

    def __init__(self, reactor: Reactor, context: zmq.Context[Socket], connection: Connection) -> None:
        self.address = connection.address
        self.connection = connection
        self.on_event: Callable[[messages.Message], None] = _ignore
        self.on_lost: Callable[[str], None] = _ignore_end
        self._reactor = reactor
        self._numbers = itertools.count(1)
        self._pending: dict[int, Future[messages.Message]] = {}
        self._closed = False
        self._is_lost = False
        is_far = not connection.local or connection.address.startswith("tcp:")
        self._socket = open_socket(context, zmq.DEALER, curve=connection.curve, network=is_far)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        )
        self._socket.connect(connection.address)
        reactor.call_soon(self._watch)
        self.welcome: messages.Welcome

    @property
    def name(self) -> str:
        """The host's name."""
        return self.welcome.host

    def greet(self, timeout_s: float) -> None:
        """Say hello, and keep the welcome.

        Raises:
            ConnectFailed: nobody answered in time, or the key is not known there.
            UnsupportedVersion: no version in common.
        """
        hello = messages.Hello(VERSIONS, rmbus.__version__, sys.implementation.name, sys.version_info[:2])
        try:
            self.welcome = self.ask(hello, messages.Welcome, timeout_s=timeout_s)
        except TimeoutError:
            raise ConnectFailed(
                f"no host answered at {self.address} within {timeout_s:g} s: start one with "
                f"`rmbus host --listen {self.address}`"
            ) from None

    def request(self, message: messages.Message, blob: bytes | memoryview = b"") -> Future[messages.Message]:
        """Send a request; the future holds the reply, or the error that the host or the connection gave."""
        number = next(self._numbers)
        future: Future[messages.Message] = Future()
        parts = [messages.encode(message, number), *([blob] if blob else [])]

        def send() -> None:
            if self._closed or self._is_lost:
                future.set_exception(
                    HostError(f"the connection to {self.address} is closed or lost", host=self.address)
                )
                return
            self._pending[number] = future
            try:
                self._socket.send_multipart(parts, zmq.DONTWAIT)
            except zmq.Again:
                del self._pending[number]
                future.set_exception(HostError(f"the host at {self.address} takes nothing more", host=self.address))

        self._reactor.call_soon(send)
        return future

    def ask(self, message: messages.Message, reply: type[_M], *, blob: bytes = b"", timeout_s: float = 30.0) -> _M:
        """Send a request and wait for its reply.

        Raises:
            RmbusError: what the host refused it with. TimeoutError: no reply in time.
        """
        try:
            return expect(self.request(message, blob).result(timeout_s), reply)
        except TimeoutError:
            raise TimeoutError(f"host {self.address} did not answer {message.tag!r} within {timeout_s:g} s") from None

    def upload(self, address: str, data: bytes) -> int:
        """See to it that the host has a package; return how many bytes were sent."""
        have = self.ask(messages.Have(address), messages.Ok).value
        sent, offset = 0, int(have["offset"])
        while not have["complete"]:
            chunk = data[offset : offset + CHUNK_BYTES]
            have = self.ask(messages.Put(address, offset, len(data)), messages.Ok, blob=chunk).value
            sent += len(chunk)
            offset = int(have["offset"])
        return sent

    def close(self) -> None:
        """Close the connection; called in the reactor's thread."""
        if self._closed:
            return
        self._closed = True
        self._reactor.remove(self._socket)
        self._reactor.remove(self._monitor)
        self._socket.disable_monitor()
        self._socket.close(linger=300)
        self._fail_pending(f"the connection to {self.address} was closed")

    def _watch(self) -> None:
        if not self._closed:
            self._reactor.add(self._socket, self._receive)
            self._reactor.add(self._monitor, self._changed)

    def _receive(self) -> None:
        while not self._closed:
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                number, message = messages.decode(parts[0])
            except messages.UnknownTag:
                continue  # a later version may say more than this one understands
            future = self._pending.pop(number, None) if number else None
            if future is None:
                self.on_event(message)
            elif isinstance(message, messages.Refused):
                future.set_exception(rebuilt(message, self.address))
            else:
                future.set_result(message)

    def _changed(self) -> None:
        event = recv_monitor_message(self._monitor)["event"]
        if event == zmq.EVENT_DISCONNECTED:
            self._lost("the connection was lost (has the host ended?)")
        else:
            self._lost("it does not know this key (ask its owner to allow yours, or run as the user that started it)")

    def _lost(self, reason: str) -> None:
        if self._closed:
            return
        self._is_lost = True
        self._fail_pending(f"host {self.address}: {reason}")
        self.on_lost(reason)

    def _fail_pending(self, message: str) -> None:
        pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(HostError(message, host=self.address))


def expect(message: messages.Message, reply: type[_M]) -> _M:
    """Return a reply as the type that it must have.

    Raises:
        ProtocolError: it is something else.
    """
    if not isinstance(message, reply):
        raise ProtocolError(f"the host answered with {message.tag!r} where {reply.tag!r} was due")
    return message


def find_connection(address: str) -> Connection:
    """Return the way to the host at an address, from the connection files of this user.

    Raises:
        ConnectFailed: no running host of this user listens there.
    """
    known = security.connections()
    for connection in known:
        if address in (connection.address, connection.local):
            return connection
    others = ", ".join(connection.address for connection in known if connection.address.startswith("tcp:"))
    raise ConnectFailed(
        f"no host of yours listens at {address}"
        + (f" (yours are at {others})" if others else "")
        + f": start it with `rmbus host --listen {address}`"
    )


def find_bus(address: str | None) -> Connection:
    """Return the connection of a running host of this user: the one at an address, or any (one that stays first).

    Raises:
        ConnectFailed: there is none.
    """
    known = sorted(security.connections(), key=lambda connection: connection.passing)
    for connection in known:
        if address is None or address in (connection.address, connection.local):
            return connection
    raise ConnectFailed(
        "no host of yours is running on this machine"
        + (f" at {address}" if address else "")
        + ": start one with `rmbus host`, or a pipeline"
    )


def rebuilt(refused: messages.Refused, address: str) -> RmbusError:
    """Return the error that a host refused a request with, as its own class where that is one of ours."""
    cls = getattr(errors, refused.kind, None)
    if isinstance(cls, type) and issubclass(cls, RmbusError):
        error = cls.__new__(cls)
        Exception.__init__(error, refused.message)
        if isinstance(error, HostError):
            error.host = address
        return error
    return HostError(refused.message, host=address)


def _ignore(message: messages.Message) -> None:
    return


def _ignore_end(reason: str) -> None:
    return
