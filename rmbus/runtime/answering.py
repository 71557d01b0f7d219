"""Waiting in an event loop for what a remote object answers: it watches the edges itself, with no thread between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rmbus.protocol.calls import Reply
from rmbus.runtime.caller import Answers, Caller


class Waiting:
    """Serves one caller's end in one event loop, as long as somebody there waits for an answer."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self._count = 0

    async def reply(self, answers: Answers) -> Reply:
        """Return the next reply to a call. Whoever is cancelled meanwhile waits for it no more, nor does the far end.

        Raises:
            NodeError, HostError: the object, or its host, is gone.
        """
        loop = asyncio.get_running_loop()
        self._watch(loop, +1)
        try:
            while not answers.replies and self.caller.failure is None:
                come: asyncio.Future[None] = loop.create_future()
                answers.on_come = _teller(loop, come)
                await come
        except asyncio.CancelledError:
            self.caller.cancel(answers)
            raise
        finally:
            answers.on_come = None  # this loop may have ended when the rest comes
            self._watch(loop, -1)
        return self.caller.taken(answers)

    def _watch(self, loop: asyncio.AbstractEventLoop, change: int) -> None:
        before, self._count = self._count, self._count + change
        if not before:
            loop.add_reader(self.caller.reactor.fileno(), self.caller.serve_at_once)
        elif not self._count:
            loop.remove_reader(self.caller.reactor.fileno())


def _teller(loop: asyncio.AbstractEventLoop, come: asyncio.Future[None]) -> Callable[[], object]:
    """Return what tells it in the loop: it may be another thread that serves."""
    return lambda: loop.call_soon_threadsafe(_set, come)


def _set(come: asyncio.Future[None]) -> None:
    if not come.done():
        come.set_result(None)
