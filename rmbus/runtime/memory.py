"""A node's shared memory: what it may read, and the pools that its outputs take slots from.

What the host says of it is served by the umbilical's thread, so that a producer gets its memory while its consumers
are busy, and while it waits for it in the middle of the user's code.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from rmbus.protocol import messages
from rmbus.transport.memory import Mapping, Pool
from rmbus.transport.umbilical import close_all, descriptor_at

SHARE_S: Final = 2.0
"""How long the word that readers have mapped a foreign segment may take."""


class NodeMemory:
    """The segments of one process.

    Args:
        say: tells the host. lock: see `Pool`.

    Attributes:
        segments: those that it may read, by number.
        on_detach: called, in the umbilical's thread, with a segment in which no further frame lies: when those that are
            under way have been taken in, it is to be forgotten.
    """

    def __init__(self, say: Callable[[messages.Message], None], lock: threading.RLock | None = None) -> None:
        self._say = say
        self._lock = lock
        self.segments: dict[int, Mapping] = {}
        self.on_detach: Callable[[int], None] = self.forget
        self._own: dict[int, Mapping] = {}
        self._pools: dict[str, Pool] = {}
        self._readers: defaultdict[int, set[int]] = defaultdict(set)
        self._answered: set[tuple[str, int]] = set()
        self._changed = threading.Condition(lock)

    def pool(self, port: str, reclaim: Callable[[], None]) -> Pool:
        """Return the pool of an output."""
        pool = Pool(
            lambda slots, slot_bytes: self._say(messages.Grow(port, slots, slot_bytes)),
            reclaim,
            self._retire,
            self._lock,
        )
        self._pools[port] = pool
        return pool

    def end_pool(self, port: str) -> None:
        """An output has no reader any more, and will have none: give the host its memory back."""
        pool = self._pools.pop(port, None)
        if pool is not None:
            pool.end()

    def has(self, mapping: Mapping) -> bool:
        """Whether a segment is one of this node's own, or one that its host has given it to read.

        A script may feed one host's frames to another host, where the number of their segment is another segment's.
        """
        return mapping is self._own.get(mapping.segment) or mapping is self.segments.get(mapping.segment)

    def readers(self, edge: int) -> set[int]:
        """Return the numbers of the segments that the consumer of an edge has mapped; the set changes as they come."""
        return self._readers[edge]

    def forget(self, segment: int) -> None:
        """Let go of a segment; it is unmapped with the last view of it."""
        self.segments.pop(segment, None)

    def forget_readers(self, edge: int) -> None:
        """An edge has no consumer any more."""
        self._readers.pop(edge, None)

    def share(self, port: str, segment: int) -> bool:
        """Ask that the readers of an output may read a segment of somebody else's; whether the host has agreed."""
        with self._changed:
            self._answered.discard((port, segment))
            self._say(messages.Share(port, segment))
            return self._changed.wait_for(lambda: (port, segment) in self._answered, SHARE_S)

    def take(self, message: messages.Message, descriptors: list[int]) -> bool:
        """Take a message of the host's if it is about memory; whether it was. In the umbilical's thread."""
        if isinstance(message, messages.Segment):
            self._grown(message, descriptors)
        elif isinstance(message, messages.Attach):
            self._attach(message, descriptors)
        elif isinstance(message, messages.Usable):
            for edge in message.edges:
                self._readers[edge].add(message.segment)
            pool = self._pools.get(message.port)
            if pool is not None:
                pool.usable(message.segment)
            with self._changed:
                self._answered.add((message.port, message.segment))
                self._changed.notify_all()
        elif isinstance(message, messages.Output):
            if message.epoch > 1:  # another process is the consumer; what it has mapped is told after this
                self._readers[message.edge].clear()
            return False
        elif isinstance(message, messages.Detach):
            for readers in list(self._readers.values()):
                readers.discard(message.segment)  # what is sent on from it goes apart from now on
            self.on_detach(message.segment)
        else:
            return False
        return True

    def _grown(self, message: messages.Segment, descriptors: list[int]) -> None:
        pool = self._pools[message.port]
        if message.descriptor < 0:
            pool.refused(message.reason)
            return
        try:
            size = message.slots * message.slot_bytes
            mapping = Mapping(message.segment, size, descriptor_at(descriptors, message.descriptor), writable=True)
        except OSError as error:
            self._say(messages.Mapped(message.segment, str(error)))
            pool.refused(str(error))
            return
        finally:
            close_all(descriptors)
        self._own[message.segment] = mapping
        pool.grown(mapping, message.slots, message.slot_bytes)
        self._say(messages.Mapped(message.segment))

    def _retire(self, segment: int) -> None:
        self._own.pop(segment, None)
        self._say(messages.Retire(segment))

    def _attach(self, message: messages.Attach, descriptors: list[int]) -> None:
        problem = ""
        try:
            self.segments[message.segment] = Mapping(
                message.segment, message.size, descriptor_at(descriptors, message.descriptor), writable=False
            )
        except OSError as error:
            problem = str(error)
        finally:
            close_all(descriptors)
        self._say(messages.Mapped(message.segment, problem))
