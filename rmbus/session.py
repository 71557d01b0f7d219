"""A running pipeline: started on its hosts, watched, and ended on every path."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import attrs
import zmq

from rmbus.accounts import INLINE, Accounts, inline_report, make_report
from rmbus.client import HostClient, expect
from rmbus.embedded import EmbeddedHost
from rmbus.errors import (
    UPSTREAM_FAILED,
    Closed,
    HostError,
    NodeError,
    PackagingError,
    PipelineError,
    RmbusError,
    Stalled,
    node_error,
)
from rmbus.joined import serve_in_thread
from rmbus.media import Frame
from rmbus.needs import on_the_wire
from rmbus.node import Node, declared_requirements, options_of
from rmbus.pipeline import Pipeline
from rmbus.plan import LOCAL, PlannedEdge, PlannedNode, check_revivable, dialer, make_plan
from rmbus.printing import print_log
from rmbus.protocol import messages
from rmbus.protocol.limits import MAX_BLOB_BYTES
from rmbus.reaching import Way, reach
from rmbus.report import NodeReport, Report
from rmbus.results import Results, in_thread, through_processes
from rmbus.runtime import inline
from rmbus.runtime.events import EventIntake, SessionEvents
from rmbus.shipping import package, pickling
from rmbus.shipping.package import Package
from rmbus.shipping.requirements import provide
from rmbus.transport.reactor import Reactor
from rmbus.transport.security import Connection
from rmbus.transport.sockets import Socket

START_TIMEOUT_S = 60.0
BUILD_TIMEOUT_S = 900.0
"""How much longer a start may take where an environment has to be made; the host gives up before."""

SILENT_REPORTS = 3
"""A host that leaves so many questions for a report unanswered, for 2 s each, is taken for lost."""

CAUSE_S = 1.0
"""How long the failure of a node upstream may take to arrive after a node has said that there was one."""

STALL_S = 3.0
"""Nothing has moved for so long, and every node waits: the pipeline cannot go on."""

OnLog = Callable[[str, str, Sequence[str], int], None]
"""Takes what a node printed: its name, its host, the lines, and how many more were held back."""


@attrs.define(eq=False)
class _Run:
    """What is known of a node while it runs."""

    plan: PlannedNode
    state: bytes
    package: Package | None = None
    code_bytes: int = 0
    started: messages.Started | None = None
    status: str = "starting"
    tail: deque[str] = attrs.field(factory=lambda: deque(maxlen=20))

    @property
    def is_locked(self) -> bool:
        """Whether its host may have to make an environment first."""
        return self.package is not None and bool(self.package.manifest.lock)


class Session:
    """A running pipeline. Leaving it as a context manager drains it; leaving on an error kills it.

    Attributes:
        id: unique.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        on: str | Sequence[str] = LOCAL,
        on_log: OnLog = print_log,
        here: Sequence[Node] = (),
        fast: bool = True,
        shared: bool = True,
        revives: bool = False,
    ) -> None:
        """Start a pipeline; everything is linked when this returns.

        Args:
            pipeline: the pipeline. on: where it runs. on_log: takes what its nodes print.
            here: nodes that run in this process.
            fast: between two nodes of one machine, whether they may speak past ZeroMQ. shared: whether large frames
                may lie in shared memory there. Everything works without, more slowly.
            revives: whether the death of a node's process does not end the run: what it owes is kept until
                `revive_node` starts it anew. All of it runs on one host then, and nothing of it in a circle.

        Raises:
            PipelineError, PackagingError: before anything runs. HostError, ConnectFailed: a host cannot be had.
            NodeError: a node failed to start.
        """
        pipeline.validate()
        self._name = pipeline.name
        self.id = secrets.token_hex(8)
        self._here = frozenset(here)
        self._plan = make_plan(pipeline, on, here=here)
        self._revives = revives
        self._is_up = False
        if revives:
            check_revivable(self._plan)
        self._on_log = on_log
        self._fast, self._shared = fast, shared
        self._ways: dict[str, Way] = {}
        try:
            self._runs = {plan.number: self._prepare(plan) for plan in self._plan.nodes}
        except BaseException:
            self._close_ways()
            raise
        self._changed = threading.Condition()
        self._linked: set[int] = set()
        self._failure: BaseException | None = None
        self._secondary: tuple[RmbusError, float] | None = None
        self._cut_short: NodeError | None = None
        self._final: Report | None = None
        self._silent: dict[HostClient, int] = {}
        self._told: dict[HostClient, Mapping[str, Any]] = {}
        self._moved = (0, time.monotonic())
        self._reactor = Reactor()
        self._context: zmq.Context[Socket] = zmq.Context()
        self._clients: dict[str, HostClient] = {}
        self._embedded: EmbeddedHost | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="rmbus-session", daemon=True)
        self._thread.start()
        try:
            self._launch()
        except BaseException:
            self._finish()
            raise

    # --- the public face ---------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Return the account as it stands; after the end, the final one."""
        return self._final or self._collect()

    def wait(self, timeout_s: float | None = None) -> Report:
        """Wait until every node has ended.

        Returns:
            The final report.

        Raises:
            NodeError: a node failed; also of the original type where that is known here. HostError: a host was lost.
            Stalled: the pipeline cannot go on. TimeoutError: it has not ended in time, and goes on.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._is_over():
            left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"the pipeline has not ended within {timeout_s:g} s; it goes on")
            self._watch(left)
        cut_short = self._cut_short or (self._secondary[0] if self._secondary else None)
        self._finish(cut_short)
        if cut_short is not None:
            raise cut_short
        return self.report()

    def stop(self, timeout_s: float = 30.0) -> Report:
        """Let the sources end, finish what is queued, and wait for the end."""
        if self._final is None:
            for client in self._clients.values():
                client.ask(messages.Stop(self.id, drain=True), messages.Ok)
        return self._final or self.wait(timeout_s)

    def events(self) -> SessionEvents:
        """Return what the hosts tell of this session from now on, to iterate over until it is over.

        Each event is a dict: `account`, once a second, of all nodes and edges; `node` and `link` where something has
        changed; `session` at its end. It is best effort, and whoever is slow misses some.
        """
        hosts = [] if self._final is not None else [each.connection for each in self._clients.values()]
        return SessionEvents(self.id, EventIntake(hosts, self._is_done))

    def check(self) -> None:
        """Raise what has failed, or that the pipeline cannot go on; else return at once."""
        self._watch(0)

    def revive_node(self, name: str) -> None:
        """Start a node anew whose process has died, with the state that it was first sent with.

        Raises:
            HostError: there is none of that name, it lives, or the session was not started with `revives`.
        """
        run = next((run for run in self._runs.values() if run.plan.name == name), None)
        if run is None or not self._revives or run.status != "lost":
            about = "there is none of that name" if run is None else f"it is {run.status}"
            raise HostError(
                f"node {name!r} cannot be started anew ({about}): it takes Session(..., revives=True), and a node that "
                "is lost"
            )
        request = messages.Revive(self.id, run.plan.number)
        with self._changed:
            run.status = "starting"
        future = self._clients[run.plan.place].request(request, run.state)
        try:
            run.started = expect(self._result(future), messages.Started)
        except RmbusError:
            with self._changed:
                run.status = "lost" if run.status == "starting" else run.status
            raise

    def kill(self) -> Report:
        """End every process now; what is under way is counted as stopped."""
        self._finish(Closed("the run was killed"))
        return self.report()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._final is not None:
            return
        if error is not None:
            self._finish(error)
            return
        try:
            self.stop()
        except BaseException as failed:
            self._finish(failed)
            raise

    # --- starting ----------------------------------------------------------------------------------------------------

    def _prepare(self, plan: PlannedNode) -> _Run:
        """Pickle a node's state, and package its code where it travels: what is wrong shows before anything runs."""
        if plan.node in self._here:
            return _Run(plan, b"")
        state = pickling.dump(plan.node)
        if len(state.data) > MAX_BLOB_BYTES:
            blame = "; ".join(str(each) for each in state.heavy)
            raise PackagingError(
                f"the state of {plan.name} has {len(state.data):,} bytes, and {MAX_BLOB_BYTES:,} can be sent: {blame}"
            )
        for heavy in state.heavy:
            sys.stderr.write(f"rmbus: {plan.name}: {heavy}\n")
        env, declared = options_of(plan.node).env, declared_requirements(plan.node)
        if env and declared:
            raise PipelineError(f"{plan.name} names the environment {env!r} and requirements: it can have but one")
        if plan.place == LOCAL and not declared:
            if env:
                raise PipelineError(
                    f"{plan.name} names the environment {env!r}, which a host has prepared: give it on="
                )
            return _Run(plan, state.data)
        made = package.build(plan.node, files=options_of(plan.node).files or (), known=state.trace)
        for warning in made.warnings:
            sys.stderr.write(f"rmbus: {plan.name}: {warning}\n")
        if env:
            return _Run(plan, state.data, made)
        elsewhere = plan.place != LOCAL and not self._reach(plan.place).shares_environment
        return _Run(plan, state.data, provide(made, declared, elsewhere=elsewhere))

    def _launch(self) -> None:
        for place in self._plan.places:
            self._clients[place] = self._connect(place)
        self._ship()
        self._start_nodes()
        for edge in self._plan.edges:
            self._link(edge)
        wanted = {edge.number for edge in self._plan.edges}
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (self._linked >= wanted and all(run.status != "starting" for run in self._runs.values())):
            if time.monotonic() > deadline:
                raise HostError(f"not everything was up within {START_TIMEOUT_S:g} s: {self._missing(wanted)}")
            self._pause(0.5)
        self._began = time.monotonic()
        self._is_up = True
        for client in self._clients.values():
            client.ask(messages.Go(self.id), messages.Ok)

    def _reach(self, place: str) -> Connection:
        if place not in self._ways:
            self._ways[place] = reach(place)
        return self._ways[place].connection

    def _connect(self, place: str) -> HostClient:
        if place == LOCAL:
            own = sum(
                run.plan.place == LOCAL
                and run.plan.node not in self._here
                and on_the_wire(options_of(run.plan.node).needs).fits_spare
                for run in self._runs.values()
            )
            self._embedded = EmbeddedHost(spares=own)
            connection = self._embedded.connection
        else:
            connection = self._reach(place)
        client = HostClient(self._reactor, self._context, connection)
        client.on_event = lambda message: self._event(client, message)
        client.on_lost = lambda reason: self._lost(client, place, reason)
        client.greet(10.0)
        return client

    def _ship(self) -> None:
        sent: dict[tuple[str, str], bool] = {}
        for run in self._runs.values():
            if run.package is None:
                continue
            key = (run.plan.place, run.package.address)
            if key not in sent:
                sent[key] = True
                run.code_bytes = self._clients[run.plan.place].upload(run.package.address, run.package.data)

    def _start_nodes(self) -> None:
        waiting: list[tuple[_Run, Future[messages.Message]]] = []
        for run in self._runs.values():
            plan = run.plan
            start = messages.Start(
                session=self.id,
                node=plan.number,
                name=plan.name,
                entry=f"{type(plan.node).__module__}:{type(plan.node).__qualname__}",
                address=run.package.address if run.package else "",
                implementation=sys.implementation.name,
                python=sys.version_info[:2],
                sys_path=sys.path if run.package is None else [],
                folder=os.getcwd() if run.package is None else "",
                inputs=list(plan.inputs),
                outputs=list(plan.outputs),
                topics={port: self._topic(plan, port) for port in plan.outputs},
                by_hand=plan.node in self._here,
                revives=self._revives,
                lock=run.package.manifest.lock if run.package else "",
                env=options_of(plan.node).env or "",
                needs=on_the_wire(None if plan.node in self._here else options_of(plan.node).needs),
            )
            waiting.append((run, self._clients[plan.place].request(start, run.state)))
            if start.by_hand:
                connection = self._clients[plan.place].connection
                serve_in_thread(plan.node, connection, self.id, plan.number, self._failed_here)
        timeout_s = START_TIMEOUT_S + (BUILD_TIMEOUT_S if any(run.is_locked for run, _ in waiting) else 0.0)
        for run, future in waiting:
            run.started = expect(self._result(future, timeout_s), messages.Started)

    def _result(self, future: Future[messages.Message], timeout_s: float = START_TIMEOUT_S) -> messages.Message:
        """Wait for a reply, or for the failure that makes waiting vain."""
        deadline = time.monotonic() + timeout_s
        future.add_done_callback(lambda done: self._notify())
        while not future.done():
            self._pause(0.5)
            if time.monotonic() > deadline:
                raise HostError(f"a host did not answer within {timeout_s:g} s")
        return future.result()

    def _topic(self, plan: PlannedNode, port: str) -> str:
        return "/".join(re.sub(r"[^A-Za-z0-9_.:@-]", "_", part) for part in (self._name, plan.name, port))

    def _failed_here(self, error: BaseException) -> None:
        """One of the script's own ends of the pipeline has failed, in a thread of this process."""
        with self._changed:
            self._fail(error)
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _link(self, edge: PlannedEdge) -> None:
        producer, consumer = edge.producer, edge.consumer
        link = messages.Link(
            self.id,
            edge.number,
            edge.token,
            producer.number,
            edge.out,
            consumer.number,
            edge.into,
            edge.delivery.kind,
            edge.delivery.n,
            edge.credit,
            self._fast,
            self._shared,
            resends=self._revives,
        )
        if producer.place == consumer.place:
            self._clients[producer.place].ask(link, messages.Ok)
            return
        apart = self._meet(link, self._clients[producer.place], self._clients[consumer.place])
        if apart is not None:
            self._bridge(edge, attrs.evolve(link, apart=apart))

    def _meet(self, link: messages.Link, producer: HostClient, consumer: HostClient) -> str | None:
        """Let the two hosts of an edge meet on this machine; return why they do not, "" where they are on two."""
        door = consumer.connection.host_socket
        if door is None or producer.connection.host_socket is None:
            return ""
        if not self._fast:
            return "fast=False"
        consumer.ask(attrs.evolve(link, producer=-1, meet=True), messages.Ok)
        token = consumer.connection.token
        going = attrs.evolve(link, consumer=-1, meet=True, peer=str(door), secret=token)
        try:
            producer.ask(going, messages.Ok)
        except HostError as error:
            return str(error)
        return None

    def _bridge(self, edge: PlannedEdge, link: messages.Link) -> None:
        """Join an edge between two hosts by their gateways."""
        producer, consumer = edge.producer, edge.consumer
        ends = {producer.place: attrs.evolve(link, consumer=-1), consumer.place: attrs.evolve(link, producer=-1)}
        listens = {
            producer.place: self._listens(producer.place, consumer.place),
            consumer.place: self._listens(consumer.place, producer.place),
        }
        caller = dialer(producer.place, consumer.place, listens)
        (called,) = set(ends) - {caller}
        other = self._clients[called]
        self._clients[called].ask(ends[called], messages.Ok)
        call = attrs.evolve(
            ends[caller],
            dial=True,
            peer=other.connection.gateway_at(other.welcome.gateway),
            peer_key=other.welcome.gateway_key,
            public=other.connection.public,
            secret=other.connection.secret,
        )
        self._clients[caller].ask(call, messages.Ok)

    def _listens(self, place: str, other: str) -> bool:
        """Whether a gateway can be connected to from another place; what ssh forwards, from this machine alone."""
        if self._clients[place].connection.is_forwarded:
            return bool(self._clients[other].connection.local)
        return bool(self._clients[place].welcome.gateway)

    def _missing(self, wanted: set[int]) -> str:
        nodes = [f"node {run.plan.name}" for run in self._runs.values() if run.status == "starting"]
        edges = [f"edge {edge.name}" for edge in self._plan.edges if edge.number in wanted - self._linked]
        return ", ".join(nodes + edges)

    def _serve(self) -> None:
        """Run the reactor; if it fails, so does the session: nobody may wait for it in vain."""
        try:
            self._reactor.run()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._failed_here(error)

    # --- events, in the reactor's thread -----------------------------------------------------------------------------

    def _event(self, client: HostClient, message: messages.Message) -> None:
        if isinstance(message, messages.Log):
            run = self._runs[message.node]
            run.tail.extend(message.lines)
            self._on_log(run.plan.name, client.name, message.lines, message.suppressed)
            return
        with self._changed:
            if isinstance(message, messages.Linked):
                self._linked.add(message.edge)
            elif isinstance(message, messages.NodeEvent):
                self._node_event(client, self._runs[message.node], message)
            elif isinstance(message, messages.Draining):
                self._drain_for(client, message.reason)
            elif isinstance(message, messages.PeerLost):
                names = ", ".join(edge.name for edge in self._plan.edges if edge.number in message.edges)
                lost = f"the connection of {client.name} to {message.peer} was lost"
                error = HostError(lost + (f", which carried {names}" if names else ""), host=client.name)
                self._secondary = self._secondary or (error, time.monotonic())  # a host that is lost tells more
            self._changed.notify_all()

    def _drain_for(self, client: HostClient, reason: str) -> None:
        """A host was told to stop: let the sources end, so that what is queued is finished within its bound."""
        names = ", ".join(run.plan.name for run in self._runs.values() if self._clients[run.plan.place] is client)
        self._cut_short = self._cut_short or NodeError(
            f"the host was told to stop ({reason}); the pipeline was drained", node=names, host=client.name
        )
        for each in self._clients.values():
            each.request(messages.Stop(self.id, drain=True))

    def _node_event(self, client: HostClient, run: _Run, message: messages.NodeEvent) -> None:
        run.status = message.state
        if message.state in ("ready", "ended") or (message.state == "lost" and self._revives and self._is_up):
            return
        error = node_error(
            message.message or (f"the node's process has ended: {message.status}" if message.status else "no message"),
            node=run.plan.name,
            host=client.name,
            type_name=message.type_name,
            frame=message.frame,
            traceback_text=message.traceback,
            output=list(run.tail),
        )
        if message.type_name == UPSTREAM_FAILED:  # the failure itself is told by the node that has failed
            self._secondary = self._secondary or (error, time.monotonic())
        else:
            self._fail(error)

    def _lost(self, client: HostClient, place: str, reason: str) -> None:
        names = ", ".join(run.plan.name for run in self._runs.values() if run.plan.place == place)
        with self._changed:
            self._fail(HostError(f"host {place}, which runs {names}: {reason}", host=place))
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error

    # --- watching ----------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return all(run.status == "ended" for run in self._runs.values())

    def _is_done(self) -> bool:
        return self._final is not None or self._failure is not None or self._is_over()

    def _watch(self, seconds: float) -> None:
        """Wait for a change; what goes wrong meanwhile ends the run."""
        try:
            self._pause(seconds)
            self._look_for_stall()
        except BaseException as error:
            self._finish(error)
            raise

    def _pause(self, seconds: float) -> None:
        """Wait for a change, and raise what has failed."""
        with self._changed:
            if self._failure is None and seconds and not self._is_over():
                self._changed.wait(seconds)
            if self._failure is None and self._secondary and time.monotonic() - self._secondary[1] > CAUSE_S:
                self._failure = self._secondary[0]
            if self._failure is not None:
                raise self._failure

    def _look_for_stall(self) -> None:
        now = time.monotonic()
        if now - self._moved[1] < 1.0 or self._is_over():
            return
        if any(run.status in ("lost", "starting") for run in self._runs.values()):
            self._moved = (self._moved[0], now)  # its neighbours wait for it to be started anew
            return
        accounts = self._accounts()
        if accounts.moved != self._moved[0] or not accounts.all_wait:
            self._moved = (accounts.moved, now)
        elif now - self._moved[1] > STALL_S:
            raise Stalled(accounts.waiting(self._plan), now - self._moved[1])

    # --- accounts ----------------------------------------------------------------------------------------------------

    def _accounts(self) -> Accounts:
        accounts = Accounts()
        for client in self._clients.values():
            with contextlib.suppress(RmbusError):  # that host is lost: what it told last stands
                self._told[client] = self._ask_report(client)
            if client in self._told:
                accounts.add(self._told[client])
        return accounts

    def _ask_report(self, client: HostClient) -> Mapping[str, Any]:
        try:
            value = client.ask(messages.Report(self.id), messages.Ok, timeout_s=2.0).value
        except TimeoutError:
            self._silent[client] = self._silent.get(client, 0) + 1
            if self._silent[client] >= SILENT_REPORTS:
                self._failed_here(HostError(f"host {client.address} lives, but answers nothing", host=client.name))
            raise HostError(f"host {client.address} does not answer", host=client.name) from None
        self._silent[client] = 0
        return value

    def _collect(self, error: BaseException | None = None) -> Report:
        accounts = self._accounts()
        nodes = [self._node_report(run, accounts.nodes.get(run.plan.number, {})) for run in self._runs.values()]
        seconds = time.monotonic() - self._began
        return make_report(self._plan, accounts, nodes, seconds, error, closed=error is not None or self._is_over())

    def _node_report(self, run: _Run, account: Mapping[str, Any]) -> NodeReport:
        started = run.started
        client = self._clients.get(run.plan.place)
        return NodeReport(
            name=run.plan.name,
            host=run.plan.place if client is None else client.name,
            pid=int(account.get("pid", 0)) or (started.pid if started else 0),
            level=started.level if started else "",
            warm=started.warm if started else False,
            reason=started.reason if started else "",
            state=run.status,
            frames_in=int(account.get("frames_in", 0)),
            frames_out=int(account.get("frames_out", 0)),
            package=run.package.address if run.package else "",
            code_bytes=run.code_bytes,
            copied_bytes=int(account.get("copied_bytes", 0)),
            in_force=account.get("in_force", {}),
        )

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, error: BaseException | None = None) -> None:
        """Take the last account, end everything, and close; safe to call twice."""
        if self._final is not None:
            return
        self._final = self._collect(error) if self._clients else Report((), (), 0.0, 0)
        for client in self._clients.values():
            with contextlib.suppress(RmbusError, TimeoutError):  # that host is lost, or has never known the session
                client.ask(messages.Stop(self.id, drain=False), messages.Ok, timeout_s=2.0)
        closed = threading.Event()
        self._reactor.call_soon(lambda: self._close_clients(closed))
        closed.wait(2.0)
        self._thread.join(2.0)
        self._reactor.close()
        if self._embedded is not None:
            self._embedded.close()
        self._context.destroy(linger=0)
        self._close_ways()

    def _close_ways(self) -> None:
        for way in self._ways.values():
            way.close()

    def _close_clients(self, closed: threading.Event) -> None:
        for client in self._clients.values():
            client.close()
        self._reactor.stop()
        closed.set()


def start(pipeline: Pipeline, *, on: str | Sequence[str] = LOCAL) -> Session:
    """Start a pipeline in processes of its own."""
    if on == INLINE:
        raise PipelineError("a pipeline is started in processes: use run(on='inline') or process() to run it here")
    return Session(pipeline, on=on)


def run(pipeline: Pipeline, *, on: str | Sequence[str] = LOCAL, duration_s: float | None = None) -> Report:
    """Run a pipeline to its end, or for a while."""
    if on == INLINE:
        return inline_report(inline.run_inline(pipeline, duration_s=duration_s))
    session = start(pipeline, on=on)
    with session:
        if duration_s is None:
            return session.wait()
        try:
            return session.wait(duration_s)
        except TimeoutError as error:
            if isinstance(error, NodeError):  # a node's own, and no end of the time
                raise
            return session.stop()


def process(pipeline: Pipeline, items: Iterable[Any] | AsyncIterable[Any], *, on: str | Sequence[str]) -> Results:
    """Feed a pipeline's open input and return what its open output gives."""
    if on != INLINE:
        stop = threading.Event()

        def begin() -> Generator[Frame]:
            return through_processes(pipeline, items, lambda whole, here: Session(whole, on=on, here=here), stop)

        return Results(begin, lambda: in_thread(begin(), stop))

    def begin_inline() -> Generator[Frame]:
        if isinstance(items, AsyncIterable):
            raise PipelineError("the items are given asynchronously: read the results with `async for`")
        return inline.process_inline(pipeline, items)

    return Results(begin_inline, lambda: inline.process_inline_async(pipeline, items))


def open_inline(pipeline: Pipeline) -> inline.Inline:
    """Initialize a pipeline's nodes in this process."""
    return inline.open_inline(pipeline)
