"""The edges of an inline run: what waits on each, and the account of it. They drop as the edges of processes do."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from rmbus.delivery import Delivery
from rmbus.formats import is_inter_coded
from rmbus.media import Frame, Packet
from rmbus.node import Interrupt

if TYPE_CHECKING:
    from rmbus.runtime.stations import Station

_arrivals: Final = itertools.count()


@attrs.frozen
class EdgeCount:
    """What became of an edge's frames."""

    name: str
    delivery: str
    published: int
    delivered: int
    dropped: Mapping[str, int]
    bytes: int


@attrs.define(eq=False)
class Link:
    """One edge: what waits on it, and the account of it.

    Attributes:
        target: the station that it feeds, None where it leads out of the pipeline.
        port: the name of the input, or of the output where it leads out.
        source, output: the station that feeds it, and by which output; None where that is the caller.
        carries_video: whether packets of video have come. is_awaiting_key: whether they are dropped until a key comes.
    """

    name: str
    delivery: Delivery
    target: Station | None
    port: str
    source: Station | None = None
    output: str = ""
    queue: deque[tuple[int, Frame | Interrupt]] = attrs.field(factory=deque[tuple[int, Frame | Interrupt]])
    published: int = 0
    delivered: int = 0
    bytes: int = 0
    dropped: Counter[str] = attrs.field(factory=Counter[str])
    ended: bool = False
    closed: bool = False
    carries_video: bool = False
    is_awaiting_key: bool = False

    @property
    def has_room(self) -> bool:
        """Whether the next frame can be offered."""
        return self.closed or self.delivery.kind != "reliable" or len(self.queue) < self.delivery.n

    @property
    def is_over(self) -> bool:
        """Whether nothing waits and nothing more comes."""
        return self.ended and not self.queue

    def offer(self, frame: Frame) -> None:
        """Put a frame in, and drop what the policy says."""
        self.published += 1
        self.bytes += _size(frame)
        if self.closed:
            self.dropped["consumer_ended"] += 1
            return
        if self.delivery.kind != "reliable" and not self._make_room(key_of(frame)):
            self.dropped["awaiting_key"] += 1
            return
        self.carries_video = self.carries_video or key_of(frame) is not None
        self.queue.append((next(_arrivals), frame))

    def interrupt(self) -> None:
        """Let whoever reads the edge know that a new turn begins."""
        self.queue.append((next(_arrivals), Interrupt()))

    def take(self) -> Frame | Interrupt:
        """Take the frame that has waited longest."""
        _, value = self.queue.popleft()
        self.delivered += not isinstance(value, Interrupt)
        return value

    def drop_all(self, reason: str) -> None:
        """Throw away what waits."""
        if self.delivery.kind != "reliable" and any(key is not None for key in self._keys()):
            self.is_awaiting_key = True
        self._drop(range(len(self.queue)), reason)

    def close(self) -> None:
        """The reader wants nothing more: drop what waits, and all that comes."""
        self.drop_all("consumer_ended")
        self.closed = True

    def count(self) -> EdgeCount:
        """Return the account."""
        dropped = {reason: number for reason, number in self.dropped.items() if number}
        return EdgeCount(self.name, str(self.delivery), self.published, self.delivered, dropped, self.bytes)

    def _make_room(self, key: bool | None) -> bool:
        """Drop what must go for a frame, packets of video with all that depend on them; whether it may come then."""
        limit = self.delivery.n
        if key is not None:
            if len(self.queue) >= limit and any(each is not None for each in self._keys()):
                self._drop([place for place, each in enumerate(self._keys()) if each is not None], "awaiting_key")
                self.is_awaiting_key = True
            if self.is_awaiting_key and not key:
                return False
            self.is_awaiting_key = False
        while len(self.queue) >= limit:
            oldest = self._keys()[0]
            self._drop([0], "overflow")
            if oldest is not None:
                self._drop_dependents()
        return True

    def _drop_dependents(self) -> None:
        """A packet was left out in front: drop those up to the next key, or await it."""
        keys = self._keys()
        next_key = keys.index(True) if True in keys else len(keys)
        self.is_awaiting_key = self.is_awaiting_key or next_key == len(keys)
        self._drop([place for place in range(next_key) if keys[place] is False], "awaiting_key")

    def _keys(self) -> list[bool | None]:
        return [key_of(frame) for _, frame in self.queue]

    def _drop(self, places: Iterable[int], reason: str) -> None:
        gone = set(places)
        self.dropped[reason] += len(gone)
        self.queue = deque(waiting for place, waiting in enumerate(self.queue) if place not in gone)


def key_of(frame: Frame | Interrupt) -> bool | None:
    """Return whether a packet of video is a key, None for any other frame."""
    return frame.key if isinstance(frame, Packet) and is_inter_coded(frame.format) else None


def _size(frame: Frame) -> int:
    array = getattr(frame, "array", None)
    return len(getattr(frame, "data", b"")) if array is None else int(array.nbytes)
