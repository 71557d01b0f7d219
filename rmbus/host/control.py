"""The host's control sockets: requests of clients come in, replies and events go out, and a client's end is noticed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import zmq
from zmq.utils.monitor import recv_monitor_message

from rmbus import errors
from rmbus.errors import RmbusError, UnsupportedVersion
from rmbus.host.logs import tell_refusal
from rmbus.protocol import messages
from rmbus.protocol.limits import MAX_BLOB_BYTES, MAX_CONTROL_BYTES
from rmbus.transport.reactor import Reactor
from rmbus.transport.sockets import Curve, Socket, adopt, listen_unix, open_socket

GRACE_S = 0.5
"""A client whose connection is lost may come back for so long before what it started is ended."""

MAX_MESSAGE_BYTES = MAX_BLOB_BYTES + MAX_CONTROL_BYTES
"""A client that sends more at once is cut off by the socket itself."""

Reply = Callable[[messages.Message], None]
Serve = Callable[["Client", messages.Message, bytes, Reply], None]


@attrs.define(eq=False)
class Client:
    """A client, known by the socket it came through and its route there.

    Attributes:
        connection: the descriptor of its connection in this process, by which the socket's monitor tells of its end.
        heard: when it last said something, monotonic seconds.
        greeted: whether its `hello` was accepted.
        python: what it runs on, by its own word: implementation and minor version, as packages say it.
    """

    socket: Socket
    route: bytes
    connection: int
    heard: float
    greeted: bool = False
    python: str = ""

    def tell(self, message: messages.Message, number: int = 0) -> None:
        """Send a reply or an event; a client that has gone or does not read misses it."""
        try:
            self.socket.send_multipart([self.route, messages.encode(message, number)], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise


def refuse(reply: Reply, why: str) -> None:
    """Refuse a request, for what came of it later."""
    reply(messages.Refused("HostError", why))


class Control:
    """Serves the control sockets; every request is answered, an error of ours by `refused`."""

    def __init__(
        self,
        reactor: Reactor,
        context: zmq.Context[Socket],
        serve: Serve,
        on_lost: Callable[[Client], None],
    ) -> None:
        self._reactor = reactor
        self._context = context
        self._serve = serve
        self._on_lost = on_lost
        self._clients: dict[tuple[Socket, bytes], Client] = {}
        self._sockets: list[Socket] = []

    def listen_local(self, path: Path, curve: Curve) -> str:
        """Listen for clients of this machine; with keys, since a confined node may reach the socket."""
        opened = open_socket(self._context, zmq.ROUTER, curve=curve, max_bytes=MAX_MESSAGE_BYTES)
        adopt(opened, listen_unix(path).detach(), str(path))
        self._watch(opened)
        return f"ipc://{path}"

    def listen(self, address: str, curve: Curve) -> str:
        """Listen on `tcp://HOST:PORT` (port 0 or *: any) for clients with a known key; return the address in force.

        Raises:
            ConnectFailed: the address is taken, or is none of this machine.
        """
        opened = open_socket(self._context, zmq.ROUTER, curve=curve, network=True, max_bytes=MAX_MESSAGE_BYTES)
        try:
            opened.bind(address.removesuffix(":0") + ":*" if address.endswith(":0") else address)
        except zmq.ZMQError as error:
            opened.close()
            raise errors.ConnectFailed(f"cannot listen on {address}: {error}") from error
        self._watch(opened)
        bound: bytes = opened.getsockopt(zmq.LAST_ENDPOINT)  # type: ignore[assignment]
        return bound.rstrip(b"\0").decode()

    def broadcast(self, message: messages.Message) -> None:
        """Tell every client."""
        for client in self._clients.values():
            client.tell(message)

    def close(self) -> None:
        """Send what is queued, and close."""
        for opened in self._sockets:
            self._reactor.remove(opened)
            opened.disable_monitor()
            opened.close(linger=300)

    def _watch(self, opened: Socket) -> None:
        self._sockets.append(opened)
        monitor = opened.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._reactor.add(opened, lambda: self._receive(opened))
        self._reactor.add(monitor, lambda: self._disconnected(opened, monitor))

    def _receive(self, opened: Socket) -> None:
        while True:
            try:
                frames = opened.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            if len(frames) < 2:
                continue
            try:
                connection = int(frames[1].get(zmq.SRCFD))
            except zmq.ZMQError:
                continue  # the connection has gone meanwhile
            client = self._client(opened, frames[0].bytes, connection)
            self._answer(client, frames[1].bytes, frames[2].bytes if len(frames) > 2 else b"")

    def _client(self, opened: Socket, route: bytes, connection: int) -> Client:
        key = (opened, route)
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = Client(opened, route, connection, time.monotonic())
        client.connection = connection
        client.heard = time.monotonic()
        return client

    def _answer(self, client: Client, data: bytes, blob: bytes) -> None:
        number = 0

        def reply(message: messages.Message) -> None:
            client.tell(message, number)

        try:
            if len(blob) > MAX_BLOB_BYTES:
                raise errors.TooLarge("a blob", len(blob), MAX_BLOB_BYTES)
            number, request = messages.decode(data)
            if not client.greeted and not isinstance(request, messages.Hello):
                raise UnsupportedVersion("say hello first")
            self._serve(client, request, blob, reply)
            client.greeted = True  # a hello that is refused has raised
        except messages.UnknownTag as error:
            number = error.number
            reply(messages.Refused("ProtocolError", str(error)))
        except RmbusError as error:
            tell_refusal(type(error).__name__, str(error))
            reply(messages.Refused(type(error).__name__, str(error)))
        except OSError as error:
            reply(messages.Refused("HostError", f"the host could not do it: {error}"))

    def _disconnected(self, opened: Socket, monitor: Socket) -> None:
        event = recv_monitor_message(monitor)
        gone = [c for c in self._clients.values() if c.socket is opened and c.connection == event["value"]]
        for client in gone:
            self._reactor.call_later(GRACE_S, partial(self._bury, client, time.monotonic()))

    def _bury(self, client: Client, left: float) -> None:
        if client.heard > left:
            return  # it has come back on another connection
        if self._clients.pop((client.socket, client.route), None) is not None:
            self._on_lost(client)
