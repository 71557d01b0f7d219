"""New turns, each known by a number that goes through the graph with it: a node passes one on once.

A turn may come to a node by several ways, as the branches of a graph meet again, or come back to it in a ring. Passed
on a second time it would throw away frames of the very turn that it has begun.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final

from rmbus.runtime.links import Arrival, InputLink
from rmbus.transport.counters import Edge

KEPT: Final = 64
"""Turns that are remembered: more than may be under way at once."""


class Turns:
    """The turns that a node has begun, or has heard of."""

    def __init__(self) -> None:
        self._heard: dict[int, dict[int, int]] = {}

    def begin(self) -> int:
        """Return the number of a new turn of the node's own."""
        number = secrets.randbits(63)
        self._remember(number, ())
        return number

    def number_of(self, interrupt: Arrival) -> int:
        """Return the number of a turn that a producer has begun, or has passed on."""
        number = interrupt.header.extra
        return number if type(number) is int else secrets.randbits(63)

    def is_new(self, number: int, inputs: Iterable[InputLink]) -> bool:
        """Whether a turn is heard of for the first time; it is known from now on."""
        if number in self._heard:
            return False
        self._remember(number, inputs)
        return True

    def lags(self, number: int, link: InputLink) -> bool:
        """Whether a known turn comes by an input that has delivered frames of an older one since it was heard of."""
        before = self._heard[number].get(link.edge)
        return before is not None and before != link.page.words[Edge.DELIVERED]

    def _remember(self, number: int, inputs: Iterable[InputLink]) -> None:
        self._heard[number] = {link.edge: link.page.words[Edge.DELIVERED] for link in inputs}
        while len(self._heard) > KEPT:
            del self._heard[next(iter(self._heard))]
