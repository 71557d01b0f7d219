"""A running pipeline: started on its hosts, watched, and ended on every path."""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
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
    PipelineError,
    RmbusError,
    Stalled,
    node_error,
)
from rmbus.joined import serve_in_thread
from rmbus.linking import link_edge
from rmbus.media import Frame
from rmbus.needs import on_the_wire
from rmbus.node import Node, options_of
from rmbus.pipeline import Pipeline
from rmbus.plan import LOCAL, PlannedEdge, PlannedNode, check_revivable, make_plan
from rmbus.printing import print_log
from rmbus.protocol import messages
from rmbus.reaching import Way, reach
from rmbus.report import Report
from rmbus.results import Results, in_thread, through_processes
from rmbus.runs import Run, prepare
from rmbus.runtime import inline
from rmbus.runtime.events import EventIntake, SessionEvents
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
            self._runs = {
                plan.number: Run(plan) if plan.node in self._here else prepare(plan, self._reach)
                for plan in self._plan.nodes
            }
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
        waiting: list[tuple[Run, Future[messages.Message]]] = []
        for run in self._runs.values():
            plan = run.plan
            start = run.start(self.id, by_hand=plan.node in self._here, revives=self._revives)
            start = attrs.evolve(start, topics={port: self._topic(plan, port) for port in plan.outputs})
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
        link = messages.Link(
            self.id,
            edge.number,
            edge.token,
            edge.producer.number,
            edge.out,
            edge.consumer.number,
            edge.into,
            edge.delivery.kind,
            edge.delivery.n,
            edge.credit,
            self._fast,
            self._shared,
            resends=self._revives,
        )
        link_edge(edge, link, self._clients)

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

    def _node_event(self, client: HostClient, run: Run, message: messages.NodeEvent) -> None:
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
        nodes = [
            run.report(self._clients.get(run.plan.place), accounts.nodes.get(run.plan.number, {}))
            for run in self._runs.values()
        ]
        seconds = time.monotonic() - self._began
        return make_report(self._plan, accounts, nodes, seconds, error, closed=error is not None or self._is_over())

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
