"""What joins the ends of edges in one process, for tests of delivery: lanes that are queues, and a host's memory.

The memory is real (memfds, mapped once by each end), and so are mailboxes, links, ports, leases and counters.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from rmbus.delivery import Delivery
from rmbus.errors import Closed
from rmbus.protocol import lane, messages
from rmbus.protocol.limits import FIRST_TOPIC_EDGE
from rmbus.runtime.links import InputLink, OutputLink
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.outputs import OutputPort
from rmbus.transport import counters
from rmbus.transport.counters import Page

TOKEN = bytes(16)


class Tube:
    """One end of a lane in memory, of two: it holds so many messages before it is full."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.is_cut = False
        self.arrived: deque[list[lane.Buffer]] = deque()
        self._kept: deque[list[lane.Buffer]] = deque()
        self._other: Tube

    @classmethod
    def pair(cls, room: int) -> tuple[Tube, Tube]:
        """Return both ends."""
        one, other = cls(room), cls(room)
        one._other, other._other = other, one
        return one, other

    def send(self, message: lane.Message) -> bool:
        """Send a message, or keep it; whether there is room for more."""
        return self._keep([bytes(part) for part in lane.encode(message)])

    def put(self, data: lane.Buffer) -> bool:
        """Send a message that is encoded already."""
        return self._keep([bytes(data)])

    def _keep(self, parts: list[lane.Buffer]) -> bool:
        if self.is_cut:
            raise Closed("the other end of the lane is gone")
        self._kept.append(parts)
        return self.flush()

    def flush(self) -> bool:
        """Send what is kept, as far as there is room."""
        while self._kept and len(self._other.arrived) < self.room:
            self._other.arrived.append(self._kept.popleft())
        return not self._kept

    def receive(self) -> lane.Message | None:
        """Return the next message, None where none has come."""
        return lane.decode([memoryview(part) for part in self.arrived.popleft()]) if self.arrived else None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way to this end."""
        return not self.arrived and not self._other._kept


def make_page() -> Page:
    """Return a page of counters of its own."""
    descriptor = counters.create()
    try:
        return Page(descriptor)
    finally:
        os.close(descriptor)


@dataclass(eq=False)
class Joined:
    """An edge, with both its ends."""

    number: int
    delivery: Delivery
    credit: int
    page: Page
    output: OutputLink
    input: InputLink
    port: OutputPort
    consumer: Party
    here: Tube
    there: Tube


@dataclass(eq=False)
class Party:
    """What would be a process: its memory, its output, and the edges that leave it."""

    name: str
    host: HostInMemory
    edges: list[Joined] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page = make_page()
        self.memory = NodeMemory(lambda message: self.host.heard(self, message))
        self.port = OutputPort("out", self.memory, self.page)

    def join(
        self,
        consumer: Party,
        delivery: Delivery,
        *,
        credit: int,
        room: int,
        shares: bool,
        last: bool,
        is_topic: bool = False,
    ) -> Joined:
        """Make an edge to another party: it is up when both ends have been served."""
        number = next(self.host.numbers) + (FIRST_TOPIC_EDGE if is_topic else 0)
        page = make_page()
        here, there = Tube.pair(room)
        into = InputLink(number, "in", page, consumer.memory.segments, credit=credit, token=TOKEN)
        out = OutputLink(number, here, TOKEN, delivery, page, self.memory.readers(number), shares=shares, batches=True)
        edge = Joined(number, delivery, credit, page, out, into, self.port, consumer, here, there)
        self.edges.append(edge)
        self.port.add(out, last=last)
        self.host.joined(self, edge)
        return edge

    def leave(self, edge: Joined, reason: str) -> None:
        """The consumer of an edge is gone, as its host says."""
        edge.here.is_cut = True
        self.edges.remove(edge)
        self.port.drop(edge.output, reason)


class HostInMemory:
    """The host's part in memory, without a process: it makes segments, and hands them to the readers at once.

    Args:
        quota: segments that it gives.
    """

    def __init__(self, quota: int) -> None:
        self.quota = quota
        self.numbers = iter(range(1, 1 << 30))
        self._segments: dict[int, tuple[int, int, Party, set[Party]]] = {}
        self._made = 0

    def heard(self, party: Party, message: messages.Message) -> None:
        """Serve what a party says of its memory."""
        if isinstance(message, messages.Grow):
            self._grow(party, message)
        elif isinstance(message, messages.Share):
            self._show(message.segment, party)
            edges = [edge.number for edge in party.edges if edge.output.shares]
            party.memory.take(messages.Usable(message.port, message.segment, edges), [])
        elif isinstance(message, messages.Mapped):
            owner = self._segments[message.segment][2]
            if owner is party:
                self._show(message.segment, party)
                edges = [edge.number for edge in party.edges if edge.output.shares]
                party.memory.take(messages.Usable("out", message.segment, edges), [])
        elif isinstance(message, messages.Retire):
            descriptor, _, _, readers = self._segments.pop(message.segment)
            os.close(descriptor)
            for reader in readers:
                reader.memory.take(messages.Detach(message.segment), [])

    def joined(self, party: Party, edge: Joined) -> None:
        """Let a new reader see what its producer has."""
        for number, (_, _, owner, _) in list(self._segments.items()):
            if owner is party:
                self._show(number, party)
                edges = [edge.number for edge in party.edges if edge.output.shares]
                party.memory.take(messages.Usable("out", number, edges), [])

    def close(self) -> None:
        """Give everything back."""
        for descriptor, _, _, _ in self._segments.values():
            os.close(descriptor)
        self._segments.clear()

    def _grow(self, party: Party, wish: messages.Grow) -> None:
        if len(self._segments) >= self.quota:
            party.memory.take(messages.Segment(wish.port, 0, reason="over the quota"), [])
            return
        self._made += 1
        size = wish.slots * wish.slot_bytes
        descriptor = os.memfd_create("rmbus-test", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, size)
        self._segments[self._made] = descriptor, size, party, set()
        answer = messages.Segment(wish.port, self._made, wish.slots, wish.slot_bytes, descriptor=0)
        party.memory.take(answer, [os.dup(descriptor)])

    def _show(self, segment: int, producer: Party) -> None:
        descriptor, size, _, readers = self._segments[segment]
        for reader in self._readers(producer):
            if reader not in readers:
                readers.add(reader)
                reader.memory.take(messages.Attach(segment, size), [os.dup(descriptor)])

    @staticmethod
    def _readers(producer: Party) -> Iterator[Party]:
        return (edge.consumer for edge in producer.edges if edge.output.shares)
