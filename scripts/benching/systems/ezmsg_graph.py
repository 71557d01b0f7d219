"""ezmsg: units in processes of their own, joined by streams.

Documented API: `ez.Unit` with an `OutputStream` and `@ez.publisher`, an `InputStream` and `@ez.subscriber(...,
zero_copy=True)`, `ez.run(..., process_components=...)`. ezmsg itself pickles arrays out of band into shared memory.
Settings: `buf_size` has room for a message with its header, so that nothing is allocated anew; 32 buffers for
messages up to 64 KB, 8 for larger ones. Its back-pressure makes the source wait, so nothing is lost; in the run with
a slow reader that reader is `leaky`, with a queue of 4.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import ezmsg.core as ez
import numpy as np

from benching.measured.payload import PROBE, STOP, Array, number_of
from benching.measured.records import PROBE_EVERY_S, Reader, Source
from benching.measured.task import Task

TASK = Task.load(Path(os.environ["RMBUS_BENCH_TASK"]))  # streams are made with the class, in every process
SMALL = 65_536
BUFFERS = 32 if TASK.size <= SMALL else 8
ROOM = TASK.size + 65_536


class Publishing(ez.Unit):
    """The source."""

    OUTPUT = ez.OutputStream(np.ndarray, num_buffers=BUFFERS, buf_size=ROOM)

    @ez.publisher(OUTPUT)
    async def publish(self) -> AsyncGenerator[tuple[Any, Array]]:
        """Publish everything."""
        source, array = Source(TASK), np.zeros(TASK.size, np.uint8)
        while source.probes():
            source.payload.render(array, PROBE)
            yield self.OUTPUT, array
            await asyncio.sleep(PROBE_EVERY_S)
        async for number in source.pace().numbers_async():
            source.prepare(array, number)
            yield self.OUTPUT, array
        source.payload.render(array, STOP)
        yield self.OUTPUT, array
        source.close()
        raise ez.Complete


class Passing(ez.Unit):
    """A relay."""

    INPUT = ez.InputStream(np.ndarray)
    OUTPUT = ez.OutputStream(np.ndarray, num_buffers=BUFFERS, buf_size=ROOM)

    @ez.subscriber(INPUT, zero_copy=True)
    @ez.publisher(OUTPUT)
    async def forward(self, array: Array) -> AsyncGenerator[tuple[Any, Array]]:
        """Publish what comes."""
        yield self.OUTPUT, array
        if number_of(array) == STOP:
            raise ez.Complete


class ReaderSettings(ez.Settings):
    """Which reader it is."""

    number: int


class Taking(ez.Unit):
    """A reader."""

    SETTINGS = ReaderSettings
    INPUT = ez.InputStream(np.ndarray)

    async def initialize(self) -> None:
        """Make room for the times."""
        self._reader = Reader(TASK, self.SETTINGS.number)

    @ez.subscriber(INPUT, zero_copy=True)
    async def take(self, array: Array) -> None:
        """Take what comes."""
        if not self._reader.take(array):
            self._reader.close()
            raise ez.Complete


class SleepyTaking(Taking):
    """The slow reader."""

    INPUT = ez.InputStream(np.ndarray, leaky=True, max_queue=4)

    @ez.subscriber(INPUT, zero_copy=True)
    async def take(self, array: Array) -> None:
        """Take what comes."""
        if not self._reader.take(array):
            self._reader.close()
            raise ez.Complete


def main() -> None:
    """Build the graph and run it."""
    source = Publishing()
    relays = [Passing() for _ in range(TASK.relays)]
    readers = [
        (SleepyTaking if TASK.sleeps(number) else Taking)(ReaderSettings(number=number))
        for number in range(TASK.readers)
    ]
    named: dict[str, Any] = {"SOURCE": source}
    named |= {f"RELAY{number}": relay for number, relay in enumerate(relays)}
    named |= {f"READER{number}": reader for number, reader in enumerate(readers)}
    line: list[Any] = [source, *relays]
    joined = [(one.OUTPUT, other.INPUT) for one, other in itertools.pairwise(line)]
    joined += [(line[-1].OUTPUT, reader.INPUT) for reader in readers]
    ez.run(components=named, connections=joined, process_components=list(named.values()))


if __name__ == "__main__":
    main()
