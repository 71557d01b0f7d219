"""An output of this process that is a topic. Any thread sends; a thread of its own serves those who read it.

Sending does not go through that thread: the caller encodes, offers to the mailboxes and writes to the lanes, under one
lock. The thread takes orders of the host, credits and memory that comes back; it holds the lock while it does, never
while it waits. Nor does a sender hold it while it waits for memory.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from rmbus.errors import Broken, Closed, HostError, ProtocolError, RmbusError
from rmbus.media import AudioFrame, Data, Packet, VideoFrame
from rmbus.node import Interrupt, Node, Output, Ports
from rmbus.protocol import messages
from rmbus.protocol.frames import Kind
from rmbus.protocol.limits import INLINE_BYTES
from rmbus.runtime.emissions import Converter
from rmbus.runtime.forks import own
from rmbus.runtime.links import OutputLink
from rmbus.runtime.loans import Loan
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.outputs import OutputPort
from rmbus.transport.counters import Page
from rmbus.transport.lane_ends import take_end
from rmbus.transport.lanes import FastLane
from rmbus.transport.reactor import Callback, Reactor
from rmbus.transport.umbilical import Stripped, Umbilical, close_all

PORT: Final = "out"
"""What the output is called where it needs a name."""

TRIM_S: Final = 1.0
"""How often memory that is not used any more is given back."""

LEAVE_S: Final = 1.0
"""How long a host may take to hear that a process leaves it."""


class Outlet:
    """The output, from its host's first word on.

    Args:
        umbilical: of a process that has joined with this one output. page: where it counts.
        topic: its name. format: what it carries. address: of the host, for errors.
    """

    def __init__(self, umbilical: Umbilical, page: Page, topic: str, format: object, address: str) -> None:
        self._umbilical = umbilical
        self._topic, self._address = topic, address
        output = Output(format)
        output.name = PORT
        self._format = output.format
        self._converter = Converter(_Script(topic), Ports({}, {PORT: output}))
        self._sending = threading.Lock()  # one frame after the other, also while one waits for memory
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._memory = NodeMemory(umbilical.send, self._lock)
        self._port = OutputPort(PORT, self._memory, page)
        self._port.keeps_last = True
        self._lanes: dict[int, tuple[OutputLink, FastLane]] = {}
        self._reactor = Reactor()
        self._failure = ""
        self._may_send = self._is_ending = self._is_closed = self._is_left = False
        self._reactor.add(umbilical.fileno(), self._hear)
        self._reactor.call_later(TRIM_S, self._trim)
        self._is_foreign = False
        self._thread = threading.Thread(target=self._serve, name=f"rmbus-{topic}", daemon=True)
        self._thread.start()
        own(self)

    def disown(self) -> None:
        """Another process has it, of which this one is a child: nothing is sent from here, and nothing closed there."""
        self._is_foreign = True
        self._sending, self._lock = threading.Lock(), threading.RLock()
        self._umbilical.disown()
        for _, end in self._lanes.values():
            end.close()

    def begin(self, timeout_s: float) -> None:
        """Wait until whoever has waited for the topic reads it.

        Raises:
            HostError: the host is gone, or has not said so in time.
        """
        with self._lock:
            self._changed.wait_for(lambda: self._may_send or self._failure, timeout_s)
            self._check()
            if not self._may_send:
                raise HostError(f"the host at {self._address} did not let {self._topic} begin", host=self._address)

    @property
    def key_wanted(self) -> bool:
        """Whether somebody who reads the topic waits for a key frame."""
        with self._lock:
            return self._port.wants_key

    def send(self, value: object) -> None:
        """Send a value to whoever reads the topic.

        Raises:
            Closed: it was closed. HostError: the host is gone. FormatError: it does not suit the topic.
        """
        with self._sending:
            self._put(value)

    def send_at_once(self, value: object) -> bool:
        """Send a value unless that might mean to wait; whether it was sent."""
        if _weight(value) > INLINE_BYTES or not self._sending.acquire(blocking=False):
            return False
        try:
            self._put(value)
        finally:
            self._sending.release()
        return True

    def lend(self, model: VideoFrame | AudioFrame) -> Loan:
        """Return a frame to write to, in shared memory where somebody reads it there."""
        with self._sending, self._lock:
            self._check()
            size = model.array.nbytes
            return Loan(model, self._port.room(size) if size > INLINE_BYTES else None)

    def close(self, timeout_s: float) -> None:
        """End the stream, and wait until those who read it have had their time; harmless when it is closed."""
        with self._sending:
            if self._is_closed or self._is_foreign:
                return
            try:
                self._finish(timeout_s)
            finally:
                self._leave()

    # --- sending -----------------------------------------------------------------------------------------------------

    def _put(self, value: object) -> None:
        if value is None:
            value = Data(None, format=self._format)  # of a node's code it would mean nothing at all
        emission = self._converter.emission(value, None)
        assert emission is not None
        with self._lock:
            self._check()
            try:
                if isinstance(emission.value, Interrupt):
                    self._port.interrupt()
                else:
                    self._port.send(emission.value)
                    self._take_credit()
            except Exception:
                raise  # it cannot be encoded: nothing of it was sent
            except BaseException:
                self._failure = "the last frame was interrupted on its way"
                raise

    def _take_credit(self) -> None:
        """Look for credit where a frame waits for it: this thread is quicker than the one that serves."""
        for link, end in list(self._lanes.values()):
            if link.mailbox.waiting and link.is_up and not link.is_full:
                self._answered(link, end)

    def _check(self) -> None:
        if self._is_foreign:
            raise Closed(f"the publisher of {self._topic} is another process's: connect() after the fork, not before")
        if self._is_closed:
            raise Closed(f"the publisher of {self._topic} was closed")
        if self._failure:
            raise HostError(f"the topic {self._topic} has ended: {self._failure}", host=self._address)

    def _finish(self, timeout_s: float) -> None:
        """Say that nothing more comes, and wait until all of it has been processed, or the time is over."""
        with self._lock:
            if self._failure:
                return
            self._is_ending = True
            self._port.control(Kind.EOS)
            self._changed.wait_for(lambda: self._failure or self._port.is_settled, timeout_s)

    def _leave(self) -> None:
        with self._lock:
            self._is_closed = True
            for link in self._port.links[:]:
                self._port.leave(link)
            with contextlib.suppress(Broken):  # the host is gone
                self._umbilical.send(messages.NodeEvent("", 0, "ended"))
            self._umbilical.finish()
        self._thread.join(LEAVE_S)  # until the host has heard it: the name is free then
        self._reactor.call_soon(self._stop)
        self._thread.join()
        for _, end in self._lanes.values():
            end.close()
        self._reactor.close()
        self._umbilical.close()

    # --- serving, in a thread of its own -----------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._is_left:
                self._reactor.serve_once(wait=True)
        except BaseException as error:  # noqa: BLE001 - told to whoever sends
            self._fail(f"{type(error).__name__}: {error}")

    def _stop(self) -> None:
        self._is_left = True

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._failure = self._failure or reason
            self._changed.notify_all()

    def _locked(self, call: Callable[..., None], *given: object) -> Callback:
        def locked() -> None:
            with self._lock:
                call(*given)
                if self._is_ending:
                    self._changed.notify_all()

        return locked

    def _trim(self) -> None:
        with self._lock:
            self._port.trim()
        self._reactor.call_later(TRIM_S, self._trim)

    def _hear(self) -> None:
        """Take one message of the host; what is of memory is served without the lock."""
        try:
            _, message, descriptors = self._umbilical.receive()
        except messages.UnknownTag:
            return  # a later host may say more
        except Stripped as stripped:  # whoever needs the descriptors says what cannot be done without
            message, descriptors = stripped.message, []
        except RmbusError as error:
            self._reactor.remove(self._umbilical.fileno())
            self._stop()
            ended = f"the host at {self._address} has ended"
            self._fail(ended if isinstance(error, Closed) else f"the host broke the protocol: {error}")
            return
        if not self._memory.take(message, descriptors):
            self._locked(self._obey, message, descriptors)()

    def _obey(self, message: messages.Message, descriptors: list[int]) -> None:
        if isinstance(message, messages.Output):
            self._add(message, descriptors)
            return
        close_all(descriptors)
        if isinstance(message, messages.Gone):
            if message.edge not in self._lanes:
                return
            link, end = self._lanes.pop(message.edge)
            self._reactor.remove(end.source)
            end.close()
            if link in self._port.links:
                self._port.drop(link, message.reason)
            self._memory.forget_readers(link.edge)
        elif isinstance(message, messages.Go):
            self._may_send = True
            self._changed.notify_all()

    def _add(self, message: messages.Output, descriptors: list[int]) -> None:
        try:
            page, end = take_end(message, descriptors)
        except Broken as error:
            sys.stderr.write(f"rmbus: topic {self._topic} has a reader that it cannot serve: {error}\n")
            return
        link = OutputLink.of(message, page, end, self._memory.readers(message.edge))
        self._lanes[link.edge] = link, end
        self._reactor.add(end.source, self._locked(self._answered, link, end))
        link.on_full = partial(self._watch_room, link, end)
        if link.is_full:
            link.on_full()
        if not self._is_closed:
            self._port.add(link, last=message.last)

    def _watch_room(self, link: OutputLink, end: FastLane) -> None:
        """See to it that what a full lane has kept is sent when there is room; whoever sends may have found it full."""
        if self._reactor.watches(end.source):
            self._reactor.add_writer(end.source, self._locked(link.flush))

    def _answered(self, link: OutputLink, end: FastLane) -> None:
        """Take what a reader has said; one that says what is no answer harms itself alone."""
        try:
            while (message := end.receive()) is not None:
                link.answered(message)
        except Closed:
            self._reactor.remove(end.source)  # its host will say what has become of it
            return
        except ProtocolError:
            self._reactor.remove(end.source)
            self._port.drop(link, "link_lost")
            return
        self._port.reclaim(link)
        link.pump()


class _Script(Node):
    """Stands for the script where what it sends is made a frame, as what a node gives is."""

    def __init__(self, topic: str) -> None:
        self.name = f"topic {topic}"

    def process(self) -> None:
        """Nobody calls it."""


def _weight(value: object) -> float:
    """Return about how many bytes a value has, infinity where that is not plain to see."""
    if isinstance(value, VideoFrame | AudioFrame):
        return value.array.nbytes
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Packet):
        return len(value.data)
    if isinstance(value, str | bytes):
        return 4 * len(value)
    return 0 if value is None or isinstance(value, int | float | Interrupt) else math.inf
