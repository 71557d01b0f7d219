"""The mailbox of an edge that outlives the death of an end: bounded in what it keeps, and taken over by others.

`Mailbox` keeps what was sent until it is acknowledged, and begins further epochs. What is here is needed only where
nodes are started anew, and costs nobody else anything.
"""

from __future__ import annotations

from typing import Final

from rmbus.delivery import Delivery
from rmbus.transport.counters import Edge, Page
from rmbus.transport.mailbox import MAX_MAILBOX_BYTES, Item, Mailbox

MAX_KEPT: Final = 4096
"""Frames that may have been sent and wait to be acknowledged; and no more bytes than the mailbox itself may hold."""


class KeepingMailbox(Mailbox):
    """The producer's end of an edge whose ends may be started anew; see `Mailbox`."""

    def __init__(self, delivery: Delivery, page: Page, *, resends: bool = False) -> None:
        super().__init__(delivery, page, resends=resends)
        self._kept_bytes = 0
        self._published_before: int = self._published
        self._inherited = page.words[Edge.PUBLISHED] + page.words[Edge.DUPLICATES] - page.dropped_by_producer()

    @property
    def keeps(self) -> bool:
        """Whether what was sent is kept until it is acknowledged."""
        return self._sent_items is not None

    @property
    def is_clear(self) -> bool:
        """Nothing is sent past the queue: each frame carries what it is known again by."""
        return False

    def acknowledge(self, place: int, granted: int) -> None:
        """The consumer is through with everything up to `place` and grants more."""
        reached = min(place, self.place)
        for at, item in self._sent_items or ():
            if at > reached:
                break
            self._kept_bytes -= item.size
        super().acknowledge(place, granted)

    def take(self) -> Item | None:
        """Return the next frame to send, or None; what waits to be acknowledged is bounded, whatever was granted."""
        if self._keeps_enough() and self._queue and self._queue[0].kind < 16:
            return None
        item = super().take()
        if item is not None and self.keeps:
            self._kept_bytes += item.size
        return item

    def begin_epoch(self, introduction: Item | None) -> None:
        """Another consumer takes over; see `Mailbox`."""
        self._kept_bytes = 0
        super().begin_epoch(introduction)

    def take_over(self, base: int | None) -> None:
        """The link of a producer that was started anew is up: put its predecessor's account in order.

        What the consumer has not taken off the lane is lost, as `producer_died`; or it will be made again, and then
        it is as if it had not been published, and what is made although the consumer has it is a duplicate.

        Args:
            base: how many frames were offered before the first that is made again; None: nothing is.
        """
        words = self._words
        lost = self._inherited - words[Edge.RECEIVED]
        if base is None or not self.keeps:
            if lost > 0:
                self._page.drop("producer_died", lost)
        else:
            again = self._published_before - base
            self._published -= again
            words[Edge.DUPLICATES] += again - lost  # first: whoever reads the account finds nothing missing in between
            words[Edge.PUBLISHED] = self._published
        self._sent_in_all = words[Edge.RECEIVED] - words[Edge.DUPLICATES]
        words[Edge.SENT] = self._sent_in_all

    def _keeps_enough(self) -> bool:
        kept = self._sent_items
        return kept is not None and (len(kept) >= MAX_KEPT or self._kept_bytes >= MAX_MAILBOX_BYTES)
