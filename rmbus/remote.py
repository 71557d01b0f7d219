"""Remote objects as a script sees them: what ships and holds them, and what a call of one is here.

A `Handle` is one object: it asks, and turns what is answered into a value, an error or an iterator. Proxies, see
`rmbus.proxies`, are made of it; so is the awaitable face in `rmbus.aio`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import sys
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import zmq

from rmbus.client import HostClient
from rmbus.errors import Closed, HostError, PackagingError, RmbusError, node_error
from rmbus.joined import enter
from rmbus.protocol import messages
from rmbus.protocol.calls import WINDOW, Reply
from rmbus.protocol.limits import MAX_BLOB_BYTES
from rmbus.runtime.answering import Waiting
from rmbus.runtime.caller import Answers, Caller
from rmbus.session import print_log
from rmbus.shipping import package, pickling, returning
from rmbus.shipping.requirements import provide
from rmbus.transport.reactor import Reactor
from rmbus.transport.security import Connection
from rmbus.transport.sockets import Socket

LEASE_S: Final = 30.0
"""How long an object lives on when nobody who holds it is connected any more."""

ITEMS: Final = 16
"""Items of a stream that come ahead of what is taken."""

AHEAD: Final = 8
"""Calls under way at once where one method is called with many items."""

_NO_NAMES: Final[dict[str, Any]] = {}


@attrs.frozen
class About:
    """What is known of a remote object.

    Attributes:
        id: unique on its host. name: for errors, its class in lower case. entry: `module:QualName` of its class.
        names: what can be reached of it, with the kind of each. host: the name of its host.
    """

    id: str
    name: str
    entry: str
    names: dict[str, str]
    host: str


class Holding:
    """A script's objects on one host: ships, attaches, releases. Any thread may."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        """Greet the host.

        Raises:
            ConnectFailed: it does not answer.
        """
        self._connection = connection
        self._timeout_s = timeout_s
        self._context: zmq.Context[Socket] = zmq.Context()
        self._reactor = Reactor()
        self._names: dict[str, str] = {}
        self._held: set[str] = set()
        self._callers: weakref.WeakSet[Caller] = weakref.WeakSet()
        self._is_closed = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._reactor.run, name="rmbus-objects", daemon=True)
        self._thread.start()
        self._client = HostClient(self._reactor, self._context, connection)
        self._client.on_event = self._told
        try:
            self._client.greet(timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def host(self) -> str:
        """The host's name."""
        return self._client.name

    def check(self) -> None:
        """Pass the process that has connected, and none that it has forked.

        Raises:
            Closed: this is such a one.
        """
        if os.getpid() != self._process:
            raise Closed("the bus is another process's: connect() after the fork, not before")

    def ship(
        self,
        obj: object,
        *,
        requirements: Sequence[str] | None = None,
        files: Sequence[str | Path] = (),
        env: str | None = None,
        name: str = "",
        instead_of: str = "",
    ) -> About:
        """Let the host hold an object, with all the source that it needs; return when it is there.

        Args:
            obj: the object. requirements, files, env: see `rmbus.Bus.ship`.
            name: what it is called in errors, by default its class in lower case. instead_of: one that it replaces.

        Raises:
            PackagingError: it cannot be shipped. HostError: the host refuses. NodeError: its code fails there.
        """
        state = pickling.dump(obj)
        if len(state.data) > MAX_BLOB_BYTES:
            blame = "; ".join(map(str, state.heavy))
            raise PackagingError(
                f"the state of {type(obj).__name__} has {len(state.data):,} bytes, and {MAX_BLOB_BYTES:,} can be sent: "
                f"{blame}"
            )
        if env and requirements:
            raise PackagingError(
                f"{type(obj).__name__} is given the environment {env!r} and requirements: it takes one"
            )
        built = package.build(obj, files=files, known=state.trace)
        for warning in built.warnings:
            sys.stderr.write(f"rmbus: {name or type(obj).__name__}: {warning}\n")
        if not env:
            built = provide(built, requirements, elsewhere=not self._connection.shares_environment)
        self._client.upload(built.address, built.data)
        name = name or type(obj).__name__.lower()
        start = messages.Start(
            session=instead_of or secrets.token_hex(8),
            node=0,
            name=name,
            entry=f"{type(obj).__module__}:{type(obj).__qualname__}",
            address=built.address,
            lock=built.manifest.lock,
            env=env or "",
            implementation=sys.implementation.name,
            python=sys.version_info[:2],
        )
        self._names[start.session] = name
        reply = self._client.request(messages.Ship(start, LEASE_S, bool(instead_of)), state.data).result()
        if isinstance(reply, messages.NodeEvent):
            if reply.state == "failed":
                raise node_error(
                    reply.message,
                    node=name,
                    host=self.host,
                    type_name=reply.type_name,
                    traceback_text=reply.traceback,
                )
            raise node_error(f"its process ended before it was there: {reply.status}", node=name, host=self.host)
        return self._about(reply)

    def attach(self, id: str) -> About:
        """Hold an object that is there already.

        Raises:
            HostError: there is none of that id.
        """
        return self._about(self._client.ask(messages.AttachObject(id), messages.Held, timeout_s=self._timeout_s))

    def release(self, id: str) -> None:
        """End an object, also for others who hold it.

        Raises:
            HostError: it has ended.
        """
        self._held.discard(id)
        self._client.ask(messages.Release(id), messages.Ok, timeout_s=self._timeout_s)

    def objects(self) -> list[dict[str, Any]]:
        """Return what objects the host holds."""
        found: list[dict[str, Any]] = self._client.ask(messages.Objects(), messages.Ok).value["objects"]
        return found

    def status(self) -> dict[str, Any]:
        """Return how the host stands."""
        return self._client.ask(messages.Status(), messages.Ok).value

    def call_end(self, about: About) -> Caller:
        """Join the host to call an object.

        Raises:
            HostError: it is gone.
        """
        join = messages.Join(about.name, inputs={}, outputs={}, object=about.id)
        umbilical, _, page = enter(self._connection, join, timeout_s=self._timeout_s)
        caller = Caller(umbilical, page, about.name, about.host)
        try:
            caller.begin(self._timeout_s)
        except BaseException:
            caller.close()
            raise
        self._callers.add(caller)
        return caller

    def close(self) -> None:
        """Let go of all objects; those that nobody else holds end. Harmless when it is closed."""
        if self._is_closed or os.getpid() != self._process:
            return
        self._is_closed = True
        for caller in list(self._callers):
            caller.close()
        for id in list(self._held):
            try:
                self._client.ask(messages.Release(id, unheld=True), messages.Ok, timeout_s=2.0)
            except (RmbusError, TimeoutError):
                continue  # it has ended, or the host has
        self._reactor.call_soon(self._client.close)
        self._reactor.call_soon(self._reactor.stop)
        self._thread.join()
        self._context.destroy(linger=300)
        self._reactor.close()

    def _about(self, reply: messages.Message) -> About:
        if not isinstance(reply, messages.Held):
            raise HostError(f"the host answered with {reply.tag!r} where an object was due", host=self.host)
        self._held.add(reply.id)
        self._names[reply.id] = reply.name
        return About(reply.id, reply.name, reply.entry, dict(reply.names), self.host)

    def _told(self, message: messages.Message) -> None:
        if isinstance(message, messages.Log):
            print_log(self._names.get(message.session, "object"), self.host, message.lines, message.suppressed)


class Handle:
    """One remote object, as this script holds it.

    Attributes:
        about: what is known of it. local: the object that was shipped, None where it was attached to.
    """

    def __init__(self, holding: Holding, about: About, local: object = None) -> None:
        self.about = about
        self.local = local
        self._holding = holding
        self._opening = threading.Lock()
        self._caller: Caller | None = None
        self._room = threading.BoundedSemaphore(WINDOW)
        self._room_async = asyncio.Semaphore(WINDOW)
        self._waiting: Waiting | None = None

    def caller(self) -> Caller:
        """Return the end that calls go by; a new one where the object has been replaced.

        Raises:
            NodeError, HostError: the object, or its host, is gone.
        """
        caller = self._caller
        if caller is not None:
            caller.serve_at_once()  # it may have been told something meanwhile
        if caller is None or caller.failure is not None:
            with self._opening:
                caller = self._caller
                if caller is None or isinstance(caller.failure, RmbusError):
                    if caller is not None:
                        caller.close()
                    caller = self._caller = self._holding.call_end(self.about)
        return caller

    def begin_anew(self) -> None:
        """The object has been replaced: the next call goes to what is there now."""
        with self._opening:
            caller, self._caller = self._caller, None
            if caller is not None:
                caller.close()

    def do(self, word: str, name: str = "", value: object = None, *, limit_s: float | None = None) -> Any:
        """Ask something of the object, and wait for what comes of it; an iterator where items come.

        Args:
            word, name: see `rmbus.protocol.calls.Request`. value: what goes with it. limit_s: how long it may take.

        Raises:
            NodeError: its code has raised; also of the original type. TimeoutError: its time was over, and it was
            stopped. HostError: its host is gone. PackagingError: a value cannot travel.
        """
        pickled = pickling.dump_arguments(value)
        caller = self.caller()
        with self._room:
            answers = caller.ask(word, name, pickled, window=ITEMS, limit_s=limit_s)
            reply = self._wait(caller, answers)
        if reply.word == "flow":
            return self._items(caller, answers)
        return self.read(reply)

    def run(self, name: str, *args: object, limit_s: float | None = None) -> Any:
        """Call a method, and wait for what it returns; see `do`."""
        return self.do("call", name, (args, _NO_NAMES), limit_s=limit_s)

    def each(self, name: str, items: Iterable[object]) -> Generator[Any]:
        """Call a method with one item after the other, a few of them ahead, and yield what it returns."""
        caller = self.caller()
        under_way: deque[Answers] = deque()
        try:
            for item in items:
                pickled = pickling.dump_arguments(((item,), _NO_NAMES))
                under_way.append(caller.ask("call", name, pickled))
                if len(under_way) >= AHEAD:
                    yield self.read(self._wait(caller, under_way.popleft()))
            while under_way:
                yield self.read(self._wait(caller, under_way.popleft()))
        finally:
            for answers in under_way:
                caller.cancel(answers)

    async def do_async(self, word: str, name: str = "", value: object = None) -> Any:
        """Do what `do` does, awaited; an async iterator where items come. Cancelled, it is stopped at the far end."""
        pickled = pickling.dump_arguments(value)
        async with self._room_async:
            waiting = await self._waiting_in_loop()
            answers = waiting.caller.ask(word, name, pickled, window=ITEMS)
            reply = await waiting.reply(answers)
        if reply.word == "flow":
            return self._items_async(waiting, answers)
        return self.read(reply)

    async def _waiting_in_loop(self) -> Waiting:
        waiting = self._waiting
        if waiting is not None and waiting.caller.failure is None:
            return waiting
        caller = await asyncio.to_thread(self.caller)
        if self._waiting is None or self._waiting.caller is not caller:  # another task may have been quicker
            self._waiting = Waiting(caller)
        return self._waiting

    async def _items_async(self, waiting: Waiting, answers: Answers) -> AsyncGenerator[Any]:
        taken = itertools.count(1)
        caller = waiting.caller
        try:
            while True:
                reply = await waiting.reply(answers)
                if reply.word == "end":
                    return
                value = self.read(reply)
                if next(taken) % (ITEMS // 2) == 0 and not answers.is_over:
                    caller.ask_more(answers, ITEMS // 2)
                yield value
        finally:
            if not answers.is_over and caller.failure is None:
                caller.close_flow(answers)

    def read(self, reply: Reply) -> Any:
        """Return the value of a reply; raise what it says was raised."""
        if reply.word != "raised":
            return returning.load(reply.pickle, reply.buffers)
        raise node_error(
            reply.message,
            node=self.about.name,
            host=self.about.host,
            type_name=reply.type_name,
            traceback_text=reply.traceback,
        )

    def _wait(self, caller: Caller, answers: Answers) -> Reply:
        try:
            return caller.wait(answers)
        except RmbusError:
            raise
        except BaseException:  # a signal: nobody waits any more
            caller.cancel(answers)
            raise

    def _items(self, caller: Caller, answers: Answers) -> Generator[Any]:
        """Yield the items of a stream as they come; each that is taken lets another come."""
        taken = itertools.count(1)
        try:
            while True:
                reply = self._wait(caller, answers)
                if reply.word == "end":
                    return
                value = self.read(reply)
                if next(taken) % (ITEMS // 2) == 0 and not answers.is_over:
                    caller.ask_more(answers, ITEMS // 2)
                yield value
        finally:
            if not answers.is_over and caller.failure is None:
                caller.close_flow(answers)


def local_class(entry: str) -> type[Any] | None:
    """Return the class of an entry, where its module is imported here already."""
    module, _, qualname = entry.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
