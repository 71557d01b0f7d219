"""The data thread of a node whose `process` is async: the thread of its event loop, so that nothing is handed over.

The lanes are served whenever they have something, also while the node's code awaits; what has come by then is worked
off in one go. A new turn, or the end of a run, cancels what is awaited.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing

from rmbus.protocol.frames import Kind
from rmbus.runtime.ends import TRIM_S
from rmbus.runtime.invoke import AsyncEmissions, Emission
from rmbus.runtime.links import Arrival
from rmbus.runtime.loop import NodeLoop, now_ns
from rmbus.transport.counters import State


class CooperativeLoop(NodeLoop):
    """Runs one node whose code is async, until its inputs have ended."""

    def run(self) -> None:
        """Serve until the node has ended and all that it sent is processed; see `NodeLoop.run`."""
        self._failure: BaseException | None = None
        self._limit: asyncio.Timeout | None = None
        self._over: deque[str] = deque()
        self._keys: deque[str] = deque()
        self._looked = 0
        self._will_attend = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._invoker.run_in_loop(self._drive)

    async def _drive(self) -> None:
        self._woken = asyncio.Event()
        loop = self._loop = asyncio.get_running_loop()
        loop.add_reader(self.reactor.fileno(), self._readable)
        self._tick()
        try:
            while not self.is_over:
                await self._look_around()
                if not await self._advance() and not self.is_over:
                    await self._pause(State.WAITING)
            self._set_state(State.ENDED, now_ns())
        finally:
            self._loop = None
            loop.remove_reader(self.reactor.fileno())
            self._timer.cancel()

    async def _look_around(self) -> None:
        """Serve the lanes, and let the node's other tasks have their turn, when it is time for that."""
        if self.is_due(self._looked):
            await asyncio.sleep(0)
            self._serve()

    async def _advance(self) -> bool:
        """Do one thing, if there is one to do."""
        if self._failure is not None:
            raise self._failure
        if self._keys:
            await self._tell_keys()
        elif self._over:
            await self._invoker.ended_async(self._over.popleft())
        elif self._inbox:
            await self._handle(self._inbox.popleft())
        elif self._is_source and self._may_start and not self._has_begun:
            self._has_begun = True
            await self._work(self._invoker.source_async())
        elif self._ended or not self._may_start or not all(link.ended for link in self._inputs):
            return False
        elif not self._flushed:
            self._note_flush()
            await self._work(self._invoker.flush_async())
        else:
            self._end()
        return True

    async def _handle(self, arrival: Arrival) -> None:
        if arrival.frame is not None:
            self._note_begin(arrival)
            await self._work(self._invoker.process_async(arrival.frame, arrival.link.port))
            self._finish()
        elif arrival.header.kind == Kind.INTERRUPT:
            self._drop_older(arrival)
            number = self._turns.number_of(arrival)
            if self._turns.is_new(number, self._inputs):
                await self._invoker.interrupted_async()
                for port in self._ports.values():
                    port.interrupt(number)
            elif self._turns.lags(number, arrival.link):
                await self._invoker.interrupted_async()
            self._credit(arrival)
        else:
            self._control(arrival)

    async def _work(self, emissions: AsyncEmissions) -> None:
        """Send what the node's code emits, until it is through, or is cancelled."""
        try:
            async with asyncio.timeout(None) as self._limit, aclosing(emissions):
                async for emission in emissions:
                    await self._give(emission)
        except TimeoutError:
            if self._limit is None or not self._limit.expired():
                raise  # the node's own
            self._let_go()
        finally:
            self._limit = None

    async def _give(self, emission: Emission) -> None:
        while not self._release(emission):
            await self._pause(State.BLOCKED)
            await self._tell_keys()
        await self._look_around()  # it may await nothing of itself
        await self._tell_keys()

    async def _tell_keys(self) -> None:
        while self._keys:
            if await self._invoker.key_wanted_async(self._keys.popleft()):
                self._ask_for_keys()

    async def _pause(self, state: State) -> None:
        """Wait until a lane, or anybody else, has something."""
        self._woken.clear()
        self._serve()
        if self._failure is None and not self._woken.is_set():
            self._set_state(state, now_ns())
            await self._woken.wait()

    # --- called by the event loop ------------------------------------------------------------------------------------

    def _readable(self) -> None:
        self._serve()
        self._woken.set()

    def _serve(self) -> None:
        """Take in what has come; if anything has, whoever waits looks anew at what he waits for."""
        before, served = len(self._inbox), False
        try:
            served = self._look()
        except BaseException as error:  # noqa: BLE001  # raised by `_advance`, in the task that everybody waits for
            self._failed_in_loop(error)
        self._looked = now_ns()
        if served or len(self._inbox) != before:
            self._woken.set()

    def _failed_in_loop(self, error: BaseException) -> None:
        self._failure = error
        self._cancel_work()

    def _tick(self) -> None:
        """Let the reactor's timers have their time."""
        self._timer = asyncio.get_running_loop().call_later(TRIM_S, self._tick)
        self._serve()

    def _note_waiting(self) -> None:
        """Frames are held for a batch: that is sent as soon as the node's code awaits something."""
        if self._loop is not None and not self._will_attend:
            self._will_attend = True
            self._loop.call_soon(self._send_what_waits)

    def _send_what_waits(self) -> None:
        self._will_attend = False
        try:
            self._attend()
        except BaseException as error:  # noqa: BLE001  # raised by `_advance`, in the task that everybody waits for
            self._failed_in_loop(error)

    # --- what the served lanes and orders do --------------------------------------------------------------------------

    def _interrupt(self, arrival: Arrival) -> None:
        """An interrupt overtakes what waits, and cancels what is made of an older turn."""
        self._inbox.appendleft(arrival)
        if self._current is not None and self._current.link is arrival.link:
            self._cancel_work()

    def _key_wanted(self, port: str) -> None:
        self._keys.append(port)
        self._woken.set()

    def _close_running(self) -> None:
        self._cancel_work()
        self._woken.set()

    def _tell_ended(self, port: str) -> None:
        self._over.append(port)

    def _cancel_work(self) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())
