"""Processes that were started by hand and join a host: they connect to `host.sock`, and get an umbilical by that."""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import attrs

from rmbus.errors import HostError, RmbusError
from rmbus.host.edges import Wiring
from rmbus.host.endpoints import Endpoint
from rmbus.host.topics import Directory
from rmbus.host.workers import Worker
from rmbus.protocol import messages
from rmbus.protocol.topics import matches
from rmbus.transport import counters
from rmbus.transport.reactor import Reactor
from rmbus.transport.runfolder import RunFolder
from rmbus.transport.umbilical import Umbilical

_CREDENTIALS = struct.Struct("3i")


class Hand:
    """A process that joins by topics alone."""

    def __init__(self, endpoint: Endpoint, join: messages.Join, bus: Bus) -> None:
        self.endpoint = endpoint
        self._join = join
        self._bus = bus
        self._said_last = ""
        self._fed: set[tuple[str, str]] = set()
        bus.directory.check_free(join.outputs)
        worker = endpoint.worker
        worker.on_message = self._said
        worker.on_exit = lambda status: self._leave()
        start = messages.Start("", 0, join.name, "", inputs=list(join.inputs), outputs=list(join.outputs))
        worker.send(messages.Job(start, "", "trusted", str(endpoint.work), page=0), [counters.create()])
        if join.outputs:
            bus.directory.publish(endpoint, join.outputs)
        for pattern in set(join.inputs.values()):
            bus.directory.watch(pattern, self._told)
            for topic in bus.directory.matching(pattern):
                self._appeared(topic)
        if not join.inputs:
            worker.send(messages.Go(""))

    def _leave(self) -> None:
        """The process has ended, or has left."""
        self._bus.directory.unwatch(self._told)
        self._bus.directory.withdraw(self.endpoint)
        self._bus.wiring.ended(self.endpoint, died=self._said_last not in ("ended", "failed"))
        self.endpoint.remove()

    def _said(self, message: messages.Message) -> None:
        """Hear of its memory and its end; how it goes, it tells its own terminal."""
        if isinstance(message, messages.NodeEvent):
            self._said_last = message.state
        else:
            self._bus.wiring.memory.heard(self.endpoint, message)

    def _told(self, message: messages.Message) -> None:
        assert isinstance(message, messages.Topic)
        if message.is_there:
            self._appeared(message.topic)

    def _appeared(self, topic: str) -> None:
        """Feed every input that wants a topic. One that names a single topic takes it once, and ends with it."""
        for port, pattern in self._join.inputs.items():
            if matches(pattern, topic) and (port, pattern) not in self._fed:
                owner, out = self._bus.directory.output(topic)
                self._bus.wiring.subscribe(owner, out, self.endpoint, port, topic, self._join)
                if "*" not in pattern:
                    self._fed.add((port, pattern))
        if len(self._fed) == len(self._join.inputs):
            self.endpoint.worker.send(messages.Go(""))


@attrs.frozen
class Bus:
    """What a host has for topics."""

    directory: Directory
    wiring: Wiring


class Hands:
    """Listens on `host.sock`; only processes of the host's own user may join."""

    def __init__(
        self,
        reactor: Reactor,
        folder: RunFolder,
        make_folder: Callable[[], Path],
        bus: Bus,
        token: str,
        announced: Callable[[Endpoint, messages.Join], None],
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._make_folder = make_folder
        self._bus = bus
        self._token = token
        self._announced = announced
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._workers: set[Worker] = set()

    def listen(self) -> None:
        """Begin."""
        self._listener.bind(str(self._folder.path / "host.sock"))
        self._listener.listen(64)
        self._reactor.add(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Take nobody in any more; who is there sees the host's end."""
        self._reactor.remove(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        try:
            end, _ = self._listener.accept()
        except OSError:
            return  # it has gone again, or no descriptor is left
        pid, uid, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.getuid():
            end.close()
            return
        try:
            worker = Worker(self._reactor, Umbilical(end, is_host=True), pid)
        except OSError:  # it has ended meanwhile
            end.close()
            return
        self._workers.add(worker)
        worker.on_exit = lambda status: self._workers.discard(worker)
        worker.on_message = lambda message: self._join(worker, message)

    def _join(self, worker: Worker, message: messages.Message) -> None:
        self._workers.discard(worker)
        try:
            if not isinstance(message, messages.Join):
                raise HostError(f"a process that joins says so first, not {message.tag!r}")
            if not secrets.compare_digest(message.token, self._token):
                raise HostError("a process that joins shows the token of the connection file")
            folder = self._make_folder()
            endpoint = Endpoint(worker, folder, folder)
            try:
                if message.session:
                    self._announced(endpoint, message)
                else:
                    Hand(endpoint, message, self._bus)
            except RmbusError:
                endpoint.remove()
                raise
        except RmbusError as error:
            worker.send(messages.Refused(type(error).__name__, str(error)))
