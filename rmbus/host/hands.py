"""Who comes to a host by `host.sock`: processes that were started by hand and join it, whose umbilical that becomes;
and other hosts of the same user, which meet it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from rmbus.errors import HostError, RmbusError
from rmbus.host.edges import Wiring
from rmbus.host.endpoints import Endpoint
from rmbus.host.topics import Directory
from rmbus.host.workers import Worker
from rmbus.protocol import messages
from rmbus.protocol.topics import matches
from rmbus.transport import counters
from rmbus.transport.reactor import Reactor, Timer
from rmbus.transport.runfolder import RunFolder
from rmbus.transport.umbilical import Umbilical, close_all

SILENT_S: Final = 5.0
"""Who has connected has so long to say who he is."""

MAX_SILENT: Final = 128
"""Those who have not yet said it."""

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
    """Listens on `host.sock`; only processes of the host's own user may join, and only other hosts of his may come.

    Args:
        announced: takes a process that joins as a node of a session. calls: takes one that calls an object.
        met: takes a host that comes to meet this one.
    """

    def __init__(
        self,
        reactor: Reactor,
        folder: RunFolder,
        make_folder: Callable[[], Path],
        bus: Bus,
        token: str,
        *,
        announced: Callable[[Endpoint, messages.Join], None],
        calls: Callable[[Endpoint, messages.Join], None],
        met: Callable[[Umbilical, int, messages.Meet], None],
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._make_folder = make_folder
        self._bus = bus
        self._token = token
        self._announced = announced
        self._calls = calls
        self._met = met
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._silent: dict[Umbilical, Timer] = {}

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
        """Take somebody in; who he is, his first message says, and he has some time for that."""
        try:
            end, _ = self._listener.accept()
        except OSError:
            return  # it has gone again, or no descriptor is left
        pid, uid, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.getuid() or len(self._silent) >= MAX_SILENT:
            end.close()
            return
        caller = Umbilical(end, is_host=True)
        self._silent[caller] = self._reactor.call_later(SILENT_S, lambda: self._turn_away(caller))
        self._reactor.add(caller.fileno(), lambda: self._spoken(caller, pid))

    def _spoken(self, caller: Umbilical, pid: int) -> None:
        number = 0
        try:
            number, message, descriptors = caller.receive()
            close_all(descriptors)
            self._heard_out(caller)
            self._admit(caller, pid, number, message)
        except BlockingIOError:
            return
        except (RmbusError, OSError) as error:  # OSError: it has ended meanwhile
            with contextlib.suppress(RmbusError):
                caller.send(messages.Refused(type(error).__name__, str(error)), number=number)
            self._turn_away(caller)

    def _heard_out(self, caller: Umbilical) -> None:
        timer = self._silent.pop(caller, None)
        if timer is not None:
            timer.cancel()
            self._reactor.remove(caller.fileno())

    def _turn_away(self, caller: Umbilical) -> None:
        self._heard_out(caller)
        caller.close()

    def _admit(self, caller: Umbilical, pid: int, number: int, message: messages.Message) -> None:
        """Let somebody in who may."""
        if isinstance(message, messages.Meet):
            self._met(caller, number, message)
            return
        if not isinstance(message, messages.Join):
            raise HostError(f"a process that joins says so first, not {message.tag!r}")
        if not secrets.compare_digest(message.token, self._token):
            raise HostError("a process that joins shows the token of the connection file")
        endpoint = self._endpoint(caller, pid, shares=True)
        try:
            self._place(endpoint, message)
        except RmbusError as error:
            endpoint.worker.send(messages.Refused(type(error).__name__, str(error)))
            endpoint.worker.kill()
            endpoint.remove()

    def admit(self, umbilical: Umbilical, pid: int, join: messages.Join) -> None:
        """Let a process of another machine in; the umbilical ends at the gateway, whose pid that is.

        Raises:
            RmbusError: it may not.
        """
        endpoint = self._endpoint(umbilical, pid, shares=False)
        try:
            self._place(endpoint, join)
        except RmbusError:
            endpoint.worker.kill()
            endpoint.remove()
            raise

    def _endpoint(self, umbilical: Umbilical, pid: int, *, shares: bool) -> Endpoint:
        folder = self._make_folder()
        try:
            worker = Worker(self._reactor, umbilical, pid)
        except OSError:
            folder.rmdir()
            raise
        worker.on_message = lambda _: worker.kill()  # it has nothing to say before it has its job
        return Endpoint(worker, folder, folder, shares=shares)

    def _place(self, endpoint: Endpoint, join: messages.Join) -> None:
        if join.session:
            self._announced(endpoint, join)
        elif join.object:
            self._calls(endpoint, join)
        else:
            Hand(endpoint, join, self._bus)
