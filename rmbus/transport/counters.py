"""The account of an edge and of a node: small shared pages of counters.

The host makes each page; producer, consumer and gateway each write their own words, and the host reads. So the
account survives any kill, costs a few nanoseconds a frame, and a hang is seen without heartbeats. A word is 8 bytes,
native order."""

from __future__ import annotations

import enum
import math
import mmap
import os
from typing import Final

PAGE_BYTES: Final = 8192
REASONS: Final = (
    "overflow",  # the mailbox was full and the delivery drops
    "late",
    "interrupted",
    "awaiting_key",  # encoded video after an overflow, until the next key frame
    "consumer_ended",
    "consumer_died",
    "producer_died",
    "link_lost",
    "stopped",  # the run was stopped while they were under way
    "repeated",  # a producer that was started anew made them once more
)

BANKS: Final = (16, 520)
"""On a node's page: two banks of `BANK_WORDS`, of which one is written while the other is in force."""

BANK_WORDS: Final = 500

TICKET_WORDS: Final = 512
"""From here on, on an edge's page: for each ticket the number of the last frame that was given back; consumer."""

_DROPPED_BY_PRODUCER: Final = 8
_DROPPED_BY_CONSUMER: Final = 32
_HISTOGRAM: Final = 64
_PER_OCTAVE: Final = 16
_BUCKETS: Final = 448
_FIRST_OCTAVE: Final = 10  # 2**10 ns, about a microsecond


class Edge(enum.IntEnum):
    """Words of an edge's page, and who writes each."""

    PUBLISHED = 0  # producer
    SENT = 1  # producer
    BLOCKED_SINCE = 2  # producer: monotonic ns since when it waits for this edge, or 0
    BYTES = 3  # producer
    ENDED = 4  # producer: end of stream was sent
    LINKED = 5  # producer: the mark has come back
    SHARED = 6  # producer: data frames sent by reference
    DUPLICATES = 7  # producer: data frames that a consumer had begun with when it died, and that were sent again
    RECEIVED = 24  # consumer
    DELIVERED = 25  # consumer: handed to `process`
    DONE = 26  # consumer: `process` has ended
    BEGAN = 27  # consumer: monotonic ns when the running `process` began, or 0
    PINNED = 28  # consumer: frames copied to the heap, since it held too much of the producer's memory
    RELAYED = 60  # gateway


PRODUCER_COUNTS: Final = (
    *(Edge.PUBLISHED, Edge.SENT, Edge.BYTES, Edge.ENDED, Edge.LINKED, Edge.SHARED, Edge.DUPLICATES),
    *range(_DROPPED_BY_PRODUCER, _DROPPED_BY_PRODUCER + len(REASONS)),
)
CONSUMER_COUNTS: Final = (
    *(Edge.RECEIVED, Edge.DELIVERED, Edge.DONE, Edge.PINNED),
    *range(_DROPPED_BY_CONSUMER, _DROPPED_BY_CONSUMER + len(REASONS)),
)
"""What the two ends of an edge count that means something on another machine, too: times of its clock do not."""


class Node(enum.IntEnum):
    """Words of a node's page; the node writes."""

    STATE = 0
    SINCE = 1  # monotonic ns
    FRAMES_IN = 2
    FRAMES_OUT = 3
    COPIED = 4  # bytes of large payloads that were copied on their way out
    CONCLUDED = 5  # all its work is done, its own cleaning up too; what comes after can be done without
    BANK = 8  # which of the two banks of a node that may be started anew is in force, 0: none yet


class State(enum.IntEnum):
    """What a node's data thread is doing."""

    STARTING = 0
    WAITING = 1  # for input
    BUSY = 2  # in the user's code
    BLOCKED = 3  # for room on an output
    ENDED = 4


class Page:
    """A page of counters mapped into this process."""

    def __init__(self, descriptor: int) -> None:
        """Map the page behind a descriptor; the descriptor stays the caller's."""
        self._map = mmap.mmap(descriptor, PAGE_BYTES)
        self.words: memoryview = memoryview(self._map).cast("Q")

    def drop(self, reason: str, count: int = 1, *, by_consumer: bool = False) -> None:
        """Count frames that were dropped, for a reason of `REASONS`."""
        base = _DROPPED_BY_CONSUMER if by_consumer else _DROPPED_BY_PRODUCER
        self.words[base + REASONS.index(reason)] += count

    def dropped(self) -> dict[str, int]:
        """Return how many frames were dropped, by reason; reasons without any are left out."""
        words = self.words
        sums = {r: words[_DROPPED_BY_PRODUCER + k] + words[_DROPPED_BY_CONSUMER + k] for k, r in enumerate(REASONS)}
        return {reason: count for reason, count in sums.items() if count}

    def dropped_by_producer(self) -> int:
        """Return how many frames the producer has dropped, for whatever reason."""
        return sum(self.words[_DROPPED_BY_PRODUCER : _DROPPED_BY_PRODUCER + len(REASONS)])

    def dropped_by_consumer(self) -> int:
        """Return how many frames the consumer has dropped itself, for whatever reason."""
        return sum(self.words[_DROPPED_BY_CONSUMER : _DROPPED_BY_CONSUMER + len(REASONS)])

    def latency(self, nanoseconds: int) -> None:
        """Count one frame that took so long from its capture to its delivery."""
        octave = nanoseconds.bit_length() - 1 if nanoseconds > 0 else 0  # below 0: clocks differ
        place = _HISTOGRAM
        if octave >= _FIRST_OCTAVE:
            place += min((octave - _FIRST_OCTAVE) * _PER_OCTAVE + (nanoseconds >> octave - 4 & 15), _BUCKETS - 1)
        self.words[place] += 1

    def histogram(self) -> list[int]:
        """Return the counts of the latency buckets; see `percentile`."""
        return self.words[_HISTOGRAM : _HISTOGRAM + _BUCKETS].tolist()

    def close(self) -> None:
        """Unmap the page."""
        self.words.release()
        self._map.close()


def create() -> int:
    """Make a zeroed page and return its descriptor, sealed against any change of its size."""
    import fcntl

    descriptor = os.memfd_create("rmbus-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(descriptor, 0, PAGE_BYTES)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def percentile(histogram: list[int], share: float) -> float | None:
    """Return the latency, in seconds, that the given share (0 to 1) of the counted frames did not exceed.

    A bucket is a sixteenth of an octave, so the answer is within 3 % of the true value. None where nothing was counted.
    """
    total = sum(histogram)
    if total == 0:
        return None
    wanted, seen = max(1, math.ceil(share * total)), 0
    for place, count in enumerate(histogram):
        seen += count
        if seen >= wanted:
            octave, fraction = divmod(place, _PER_OCTAVE)
            return float((1 << (octave + _FIRST_OCTAVE)) * (1 + (fraction + 0.5) / _PER_OCTAVE)) / 1e9
    return None
