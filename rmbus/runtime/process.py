"""A node's process: it confines itself, says that it is ready, becomes a node, runs it, and ends.

Started by a host as `python -m rmbus.runtime.process UMBILICAL LEVEL FOLDER PARENT ALLOWED`.
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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from rmbus.errors import Broken, Closed, RmbusError
from rmbus.protocol import messages
from rmbus.runtime import confine, enter
from rmbus.runtime.failures import describe, last_bytes, text_of, type_name
from rmbus.runtime.orders import wire
from rmbus.transport.counters import Page
from rmbus.transport.umbilical import Stripped, Umbilical, read_all

if TYPE_CHECKING:
    from rmbus.node import Node
    from rmbus.runtime.invoke import Invoker
    from rmbus.runtime.loop import NodeLoop
    from rmbus.runtime.memory import NodeMemory
    from rmbus.runtime.objects import ObjectLoop

SWITCH_S: Final = 0.0005
"""A thread of the user's that never waits may keep the interpreter from the data thread for no longer than this."""

READY: Final = (
    "av",
    "uvloop",
    "rmbus.runtime.invoke",
    "rmbus.runtime.load",
    "rmbus.runtime.cooperative",
    "rmbus.runtime.holding",
)
"""What a spare process has imported before it is asked for."""

SPOKEN: Final = (
    messages.Job,
    messages.Input,
    messages.Output,
    messages.Linked,
    messages.Go,
    messages.Offers,
    messages.NodeEvent,
    messages.Grow,
    messages.Segment,
    messages.Attach,
    messages.Mapped,
    messages.Cancel,
    messages.Gone,
    messages.Stop,
)
"""What it can write and read by then: what every node, or object, says and hears."""


class Process:
    """The node in this process, between the umbilical and its loop.

    Args:
        umbilical: this end. job: what to be. page: where the node counts.
        on_cut: called, in a thread of its own, when the host is gone: the node must end.
    """

    def __init__(
        self, umbilical: Umbilical, job: messages.Job, page: Page, *, on_cut: Callable[[NodeLoop | ObjectLoop], None]
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
            self._begin_to_listen(loop, memory)
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

    def _failed(self, error: BaseException, loop: NodeLoop | ObjectLoop | None) -> None:
        from rmbus.media import read_only_advice

        name, message = type_name(error), text_of(error, 20_000)
        advice = read_only_advice(error)
        if advice is not None:
            message = f"{message}: {advice}"
        start = self._start
        frame = None if loop is None else loop.frame
        trace = last_bytes(describe(error), 60_000)
        event = messages.NodeEvent(start.session, start.node, "failed", name, last_bytes(message, 20_000), trace, frame)
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

    def _begin_to_listen(self, loop: NodeLoop | ObjectLoop, memory: NodeMemory) -> None:
        listener = threading.Thread(target=self._listen, args=(loop, memory), name="rmbus-umbilical", daemon=True)
        listener.start()

    def _takes(self, loop: NodeLoop | ObjectLoop, message: messages.Message) -> bool:
        """Carry out an order that does not wait for the data thread; whether it was one."""
        return False

    def _listen(self, loop: NodeLoop | ObjectLoop, memory: NodeMemory) -> None:
        """Serve the umbilical until it is cut."""
        while True:
            try:
                message, descriptors = self._heard()
                if memory.take(message, descriptors) or self._takes(loop, message):
                    continue
            except RmbusError as error:
                if not isinstance(error, Closed | Broken):
                    sys.stderr.write(f"rmbus: the host broke the protocol: {error}\n")
                self._on_cut(loop)
                return
            loop.reactor.call_soon(_order(self._obey, loop, message, descriptors))

    def _obey(self, loop: Any, message: messages.Message, descriptors: list[int]) -> None:
        """Carry out an order of the host, in the data thread."""
        if wire(loop, message, descriptors, self._say, self._start.session):
            return
        if isinstance(message, messages.Go):
            loop.go()
        elif isinstance(message, messages.Stop):
            loop.stop()
        else:
            raise RmbusError(f"a node does not take {message.tag!r} messages")

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


def main() -> None:
    """Become a spare process, then a node."""
    umbilical = Umbilical(socket.socket(fileno=int(sys.argv[1])))
    allowed = confine.Allowed.heard(sys.argv[5])
    in_force = _confine(level=sys.argv[2], folder=sys.argv[3], parent=int(sys.argv[4]), allowed=allowed)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper, as always at start
    for module in READY:
        importlib.import_module(module)
    messages.prepare(*SPOKEN)
    if allowed.memory_bytes:
        in_force["memory"] = confine.bind_memory(allowed.memory_bytes)
    umbilical.send(messages.Spare(in_force))
    try:
        _, job, descriptors = umbilical.receive()
    except Closed:
        return
    if not isinstance(job, messages.Job):
        raise RmbusError(f"a spare process does not take {job.tag!r} messages")
    os._exit(_serve(umbilical, job, descriptors))  # threads that the user's code has left do not keep the process


def _confine(level: str, folder: str, parent: int, allowed: confine.Allowed) -> dict[str, str]:
    """Put this process under its level; it may be so already, see `rmbus.runtime.enter`. Return what is in force."""
    told = os.environ.pop(enter.IN_FORCE, "")
    if told and level == "confined":
        return {**json.loads(told), **confine.verified()}
    if level != "jail":
        confine.die_with_parent(parent)
    return confine.apply(
        level,
        readable=[folder, *allowed.readable],
        writable=[os.environ.get("TMPDIR", folder), *allowed.writable],
        limits=allowed.limits,
        network=allowed.network,
        pinned=allowed.pinned,
    )


def _serve(umbilical: Umbilical, job: messages.Job, descriptors: list[int]) -> int:
    """Run the job; return the exit status."""
    from rmbus.runtime.load import load_node, load_object

    def load() -> Any:
        package = descriptors[job.package] if job.package >= 0 else None
        return (load_object if job.holds else load_node)(job, package, read_all(descriptors[job.state]))

    kind: type[Process] = Process
    if job.holds:
        from rmbus.runtime.holding import Holder as kind
    process = kind(umbilical, job, Page(descriptors[job.page]), on_cut=lambda loop: os._exit(1))
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
