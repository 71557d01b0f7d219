"""The edges of a host: who is joined to whom, by which lane, and what becomes of an edge when an end of it goes."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rmbus.host.endpoints import Endpoint
from rmbus.host.memory import Memory
from rmbus.protocol import messages
from rmbus.transport import counters
from rmbus.transport.counters import Page
from rmbus.transport.lanes import fast_pair
from rmbus.transport.reactor import Reactor

FIRST_OF_TOPICS: Final = 1 << 30
"""Edges from a topic to a subscriber are numbered from here on: a node may have them beside those of its session."""


class HostedEdge:
    """An edge with at least one end on this host.

    Attributes:
        producer, consumer: where it begins and ends here: a node, or the gateway.
        lane: what moves it here. problem: why its consumer does not map its producer's memory, or "".
        epoch: how often it was joined. life: how many processes have been its producer.
    """

    def __init__(self, link: messages.Link, producer: Endpoint, consumer: Endpoint) -> None:
        self.link = link
        self.producer, self.consumer = producer, consumer
        self.is_local = -1 not in (link.producer, link.consumer)
        self.lane = "tcp" if not self.is_local else "fast" if link.fast else "ipc"
        self.problem = ""
        self.epoch = self.life = 1
        self.door: Path | None = None
        self.descriptor = counters.create()
        self.page = Page(self.descriptor)

    @property
    def shares(self) -> bool:
        """Whether its frames may go by reference."""
        return self.is_local and self.link.shared and not self.problem

    @property
    def standing(self) -> str:
        """Where the edge stands, and why, in words."""
        if not self.is_local:
            return "tcp, inline (two hosts)"
        lane = self.lane if self.link.fast else "ipc (fast=False)"
        if not self.link.shared:
            return f"{lane}, inline (shared=False)"
        if self.problem:
            return f"{lane}, inline ({self.problem})"
        shared, sent = self.page.words[counters.Edge.SHARED], self.page.words[counters.Edge.SENT]
        return f"{lane}, shared memory" if shared or not sent else f"{lane}, inline (small frames)"

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
            "shared": words[counters.Edge.SHARED],
            "pinned": words[counters.Edge.PINNED],
            "duplicates": words[counters.Edge.DUPLICATES],
            "blocked_since": words[counters.Edge.BLOCKED_SINCE],
            "began": words[counters.Edge.BEGAN],
            "dropped": self.page.dropped(),
            "latency": _sparse(self.page.histogram()),
            "lane": self.standing,
        }

    def close(self) -> None:
        """Give the page back, and take the door away: a gateway's folder outlives the session."""
        if self.door is not None:
            self.door.unlink(missing_ok=True)
        self.page.close()
        os.close(self.descriptor)


def _sparse(histogram: list[int]) -> dict[int, int]:
    return {place: count for place, count in enumerate(histogram) if count}


class Wiring:
    """All edges of a host.

    Attributes:
        memory: what they share.
    """

    def __init__(self, reactor: Reactor, memory_bytes: int) -> None:
        self.memory = Memory(reactor, self.readers, quota_bytes=memory_bytes)
        self._edges: list[HostedEdge] = []
        self._numbers = itertools.count(FIRST_OF_TOPICS)

    def readers(self, endpoint: Endpoint, port: str) -> Iterator[HostedEdge]:
        """Return the edges that begin at an output."""
        return (edge for edge in self._edges if edge.producer is endpoint and edge.link.out == port)

    def join(
        self, link: messages.Link, producer: Endpoint, consumer: Endpoint, *, topic: str = "", last: bool = False
    ) -> HostedEdge:
        """Wire an edge: tell both its ends.

        Args:
            link: what the client asked for. producer, consumer: its ends here.
            topic: what it is of, "" for one of a pipeline. last: whether its consumer wants the last frame at once.
        """
        edge = HostedEdge(link, producer, consumer)
        self._edges.append(edge)
        self._join(edge, topic, last)
        self.memory.joined(edge)
        return edge

    def rejoin(self, old: Endpoint, new: Endpoint) -> None:
        """Another process is what one that has died was: tell the other ends of its edges, and then what it had."""
        edges = [edge for edge in self._edges if old in (edge.producer, edge.consumer)]
        for edge in edges:
            edge.epoch += 1
            edge.problem = ""
            if edge.producer is old:
                edge.producer = new
                edge.life += 1
            if edge.consumer is old:
                edge.consumer = new
            self._join(edge, "", last=False)
        self.memory.ended(old, others_go_on=True)
        for edge in edges:
            self.memory.joined(edge)

    def subscribe(
        self, publisher: Endpoint, out: str, subscriber: Endpoint, into: str, topic: str, wish: messages.Join
    ) -> HostedEdge:
        """Join an output that is a topic to an input of a process that asked for it."""
        link = messages.Link(
            "",
            next(self._numbers),
            secrets.token_bytes(16),
            producer=0,
            out=out,
            consumer=0,
            into=into,
            delivery=wish.delivery,
            n=wish.n,
        )
        return self.join(link, publisher, subscriber, topic=topic, last=wish.last)

    def leave(self, edge: HostedEdge) -> None:
        """Forget an edge."""
        self._edges.remove(edge)
        edge.close()

    def died(self, endpoint: Endpoint) -> None:
        """A process is gone that may be started anew: its edges wait, but for those that are of no session."""
        for edge in self._edges[:]:
            if edge.link.edge >= FIRST_OF_TOPICS and edge.producer is endpoint:
                edge.consumer.worker.send(messages.Gone(edge.link.edge, "producer_died"))
                self.leave(edge)

    def end_consumer(self, edge: HostedEdge) -> None:
        """The consumer of an edge has ended long before its producer was started anew."""
        edge.producer.worker.send(messages.Gone(edge.link.edge, "consumer_ended"))

    def ended(self, endpoint: Endpoint, *, died: bool) -> None:
        """A process is gone: tell the other ends of its edges, and forget those that are of no session."""
        for edge in self._edges[:]:
            if edge.consumer is endpoint and edge.link.producer != -1:
                reason = "consumer_died" if died else "consumer_ended"
                edge.producer.worker.send(messages.Gone(edge.link.edge, reason))
            elif edge.producer is endpoint and edge.link.consumer != -1:
                edge.consumer.worker.send(messages.Gone(edge.link.edge, "producer_died"))
            else:
                continue
            if edge.link.edge >= FIRST_OF_TOPICS:
                self.leave(edge)
        self.memory.ended(endpoint)

    def _join(self, edge: HostedEdge, topic: str, last: bool) -> None:
        if edge.lane == "fast":
            self._join_fast(edge, topic, last)
        else:
            self._join_by_socket(edge, topic, last)

    def _join_fast(self, edge: HostedEdge, topic: str, last: bool) -> None:
        ours, theirs = fast_pair()
        with ours, theirs:
            given = [os.dup(edge.descriptor), os.dup(theirs.fileno())]
            edge.consumer.worker.send(self._input(edge, topic, lane=1), given)
            given = [os.dup(edge.descriptor), os.dup(ours.fileno())]
            edge.producer.worker.send(self._output(edge, "", last, lane=1), given)

    def _join_by_socket(self, edge: HostedEdge, topic: str, last: bool) -> None:
        link, consumer, producer = edge.link, edge.consumer, edge.producer
        listener = consumer.listener()
        if edge.door is not None:
            edge.door.unlink(missing_ok=True)
        door = edge.door = producer.door_to(consumer)
        if link.consumer == -1:
            _bridge(consumer, link, str(consumer.inbox), listener)
        else:
            given = [os.dup(edge.descriptor), *([] if listener is None else [listener])]
            place = -1 if listener is None else 1
            consumer.worker.send(self._input(edge, topic, listener=place, path=str(consumer.inbox)), given)
        if link.producer == -1:
            _bridge(producer, link, str(door), None)
        else:
            producer.worker.send(self._output(edge, str(door), last), [os.dup(edge.descriptor)])

    @staticmethod
    def _input(edge: HostedEdge, topic: str, *, lane: int = -1, listener: int = -1, path: str = "") -> messages.Input:
        link = edge.link
        return messages.Input(
            link.edge,
            link.into,
            link.token,
            link.credit,
            page=0,
            lane=lane,
            listener=listener,
            path=path,
            topic=topic,
            epoch=edge.epoch,
            life=edge.life,
        )

    @staticmethod
    def _output(edge: HostedEdge, path: str, last: bool, *, lane: int = -1) -> messages.Output:
        link = edge.link
        return messages.Output(
            link.edge,
            link.out,
            link.token,
            link.delivery,
            link.n,
            path,
            page=0,
            lane=lane,
            shared=edge.shares,
            last=last,
            epoch=edge.epoch,
            resends=link.resends,
        )


def _bridge(gateway: Endpoint, link: messages.Link, path: str, listener: int | None) -> None:
    if listener is None:
        gateway.worker.send(messages.Bridge(link, path))
    else:
        gateway.worker.send(messages.Bridge(link, path, listener=0), [listener])
