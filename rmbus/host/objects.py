"""The remote objects of a host: each in a process of its own, held by clients, called by processes that join for it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from rmbus.errors import HostError, UnsupportedVersion
from rmbus.host.control import Client, Reply
from rmbus.host.edges import Wiring
from rmbus.host.endpoints import Endpoint
from rmbus.host.logs import tell_refusal
from rmbus.host.starting import Code, Place, Starting
from rmbus.protocol import messages
from rmbus.protocol.calls import CALLS, REPLIES
from rmbus.shipping.content import python_tag
from rmbus.shipping.store import Hold
from rmbus.transport import counters
from rmbus.transport.counters import Page
from rmbus.transport.reactor import Reactor, Timer

MAX_OBJECTS: Final = 256
"""Objects of one host."""

MAX_CALLERS: Final = 64
"""Processes that call one object."""

MAX_LEASE_S: Final = 24 * 3600.0
CLEANUP_S: Final = 2.0
"""How long a released object has for its `cleanup`."""


class HostedObject:
    """An object and its process.

    Attributes:
        hold: what keeps its package here.
        state: `starting`, `ready`, `ending`; or `failed`, when its process has said why it ends.
        holders: the clients that hold it. callers: the processes that call it, by the port that their calls come in by.
    """

    def __init__(self, start: messages.Start, lease_s: float, place: Place) -> None:
        self.start, self.endpoint = start, place.endpoint
        self.warm, self.reason = place.warm, place.reason
        self.lease_s = min(max(lease_s, 0.0), MAX_LEASE_S)
        self.lease: Timer | None = None
        self.hold = place.code.hold
        self.state = "starting"
        self.names: dict[str, str] = {}
        self.holders: set[Client] = set()
        self.callers: dict[str, Endpoint] = {}
        self.numbers = itertools.count(1)
        self.descriptor = counters.create()
        self.page = Page(self.descriptor)

    @property
    def id(self) -> str:
        """What it is known by."""
        return self.start.session

    def held(self) -> messages.Held:
        """Return what a client is told that holds it."""
        worker, start = self.endpoint.worker, self.start
        return messages.Held(
            self.id, start.name, start.entry, worker.pid, worker.level.word, self.warm, self.names, self.reason
        )

    def close(self) -> None:
        """Give everything back."""
        if self.hold is not None:
            self.hold.close()
        self.page.close()
        os.close(self.descriptor)
        self.endpoint.remove()


class Objects:
    """All of a host's objects.

    Args:
        starting: finds the processes that are to be objects.
        open_package: gives the descriptor of a package that a client has sent, and what keeps the package here.
        host: the host's name.
    """

    def __init__(
        self,
        reactor: Reactor,
        wiring: Wiring,
        starting: Starting,
        open_package: Callable[[Client, str], tuple[int, Hold]],
        host: str,
    ) -> None:
        self._reactor, self._wiring = reactor, wiring
        self._starting, self._open_package, self._host = starting, open_package, host
        self._objects: dict[str, HostedObject] = {}
        self._coming: dict[str, HostedObject | Client] = {}  # a client, as long as it has no process

    def __len__(self) -> int:
        return len(self._objects) + len(self._coming)

    # --- requests ----------------------------------------------------------------------------------------------------

    def ship(self, client: Client, request: messages.Ship, state: bytes, reply: Reply) -> None:
        """Start an object's process; the reply comes when the object is there, or why it is not."""
        start, name = request.start, request.start.session
        if not name or name in self._coming or (name in self._objects) != request.replaces:
            there = "is there already" if name in self._objects else "is being shipped" if name else "has no id"
            raise self._error(f"object {name} {there if not request.replaces else 'is not there to be replaced'}")
        if len(self) >= MAX_OBJECTS:
            raise self._error(f"there are {MAX_OBJECTS} objects here already: release some")
        code = Code(*self._open_package(client, start.address)) if start.address else Code()
        self._coming[name] = client

        def go_on(place: Place) -> None:
            self._begin(client, request, state, reply, place)

        def refuse(message: messages.Message) -> None:
            self._coming.pop(name, None)
            reply(message)

        def is_wanted() -> bool:
            return self._coming.get(name) is client

        try:
            self._starting.find(start, code, refuse, go_on, is_wanted=is_wanted, tell=client.tell)
        except BaseException:
            self._coming.pop(name, None)
            raise

    def _begin(self, client: Client, request: messages.Ship, state: bytes, reply: Reply, place: Place) -> None:
        endpoint = place.endpoint
        endpoint.session = request.start.session
        obj = HostedObject(request.start, request.lease_s, place)
        self._coming[obj.id] = obj
        obj.holders.add(client)
        worker = endpoint.worker
        worker.on_message = partial(self._said, obj, reply)
        worker.on_exit = partial(self._exited, obj, reply)
        worker.on_lines = partial(self._printed, obj)
        place.become(request.start, self._host, state, obj.descriptor, holds=True)

    def attach(self, client: Client, request: messages.AttachObject, reply: Reply) -> None:
        """A client holds an object too."""
        obj = self._known(request.id)
        theirs = python_tag(obj.start.implementation, obj.start.python)
        if client.python != theirs:
            raise UnsupportedVersion(
                f"object {obj.id} ({obj.start.entry}) was shipped by {theirs}, this client runs on {client.python}: "
                "what a call is given is pickled, and one version need not read another's: attach with that version"
            )
        obj.holders.add(client)
        self._end_lease(obj)
        reply(obj.held())

    def release(self, client: Client, request: messages.Release, reply: Reply) -> None:
        """A client lets go of an object, or ends it; one that is not there yet is given up."""
        coming = self._coming.get(request.id)
        if coming is client:
            del self._coming[request.id]
        elif isinstance(coming, HostedObject) and client in coming.holders:
            coming.endpoint.worker.kill()
        if coming is not None:
            reply(messages.Ok())
            return
        obj = self._known(request.id)
        if request.unheld and obj.holders != {client}:
            obj.holders.discard(client)
        else:
            self._end(obj)  # and those who hold it hear its last words
        reply(messages.Ok())

    def listed(self) -> list[dict[str, Any]]:
        """Return what there is."""
        return [
            {
                "id": obj.id,
                "name": obj.start.name,
                "entry": obj.start.entry,
                "state": obj.state,
                "pid": obj.endpoint.worker.pid,
                "level": obj.endpoint.worker.level.word,
                "holders": len(obj.holders),
                "callers": len(obj.callers),
            }
            for obj in self._objects.values()
        ]

    def client_lost(self, client: Client) -> None:
        """A client has gone: what nobody holds any more has its lease left."""
        self._coming = {name: each for name, each in self._coming.items() if each is not client}
        for obj in self._all():
            if client in obj.holders:
                obj.holders.discard(client)
                if not obj.holders and obj.state == "ready":
                    obj.lease = self._reactor.call_later(obj.lease_s, partial(self._end, obj))
                elif not obj.holders and obj.state == "starting":
                    obj.endpoint.worker.kill()  # it is not even there yet

    def close(self) -> None:
        """End all of them, now."""
        for obj in self._all():
            obj.state = "ending" if obj.state == "ready" else obj.state
            obj.endpoint.worker.kill()

    # --- callers -----------------------------------------------------------------------------------------------------

    def join(self, endpoint: Endpoint, join: messages.Join) -> None:
        """A process of the user's joins to call an object."""
        obj = self._known(join.object)
        if len(obj.callers) >= MAX_CALLERS:
            raise self._error(f"object {obj.id} is called by {MAX_CALLERS} processes already")
        number = next(obj.numbers)
        calls, replies = f"{CALLS}{number}", f"{REPLIES}{number}"
        obj.callers[calls] = endpoint
        worker = endpoint.worker
        worker.on_message = partial(self._asked, obj, calls)
        worker.on_exit = lambda status: self._left(obj, calls)
        start = messages.Start("", 0, join.name, "", inputs=[REPLIES], outputs=[CALLS])
        worker.send(messages.Job(start, self._host, "trusted", str(endpoint.work), page=0), [counters.create()])
        self._wiring.call(endpoint, (CALLS, REPLIES), obj.endpoint, (calls, replies))

    def _asked(self, obj: HostedObject, calls: str, message: messages.Message) -> None:
        """A caller has said something: of a call, or of its memory."""
        if isinstance(message, messages.Cancel):
            obj.endpoint.worker.send(messages.Cancel(message.call, calls))
        elif not isinstance(message, messages.NodeEvent):
            self._wiring.memory.heard(obj.callers[calls], message)

    def _left(self, obj: HostedObject, calls: str) -> None:
        endpoint = obj.callers.pop(calls)
        obj.endpoint.worker.send(messages.Cancel(0, calls))
        self._wiring.ended(endpoint, died=True)
        endpoint.remove()

    # --- the life of one ---------------------------------------------------------------------------------------------

    def _said(self, obj: HostedObject, reply: Reply, message: messages.Message) -> None:
        if isinstance(message, messages.Offers):
            obj.names = message.names
        elif not isinstance(message, messages.NodeEvent):
            self._wiring.memory.heard(obj.endpoint, message)
        elif message.state == "ready":
            self._ready(obj, reply)
        elif message.state == "failed":
            obj.endpoint.worker.hear_all()
            tell_refusal(message.type_name, message.message, f"object {obj.id}")
            if obj.state == "starting":
                reply(message)
            obj.state = "failed"
            self._tell_callers(obj, message)

    def _ready(self, obj: HostedObject, reply: Reply) -> None:
        old = self._objects.get(obj.id)
        if old is not None:
            obj.holders |= old.holders
            self._end_lease(old)
            self._tell_callers(old, messages.NodeEvent(old.id, 0, "replaced"))
            self._end(old)
        del self._coming[obj.id]
        self._objects[obj.id] = obj
        obj.state = "ready"
        reply(obj.held())

    def _end(self, obj: HostedObject) -> None:
        """Let an object clean up, for a bounded time."""
        if obj.state == "ending":
            return
        obj.state = "ending"
        self._end_lease(obj)
        obj.endpoint.worker.send(messages.Stop(obj.id))
        obj.lease = self._reactor.call_later(CLEANUP_S, obj.endpoint.worker.kill)

    def _exited(self, obj: HostedObject, reply: Reply, status: str) -> None:
        self._end_lease(obj)
        if obj.state == "starting":
            reply(messages.NodeEvent(obj.id, 0, "lost", status=status))
        if obj.state != "failed":
            state = "released" if obj.state == "ending" else "lost"
            self._tell_callers(obj, messages.NodeEvent(obj.id, 0, state, status=status))
        if self._objects.get(obj.id) is obj:
            del self._objects[obj.id]
        if self._coming.get(obj.id) is obj:
            del self._coming[obj.id]
        self._wiring.ended(obj.endpoint, died=True)
        obj.close()

    def _all(self) -> list[HostedObject]:
        return [*self._objects.values(), *(each for each in self._coming.values() if isinstance(each, HostedObject))]

    @staticmethod
    def _end_lease(obj: HostedObject) -> None:
        if obj.lease is not None:
            obj.lease.cancel()
            obj.lease = None

    @staticmethod
    def _tell_callers(obj: HostedObject, message: messages.NodeEvent) -> None:
        for endpoint in obj.callers.values():
            endpoint.worker.send(message)

    @staticmethod
    def _printed(obj: HostedObject, lines: list[str], suppressed: int) -> None:
        for client in obj.holders:
            client.tell(messages.Log(obj.id, 0, lines, suppressed))

    def _known(self, name: str) -> HostedObject:
        obj = self._objects.get(name)
        if obj is None or obj.state != "ready":
            raise self._error(
                f"the host {self._host} has no object {name}: it was released, its lease ran out, or it failed"
            )
        return obj

    def _error(self, message: str) -> HostError:
        return HostError(message, host=self._host)
