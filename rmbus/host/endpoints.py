"""Where edges begin and end, as a host sees it: processes with a folder of sockets; and the pool of spare ones."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from rmbus.host.workers import Worker
from rmbus.protocol import messages
from rmbus.transport.sockets import listen_unix


class Hearer(Protocol):
    """What can be told something."""

    def send(self, message: messages.Message, descriptors: Sequence[int] = ()) -> None:
        """Say it; the descriptors are given away."""
        ...


class End(Protocol):
    """Where an edge begins or ends: an `Endpoint` here, or what stands for one at another host."""

    @property
    def worker(self) -> Hearer:
        """What is spoken to."""
        ...

    @property
    def session(self) -> str:
        """Of the node that it is, else ""."""
        ...

    def may_lend_on(self, owner: End) -> bool:
        """Whether it may see memory of another process that comes by way of a third."""
        ...


class Endpoint:
    """A process that edges begin or end at: a node, or the gateway. Its folder is what its jail sees of the host.

    Attributes:
        worker: the process. folder: its sockets. work: what it may write to, where it is not in a jail.
        session: of the node that it is, "" for the gateway and for those that joined by topics.
        shares: whether it can map memory of this machine.
    """

    def __init__(
        self,
        worker: Worker,
        folder: Path,
        work: Path,
        release: Callable[[], None] | None = None,
        *,
        shares: bool = True,
    ) -> None:
        self.worker = worker
        self.shares = shares
        self._release = release
        self.folder = folder
        self.work = work
        self.inbox = folder / "in.sock"
        self.session = ""
        self._doors = 0
        self._listener: socket.socket | None = None

    def listener(self) -> int | None:
        """Return a descriptor of the listening socket that the host owns, the first time; then None."""
        if self._listener is not None:
            return None
        self._listener = listen_unix(self.inbox)
        return os.dup(self._listener.fileno())

    def door_to(self, other: Endpoint) -> Path:
        """Make the socket of another endpoint reachable from this one's folder, by a hard link."""
        self._doors += 1
        door = self.folder / f"{self._doors}.sock"
        os.link(other.inbox, door)
        return door

    def may_lend_on(self, owner: End) -> bool:
        """Whether it may see memory of another process that comes by way of a third."""
        return self.session != "" and self.session == owner.session

    def remove(self) -> None:
        """Take the sockets and the folder away, and give back what it ran in."""
        release, self._release = self._release, None
        if release is not None:
            release()
        if self._listener is not None:
            self._listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)


class Pool:
    """Spare processes, already confined and with their imports done; each serves one node, once."""

    def __init__(self, spawn: Callable[[], Endpoint], size: int, *, refill: bool) -> None:
        self._spawn = spawn
        self._size = size
        self._refill = refill
        self._spares: list[Endpoint] = []
        self._closed = False
        for _ in range(size):
            self._add()

    def take(self) -> tuple[Endpoint, bool]:
        """Return a process, and whether it was warm: ready before it was asked for."""
        if not self._spares:
            if self._refill:
                self._add()
            return self._spawn(), False
        spare = next((spare for spare in self._spares if spare.worker.is_ready), self._spares[0])
        self._spares.remove(spare)
        if self._refill:
            self._add()
        return spare, spare.worker.is_ready

    def close(self) -> None:
        """End the spares."""
        self._closed = True
        for spare in self._spares:
            spare.worker.kill()

    def _add(self) -> None:
        spare = self._spawn()
        spare.worker.on_exit = lambda status: self._lost(spare)
        self._spares.append(spare)

    def _lost(self, spare: Endpoint) -> None:
        if spare in self._spares:
            self._spares.remove(spare)
            if (
                self._refill and not self._closed and spare.worker.is_ready
            ):  # else it could not start, nor would another
                self._add()
        spare.remove()
