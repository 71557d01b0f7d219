"""The one engine of delivery: a mailbox with the edge's policy, and a window of credit that the consumer grants.

Pure: it moves nothing itself. `latest`, `drop_oldest(n)` and `reliable(n)` differ only in what the mailbox does
while the window is closed. What is in a lane's queue cannot be taken back, so frames wait here, where the policy can
still act."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Final, NamedTuple

from rmbus.delivery import Delivery
from rmbus.protocol import lane
from rmbus.protocol.frames import Header, Kind, encode_header
from rmbus.protocol.limits import MAX_CREDIT
from rmbus.transport.counters import Edge, Page

MAX_MAILBOX_BYTES: Final = 256 * 1024 * 1024
"""A reliable mailbox is full, and a dropping one drops, also when it holds this much."""


class Item(NamedTuple):
    """A frame on its way: its encoded header and its payload.

    Attributes:
        key: None for anything but encoded video; there, whether it can be decoded without those before it.
    """

    kind: int
    header: bytes
    payload: lane.Buffer
    key: bool | None = None

    @property
    def is_data(self) -> bool:
        """Whether it counts, and is subject to delivery and credit."""
        return self.kind < 16


class Mailbox:
    """The producer's end of one edge."""

    def __init__(self, delivery: Delivery, page: Page) -> None:
        self.delivery = delivery
        self._limit = 1 if delivery.kind == "latest" else delivery.n
        self._reliable = delivery.kind == "reliable"
        self._page = page
        self._words = page.words
        self._queue: deque[Item] = deque()
        self._frames = 0
        self._bytes = 0
        self._gap = 0
        self._awaiting_key = False
        self._sent = 0
        self._granted = 0
        self._place = 0
        self._acknowledged = 0
        self._closed = False

    @property
    def has_room(self) -> bool:
        """Whether the next frame would be taken without anybody waiting or being dropped."""
        return not self._reliable or (self._frames < self._limit and self._bytes < MAX_MAILBOX_BYTES) or self._closed

    @property
    def is_settled(self) -> bool:
        """Whether everything that was offered has been processed by the consumer, or dropped."""
        return self._closed or (not self._queue and self._acknowledged == self._place)

    @property
    def waiting(self) -> int:
        """Frames in the mailbox."""
        return self._frames

    def offer(self, item: Item) -> None:
        """Put a frame in, and drop what the policy says. A reliable mailbox is offered data only when it has room."""
        if not item.is_data:
            if not self._closed:
                self._queue.append(item)
            return
        words = self._words
        words[Edge.PUBLISHED] += 1
        words[Edge.BYTES] += len(item.payload)
        if self._closed:
            self._page.drop("consumer_ended")
            return
        if item.key is not None and not self._reliable and not self._takes_encoded(item):
            return
        while not self._reliable and (self._frames >= self._limit or self._bytes > MAX_MAILBOX_BYTES):
            self._drop_oldest("overflow")
        self._queue.append(item)
        self._frames += 1
        self._bytes += len(item.payload)

    def grant(self, granted: int) -> None:
        """Open the window up to the given data frame."""
        self._granted = max(self._granted, min(granted, self._sent + MAX_CREDIT))

    def acknowledge(self, place: int, granted: int) -> None:
        """The consumer has processed everything up to `place` and grants more."""
        self._acknowledged = max(self._acknowledged, min(place, self._place))
        self.grant(granted)

    def take(self) -> lane.Message | None:
        """Return the next message to send, or None while there is none or the window is closed."""
        if not self._queue:
            return None
        item = self._queue[0]
        if item.is_data and self._sent >= self._granted:
            return None
        if self._gap and (item.is_data or item.kind == Kind.EOS):
            gap, self._gap = self._gap, 0
            return self._message(encode_header(Header(Kind.GAP, 0, extra=[gap, "overflow"])), b"")
        if item.is_data:
            self._frames -= 1
            self._bytes -= len(item.payload)
            self._sent += 1
            self._words[Edge.SENT] = self._sent
        elif item.kind == Kind.EOS:
            self._words[Edge.ENDED] = 1
        self._queue.popleft()
        return self._message(item.header, item.payload)

    def interrupt(self, item: Item) -> None:
        """Throw away the queued frames, counted as interrupted, and let `item` overtake them."""
        if self._closed:
            return
        while self._frames:
            self._drop_oldest("interrupted")
        self._gap = 0
        earlier = [waiting for waiting in self._queue if waiting.kind == Kind.INTERRUPT]
        rest = [waiting for waiting in self._queue if waiting.kind != Kind.INTERRUPT]
        self._queue = deque([*earlier, item, *rest])

    def close(self, reason: str) -> None:
        """The consumer wants nothing more, or is gone: drop what waits, and all that comes."""
        while self._frames:
            self._drop_oldest(reason)
        self._queue.clear()
        self._closed = True

    def _message(self, header: bytes, payload: lane.Buffer) -> lane.Message:
        self._place += 1
        return lane.Message(lane.Type.FRAME, self._place, header, payload)

    def _takes_encoded(self, item: Item) -> bool:
        if self._frames >= self._limit or self._bytes > MAX_MAILBOX_BYTES:
            while self._frames:
                self._drop_oldest("awaiting_key")
            self._awaiting_key = True
        if self._awaiting_key and not item.key:
            self._page.drop("awaiting_key")
            self._gap += 1
            return False
        self._awaiting_key = False
        return True

    def _drop_oldest(self, reason: str) -> None:
        for place, item in enumerate(self._queue):
            if item.is_data:
                del self._queue[place]
                self._frames -= 1
                self._bytes -= len(item.payload)
                self._gap += 1
                self._page.drop(reason)
                break
        self._forget_formats()

    def _forget_formats(self) -> None:
        """Of the formats before the next data frame, keep the last: the frames of the others were dropped."""
        ahead = list(itertools.takewhile(lambda item: not item.is_data, self._queue))
        last = max((place for place, item in enumerate(ahead) if item.kind == Kind.FORMAT), default=0)
        for place in reversed(range(last)):
            if ahead[place].kind == Kind.FORMAT:
                del self._queue[place]
