"""The one engine of delivery: a mailbox with the edge's policy, and a window of credit that the consumer grants.

Pure: it moves nothing itself. `latest`, `drop_oldest(n)` and `reliable(n)` differ only in what the mailbox does
while the window is closed. What is in a lane's queue cannot be taken back, so frames wait here, where the policy can
still act."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from rmbus.delivery import Delivery
from rmbus.protocol.frames import Header, Kind, encode_frame
from rmbus.protocol.lane import Buffer
from rmbus.protocol.limits import MAX_CREDIT
from rmbus.transport.counters import Edge, Page

MAX_MAILBOX_BYTES: Final = 256 * 1024 * 1024
"""A reliable mailbox is full, and a dropping one drops, also when it holds this much."""


_PUBLISHED: Final = int(Edge.PUBLISHED)
_SENT: Final = int(Edge.SENT)
_BYTES: Final = int(Edge.BYTES)


class Item(NamedTuple):
    """A frame on its way.

    Attributes:
        kind: of the frame. frame: encoded, with its payload where that is small.
        size: bytes of the payload. payload: where it is large and in this process's own memory.
        held: where it lies in shared memory. header: of a frame with either, which may have to be encoded anew.
        key: None for anything but encoded video; there, whether it can be decoded without those before it.
        origin: what is told when this frame is processed by its consumer, or given up.
    """

    kind: int
    frame: bytes
    size: int = 0
    payload: Buffer = b""
    held: Any = None
    header: Header | None = None
    key: bool | None = None
    origin: Callable[[], None] | None = None

    @property
    def is_data(self) -> bool:
        """Whether it counts, and is subject to delivery and credit."""
        return self.kind < 16


class Mailbox:
    """The producer's end of one edge.

    Args:
        delivery: its policy. page: its account.
        resends: whether what was sent is kept until it is processed, and sent again in the next epoch.
    """

    def __init__(self, delivery: Delivery, page: Page, *, resends: bool = False) -> None:
        self.delivery = delivery
        self.place = 0
        self._limit = 1 if delivery.kind == "latest" else delivery.n
        self._encoded_limit = delivery.n  # of `latest` too: with holes in it, encoded video cannot be decoded
        self._reliable = delivery.kind == "reliable"
        self._page = page
        self._words = page.words
        self._published: int = page.words[Edge.PUBLISHED]  # a producer that is started anew goes on counting
        self._offered = page.words[Edge.BYTES]
        self._sent_in_all = page.words[Edge.SENT]
        self._queue: deque[Item] = deque()
        self._sent_items: deque[tuple[int, Item]] | None = deque() if resends and self._reliable else None
        self._frames = 0
        self._bytes = 0
        self._gap = 0
        self._in_force: Item | None = None  # the format before what would be sent to the next consumer
        self._awaiting_key = self._has_packets = False
        self._sent = 0
        self._granted = 0
        self._acknowledged = 0
        self._lost = 0
        self._closed = False

    @property
    def has_room(self) -> bool:
        """Whether the next frame would be taken without anybody waiting or being dropped."""
        return not self._reliable or (self._frames < self._limit and self._bytes < MAX_MAILBOX_BYTES) or self._closed

    @property
    def is_settled(self) -> bool:
        """Whether everything that was offered has been processed by the consumer, or dropped."""
        return self._closed or (not self._queue and self._acknowledged == self.place)

    @property
    def is_awaiting_key(self) -> bool:
        """Whether encoded frames are dropped until a key frame comes."""
        return self._awaiting_key

    @property
    def is_closed(self) -> bool:
        """Whether nobody takes anything any more."""
        return self._closed

    @property
    def waiting(self) -> int:
        """Frames in the mailbox."""
        return self._frames

    def offer(self, item: Item) -> None:
        """Put a frame in, and drop what the policy says. A reliable mailbox is offered data only when it has room."""
        if item.kind >= 16:
            if not self._closed:
                if item.kind == Kind.FORMAT and self._queue and self._queue[-1].kind == Kind.FORMAT:
                    self._queue.pop()  # the frames that it was for were dropped
                self._queue.append(item)
            return
        size = item.size
        self._published += 1
        self._offered += size
        words = self._words
        words[_PUBLISHED] = self._published
        words[_BYTES] = self._offered
        if self._closed:
            self._drop(item, "consumer_ended")
            return
        if not self._reliable:
            limit = self._limit
            if item.key is not None:
                if not self._takes_encoded(item):
                    return
                limit = self._encoded_limit
            while self._frames >= limit or self._bytes > MAX_MAILBOX_BYTES:
                if self._drop_oldest("overflow"):
                    self._drop_dependents()
        self._queue.append(item)
        self._frames += 1
        self._bytes += size

    @property
    def is_clear(self) -> bool:
        """Whether a data frame that is no video packet may be sent at once, past the queue."""
        return not (
            self._queue or self._sent >= self._granted or self._gap or self._sent_items is not None or self._closed
        )

    def pass_by(self, size: int) -> None:
        """Count a data frame of that many bytes that is sent past the queue, which is clear; `place` is its place."""
        self._published += 1
        self._offered += size
        self._sent += 1
        self._sent_in_all += 1
        self.place += 1
        words = self._words
        words[_PUBLISHED] = self._published
        words[_BYTES] = self._offered
        words[_SENT] = self._sent_in_all

    def await_key(self) -> None:
        """Encoded video begins in mid-stream for this consumer: where the delivery drops, leave out what has no key."""
        self._awaiting_key = not self._reliable

    def grant(self, granted: int) -> None:
        """Open the window up to the given data frame."""
        self._granted = max(self._granted, min(granted, self._sent + MAX_CREDIT))

    def acknowledge(self, place: int, granted: int) -> None:
        """The consumer has processed everything up to `place` and grants more."""
        self._acknowledged = max(self._acknowledged, min(place, self.place))
        kept = self._sent_items
        while kept and kept[0][0] <= self._acknowledged:
            item = kept.popleft()[1]
            if item.kind == Kind.FORMAT:
                self._in_force = item
            _settle(item)
        self.grant(granted)

    def take(self) -> Item | None:
        """Return the next frame to send, or None while there is none or the window is closed; `place` is its place."""
        if not self._queue:
            return None
        item = self._queue[0]
        is_data = item.kind < 16
        if is_data and self._sent >= self._granted:
            return None
        self.place += 1
        if self._gap and (is_data or item.kind == Kind.EOS):
            gap, self._gap = self._gap, 0
            return Item(Kind.GAP, encode_frame(Header(Kind.GAP, 0, extra=[gap, "overflow"])))
        self._queue.popleft()
        if is_data:
            self._frames -= 1
            self._bytes -= item.size
            self._sent += 1
            self._sent_in_all += 1
            self._words[_SENT] = self._sent_in_all
        elif item.kind == Kind.EOS:
            self._words[Edge.ENDED] = 1
        if self._sent_items is not None:
            self._sent_items.append((self.place, item))
        elif item.kind == Kind.FORMAT:
            self._in_force = item
        return item

    def interrupt(self, item: Item) -> None:
        """Throw away the queued frames, counted as interrupted, and let `item` overtake them."""
        if self._closed:
            return
        while self._frames:
            if self._drop_oldest("interrupted") and not self._reliable:
                self._awaiting_key = True
        self._gap = 0
        earlier = [waiting for waiting in self._queue if waiting.kind == Kind.INTERRUPT]
        rest = [waiting for waiting in self._queue if waiting.kind != Kind.INTERRUPT]
        self._queue = deque([*earlier, item, *rest])

    def begin_epoch(self, introduction: Item | None) -> None:
        """Another consumer takes over: what was sent and not processed is sent again, in order, in front of the rest.

        Without `resends` it is dropped, as lost with the consumer. Places and grants begin anew.

        Args:
            introduction: the format, which it must be told first, where this edge has been told none: else that is the
                one which was in force before what comes first now, and others may have followed.
        """
        again: list[Item] = []
        if self._sent_items is None:
            self._drop_unprocessed("consumer_died")
            if self._has_packets and not self._reliable:
                self._drop_dependents()
        else:
            again = [item for _, item in self._sent_items]
            self._sent_items.clear()
        resent = sum(item.kind < 16 for item in again)
        begun_again = self._processed() - self._words[Edge.DUPLICATES] - (self._words[Edge.SENT] - resent)
        # What lay unread at a consumer that has died, and was counted when its producer died before, comes off again.
        self._words[Edge.DUPLICATES] = max(0, self._words[Edge.DUPLICATES] + begun_again)
        self._sent_in_all -= resent
        self._words[Edge.SENT] = self._sent_in_all
        self._frames += resent
        self._bytes += sum(item.size for item in again)
        self.place = self._acknowledged = self._sent = self._granted = 0
        form = self._in_force or introduction
        if form is not None and not (again and again[0].kind == Kind.FORMAT):
            again.insert(0, form)
        self._queue.extendleft(reversed(again))

    def close(self, reason: str) -> None:
        """The consumer wants nothing more, or is gone: drop what waits, and all that comes."""
        while self._frames:
            self._drop_oldest(reason)
        self._queue.clear()
        if not self._closed:
            self._drop_unprocessed(reason)
        kept = self._sent_items
        while kept:
            _settle(kept.popleft()[1])
        self._closed = True

    def _processed(self) -> int:
        """How many data frames the consumer has begun with, or dropped, by its own word."""
        return int(self._words[Edge.DELIVERED]) + self._page.dropped_by_consumer()

    def _drop_unprocessed(self, reason: str) -> None:
        """What was sent, and what a consumer that is gone has not begun with, is lost with it."""
        lost = self._words[Edge.SENT] + self._words[Edge.DUPLICATES] - self._processed() - self._lost
        if lost > 0:
            self._page.drop(reason, lost)
            self._lost += lost  # they stay sent, and are lost once

    def _takes_encoded(self, item: Item) -> bool:
        self._has_packets = True
        is_full = self._frames >= self._encoded_limit or self._bytes > MAX_MAILBOX_BYTES
        if is_full and any(waiting.key is not None for waiting in self._queue):
            self._drop_where(lambda waiting: waiting.key is not None, "awaiting_key")
            self._awaiting_key = True
        if self._awaiting_key and not item.key:
            self._drop(item, "awaiting_key")
            self._gap += 1
            return False
        self._awaiting_key = False
        return True

    def _drop_dependents(self) -> None:
        """Packets of video were left out before those that wait: drop these too, up to the next key, or await it."""
        up_to_key = itertools.takewhile(lambda waiting: not waiting.key, self._queue)
        lost = {id(waiting) for waiting in up_to_key if waiting.key is False}
        self._awaiting_key |= not any(waiting.key for waiting in self._queue)
        if lost:
            self._drop_where(lambda waiting: id(waiting) in lost, "awaiting_key")

    def _drop_where(self, goes: Callable[[Item], bool], reason: str) -> None:
        """Drop of the data frames that wait those that a test is true of."""
        kept: deque[Item] = deque()
        for item in self._queue:
            if item.kind < 16 and goes(item):
                self._remove(item, reason)
            else:
                kept.append(item)
        self._queue = kept
        self._forget_formats()

    def _drop_oldest(self, reason: str) -> bool:
        """Drop the data frame that has waited longest; whether it was of encoded video."""
        is_encoded = False
        for place, item in enumerate(self._queue):
            if item.kind < 16:
                del self._queue[place]
                self._remove(item, reason)
                is_encoded = item.key is not None
                break
        self._forget_formats()
        return is_encoded

    def _remove(self, item: Item, reason: str) -> None:
        """Count a frame that waited as dropped."""
        self._frames -= 1
        self._bytes -= item.size
        self._gap += 1
        self._drop(item, reason)

    def _drop(self, item: Item, reason: str) -> None:
        self._page.drop(reason)
        _settle(item)

    def _forget_formats(self) -> None:
        """Of the formats before the next data frame, keep the last: the frames of the others were dropped."""
        ahead = list(itertools.takewhile(lambda item: item.kind >= 16, self._queue))
        last = max((place for place, item in enumerate(ahead) if item.kind == Kind.FORMAT), default=0)
        for place in reversed(range(last)):
            if ahead[place].kind == Kind.FORMAT:
                del self._queue[place]


def _settle(item: Item) -> None:
    if item.origin is not None:
        item.origin()
