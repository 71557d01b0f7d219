"""One host, and processes that join it for a round of a test: as nodes of a session, or by topics."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Self
from unittest.mock import patch

import attrs
from breakable import Breakable
from breaking import Fault
from census import census, settles, shared_bytes
from hatchery import Dead, Hatchery, Hatchling, Order
from watch import family

from rmbus import Node, Pipeline
from rmbus import session as sessions
from rmbus.embedded import EmbeddedHost
from rmbus.node import node_name
from rmbus.session import Session
from rmbus.transport.security import Connection

SETTLE_S = 5.0
"""Within so long all that a round has brought must be gone."""


class Stage:
    """A host and a hatchery, for many rounds. A context manager.

    Attributes:
        host: the host's pid. hatched: the processes of the round.
    """

    def __init__(self) -> None:
        self._host = EmbeddedHost(spares=0)
        self._hatchery = Hatchery()
        self.connection = self._host.connection
        self.host = self._host.connection.pid
        self.hatched: list[Hatchling] = []
        self.base = census(self.host)

    def hatch(self, order: Order) -> Hatchling:
        """Let a process join the host."""
        self.hatched.append(self._hatchery.hatch(order, self.connection))
        return self.hatched[-1]

    def close_all(self) -> None:
        """End the processes of the round."""
        for each in self.hatched:
            each.close()
        self.hatched.clear()

    def rebase(self) -> None:
        """Take what the host has now, when it has come to rest, for its base."""
        before = census(self.host)
        while True:
            time.sleep(0.2)
            self.base = census(self.host)
            if self.base == before:
                return
            before = self.base

    def left_over(self) -> str:
        """Say what the host has beyond its base, "" where it has gone back to it."""
        return settles(lambda: census(self.host).beyond(self.base), SETTLE_S)

    def shared_bytes(self) -> int:
        """Return how much shared memory there is, in whatever process of the stage."""
        return shared_bytes([self.host, os.getpid(), *family(self._hatchery.pid)])

    def close(self) -> None:
        """End it all."""
        self.close_all()
        self._hatchery.close()
        self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@attrs.define
class Play:
    """A session whose nodes are processes of the stage, by name."""

    session: Session
    cast: dict[str, Hatchling]


@contextlib.contextmanager
def play(
    stage: Stage, pipeline: Pipeline, *, faults: Mapping[str, Fault] | None = None, fast: bool = True
) -> Generator[Play]:
    """Run a pipeline of breakable nodes, each in a process of the stage; at the end kill what still runs of it."""
    cast: dict[str, Hatchling] = {}

    def embedded(*, spares: int) -> _Host:
        return _Host(stage.connection)

    def join(
        node: Node, connection: Connection, session: str, number: int, on_error: Callable[[BaseException], None]
    ) -> threading.Thread:
        assert isinstance(node, Breakable)
        name = node_name(node)
        fault = (faults or {}).get(name)
        cast[name] = stage.hatch(
            Order(type(node).__name__.lower(), node.given, session=session, number=number, fault=fault)
        )
        return threading.current_thread()

    with patch.object(sessions, "EmbeddedHost", embedded), patch.object(sessions, "serve_in_thread", join):
        session = Session(pipeline, here=list(pipeline.nodes), fast=fast)
    try:
        yield Play(session, cast)
    finally:
        session.kill()


@attrs.frozen
class _Host:
    """A host that is there already, where a session would start one of its own."""

    connection: Connection

    def close(self) -> None:
        return


def wait_for(what: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Wait until something holds; whether it does."""
    deadline = time.monotonic() + within_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def seen(of: Hatchling) -> int:
    """Return how many pictures a process has seen; 0 where it is dead."""
    try:
        return int(of.ask("look")["seen"])
    except Dead:
        return 0


def has_joined(of: Hatchling) -> bool:
    """Whether a process is on the bus, or was."""
    try:
        return bool(of.ask("look")["joined"])
    except Dead:
        return True


def open_accounts(of: Hatchling) -> list[str]:
    """Say which of a process's edges have an account that does not close: published and not delivered, nor dropped."""
    told: list[str] = []
    for account in of.ask("accounts")["accounts"]:
        difference = under_way(account)
        if difference:
            told.append(
                f"{of.order.kind}: {difference} frames of edge {account['edge']} are unaccounted for: {account}"
            )
    return told


def under_way(account: Mapping[str, Any]) -> int:
    """Return how many frames of an edge are neither delivered nor dropped."""
    dropped: dict[str, int] = account["dropped"]
    return int(account["published"]) + int(account["duplicates"]) - int(account["delivered"]) - sum(dropped.values())
