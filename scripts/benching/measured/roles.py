"""The processes of a system that has plain senders and receivers: a source, readers, and relays between them.

A system's module calls `play` with its two ends. Each role is a process: `python -m MODULE TASK ROLE NUMBER`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from benching.measured.payload import PROBE, STOP, Array, number_of
from benching.measured.records import PROBE_EVERY_S, Gauge, Reader, Source
from benching.measured.task import Task

IDLE_S = 3.0
"""A reader that may lose messages, the last among them, takes so long a silence for the end."""


STAY_S = 10.0
"""The longest that a sender stays for its readers."""


class Sender(Protocol):
    """Publishes arrays to one topic."""

    def array(self) -> Array:
        """Return what the next message is rendered into: `uint8[size]`, one's own or lent."""
        ...

    def publish(self) -> None:
        """Publish what `array` has returned; the clock runs from right before."""
        ...

    def forward(self, array: Array) -> None:
        """Publish a message that was received."""
        ...

    def close(self) -> None:
        """Send what was held back, and end."""
        ...


class Receiver(Protocol):
    """Receives arrays from one topic."""

    def receive(self, timeout_s: float) -> Array | None:
        """Wait, without spinning, for the next message; None when none came in time."""
        ...

    def release(self) -> None:
        """Give back what `receive` has returned last, where it was lent."""
        ...

    def close(self) -> None:
        """End."""
        ...


MakeSender = Callable[[Task, str, int], Sender]
"""Makes a sender for a topic and so many readers."""

MakeReceiver = Callable[[Task, str, int], Receiver]
"""Makes the receiver of that number on a topic."""


def play(make_sender: MakeSender, make_receiver: MakeReceiver) -> None:
    """Be the process that the command line names."""
    task, role, number = Task.load(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
    first, last = "hop0", f"hop{task.relays}"
    if role == "source":
        be_source(task, make_sender(task, first, 1 if task.relays else task.readers))
    elif role == "relay":
        receiver = make_receiver(task, f"hop{number}", 0)
        be_relay(task, receiver, make_sender(task, f"hop{number + 1}", task.readers))
    else:
        be_reader(task, number, make_receiver(task, last, number))


def be_source(task: Task, sender: Sender) -> None:
    """Publish probes until every reader has got one, then the messages of the task, then the end."""
    source = Source(task)
    while source.probes():
        _tell(source, sender, PROBE)
        time.sleep(PROBE_EVERY_S)
    for number in source.pace().numbers():
        array = sender.array()
        source.prepare(array, number)
        sender.publish()
    _tell(source, sender, STOP)
    source.close()
    _stay(task)
    sender.close()


def _tell(source: Source, sender: Sender, number: int) -> None:
    array = sender.array()
    source.payload.render(array, number)
    sender.publish()


def be_relay(task: Task, receiver: Receiver, sender: Sender) -> None:
    """Pass on what comes."""
    while True:
        array = receiver.receive(60.0)
        if array is None:
            raise TimeoutError("nothing came for a minute")
        is_last = number_of(array) == STOP
        sender.forward(array)
        receiver.release()
        if is_last:
            break
    _stay(task)
    sender.close()
    receiver.close()


def _stay(task: Task) -> None:
    """Wait until every reader has the last message: what lies in shared memory may go with the process that lent it."""
    gauge = Gauge(task.gauge)
    deadline = time.monotonic() + STAY_S
    while gauge.say("over?") != "yes" and time.monotonic() < deadline:
        time.sleep(PROBE_EVERY_S)
    gauge.close()


def be_reader(task: Task, number: int, receiver: Receiver) -> None:
    """Take what comes."""
    reader = Reader(task, number)
    began = False
    while (array := receiver.receive(IDLE_S if began else 60.0)) is not None:
        began = began or number_of(array) != PROBE
        goes_on = reader.take(array)
        del array
        receiver.release()
        if not goes_on:
            break
    reader.close()
    receiver.close()
