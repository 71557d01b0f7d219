"""Where a node is killed: points on a frame's way, at which its own process kills itself without warning.

The product knows nothing of it: what runs in the node's process wraps parts of the runtime there, before it joins.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Final
from unittest.mock import patch

import attrs

from rmbus.runtime import memory as node_memory
from rmbus.runtime.links import InputLink, OutputLink
from rmbus.runtime.memory import NodeMemory
from rmbus.transport.mailbox import Item, Mailbox
from rmbus.transport.memory import Lease, Mapping, Slot

Reached = Callable[[], None]

BEFORE_LOAN: Final = "before a loan"
INSIDE_LOAN: Final = "inside a loan"
COPIED: Final = "copied, header not yet sent"
PUBLISHED: Final = "published, not yet sent"
SENT: Final = "header sent"
GROWING: Final = "memory asked for, not yet mapped"
MAPPED: Final = "segment mapped, not yet told"
ARRIVED: Final = "arrived, before process"
INSIDE: Final = "inside process, holding views"
PROCESSED: Final = "after process, before credit"
RELEASING: Final = "before a lease is given back"
RELEASED: Final = "after a lease is given back"

OF_PRODUCERS: Final = (BEFORE_LOAN, INSIDE_LOAN, COPIED, PUBLISHED, SENT, GROWING)
OF_CONSUMERS: Final = (MAPPED, ARRIVED, INSIDE, PROCESSED, RELEASING, RELEASED)
RARE: Final = (GROWING, MAPPED)
"""What happens but a few times in a node's life."""


@attrs.frozen
class Fault:
    """A kill at the n-th time that a process reaches a point."""

    point: str
    nth: int


_armed: Fault | None = None
_count = 0


def reached(point: str) -> None:
    """A process is at a point: it ends here, if it is to."""
    global _count
    if _armed is not None and _armed.point == point:
        _count += 1
        if _count >= _armed.nth:
            os.kill(os.getpid(), signal.SIGKILL)


def arm(fault: Fault) -> None:
    """Let this process kill itself at a point."""
    global _armed
    _armed = fault
    wrap = _WRAPS.get(fault.point)
    if wrap is not None:  # the others are in the code of the nodes themselves
        wrap(lambda: reached(fault.point))


def _before(owner: type[Any], name: str) -> Callable[[Reached], None]:
    def wrap(call: Reached) -> None:
        inner = getattr(owner, name)

        def wrapped(self: Any, *given: Any) -> Any:
            call()
            return inner(self, *given)

        setattr(owner, name, wrapped)

    return wrap


def _after(owner: type[Any], name: str) -> Callable[[Reached], None]:
    def wrap(call: Reached) -> None:
        inner = getattr(owner, name)

        def wrapped(self: Any, *given: Any) -> Any:
            result = inner(self, *given)
            call()
            return result

        setattr(owner, name, wrapped)

    return wrap


def _offered(call: Reached) -> None:
    inner = Mailbox.offer

    def offer(self: Mailbox, item: Item) -> None:
        inner(self, item)
        if item.is_data:
            call()

    Mailbox.offer = offer  # type: ignore[method-assign]
    _after(Mailbox, "pass_by")(call)


def _mapped(call: Reached) -> None:
    class Mapped(Mapping):
        def __init__(self, segment: int, size: int, descriptor: int, *, writable: bool) -> None:
            super().__init__(segment, size, descriptor, writable=writable)
            if not writable:
                call()

    patch.object(node_memory, "Mapping", Mapped).start()


_WRAPS: Final[dict[str, Callable[[Reached], None]]] = {
    COPIED: _after(Slot, "write"),
    PUBLISHED: _offered,
    SENT: _after(OutputLink, "_put"),
    GROWING: _before(NodeMemory, "_grown"),
    MAPPED: _mapped,
    ARRIVED: _after(InputLink, "receive"),
    PROCESSED: _before(InputLink, "finish"),
    RELEASING: _before(Lease, "__del__"),
    RELEASED: _after(Lease, "__del__"),
}
