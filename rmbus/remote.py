"""What a script has of remote objects on one host: it ships and attaches, holds them, and lets go of them."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import zmq

from rmbus.client import HostClient
from rmbus.errors import Closed, HostError, PackagingError, RmbusError, TransportError, node_error
from rmbus.joined import enter
from rmbus.needs import declared_needs, on_the_wire
from rmbus.node import Needs
from rmbus.printing import print_log
from rmbus.protocol import messages
from rmbus.protocol.limits import MAX_BLOB_BYTES
from rmbus.runtime.caller import Caller
from rmbus.shipping import package, pickling
from rmbus.shipping.requirements import provide
from rmbus.transport.reactor import Reactor
from rmbus.transport.security import Connection
from rmbus.transport.sockets import Socket

LEASE_S: Final = 30.0
"""How long an object lives on when nobody who holds it is connected any more."""


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
        needs: Needs | None = None,
        name: str = "",
        instead_of: str = "",
    ) -> About:
        """Let the host hold an object, with all the source that it needs; return when it is there.

        Args:
            obj: the object. requirements, files, env, needs: see `rmbus.Bus.ship`.
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
            needs=on_the_wire(declared_needs(obj) if needs is None else needs),
            implementation=sys.implementation.name,
            python=sys.version_info[:2],
        )
        self._names[start.session] = name
        shipped = self._client.request(messages.Ship(start, LEASE_S, bool(instead_of)), state.data)
        try:
            reply = shipped.result()
        except RmbusError:
            raise
        except BaseException:  # a signal: nobody waits for it any more
            if not instead_of:  # else it may have taken the other's place meanwhile
                self._client.request(messages.Release(start.session))
            raise
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
        try:
            umbilical, _, page = enter(self._connection, join, timeout_s=self._timeout_s)
        except TransportError as error:
            raise HostError(f"the host {self.host} is gone: {error}", host=self.host) from error
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


def local_class(entry: str) -> type[Any] | None:
    """Return the class of an entry, where its module is imported here already."""
    module, _, qualname = entry.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
