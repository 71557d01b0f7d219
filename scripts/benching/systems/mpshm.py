"""The standard library: a pool of slots in `multiprocessing.shared_memory`, and pipes for the numbers of slots.

Documented API: `SharedMemory`, `Pipe(duplex=False)`, `Connection.send_bytes` and `recv_bytes`, processes of the `spawn`
context. The sender copies into a free slot and sends its number to every reader, which sends it back when it has read.
Settings: 256 slots for messages up to 64 KB, 8 for larger ones; the slot that was freed last is used first. Nothing is
lost: where no slot is free, the sender waits for one. A slow reader would hold up the others, so there is no such run.
"""

from __future__ import annotations

import multiprocessing
import struct
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from benching.measured.payload import Array
from benching.measured.roles import be_reader, be_relay, be_source
from benching.measured.task import Task

SMALL = 65_536
_SLOT = struct.Struct("<I")

Ends = tuple[Connection, Connection]
"""Of one reader: where it gets numbers from, and where it gives them back; or the other ends of the same."""


def slots(task: Task) -> int:
    """Return how many slots a pool has."""
    return 256 if task.size <= SMALL else 8


class Sender:
    """Copies into slots."""

    def __init__(self, task: Task, name: str, readers: Sequence[Ends]) -> None:
        self._memory = SharedMemory(name)
        self._slots = np.ndarray((slots(task), task.size), np.uint8, self._memory.buf)
        self._slots.fill(0)  # the first touch of a page is no part of a copy
        self._free = list(range(slots(task)))
        self._held = [0] * slots(task)
        self._numbers = [numbers for numbers, _ in readers]
        self._returns = [returns for _, returns in readers]
        self._own = np.zeros(task.size, np.uint8)

    def array(self) -> Array:
        """Return one's own array."""
        return self._own

    def publish(self) -> None:
        """Copy the array, and tell the readers where it is."""
        self.forward(self._own)

    def forward(self, array: Array) -> None:
        """Copy what was received."""
        while not self._free:
            self._collect()
        slot = self._free.pop()
        np.copyto(self._slots[slot], array)
        self._held[slot] = len(self._numbers)
        for numbers in self._numbers:
            numbers.send_bytes(_SLOT.pack(slot))

    def _collect(self) -> None:
        """Wait for a slot from each reader: they give them back in the order in which they came."""
        for returns in self._returns:
            (slot,) = _SLOT.unpack(returns.recv_bytes())
            self._held[slot] -= 1
            if not self._held[slot]:
                self._free.append(slot)

    def close(self) -> None:
        """Wait until all slots have come back."""
        while len(self._free) < len(self._held):
            self._collect()


class Receiver:
    """Reads in slots."""

    def __init__(self, task: Task, name: str, ends: Ends) -> None:
        self._memory = SharedMemory(name)
        self._slots = np.ndarray((slots(task), task.size), np.uint8, self._memory.buf)
        self._slots.sum()  # maps the pages
        self._numbers, self._returns = ends
        self._number = b""

    def receive(self, timeout_s: float) -> Array | None:
        """Wait for a number; the last message is never lost, so no timeout is needed."""
        self._number = self._numbers.recv_bytes()
        (slot,) = _SLOT.unpack(self._number)
        array: Array = self._slots[slot]
        return array

    def release(self) -> None:
        """Give the slot back."""
        self._returns.send_bytes(self._number)

    def close(self) -> None:
        """End."""


def _source(task: Task, name: str, readers: Sequence[Ends]) -> None:
    be_source(task, Sender(task, name, readers))


def _relay(task: Task, name: str, ends: Ends, onward: str, readers: Sequence[Ends]) -> None:
    be_relay(task, Receiver(task, name, ends), Sender(task, onward, readers))


def _reader(task: Task, name: str, ends: Ends, number: int) -> None:
    be_reader(task, number, Receiver(task, name, ends))


def main() -> None:
    """Make the pools and the pipes, start the processes, and wait for them."""
    task = Task.load(Path(sys.argv[1]))
    context = multiprocessing.get_context("spawn")
    pools = [SharedMemory(create=True, size=slots(task) * task.size) for _ in range(task.relays + 1)]
    incoming: list[list[Ends]] = []
    outgoing: list[list[Ends]] = []
    for hop in range(task.relays + 1):
        pairs = [
            (context.Pipe(duplex=False), context.Pipe(duplex=False))
            for _ in range(task.readers if hop == task.relays else 1)
        ]
        incoming.append([(numbers[0], returns[1]) for numbers, returns in pairs])
        outgoing.append([(numbers[1], returns[0]) for numbers, returns in pairs])
    names = [pool.name for pool in pools]
    started: list[Any] = [context.Process(target=_source, args=(task, names[0], outgoing[0]))]
    for hop in range(task.relays):
        given = (task, names[hop], incoming[hop][0], names[hop + 1], outgoing[hop + 1])
        started.append(context.Process(target=_relay, args=given))
    for number, ends in enumerate(incoming[-1]):
        started.append(context.Process(target=_reader, args=(task, names[-1], ends, number)))
    for process in started:
        process.start()
    for process in started:
        process.join()
    for pool in pools:
        pool.close()
        pool.unlink()
    sys.exit(max(process.exitcode or 0 for process in started))


if __name__ == "__main__":
    main()
