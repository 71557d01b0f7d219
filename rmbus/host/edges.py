"""The edges of a host: who is joined to whom, by which lane, and what becomes of an edge when an end of it goes."""

from __future__ import annotations

import itertools
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from rmbus.host.endpoints import End, Endpoint
from rmbus.host.memory import Memory
from rmbus.host.peers import FarEnd
from rmbus.protocol import messages
from rmbus.protocol.calls import WINDOW
from rmbus.protocol.limits import DEFAULT_CREDIT, FIRST_TOPIC_EDGE
from rmbus.transport import counters
from rmbus.transport.counters import Page
from rmbus.transport.lanes import fast_pair
from rmbus.transport.reactor import Reactor

MOST_CALLS: Final = 1024
"""Calls, or replies, that may wait; both ends see to it that there are fewer."""

MAX_WINDOW: Final = 128
"""The greatest window of a reader of a topic."""


class HostedEdge:
    """An edge with at least one end on this host.

    Attributes:
        producer, consumer: where it begins and ends: a node, the gateway, or what stands for a node of another host.
        lane: what moves it here. problem: why its consumer does not map its producer's memory, or "".
        is_cut: whether an end of it is gone.
        is_awaited: whether the producer's host has still to come for it.
        kept: the consumer's end of its lane, until then.
        epoch: how often it was joined. life: how many processes have been its producer.
    """

    def __init__(self, link: messages.Link, producer: End, consumer: End, page: int | None = None) -> None:
        """Keep an edge; `page` is the descriptor of its counters, which are made where none is given."""
        self.link = link
        self.producer, self.consumer = producer, consumer
        self.is_met = isinstance(producer, FarEnd) or isinstance(consumer, FarEnd)
        self.is_bridged = -1 in (link.producer, link.consumer) and not self.is_met
        self.lane = "tcp" if self.is_bridged else "fast" if link.fast else "ipc"
        self.problem = ""
        self.is_cut = False
        self.epoch = self.life = 1
        self.door: Path | None = None
        self.is_awaited = False
        self.kept: socket.socket | None = None
        self.descriptor = counters.create() if page is None else page
        self.page = Page(self.descriptor)

    @property
    def shares(self) -> bool:
        """Whether its frames may go by reference."""
        return not self.is_bridged and self.link.shared and not self.problem

    @property
    def outlives(self) -> bool:
        """Whether the edge outlives the death of an end, which may be started anew."""
        return self.link.resends and not self.is_met and not self.is_bridged

    @property
    def standing(self) -> str:
        """Where the edge stands, and why, in words."""
        if self.is_bridged:
            return f"tcp, inline (two hosts: {self.link.apart})" if self.link.apart else "tcp, inline (two hosts)"
        lane = self.lane if self.link.fast else "ipc (fast=False)"
        if not self.link.shared:
            return f"{lane}, inline (shared=False)"
        if self.problem:
            return f"{lane}, inline ({self.problem})"
        shared, sent = self.page.words[counters.Edge.SHARED], self.page.words[counters.Edge.SENT]
        return f"{lane}, shared memory" if shared or not sent else f"{lane}, inline (small frames)"

    def report(self) -> dict[str, Any]:
        """Return the account, as it stands. What has left an edge is read first: so it is never more than came in."""
        words = self.page.words
        delivered, dropped = words[counters.Edge.DELIVERED], self.page.dropped()
        published, duplicates = words[counters.Edge.PUBLISHED], words[counters.Edge.DUPLICATES]
        over = delivered + sum(dropped.values()) - published - duplicates
        if over > 0:
            dropped = _without_begun(dropped, over)
        return {
            "edge": self.link.edge,
            "producer": self.link.producer,
            "consumer": self.link.consumer,
            "published": published,
            "bytes": words[counters.Edge.BYTES],
            "delivered": delivered,
            "shared": words[counters.Edge.SHARED],
            "pinned": words[counters.Edge.PINNED],
            "duplicates": duplicates,
            "blocked_since": words[counters.Edge.BLOCKED_SINCE],
            "began": words[counters.Edge.BEGAN],
            "dropped": dropped,
            "latency": _sparse(self.page.histogram()),
            "lane": self.standing,
            "met": self.is_met,
        }

    def close(self) -> None:
        """Give the page back, and take the door away: a gateway's folder outlives the session."""
        for end in (self.producer, self.consumer):
            if isinstance(end, FarEnd):
                end.leave()
        self.take_back()
        if self.door is not None:
            self.door.unlink(missing_ok=True)
        self.page.close()
        os.close(self.descriptor)

    def take_back(self) -> None:
        """The producer's host has not taken the lane that was made for it."""
        if self.kept is not None:
            self.kept.close()
            self.kept = None


def _without_begun(dropped: dict[str, int], begun: int) -> dict[str, int]:
    """Return what was dropped without the frames that a consumer has begun with after its producer gave them up.

    A consumer whose host is lost, or whose session is being killed, is told of as gone a moment before it is.
    """
    rest = dict(dropped)
    for reason in ("consumer_died", "consumer_ended"):
        taken = min(begun, rest.get(reason, 0))
        begun -= taken
        rest[reason] = rest.get(reason, 0) - taken
    return {reason: count for reason, count in rest.items() if count}


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
        self._numbers = itertools.count(FIRST_TOPIC_EDGE)

    def readers(self, endpoint: End, port: str) -> Iterator[HostedEdge]:
        """Return the edges that begin at an output, and whose readers are there."""
        return (edge for edge in self._edges if edge.producer is endpoint and edge.link.out == port and not edge.is_cut)

    def join(
        self, link: messages.Link, producer: Endpoint, consumer: Endpoint, *, topic: str = "", last: bool = False
    ) -> HostedEdge:
        """Wire an edge: tell both its ends.

        Args:
            link: what the client asked for. producer, consumer: its ends here.
            topic: what it is of, "" for one of a pipeline. last: whether its consumer wants the last frame at once.
        """
        if not (producer.shares and consumer.shares):  # a process of another machine, with relays in between
            link = attrs.evolve(link, fast=True, shared=False)
        edge = HostedEdge(link, producer, consumer)
        self._edges.append(edge)
        self._join(edge, producer, consumer, topic, last=last)
        self.memory.joined(edge)
        return edge

    def rejoin(self, old: Endpoint, new: Endpoint) -> None:
        """Another process is what one that has died was: tell the other ends of its edges, and then what it had."""
        edges = [edge for edge in self._edges if edge.outlives and old in (edge.producer, edge.consumer)]
        for edge in edges:
            edge.epoch += 1
            edge.problem = ""
            if edge.producer is old:
                edge.producer = new
                edge.life += 1
            if edge.consumer is old:
                edge.consumer = new
            assert isinstance(edge.producer, Endpoint)
            assert isinstance(edge.consumer, Endpoint)
            self._join(edge, edge.producer, edge.consumer, last=False)
        self.memory.ended(old)
        for edge in edges:
            self.memory.joined(edge)

    # An edge whose ends are on two hosts that meet is wired in four steps: the consumer's host awaits the other, and
    # when that has come, offers it the lane and the page; the producer's host takes them; then the consumer's begins.

    def await_producer(self, link: messages.Link, consumer: Endpoint) -> HostedEdge:
        """Keep an edge that another host will come for."""
        far = FarEnd(link.session)
        edge = far.edge = HostedEdge(link, far, consumer)
        edge.is_awaited = True
        self._edges.append(edge)
        return edge

    @staticmethod
    def offer(edge: HostedEdge) -> list[int]:
        """Return what the producer's host is given: descriptors of the page, and of the producer's end of a lane."""
        edge.take_back()
        edge.kept, theirs = fast_pair()
        return [os.dup(edge.descriptor), theirs.detach()]

    def take(self, link: messages.Link, producer: Endpoint, consumer: FarEnd, page: int, lane: int) -> HostedEdge:
        """Wire an edge with what the consumer's host has offered, of which it keeps copies: tell its producer."""
        edge = consumer.edge = HostedEdge(link, producer, consumer, os.dup(page))
        producer.worker.send(self._output(edge, "", False, lane=1), [os.dup(page), os.dup(lane)])
        self._edges.append(edge)
        return edge

    def begin(self, edge: HostedEdge) -> None:
        """The producer's host has taken the offer: tell the consumer."""
        assert edge.kept is not None
        edge.is_awaited = False
        edge.consumer.worker.send(self._input(edge, "", lane=1), [os.dup(edge.descriptor), edge.kept.detach()])
        edge.kept = None

    def subscribe(
        self, publisher: Endpoint, out: str, subscriber: Endpoint, into: str, topic: str, wish: messages.Join
    ) -> HostedEdge:
        """Join an output that is a topic to an input of a process that asked for it."""
        link = self._new_link(out, into, delivery=wish.delivery, n=wish.n, credit=_window(wish))
        return self.join(link, publisher, subscriber, topic=topic, last=wish.last)

    def call(
        self, caller: Endpoint, ports: tuple[str, str], obj: Endpoint, its_ports: tuple[str, str]
    ) -> tuple[HostedEdge, HostedEdge]:
        """Join a process that calls an object to it, there and back; of each, the ports for calls and for replies."""
        (calls, replies), (its_calls, its_replies) = ports, its_ports
        there = self._new_link(calls, its_calls, n=MOST_CALLS, credit=WINDOW)
        back = self._new_link(its_replies, replies, n=MOST_CALLS, credit=WINDOW)
        return self.join(back, obj, caller), self.join(there, caller, obj)

    def _new_link(self, out: str, into: str, *, n: int, credit: int, delivery: str = "reliable") -> messages.Link:
        """Return an edge of no session, between an output and an input."""
        return messages.Link(
            "",
            next(self._numbers),
            secrets.token_bytes(16),
            producer=0,
            out=out,
            consumer=0,
            into=into,
            delivery=delivery,
            n=n,
            credit=credit,
        )

    def leave(self, edge: HostedEdge) -> None:
        """Forget an edge."""
        self._edges.remove(edge)
        edge.close()

    def died(self, endpoint: Endpoint) -> None:
        """A process is gone that may be started anew: those of its edges that outlive it wait for that."""
        self._cut(endpoint, [edge for edge in self._edges if not edge.outlives], died=True)

    def end_consumer(self, edge: HostedEdge) -> None:
        """The consumer of an edge has ended long before its producer was started anew."""
        edge.producer.worker.send(messages.Gone(edge.link.edge, "consumer_ended"))

    def ended(self, endpoint: End, *, died: bool) -> None:
        """A process is gone: tell the other ends of its edges, and forget those that are of no session."""
        self._cut(endpoint, self._edges[:], died=died)
        self.memory.ended(endpoint)

    def _cut(self, endpoint: End, edges: list[HostedEdge], *, died: bool) -> None:
        for edge in edges:
            if edge.is_bridged:
                continue  # the gateways' hosts tell their sessions
            if edge.consumer is endpoint:
                reason = "consumer_died" if died else "consumer_ended"
                edge.producer.worker.send(messages.Gone(edge.link.edge, reason))
            elif edge.producer is endpoint:
                edge.consumer.worker.send(messages.Gone(edge.link.edge, "producer_died"))
            else:
                continue
            edge.is_cut = True
            if edge.link.edge >= FIRST_TOPIC_EDGE:
                self.leave(edge)

    def _join(self, edge: HostedEdge, producer: Endpoint, consumer: Endpoint, topic: str = "", *, last: bool) -> None:
        if edge.lane == "fast":
            self._join_fast(edge, topic, last)
        else:
            self._join_by_socket(edge, producer, consumer, topic, last)

    def _join_fast(self, edge: HostedEdge, topic: str, last: bool) -> None:
        ours, theirs = fast_pair()
        with ours, theirs:
            given = [os.dup(edge.descriptor), os.dup(theirs.fileno())]
            edge.consumer.worker.send(self._input(edge, topic, lane=1), given)
            given = [os.dup(edge.descriptor), os.dup(ours.fileno())]
            edge.producer.worker.send(self._output(edge, "", last, lane=1), given)

    def _join_by_socket(self, edge: HostedEdge, producer: Endpoint, consumer: Endpoint, topic: str, last: bool) -> None:
        link = edge.link
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


def _window(wish: messages.Join) -> int:
    """Return how many frames may be under way to a reader: a quarter of those that may wait, for it wakes for each."""
    return DEFAULT_CREDIT if wish.delivery == "latest" else max(DEFAULT_CREDIT, min(wish.n // 4, MAX_WINDOW))
