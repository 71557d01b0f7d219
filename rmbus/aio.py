"""The blocking names of `rmbus` as awaitable ones: `async with rmbus.aio.connect() as bus`.

No thread stands between a frame and whoever awaits it: the event loop watches the lanes itself. What may take a while
(to open, to close, to send what is large) is done in the loop's executor.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from rmbus import bus as blocking
from rmbus import topics
from rmbus.delivery import Delivery
from rmbus.handle import Handle
from rmbus.media import Frame
from rmbus.node import Needs
from rmbus.proxies import handle_of, make_proxy
from rmbus.remote import local_class
from rmbus.runtime.awaiting import awaited


class Publisher:
    """A topic of this script's own. An async context manager: leaving it ends the topic.

    Attributes:
        topic: its name.
    """

    def __init__(self, opened: topics.Publisher) -> None:
        self.topic = opened.topic
        self._publisher = opened

    @property
    def key_wanted(self) -> bool:
        """Whether somebody who reads the topic cannot decode what comes before the next key frame: force one."""
        return self._publisher.key_wanted

    async def send(self, value: object) -> None:
        """Send a value to whoever reads the topic; see `rmbus.topics.Publisher.send`.

        Raises:
            HostError: the host is gone. Closed: the publisher was closed. FormatError: this topic does not carry it.
        """
        if not self._publisher.send_at_once(value):
            await asyncio.to_thread(self._publisher.send, value)

    @asynccontextmanager
    async def loan(self, *, like: Frame) -> AsyncGenerator[Any]:
        """Lend a writable frame that is sent when the context ends without an error."""
        lent = self._publisher.loan(like=like)
        frame = await asyncio.to_thread(lent.__enter__)
        try:
            yield frame
        except BaseException:
            lent.__exit__(*sys.exc_info())
            raise
        await asyncio.to_thread(lent.__exit__, None, None, None)

    async def close(self) -> None:
        """End the topic, and wait until those who read it have had their time; harmless when it has ended."""
        await asyncio.to_thread(self._publisher.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._publisher.__exit__, kind, error, trace)


class Subscription(AsyncIterator[Frame]):
    """The frames of one topic, or of all that match a pattern, as they come; see `rmbus.topics.Subscription`.

    It begins with `async with`, or when the first frame is awaited.

    Attributes:
        pattern: what was asked for.
    """

    def __init__(self, pattern: str, begin: Callable[[], topics.Subscription]) -> None:
        self.pattern = pattern
        self._begin = begin
        self._subscription: topics.Subscription | None = None
        self._taking = asyncio.Lock()
        self._is_closed = False

    @property
    def dropped(self) -> dict[str, int]:
        """How many frames were dropped on their way here, by reason."""
        return {} if self._subscription is None else self._subscription.dropped

    async def __anext__(self) -> Frame:
        async with self._taking:
            if not self._is_closed:
                intake = (await self._opened()).intake
                intake.is_over |= self._is_closed  # meanwhile
                frame = await awaited(intake)
                if frame is not None:
                    return frame
                self._is_closed = True
                await self._end()
        raise StopAsyncIteration

    async def close(self) -> None:
        """End the iteration; harmless when it has ended."""
        self._is_closed = True
        if self._subscription is not None:
            self._subscription.intake.is_over = True
            self._subscription.intake.wake()
        async with self._taking:
            await self._end()

    async def __aenter__(self) -> Self:
        async with self._taking:
            await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _opened(self) -> topics.Subscription:
        if self._subscription is None:
            self._subscription = await asyncio.to_thread(self._begin)
        return self._subscription

    async def _end(self) -> None:
        if self._subscription is not None:
            await asyncio.to_thread(self._subscription.close)


_O = TypeVar("_O")


class Bus:
    """The topics and remote objects of a host on this machine.

    An async context manager: leaving it closes what was opened on it.

    Attributes:
        address: of the host.
    """

    def __init__(self, opened: blocking.Bus) -> None:
        self.address = opened.address
        self._bus = opened
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()

    def publish(self, topic: str, format: object = None) -> Opening[Publisher]:
        """Begin a topic, by `await` or `async with`; see `rmbus.Bus.publish`."""

        async def begin() -> Publisher:
            return Publisher(await asyncio.to_thread(self._bus.publish, topic, format))

        return Opening(begin)

    def subscribe(self, pattern: str, *, delivery: Delivery | None = None, last: bool = False) -> Subscription:
        """Read a topic, or all that match a pattern, by `async for`; see `rmbus.Bus.subscribe`."""
        opened = Subscription(pattern, lambda: self._bus.subscribe(pattern, delivery=delivery, last=last))
        self._subscriptions.add(opened)
        return opened

    async def ship(
        self,
        obj: _O,
        *,
        requirements: Sequence[str] | None = None,
        files: Sequence[str | Path] = (),
        env: str | None = None,
        needs: Needs | None = None,
    ) -> _O:
        """Let the host hold an object, and return its stand-in, whose every name is awaited; see `rmbus.Bus.ship`.

        What is cancelled while it is awaited is stopped at the far end too.
        """
        shipped = await asyncio.to_thread(
            lambda: self._bus.ship(obj, requirements=requirements, files=files, env=env, needs=needs)
        )
        return cast("_O", make_proxy(handle_of(shipped), type(obj), is_awaited=True))

    async def attach(self, id: str) -> Any:
        """Return a stand-in for an object that another process has shipped; see `rmbus.Bus.attach`."""
        holding = await asyncio.to_thread(self._bus.holding)
        about = await asyncio.to_thread(holding.attach, id)
        return make_proxy(Handle(holding, about), local_class(about.entry), is_awaited=True)

    async def fetch(self, proxy: _O) -> _O:
        """Bring the state of a remote object home; see `rmbus.Bus.fetch`."""
        return await asyncio.to_thread(self._bus.fetch, proxy)

    async def state(self, proxy: object) -> Any:
        """Return the state of a remote object, as data; see `rmbus.Bus.state`."""
        return await handle_of(proxy).do_async("state")

    async def restore(self, proxy: object, state: object) -> None:
        """Give a remote object a state; see `rmbus.Bus.restore`."""
        await handle_of(proxy).do_async("restore", value=state)

    async def replace(self, proxy: object, obj: _O) -> _O:
        """Give a remote object new code; see `rmbus.Bus.replace`."""
        new = await asyncio.to_thread(self._bus.replace, proxy, obj)
        return cast("_O", make_proxy(handle_of(new), type(obj), is_awaited=True))

    async def release(self, proxy: object) -> None:
        """End a remote object, also for others who hold it; see `rmbus.Bus.release`."""
        await asyncio.to_thread(self._bus.release, proxy)

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the remote objects of the host; see `rmbus.Bus.nodes`."""
        return await asyncio.to_thread(self._bus.nodes)

    async def status(self) -> dict[str, Any]:
        """Return how the host stands."""
        return await asyncio.to_thread(self._bus.status)

    async def close(self) -> None:
        """Close what was opened on the bus; harmless when that has been done."""
        await self.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for subscription in list(self._subscriptions):
            await subscription.close()
        await asyncio.to_thread(self._bus.__exit__, kind, error, trace)


_C = TypeVar("_C", bound=Bus | Publisher)


class Opening(Awaitable[_C], Generic[_C]):
    """What is opened by `await`, or by `async with` for as long as that lasts."""

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, _C]]) -> None:
        self._begin = begin
        self._opened: _C | None = None

    def __await__(self) -> Generator[Any, Any, _C]:
        return self._begin().__await__()

    async def __aenter__(self) -> _C:
        self._opened = await self._begin()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._opened is not None
        await self._opened.__aexit__(kind, error, trace)


def connect(address: str | None = None, *, key: str | None = None, timeout_s: float = 10.0) -> Opening[Bus]:
    """Connect to the bus of this user on this machine, by `await` or `async with`; see `rmbus.connect`.

    Raises:
        ConnectFailed: there is none.
    """

    async def begin() -> Bus:
        return Bus(await asyncio.to_thread(lambda: blocking.connect(address, key=key, timeout_s=timeout_s)))

    return Opening(begin)
