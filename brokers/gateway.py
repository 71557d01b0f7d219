"""The gateway: the process of a host that carries frames between machines.

It relays, edge by edge: a lane message goes on as it is, behind the session and number of its edge. Credit is granted
by the far consumer to the near producer, so what is under way here is bounded by the window of each edge, and the
gateway needs no mailbox of its own.

    producer ── ipc ──► gateway ══ tcp, CURVE ══► gateway ── ipc ──► consumer
             ◄──credit──        ◄════credit═════         ◄──credit──
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import zmq
from zmq.utils.monitor import recv_monitor_message

from rmbus.brokers.visits import Visits
from rmbus.errors import Closed, MalformedFrame, ProtocolError
from rmbus.protocol import lane, messages
from rmbus.protocol.codec import pack
from rmbus.protocol.lane import Buffer
from rmbus.protocol.limits import MAX_TOKEN_BYTES
from rmbus.transport.reactor import Reactor
from rmbus.transport.security import KeyGuard
from rmbus.transport.sockets import Curve, Socket, adopt, open_socket
from rmbus.transport.umbilical import Stripped, Umbilical, close_all

Parts = list[zmq.Frame]
Key = bytes

MAX_KEY_BYTES: Final = 256
MAX_UNCLAIMED: Final = 1000
"""Openings of a peer, and marks of producers, that wait for the host's word about their edge."""


def edge_key(session: str, edge: int) -> Key:
    """Return the first part of every message between gateways: which edge it belongs to."""
    return pack([session, edge])


@attrs.frozen
class Peer:
    """The connection to another gateway: a DEALER of ours, or a route of our listening ROUTER."""

    socket: Socket
    route: bytes | None = None

    def send(self, parts: list[bytes | zmq.Frame]) -> None:
        """Send to the peer; what cannot be delivered is lost with the peer, which its monitor tells."""
        try:
            self.socket.send_multipart([self.route, *parts] if self.route else parts, zmq.DONTWAIT, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise

    def send_all(self, parts: Sequence[Buffer]) -> None:
        """Send to the peer.

        Raises:
            Closed: that cannot be done.
        """
        try:
            self.socket.send_multipart([self.route, *parts] if self.route else parts, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            raise Closed(f"the peer is gone, or does not read: {error}") from error


@attrs.define(eq=False)
class Bridge:
    """One edge that is carried.

    Attributes:
        near: our socket to the consumer, where that is on this machine. route: the producer's route on our inbox,
            where that is.
        waiting: messages for a peer that has not opened the edge yet.
    """

    link: messages.Link
    near: Socket | None = None
    route: bytes | None = None
    peer: Peer | None = None
    waiting: deque[list[bytes | zmq.Frame]] = attrs.field(factory=lambda: deque[list[bytes | zmq.Frame]]())

    @property
    def key(self) -> Key:
        """Its name between gateways."""
        return edge_key(self.link.session, self.link.edge)


class Gateway:
    """Relays the edges that its host tells it of."""

    def __init__(self, umbilical: Umbilical) -> None:
        self._umbilical = umbilical
        self._reactor = Reactor()
        self._context: zmq.Context[Socket] = zmq.Context()
        self._bridges: dict[Key, Bridge] = {}
        self._tokens: dict[bytes, Bridge] = {}
        self._routes: dict[bytes, Bridge] = {}
        self._early: dict[bytes, Parts] = {}
        self._unclaimed: dict[Key, tuple[Peer, bytes]] = {}
        self._dialed: dict[tuple[str, str], Peer] = {}
        self._inbox: Socket | None = None
        self._visits = Visits(self._reactor)
        self._connections: dict[int, set[bytes]] = {}
        self._guard: KeyGuard | None = None
        self._reactor.add(umbilical.fileno(), self._told)

    def serve(self) -> None:
        """Serve until the host goes away."""
        self._umbilical.send(messages.Spare({}))
        self._reactor.run()

    # --- the host's orders -------------------------------------------------------------------------------------------

    def _told(self) -> None:
        try:
            _, message, descriptors = self._umbilical.receive()
        except Closed:
            self._reactor.stop()
            return
        except Stripped as stripped:  # no descriptor was left for what came with it
            message, descriptors = stripped.message, []
            if isinstance(message, messages.Bridge):
                reason = "this machine (its gateway may open no more files)"
                self._umbilical.send(messages.PeerLost(message.link.session, reason, [message.link.edge]))
                return
        if isinstance(message, messages.GatewayJob):
            self._begin(message)
        elif isinstance(message, messages.Bridge):
            try:
                self._bridge(message, descriptors)
            except (zmq.ZMQError, ValueError) as error:  # an address or a key that is none
                link = message.link
                reason = f"{link.peer or 'this machine'} ({error})"
                self._umbilical.send(messages.PeerLost(link.session, reason, [link.edge]))
        elif isinstance(message, messages.Stop):
            self._forget(message.session)
        elif isinstance(message, messages.Visit):
            if not descriptors:
                return  # the host's end of the umbilical has no other end: it sees that
            self._visits.expect(message, descriptors[0])
            early = self._unclaimed.pop(message.visit.encode(), None)
            if early is not None:
                self._claim_visit(message.visit.encode(), *early)
        else:
            close_all(descriptors)
            raise MalformedFrame(f"a gateway does not take {message.tag!r} messages")

    def _begin(self, job: messages.GatewayJob) -> None:
        self._guard = KeyGuard(self._context, frozenset(key.encode() for key in job.clients))
        curve = Curve(job.public.encode(), job.secret.encode())
        self._listen(f"ipc://{job.path}", curve)
        endpoint = self._listen(job.listen, curve) if job.listen else ""
        self._umbilical.send(messages.Listening(endpoint))

    def _listen(self, address: str, curve: Curve) -> str:
        """Listen for peers; return the address in force."""
        listener = open_socket(self._context, zmq.ROUTER, curve=curve, network=True)
        listener.bind(address)
        self._watch(listener, self._disconnected)
        self._reactor.add(listener, lambda: self._from_peers(listener))
        bound: bytes = listener.getsockopt(zmq.LAST_ENDPOINT)  # type: ignore[assignment]
        return bound.rstrip(b"\0").decode()

    def _bridge(self, message: messages.Bridge, descriptors: list[int]) -> None:
        link = message.link
        bridge = Bridge(link)
        if link.consumer == -1:  # the producer is here and speaks to our inbox
            self._tokens[link.token] = bridge
            if message.listener >= 0:
                self._open_inbox(descriptors[message.listener], message.path)
            if link.token in self._early:
                self._marked(link.token, self._early.pop(link.token))
        else:
            bridge.near = open_socket(self._context, zmq.DEALER)
            bridge.near.connect(f"ipc://{message.path}")
            near = bridge.near
            self._reactor.add(near, lambda: self._from_consumer(bridge, near))
        self._bridges[bridge.key] = bridge
        if link.dial:
            self._join(bridge, self._dial(link))
            self._send(bridge, [b"", bridge.key, link.token])
        elif bridge.key in self._unclaimed:
            peer, token = self._unclaimed.pop(bridge.key)
            self._claim(bridge, peer, token)

    def _forget(self, session: str) -> None:
        for key in [key for key, bridge in self._bridges.items() if bridge.link.session == session]:
            bridge = self._bridges.pop(key)
            self._tokens.pop(bridge.link.token, None)
            if bridge.route is not None:
                self._routes.pop(bridge.route, None)
            if bridge.near is not None:
                self._reactor.remove(bridge.near)
                bridge.near.close()

    # --- this machine ------------------------------------------------------------------------------------------------

    def _open_inbox(self, descriptor: int, path: str) -> None:
        inbox = open_socket(self._context, zmq.ROUTER)
        adopt(inbox, descriptor, path)
        self._inbox = inbox
        self._reactor.add(inbox, lambda: self._from_producers(inbox))

    def _from_producers(self, inbox: Socket) -> None:
        for frames in _drain(inbox):
            route = frames[0].bytes
            bridge = self._routes.get(route)
            if bridge is None:
                with contextlib.suppress(ProtocolError):  # a stranger's bytes; who reaches this socket may be anybody
                    message = lane.decode([frame.buffer for frame in frames[1:]])
                    if message.type == lane.Type.MARK:
                        self._marked(bytes(message.body), frames)
                continue  # anything else is of an edge that has been taken down
            self._send(bridge, [bridge.key, *frames[1:]])

    def _marked(self, token: bytes, frames: Parts) -> None:
        """A producer shows an edge's token; it may be quicker than the host's word of that edge."""
        bridge = self._tokens.get(token)
        if bridge is not None:
            bridge.route = frames[0].bytes
            self._routes[bridge.route] = bridge
            self._send(bridge, [bridge.key, *frames[1:]])
        elif len(self._early) < MAX_UNCLAIMED:
            self._early[token] = frames

    def _from_consumer(self, bridge: Bridge, near: Socket) -> None:
        for frames in _drain(near):
            self._send(bridge, [bridge.key, *frames])

    # --- other machines ----------------------------------------------------------------------------------------------

    def _dial(self, link: messages.Link) -> Peer:
        place = (link.peer, link.public)
        if not link.peer.startswith(("tcp://", "ipc://")):
            raise ValueError("another gateway is at a tcp:// address, or behind a socket that ssh forwards")
        if place not in self._dialed:
            curve = Curve(link.public.encode(), link.secret.encode(), link.peer_key.encode())
            dealer = open_socket(self._context, zmq.DEALER, curve=curve, network=True)
            self._watch(dealer, lambda event: self._lost(self._dialed[place], f"the gateway at {link.peer}"))
            dealer.connect(link.peer)
            self._dialed[place] = Peer(dealer)
            self._reactor.add(dealer, lambda: self._from_peer(dealer))
        return self._dialed[place]

    def _join(self, bridge: Bridge, peer: Peer) -> None:
        bridge.peer = peer
        while bridge.waiting:
            peer.send(bridge.waiting.popleft())

    def _send(self, bridge: Bridge, parts: list[bytes | zmq.Frame]) -> None:
        if bridge.peer is None:
            bridge.waiting.append(parts)  # the mark alone: nothing else is sent before it has come back
        else:
            bridge.peer.send(parts)

    def _from_peer(self, dealer: Socket) -> None:
        for frames in _drain(dealer):
            if len(frames) > 1:
                self._deliver(frames, dealer, None)

    def _from_peers(self, listener: Socket) -> None:
        for frames in _drain(listener):
            if len(frames) == 4 and len(frames[1]) == 0:
                self._opened(frames, Peer(listener, frames[0].bytes))
            elif len(frames) > 2:
                peer = Peer(listener, frames[0].bytes)
                if not self._visits.arrive(frames[1].bytes, peer, [frame.buffer for frame in frames[2:]]):
                    self._deliver(frames[1:], listener, frames[0].bytes)

    def _opened(self, frames: Parts, peer: Peer) -> None:
        """A peer opens an edge: it must hold the edge's token."""
        connection = int(frames[1].get(zmq.SRCFD))
        self._connections.setdefault(connection, set()).add(frames[0].bytes)
        key, token = frames[2].bytes, frames[3].bytes
        if len(key) > MAX_KEY_BYTES or len(token) > MAX_TOKEN_BYTES:
            return
        bridge = self._bridges.get(key)
        if bridge is not None:
            self._claim(bridge, peer, token)
        elif not self._claim_visit(key, peer, token) and len(self._unclaimed) < MAX_UNCLAIMED:
            self._unclaimed[key] = (peer, token)

    def _claim(self, bridge: Bridge, peer: Peer, token: bytes) -> None:
        if token == bridge.link.token:
            self._join(bridge, peer)

    def _claim_visit(self, name: bytes, peer: Peer, token: bytes) -> bool:
        return self._visits.claim(name, token, peer, peer.send_all)

    def _deliver(self, frames: Parts, source: Socket, route: bytes | None) -> None:
        bridge = self._bridges.get(frames[0].bytes)
        if bridge is None or bridge.peer is None or (bridge.peer.socket, bridge.peer.route) != (source, route):
            return  # the edge has been taken down, or is not this peer's
        parts = frames[1:]
        try:
            if bridge.near is not None:
                bridge.near.send_multipart(parts, zmq.DONTWAIT, copy=False)
            elif bridge.route is not None and self._inbox is not None:
                self._inbox.send_multipart([bridge.route, *parts], zmq.DONTWAIT, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            # the process at the end of the edge is gone, and its host says so

    # --- ends --------------------------------------------------------------------------------------------------------

    def _watch(self, opened: Socket, on_lost: Callable[[int], None]) -> None:
        monitor = opened.get_monitor_socket(zmq.EVENT_DISCONNECTED)

        def happened() -> None:
            event = recv_monitor_message(monitor)

            on_lost(int(event["value"]))

        self._reactor.add(monitor, happened)

    def _disconnected(self, connection: int) -> None:
        routes = self._connections.pop(connection, set())
        for key in [key for key, (peer, _) in self._unclaimed.items() if peer.route in routes]:
            del self._unclaimed[key]
        self._visits.lost(lambda place: isinstance(place, Peer) and place.route in routes)
        for route in routes:
            for bridge in self._bridges.values():
                if bridge.peer is not None and bridge.peer.route == route:
                    self._tell_lost(bridge, "the gateway that dialled")

    def _lost(self, peer: Peer, name: str) -> None:
        for bridge in self._bridges.values():
            if bridge.peer is peer:
                self._tell_lost(bridge, name)

    def _tell_lost(self, bridge: Bridge, peer: str) -> None:
        self._umbilical.send(messages.PeerLost(bridge.link.session, peer, [bridge.link.edge]))


def _drain(opened: Socket) -> list[Parts]:
    received: list[Parts] = []
    while len(received) < 256:
        try:
            received.append(opened.recv_multipart(zmq.DONTWAIT, copy=False))
        except zmq.Again:
            break
    return received


def main() -> None:
    """Run the gateway of a host, given the umbilical's descriptor and the host's pid."""
    from rmbus.runtime.confine import die_with_parent

    end = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    Gateway(Umbilical(end)).serve()


if __name__ == "__main__":
    main()
