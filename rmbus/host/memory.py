"""The host's part in shared memory: it makes the segments, within a quota, and hands them to those who may read them.

A segment belongs to one output of one process. Its producer maps it first; then it is sealed, so that nobody can map
it for writing any more, and every consumer of that output gets it. The producer takes slots of it when those have
mapped it, or have had their time: no frame can come before its segment, and a consumer that is stopped holds nobody up.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import attrs

from rmbus.host.endpoints import Endpoint
from rmbus.protocol import messages
from rmbus.transport.reactor import Reactor

if TYPE_CHECKING:
    from rmbus.host.edges import HostedEdge

QUOTA_BYTES: Final = 2 << 30
"""Shared memory of one process's own."""

PATIENCE_S: Final = 1.0
"""How long consumers have to map a segment before its producer goes on without them."""

_SEAL_FUTURE_WRITE: Final = 0x0010  # F_SEAL_FUTURE_WRITE of <linux/fcntl.h>, which Python's fcntl does not name


@attrs.define(eq=False)
class Segment:
    """One segment.

    Attributes:
        number: on this host. owner, port: whose it is. descriptor: the host's own.
        is_mapped: whether its producer has mapped it. mapped: processes that have it.
        outlets: outputs by which it may go on, each with its process; the owner's own port first.
        waiting: processes that have it and have not yet said that they mapped it.
    """

    number: int
    owner: Endpoint
    port: str
    size: int
    descriptor: int
    is_mapped: bool = False
    mapped: set[Endpoint] = attrs.field(factory=set[Endpoint])
    outlets: list[tuple[Endpoint, str]] = attrs.field(factory=list[tuple[Endpoint, str]])
    waiting: set[Endpoint] = attrs.field(factory=set[Endpoint])


Readers = Callable[[Endpoint, str], Iterable["HostedEdge"]]


class Memory:
    """The segments of a host.

    Args:
        reactor: the host's. readers: returns the edges that begin at an output. quota_bytes: for one process.
    """

    def __init__(self, reactor: Reactor, readers: Readers, *, quota_bytes: int = QUOTA_BYTES) -> None:
        self._reactor = reactor
        self._readers = readers
        self._quota_bytes = quota_bytes
        self._numbers = itertools.count(1)
        self._segments: dict[int, Segment] = {}

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return sum(segment.size for segment in self._segments.values())

    def heard(self, endpoint: Endpoint, message: messages.Message) -> bool:
        """Serve a message of a process if it is about memory; whether it was."""
        if isinstance(message, messages.Grow):
            self._grow(endpoint, message)
        elif isinstance(message, messages.Mapped):
            self._mapped(endpoint, message)
        elif isinstance(message, messages.Share):
            self._share(endpoint, message)
        elif isinstance(message, messages.Retire):
            segment = self._segments.get(message.segment)
            if segment is not None and segment.owner is endpoint:
                self._drop(segment)
        else:
            return False
        return True

    def joined(self, edge: HostedEdge) -> None:
        """A new reader of an output: it gets what may come."""
        if edge.shares:
            for segment in self._segments.values():
                if segment.is_mapped and (edge.producer, edge.link.out) in segment.outlets:
                    self._hand_out(segment, edge.producer, edge.link.out)

    def ended(self, endpoint: Endpoint, *, others_go_on: bool = False) -> None:
        """A process is gone: its memory goes with the last view of it.

        Args:
            endpoint: the process.
            others_go_on: what it has lent to a process that lends it on may still be on its way behind that one; it
                stays mapped then, until its readers end.
        """
        for segment in list(self._segments.values()):
            if segment.owner is endpoint:
                is_lent_on = any(producer is not endpoint for producer, _ in segment.outlets)
                self._drop(segment, is_told=not (others_go_on and is_lent_on))
            else:
                segment.mapped.discard(endpoint)
                segment.outlets = [outlet for outlet in segment.outlets if outlet[0] is not endpoint]
                if endpoint in segment.waiting:
                    segment.waiting.discard(endpoint)
                    self._tell_usable(segment)

    def close(self) -> None:
        """Give everything back."""
        for segment in self._segments.values():
            os.close(segment.descriptor)
        self._segments.clear()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _grow(self, endpoint: Endpoint, wish: messages.Grow) -> None:
        size = wish.slots * wish.slot_bytes
        used = sum(segment.size for segment in self._segments.values() if segment.owner is endpoint)
        try:
            if used + size > self._quota_bytes:
                raise MemoryError(
                    f"{used >> 20} MiB of shared memory and {size >> 20} more are over the process's "
                    f"{self._quota_bytes >> 20} MiB"
                )
            descriptor = _create(size)
        except (OSError, MemoryError) as error:
            endpoint.worker.send(messages.Segment(wish.port, 0, reason=str(error)))
            return
        segment = Segment(next(self._numbers), endpoint, wish.port, size, descriptor)
        segment.outlets.append((endpoint, wish.port))
        self._segments[segment.number] = segment
        answer = messages.Segment(wish.port, segment.number, wish.slots, wish.slot_bytes, descriptor=0)
        endpoint.worker.send(answer, [os.dup(descriptor)])

    def _mapped(self, endpoint: Endpoint, message: messages.Mapped) -> None:
        segment = self._segments.get(message.segment)
        if segment is None:
            return
        if segment.owner is endpoint and not segment.is_mapped:
            if message.problem:
                self._drop(segment)
                return
            segment.is_mapped = True
            fcntl.fcntl(segment.descriptor, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
            self._hand_out(segment, endpoint, segment.port)
            return
        segment.waiting.discard(endpoint)
        if message.problem:
            self._note(segment, endpoint, f"its consumer cannot map memory: {message.problem}")
        else:
            segment.mapped.add(endpoint)
            self._note(segment, endpoint, "")
        self._tell_usable(segment)

    def _share(self, endpoint: Endpoint, wish: messages.Share) -> None:
        """A process sends on what it has received: its readers may see it where they are of the same session."""
        segment = self._segments.get(wish.segment)
        if segment is None or endpoint not in segment.mapped or not endpoint.may_lend_on(segment.owner):
            endpoint.worker.send(messages.Usable(wish.port, wish.segment, []))
            return
        if (endpoint, wish.port) not in segment.outlets:
            segment.outlets.append((endpoint, wish.port))
        self._hand_out(segment, endpoint, wish.port)

    def _hand_out(self, segment: Segment, producer: Endpoint, port: str) -> None:
        """Give a segment to the readers of an output that lack it; tell the producer when they have it."""
        lacking: set[Endpoint] = set()
        for edge in self._readers(producer, port):
            consumer = edge.consumer
            is_own = producer is segment.owner
            if edge.shares and consumer not in segment.mapped and (is_own or consumer.may_lend_on(segment.owner)):
                lacking.add(consumer)
        for consumer in lacking - segment.waiting:
            segment.waiting.add(consumer)
            consumer.worker.send(messages.Attach(segment.number, segment.size), [os.dup(segment.descriptor)])
        if lacking:
            self._reactor.call_later(PATIENCE_S, lambda: self._give_up(segment))
        self._tell_usable(segment)

    def _give_up(self, segment: Segment) -> None:
        for consumer in segment.waiting.copy():
            segment.waiting.discard(consumer)
            self._note(segment, consumer, "its consumer did not map memory in time")
        if segment.number in self._segments:
            self._tell_usable(segment)

    def _note(self, segment: Segment, consumer: Endpoint, problem: str) -> None:
        """Note of a segment's edges to a consumer why they go on without shared memory, or that they need not."""
        for producer, port in segment.outlets:
            for edge in self._readers(producer, port):
                if edge.consumer is consumer:
                    edge.problem = problem

    def _tell_usable(self, segment: Segment) -> None:
        """Tell every producer whose readers have all had their time which of them can see the segment."""
        for producer, port in segment.outlets:
            edges = [edge for edge in self._readers(producer, port) if edge.shares]
            if not any(edge.consumer in segment.waiting for edge in edges):
                numbers = [edge.link.edge for edge in edges if edge.consumer in segment.mapped]
                producer.worker.send(messages.Usable(port, segment.number, numbers))

    def _drop(self, segment: Segment, *, is_told: bool = True) -> None:
        del self._segments[segment.number]
        os.close(segment.descriptor)
        for endpoint in segment.mapped | segment.waiting if is_told else ():
            endpoint.worker.send(messages.Detach(segment.number))


def _create(size: int) -> int:
    """Return the descriptor of a segment; its memory is there, or this fails."""
    descriptor = os.memfd_create("rmbus-segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
