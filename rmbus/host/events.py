"""The events of a host: how its sessions stand, once a second and at every change, as long as somebody listens."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import zmq

from rmbus.host.edges import HostedEdge
from rmbus.host.hosted import HostedSession, Tell
from rmbus.protocol import messages
from rmbus.protocol.codec import pack
from rmbus.protocol.frames import Header, Kind, encode_frame
from rmbus.protocol.published import EVENTS, encode_published, subscription
from rmbus.transport import counters
from rmbus.transport.reactor import Reactor, Timer
from rmbus.transport.sockets import Curve, Socket, adopt, listen_unix, open_socket

EVERY_S: Final = 1.0
AT_ONCE: Final = 100
"""Nodes, and edges, that one event tells of; more are told of in further ones."""

KEPT: Final = 1000
"""Events that wait for a reader; one that is slower misses some, and sees by their numbers how many."""

MAX_WORD_BYTES: Final = 4096
"""Whoever listens says no more at once than its subscription, and what CURVE says for it in the beginning."""

Event = dict[str, Any]


class Events:
    """Publishes on a socket in the run folder, for processes of the host's own user: those who know its keys.

    Args:
        reactor, context: the host's. host: its name. sessions: those that run, by name.
    """

    def __init__(
        self, reactor: Reactor, context: zmq.Context[Socket], host: str, sessions: Mapping[str, HostedSession]
    ) -> None:
        self._reactor = reactor
        self._context = context
        self._host = host
        self._sessions = sessions
        self._socket: Socket | None = None
        self._seq = 0
        self._is_heard = False
        self._timer: Timer | None = None

    def listen(self, path: Path, curve: Curve) -> None:
        """Begin."""
        opened = self._socket = open_socket(self._context, zmq.XPUB, curve=curve, max_bytes=MAX_WORD_BYTES)
        opened.setsockopt(zmq.SNDHWM, KEPT)
        adopt(opened, listen_unix(path).detach(), str(path))
        self._reactor.add(opened, self._subscribed)

    def close(self) -> None:
        """Send what is queued, and close."""
        if self._socket is not None:
            self._reactor.remove(self._socket)
            self._socket.close(linger=300)
            self._socket = None

    def overhearing(self, session: str, tell: Tell) -> Tell:
        """Return what tells a session's client, and then those who listen, what has changed."""
        return partial(self._told, session, tell)

    def ended(self, session: str) -> None:
        """A session is over."""
        self._say("session", session, {"state": "ended"})

    # --- inside ------------------------------------------------------------------------------------------------------

    def _told(self, name: str, tell: Tell, message: messages.Message) -> None:
        tell(message)
        session = self._sessions.get(name)
        if not self._is_heard or session is None:
            return
        if isinstance(message, messages.NodeEvent):
            about: Event = {"node": message.node, "name": _name(session, message.node), "state": message.state}
            words = {"type_name": message.type_name, "message": message.message, "status": message.status}
            self._say("node", name, about | {key: text for key, text in words.items() if text})
        elif isinstance(message, messages.Linked) and message.edge in session.edges:
            self._say("link", name, _ends(session, session.edges[message.edge]))

    def _subscribed(self) -> None:
        """Somebody has begun to listen, or nobody does any more; of others the socket says nothing."""
        assert self._socket is not None
        while True:
            try:
                data = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                break
            if data[1:] == subscription(EVENTS):
                self._is_heard = data[:1] == b"\1"
        if self._is_heard and self._timer is None:
            self._tick()

    def _tick(self) -> None:
        self._timer = None
        if self._is_heard:
            for session in self._sessions.values():
                self._account(session)
            self._timer = self._reactor.call_later(EVERY_S, self._tick)

    def _account(self, session: HostedSession) -> None:
        told = session.report()
        nodes = [node | {"name": _name(session, node["node"])} for node in told["nodes"]]
        for node in nodes:
            del node["in_force"]
        edges = [_edge(session, edge) for edge in session.edges.values()]
        none: list[Event] = []
        for some_nodes, some_edges in itertools.zip_longest(_batches(nodes), _batches(edges), fillvalue=none):
            self._say("account", session.name, {"nodes": some_nodes, "edges": some_edges})

    def _say(self, event: str, session: str, about: Event) -> None:
        if self._socket is None or not self._is_heard:
            return
        value = {"event": event, "host": self._host, "session": session} | about
        header = Header(Kind.DATA, self._seq, captured_ns=time.time_ns())
        self._seq += 1
        self._socket.send(encode_published(EVENTS, encode_frame(header, pack(value))), zmq.DONTWAIT)


def _name(session: HostedSession, node: int) -> str:
    """Return a node's name, "" for one that is on another host."""
    return session.nodes[node].start.name if node in session.nodes else ""


def _ends(session: HostedSession, edge: HostedEdge) -> Event:
    link = edge.link
    return {
        "edge": link.edge,
        "producer": _name(session, link.producer),
        "out": link.out,
        "consumer": _name(session, link.consumer),
        "into": link.into,
    }


def _edge(session: HostedSession, edge: HostedEdge) -> Event:
    """Return how an edge stands. What is under way is known where both its ends are here."""
    account = edge.report()
    account.pop("latency")
    histogram = edge.page.histogram()
    under_way = account["published"] + account["duplicates"] - account["delivered"] - sum(account["dropped"].values())
    return (
        account
        | _ends(session, edge)
        | {
            "in_flight": max(0, under_way) if not edge.is_bridged else None,
            "latency_p50_s": counters.percentile(histogram, 0.5),
            "latency_p99_s": counters.percentile(histogram, 0.99),
        }
    )


def _batches(items: Sequence[Event]) -> Iterator[list[Event]]:
    for start in range(0, max(1, len(items)), AT_ONCE):
        yield list(items[start : start + AT_ONCE])
