"""Taking frames in an event loop: the descriptor of an intake is watched, and no thread stands between."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from rmbus.media import Frame


class Intake(Protocol):
    """Where frames are taken from. All but `dropped` and `wake` is for one thread at a time.

    Attributes:
        is_over: whether nothing more comes.
    """

    is_over: bool

    @property
    def look_s(self) -> float | None:
        """How often `take` is to be called where it is not waited in, though nothing has come; None: never."""
        ...

    @property
    def dropped(self) -> dict[str, int]:
        """How many frames were dropped, by reason."""
        ...

    def fileno(self) -> int:
        """Return a descriptor that is readable when `take` may have something."""
        ...

    def wake(self) -> None:
        """Let a `take` that waits return."""
        ...

    def take(self, *, wait: bool) -> Frame | None:
        """Return the next frame, or None where there is none."""
        ...

    def close(self) -> None:
        """End it; harmless when it has ended."""
        ...


async def awaited(intake: Intake) -> Frame | None:
    """Return the next frame; None where nothing more comes."""
    while True:
        frame = intake.take(wait=False)
        if frame is not None or intake.is_over:
            return frame
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(intake.look_s):
                await _readable(intake.fileno())


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
