"""Shared memory: segments of slots, lent by reference.

A host makes the segments; the node that renders into one, its producer, maps it for writing, whoever reads it maps it
read-only. A slot is lent with a ticket of the edge that it travels on. What keeps a slot from being written again is an
object, on either side: a `Slot` at the producer, a `Lease` at the consumer. When the last view, waiting frame or
forwarded reference lets go of it, it is given back: a lease by a word of the edge's page, which the producer reads. So
giving back costs no message, works in any thread, and survives a kill: what a dead consumer held is never given back.
"""

from __future__ import annotations

import heapq
import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rmbus.copying import copy_into
from rmbus.protocol.frames import Place
from rmbus.protocol.lane import Buffer
from rmbus.protocol.limits import TICKETS
from rmbus.transport.counters import TICKET_WORDS, Edge, Page
from rmbus.values import Draft

PAGE_BYTES: Final = mmap.PAGESIZE
NEVER: Final = 1 << 63
"""Set in the word of a ticket: what was lent was lent on to somebody who has died: never write to it again."""

GROW_S: Final = 5.0
"""A host that has not answered within this time gives no memory."""

IDLE_S: Final = 2.0
"""A segment of which nothing was lent for so long is given back."""

_FEW: Final = 4
_MANY: Final = 8
_SMALL_SLOT: Final = 1 << 20

Bytes = NDArray[np.uint8]


class Mapping:
    """A segment in this process. It is unmapped when the last view of it has gone.

    Attributes:
        segment: its number on the host. size: in bytes. address: where it begins here.
    """

    __slots__ = ("_map", "address", "segment", "size", "view")

    def __init__(self, segment: int, size: int, descriptor: int, *, writable: bool) -> None:
        """Map the segment behind a descriptor, which stays the caller's; every page of it is touched now.

        Raises:
            OSError: it cannot be mapped.
        """
        access = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        self._map = mmap.mmap(descriptor, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, access)
        self.segment = segment
        self.size = size
        self.view = memoryview(self._map)
        address: int = np.frombuffer(self._map, np.uint8).__array_interface__["data"][0]
        self.address = address


class Held:
    """What keeps a piece of shared memory as it is, as long as this object lives.

    Attributes:
        place: where it lies. mapping: the segment, in this process.
    """

    __slots__ = ("__array_interface__", "mapping", "place")

    def __init__(self, mapping: Mapping, place: Place, *, writable: bool) -> None:
        self.mapping = mapping
        self.place = place
        self.__array_interface__ = {
            "data": (mapping.address + place.offset, not writable),
            "shape": (place.size,),
            "typestr": "|u1",
            "version": 3,
        }

    def view(self) -> Bytes:
        """Return the bytes, uint8[size]; the array keeps this object alive, and so does every view of it."""
        return np.asarray(self)


class Lease(Held):
    """Memory that another process has lent to this one."""

    __slots__ = ("_ledger", "_number", "_ticket")

    def __init__(self, mapping: Mapping, place: Place, ticket: int, number: int, ledger: Ledger) -> None:
        super().__init__(mapping, place, writable=False)
        self._ticket, self._number, self._ledger = ticket, number, ledger
        ledger.held.add(ticket)

    def never(self) -> None:
        """Say, when it is given back, that it must not be written again."""
        self._number |= NEVER

    def __del__(self) -> None:
        ledger = self._ledger
        ledger.words[TICKET_WORDS + self._ticket] = self._number
        ledger.held.discard(self._ticket)


class Ledger:
    """The consumer's side of what is lent on one edge in one epoch.

    Args:
        page: of the edge. quota: how much may be held here at once.
    """

    __slots__ = ("__weakref__", "_quota", "held", "words")

    def __init__(self, page: Page, quota: int) -> None:
        self.words = page.words
        self.held: set[int] = set()
        self._quota = quota
        _ledgers.add(self)

    def take(self, mapping: Mapping, place: Place, ticket: int, number: int) -> Bytes | bytes:
        """Return what lies at a place: a view while the quota lasts, else a copy, which is counted."""
        lease = Lease(mapping, place, ticket, number, self)
        if len(self.held) <= self._quota:
            return lease.view()
        self.words[Edge.PINNED] += 1
        return lease.view().tobytes()

    def end(self) -> None:
        """Give nothing back any more: it was lent by a producer that is gone, and its tickets are others' now."""
        self.words = memoryview(bytearray(8 * (TICKET_WORDS + TICKETS + 1))).cast("Q")


_ledgers: weakref.WeakSet[Ledger] = weakref.WeakSet()


def _forked() -> None:
    """What a forked child lets go of is still held by its parent: a child gives nothing back."""
    for ledger in list(_ledgers):
        ledger.end()


os.register_at_fork(after_in_child=_forked)


class Lending:
    """The producer's side of what is lent on one edge in one epoch: which ticket holds what."""

    def __init__(self, page: Page) -> None:
        self._words = page.words
        self._free = list(range(TICKETS, 0, -1))
        self._lent: dict[int, tuple[int, Held]] = {}
        self._spoilt: list[Held] = []  # not told yet

    @property
    def has_tickets(self) -> bool:
        """Whether more may be lent; if not, some may have been given back."""
        return bool(self._free)

    def lend(self, held: Held, number: int) -> int:
        """Return the ticket for a frame of that number that lies in `held`; 0: none is left."""
        if not self._free:
            self._spoilt = self.reclaim()
            if not self._free:
                return 0
        ticket = self._free.pop()
        self._lent[ticket] = (number, held)
        return ticket

    def reclaim(self) -> list[Held]:
        """Take back what was given back; return what was given back as never to be written again."""
        if not self._lent and not self._spoilt:
            return []
        spoilt, self._spoilt = self._spoilt, []
        words = self._words
        for ticket, (number, held) in list(self._lent.items()):
            word = words[TICKET_WORDS + ticket]
            if word == number or word == number | NEVER:
                if word != number:
                    spoilt.append(held)
                del self._lent[ticket]
                self._free.append(ticket)
        return spoilt

    @property
    def lent(self) -> int:
        """How many tickets are out."""
        return len(self._lent)

    def take_all(self) -> list[Held]:
        """The consumer is dead: return what it held, for it may have lent that on."""
        spoilt = self.reclaim() + [held for _, held in self._lent.values()]
        self._lent.clear()
        return spoilt


class Slot(Held):
    """Memory of this process's own that may be written to until it is sent."""

    __slots__ = ("_free", "_index")

    def __init__(self, mapping: Mapping, place: Place, index: int, free: list[int]) -> None:
        super().__init__(mapping, place, writable=True)
        self._index, self._free = index, free

    def write(self, payload: Buffer | Draft) -> None:
        """Copy a payload, as many bytes as the slot was asked for; one that is not written yet is written there."""
        offset, size = self.place.offset, self.place.size
        room = self.mapping.view[offset : offset + size]
        if isinstance(payload, Draft):
            payload.write(room)
        else:
            copy_into(room, payload)

    def __del__(self) -> None:
        self._free.append(self._index)  # any thread may be the last to let go, so nothing more is done here


class _Segment:
    """A segment that the pool takes slots from."""

    def __init__(self, mapping: Mapping, slots: int, slot_bytes: int) -> None:
        self.mapping = mapping
        self.slot_bytes = slot_bytes
        self.slots = slots
        self.returned: list[int] = []
        self.idle_since = time.monotonic()
        self.was_used = True
        self._free = list(range(slots))  # a heap: the lowest is taken first, for the sake of the cache

    def take(self, size: int) -> Slot | None:
        while self.returned:
            heapq.heappush(self._free, self.returned.pop())
        if not self._free:
            return None
        index = heapq.heappop(self._free)
        return Slot(self.mapping, Place(self.mapping.segment, index * self.slot_bytes, size), index, self.returned)

    @property
    def is_idle(self) -> bool:
        return len(self._free) + len(self.returned) == self.slots


class Pool:
    """The slots of one output. All methods are the data thread's, but for `grown`, `usable` and `refused`.

    Args:
        ask: asks the host for a segment: slots, and bytes of each. reclaim: takes back what consumers have let go of.
        give_back: tells the host that a segment is not used any more.
        lock: what guards the output where several threads serve it: it is let go of while the host is waited for.
    """

    def __init__(
        self,
        ask: Callable[[int, int], None],
        reclaim: Callable[[], None],
        give_back: Callable[[int], None],
        lock: threading.RLock | None = None,
    ) -> None:
        self._ask, self._reclaim, self._give_back = ask, reclaim, give_back
        self._changed = threading.Condition(lock)
        self._segments: list[_Segment] = []
        self._coming: dict[int, _Segment] = {}
        self._retiring: list[_Segment] = []
        self._is_asked = False
        self._refused_at = 0.0
        self.reason = ""

    def acquire(self, size: int) -> Slot | None:
        """Return memory for a payload, waiting for the host where more is needed; None: there is none to be had.

        What consumers have let go of is taken back first: what was written a moment ago is still in the cache.
        """
        self._reclaim()
        slot = self._take(size)
        if slot is None and self._grow(size):
            slot = self._take(size)
        return slot

    def trim(self) -> None:
        """Give back segments that nothing was lent of for a while, but the last."""
        now = time.monotonic()
        for segment in self._segments[:]:
            if segment.was_used or not segment.is_idle:
                segment.was_used = False
                segment.idle_since = now
            elif now - segment.idle_since > IDLE_S and len(self._segments) > 1:
                self._segments.remove(segment)
                self._retiring.append(segment)
        for segment in self._retiring[:]:
            if segment.is_idle:
                self._retiring.remove(segment)
                self._give_back(segment.mapping.segment)

    def retire(self, number: int) -> None:
        """Never write to a segment again. It is given back when nothing of it is under way any more."""
        for segment in self._segments:
            if segment.mapping.segment == number:
                self._segments.remove(segment)
                self._retiring.append(segment)
                return

    def end(self) -> None:
        """Give everything back: nothing is written any more, and nobody waits for what is under way."""
        for segment in (*self._segments, *self._retiring):
            self._give_back(segment.mapping.segment)
        self._segments, self._retiring = [], []

    # --- from the umbilical's thread -------------------------------------------------------------------------------

    def grown(self, mapping: Mapping, slots: int, slot_bytes: int) -> None:
        """A segment has come; it is used when its consumers have mapped it too."""
        with self._changed:
            self._coming[mapping.segment] = _Segment(mapping, slots, slot_bytes)

    def usable(self, number: int) -> None:
        """Whoever could map a segment has done so."""
        with self._changed:
            segment = self._coming.pop(number, None)
            if segment is not None:
                self._segments.append(segment)
                self._is_asked = False
                self.reason = ""
                self._changed.notify_all()

    def refused(self, reason: str) -> None:
        """The host gives no more memory."""
        with self._changed:
            self._is_asked = False
            self._refused_at = time.monotonic()
            self.reason = reason
            self._changed.notify_all()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _take(self, size: int) -> Slot | None:
        for segment in self._segments:
            if segment.slot_bytes >= size:
                slot = segment.take(size)
                if slot is not None:
                    segment.was_used = True
                    return slot
        return None

    def _grow(self, size: int) -> bool:
        """Ask for a segment and wait for it; whether it came."""
        if self.reason and time.monotonic() - self._refused_at < 1.0:
            return False  # it was refused a moment ago
        slot_bytes = -(-size // PAGE_BYTES) * PAGE_BYTES
        with self._changed:
            before = len(self._segments)
            if not self._is_asked:
                self._is_asked = True
                self.reason = ""
                self._ask(_MANY if slot_bytes <= _SMALL_SLOT else _FEW, slot_bytes)
            self._changed.wait_for(lambda: not self._is_asked, GROW_S)
            if self._is_asked:
                self._refused_at, self.reason = time.monotonic(), "the host did not answer in time"
            return len(self._segments) > before
