"""An input of this process that topics feed. Whoever takes frames reads the lanes himself, in his own thread.

A thread beside him hears the host, maps memory and answers the marks of publishers, so that a reader who takes his time
delays nobody, and has what was sent to him meanwhile. All else waits, in order, until the next frame is asked for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from functools import partial
from typing import Final

from rmbus.errors import Broken, Closed, FormatError, HostError, NodeError, RmbusError, node_error
from rmbus.media import Frame
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import Kind
from rmbus.runtime.forks import own
from rmbus.runtime.links import Arrival, InputLink
from rmbus.runtime.memory import NodeMemory
from rmbus.transport.lane_ends import take_end
from rmbus.transport.lanes import FastLane
from rmbus.transport.reactor import Reactor
from rmbus.transport.umbilical import Stripped, Umbilical, close_all

PORT: Final = "in"
"""What the input is called where it needs a name."""

LEAVE_S: Final = 1.0
"""How long a host may take to hear that a process leaves it."""


class Inlet:
    """The input, from its host's first word on. All but `wake` and `dropped` is for one thread at a time.

    Args:
        umbilical: of a process that has joined with this one input. pattern: the topics. address: of the host, for
            errors. takes_latest: whether frames are left out one by one, which encoded video does not bear.

    Attributes:
        is_over: whether nothing more comes: the one topic has ended. look_s: see `Intake`.
    """

    def __init__(self, umbilical: Umbilical, pattern: str, address: str, *, takes_latest: bool = False) -> None:
        self.is_over = False
        self.look_s: float | None = None
        self._umbilical = umbilical
        self._pattern, self._address = pattern, address
        self._is_single = "*" not in pattern
        self._takes_latest = takes_latest
        self._memory = NodeMemory(umbilical.send)
        # A segment is let go of after what lies in it: in order with the word that its producer is gone.
        self._memory.on_detach = lambda segment: self._reactor.call_soon(partial(self._memory.forget, segment))
        self._edges: dict[int, tuple[InputLink, FastLane]] = {}
        self._unmarked: dict[int, FastLane] = {}
        self._inbox: deque[Arrival] = deque()
        self._current: Arrival | None = None
        self._past: Counter[str] = Counter()
        self._failure: RmbusError | None = None
        self._is_closed = self._is_woken = False
        self._reactor = Reactor()
        self._beside = Reactor()
        self._is_left = False
        self._beside.add(umbilical.fileno(), self._hear)
        self._thread = threading.Thread(target=self._serve, name=f"rmbus-{pattern}", daemon=True)
        self._thread.start()
        own(self)

    def disown(self) -> None:
        """Another process has it, of which this one is a child: nothing comes here, and nothing is closed there."""
        self._is_closed = True
        self._inbox.clear()
        self._failure = Closed(
            f"the subscription to {self._pattern} is another process's: connect() after the fork, not before"
        )
        self._umbilical.disown()
        for _, end in self._edges.values():
            end.close()

    @property
    def dropped(self) -> dict[str, int]:
        """How many frames were dropped on their way here, by reason, on all edges that there have been."""
        total = self._past.copy()
        for link, _ in list(self._edges.values()):
            total.update(link.page.dropped())
        return dict(total)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `take` may have something."""
        return self._reactor.fileno()

    def wake(self) -> None:
        """Let a `take` that waits return; from any thread."""
        self._reactor.call_soon(self._woken)

    def take(self, *, wait: bool) -> Frame | None:
        """Return the next frame: the one before it has been dealt with.

        Returns:
            None where there is none: nothing more comes (`is_over`), or `wake` was called; without `wait`, none has
            come yet.

        Raises:
            HostError: the host is gone. NodeError: the publisher has failed. ProtocolError, Broken: so has its lane.
        """
        if not self._is_closed:
            self._finish()
        if self._inbox:
            self._look(wait=False)  # a new turn may have come, and drop what is there
        while True:
            while self._inbox:
                frame = self._begin(self._inbox.popleft())
                if frame is not None:
                    return frame
            if self.is_over:
                return None
            if self._failure is not None:
                raise self._failure
            if self._is_woken:
                self._is_woken = False
                return None
            self._is_woken = not wait
            self._look(wait=wait)

    def close(self) -> None:
        """Leave the topics; harmless when they have been left. What was taken stays as it is."""
        if self._is_closed:
            return
        self._is_closed = True
        self._finish()
        with contextlib.suppress(RmbusError):  # the host is gone
            self._umbilical.send(messages.NodeEvent("", 0, "ended"))
        self._umbilical.finish()
        self._thread.join(LEAVE_S)  # until the host has heard it
        self._beside.call_soon(self._leave)
        self._thread.join()
        with contextlib.suppress(RmbusError):
            self._reactor.serve_once(wait=False)  # what it said last may be of further edges
        for arrival in self._inbox:
            if arrival.frame is not None:
                arrival.link.page.drop("consumer_ended", by_consumer=True)
                arrival.release()
        self._inbox.clear()
        for link, end in self._edges.values():
            end.close()
            self._past.update(link.page.dropped())
        self._edges.clear()
        self._reactor.close()
        self._beside.close()
        self._umbilical.close()

    # --- frames ------------------------------------------------------------------------------------------------------

    def _begin(self, arrival: Arrival) -> Frame | None:
        """Begin with what has come; return it if it is for whoever takes."""
        link = arrival.link
        if arrival.frame is not None:
            self._current = arrival
            link.begin(arrival, time.monotonic_ns())
            return arrival.frame
        self._credit(arrival)
        kind = arrival.header.kind
        if kind == Kind.ERROR and self._is_single:
            self._failure = _failed(self._pattern, arrival.header.extra)
        elif kind in (Kind.EOS, Kind.ERROR):
            self._ended(link)
        return None

    def _finish(self) -> None:
        """The frame that was taken last has been dealt with."""
        arrival, self._current = self._current, None
        if arrival is not None:
            arrival.release()
            self._credit(arrival)

    def _credit(self, arrival: Arrival) -> None:
        if arrival.link.finish(arrival):
            arrival.link.tell()

    def _ended(self, link: InputLink) -> None:
        """Nothing more comes on an edge; it is forgotten when its publisher is gone too."""
        link.ended = True
        self.is_over = self._is_single
        if link.is_orphan and self._edges.pop(link.edge, None) is not None:
            self._past.update(link.page.dropped())

    def _look(self, *, wait: bool) -> None:
        """Look at the lanes once, and at what the host has said."""
        try:
            self._reactor.serve_once(wait=wait)
        except RmbusError as error:
            self._failure = error  # and it stays so

    # --- lanes and orders, while a frame is waited for ---------------------------------------------------------------

    def _read(self, link: InputLink, end: FastLane) -> None:
        """Take all that has come on a lane, which is as much as the window: a new turn may be behind the rest."""
        try:
            while (message := end.receive()) is not None:
                self._arrive(link, end, message)
        except Closed:
            self._reactor.remove(end.source)  # the host will say so too

    def _read_all(self, link: InputLink, end: FastLane) -> None:
        """Take what is left on a lane whose publisher is gone."""
        with contextlib.suppress(Closed):
            while (message := end.receive()) is not None:
                self._arrive(link, end, message)
        self._reactor.remove(end.source)

    def _arrive(self, link: InputLink, end: FastLane, message: lane.Message) -> None:
        if message.type == lane.Type.MARK and bytes(message.body) == link.token:
            link.mark(end, message.number)
        elif message.type == lane.Type.FRAMES and link.is_up:
            arrived = link.receive(message)
            if self._takes_latest and link.is_inter_coded:
                raise FormatError(
                    f"{link.topic} carries encoded video, of which `latest` would leave out packets that others need "
                    "to be decoded: subscribe with drop_oldest(n), or with no delivery"
                )
            for arrival in arrived:
                self._inbox.append(arrival)
                if arrival.header.kind == Kind.INTERRUPT:
                    self._interrupted(arrival)
        else:
            raise Broken(f"topic {link.topic}: a lane message of type {message.type} where frames were due")

    def _interrupted(self, interrupt: Arrival) -> None:
        """A new turn: what waits of older ones is dropped."""
        link, turn = interrupt.link, interrupt.header.turn
        old = [each for each in self._inbox if each.link is link and each.frame is not None and each.header.turn < turn]
        for arrival in old:
            self._inbox.remove(arrival)
            link.page.drop("interrupted", by_consumer=True)
            arrival.release()
            self._credit(arrival)

    def _add(self, link: InputLink, end: FastLane) -> None:
        self._edges[link.edge] = link, end

    def _watch(self, link: InputLink, end: FastLane) -> None:
        self._reactor.add(end.source, partial(self._read, link, end))

    def _gone(self, edge: int) -> None:
        """A publisher is gone: what it has sent is taken, and then its edge has ended."""
        if edge not in self._edges:
            return  # it could not be linked
        link, end = self._edges[edge]
        self._read_all(link, end)
        end.close()
        link.lane = None
        link.is_orphan = True
        self._inbox.append(link.end_for(sum(each.link is link and each.frame is not None for each in self._inbox)))

    def _cut(self, reason: str) -> None:
        """The host is gone; what had been sent before is taken first."""
        for link, end in self._edges.values():
            self._read_all(link, end)
        self._failure = HostError(f"the subscription to {self._pattern} has ended: {reason}", host=self._address)

    def _woken(self) -> None:
        self._is_woken = True

    def _fail(self, error: RmbusError) -> None:
        raise error

    # --- the host, and marks, in a thread beside ---------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._is_left:
            self._beside.serve_once(wait=True)

    def _leave(self) -> None:
        self._is_left = True

    def _hear(self) -> None:
        """Take one message of the host."""
        try:
            _, message, descriptors = self._umbilical.receive()
        except messages.UnknownTag:
            return  # a later host may say more
        except Stripped as stripped:  # whoever needs the descriptors says what cannot be done without
            message, descriptors = stripped.message, []
        except RmbusError as error:
            self._beside.remove(self._umbilical.fileno())
            self._leave()
            ended = f"the host at {self._address} has ended"
            reason = ended if isinstance(error, Closed) else f"the host broke the protocol: {error}"
            self._reactor.call_soon(partial(self._cut, reason))
            return
        if not self._memory.take(message, descriptors):
            self._obey(message, descriptors)

    def _obey(self, message: messages.Message, descriptors: list[int]) -> None:
        if isinstance(message, messages.Input):
            self._introduce(message, descriptors)
            return
        close_all(descriptors)
        if isinstance(message, messages.Gone):
            end = self._unmarked.pop(message.edge, None)
            if end is not None:
                self._beside.remove(end.source)
            self._reactor.call_soon(partial(self._gone, message.edge))

    def _introduce(self, message: messages.Input, descriptors: list[int]) -> None:
        """Expect an edge: its producer's mark is answered here, and what follows it is read by whoever takes."""
        try:
            page, end = take_end(message, descriptors)
        except Broken as error:
            self._reactor.call_soon(partial(self._fail, error))
            return
        link = InputLink.of(message, page, self._memory.segments)
        self._unmarked[link.edge] = end
        self._reactor.call_soon(partial(self._add, link, end))
        self._beside.add(end.source, partial(self._marked, link, end))

    def _marked(self, link: InputLink, end: FastLane) -> None:
        self._beside.remove(end.source)
        del self._unmarked[link.edge]
        try:
            message = end.receive()
            if message is not None:
                self._arrive(link, end, message)
        except Closed:
            return  # the host will say so too
        except RmbusError as error:
            self._reactor.call_soon(partial(self._fail, error))
        self._reactor.call_soon(partial(self._watch, link, end))


def _failed(topic: str, extra: object) -> NodeError:
    """Return the error that a publisher has told of itself."""
    name, text = extra if isinstance(extra, list) and len(extra) == 2 else ("", "")  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- a peer's value
    return node_error(str(text), node=f"publisher of {topic}", host="", type_name=str(name))  # pyright: ignore[reportUnknownArgumentType] -- likewise
