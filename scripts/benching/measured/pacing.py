"""When each message is due: by absolute deadlines, so that one that is late does not make all others late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

from benching.measured.task import Task

Clock = Callable[[], int]


class Pace:
    """Tells a source how long to wait before each message, and when it is over. Nothing spins.

    Args:
        task: the run.
        begin: called once, between the warm-up and the window; the deadlines are counted anew from there.
        clock: nanoseconds, monotonic.

    Attributes:
        first: the number of the first message of the window, once it is open.
    """

    def __init__(self, task: Task, begin: Callable[[], object], clock: Clock = time.monotonic_ns) -> None:
        self._task = task
        self._begin = begin
        self._clock = clock
        self._origin_ns = clock()
        self.first = 0
        self._measures = False

    def wait_s(self, number: int) -> float | None:
        """Return how long message `number` has to wait from now on; None: there is no such message."""
        return self._until_due(number) if self._task.is_paced else self._while_time_is_left(number)

    def _until_due(self, number: int) -> float | None:
        task = self._task
        if number >= task.capacity:
            return None
        if number == task.warmup and not self._measures:
            self._open(number)
        due_ns = self._origin_ns + (number - self.first) * 1_000_000_000 // task.rate_hz
        return max(0.0, (due_ns - self._clock()) / 1e9)

    def _while_time_is_left(self, number: int) -> float | None:
        task, passed_s = self._task, (self._clock() - self._origin_ns) / 1e9
        if not self._measures:
            if passed_s >= task.warmup_s:
                self._open(number)
            return 0.0
        return None if passed_s >= task.seconds or number >= task.capacity else 0.0

    def _open(self, number: int) -> None:
        self._measures = True
        self._begin()
        self.first = number
        self._origin_ns = self._clock()

    def numbers(self) -> Iterator[int]:
        """Yield the number of each message when it is due."""
        number = 0
        while (wait_s := self.wait_s(number)) is not None:
            if wait_s > 0:
                time.sleep(wait_s)
            yield number
            number += 1

    async def numbers_async(self) -> AsyncIterator[int]:
        """Yield the number of each message when it is due, and let the event loop run meanwhile."""
        number = 0
        while (wait_s := self.wait_s(number)) is not None:
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            yield number
            number += 1
