"""The end of a topic's edge in a script: its page and its lane, as a host hands them over."""

from __future__ import annotations

import socket

from rmbus.errors import Broken
from rmbus.protocol import messages
from rmbus.transport.counters import Page
from rmbus.transport.lanes import FastLane
from rmbus.transport.umbilical import close_all, descriptor_at


def take_end(message: messages.Input | messages.Output, descriptors: list[int]) -> tuple[Page, FastLane]:
    """Return the page and the lane of an edge; the descriptors are theirs, or closed.

    Raises:
        Broken: they did not come, since this process may open no more files, say.
    """
    try:
        page, end = descriptor_at(descriptors, message.page), descriptor_at(descriptors, message.lane)
        mapped = Page(page)
    except OSError as error:
        close_all(descriptors)
        raise Broken(f"edge {message.edge} cannot be linked: {error}") from error
    close_all([page])
    return mapped, FastLane(socket.socket(fileno=end))
