"""All sessions of a host: what their clients ask of them, and what their processes say."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs

from rmbus.errors import HostError
from rmbus.host.control import Client, Reply, refuse
from rmbus.host.edges import Wiring
from rmbus.host.endpoints import Endpoint
from rmbus.host.events import Events
from rmbus.host.gateways import GatewayChild
from rmbus.host.hosted import HostedNode, HostedSession
from rmbus.host.levels import Level
from rmbus.host.logs import tell_refusal
from rmbus.host.meetings import Meetings
from rmbus.host.packages import Packages
from rmbus.host.starting import Code, Place, Starting
from rmbus.host.topics import Directory
from rmbus.protocol import messages

MAX_EARLY: Final = 64
"""Processes that have joined and wait for the client that announces them."""


@attrs.frozen
class Rooms:
    """The parts of a host that its sessions use."""

    wiring: Wiring
    starting: Starting
    packages: Packages
    directory: Directory
    events: Events
    gateway: GatewayChild
    meetings: Meetings


class Sessions:
    """All of them, in the reactor's thread.

    Args:
        host: the host's name. there: where they are kept, by name; other parts of the host look into it.
        is_ending: whether the host takes nothing new. on_none: called when the last has gone.
    """

    def __init__(
        self,
        host: str,
        there: dict[str, HostedSession],
        rooms: Rooms,
        *,
        is_ending: Callable[[], bool],
        on_none: Callable[[], None],
    ) -> None:
        self._host, self._there, self._rooms = host, there, rooms
        self._is_ending, self._on_none = is_ending, on_none
        self._owners: dict[str, Client] = {}
        self._expected: dict[tuple[str, int], Callable[[Endpoint], None]] = {}
        self._early: dict[tuple[str, int], Endpoint] = {}

    # --- requests ----------------------------------------------------------------------------------------------------

    def start(self, client: Client, request: messages.Start, state: bytes, reply: Reply) -> None:
        """Start a node, of a session that begins with its first."""
        session = self._session(client, request.session)
        if request.node in session.nodes:
            raise self._has_node(request)
        if request.by_hand:
            if request.needs != messages.Needs():
                raise self._error("a process that is started by hand is granted nothing")
            self._announce(session, request, reply)
            return

        def go_on(place: Place) -> None:
            if request.node in session.nodes:
                raise self._has_node(request)
            node = self._add_node(session, request, place.endpoint, warm=place.warm)
            node.hold = place.code.hold
            place.become(request, self._host, state, node.descriptor)
            self._started(place, reply, place.reason)
            self._publish(session, node)

        self._find_place(client, session, request, reply, go_on)

    def revive(self, client: Client, request: messages.Revive, state: bytes, reply: Reply) -> None:
        """Start a node anew whose process has died."""
        session = self._known(client, request.session)
        node = session.nodes.get(request.node)
        if node is None or node.state != "lost" or not node.start.revives or node.start.by_hand:
            about = "no such node" if node is None else f"{node.start.name} is {node.state}"
            raise self._error(
                f"session {session.name} cannot start node {request.node} anew ({about}): it takes one whose process "
                "has died, of a session that was started so that they may be"
            )
        if session.is_over(request.node):
            node.state = "ended"
            self._rooms.wiring.ended(node.endpoint, died=False)
            reply(messages.Started(node.worker.pid, node.worker.level.word, warm=False, reason="it had done its work"))
            session.tell(messages.NodeEvent(session.name, request.node, "ended"))
            return

        def go_on(place: Place) -> None:
            place.endpoint.session = session.name
            place.become(node.start, self._host, state, node.descriptor)
            session.revive(node, place.endpoint)
            self._attend(session, request.node, node)
            self._started(place, reply, "started anew")
            self._publish(session, node)

        self._find_place(None, session, node.start, reply, go_on)

    def link(self, client: Client, request: messages.Link, reply: Reply) -> None:
        """Wire an edge, or this host's half of one."""
        session = self._known(client, request.session)
        if request.meet and request.consumer == -1:
            self._rooms.meetings.claim(session, request, reply)
            return
        needs_gateway = -1 in (request.producer, request.consumer) and not request.meet
        gateway = self._rooms.gateway.ensure() if needs_gateway else None
        session.link(request, gateway)
        if gateway is None:
            reply(messages.Ok())
        else:
            self._rooms.gateway.attend(session)
            self._rooms.gateway.when_up(lambda: reply(messages.Ok()), partial(refuse, reply))

    def go(self, client: Client, request: messages.Go, reply: Reply) -> None:
        """Everything is linked: let the sources begin."""
        self._known(client, request.session).go()
        reply(messages.Ok())

    def stop(self, client: Client, request: messages.Stop, reply: Reply) -> None:
        """Let a session's sources end; or end it now, and give back all that is held for it."""
        session = self._known(client, request.session)
        if request.drain:
            session.drain()
        else:
            self._drop(request.session)
        reply(messages.Ok())

    def report(self, client: Client, request: messages.Report, reply: Reply) -> None:
        """Say how a session stands."""
        reply(messages.Ok(self._known(client, request.session).report()))

    def announced(self, endpoint: Endpoint, join: messages.Join) -> None:
        """A process joins as a node of a session; it may be quicker than the client's announcement of it."""
        joined = self._expected.pop((join.session, join.node), None)
        if joined is not None:
            joined(endpoint)
        elif len(self._early) < MAX_EARLY:
            self._early[join.session, join.node] = endpoint
        else:
            raise self._error("too many processes have joined that nobody has announced")

    # --- ends --------------------------------------------------------------------------------------------------------

    def client_lost(self, client: Client) -> None:
        """A client has gone, and its sessions with it."""
        for name in [name for name, owner in self._owners.items() if owner is client]:
            self._drop(name)

    def kill(self, reason: str) -> None:
        """End every process of all of them; their clients are told why."""
        for session in self._there.values():
            for number, node in session.nodes.items():
                if node.state not in ("ended", "failed", "lost"):
                    status = f"killed by SIGKILL: the host was stopped ({reason})"
                    session.tell(messages.NodeEvent(session.name, number, "lost", status=status))
            session.kill()

    def _drop(self, name: str) -> None:
        session, rooms = self._there[name], self._rooms
        session.kill()
        rooms.gateway.forget(name)
        rooms.meetings.forget(session)
        for waiting in (self._expected, self._early):
            for key in [key for key in waiting if key[0] == name]:
                del waiting[key]
        for node in session.nodes.values():
            rooms.directory.withdraw(node.endpoint)
            rooms.wiring.ended(node.endpoint, died=node.state != "ended")
        session.close()
        rooms.events.ended(name)
        del self._there[name]
        del self._owners[name]
        if not self._there:
            self._on_none()

    # --- their nodes -------------------------------------------------------------------------------------------------

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
            return not self._is_ending() and self._there.get(session.name) is session

        packages = self._rooms.packages
        if not start.address:
            code = Code()
        elif client is None:
            code = Code(packages.open(start.address))
        else:
            code = Code(*packages.start(client, start.address))
        self._rooms.starting.find(start, code, reply, go_on, is_wanted=is_wanted, tell=session.tell)

    @staticmethod
    def _started(place: Place, reply: Reply, reason: str) -> None:
        """Reply when the process is there."""
        worker = place.endpoint.worker
        worker.on_ready = lambda: reply(messages.Started(worker.pid, worker.level.word, place.warm, reason))
        if worker.is_ready:
            worker.on_ready()

    def _announce(self, session: HostedSession, request: messages.Start, reply: Reply) -> None:
        """A process of the user's will join as this node."""

        def joined(endpoint: Endpoint) -> None:
            node = self._add_node(session, request, endpoint, warm=True)
            job = messages.Job(request, self._host, endpoint.worker.level.word, str(endpoint.work), page=0)
            endpoint.worker.send(job, [os.dup(node.descriptor)])
            self._publish(session, node)
            reply(messages.Started(endpoint.worker.pid, Level.TRUSTED.word, warm=True))

        early = self._early.pop((session.name, request.node), None)
        if early is not None:
            joined(early)
        else:
            self._expected[session.name, request.node] = joined

    def _add_node(
        self, session: HostedSession, request: messages.Start, endpoint: Endpoint, *, warm: bool
    ) -> HostedNode:
        node = session.nodes[request.node] = HostedNode(request, endpoint, warm=warm)
        endpoint.session = session.name
        self._attend(session, request.node, node)
        return node

    def _publish(self, session: HostedSession, node: HostedNode) -> None:
        directory = self._rooms.directory
        if node.start.topics:
            directory.publish(node.endpoint, directory.free(node.start.topics, session.name[:8]))

    def _attend(self, session: HostedSession, number: int, node: HostedNode) -> None:
        worker, rooms = node.worker, self._rooms

        def said(message: messages.Message) -> None:
            if isinstance(message, messages.NodeEvent):
                worker.hear_all()  # what it printed comes before what it said last
                tell_refusal(message.type_name, message.message, f"node {node.start.name}")
                node.state = message.state
                session.tell(attrs.evolve(message, session=session.name, node=number))
            elif isinstance(message, messages.Linked):
                session.tell(attrs.evolve(message, session=session.name))
            else:
                rooms.wiring.memory.heard(node.endpoint, message)

        def exited(status: str) -> None:
            rooms.directory.withdraw(node.endpoint)
            if node.start.revives and node.state not in ("ended", "failed"):
                rooms.wiring.died(node.endpoint)
            else:
                rooms.wiring.ended(node.endpoint, died=node.state != "ended")
            if node.state not in ("ended", "failed") and not session.is_ending:
                node.state = "lost"
                session.tell(messages.NodeEvent(session.name, number, "lost", status=status))

        worker.on_message = said
        worker.on_exit = exited
        worker.on_lines = lambda lines, suppressed: session.tell(messages.Log(session.name, number, lines, suppressed))

    # --- which are there ---------------------------------------------------------------------------------------------

    def _session(self, client: Client, name: str) -> HostedSession:
        if name not in self._there:
            rooms = self._rooms
            self._there[name] = HostedSession(name, rooms.events.overhearing(name, client.tell), rooms.wiring)
            self._owners[name] = client
        return self._known(client, name)

    def _known(self, client: Client, name: str) -> HostedSession:
        if name not in self._there or self._owners[name] is not client:
            raise self._error(f"the host {self._host} has no session {name}")
        return self._there[name]

    def _has_node(self, request: messages.Start) -> HostError:
        return self._error(f"session {request.session} has a node {request.node} already")

    def _error(self, message: str) -> HostError:
        return HostError(message, host=self._host)
