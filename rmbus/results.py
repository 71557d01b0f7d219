"""What `Pipeline.process` returns: the frames that come out, for `for` and for `async for`."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Sequence
from typing import Any, Final, Protocol

from rmbus.errors import Closed
from rmbus.media import Frame
from rmbus.node import Input, Node, Output
from rmbus.pipeline import Pipeline
from rmbus.runtime.inline import open_ends

_WAITING: Final = 8
_END: Final = object()


class Results:
    """The frames that come out of a pipeline, as they come; closing it ends the run."""

    def __init__(
        self, frames: Callable[[], Generator[Frame]], frames_async: Callable[[], AsyncGenerator[Frame]]
    ) -> None:
        self._begin = frames
        self._begin_async = frames_async
        self._running: Generator[Frame] | None = None
        self._running_async: AsyncGenerator[Frame] | None = None

    def __iter__(self) -> Results:
        return self

    def __next__(self) -> Frame:
        if self._running is None:
            self._running = self._begin()
        return next(self._running)

    def __aiter__(self) -> Results:
        return self

    async def __anext__(self) -> Frame:
        if self._running_async is None:
            self._running_async = self._begin_async()
        return await anext(self._running_async)

    def close(self) -> None:
        """End the run; what is under way is thrown away."""
        if self._running is not None:
            self._running.close()

    async def aclose(self) -> None:
        """End a run that was read with `async for`."""
        if self._running_async is not None:
            await self._running_async.aclose()


class Feed(Node):
    """The script's end of a pipeline's open input: gives the items."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self.items = items

    def process(self) -> Any:
        """Return the items; they are pulled as there is room."""
        return _each_async(self.items) if isinstance(self.items, AsyncIterable) else iter(self.items)


class Collect(Node):
    """The script's end of a pipeline's open output: hands the frames over to whoever iterates."""

    frames = Input()

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(_WAITING)
        self._closed = threading.Event()

    def process(self, frame: Frame) -> None:
        """Wait until there is room for the frame."""
        self._put(frame)

    def flush(self) -> None:
        """Say that nothing more comes."""
        self._put(_END)

    def take(self, check: Callable[[], None]) -> Generator[Frame]:
        """Yield the frames; `check` is called before each, and raises what has failed."""
        while True:
            check()
            with contextlib.suppress(queue.Empty):
                frame = self._queue.get(timeout=0.2)
                if frame is _END:
                    return
                yield frame

    def close(self) -> None:
        """Let go of whoever waits for room."""
        self._closed.set()

    def _put(self, frame: object) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(frame, timeout=0.2)
                return
            except queue.Full:
                continue


class _Running(Protocol):
    def check(self) -> None: ...
    def wait(self) -> object: ...
    def kill(self) -> object: ...


Start = Callable[[Pipeline, Sequence[Node]], _Running]


def through_processes(
    pipeline: Pipeline, items: Iterable[Any] | AsyncIterable[Any], start: Start, stop: threading.Event
) -> Generator[Frame]:
    """Feed the one open input of a pipeline that runs in processes, and yield what its one open output gives.

    Args:
        pipeline: the pipeline. items: what to feed.
        start: starts a pipeline, some nodes of which run in this process.
        stop: set when nobody waits any more.
    """
    entry, end = open_ends(pipeline)
    feeder = type("Feed", (Feed,), {"out": Output(entry.format)})  # the input's format says what an array is
    feed, collect = feeder(items), Collect()
    whole = pipeline | _fed(feed, entry) | _collected(end, collect)
    session = start(whole, [feed, collect])

    def check() -> None:
        if stop.is_set():
            raise Closed("nobody waits for the results any more")
        session.check()

    try:
        yield from collect.take(check)
        session.wait()
    finally:
        collect.close()
        session.kill()


async def in_thread(frames: Generator[Frame], stop: threading.Event) -> AsyncGenerator[Frame]:
    """Iterate over a blocking generator without blocking the event loop; `stop` lets a pull of it end soon."""
    loop = asyncio.get_running_loop()
    coming: asyncio.Future[Frame | None] | None = None
    try:
        while True:
            coming = loop.run_in_executor(None, next, frames, None)
            frame = await asyncio.shield(coming)
            if frame is None:
                return
            yield frame
    finally:
        stop.set()
        if coming is not None:
            await asyncio.wait([coming])  # a generator cannot be closed while it runs
            coming.exception()  # of the wait that was given up
        await asyncio.to_thread(frames.close)


def _fed(feed: Feed, entry: Input) -> Pipeline:
    output = feed["out"]
    assert isinstance(output, Output)
    return output.to(entry)


def _collected(end: Output, collect: Collect) -> Pipeline:
    return end.to(collect)


async def _each_async(items: AsyncIterable[Any]) -> AsyncGenerator[Any]:
    async for item in items:
        yield item
