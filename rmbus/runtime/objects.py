"""A remote object in its process: what callers ask of it comes by edges, and is answered by edges.

Methods run in the main thread, one after the other in the order in which they were called, but for async ones, which
share it: they are tasks of its event loop. What a generator gives goes out as its caller asks for more. Each caller has
an edge of its own to the object and one from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterator
from functools import partial
from typing import Any, Final, TypeGuard

import numpy as np

from rmbus.errors import MalformedFrame, PackagingError, RmbusError
from rmbus.media import datum
from rmbus.protocol import lane, messages
from rmbus.protocol.calls import CALLS, MAX_TEXT, REPLIES, WINDOW, Reply, Request
from rmbus.protocol.frames import Kind
from rmbus.runtime.ends import TRIM_S, Ends
from rmbus.runtime.failures import describe, last_bytes, text_of, type_name
from rmbus.runtime.interrupts import Interrupted, Interrupts, Key
from rmbus.runtime.links import OTHER, Arrival, InputLink, OutputLink
from rmbus.runtime.loop import now_ns
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.outputs import OutputPort
from rmbus.shipping import pickling, returning
from rmbus.shipping.states import content_of, take_content
from rmbus.transport.counters import Page
from rmbus.transport.lanes import DealerLane, FastLane

MAX_FLOWS: Final = 256
"""Streams that one caller may have open at once."""

MAX_VOID: Final = 4096
"""Calls that were cancelled before they were seen."""


class Flow:
    """What a call gives one by one, and how many items its caller has asked for."""

    def __init__(self, steps: Iterator[Any] | AsyncIterator[Any], credit: int) -> None:
        self.steps = steps
        self.credit = credit
        self.task: asyncio.Task[None] | None = None


class ObjectLoop(Ends):
    """Serves one object until it is told to end.

    Args:
        page: of the process. memory: its shared memory.
    """

    def __init__(self, page: Page, memory: NodeMemory) -> None:
        super().__init__([], page, memory)
        self._page = page
        self._object: Any = None
        self._queue: deque[tuple[str, Request]] = deque()
        self._flows: dict[Key, Flow] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._waiting: dict[str, deque[Reply]] = {}
        self._void: dict[Key, None] = {}  # cancelled before they were seen
        self._failure: BaseException | None = None
        self._is_over = False
        self.reactor.call_later(TRIM_S, self._trim)

    @property
    def frame(self) -> None:
        """A remote object works on calls, not on frames."""

    def abort(self, error: BaseException) -> None:
        """Let `serve` raise; called from any thread."""

        def raise_it() -> None:
            raise error

        self.reactor.call_soon(raise_it)

    # --- orders, called through the reactor --------------------------------------------------------------------------

    def stop(self) -> None:
        """End when what was asked before is answered: what lies on the lanes is read first."""
        for link in self._inputs:
            if link.edge in self._lanes_in:
                self._read_out(link, self._lanes_in[link.edge])
        self._is_over = True

    def cancel(self, caller: str, call: int) -> None:
        """A caller does not wait for a call any more, or, with 0, has gone; called from the umbilical's thread."""
        key = (caller, call)
        running = self._interrupts.running
        if not call:
            if running is not None and running[0] == caller:
                self._interrupts.cancel(running)  # what else it has begun ends with its edges
        elif not self._interrupts.cancel(key):
            self.reactor.call_soon(partial(self._cancel, key))

    # --- running -----------------------------------------------------------------------------------------------------

    async def serve(self, obj: object) -> None:
        """Serve an object, in the main thread, until `stop`.

        Raises:
            Broken, ProtocolError: what an edge has brought.
        """
        self._object = obj
        self._interrupts = Interrupts()
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._loop.add_reader(self.reactor.fileno(), self._look_around)
        self._look_around()
        try:
            while not (self._is_over and not self._queue and not self._tasks):
                self._woken.clear()
                await self._woken.wait()
                if self._failure is not None:
                    raise self._failure
        finally:
            self._loop.remove_reader(self.reactor.fileno())

    def _look_around(self) -> None:
        """Take in what has come, and do one thing that was asked."""
        try:
            self.reactor.serve_once(wait=False)
            self._advance()
        except BaseException as error:  # noqa: BLE001 - raised by `serve`, whom everybody waits for
            self._failure = error
        if self._failure is not None or self._is_over:
            self._woken.set()

    def _advance(self) -> None:
        if self._queue:
            caller, request = self._queue.popleft()
            self._perform(caller, request)
        if self._queue:
            self._loop.call_soon(self._look_around)

    def _perform(self, caller: str, request: Request) -> None:
        key = (caller, request.call)
        if request.word == "next":
            self._pull(key, request.number)
        elif request.word == "close":
            self._close_flow(key)
        else:
            try:
                carry_out = partial(self._carry_out, request)
                outcome = self._interrupts.run(key, request.limit_ms / 1000, carry_out)
                self._give(key, outcome, request)
            except BaseException as error:  # noqa: BLE001 - the supervisor around user code
                self._fail(key, error, request)

    def _carry_out(self, request: Request) -> Any:
        """Do what is asked; the outcome may still have to be awaited."""
        obj, name = self._object, request.name
        if request.word == "get":
            return getattr(obj, name)
        if request.word == "state":
            return content_of(obj)
        value = pickling.load_arguments(request.pickle, request.buffers)
        if request.word == "set":
            return setattr(obj, name, value)
        if request.word == "restore":
            return take_content(obj, value)
        given, named = value
        return getattr(obj, name)(*given, **named)

    def _give(self, key: Key, outcome: Any, request: Request) -> None:
        """Answer with what a call has given, or when it has."""
        if type(outcome) in _PLAIN:
            self._answer_with(key, "value", outcome)
        elif inspect.isawaitable(outcome):
            limit_s = request.limit_ms / 1000 or None
            self._tasks[key] = self._loop.create_task(self._await(key, outcome, limit_s, request))
        elif _gives_items(outcome) and request.word == "call":
            self._begin_flow(key, outcome, request)
        else:
            self._answer_with(key, "value", outcome)

    async def _await(self, key: Key, outcome: Awaitable[Any], limit_s: float | None, request: Request) -> None:
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                value = await outcome
        except BaseException as error:  # noqa: BLE001 - the supervisor around user code
            late = isinstance(error, TimeoutError) and limit.expired()
            stopped = isinstance(error, asyncio.CancelledError)
            self._fail(key, Interrupted() if late or stopped else error, request, was_late=late)
        else:
            try:
                self._give(key, value, request)
            except BaseException as error:  # noqa: BLE001 - the supervisor around user code
                self._fail(key, error, request)
        finally:
            self._tasks.pop(key, None)
            self._woken.set()

    # --- streams -----------------------------------------------------------------------------------------------------

    def _begin_flow(self, key: Key, steps: Iterator[Any] | AsyncIterator[Any], request: Request) -> None:
        if sum(caller == key[0] for caller, _ in self._flows) >= MAX_FLOWS:
            self._fail(key, RmbusError(f"a caller may have {MAX_FLOWS} streams open at once: close some"), request)
            return
        self._flows[key] = Flow(steps, 0)
        self._answer(key, Reply(key[1], "flow"))
        self._pull(key, request.number)

    def _pull(self, key: Key, more: int) -> None:
        """The caller takes so many items more."""
        flow = self._flows.get(key)
        if flow is None:
            return  # it has ended meanwhile
        idle = flow.credit == 0
        flow.credit += more
        if isinstance(flow.steps, AsyncIterator):
            if flow.task is None:
                flow.task = self._loop.create_task(self._pull_async(key, flow, flow.steps))
        elif idle and more:
            self._step(key, flow, flow.steps)

    def _step(self, key: Key, flow: Flow, steps: Iterator[Any]) -> None:
        """Take one item; others have their turn before the next."""
        if self._flows.get(key) is not flow or not flow.credit:
            return
        flow.credit -= 1
        try:
            item = self._interrupts.run(key, 0, lambda: next(steps, _END))
        except BaseException as error:  # noqa: BLE001 - the supervisor around user code
            self._end_flow(key, error)
            return
        if item is _END:
            self._end_flow(key, None)
        elif self._answer_with(key, "item", item) and flow.credit:
            self._loop.call_soon(self._stepped, key, flow, steps)

    def _stepped(self, key: Key, flow: Flow, steps: Iterator[Any]) -> None:
        self._look_around()
        self._step(key, flow, steps)

    async def _pull_async(self, key: Key, flow: Flow, steps: AsyncIterator[Any]) -> None:
        try:
            while flow.credit:
                flow.credit -= 1
                item = await anext(steps, _END)
                if item is _END:
                    self._end_flow(key, None)
                    return
                if not self._answer_with(key, "item", item):
                    return
        except BaseException as error:  # noqa: BLE001 - the supervisor around user code
            self._end_flow(key, error)
        finally:
            flow.task = None

    def _end_flow(self, key: Key, error: BaseException | None) -> None:
        if self._flows.pop(key, None) is None:
            return
        if error is None:
            self._answer(key, Reply(key[1], "end"))
        else:
            self._answer(key, _raised(key[1], error))

    def _close_flow(self, key: Key) -> None:
        """The caller takes no more: let the generator clean up."""
        flow = self._flows.pop(key, None)
        if flow is None:
            return
        if flow.task is not None:
            flow.task.cancel()
        try:
            if not isinstance(flow.steps, AsyncIterator):
                self._interrupts.run(key, 0, partial(_close, flow.steps))
            elif inspect.isasyncgen(flow.steps) and flow.task is None:
                self._tasks[key] = self._loop.create_task(self._close_async(key, flow.steps))
                return
        except BaseException as error:  # noqa: BLE001 - the supervisor around user code
            self._answer(key, _raised(key[1], error))
            return
        self._answer(key, Reply(key[1], "end"))

    async def _close_async(self, key: Key, steps: Any) -> None:
        try:
            await steps.aclose()
            self._answer(key, Reply(key[1], "end"))
        except BaseException as error:  # noqa: BLE001 - the supervisor around user code
            self._answer(key, _raised(key[1], error))
        finally:
            self._tasks.pop(key, None)

    def _cancel(self, key: Key) -> None:
        """A call that waits, is awaited, or gives a stream is not wanted any more."""
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()
        elif key in self._flows:
            self._close_flow(key)
        else:
            found = [each for each in self._queue if (each[0], each[1].call) == key]
            for caller, request in found:
                self._queue.remove((caller, request))
                if request.word not in ("next", "close"):
                    self._answer(key, _cancelled(request.call))
            if not found:  # it has ended, or lies unread on its lane
                self._void[key] = None
                while len(self._void) > MAX_VOID:
                    del self._void[next(iter(self._void))]

    # --- answers -----------------------------------------------------------------------------------------------------

    def _answer_with(self, key: Key, word: str, value: object) -> bool:
        """Answer with a value; whether it can go."""
        try:
            data, buffers = returning.dump(value)
        except PackagingError as error:
            flow = self._flows.pop(key, None)
            self._answer(key, _raised(key[1], error))
            if flow is not None and isinstance(flow.steps, Iterator):
                with contextlib.suppress(Exception):  # what is told is the first error
                    _close(flow.steps)
            return False
        arrays = [np.frombuffer(buffer, np.uint8) for buffer in buffers]
        self._answer(key, Reply(key[1], word, told=data, buffers=arrays))
        return True

    def _fail(self, key: Key, error: BaseException, request: Request, *, was_late: bool | None = None) -> None:
        if isinstance(error, Interrupted):
            late = self._interrupts.was_late if was_late is None else was_late
            self._answer(key, _stopped(request, was_late=late))
        else:
            self._answer(key, _raised(key[1], error))

    def _answer(self, key: Key, reply: Reply) -> None:
        caller = key[0]
        port = self._ports.get(_replies(caller))
        if port is None:
            return  # it has gone
        if port.has_room and not self._waiting.get(caller):
            _send(port, reply)
        else:
            self._waiting.setdefault(caller, deque()).append(reply)

    def _send_waiting(self, caller: str) -> None:
        port, waiting = self._ports.get(_replies(caller)), self._waiting.get(caller)
        while waiting and port is not None and port.has_room:
            _send(port, waiting.popleft())

    # --- callers -----------------------------------------------------------------------------------------------------

    def add_output(self, message: messages.Output, page: Page, fast: int | None, on_up: Any) -> None:
        """A caller is to be answered by an edge of its own."""
        if message.port not in self._ports:
            self._ports[message.port] = self._new_port(message.port, self._page)
        super().add_output(message, page, fast, on_up)

    def gone(self, message: messages.Gone) -> None:
        """The other end of an edge is gone, and with it a caller."""
        watched = self._watched.get(message.edge)
        super().gone(message)
        if watched is not None:
            self._memory.end_pool(watched.port.name)
            self._ports.pop(watched.port.name, None)

    def _arrive(self, link: InputLink, message: lane.Message) -> None:
        value = link.take_value(message)
        if value is not OTHER:
            self._ask(link.port, value)
            link.tell_if_due()
            return
        for arrival in link.receive(message):
            if arrival.frame is None:
                self._control(link, arrival)
                continue
            link.begin(arrival, now_ns())
            self._ask(link.port, getattr(arrival.frame, "value", None))
            arrival.release()
            self._finish(link, arrival)

    def _ask(self, caller: str, value: object) -> None:
        """A caller asks something; what is no request, it is told."""
        try:
            self._take_in(caller, Request.of(value))
        except MalformedFrame as error:
            self._answer((caller, 0), _raised(0, error))

    def _take_in(self, caller: str, request: Request) -> None:
        if self._has_too_much(caller):
            raise MalformedFrame("a caller has asked for more at once than it may")
        if (caller, request.call) in self._void and request.word not in ("next", "close"):
            del self._void[caller, request.call]
            self._answer((caller, request.call), _cancelled(request.call))
        else:
            self._queue.append((caller, request))

    def _has_too_much(self, caller: str) -> bool:
        """Whether a caller has asked for more at once than one that keeps to the protocol."""
        most = WINDOW + 2 * MAX_FLOWS
        if len(self._queue) + len(self._tasks) <= most:
            return False
        return sum(each[0] == caller for each in (*self._queue, *self._tasks)) > most

    def _control(self, link: InputLink, arrival: Arrival) -> None:
        self._finish(link, arrival)
        if arrival.header.kind in _ENDS:
            link.ended = True
            self._forget_caller(link.port)
            if link.is_orphan:
                self._inputs.remove(link)

    def _without_producer(self, edge: int) -> None:
        super()._without_producer(edge)
        while self._inbox:
            arrival = self._inbox.popleft()
            self._control(arrival.link, arrival)

    def _forget_caller(self, caller: str) -> None:
        """Stop what a caller that has gone has begun."""
        self._queue = deque(each for each in self._queue if each[0] != caller)
        self._waiting.pop(caller, None)
        for key in [key for key in (*self._tasks, *self._flows) if key[0] == caller]:
            self._cancel(key)

    @staticmethod
    def _finish(link: InputLink, arrival: Arrival) -> None:
        if link.finish(arrival):
            link.tell()

    def _answered(self, port: Any, link: OutputLink, end: DealerLane | FastLane, on_up: Any) -> None:
        super()._answered(port, link, end, on_up)
        self._send_waiting(_caller(port.name))

    def _new_output(self, message: messages.Output, page: Page, end: DealerLane | FastLane) -> OutputLink:
        return OutputLink.of(message, page, end, self._memory.readers(message.edge))

    def _note_waiting(self) -> None:
        """What waits goes when its caller has room for it."""


_ENDS: Final = (Kind.EOS, Kind.ERROR)
_PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes, list, tuple, dict, np.ndarray))  # never awaited
_END: Final = object()


def _gives_items(outcome: object) -> TypeGuard[Iterator[Any] | AsyncIterator[Any]]:
    return isinstance(outcome, Iterator | AsyncIterator) and not isinstance(outcome, io.IOBase)


def _close(steps: Any) -> None:
    """Close a generator; another iterator has nothing to close."""
    if inspect.isgenerator(steps):
        steps.close()


def _send(port: OutputPort, reply: Reply) -> None:
    try:
        port.send(datum(reply.to_wire(), Any))
    except RmbusError as error:  # it is too large, say
        port.send(datum(_raised(reply.call, error).to_wire(), Any))


def _replies(caller: str) -> str:
    return REPLIES + caller.removeprefix(CALLS)


def _caller(port: str) -> str:
    return CALLS + port.removeprefix(REPLIES)


def _raised(call: int, error: BaseException) -> Reply:
    if isinstance(error, Interrupted | asyncio.CancelledError):
        return _cancelled(call)
    message, trace = last_bytes(text_of(error, MAX_TEXT), MAX_TEXT), last_bytes(describe(error), MAX_TEXT)
    return Reply(call, "raised", type_name(error), message, trace)


def _stopped(request: Request, *, was_late: bool) -> Reply:
    if was_late:
        message = f"{request.name or request.word} was stopped: it had not ended within {request.limit_ms / 1000:g} s"
        return Reply(request.call, "raised", "TimeoutError", message)
    return _cancelled(request.call)


def _cancelled(call: int) -> Reply:
    return Reply(call, "raised", "concurrent.futures._base.CancelledError", "the call was cancelled")
