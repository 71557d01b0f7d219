"""Ray: calls of actors, each a process.

Documented API: `ray.init`, `ray.remote` of a class, `actor.take.remote(array)`. Ray itself puts an array of more than
100 KB into its object store, where the actor reads it; where several actors get the same one, it is put once by
`ray.put`. Settings: an object store of 2 GB or of 64 frames, no dashboard, actors that ask for no core, so that two are
enough for all. Without a pace 256 small or 8 large calls are under way, the oldest of which `ray.get` waits for. A slow
reader would hold up the others or let calls pile up, so there is no such run.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benching.measured.payload import PROBE, STOP, Array
from benching.measured.records import PROBE_EVERY_S, Reader, Source
from benching.measured.task import Task

SMALL = 65_536


class Taking:
    """A reader."""

    def __init__(self, task: Task, number: int) -> None:
        self._reader = Reader(task, number)

    def take(self, array: Array) -> None:
        """Take a message; the last one ends the reader."""
        if not self._reader.take(array):
            self._reader.close()


class Passing:
    """A relay."""

    def __init__(self, onward: Any) -> None:
        self._onward = onward

    def take(self, array: Array) -> None:
        """Pass a message on."""
        self._onward.take.remote(array)


class Publishing:
    """Calls every reader, with not too many calls under way."""

    def __init__(self, task: Task, actors: list[Any]) -> None:
        self._actors = actors
        self._waits = not task.is_paced
        self._most = 256 if task.size <= SMALL else 8
        self._calls: deque[Any] = deque()

    def publish(self, array: Array) -> None:
        """Call the readers."""
        if len(self._actors) == 1:
            calls = [self._actors[0].take.remote(array)]
        else:
            reference = ray.put(array)
            calls = [actor.take.remote(reference) for actor in self._actors]
        if self._waits:
            self._calls.extend(calls)
            while len(self._calls) > self._most:
                ray.get(self._calls.popleft())

    def finish(self, array: Array) -> None:
        """Publish the last message, and wait until it is taken."""
        self._waits, self._most = True, 0
        self.publish(array)


def main() -> None:
    """Start the actors, and be the source."""
    task = Task.load(Path(sys.argv[1]))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=max(2 * 2**30, 64 * task.size),
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    taking: Any = ray.remote(num_cpus=0)(Taking)
    passing: Any = ray.remote(num_cpus=0)(Passing)
    actors: list[Any] = [taking.remote(task, number) for number in range(task.readers)]
    for _ in range(task.relays):
        actors = [passing.remote(actors[0])]
    source, publishing = Source(task), Publishing(task, actors)
    array = np.zeros(task.size, np.uint8)
    while source.probes():
        source.payload.render(array, PROBE)
        publishing.publish(array)
        time.sleep(PROBE_EVERY_S)
    for number in source.pace().numbers():
        source.prepare(array, number)
        publishing.publish(array)
    source.payload.render(array, STOP)
    publishing.finish(array)
    source.close()
    while not all((Path(task.folder) / f"reader-{number}.json").exists() for number in range(task.readers)):
        time.sleep(0.05)  # a relay's call returns before the reader's
    ray.shutdown()


if __name__ == "__main__":
    main()
