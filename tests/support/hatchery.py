"""Processes that join a host by hand, forked from one that has done its imports: a hundred in the time of one.

Run as `python hatchery.py DESCRIPTOR`, it forks a process for each order. That runs one node until it ends, answers
questions about it on a line of its own, and stays until its line is cut.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import attrs
from breakable import KINDS, Breakable, Painter
from breaking import Fault, arm

from rmbus.joined import serve
from rmbus.protocol import messages
from rmbus.runtime import kernel
from rmbus.runtime.links import InputLink, OutputLink
from rmbus.runtime.process import READY
from rmbus.transport.counters import Edge, Page
from rmbus.transport.security import Connection

ROOM = 1 << 16
ANSWER_S = 10.0


class Dead(Exception):
    """A process does not answer: it has ended."""


@attrs.frozen
class Order:
    """What a process is to be.

    Attributes:
        kind: of node, see `breakable.KINDS`. given: its arguments.
        session, number: the node that it is, or ""; then `inputs` and `outputs` are topics by port.
        fault: where it dies. spare_files: descriptors that it may open beyond those that it has, -1: any number.
    """

    kind: str
    given: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    session: str = ""
    number: int = 0
    inputs: Mapping[str, str] = attrs.field(factory=dict[str, str])
    outputs: Mapping[str, str] = attrs.field(factory=dict[str, str])
    fault: Fault | None = None
    spare_files: int = -1


class Hatchling:
    """A process of the hatchery, from outside.

    Attributes:
        order: what it is. pid: its own.
    """

    def __init__(self, order: Order, pid: int, line: socket.socket) -> None:
        self.order, self.pid = order, pid
        self._line = line
        self._pidfd = os.pidfd_open(pid)
        self._said: list[dict[str, Any]] = []
        line.send(b"begin")  # not sooner: one that is dead already would not be found

    @property
    def is_dead(self) -> bool:
        """Whether its process has ended."""
        return self.dies(0)

    def dies(self, within_s: float) -> bool:
        """Whether its process ends within so long."""
        waiting = select.poll()
        waiting.register(self._pidfd, select.POLLIN)
        return bool(waiting.poll(within_s * 1000))

    def ask(self, what: str) -> dict[str, Any]:
        """Ask, and return the answer.

        Raises:
            Dead: it has ended.
        """
        try:
            self._line.send(what.encode())
            while True:
                told = self._hear(ANSWER_S)
                if "outcome" not in told:
                    return told
                self._said.append(told)
        except OSError as error:
            raise Dead(f"{self.order.kind} {self.pid}: {error}") from error

    def outcome(self, within_s: float) -> str | None:
        """Return how its node has ended: "", or what it raised; None where it goes on after so long."""
        if not self._said:
            try:
                self._said.append(self._hear(within_s))
            except TimeoutError:
                return None
        return str(self._said[0]["outcome"])

    def signal(self, number: int) -> None:
        """Send it a signal."""
        signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Cut its line: it ends, and what it has forked. Wait for that. Harmless when it is done already."""
        if self._line.fileno() < 0:
            return
        self._line.close()
        if not self.dies(5.0):
            self.signal(signal.SIGKILL)
            self.dies(5.0)
        os.close(self._pidfd)

    def _hear(self, within_s: float) -> dict[str, Any]:
        self._line.settimeout(within_s)
        data = self._line.recv(ROOM)
        if not data:
            raise Dead(f"{self.order.kind} {self.pid} has ended")
        told: dict[str, Any] = json.loads(data)
        return told


class Hatchery:
    """The process from which others are forked. A context manager.

    Attributes:
        pid: its own.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        self._socket = ours
        self.pid = self._process.pid
        assert ours.recv(ROOM), "the hatchery did not start"

    def hatch(self, order: Order, connection: Connection) -> Hatchling:
        """Fork a process that joins a host."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            rights = array.array("i", [theirs.fileno()]).tobytes()
            told = json.dumps({"order": attrs.asdict(order), "connection": attrs.asdict(connection)})
            self._socket.sendmsg([told.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        return Hatchling(order, int(self._socket.recv(ROOM)), ours)

    def close(self) -> None:
        """End it, and all that came of it."""
        self._socket.close()
        self._process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- inside ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Noted:
    """The page of an edge that this process has, or had, an end of."""

    side: str
    edge: int
    page: Page
    link: weakref.ref[InputLink | OutputLink]

    def account(self) -> dict[str, Any]:
        """Return what the page says."""
        words = self.page.words
        return {
            "edge": self.edge,
            "side": self.side,
            "delivered": words[Edge.DELIVERED],  # before what has come in: the other end may go on counting
            "dropped": self.page.dropped(),
            "sent": words[Edge.SENT],
            "shared": words[Edge.SHARED],
            "pinned": words[Edge.PINNED],
            "duplicates": words[Edge.DUPLICATES],
            "published": words[Edge.PUBLISHED],
        }


_noted: list[Noted] = []


def _note_pages() -> None:
    """Keep the page of every edge at hand, also when its link is gone, until it is told to be forgotten."""
    for owner, side in ((InputLink, "in"), (OutputLink, "out")):
        inner = owner.__init__

        def init(self: Any, edge: int, *given: Any, inner: Any = inner, side: str = side, **named: Any) -> None:
            page = next(each for each in given if isinstance(each, Page))
            _noted.append(Noted(side, edge, page, weakref.ref(self)))
            inner(self, edge, *given, **named)

        owner.__init__ = init  # type: ignore[method-assign]


def _forget_pages() -> list[dict[str, Any]]:
    """Forget the pages of edges that are gone; return their accounts."""
    over = [each for each in _noted if each.link() is None]
    _noted[:] = [each for each in _noted if each not in over]
    return [each.account() for each in over]


def _answer(line: socket.socket, node: Breakable) -> None:
    """Answer questions until the line is cut; then end."""
    while True:
        try:
            asked = line.recv(ROOM).decode()
        except OSError:
            asked = ""
        answer: dict[str, Any] = {}
        if not asked:
            os._exit(0)
        elif asked == "look":
            answer = {"bad": node.look_again(), "seen": sum(node.seen.values()), "kept": len(node.kept)}
            answer |= {"forked": node.forked, "joined": node.joined}
        elif asked == "accounts":
            answer = {"accounts": [each.account() for each in _noted]}
        elif asked == "forget":
            node.forget()
            answer = {"over": _forget_pages()}
        elif asked == "collect":
            answer = {"collected": gc.collect()}
        elif asked == "finish" and isinstance(node, Painter):
            node.finishing = True
        line.send(json.dumps(answer).encode())


def _live(told: Mapping[str, Any], line: socket.socket) -> None:
    order = Order(**told["order"])
    line.recv(ROOM)
    if order.fault is not None:
        arm(Fault(**order.fault))  # type: ignore[arg-type]  # as it came
    node = KINDS[order.kind](**order.given)
    node.line = line.fileno()
    _note_pages()
    threading.Thread(target=_answer, args=(line, node), daemon=True).start()
    join = messages.Join(
        order.kind, session=order.session, node=order.number, inputs=dict(order.inputs), outputs=dict(order.outputs)
    )
    if order.spare_files >= 0:
        _limit_files(order.spare_files)
    try:
        serve(node, Connection(**told["connection"]), join)
        outcome = ""
    except BaseException as error:
        outcome = "".join(traceback.format_exception_only(error)).strip()
    with contextlib.suppress(OSError):  # nobody asks any more
        line.send(json.dumps({"outcome": outcome}).encode())
    while True:
        time.sleep(60)  # its views can be asked for until the line is cut


def _limit_files(spare: int) -> None:
    """Let this process open so many descriptors more."""
    limit, free = 0, spare
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    while free or limit <= max(taken):
        free -= limit not in taken and free > 0
        limit += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@contextmanager
def _as_child(listener: socket.socket) -> Generator[None]:
    """End, whatever happens: nothing of this process goes on in a child."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        yield
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def main() -> None:
    """Fork a process for each order, until nobody orders any more."""
    for module in READY:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        listener.send(b"ready")
        while True:
            data, ancillary, _, _ = listener.recvmsg(ROOM, socket.CMSG_SPACE(4))
            if not data:
                return
            (descriptor,) = array.array("i", ancillary[0][2])
            child = os.fork()
            if not child:
                with _as_child(listener):
                    _live(json.loads(data), socket.socket(fileno=descriptor))
            os.close(descriptor)
            listener.send(str(child).encode())


if __name__ == "__main__":
    main()
