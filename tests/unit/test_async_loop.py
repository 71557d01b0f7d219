"""The loop of async nodes: what is served just before it would wait is not slept over."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from rmbus.runtime.cooperative import CooperativeLoop
from rmbus.transport.counters import State
from rmbus.transport.reactor import Reactor


class Resting(CooperativeLoop):
    """A loop with no node, which only waits.

    Args:
        looks: what its looks find one after the other, then nothing.
        settles: whether the first that is found settles all that it had sent.
    """

    def __init__(self, looks: list[bool], *, settles: bool = False) -> None:
        self._looks = deque(looks)
        self._settles = settles
        self._is_over = False
        self._inbox = deque()
        self._failure = None
        self._looked = 0
        self._woken = asyncio.Event()
        self.reactor = Reactor()

    @property
    def is_over(self) -> bool:
        return self._is_over

    def _look(self) -> bool:
        found = self._looks.popleft() if self._looks else False
        self._is_over = self._settles and (found or self._is_over)
        return found

    @staticmethod
    def is_due(look: int) -> bool:
        return True

    async def _advance(self) -> bool:
        return False

    def _set_state(self, state: State, now_ns: int) -> None:
        return


async def test_what_is_served_on_the_way_to_waiting_is_looked_at() -> None:
    """Credit, an order, the last acknowledgement: none of them is told again."""
    loop = Resting([True])
    async with asyncio.timeout(5):
        await loop._pause(State.BLOCKED)
    loop.reactor.close()


@pytest.mark.parametrize("looks", [[False, True], [False, False, True]], ids=["around", "before it waits"])
async def test_the_end_is_seen_wherever_the_last_acknowledgement_is_served(looks: list[bool]) -> None:
    """While it looks around before it does something, and as it is about to wait."""
    loop = Resting(looks, settles=True)
    async with asyncio.timeout(5):
        await loop._drive()
    loop.reactor.close()


async def test_it_waits_where_nothing_comes() -> None:
    """It does not go round and round."""
    loop = Resting([])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await loop._pause(State.WAITING)
    loop.reactor.close()
