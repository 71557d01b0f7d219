"""One remote object, as a script holds it: it asks, and makes of the answers a value, an error or an iterator."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final

from rmbus.errors import HostError, RmbusError, node_error
from rmbus.protocol.calls import WINDOW, Reply
from rmbus.remote import About, Holding
from rmbus.runtime.answering import Waiting
from rmbus.runtime.caller import Answers, Caller
from rmbus.shipping import pickling, returning

LATE_S: Final = 5.0
"""How much longer than its time a call is waited for, which its host should have ended."""

ITEMS: Final = 16
"""Items of a stream that come ahead of what is taken."""

AHEAD: Final = 8
"""Calls under way at once where one method is called with many items."""

_NO_NAMES: Final[dict[str, Any]] = {}


class Handle:
    """One remote object, as this script holds it.

    Attributes:
        about: what is known of it. local: the object that was shipped, None where it was attached to.
    """

    def __init__(self, holding: Holding, about: About, local: object = None) -> None:
        self.about = about
        self.local = local
        self._holding = holding
        self._opening = threading.Lock()
        self._callers: list[Caller] = []  # one, when something has been asked
        weakref.finalize(self, _leave_beside, self._callers)
        self._room: SimpleQueue[bool] = SimpleQueue()  # a semaphore whose hands are quick: one item is one call's room
        for _ in range(WINDOW):
            self._room.put(True)
        self._room_async = asyncio.Semaphore(WINDOW)
        self._waiting: Waiting | None = None

    def caller(self) -> Caller:
        """Return the end that calls go by; a new one where the object has been replaced.

        Raises:
            NodeError, HostError: the object, or its host, is gone.
        """
        for caller in self._callers[:]:
            if caller.reactor.is_called:
                caller.serve_at_once()  # it has been told something meanwhile
            if caller.failure is None:
                return caller
        with self._opening:
            if not self._callers or self._callers[0].failure is not None:
                before = self._callers[0].failure if self._callers else None
                try:
                    end = self._holding.call_end(self.about)  # it may have been replaced
                except HostError as error:
                    if before is None:
                        raise
                    raise HostError(f"{error}: {before}", host=error.host) from before
                self._leave()
                self._callers.append(end)
            return self._callers[0]

    @property
    def has_failed(self) -> bool:
        """Whether the object is known to be gone."""
        return any(caller.failure is not None for caller in self._callers)

    def begin_anew(self) -> None:
        """The object has ended, or has been replaced: the next call goes to what is there then."""
        with self._opening:
            self._leave()

    def _leave(self) -> None:
        while self._callers:
            self._callers.pop().close()

    def do(self, word: str, name: str = "", value: object = None, *, limit_s: float | None = None) -> Any:
        """Ask something of the object, and wait for what comes of it; an iterator where items come.

        Args:
            word, name: see `rmbus.protocol.calls.Request`. value: what goes with it. limit_s: how long it may take.

        Raises:
            NodeError: its code has raised; also of the original type. TimeoutError: its time was over, and it was
            stopped. HostError: its host is gone. PackagingError: a value cannot travel.
        """
        pickled = pickling.dump_arguments(value)
        caller = self.caller()
        answers = Answers(ITEMS)
        has_room = False
        try:
            has_room = self._room.get()
            caller.ask(answers, word, name, pickled, limit_s=limit_s)
            reply = caller.wait(answers, None if limit_s is None else limit_s + LATE_S)
            if reply.word == "flow":
                return Items(self, caller, answers)
        except RmbusError:
            raise
        except BaseException:  # its time is over, or a signal: nobody waits any more
            caller.cancel(answers)
            raise
        finally:
            if has_room:
                self._room.put(True)
        return self.read(reply)

    def run(self, name: str, *args: object, limit_s: float | None = None) -> Any:
        """Call a method, and wait for what it returns; see `do`."""
        return self.do("call", name, (args, _NO_NAMES), limit_s=limit_s)

    def each(self, name: str, items: Iterable[object]) -> Generator[Any]:
        """Call a method with one item after the other, a few of them ahead, and yield what it returns."""
        caller = self.caller()
        under_way: deque[Answers] = deque()
        try:
            for item in items:
                pickled = pickling.dump_arguments(((item,), _NO_NAMES))
                under_way.append(Answers())
                caller.ask(under_way[-1], "call", name, pickled)
                if len(under_way) >= AHEAD:
                    yield self._next(caller, under_way)
            while under_way:
                yield self._next(caller, under_way)
        finally:
            for answers in under_way:
                caller.cancel(answers)

    def _next(self, caller: Caller, under_way: deque[Answers]) -> Any:
        """Wait for the first of what is under way; it stays there where the wait is interrupted."""
        reply = caller.wait(under_way[0])
        under_way.popleft()
        return self.read(reply)

    async def do_async(self, word: str, name: str = "", value: object = None) -> Any:
        """Do what `do` does, awaited; an async iterator where items come. Cancelled, it is stopped at the far end."""
        pickled = pickling.dump_arguments(value)
        async with self._room_async:
            waiting = await self._waiting_in_loop()
            answers = Answers(ITEMS)
            try:
                waiting.caller.ask(answers, word, name, pickled)
            except RmbusError:
                raise
            except BaseException:  # a signal: nobody waits any more
                waiting.caller.cancel(answers)
                raise
            reply = await waiting.reply(answers)
        if reply.word == "flow":
            return self._items_async(waiting, answers)
        return self.read(reply)

    async def _waiting_in_loop(self) -> Waiting:
        waiting = self._waiting
        if waiting is not None and waiting.caller.failure is None:
            return waiting
        caller = await asyncio.to_thread(self.caller)
        if self._waiting is None or self._waiting.caller is not caller:  # another task may have been quicker
            self._waiting = Waiting(caller)
        return self._waiting

    async def _items_async(self, waiting: Waiting, answers: Answers) -> AsyncGenerator[Any]:
        taken = itertools.count(1)
        caller = waiting.caller
        try:
            while True:
                reply = await waiting.reply(answers)
                if reply.word == "end":
                    return
                value = self.read(reply)
                if next(taken) % (ITEMS // 2) == 0 and not answers.is_over:
                    caller.ask_more(answers, ITEMS // 2)
                yield value
        finally:
            if not answers.is_over and caller.failure is None:
                caller.close_flow(answers)

    def read(self, reply: Reply) -> Any:
        """Return the value of a reply; raise what it says was raised."""
        if reply.word != "raised":
            return returning.load(reply.told, reply.buffers)
        raise node_error(
            reply.message,
            node=self.about.name,
            host=self.about.host,
            type_name=reply.type_name,
            traceback_text=reply.traceback,
        )


class Items(Iterator[Any]):
    """The items of a stream as they come; each that is taken lets another come. `close` ends it at the far end too."""

    def __init__(self, handle: Handle, caller: Caller, answers: Answers) -> None:
        self._handle, self._caller, self._answers = handle, caller, answers
        self._taken = itertools.count(1)
        self._end = weakref.finalize(self, _close_beside, caller, answers)

    def __next__(self) -> Any:
        if not self._end.alive:
            raise StopIteration
        try:
            reply = self._caller.wait(self._answers)
            if reply.word != "end":
                value = self._handle.read(reply)
                if next(self._taken) % (ITEMS // 2) == 0 and not self._answers.is_over:
                    self._caller.ask_more(self._answers, ITEMS // 2)
                return value
        except RmbusError:
            self.close()
            raise
        except BaseException:  # a signal: nobody waits any more
            self._caller.cancel(self._answers)
            self.close()
            raise
        self._end.detach()
        raise StopIteration

    def close(self) -> None:
        """Take no more; the generator is closed."""
        if self._end.detach():
            _close(self._caller, self._answers)


def _close(caller: Caller, answers: Answers) -> None:
    with suppress(RmbusError):  # it is gone already
        if not answers.is_over and caller.failure is None:
            caller.close_flow(answers)


def _close_beside(caller: Caller, answers: Answers) -> None:
    """Close a stream that was forgotten: in a thread, for this one may be in the middle of anything."""
    threading.Thread(target=_close, args=(caller, answers), name="rmbus-close", daemon=True).start()


def _leave_beside(callers: list[Caller]) -> None:
    """Leave an object whose stand-in was forgotten."""
    for caller in callers:
        threading.Thread(target=caller.close, name="rmbus-leave", daemon=True).start()
