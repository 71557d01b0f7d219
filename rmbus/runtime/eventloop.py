"""One event loop in a thread of its own, for a node whose code is async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_END: Final = object()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class EventLoop:
    """Runs coroutines and async iterators for a thread that waits for each of their steps."""

    def __init__(self) -> None:
        self._running: Future[asyncio.AbstractEventLoop] = Future()
        self._stop = asyncio.Event()
        self._tasks: set[_Task] = set()
        self._current: _Task | None = None
        self._thread = threading.Thread(target=self._serve, name="rmbus-async", daemon=True)
        self._thread.start()
        self._loop = self._running.result()

    def call(self, coroutine: Coroutine[Any, Any, _T]) -> _T | None:
        """Run a coroutine to its end and return what it gives; None where `cancel` ended it.

        Raises:
            whatever it raises, as it is.
        """
        result: Future[Any] = Future()

        async def run() -> None:
            result.set_result(await coroutine)

        task = self.start(run, lambda error: None if result.done() else result.set_exception(error or _no_result()))
        return self.outcome(task, result)

    def iterate(self, steps: AsyncIterator[Any]) -> Iterator[Any]:
        """Return an iterator: each pull runs the async one to its next value. Closing it closes the async one."""
        return _Steps(self, steps)

    def cancel(self) -> None:
        """Cancel the step that runs now. From any thread; who waits for it goes on when its clean-up has ended."""
        task = self._current
        if task is not None:
            self.soon(task.cancel)

    def close(self) -> None:
        """Cancel what is left, shut async generators down, and end the thread."""
        if self._thread.is_alive():
            self.soon(self._stop.set)
            self._thread.join()

    # --- for the iterator below --------------------------------------------------------------------------------------

    @property
    def is_here(self) -> bool:
        """Whether the caller runs in this loop's thread, so that waiting for it would never end."""
        return threading.current_thread() is self._thread

    def start(
        self, run: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[BaseException | None], None]
    ) -> _Task:
        """Start a task; `ended` is called in the loop's thread with what it raised."""
        task = _Task(run, ended)
        self.soon(task.start, self._tasks)
        return task

    def soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Call something in the loop's thread, in order."""
        self._loop.call_soon_threadsafe(call, *arguments)

    def outcome(self, task: _Task, result: Future[_T]) -> _T | None:
        """Wait for a step of a task; None where the task was cancelled from here."""
        self._current = task
        try:
            error = result.exception()
        finally:
            self._current = None
        if error is None:
            return result.result()
        if isinstance(error, asyncio.CancelledError) and task.is_cancelled:
            return None
        raise error

    def _serve(self) -> None:
        async def wait() -> None:
            self._running.set_result(asyncio.get_running_loop())
            await self._stop.wait()
            for task in list(self._tasks):
                task.cancel()
            while self._tasks:
                await asyncio.wait({each.task for each in self._tasks if each.task is not None})

        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(wait())


def _no_result() -> BaseException:
    return asyncio.CancelledError()


class _Task:
    """A task of the loop that another thread waits for. All but `is_cancelled` belongs to the loop's thread."""

    def __init__(
        self, run: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[BaseException | None], None]
    ) -> None:
        self.task: asyncio.Task[BaseException | None] | None = None
        self.is_cancelled = False
        self._run, self._ended = run, ended

    def start(self, tasks: set[_Task]) -> None:
        """Start it, and keep it in the set until it has ended."""
        tasks.add(self)
        self.task = asyncio.get_running_loop().create_task(self._guarded())
        self.task.add_done_callback(lambda task: self._finished(task, tasks))

    def cancel(self) -> None:
        """Cancel it."""
        if self.task is not None and not self.task.done():
            self.is_cancelled = True
            self.task.cancel()

    async def _guarded(self) -> BaseException | None:
        """Return what it raised: SystemExit out of a task would end the loop."""
        try:
            await self._run()
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits, which raises it
            return error
        return None

    def _finished(self, task: asyncio.Task[BaseException | None], tasks: set[_Task]) -> None:
        tasks.discard(self)
        self._ended(asyncio.CancelledError() if task.cancelled() else task.result())


class _Steps(Iterator[Any]):
    """An async iterator, pulled from another thread. One task runs it all, so that its `async with` may span yields."""

    def __init__(self, loop: EventLoop, steps: AsyncIterator[Any]) -> None:
        self._loop, self._steps = loop, steps
        self._asks: asyncio.Queue[Future[Any] | None] = asyncio.Queue()
        self._asked: Future[Any] | None = None
        self._ended: Future[BaseException | None] = Future()
        self._task = loop.start(self._serve, self._finished)

    def __next__(self) -> Any:
        if self._ended.done():
            raise StopIteration
        ask: Future[Any] = Future()
        self._loop.soon(self._ask, ask)
        value = self._loop.outcome(self._task, ask)
        if value is _END or not ask.done() or ask.exception() is not None:
            raise StopIteration
        return value

    def close(self) -> None:
        """Close the async iterator, and wait until it has ended.

        Raises:
            whatever its clean-up raises, as it is.
        """
        if self._ended.done() or self._loop.is_here:
            return
        self._loop.soon(self._ask, None)
        error = self._ended.result()
        if error is not None and not isinstance(error, asyncio.CancelledError):
            raise error

    def _ask(self, ask: Future[Any] | None) -> None:
        if not self._ended.done():
            self._asks.put_nowait(ask)
        elif ask is not None:
            ask.set_result(_END)

    async def _serve(self) -> None:
        try:
            while (ask := await self._asks.get()) is not None:
                self._asked = ask
                value = await anext(self._steps, _END)
                self._asked = None
                ask.set_result(value)
                if value is _END:
                    return
        finally:
            close = getattr(self._steps, "aclose", None)
            if close is not None:
                await close()

    def _finished(self, error: BaseException | None) -> None:
        """Answer whoever still asks, the one whose step has raised with what it raised."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.set_exception(error or _no_result())
        self._ended.set_result(None if asked is not None else error)
        while not self._asks.empty():
            waiting = self._asks.get_nowait()
            if waiting is not None:
                waiting.set_result(_END)
