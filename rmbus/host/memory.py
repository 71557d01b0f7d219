"""The host's part in shared memory: it makes the segments, within a quota, and hands them to those who may read them.

A segment belongs to one output of one process. Its producer maps it first; then it is sealed, so that nobody can map
it for writing any more, and every consumer of that output gets it. The producer takes slots of it when those have
mapped it, or have had their time: no frame can come before its segment, and a consumer that is stopped holds nobody up.

Where a consumer is at another host, that host gets the segment, and hands it to the process as if it were its own. Its
number is random, so that it means the same to both; whose it is, its file tells.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import attrs

from rmbus.errors import Broken
from rmbus.host.endpoints import End
from rmbus.protocol import messages
from rmbus.protocol.limits import MAX_NUMBER
from rmbus.transport.reactor import Reactor

if TYPE_CHECKING:
    from rmbus.host.edges import HostedEdge

QUOTA_BYTES: Final = 2 << 30
"""Shared memory of one process's own."""

MAX_SEGMENTS: Final = 256
"""Segments of one process: each is a descriptor of the host's, however small it is."""

PATIENCE_S: Final = 1.0
"""How long consumers have to map a segment before its producer goes on without them."""

MAX_FOREIGN: Final = 1024
"""Segments of other hosts that a host keeps at a time."""

_SEAL_FUTURE_WRITE: Final = 0x0010  # F_SEAL_FUTURE_WRITE of <linux/fcntl.h>, which Python's fcntl does not name


@attrs.define(eq=False)
class Segment:
    """One segment.

    Attributes:
        number: random, and no other segment's here. owner, port: whose it is. descriptor: the host's own.
        is_mapped: whether its producer has mapped it. given: processes that were handed it. mapped: those that have it.
        is_foreign: whether it came from another host.
        outlets: outputs by which it may go on, each with its process; the owner's own port first.
        waiting: processes that were handed it and have not yet said that they mapped it.
    """

    number: int
    owner: End
    port: str
    size: int
    descriptor: int
    is_mapped: bool = False
    is_foreign: bool = False
    given: set[End] = attrs.field(factory=set[End])
    mapped: set[End] = attrs.field(factory=set[End])
    outlets: list[tuple[End, str]] = attrs.field(factory=list[tuple[End, str]])
    waiting: set[End] = attrs.field(factory=set[End])


Readers = Callable[[End, str], Iterable["HostedEdge"]]


class Memory:
    """The segments of a host.

    Args:
        reactor: the host's. readers: returns the edges that begin at an output. quota_bytes: for one process.
    """

    def __init__(self, reactor: Reactor, readers: Readers, *, quota_bytes: int = QUOTA_BYTES) -> None:
        self._reactor = reactor
        self._readers = readers
        self._quota_bytes = quota_bytes
        self._segments: dict[int, Segment] = {}

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return sum(segment.size for segment in self._segments.values())

    def heard(self, endpoint: End, message: messages.Message) -> bool:
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

    def lent(self, producer: End, port: str, attach: messages.Attach, descriptor: int) -> None:
        """A producer at another host lends memory to its consumer here; the descriptor stays the caller's.

        Raises:
            Broken: it is no memory that may be handed to a process.
        """
        segment = self._segments.get(attach.segment)
        if segment is None:
            segment = self._keep_foreign(producer, port, attach, descriptor)
        elif not os.path.sameopenfile(segment.descriptor, descriptor):
            raise Broken(f"the number {attach.segment} is that of another segment here")
        if not all(edge.consumer.may_lend_on(segment.owner) for edge in self._readers(producer, port)):
            raise Broken("its consumer may not read it")
        if (producer, port) not in segment.outlets:
            segment.outlets.append((producer, port))
        self._hand_out(segment, producer, port)

    def withdrawn(self, producer: End, number: int) -> None:
        """A producer at another host writes no further frame to a segment."""
        segment = self._segments.get(number)
        if segment is None or not any(end is producer for end, _ in segment.outlets):
            return
        if segment.is_foreign:
            self._drop(segment)
        else:
            segment.outlets = [outlet for outlet in segment.outlets if outlet[0] is not producer]

    def ended(self, endpoint: End) -> None:
        """A process is gone. Its memory goes with the last view of it, or with the last process that lends it on."""
        for segment in list(self._segments.values()):
            segment.given.discard(endpoint)
            segment.mapped.discard(endpoint)
            segment.outlets = [outlet for outlet in segment.outlets if outlet[0] is not endpoint]
            if not segment.outlets:
                self._drop(segment)
            elif endpoint in segment.waiting:
                segment.waiting.discard(endpoint)
                self._tell_usable(segment)

    def close(self) -> None:
        """Give everything back."""
        for segment in self._segments.values():
            os.close(segment.descriptor)
        self._segments.clear()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _grow(self, endpoint: End, wish: messages.Grow) -> None:
        size = wish.slots * wish.slot_bytes
        own = [segment.size for segment in self._segments.values() if segment.owner is endpoint]
        used = sum(own)
        try:
            if len(own) >= MAX_SEGMENTS:
                raise MemoryError(f"the process has {MAX_SEGMENTS} segments of shared memory, and may have no more")
            if used + size > self._quota_bytes:
                raise MemoryError(
                    f"{used >> 20} MiB of shared memory and {size >> 20} more are over the process's "
                    f"{self._quota_bytes >> 20} MiB"
                )
            descriptor = _create(size)
        except (OSError, MemoryError) as error:
            endpoint.worker.send(messages.Segment(wish.port, 0, reason=str(error)))
            return
        segment = Segment(self._free_number(), endpoint, wish.port, size, descriptor)
        segment.outlets.append((endpoint, wish.port))
        self._segments[segment.number] = segment
        answer = messages.Segment(wish.port, segment.number, wish.slots, wish.slot_bytes, descriptor=0)
        endpoint.worker.send(answer, [os.dup(descriptor)])

    def _free_number(self) -> int:
        while (number := secrets.randbelow(MAX_NUMBER) + 1) in self._segments:
            continue
        return number

    def _keep_foreign(self, owner: End, port: str, attach: messages.Attach, descriptor: int) -> Segment:
        wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE
        if sum(segment.is_foreign for segment in self._segments.values()) >= MAX_FOREIGN:
            raise Broken(f"other hosts lend {MAX_FOREIGN} segments already")
        if attach.segment < 1 or os.fstat(descriptor).st_size != attach.size or not is_sealed(descriptor, wanted):
            raise Broken(f"segment {attach.segment} is not {attach.size} bytes of memory that nobody can change")
        segment = Segment(attach.segment, owner, port, attach.size, os.dup(descriptor), is_mapped=True, is_foreign=True)
        self._segments[segment.number] = segment
        return segment

    def _mapped(self, endpoint: End, message: messages.Mapped) -> None:
        segment = self._segments.get(message.segment)
        if segment is None:
            if not message.problem:  # it was slow to map what is given up by now
                endpoint.worker.send(messages.Detach(message.segment))
            return
        if segment.owner is endpoint and not segment.is_mapped:
            if message.problem:
                self._drop(segment)
                return
            segment.is_mapped = True
            fcntl.fcntl(segment.descriptor, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
            self._hand_out(segment, endpoint, segment.port)
            return
        if endpoint not in segment.given:
            return  # who was never handed it has not mapped it, and must not hand it on
        segment.waiting.discard(endpoint)
        if message.problem:
            self._note(segment, endpoint, f"its consumer cannot map memory: {message.problem}")
        else:
            segment.mapped.add(endpoint)
            self._note(segment, endpoint, "")
        self._tell_usable(segment)

    def _share(self, endpoint: End, wish: messages.Share) -> None:
        """A process sends on what it has received: its readers may see it where they are of the same session."""
        segment = self._segments.get(wish.segment)
        has_readers = any(edge.shares for edge in self._readers(endpoint, wish.port))
        may = segment is not None and endpoint in segment.mapped and endpoint.may_lend_on(segment.owner)
        if segment is None or not may or not has_readers:
            endpoint.worker.send(messages.Usable(wish.port, wish.segment, []))
            return
        if (endpoint, wish.port) not in segment.outlets:
            segment.outlets.append((endpoint, wish.port))
        self._hand_out(segment, endpoint, wish.port)

    def _hand_out(self, segment: Segment, producer: End, port: str) -> None:
        """Give a segment to the readers of an output that lack it; tell the producer when they have it."""
        lacking: set[End] = set()
        for edge in self._readers(producer, port):
            consumer = edge.consumer
            is_own = producer is segment.owner
            if edge.shares and consumer not in segment.mapped and (is_own or consumer.may_lend_on(segment.owner)):
                lacking.add(consumer)
        lacking -= segment.given
        for consumer in lacking:
            segment.given.add(consumer)
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

    def _note(self, segment: Segment, consumer: End, problem: str) -> None:
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

    def _drop(self, segment: Segment) -> None:
        del self._segments[segment.number]
        os.close(segment.descriptor)
        segment.waiting.clear()
        for endpoint in segment.given:
            endpoint.worker.send(messages.Detach(segment.number))
        for producer, port in segment.outlets:
            if producer is not segment.owner:  # it may wait for the word that it can lend on
                producer.worker.send(messages.Usable(port, segment.number, []))


def is_sealed(descriptor: int, wanted: int) -> bool:
    """Whether a descriptor is that of memory, with all these seals."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & wanted == wanted
    except OSError:
        return False  # of something else


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
