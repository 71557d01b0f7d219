"""What a host holds for a session: its nodes, its edges, their counters and sockets."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rmbus.errors import HostError
from rmbus.host.edges import HostedEdge, Wiring
from rmbus.host.endpoints import Endpoint
from rmbus.host.peers import FarEnd
from rmbus.host.workers import Worker
from rmbus.protocol import messages
from rmbus.protocol.limits import FIRST_TOPIC_EDGE
from rmbus.shipping.store import Hold
from rmbus.transport import counters
from rmbus.transport.counters import Page

Tell = Callable[[messages.Message], None]


class HostedNode:
    """A node of a session on this host.

    Attributes:
        hold: keeps its package in the store, where it has one.
    """

    def __init__(self, start: messages.Start, endpoint: Endpoint, *, warm: bool) -> None:
        self.start = start
        self.endpoint = endpoint
        self.warm = warm
        self.state = "starting"
        self.hold: Hold | None = None
        self.descriptor = counters.create()
        self.page = Page(self.descriptor)

    @property
    def worker(self) -> Worker:
        """Its process."""
        return self.endpoint.worker

    def close(self) -> None:
        """Give everything back."""
        if self.hold is not None:
            self.hold.close()
        self.page.close()
        os.close(self.descriptor)
        self.endpoint.remove()


def _doing(state: int) -> str:
    """Return a node's state in a word; the node itself writes it, and may write anything."""
    return counters.State(state).name.lower() if state in set(counters.State) else "unknown"


class HostedSession:
    """The part of a session that runs on this host.

    Attributes:
        tell: sends an event to the client that owns it.
    """

    def __init__(self, name: str, tell: Tell, wiring: Wiring) -> None:
        self.name = name
        self._wiring = wiring
        self.nodes: dict[int, HostedNode] = {}
        self.edges: dict[int, HostedEdge] = {}
        self.tell = tell
        self.is_ending = self._is_going = self._is_draining = False

    def endpoint(self, number: int, gateway: Endpoint | None) -> Endpoint:
        """Return where an end of an edge is: a node of this session, or, for -1, the gateway."""
        if number == -1 and gateway is not None:
            return gateway
        if number not in self.nodes:
            raise HostError(f"session {self.name} has no node {number} on this host")
        return self.nodes[number].endpoint

    def link(self, link: messages.Link, gateway: Endpoint | None) -> None:
        """Wire an edge: tell both its ends; or, where another host is to come for it, await that.

        An edge that nobody has come for may be linked anew, in another way.
        """
        if link.edge >= FIRST_TOPIC_EDGE:
            raise HostError(f"edge {link.edge}: the edges of a session are numbered below {FIRST_TOPIC_EDGE}")
        known = self.edges.get(link.edge)
        if known is not None and not known.is_awaited:
            raise HostError(f"session {self.name} has an edge {link.edge} already")
        consumer = self.endpoint(link.consumer, gateway)
        is_awaited = link.meet and link.producer == -1
        producer = None if is_awaited else self.endpoint(link.producer, gateway)
        if known is not None:
            self._wiring.leave(known)
        if producer is None:
            self.edges[link.edge] = self._wiring.await_producer(link, consumer)
        else:
            self.edges[link.edge] = self._wiring.join(link, producer, consumer)

    def take(self, link: messages.Link, consumer: FarEnd, page: int, lane: int) -> HostedEdge:
        """Wire an edge whose consumer is at another host, with what that has offered."""
        if link.edge in self.edges:
            raise HostError(f"session {self.name} has an edge {link.edge} already")
        producer = self.endpoint(link.producer, None)
        edge = self.edges[link.edge] = self._wiring.take(link, producer, consumer, page, lane)
        return edge

    def go(self) -> None:
        """Let the sources begin."""
        self._is_going = True
        for node in self.nodes.values():
            node.worker.send(messages.Go(self.name))

    def drain(self) -> None:
        """Let the sources end; what is queued is finished."""
        self._is_draining = True
        for node in self.nodes.values():
            node.worker.send(messages.Stop(self.name, drain=True))

    def is_over(self, number: int) -> bool:
        """Whether a node that has died had done all its work, or has nobody left to do it for."""
        node = self.nodes[number]
        consumers = [self.nodes[edge.link.consumer] for edge in self.edges.values() if edge.producer is node.endpoint]
        return bool(node.page.words[counters.Node.CONCLUDED]) or (
            bool(consumers) and all(consumer.state == "ended" for consumer in consumers)
        )

    def revive(self, node: HostedNode, endpoint: Endpoint) -> None:
        """Another process is to be a node whose own has died: join its edges to it, and let it go on."""
        old, node.endpoint = node.endpoint, endpoint
        node.state = "starting"
        self._wiring.rejoin(old, endpoint)
        old.remove()
        for edge in self.edges.values():
            if edge.producer is endpoint and self.nodes[edge.link.consumer].state == "ended":
                self._wiring.end_consumer(edge)
        if self._is_going:
            node.worker.send(messages.Go(self.name))
        if self._is_draining:
            node.worker.send(messages.Stop(self.name, drain=True))

    def kill(self) -> None:
        """End every process of the session, now."""
        self.is_ending = True
        for node in self.nodes.values():
            node.worker.kill()

    def report(self) -> dict[str, Any]:
        """Return the accounts of the edges and the states of the nodes."""
        return {
            "edges": [edge.report() for edge in self.edges.values()],
            "nodes": [self._node_report(number, node) for number, node in self.nodes.items()],
        }

    def close(self) -> None:
        """Give everything back; the processes have ended."""
        for node in self.nodes.values():
            node.close()
        for edge in self.edges.values():
            self._wiring.leave(edge)

    @staticmethod
    def _node_report(number: int, node: HostedNode) -> dict[str, Any]:
        words = node.page.words
        return {
            "node": number,
            "state": node.state,
            "doing": _doing(words[counters.Node.STATE]),
            "since": words[counters.Node.SINCE],
            "frames_in": words[counters.Node.FRAMES_IN],
            "frames_out": words[counters.Node.FRAMES_OUT],
            "copied_bytes": words[counters.Node.COPIED],
            "pid": node.worker.pid,
            "in_force": node.worker.in_force,
        }
