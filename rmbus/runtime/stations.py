"""A node in an inline run, with its edges."""

from __future__ import annotations

import itertools
import time
import traceback
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import attrs

from rmbus.delivery import latest
from rmbus.errors import FormatError, NodeError, node_error
from rmbus.formats import show
from rmbus.framing import own
from rmbus.media import Frame, read_only_advice
from rmbus.node import Interrupt
from rmbus.runtime.invoke import Emission, Invoker
from rmbus.runtime.keys import KEY_S, latest_advice
from rmbus.runtime.queues import Link, key_of


@attrs.frozen
class NodeCount:
    """What a node did: frames given to `process`, frames that it sent, and frames that it failed on and skipped."""

    name: str
    frames_in: int
    frames_out: int
    skipped: int = 0


@attrs.define(eq=False)
class Station:
    """A node in an inline run: what it works on, and its edges.

    Attributes:
        topic: the beginning of its topics, `pipeline/node`.
        frame: the number of the frame that its code was given last, counted from 0 for each input; None at other times.
        running: what it still emits. held: what it has emitted and nobody had room for.
    """

    name: str
    topic: str
    invoker: Invoker
    skips: bool
    inputs: list[Link] = attrs.field(factory=list[Link])
    outputs: dict[str, list[Link]] = attrs.field(factory=dict[str, list[Link]])
    running: Iterator[Emission] | None = None
    held: Emission | None = None
    frame: int | None = None
    started: bool = False
    flushed: bool = False
    ended: bool = False
    frames_in: int = 0
    frames_out: int = 0
    skipped: int = 0
    _over: set[str] = attrs.field(factory=set[str])
    _told_of_keys: dict[str, float] = attrs.field(factory=dict[str, float])
    _given: Counter[str] = attrs.field(factory=Counter[str])
    _sent: Counter[str] = attrs.field(factory=Counter[str])

    def step(self) -> bool:
        """Do one thing, if there is one to do."""
        if self.ended:
            return False
        if self.held is not None:
            return self._release(self.held)
        if self.running is not None:
            self._pull(self.running)
            return True
        waiting = [link for link in self.inputs if link.queue]
        if waiting:
            self._begin(min(waiting, key=lambda link: link.queue[0][0]))
            return True
        going = {link.port for link in self.inputs if not link.is_over}
        for port in (link.port for link in self.inputs):
            if port not in going and port not in self._over:
                self._over.add(port)
                with self.user_code():
                    self.invoker.ended(port)
                return True
        if self.invoker.is_source and not self.started:
            self.started = True
            with self.user_code():
                self.running = self.invoker.source()
            return True
        if self.flushed or all(link.ended for link in self.inputs):
            self.finish()
            return True
        return False

    def finish(self) -> None:
        """Flush, and when that has been done, end."""
        self.started = True
        if not self.flushed:
            self.flushed = True
            self.frame = None
            with self.user_code():
                self.running = iter(self.invoker.flush())
            return
        self.ended = True
        for link in self.inputs:
            link.close()
        for link in itertools.chain.from_iterable(self.outputs.values()):
            link.ended = True

    def drain(self) -> None:
        """End a source: what it has emitted is finished."""
        if self.invoker.is_source and not self.flushed:
            self.started = True
            self.stop_running()

    def stop_running(self) -> None:
        """Close what the node's code is in the middle of."""
        running, self.running, self.held = self.running, None, None
        close = getattr(running, "close", None)
        if close is not None:
            with self.user_code():
                close()

    def interrupt(self, port: str | None, told: set[int]) -> None:
        """Begin a new turn on an output, or on all, and on everything downstream."""
        for name, links in self.outputs.items():
            if port is None or name == port:
                for link in links:
                    link.drop_all("interrupted")
                    _tell(link, told)

    @contextmanager
    def user_code(self) -> Generator[None]:
        """Give what the user's code raises its place."""
        try:
            yield
        except NodeError:
            raise
        except Exception as error:
            raise self._failure(error) from error

    def count(self) -> NodeCount:
        """Return the account."""
        return NodeCount(self.name, self.frames_in, self.frames_out, self.skipped)

    def _begin(self, link: Link) -> None:
        frame = link.take()
        assert not isinstance(frame, Interrupt)
        self.frame = self._given[link.port]
        self._given[link.port] += 1
        self.frames_in += 1
        with self._skipping(), self.user_code():
            self.running = iter(self.invoker.process(frame, link.port))

    def _pull(self, running: Iterator[Emission]) -> None:
        emission = None
        self.running = None
        with self._skipping(), self.user_code():
            emission = next(running, None)
            self.running = running if emission is not None else None
        if emission is not None:
            self._release(emission)

    def _release(self, emission: Emission) -> bool:
        """Send an emission if every edge of its output has room, else hold it."""
        links = self.outputs.get(emission.port, [])
        if isinstance(emission.value, Interrupt):
            self.held = None
            self.interrupt(emission.port, set())
            return True
        if not all(link.has_room for link in links):
            moved, self.held = self.held is not emission, emission
            return moved
        self.held = None
        if links:
            number = self._sent[emission.port]
            self._sent[emission.port] += 1
            self.frames_out += 1
            frame = own(emission.value).stamped(seq=number, topic=f"{self.topic}/{emission.port}")
            key = key_of(frame)
            if key is not None:
                self._refuse_latest(frame, emission.port)
            for link in links:
                link.offer(frame)
            if key is False and any(link.is_awaiting_key for link in links):
                self.want_key(emission.port)
        return True

    def want_key(self, port: str) -> None:
        """Tell the node that a key frame of an output is wanted, and those before it, as often as in processes."""
        now = time.monotonic()
        if now - self._told_of_keys.get(port, -KEY_S) < KEY_S:
            return
        self._told_of_keys[port] = now
        with self.user_code():
            asks_on = self.invoker.key_wanted(port)
        for link in self.inputs if asks_on else ():
            if link.carries_video and link.source is not None:
                link.source.want_key(link.output)

    def _refuse_latest(self, frame: Frame, port: str) -> None:
        if any(link.delivery == latest for link in self.outputs[port]):
            with self.user_code():
                raise FormatError(latest_advice(port, show(frame.format)))

    @contextmanager
    def _skipping(self) -> Generator[None]:
        try:
            yield
        except NodeError:
            if not self.skips or self.flushed:
                raise
            self.skipped += 1

    def _failure(self, error: Exception) -> NodeError:
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        text = "".join(traceback.format_exception(error))
        advice = read_only_advice(error)
        message = str(error) if advice is None else f"{error}: {advice}"
        return node_error(message, node=self.name, host="", type_name=name, frame=self.frame, traceback_text=text)


def _tell(link: Link, told: set[int]) -> None:
    """Tell whoever reads an edge that its older frames were thrown away."""
    target = link.target
    if target is None:
        link.interrupt()
    elif id(target) not in told and not target.ended:
        told.add(id(target))
        target.stop_running()
        with target.user_code():
            target.invoker.interrupted()
        target.interrupt(None, told)
