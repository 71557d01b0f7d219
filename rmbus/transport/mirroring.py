"""The account of an edge whose two ends are on two machines: each has a page, and is told what the other end counts.

What is told is late by up to `TELL_S`, and exact when the edge ends: what was counted is told before that it ended.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Self

from rmbus.errors import MalformedFrame
from rmbus.transport.counters import CONSUMER_COUNTS, PRODUCER_COUNTS, Edge, Page, create
from rmbus.transport.umbilical import close_all

TELL_S: Final = 0.25


class Mirror:
    """A page at this end: what is counted here is for the far end to know, what is counted there is put in.

    Args:
        page: it is given away, as is the descriptor that leads to it. is_producer_near: which of the two ends is here.
    """

    def __init__(self, page: Page, *, is_producer_near: bool, descriptor: int = -1) -> None:
        self._page = page
        self._descriptor = descriptor
        self._near = PRODUCER_COUNTS if is_producer_near else CONSUMER_COUNTS
        self._far = CONSUMER_COUNTS if is_producer_near else PRODUCER_COUNTS
        self._is_producer_near = is_producer_near
        self._told = [0] * len(self._near)
        self._end_told = False

    @classmethod
    def made(cls, *, is_producer_near: bool) -> Self:
        """Make the page, too; see `lend`."""
        descriptor = create()
        return cls(Page(descriptor), is_producer_near=is_producer_near, descriptor=descriptor)

    def lend(self) -> int:
        """Return a descriptor of a page that was made here; it is the caller's."""
        return os.dup(self._descriptor)

    def news(self) -> list[int] | None:
        """Return what the near end has counted, if that has changed since it was asked last."""
        words = self._page.words
        now = [words[word] for word in self._near]
        if now == self._told:
            return None
        self._told = now
        return now

    def ends(self) -> bool:
        """Whether the producer, which is here, has sent its last since this was asked last: its account comes first."""
        if self._end_told or not self._is_producer_near or not self._page.words[Edge.ENDED]:
            return False
        self._end_told = True
        return True

    def learn(self, counts: Sequence[int]) -> None:
        """Take over what the far end has counted.

        Raises:
            MalformedFrame: these are not its counts.
        """
        if len(counts) != len(self._far):
            raise MalformedFrame(f"an end of an edge counts {len(self._far)} things, not {len(counts)}")
        for word, count in zip(self._far, counts, strict=True):
            self._page.words[word] = count

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()
        close_all([] if self._descriptor < 0 else [self._descriptor])
