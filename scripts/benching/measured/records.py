"""The times that source and readers write down, by the number of the message, and the word with who measures."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from benching.measured.pacing import Pace
from benching.measured.payload import PROBE, STOP, Array, Payload, number_of
from benching.measured.task import Task

CHECK_EVERY = 64
"""Without a pace, the contents of one message in so many are checked: checking is no part of the transport."""

PROBE_EVERY_S = 0.02


class Gauge:
    """Talks to the process that measures: when the window opens, when a process has done its part."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r", encoding="utf-8")

    def say(self, line: str) -> str:
        """Say a line; return the answer. The processor times are read in between."""
        self._socket.sendall(f"{line}\n".encode())
        return self._lines.readline().strip()

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()


class Source:
    """What a source does around its publishing: it renders, notes the time, and publishes at once."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.payload = Payload(task.size)
        self.gauge = Gauge(task.gauge)
        self._sent = np.zeros(task.capacity, np.int64)
        self._times = self._sent.data
        self._pace: Pace | None = None
        self._render = self.payload.render if task.is_paced else self.payload.stamp

    def probes(self) -> bool:
        """Whether a probe is still to be sent: not every reader has got one."""
        return self.gauge.say("flows?") != "yes"

    def pace(self) -> Pace:
        """Return the deadlines, from now on."""
        self._pace = Pace(self.task, lambda: self.gauge.say("begin"))
        return self._pace

    def prepare(self, array: Array, number: int) -> None:
        """Fill the array with a message, and start the clock; what comes next is the call that publishes."""
        self._render(array, number)
        self._times[number] = time.monotonic_ns()

    def close(self) -> None:
        """Everything is published: save the times."""
        self.gauge.say("end source")
        folder = Path(self.task.folder)
        np.save(folder / "sent.npy", self._sent)
        note(folder / "source.json", {"first": self._pace.first if self._pace else 0})
        self.gauge.close()


class Reader:
    """What a consumer does with a message: it reads the first and the last byte, and notes the time."""

    def __init__(self, task: Task, number: int) -> None:
        self.task = task
        self.number = number
        self.gauge = Gauge(task.gauge)
        self._payload = Payload(task.size)
        self._arrived = np.zeros(task.capacity, np.int64)
        self._times = self._arrived.data
        self._has_probe = False
        self._sleep_s = task.sleep_s if task.sleeps(number) else 0.0
        self._check_every = 1 if task.is_paced else CHECK_EVERY
        self._torn = 0
        self._ended = False

    def take(self, array: Array) -> bool:
        """Take a message.

        Returns:
            Whether more are to come.
        """
        array.item(0)
        array.item(-1)
        now = time.monotonic_ns()
        number = number_of(array)
        if number >= STOP:
            return self._is_told(number)
        self._times[number] = now
        if number % self._check_every == 0 and not self._payload.is_whole(array, number, rendered=self.task.is_paced):
            self._torn += 1
        if self._sleep_s:
            time.sleep(self._sleep_s)  # the slow reader's work
        return True

    def _is_told(self, number: int) -> bool:
        if number == PROBE and not self._has_probe:
            self._has_probe = True
            self.gauge.say("flows")
        return number == PROBE

    def end(self) -> None:
        """Nothing more will come: have the processor times read."""
        if not self._ended:
            self._ended = True
            self.gauge.say(f"end reader {self.number}")

    def close(self) -> None:
        """Save the times, and what was found in the contents."""
        self.end()
        folder = Path(self.task.folder)
        np.save(folder / f"arrived-{self.number}.npy", self._arrived)
        note(folder / f"reader-{self.number}.json", {"torn": self._torn})
        self.gauge.close()


def note(path: Path, facts: dict[str, Any]) -> None:
    """Write down what else was seen."""
    path.write_text(json.dumps(facts), encoding="utf-8")
