"""A node's process: it confines itself, says that it is ready, becomes a node, runs it, and ends.

Started by a host as `python -m rmbus.runtime.process UMBILICAL LEVEL FOLDER PARENT`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rmbus.errors import Broken, Closed, RmbusError
from rmbus.protocol import messages
from rmbus.runtime import confine, enter
from rmbus.transport.counters import Page
from rmbus.transport.umbilical import Stripped, Umbilical, close_all, descriptor_at, read_all

if TYPE_CHECKING:
    from rmbus.node import Node
    from rmbus.runtime.invoke import Invoker
    from rmbus.runtime.loop import NodeLoop
    from rmbus.runtime.memory import NodeMemory

SWITCH_S: Final = 0.0005
"""A thread of the user's that never waits may keep the interpreter from the data thread for no longer than this."""

READY: Final = ("av", "uvloop", "rmbus.runtime.invoke", "rmbus.runtime.load", "rmbus.runtime.cooperative")
"""What a spare process has imported before it is asked for."""


class Process:
    """The node in this process, between the umbilical and its loop.

    Args:
        umbilical: this end. job: what to be. page: where the node counts.
        on_cut: called, in a thread of its own, when the host is gone: the node must end.
    """

    def __init__(
        self, umbilical: Umbilical, job: messages.Job, page: Page, *, on_cut: Callable[[NodeLoop], None]
    ) -> None:
        self._umbilical = umbilical
        self._start = job.start
        self._page = page
        self._on_cut = on_cut

    def run(self, load: Callable[[], Node]) -> None:
        """Load the node, run it to its end, and tell the host how it went.

        Raises:
            whatever went wrong, after the host has been told.
        """
        from rmbus.runtime.invoke import Invoker
        from rmbus.runtime.memory import NodeMemory

        sys.setswitchinterval(SWITCH_S)
        start = self._start
        loop: NodeLoop | None = None
        try:
            invoker = Invoker(load())
            invoker.join(start.inputs, start.outputs)
            memory = NodeMemory(self._say)
            kind = _kind_of_loop(start, is_async=invoker.is_async)
            loop = kind(invoker, start.outputs, self._page, memory, is_source=invoker.is_source)
            listener = threading.Thread(target=self._listen, args=(loop, memory), name="rmbus-umbilical", daemon=True)
            listener.start()
            try:
                invoker.initialize()
                self._say(messages.NodeEvent(start.session, start.node, "ready"))
                loop.run()
            except BaseException:
                _clean_after_failure(invoker)
                raise
            invoker.cleanup()
            invoker.close()
            loop.conclude()
        except BaseException as error:  # the supervisor around user code: whatever it was, the caller is told
            self._failed(error, loop)
            raise
        loop.close()
        sys.stdout.flush()
        self._say(messages.NodeEvent(start.session, start.node, "ended"))

    def _failed(self, error: BaseException, loop: NodeLoop | None) -> None:
        from rmbus.media import read_only_advice

        name, message = type_name(error), text_of(error)
        advice = read_only_advice(error)
        if advice is not None:
            message = f"{message}: {advice}"
        start = self._start
        frame = None if loop is None else loop.frame
        trace = _last_bytes(describe(error), 60_000)
        event = messages.NodeEvent(
            start.session, start.node, "failed", name, _last_bytes(message, 20_000), trace, frame
        )
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(Broken):  # the host is gone, and that may be the failure itself
            self._say(event)
        if loop is not None:
            try:
                loop.fail(name, message)
            finally:
                loop.close()

    def _say(self, message: messages.Message) -> None:
        self._umbilical.send(message)

    def _listen(self, loop: NodeLoop, memory: NodeMemory) -> None:
        """Serve the umbilical until it is cut."""
        while True:
            try:
                message, descriptors = self._heard()
                if memory.take(message, descriptors):
                    continue
            except RmbusError as error:
                if not isinstance(error, Closed | Broken):
                    sys.stderr.write(f"rmbus: the host broke the protocol: {error}\n")
                self._on_cut(loop)
                return
            loop.reactor.call_soon(_order(obey, loop, message, descriptors, self._say, self._start.session))

    def _heard(self) -> tuple[messages.Message, list[int]]:
        """Return what the host says next. Where descriptors are lost, whoever needs them says what cannot be done."""
        try:
            _, message, descriptors = self._umbilical.receive()
        except Stripped as stripped:
            return stripped.message, []
        return message, descriptors


def _kind_of_loop(start: messages.Start, *, is_async: bool) -> type[NodeLoop]:
    if start.revives:
        from rmbus.runtime.revival import AsyncReviveLoop, ReviveLoop

        return AsyncReviveLoop if is_async else ReviveLoop
    from rmbus.runtime.cooperative import CooperativeLoop
    from rmbus.runtime.loop import NodeLoop

    return CooperativeLoop if is_async else NodeLoop


def _clean_after_failure(invoker: Invoker) -> None:
    """Let the node clean up; a failure of that is printed, and the first failure stays the one that is told."""
    try:
        invoker.cleanup()
        invoker.close()
    except Exception:  # noqa: BLE001 - the supervisor around user code
        traceback.print_exc()


def _order(call: Callable[..., object], *given: object) -> Callable[[], object]:
    return lambda: call(*given)


def type_name(error: BaseException) -> str:
    """Return the name of an error's type, by which the caller finds it again."""
    kind = type(error)
    if kind.__name__ == messages.UPSTREAM_FAILED:
        return messages.UPSTREAM_FAILED
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def obey(
    loop: NodeLoop,
    message: messages.Message,
    descriptors: list[int],
    say: Callable[[messages.Message], None],
    session: str,
) -> None:
    """Carry out an order of the host in the node's loop."""
    if isinstance(message, messages.Input):
        topic = f", topic {message.topic}" if message.topic else ""
        with _linking(f"input {message.port!r} (edge {message.edge}{topic})"):
            page = descriptor_at(descriptors, message.page)
            lane, listener = _given(descriptors, message.lane), _given(descriptors, message.listener)
            loop.add_input(message, Page(page), listener, lane)
            close_all([page])
    elif isinstance(message, messages.Output):
        edge = message.edge
        with _linking(f"output {message.port!r} (edge {edge})"):
            page = descriptor_at(descriptors, message.page)
            lane = _given(descriptors, message.lane)
            loop.add_output(message, Page(page), lane, lambda: say(messages.Linked(session, edge)))
            close_all([page])
    elif isinstance(message, messages.Publish):
        loop.publish(message)
    elif isinstance(message, messages.Gone):
        loop.gone(message)
    elif isinstance(message, messages.Go):
        loop.go()
    elif isinstance(message, messages.Stop):
        loop.stop()
    else:
        close_all(descriptors)
        raise RmbusError(f"a node does not take {message.tag!r} messages")


def _given(descriptors: list[int], place: int) -> int | None:
    return descriptor_at(descriptors, place) if place >= 0 else None


@contextlib.contextmanager
def _linking(edge: str) -> Generator[None]:
    """Name the edge that cannot be linked, since no descriptor is left, say."""
    import zmq

    try:
        yield
    except (OSError, zmq.ZMQError) as error:
        raise Broken(f"{edge} cannot be linked: {error}") from error


def text_of(error: BaseException) -> str:
    """Return an error's message, as text that can be sent, also where its own `str()` fails."""
    try:
        text = str(error)
    except Exception as second:  # noqa: BLE001 - the supervisor around user code
        text = f"(its message cannot be had: str() raised {type(second).__name__})"
    return sendable(text)


def _last_bytes(text: str, size: int) -> str:
    """Return the end of a text that is too long to be sent."""
    return text.encode()[-size:].decode(errors="ignore")


def sendable(text: str) -> str:
    """Return text with what UTF-8 cannot hold escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def describe(error: BaseException) -> str:
    """Return the traceback as text, without the frames of this runtime that stand before the user's."""
    told = traceback.TracebackException.from_exception(error)
    ours = str(Path(__file__).parent)
    while len(told.stack) > 1 and told.stack[0].filename.startswith(ours):
        del told.stack[0]
    return sendable("".join(told.format()))


def main() -> None:
    """Become a spare process, then a node."""
    umbilical = Umbilical(socket.socket(fileno=int(sys.argv[1])))
    in_force = _confine(level=sys.argv[2], folder=sys.argv[3], parent=int(sys.argv[4]))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper, as always at start
    for module in READY:
        importlib.import_module(module)
    umbilical.send(messages.Spare(in_force))
    try:
        _, job, descriptors = umbilical.receive()
    except Closed:
        return
    if not isinstance(job, messages.Job):
        raise RmbusError(f"a spare process does not take {job.tag!r} messages")
    os._exit(_serve(umbilical, job, descriptors))  # threads that the user's code has left do not keep the process


def _confine(level: str, folder: str, parent: int) -> dict[str, str]:
    """Put this process under its level; it may be so already, see `rmbus.runtime.enter`. Return what is in force."""
    told = os.environ.pop(enter.IN_FORCE, "")
    if told and level == "confined":
        return {**json.loads(told), **confine.verified()}
    if level != "jail":
        confine.die_with_parent(parent)
    return confine.apply(level, readable=[folder], writable=[os.environ.get("TMPDIR", folder)])


def _serve(umbilical: Umbilical, job: messages.Job, descriptors: list[int]) -> int:
    """Run the job; return the exit status."""
    from rmbus.runtime.load import load_node

    def load() -> Node:
        package = descriptors[job.package] if job.package >= 0 else None
        return load_node(job, package, read_all(descriptors[job.state]))

    process = Process(umbilical, job, Page(descriptors[job.page]), on_cut=lambda loop: os._exit(1))
    try:
        process.run(load)
    except BaseException:  # noqa: BLE001 - the host has been told
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main()
