"""Stand-ins for the processes of a host, for tests of what it says to them: they hear it, and run nothing."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from rmbus.host.edges import HostedEdge
from rmbus.host.endpoints import Endpoint
from rmbus.host.workers import Worker
from rmbus.protocol import messages
from rmbus.transport.reactor import Reactor, Timer
from rmbus.transport.umbilical import close_all

M = TypeVar("M", bound=messages.Message)


class FakeWorker:
    """Hears what a host says to a process.

    Attributes:
        heard: the messages, with the descriptors that came with them, which are the test's to close.
    """

    pid = 4242

    def __init__(self) -> None:
        self.heard: list[tuple[messages.Message, list[int]]] = []

    def send(self, message: messages.Message, descriptors: Sequence[int] = ()) -> None:
        messages.decode(messages.encode(message))  # it can be said
        self.heard.append((message, list(descriptors)))

    def close(self) -> None:
        for _, descriptors in self.heard:
            close_all(descriptors)
        self.heard.clear()


class Process:
    """A process of a host, and what it has heard."""

    def __init__(self, session: str = "s", folder: Path = Path("/nowhere")) -> None:
        self.worker = FakeWorker()
        self.endpoint = Endpoint(cast(Worker, self.worker), folder, folder)
        self.endpoint.session = session

    def told(self, kind: type[M]) -> list[M]:
        """Return the messages of a kind that it has heard so far."""
        return [message for message, _ in self.worker.heard if isinstance(message, kind)]

    def given(self, kind: type[messages.Message]) -> list[int]:
        """Return the descriptors that came with messages of a kind."""
        return [each for message, given in self.worker.heard if isinstance(message, kind) for each in given]


class FakeReactor:
    """A reactor whose time passes when it is told to."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.now = 0.0

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        self.timers.append((self.now + delay_s, callback))
        return Timer(callback)

    def passes(self, seconds: float) -> None:
        """Let time pass, and call what is due."""
        self.now += seconds
        due = [callback for at, callback in self.timers if at <= self.now]
        self.timers = [(at, callback) for at, callback in self.timers if at > self.now]
        for callback in due:
            callback()

    @property
    def real(self) -> Reactor:
        return cast(Reactor, self)


def edge_between(producer: Process, consumer: Process, number: int = 0, out: str = "out", /, **link: Any) -> HostedEdge:
    """Return an edge of a host between two of its processes."""
    fields: dict[str, Any] = {"producer": 0, "consumer": 1, **link}
    made = messages.Link("s", number, bytes(16), out=out, into="in", **fields)
    return HostedEdge(made, producer.endpoint, consumer.endpoint)


def open_descriptors() -> set[str]:
    """Return what this process has open: what a host gives away it must not keep. What earlier tests left is gone."""
    gc.collect()  # a mapping has a descriptor of its own, until it is collected
    return set(os.listdir("/proc/self/fd"))
