"""What a host holds for a session: its nodes, its edges, their counters and sockets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmbus.errors import HostError
from rmbus.host.endpoints import Endpoint
from rmbus.host.workers import Worker
from rmbus.protocol import messages
from rmbus.transport import counters
from rmbus.transport.counters import Page

Tell = Callable[[messages.Message], None]


class HostedNode:
    """A node of a session on this host."""

    def __init__(self, start: messages.Start, endpoint: Endpoint, *, warm: bool) -> None:
        self.start = start
        self.endpoint = endpoint
        self.warm = warm
        self.state = "starting"
        self.descriptor = counters.create()
        self.page = Page(self.descriptor)

    @property
    def worker(self) -> Worker:
        """Its process."""
        return self.endpoint.worker

    def close(self) -> None:
        """Give everything back."""
        self.page.close()
        os.close(self.descriptor)
        self.endpoint.remove()


class HostedEdge:
    """An edge with at least one end on this host."""

    def __init__(self, link: messages.Link) -> None:
        self.link = link
        self.door: Path | None = None
        self.descriptor = counters.create()
        self.page = Page(self.descriptor)

    def report(self) -> dict[str, Any]:
        """Return the account, as it stands."""
        words = self.page.words
        return {
            "edge": self.link.edge,
            "producer": self.link.producer,
            "consumer": self.link.consumer,
            "published": words[counters.Edge.PUBLISHED],
            "bytes": words[counters.Edge.BYTES],
            "delivered": words[counters.Edge.DELIVERED],
            "blocked_since": words[counters.Edge.BLOCKED_SINCE],
            "began": words[counters.Edge.BEGAN],
            "dropped": self.page.dropped(),
            "latency": _sparse(self.page.histogram()),
        }

    def close(self) -> None:
        """Give the page back, and take the door away: a gateway's folder outlives the session."""
        if self.door is not None:
            self.door.unlink(missing_ok=True)
        self.page.close()
        os.close(self.descriptor)


def _doing(state: int) -> str:
    """Return a node's state in a word; the node itself writes it, and may write anything."""
    return counters.State(state).name.lower() if state in set(counters.State) else "unknown"


def _sparse(histogram: list[int]) -> dict[int, int]:
    return {place: count for place, count in enumerate(histogram) if count}


class HostedSession:
    """The part of a session that runs on this host.

    Attributes:
        tell: sends an event to the client that owns it.
    """

    def __init__(self, name: str, tell: Tell) -> None:
        self.name = name
        self.nodes: dict[int, HostedNode] = {}
        self.edges: dict[int, HostedEdge] = {}
        self.tell = tell
        self.is_ending = False

    def endpoint(self, number: int, gateway: Endpoint | None) -> Endpoint:
        """Return where an end of an edge is: a node of this session, or, for -1, the gateway."""
        if number == -1 and gateway is not None:
            return gateway
        if number not in self.nodes:
            raise HostError(f"session {self.name} has no node {number} on this host")
        return self.nodes[number].endpoint

    def link(self, link: messages.Link, gateway: Endpoint | None) -> None:
        """Wire an edge: tell both its ends."""
        if link.edge in self.edges:
            raise HostError(f"session {self.name} has an edge {link.edge} already")
        producer = self.endpoint(link.producer, gateway)
        consumer = self.endpoint(link.consumer, gateway)
        edge = HostedEdge(link)
        self.edges[link.edge] = edge
        listener = consumer.listener()
        door = edge.door = producer.door_to(consumer)
        if link.consumer == -1:
            self._bridge(consumer, link, str(consumer.inbox), listener)
        else:
            self._input(consumer, edge, listener)
        if link.producer == -1:
            self._bridge(producer, link, str(door), None)
        else:
            self._output(producer, edge, door)

    def go(self) -> None:
        """Let the sources begin."""
        for node in self.nodes.values():
            node.worker.send(messages.Go(self.name))

    def drain(self) -> None:
        """Let the sources end; what is queued is finished."""
        for node in self.nodes.values():
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
            edge.close()

    def _input(self, consumer: Endpoint, edge: HostedEdge, listener: int | None) -> None:
        link = edge.link
        descriptors = [os.dup(edge.descriptor)]
        place = -1
        if listener is not None:
            descriptors.append(listener)
            place = 1
        message = messages.Input(
            link.edge, link.into, link.token, link.credit, page=0, listener=place, path=str(consumer.inbox)
        )
        consumer.worker.send(message, descriptors)

    def _output(self, producer: Endpoint, edge: HostedEdge, door: Path) -> None:
        link = edge.link
        message = messages.Output(link.edge, link.out, link.token, link.delivery, link.n, str(door), page=0)
        producer.worker.send(message, [os.dup(edge.descriptor)])

    @staticmethod
    def _bridge(gateway: Endpoint, link: messages.Link, path: str, listener: int | None) -> None:
        if listener is None:
            gateway.worker.send(messages.Bridge(link, path))
        else:
            gateway.worker.send(messages.Bridge(link, path, listener=0), [listener])

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
            "pid": node.worker.pid,
            "in_force": node.worker.in_force,
        }
