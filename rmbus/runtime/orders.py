"""The host's orders about the ends of a process's edges, carried out in the thread that serves them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from rmbus.errors import Broken
from rmbus.protocol import messages
from rmbus.transport.counters import Page
from rmbus.transport.umbilical import close_all, descriptor_at

if TYPE_CHECKING:  # a process imports this before it is confined, and numpy starts threads
    from rmbus.runtime.ends import Ends


def wire(
    ends: Ends,
    message: messages.Message,
    descriptors: list[int],
    say: Callable[[messages.Message], None],
    session: str,
) -> bool:
    """Carry out an order about an edge or a topic; whether it was one. If not, its descriptors are closed."""
    if isinstance(message, messages.Input):
        topic = f", topic {message.topic}" if message.topic else ""
        with _linking(f"input {message.port!r} (edge {message.edge}{topic})"):
            page = descriptor_at(descriptors, message.page)
            lane, listener = _given(descriptors, message.lane), _given(descriptors, message.listener)
            ends.add_input(message, Page(page), listener, lane)
            close_all([page])
    elif isinstance(message, messages.Output):
        edge = message.edge
        with _linking(f"output {message.port!r} (edge {edge})"):
            page = descriptor_at(descriptors, message.page)
            lane = _given(descriptors, message.lane)
            ends.add_output(message, Page(page), lane, lambda: say(messages.Linked(session, edge)))
            close_all([page])
    elif isinstance(message, messages.Publish):
        ends.publish(message)
    elif isinstance(message, messages.Gone):
        ends.gone(message)
    else:
        close_all(descriptors)
        return False
    return True


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
