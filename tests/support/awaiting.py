"""Nodes whose code is async, that tests run in processes of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from rmbus import Interrupt, Node


class AsyncDouble(Node):
    """Awaits before it answers, and sees that everything of it runs in one thread and one loop."""

    async def initialize(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()

    async def process(self, frame: Any) -> int:
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is self.loop
        assert threading.get_ident() == self.thread
        return 2 * int(frame.value)

    async def flush(self) -> int:
        await asyncio.sleep(0)
        return -1


class AsyncTwice(Node):
    """Emits each value twice, awaiting in between."""

    async def process(self, frame: Any) -> AsyncIterator[int]:
        yield frame.value
        await asyncio.sleep(0)
        yield frame.value


class AsyncCount(Node):
    """A source."""

    def __init__(self, n: int) -> None:
        self.n = n

    async def process(self) -> AsyncIterator[int]:
        for number in range(self.n):
            await asyncio.sleep(0)
            yield number


class Background(Node):
    """Has a task of its own, which goes on between frames; answers with how often it has turned."""

    async def initialize(self) -> None:
        self.turns = 0
        self.task = asyncio.get_running_loop().create_task(self.turn())

    async def turn(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0.005)

    async def process(self, frame: Any) -> int:
        return self.turns

    async def cleanup(self) -> None:
        self.task.cancel()


class AsyncFail(Node):
    async def process(self, frame: Any) -> Any:
        await asyncio.sleep(0)
        if frame.value == 3:
            raise LookupError("three is too many")
        return frame.value


class OwnTimeout(Node):
    async def process(self, frame: Any) -> Any:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(30)


class Turns(Node):
    """A source that sends 1, waits until that is being worked on, and begins a new turn with 2."""

    async def process(self) -> AsyncIterator[Any]:
        yield 1
        await asyncio.sleep(0.5)
        yield Interrupt()
        yield 2


class Sleeper(Node):
    """Awaits for a minute where it is given 1; tells how it fared."""

    async def process(self, frame: Any) -> Any:
        try:
            if frame.value == 1:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled")
            raise
        return frame.value

    async def interrupted(self) -> None:
        print("interrupted")
