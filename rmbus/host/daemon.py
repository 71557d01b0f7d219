"""The host: receives packages, starts, confines and supervises node processes, and wires their edges.

It never unpickles and never imports user code. One thread serves everything; nodes are spawned from it alone, since
death signals of parents are of the thread.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
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
from rmbus.host.control import Client, Control, Reply
from rmbus.host.edges import Wiring
from rmbus.host.endpoints import Endpoint, Pool
from rmbus.host.environments import Environment, Environments
from rmbus.host.events import Events
from rmbus.host.gateways import GatewayChild
from rmbus.host.gpus import VISIBLE
from rmbus.host.granting import Grant, Granting, Offer, ledger_of
from rmbus.host.hands import Bus, Hands
from rmbus.host.jail import Grants, spawn_command
from rmbus.host.levels import Level
from rmbus.host.logs import tell_refusal
from rmbus.host.meetings import Meetings
from rmbus.host.memory import QUOTA_BYTES
from rmbus.host.objects import Objects
from rmbus.host.packages import Packages
from rmbus.host.sessions import HostedNode, HostedSession
from rmbus.host.starting import Code, Place, Starting
from rmbus.host.topics import Directory
from rmbus.host.workers import MARK, Child, adopt_strays, started
from rmbus.protocol import messages
from rmbus.protocol.limits import MAX_DATAGRAM_BYTES
from rmbus.protocol.version import VERSIONS, negotiate
from rmbus.shipping.store import QUOTA_BYTES as STORE_BYTES
from rmbus.shipping.store import Held, Store
from rmbus.transport import runfolder
from rmbus.transport.reactor import Reactor
from rmbus.transport.runfolder import RunFolder
from rmbus.transport.security import Connection, KeyGuard, make_pair
from rmbus.transport.sockets import Curve, Socket

MAX_START_BYTES: Final = MAX_DATAGRAM_BYTES - 8192
"""A `start` goes on to its node within one datagram."""

MAX_EARLY: Final = 64
"""Processes that have joined and wait for the client that announces them."""


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
        self._sessions: dict[str, HostedSession] = {}
        self._owners: dict[str, Client] = {}
        self._expected: dict[tuple[str, int], Callable[[Endpoint], None]] = {}
        self._early: dict[tuple[str, int], Endpoint] = {}
        self._count = 0
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
        self._pool = Pool(self.reactor, self._spawn, settings.spares, refill=settings.refill)
        self._gateway = GatewayChild(self._spawn_gateway, self.folder.path / "gateway.sock")
        self._directory = Directory()
        self._events = Events(self.reactor, self._context, settings.name, self._sessions)
        self._wiring = Wiring(self.reactor, settings.memory_bytes)
        self._memory = self._wiring.memory
        bus = Bus(self._directory, self._wiring)
        self._starting = Starting(
            self._environments, self._process, self._granting.grant, self._packages.open, settings.name
        )
        self._objects = Objects(self.reactor, self._wiring, self._starting, self._packages.start, settings.name)
        self._meetings = Meetings(self.reactor, self._wiring, self._sessions, name=settings.name, token=self._token)
        self._hands = Hands(
            self.reactor,
            self.folder,
            self._endpoint_folder,
            bus,
            self._token,
            announced=self._announced,
            calls=self._objects.join,
            met=self._meetings.arrived,
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
        if self._draining or not (self._sessions or self._objects):
            self.end()
            return
        self._draining = reason
        self._control.broadcast(messages.Draining(reason))
        self.reactor.call_later(self.settings.drain_s, self.end)

    def end(self) -> None:
        """End every process, then return from `serve`."""
        self._draining = self._draining or "the host was stopped"
        for session in self._sessions.values():
            for number, node in session.nodes.items():
                if node.state not in ("ended", "failed", "lost"):
                    status = f"killed by SIGKILL: the host was stopped ({self._draining})"
                    session.tell(messages.NodeEvent(session.name, number, "lost", status=status))
            session.kill()
        self._objects.close()
        self._pool.close()
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
        self._memory.close()
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

    # --- processes ---------------------------------------------------------------------------------------------------

    def _endpoint_folder(self) -> Path:
        self._count += 1
        folder = self.folder.path / f"n{self._count}"
        folder.mkdir(mode=0o700)
        return folder

    def _spawn(self, environment: Environment | None = None, grant: Grant | None = None) -> Endpoint:
        folder = self._endpoint_folder()
        work = self.folder.path / f"w{self._count}"
        work.mkdir(mode=0o700)
        level = self.settings.level

        def launch(umbilical: int, output: int) -> tuple[subprocess.Popen[bytes], Level]:
            granted = Grants() if grant is None else grant.grants
            if environment is not None:
                granted = attrs.evolve(granted, readable=(*environment.readable, *granted.readable))
            allowed = granted.allowed()
            given = [str(umbilical), level.word, str(folder), str(os.getpid()), allowed.told()]
            argv = [sys.executable, "-I", "-m", "rmbus.runtime.process", *given]
            if environment is not None:
                allowed = attrs.evolve(allowed, readable=(str(folder), *allowed.readable))
                argv = environment.command(given, confined=level is Level.CONFINED, allowed=allowed)
            spare = {} if self.settings.embedded else {VISIBLE: ""}
            env = {MARK: str(folder), **(spare if grant is None else grant.env)}
            command = spawn_command(
                level, argv, node_dir=folder, work_dir=work, fds=[umbilical], env=env, grants=granted
            )
            return command.start(stdout=output, stderr=output), level

        release = None if environment is None else environment.release
        child = Child(self.reactor, self.folder, launch, str(folder), None if grant is None else grant.close)
        if grant is not None:
            grant.heed(child.condemn)
        return Endpoint(child, folder, work, release)

    def _process(self, environment: Environment | None, grant: Grant) -> tuple[Endpoint, bool, str]:
        """Return a process to become a node, whether it was warm, and why it was not."""
        if environment is not None or grant.about:
            why = "; ".join(each for each in (environment and environment.about, grant.about) if each)
            return self._spawn(environment, grant), False, why
        grant.close()  # labels alone take nothing
        endpoint, warm = self._pool.take()
        why = "" if warm else "started for this run" if self.settings.embedded else "no spare process was ready"
        return endpoint, warm, why

    def _spawn_gateway(self) -> Endpoint:
        folder = self._endpoint_folder()

        def launch(umbilical: int, output: int) -> tuple[subprocess.Popen[bytes], Level]:
            argv = [sys.executable, "-I", "-m", "rmbus.brokers.gateway", str(umbilical), str(os.getpid())]
            command = spawn_command(Level.TRUSTED, argv, node_dir=folder, work_dir=folder, fds=[umbilical])
            return command.start(stdout=output, stderr=output), Level.TRUSTED

        return Endpoint(Child(self.reactor, self.folder, launch, str(folder)), folder, folder)

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
        session = self._session(client, request.session)
        if request.node in session.nodes:
            raise self._has_node(request)
        if request.by_hand:
            if request.needs != messages.Needs():
                raise HostError("a process that is started by hand is granted nothing", host=self.settings.name)
            self._announce(session, request, reply)
            return

        def go_on(place: Place) -> None:
            if request.node in session.nodes:
                raise self._has_node(request)
            node = self._add_node(session, request, place.endpoint, warm=place.warm)
            node.hold = place.code.hold
            place.become(request, self.settings.name, blob, node.descriptor)
            self._started(place, reply, place.reason)
            self._publish(session, node)

        self._find_place(client, session, request, reply, go_on)

    def _revive(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Revive)
        session = self._known(client, request.session)
        node = session.nodes.get(request.node)
        if node is None or node.state != "lost" or not node.start.revives or node.start.by_hand:
            about = "no such node" if node is None else f"{node.start.name} is {node.state}"
            raise HostError(
                f"session {session.name} cannot start node {request.node} anew ({about}): it takes one whose process "
                "has died, of a session that was started so that they may be",
                host=self.settings.name,
            )
        if session.is_over(request.node):
            node.state = "ended"
            self._wiring.ended(node.endpoint, died=False)
            reply(messages.Started(node.worker.pid, node.worker.level.word, warm=False, reason="it had done its work"))
            session.tell(messages.NodeEvent(session.name, request.node, "ended"))
            return

        def go_on(place: Place) -> None:
            place.endpoint.session = session.name
            place.become(node.start, self.settings.name, blob, node.descriptor)
            session.revive(node, place.endpoint)
            self._attend(session, request.node, node)
            self._started(place, reply, "started anew")
            self._publish(session, node)

        self._find_place(None, session, node.start, reply, go_on)

    def _find_place(
        self,
        client: Client | None,
        session: HostedSession,
        start: messages.Start,
        reply: Reply,
        go_on: Callable[[Place], None],
    ) -> None:
        """Go on with a place for a node; of one that is started anew the package is held already."""

        def is_wanted() -> bool:
            return not self._draining and self._sessions.get(session.name) is session

        if not start.address:
            code = Code()
        elif client is None:
            code = Code(self._packages.open(start.address))
        else:
            code = Code(*self._packages.start(client, start.address))
        self._starting.find(start, code, reply, go_on, is_wanted=is_wanted, tell=session.tell)

    @staticmethod
    def _started(place: Place, reply: Reply, reason: str) -> None:
        """Reply when the process is there."""
        worker = place.endpoint.worker
        worker.on_ready = lambda: reply(messages.Started(worker.pid, worker.level.word, place.warm, reason))
        if worker.is_ready:
            worker.on_ready()

    def _has_node(self, request: messages.Start) -> HostError:
        return HostError(f"session {request.session} has a node {request.node} already", host=self.settings.name)

    def _announce(self, session: HostedSession, request: messages.Start, reply: Reply) -> None:
        """A process of the user's will join as this node."""

        def joined(endpoint: Endpoint) -> None:
            node = self._add_node(session, request, endpoint, warm=True)
            job = messages.Job(request, self.settings.name, endpoint.worker.level.word, str(endpoint.work), page=0)
            endpoint.worker.send(job, [os.dup(node.descriptor)])
            self._publish(session, node)
            reply(messages.Started(endpoint.worker.pid, Level.TRUSTED.word, warm=True))

        early = self._early.pop((session.name, request.node), None)
        if early is not None:
            joined(early)
        else:
            self._expected[session.name, request.node] = joined

    def _announced(self, endpoint: Endpoint, join: messages.Join) -> None:
        """A process joins as a node of a session; it may be quicker than the client's announcement of it."""
        joined = self._expected.pop((join.session, join.node), None)
        if joined is not None:
            joined(endpoint)
        elif len(self._early) < MAX_EARLY:
            self._early[join.session, join.node] = endpoint
        else:
            raise HostError("too many processes have joined that nobody has announced", host=self.settings.name)

    def _add_node(
        self, session: HostedSession, request: messages.Start, endpoint: Endpoint, *, warm: bool
    ) -> HostedNode:
        node = session.nodes[request.node] = HostedNode(request, endpoint, warm=warm)
        endpoint.session = session.name
        self._attend(session, request.node, node)
        return node

    def _publish(self, session: HostedSession, node: HostedNode) -> None:
        if node.start.topics:
            self._directory.publish(node.endpoint, self._directory.free(node.start.topics, session.name[:8]))

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
        session = self._known(client, request.session)
        if request.meet and request.consumer == -1:
            self._meetings.claim(session, request, reply)
            return
        needs_gateway = -1 in (request.producer, request.consumer) and not request.meet
        gateway = self._gateway.ensure() if needs_gateway else None
        session.link(request, gateway)
        if gateway is None:
            reply(messages.Ok())
        else:
            self._gateway.attend(session)
            self._gateway.when_up(lambda: reply(messages.Ok()), partial(_refuse, reply))

    def _join(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        """A process of another machine joins: it comes by the gateway."""
        assert isinstance(request, messages.Join)
        visit = messages.Visit(secrets.token_hex(8), secrets.token_bytes(16))
        umbilical, pid = self._gateway.admit(visit)
        self._hands.admit(umbilical, pid, request)
        gateway = self._gateway

        def up() -> None:
            reply(messages.Admitted(visit.visit, visit.token, gateway.endpoint, gateway.public))

        gateway.when_up(up, partial(_refuse, reply))

    def _go(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Go)
        self._known(client, request.session).go()
        reply(messages.Ok())

    def _stop(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Stop)
        if request.drain:
            self._known(client, request.session).drain()
        else:
            self._known(client, request.session)
            self._drop_session(request.session)
        reply(messages.Ok())

    def _report(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        assert isinstance(request, messages.Report)
        reply(messages.Ok(self._known(client, request.session).report()))

    def _status(self, client: Client, request: messages.Message, blob: bytes, reply: Reply) -> None:
        nodes = sum(len(session.nodes) for session in self._sessions.values())
        reply(
            messages.Ok(
                {"host": self.settings.name, "sessions": len(self._sessions), "nodes": nodes, **self._granting.status()}
            )
        )

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

    # --- sessions ----------------------------------------------------------------------------------------------------

    def _session(self, client: Client, name: str) -> HostedSession:
        if name not in self._sessions:
            self._sessions[name] = HostedSession(name, self._events.overhearing(name, client.tell), self._wiring)
            self._owners[name] = client
        return self._known(client, name)

    def _known(self, client: Client, name: str) -> HostedSession:
        if name not in self._sessions or self._owners[name] is not client:
            raise HostError(f"the host {self.settings.name} has no session {name}", host=self.settings.name)
        return self._sessions[name]

    def _attend(self, session: HostedSession, number: int, node: HostedNode) -> None:
        worker = node.worker

        def said(message: messages.Message) -> None:
            if isinstance(message, messages.NodeEvent):
                worker.hear_all()  # what it printed comes before what it said last
                tell_refusal(message.type_name, message.message, f"node {node.start.name}")
                node.state = message.state
                session.tell(attrs.evolve(message, session=session.name, node=number))
            elif isinstance(message, messages.Linked):
                session.tell(attrs.evolve(message, session=session.name))
            else:
                self._memory.heard(node.endpoint, message)

        def exited(status: str) -> None:
            self._directory.withdraw(node.endpoint)
            if node.start.revives and node.state not in ("ended", "failed"):
                self._wiring.died(node.endpoint)
            else:
                self._wiring.ended(node.endpoint, died=node.state != "ended")
            if node.state not in ("ended", "failed") and not session.is_ending:
                node.state = "lost"
                session.tell(messages.NodeEvent(session.name, number, "lost", status=status))

        worker.on_message = said
        worker.on_exit = exited
        worker.on_lines = lambda lines, suppressed: session.tell(messages.Log(session.name, number, lines, suppressed))

    def _drop_session(self, name: str) -> None:
        session = self._sessions[name]
        session.kill()
        self._gateway.forget(name)
        self._meetings.forget(session)
        for waiting in (self._expected, self._early):
            for key in [key for key in waiting if key[0] == name]:
                del waiting[key]
        for node in session.nodes.values():
            self._directory.withdraw(node.endpoint)
            self._wiring.ended(node.endpoint, died=node.state != "ended")
        session.close()
        self._events.ended(name)
        del self._sessions[name]
        del self._owners[name]
        if self._draining and not self._sessions:
            self.reactor.call_soon(self.end)

    def _client_lost(self, client: Client) -> None:
        self._packages.lost(client)
        self._directory.unwatch(client.tell)
        self._objects.client_lost(client)
        for name in [name for name, owner in self._owners.items() if owner is client]:
            self._drop_session(name)


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


def _refuse(reply: Reply, why: str) -> None:
    reply(messages.Refused("HostError", why))
