"""Ends of edges without processes: a lane that notes what is said, a host that gives memory in the same call."""

from __future__ import annotations

import os
from collections.abc import Callable

from rmbus.errors import Closed
from rmbus.protocol import lane, messages
from rmbus.runtime.memory import NodeMemory
from rmbus.transport import counters
from rmbus.transport.counters import Page

TOKEN = bytes(range(16))


def new_page() -> Page:
    """Return a page of counters."""
    descriptor = counters.create()
    page = Page(descriptor)
    os.close(descriptor)
    return page


class NotingLane:
    """A lane that goes nowhere.

    Attributes:
        sent: what was said. has_room: what the lane says of itself. is_cut: whether the other end is gone.
    """

    def __init__(self) -> None:
        self.sent: list[lane.Message] = []
        self.has_room = True
        self.is_cut = False
        self.on_send: Callable[[lane.Message], None] = lambda message: None

    def send(self, message: lane.Message) -> bool:
        if self.is_cut:
            raise Closed("cut")
        parts = [memoryview(bytes(part)) for part in lane.encode(message)]
        self.sent.append(lane.decode(parts))
        self.on_send(self.sent[-1])
        return self.has_room

    def put(self, data: bytes) -> bool:
        return self.send(lane.decode([memoryview(data)]))

    def flush(self) -> bool:
        if self.is_cut:
            raise Closed("cut")
        return self.has_room

    def take(self) -> list[lane.Message]:
        """Return what was said since it was asked last."""
        sent, self.sent = self.sent, []
        return sent


class Giver:
    """A host as the memory of one or more processes meets it: it answers each message at once.

    Attributes:
        said: what the processes have said. agrees: whether it lets segments be shared. reason: why it gives none.
    """

    def __init__(self) -> None:
        self.said: list[messages.Message] = []
        self.agrees = True
        self.reason = ""
        self.readers: list[tuple[NodeMemory, int]] = []  # who reads, and by which edge
        self.owners: list[NodeMemory] = []
        self._files: dict[int, tuple[int, int]] = {}

    def process(self) -> NodeMemory:
        """Return the memory of a process."""
        made = NodeMemory(lambda message: self.hear(made, message))
        return made

    def close(self) -> None:
        for descriptor, _ in self._files.values():
            os.close(descriptor)

    def hear(self, process: NodeMemory, message: messages.Message) -> None:
        self.said.append(message)
        if isinstance(message, messages.Grow):
            self._grow(process, message)
        elif isinstance(message, messages.Mapped) and process in self.owners:
            self.owners.remove(process)
            self.hand_out(process, self._port, message.segment)
        elif isinstance(message, messages.Share):
            if self.agrees:
                self.hand_out(process, message.port, message.segment)
            else:
                process.take(messages.Usable(message.port, message.segment, []), [])

    def hand_out(self, producer: NodeMemory, port: str, segment: int) -> None:
        """Let the readers map a segment, and tell the producer."""
        descriptor, size = self._files[segment]
        for reader, _ in self.readers:
            if reader is not producer and segment not in reader.segments:
                reader.take(messages.Attach(segment, size), [os.dup(descriptor)])
        edges = [edge for reader, edge in self.readers if segment in reader.segments]
        producer.take(messages.Usable(port, segment, edges), [])

    def _grow(self, process: NodeMemory, wish: messages.Grow) -> None:
        if self.reason:
            process.take(messages.Segment(wish.port, 0, reason=self.reason), [])
            return
        number, size = len(self._files) + 1, wish.slots * wish.slot_bytes
        descriptor = os.memfd_create("rmbus-test-given", os.MFD_CLOEXEC)
        os.posix_fallocate(descriptor, 0, size)
        self._files[number] = descriptor, size
        self.owners.append(process)
        self._port = wish.port
        process.take(messages.Segment(wish.port, number, wish.slots, wish.slot_bytes, 0), [os.dup(descriptor)])
