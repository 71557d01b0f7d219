"""Processes that were started by hand and join a host: they connect to `host.sock`, and get an umbilical by that."""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from rmbus.errors import HostError, RmbusError
from rmbus.host.endpoints import Endpoint
from rmbus.host.topics import Directory
from rmbus.host.workers import Worker
from rmbus.protocol import messages
from rmbus.transport import counters
from rmbus.transport.reactor import Reactor
from rmbus.transport.runfolder import RunFolder
from rmbus.transport.umbilical import Umbilical

_CREDENTIALS = struct.Struct("3i")


class Hand:
    """A node that joins by topics alone."""

    def __init__(self, endpoint: Endpoint, join: messages.Join, directory: Directory) -> None:
        directory.check_free(join.outputs)
        self.endpoint = endpoint
        self._waiting = dict(join.inputs)
        self._directory = directory
        worker = endpoint.worker
        start = messages.Start("", 0, join.name, "", inputs=list(join.inputs), outputs=list(join.outputs))
        page = counters.create()
        worker.send(messages.Job(start, "", "trusted", str(endpoint.work), page=0), [page])
        if join.outputs:
            directory.publish(endpoint, join.outputs)
        for pattern in set(join.inputs.values()):
            directory.watch(pattern, self._told)
            for topic, path in directory.matching(pattern):
                self._appeared(topic, path)
        if not self._waiting:
            worker.send(messages.Go(""))

    def leave(self) -> None:
        """The process has ended."""
        self._directory.unwatch(self._told)
        self._directory.withdraw(self.endpoint)
        self.endpoint.remove()

    def _told(self, message: messages.Message) -> None:
        assert isinstance(message, messages.Topic)
        if message.path:
            self._appeared(message.topic, message.path)
        else:
            self.endpoint.worker.send(message)

    def _appeared(self, topic: str, path: str) -> None:
        found = [port for port, wanted in self._waiting.items() if wanted == topic]
        for port in found:
            del self._waiting[port]
            self.endpoint.worker.send(messages.Subscribe(port, topic, path, page=0), [counters.create()])
        if found and not self._waiting:
            self.endpoint.worker.send(messages.Go(""))


class Hands:
    """Listens on `host.sock`; only processes of the host's own user may join."""

    def __init__(
        self,
        reactor: Reactor,
        folder: RunFolder,
        make_folder: Callable[[], Path],
        directory: Directory,
        token: str,
        announced: Callable[[Endpoint, messages.Join], None],
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._make_folder = make_folder
        self._directory = directory
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
            if message.session:
                self._announced(endpoint, message)
            else:
                self._by_topics(endpoint, message)
        except RmbusError as error:
            worker.send(messages.Refused(type(error).__name__, str(error)))

    def _by_topics(self, endpoint: Endpoint, message: messages.Join) -> None:
        hand = Hand(endpoint, message, self._directory)
        endpoint.worker.on_message = _noted
        endpoint.worker.on_exit = lambda status: hand.leave()


def _noted(message: messages.Message) -> None:
    """A node that was started by hand tells its own terminal how it goes."""
