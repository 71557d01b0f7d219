"""The host: receives packages, starts, confines and supervises node processes, and wires their edges.

It never unpickles and never imports user code. One thread serves everything; nodes are spawned from it alone, since
death signals of parents are of the thread.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import zmq

import rmbus
from rmbus.errors import HostError, TooLarge
from rmbus.host import janitor
from rmbus.host.caches import QUOTA_MB, Caches
from rmbus.host.control import Client, Control, Reply, refuse
from rmbus.host.edges import Wiring
from rmbus.host.environments import Environments
from rmbus.host.events import Events
from rmbus.host.gateways import GatewayChild
from rmbus.host.granting import Granting, Offer, ledger_of
from rmbus.host.hands import Bus, Hands
from rmbus.host.hosted import HostedSession
from rmbus.host.levels import Level
from rmbus.host.meetings import Meetings
from rmbus.host.memory import QUOTA_BYTES
from rmbus.host.objects import Objects
from rmbus.host.packages import Packages
from rmbus.host.processes import Processes
from rmbus.host.sessions import Rooms, Sessions
from rmbus.host.starting import Starting
from rmbus.host.topics import Directory
from rmbus.host.workers import adopt_strays, started
from rmbus.protocol import messages
from rmbus.protocol.limits import MAX_DATAGRAM_BYTES
from rmbus.protocol.version import VERSIONS, negotiate
from rmbus.shipping.content import python_tag
from rmbus.shipping.store import QUOTA_BYTES as STORE_BYTES
from rmbus.shipping.store import Held, Store
from rmbus.transport import runfolder
from rmbus.transport.reactor import Reactor
from rmbus.transport.runfolder import RunFolder
from rmbus.transport.security import Connection, KeyGuard, make_pair
from rmbus.transport.sockets import Curve, Socket

MAX_START_BYTES: Final = MAX_DATAGRAM_BYTES - 8192
"""A `start` goes on to its node within one datagram."""


@attrs.frozen
class Settings:
    """How a host is to be.

    Attributes:
        name: what it is called in reports.
        level: the confinement of its nodes. reasons: why no higher one.
        listen: `tcp://HOST:PORT`, or "" for clients of this machine and user only.
        clients: public keys (Z85) that may come beside the user's own.
        store: where packages are kept; None: in the run folder, for this run.
        store_bytes: what they may take together; those that nobody uses go first.
        spares: processes kept ready. refill: whether a spare that was taken is replaced.
        embedded: whether it is the child of a script, whose nodes it runs as the user's own.
        passing: whether it ends with whoever has started it.
        drain_s: how long running sessions may go on after SIGTERM.
        memory_bytes: shared memory that one process may have for its outputs.
        environments: where environments are kept that were made; None: in the run folder, for this run.
        pythons: further interpreters that packages may ask for, by path; rmbus is installed in each.
        prepared: environments that nodes may name, by path; they are used as they are.
        offer: what nodes may be granted.
        caches: where folders are kept that outlive nodes; None: in the run folder, for this run.
        cache_mb: what these may hold together; 0: there are none.
    """

    name: str
    level: Level
    reasons: str = ""
    listen: str = ""
    clients: tuple[str, ...] = ()
    store: Path | None = None
    store_bytes: int = STORE_BYTES
    spares: int = 2
    refill: bool = True
    embedded: bool = False
    passing: bool = False
    drain_s: float = 1.0
    memory_bytes: int = QUOTA_BYTES
    environments: Path | None = None
    pythons: tuple[str, ...] = ()
    prepared: Mapping[str, Path] = attrs.field(factory=dict[str, Path])
    offer: Offer = attrs.field(factory=Offer)
    caches: Path | None = None
    cache_mb: int = QUOTA_MB


class Host:
    """A running host. `serve()` returns when it was told to end."""

    def __init__(self, settings: Settings, *, on_up: Callable[[Connection], None]) -> None:
        self.settings = settings
        self.reactor = Reactor()
        ledger = ledger_of(settings.offer)
        runfolder.sweep()
        self.folder = RunFolder()
        self._caches = Caches(self.reactor, settings.caches or self.folder.path / "caches", settings.cache_mb)
        self._granting = Granting(settings.offer, ledger, settings.name, self._caches, is_own=settings.embedded)
        self._janitor = janitor.start(self.folder)
        started.add(self._janitor.pid)
        adopt_strays()
        self._on_up = on_up
        self._context: zmq.Context[Socket] = zmq.Context()
        self._draining = ""
        self._public, self._secret = make_pair()
        self._client_public, self._client_secret = make_pair()
        self._token = secrets.token_hex(16)
        store = Store(settings.store or self.folder.path / "store", quota_bytes=settings.store_bytes)
        store.sweep()
        store.collect()
        self._packages = Packages(store, self.reactor)
        self._control = Control(self.reactor, self._context, self._serve, self._client_lost)
        self._environments = Environments(
            self.reactor,
            self.folder,
            settings.environments or self.folder.path / "environments",
            host=settings.name,
            offered=settings.pythons,
            prepared=settings.prepared,
        )
        self._processes = Processes(
            self.reactor,
            self.folder,
            settings.level,
            spares=settings.spares,
            refill=settings.refill,
            is_own=settings.embedded,
        )
        self._gateway = GatewayChild(self._processes.gateway, self.folder.path / "gateway.sock")
        self._directory = Directory()
        self._there: dict[str, HostedSession] = {}
        self._events = Events(self.reactor, self._context, settings.name, self._there)
        self._wiring = Wiring(self.reactor, settings.memory_bytes)
        starting = Starting(
            self._environments, self._processes.take, self._granting.grant, self._packages.open, settings.name
        )
        self._objects = Objects(self.reactor, self._wiring, starting, self._packages.start, settings.name)
        meetings = Meetings(self.reactor, self._wiring, self._there, name=settings.name, token=self._token)
        rooms = Rooms(self._wiring, starting, self._packages, self._directory, self._events, self._gateway, meetings)
        self._sessions = Sessions(
            settings.name, self._there, rooms, is_ending=lambda: bool(self._draining), on_none=self._have_none
        )
        self._hands = Hands(
            self.reactor,
            self.folder,
            self._processes.endpoint_folder,
            Bus(self._directory, self._wiring),
            self._token,
            announced=self._sessions.announced,
            calls=self._objects.join,
            met=meetings.arrived,
        )
        self._requests: dict[type[messages.Message], Callable[[Client, messages.Message, bytes, Reply], None]] = {
            messages.Hello: self._hello,
            messages.Ping: self._ping,
            messages.Have: self._have,
            messages.Put: self._put,
            messages.Start: self._start,
            messages.Revive: self._revive,
            messages.Link: self._link,
            messages.Join: self._join,
            messages.Go: self._go,
            messages.Stop: self._stop,
            messages.Report: self._report,
            messages.Status: self._status,
            messages.Find: self._find,
            messages.Ship: self._ship,
            messages.AttachObject: self._attach_object,
            messages.Release: self._release,
            messages.Objects: self._list_objects,
        }

    # --- life --------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until `end` was called and everything is down."""
        if not self.settings.embedded:
            messages.prepare(*messages.tags().values())  # while its spare processes start, for whoever comes first
        keys = frozenset({self._client_public, *(key.encode() for key in self.settings.clients)})
        self._guard = KeyGuard(self._context, keys)
        self._gateway.allow([key.decode() for key in keys])
        curve = Curve(self._public, self._secret)
        self._local = self._control.listen_local(self.folder.path / "client.sock", curve)
        self._events.listen(self.folder.path / "events.sock", curve)
        self._hands.listen()
        if self.settings.listen:
            self._address = self._control.listen(self.settings.listen, curve)
            listen = self.settings.listen.rpartition(":")[0] + ":*"
            self._gateway.start(listen, on_listening=self._up)
        else:
            self._address = self._local
            self._up()
        if not self.settings.embedded:
            self._environments.collect()
            self._caches.look()
        try:
            self.reactor.run()
        finally:
            self._close()

    def drain(self, reason: str) -> None:
        """Take nothing new, let what runs go on for a bounded time, then end. A second call ends at once."""
        if self._draining or not (self._there or self._objects):
            self.end()
            return
        self._draining = reason
        self._control.broadcast(messages.Draining(reason))
        self.reactor.call_later(self.settings.drain_s, self.end)

    def end(self) -> None:
        """End every process, then return from `serve`."""
        self._draining = self._draining or "the host was stopped"
        self._sessions.kill(self._draining)
        self._objects.close()
        self._processes.close()
        self._environments.close()
        self._caches.close()
        self._hands.close()
        self.reactor.stop()

    def _up(self) -> None:
        connection = Connection(
            address=self._address,
            identity=self.folder.identity,
            pid=os.getpid(),
            name=self.settings.name,
            local=self._local,
            server=self._public.decode(),
            public=self._client_public.decode(),
            secret=self._client_secret.decode(),
            token=self._token,
            prefix=sys.prefix,
            passing=self.settings.passing or self.settings.embedded,
        )
        connection.write(self.folder.path)
        self._on_up(connection)

    def _close(self) -> None:
        self._wiring.memory.close()
        self._packages.close()
        self._control.close()
        self._events.close()
        self._gateway.close()
        self._guard.close()
        self._context.destroy(linger=300)
        assert self._janitor.stdin is not None
        self._janitor.stdin.close()  # it kills what is left and removes the folder
        self._janitor.wait()
        if self.folder.path.exists():  # the janitor was killed before
            runfolder.kill_noted(self.folder.path)
            self.folder.remove()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _serve(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        handler = self._requests.get(type(request))
        if handler is None:
            raise HostError(f"a host does not take {request.tag!r} messages", host=self.settings.name)
        handler(client, request, blob, reply)

    def _hello(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Hello)
        them = f"the client (rmbus {request.release})"
        version = negotiate(
            request.versions, VERSIONS, them=them, us=f"the host {self.settings.name} (rmbus {rmbus.__version__})"
        )
        client.python = python_tag(request.implementation, request.python)
        reply(
            messages.Welcome(
                version=version,
                host=self.settings.name,
                identity=self.folder.identity,
                release=rmbus.__version__,
                implementation=sys.implementation.name,
                python=sys.version_info[:2],
                pid=os.getpid(),
                level=self.settings.level.word,
                reasons=self.settings.reasons,
                gateway=self._gateway.endpoint,
                gateway_key=self._gateway.public,
            )
        )

    def _ping(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        reply(messages.Ok())

    def _have(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Have)
        reply(messages.Ok(_told(self._packages.have(client, request.address))))

    def _put(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Put)
        held = self._packages.put(client, request.address, request.offset, blob, request.total)
        reply(messages.Ok(_told(held)))

    def _start(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Start)
        self._check_start(request)
        self._sessions.start(client, request, blob, reply)

    def _revive(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Revive)
        self._sessions.revive(client, request, blob, reply)

    def _check_start(self, request: messages.Start) -> None:
        if self._draining:
            raise HostError(
                f"the host {self.settings.name} is being stopped ({self._draining})", host=self.settings.name
            )
        size = len(messages.encode(request))
        if size > MAX_START_BYTES:
            raise TooLarge("what is said to start a node", size, MAX_START_BYTES)

    def _link(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Link)
        self._sessions.link(client, request, reply)

    def _join(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        """A process of another machine joins: it comes by the gateway."""
        assert isinstance(request, messages.Join)
        visit = messages.Visit(secrets.token_hex(8), secrets.token_bytes(16))
        umbilical, pid = self._gateway.admit(visit)
        self._hands.admit(umbilical, pid, request)
        gateway = self._gateway

        def up() -> None:
            reply(messages.Admitted(visit.visit, visit.token, gateway.endpoint, gateway.public))

        gateway.when_up(up, partial(refuse, reply))

    def _go(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Go)
        self._sessions.go(client, request, reply)

    def _stop(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Stop)
        self._sessions.stop(client, request, reply)

    def _report(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Report)
        self._sessions.report(client, request, reply)

    def _status(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        nodes = sum(len(session.nodes) for session in self._there.values())
        status = {"host": self.settings.name, "sessions": len(self._there), "nodes": nodes}
        reply(messages.Ok({**status, **self._granting.status()}))

    def _ship(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Ship)
        self._check_start(request.start)
        self._objects.ship(client, request, blob, reply)

    def _attach_object(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.AttachObject)
        self._objects.attach(client, request, reply)

    def _release(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Release)
        self._objects.release(client, request, reply)

    def _list_objects(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        reply(messages.Ok({"objects": self._objects.listed()}))

    def _find(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Find)
        reply(messages.Ok({"topics": self._directory.matching(request.pattern)}))
        self._directory.watch(request.pattern, client.tell)

    def _client_lost(self, client: Client) -> None:
        self._packages.lost(client)
        self._directory.unwatch(client.tell)
        self._objects.client_lost(client)
        self._sessions.client_lost(client)

    def _have_none(self) -> None:
        """The last session has gone."""
        if self._draining:
            self.reactor.call_soon(self.end)


def _told(held: Held) -> dict[str, object]:
    return {"complete": held.complete, "offset": held.offset}


def on_signals(host: Host) -> None:
    """Drain on SIGTERM and SIGINT, at once on the second."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)

    def arrived() -> None:
        for number in os.read(reader, 64):
            host.drain(signal.Signals(number).name)

    host.reactor.add(reader, arrived)
