"""The two ends of a topic in a script: a publisher of values, and a subscription to iterate over."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rmbus.media import Frame
from rmbus.runtime.awaiting import Intake
from rmbus.runtime.loans import model_of
from rmbus.runtime.outlet import Outlet
from rmbus.runtime.outputs import END_S


class Publisher:
    """A topic of this script's own. Any thread may send; a context manager, leaving it ends the topic.

    Attributes:
        topic: its name.
    """

    def __init__(self, topic: str, opened: Outlet) -> None:
        self.topic = topic
        self._outlet = opened
        self._end = weakref.finalize(self, opened.close, END_S)  # a script may forget to close it

    @property
    def key_wanted(self) -> bool:
        """Whether somebody who reads the topic cannot decode what comes before the next key frame: force one."""
        return self._outlet.key_wanted

    def send(self, value: object) -> None:
        """Send a value to whoever reads the topic; it may be changed afterwards.

        Args:
            value: a frame, an array, or any value that `Data` can hold; with `Interrupt()` a new turn begins.

        Raises:
            HostError: the host is gone. Closed: the publisher was closed. FormatError: this topic does not carry it.
        """
        self._outlet.send(value)

    def send_at_once(self, value: object) -> bool:
        """Send a value, as `send` does, unless that might mean to wait; whether it was sent."""
        return self._outlet.send_at_once(value)

    @contextmanager
    def loan(self, *, like: Frame) -> Generator[Any]:
        """Lend a writable frame that is sent when the context ends without an error.

        Args:
            like: a video or audio frame whose header, format and size the new one takes.
        """
        lent = self._outlet.lend(model_of(like))
        yield lent.frame
        self._outlet.send(lent.finish())

    def close(self, *, timeout_s: float = END_S) -> None:
        """End the topic, and wait until those who read it have had their time; harmless when it has ended."""
        self._end.detach()
        self._outlet.close(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(timeout_s=0 if error else END_S)


class Subscription(Iterator[Frame]):
    """The frames of one topic, or of all that match a pattern, as they come.

    The next one is asked for when this one has been dealt with: meanwhile others wait, or are dropped. With the name of
    one topic the iteration ends with that. A frame that is kept stays as it is, also after `close()`. It is a context
    manager, and one thread at a time may iterate.

    Attributes:
        pattern: what was asked for. intake: where the frames are taken from; not for scripts.
    """

    def __init__(self, pattern: str, opened: Intake) -> None:
        self.pattern = pattern
        self.intake = opened
        self._end = weakref.finalize(self, opened.close)  # a script may forget to close it
        self._reading = threading.Lock()
        self._reader: int | None = None
        self._is_closed = False

    @property
    def dropped(self) -> dict[str, int]:
        """How many frames were dropped on their way here, by reason."""
        return self.intake.dropped

    def __next__(self) -> Frame:
        with self._reading:
            self._reader = threading.get_ident()
            try:
                while not self._is_closed:
                    frame = self.intake.take(wait=True)
                    if frame is not None:
                        return frame
                    if self.intake.is_over:
                        break
            finally:
                self._reader = None
            self._end()
        raise StopIteration

    def close(self) -> None:
        """End the iteration, from any thread; harmless when it has ended."""
        self._is_closed = True
        self.intake.wake()
        if self._reader != threading.get_ident():  # else a signal has come in between, and the iteration ends next
            with self._reading:
                self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
