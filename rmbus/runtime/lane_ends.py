"""The end of a topic's edge in a script: its page and its lane, as a host hands them over."""

from __future__ import annotations

import socket

from rmbus.errors import Broken
from rmbus.protocol import messages
from rmbus.transport.counters import Page
from rmbus.transport.lanes import FastLane
from rmbus.transport.umbilical import close_all


def take_end(message: messages.Input | messages.Output, descriptors: list[int]) -> tuple[Page, FastLane]:
    """Return the page and the lane of an edge; the descriptors are theirs, or closed.

    Raises:
        Broken: the host gave no fast lane.
    """
    if message.lane < 0:
        close_all(descriptors)
        raise Broken(f"the host gave no fast lane for edge {message.edge}")
    page = Page(descriptors[message.page])
    close_all([descriptors[message.page]])
    return page, FastLane(socket.socket(fileno=descriptors[message.lane]))
