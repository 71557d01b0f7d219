"""The data thread of a node: it blocks on its lanes and runs the user's code, with no hand-over between threads."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import zmq

from rmbus.delivery import Delivery
from rmbus.errors import Broken, Closed, ProtocolError, RmbusError
from rmbus.node import Interrupt
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import Kind
from rmbus.runtime.invoke import Emission, Invoker
from rmbus.runtime.links import Arrival, InputLink, OutputLink
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.outputs import OutputPort
from rmbus.stamps import memory_of
from rmbus.transport import counters
from rmbus.transport.counters import Page, State
from rmbus.transport.lanes import DealerLane, FastLane, RouterLane
from rmbus.transport.reactor import Reactor
from rmbus.transport.sockets import Socket, adopt, open_socket

MAX_EARLY: Final = 1024
"""Marks that wait for the host's word about their edge."""

LOOK_NS: Final = 200_000
"""While there is work, the lanes are looked at again after this time."""

TRIM_S: Final = 1.0
"""How often memory that is not used any more is given back."""

_FRAMES_IN: Final = int(counters.Node.FRAMES_IN)
_FRAMES_OUT: Final = int(counters.Node.FRAMES_OUT)


class UpstreamFailed(Exception):
    """A node upstream has failed: nothing more comes, and what is held must not be taken for whole."""


class NodeLoop:
    """Runs one node until its inputs have ended.

    Attributes:
        reactor: other threads reach the loop by its `call_soon`.
        frame: the number of the frame that the user's code has been given last, or None.
    """

    def __init__(
        self, invoker: Invoker, outputs: list[str], page: Page, memory: NodeMemory, *, is_source: bool
    ) -> None:
        self.reactor = Reactor()
        self.frame: int | None = None
        self._invoker = invoker
        self._context: zmq.Context[Socket] = zmq.Context()
        self._words = page.words
        self._memory = memory
        self._receiver: Socket | None = None
        self._tokens: dict[bytes, InputLink] = {}
        self._routes: dict[bytes, InputLink] = {}
        self._early: dict[bytes, tuple[bytes, int]] = {}
        self._inputs: list[InputLink] = []
        self._ports = {name: self._new_port(name, page) for name in outputs}
        self._inbox: deque[Arrival] = deque()
        self._fast_lanes: list[FastLane] = []
        self._watched: dict[int, tuple[OutputPort, OutputLink, DealerLane | FastLane]] = {}
        self._current: Arrival | None = None
        self._running: Iterator[Emission] | None = None
        self._held: Emission | None = None
        self._frames_in = self._frames_out = 0
        self._state = State.STARTING
        self._is_source = is_source
        self._may_start = False
        self._has_begun = False
        self._flushed = False
        self._ended = False
        invoker.lend_from(lambda port, size: self._ports[port].room(size))
        if outputs:
            self.reactor.call_later(TRIM_S, self._trim)

    # --- wiring, called through the reactor --------------------------------------------------------------------------

    def add_input(self, message: messages.Input, page: Page, listener: int | None, fast: int | None) -> None:
        """Expect an edge, on a lane of its own or on the listening socket."""
        link = self._new_input(message, page)
        self._inputs.append(link)
        if fast is not None:
            end = self._fast_lane(fast)
            self.reactor.add(end.source, partial(self._read_fast, link, end))
            return
        self._tokens[message.token] = link
        if message.token in self._early:
            self._mark(link, *self._early.pop(message.token))
        if self._receiver is None:
            if listener is None:
                raise Broken("the host sent an input without its listening socket")
            self._receiver = open_socket(self._context, zmq.ROUTER)
            adopt(self._receiver, listener, message.path)
            self.reactor.add(self._receiver, self._receive)

    def add_output(self, message: messages.Output, page: Page, fast: int | None, on_up: Callable[[], None]) -> None:
        """Begin an edge, and call back when its mark has come back."""
        end = self._new_lane(message, fast)
        link = self._new_output(message, page, end)
        port = self._ports[message.port]
        port.add(link, last=message.last)
        self._watch(port, link, end, on_up)

    def _watch(self, port: OutputPort, link: OutputLink, end: DealerLane | FastLane, on_up: Callable[[], None]) -> None:
        """Hear what the consumer of an edge says."""
        link.on_full = partial(self._watch_room, link, end)
        if link.is_full:
            link.on_full()
        self._watched[link.edge] = port, link, end
        self.reactor.add(end.source, partial(self._answered, port, link, end, on_up))

    def _new_port(self, name: str, page: Page) -> OutputPort:
        return OutputPort(name, self._memory, page)

    def _new_input(self, message: messages.Input, page: Page) -> InputLink:
        return InputLink(
            message.edge,
            message.port,
            page,
            self._memory.segments,
            credit=message.credit,
            token=message.token,
            topic=message.topic,
        )

    def _new_output(self, message: messages.Output, page: Page, end: DealerLane | FastLane) -> OutputLink:
        return OutputLink(
            message.edge,
            end,
            message.token,
            Delivery(message.delivery, message.n),  # type: ignore[arg-type]  # checked by Delivery itself
            page,
            self._memory.readers(message.edge),
            shares=message.shared,
            epoch=message.epoch,
            resends=message.resends,
        )

    def _new_lane(self, message: messages.Output, fast: int | None) -> DealerLane | FastLane:
        if fast is not None:
            return self._fast_lane(fast)
        dealer = open_socket(self._context, zmq.DEALER)
        dealer.connect(f"ipc://{message.path}")
        return DealerLane(dealer)

    def publish(self, message: messages.Publish) -> None:
        """Outputs are topics: keep the last frame of each for those who come later."""
        for name in message.topics:
            self._ports[name].keeps_last = True

    def gone(self, message: messages.Gone) -> None:
        """The other end of an edge is gone."""
        if message.reason != "producer_died":
            port, link, end = self._watched.pop(message.edge)
            self.reactor.remove(end.source)
            end.close()
            port.drop(link, message.reason)
            return
        for each in self._inputs:
            if each.edge == message.edge and not each.ended:
                if each.topic:
                    sys.stderr.write(f"rmbus: topic {each.topic} has ended: its publisher is gone\n")
                each.ended = True
                self._invoker.ended(each.port)

    def detach(self, message: messages.Detach) -> None:
        """No further frame lies in a segment."""
        self._memory.take(message, [])

    def go(self) -> None:
        """Everything is linked: a source may begin."""
        self._may_start = True

    def stop(self) -> None:
        """Drain: a source ends here; what is queued is finished."""
        if self._is_source and not self._flushed:
            self._may_start = True
            self._has_begun = True
            self._held = None
            self._close_running()

    def conclude(self) -> None:
        """The node has ended and has cleaned up; one that cannot be started anew has nothing more to say."""

    def abort(self, error: RmbusError) -> None:
        """Let `run` raise; called from any thread."""

        def raise_it() -> None:
            raise error

        self.reactor.call_soon(raise_it)

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the node has ended and all that it sent is processed.

        Raises:
            whatever the user's code raises, as it is; UpstreamFailed; Broken; ProtocolError.
        """
        look = 0
        clock = time.monotonic_ns
        while not (self._ended and all(port.is_settled for port in self._ports.values())):
            while self._inbox and self._running is None and self._held is None and clock() - look < LOOK_NS:
                self._begin(self._inbox.popleft())
            if not self._step():
                self._set_state(State.BLOCKED if self._held is not None else State.WAITING, clock())
                self.reactor.serve_once(wait=True)
                look = clock()
            elif clock() - look > LOOK_NS:
                self.reactor.serve_once(wait=False)
                look = clock()
        self._set_state(State.ENDED, clock())

    def fail(self, type_name: str, message: str) -> None:
        """Tell the nodes downstream, in band, that this one has failed."""
        for port in self._ports.values():
            port.control(Kind.ERROR, [type_name, message[:1000]])

    def close(self) -> None:
        """Close every socket."""
        for end in self._fast_lanes:
            end.close()
        self._context.destroy(linger=500)
        self.reactor.close()

    def _step(self) -> bool:
        """Do one thing, if there is one to do."""
        if self._held is not None:
            return self._release(self._held)
        if self._running is not None:
            self._pull(self._running)
            return True
        if self._inbox:
            self._begin(self._inbox.popleft())
            return True
        if self._is_source and self._may_start and not self._has_begun:
            self._has_begun = True
            self._running = self._invoker.source()
            return True
        return self._end_if_over()

    def _pull(self, running: Iterator[Emission]) -> None:
        if self._state != State.BUSY:
            self._set_state(State.BUSY, time.monotonic_ns())
        emission = next(running, None)
        if emission is None:
            self._running = None
            self._finish()
        else:
            self._release(emission)

    def _release(self, emission: Emission) -> bool:
        """Send an emission if its output has room, else hold it."""
        port = self._ports.get(emission.port)
        if port is None:  # nobody has joined it
            self._held = None
            return True
        if isinstance(emission.value, Interrupt):
            port.interrupt()
        elif port.has_room:
            port.send(emission.value)
            self._frames_out += 1
            self._words[_FRAMES_OUT] = self._frames_out
        else:
            self._held = emission
            for link in port.links:
                link.note_blocked(not link.mailbox.has_room)
            return False
        if self._held is not None:
            self._held = None
            for link in port.links:
                link.note_blocked(False)
        return True

    def _begin(self, arrival: Arrival) -> None:
        link = arrival.link
        if arrival.frame is not None:
            now = time.monotonic_ns()
            self._current = arrival
            self.frame = arrival.header.seq
            link.begin(arrival, now)
            self._frames_in += 1
            self._words[_FRAMES_IN] = self._frames_in
            if self._state != State.BUSY:
                self._set_state(State.BUSY, now)
            emissions = self._invoker.process(arrival.frame, link.port)
            if emissions:  # some, or an iterator that is pulled from now on
                self._running = iter(emissions)
            else:
                self._finish()
            return
        kind = arrival.header.kind
        if kind == Kind.EOS:
            link.ended = True
            self._invoker.ended(link.port)
        elif kind == Kind.ERROR:
            raise UpstreamFailed(f"input {link.port!r}: {arrival.header.extra}")
        self._credit(arrival)

    def _finish(self) -> None:
        arrival, self._current = self._current, None
        if arrival is not None:
            if arrival.frame is not None and memory_of(arrival.frame) is not None:
                self._invoker.forget()
            arrival.release()
            self._credit(arrival)

    def _credit(self, arrival: Arrival) -> None:
        """An arrival is dealt with: tell its producer, if it may wait for that."""
        link = arrival.link
        if link.finish(arrival):
            link.tell()

    def _interrupted(self, arrival: Arrival) -> None:
        """A new turn upstream: drop what waits of older ones, stop what runs, and pass it on."""
        kept: deque[Arrival] = deque()
        for waiting in self._inbox:
            if waiting.link is arrival.link and waiting.frame is not None and waiting.header.turn < arrival.header.turn:
                waiting.link.page.drop("interrupted", by_consumer=True)
                waiting.release()
                self._credit(waiting)
            else:
                kept.append(waiting)
        self._inbox = kept
        if self._current is not None and self._current.link is arrival.link:
            self._held = None
            self._close_running()
        self._invoker.interrupted()
        for port in self._ports.values():
            port.interrupt()

    def _close_running(self) -> None:
        running, self._running = self._running, None
        close = getattr(running, "close", None)
        if close is not None:
            close()
        self._finish()

    def _end_if_over(self) -> bool:
        if self._ended or not self._may_start or not all(link.ended for link in self._inputs):
            return False
        if not self._flushed:
            self._flushed = True
            self.frame = None
            self._running = iter(self._invoker.flush())
            return True
        self._ended = True
        for port in self._ports.values():
            port.control(Kind.EOS)
        return True

    # --- lanes -------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        receiver = self._receiver
        assert receiver is not None
        while True:
            try:
                frames = receiver.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            route, parts = frames[0].bytes, [frame.buffer for frame in frames[1:]]
            link = self._routes.get(route)
            if link is not None:
                self._arrive(link, lane.decode(parts))
                continue
            with contextlib.suppress(ProtocolError):  # a stranger's bytes; who reaches this socket may be anybody
                self._introduced(route, lane.decode(parts))

    def _read_fast(self, link: InputLink, end: FastLane) -> None:
        """Take one message off a fast lane."""
        try:
            message = end.receive()
        except Closed:
            self.reactor.remove(end.source)
            end.close()
            link.lane = None
            return
        if message is None:
            return
        if message.type == lane.Type.FRAMES and link.lane is not None:
            self._arrive(link, message)
        elif message.type == lane.Type.MARK and bytes(message.body) == link.token:
            link.mark(end, message.number)
        else:
            raise Broken(f"input {link.port!r}: a lane message of type {message.type} on its fast lane")

    def _arrive(self, link: InputLink, message: lane.Message) -> None:
        for arrival in link.receive(message):
            self._arrived(arrival)

    def _answered(
        self, port: OutputPort, link: OutputLink, end: DealerLane | FastLane, on_up: Callable[[], None]
    ) -> None:
        """Take all that a consumer has said: its node may be long in the user's code between two looks."""
        while True:
            try:
                message = end.receive()
            except Closed:
                self.reactor.remove(end.source)  # its host will say what has become of the consumer
                return
            if message is None:
                break
            if link.answered(message):
                on_up()
        port.reclaim(link)
        link.pump()

    def _watch_room(self, link: OutputLink, end: DealerLane | FastLane) -> None:
        """See to it that what a full lane has kept is sent when there is room."""
        if self.reactor.watches(end.source):
            self.reactor.add_writer(end.source, link.flush)

    def _arrived(self, arrival: Arrival) -> None:
        """Take an arrival in; an interrupt overtakes what waits."""
        if arrival.header.kind == Kind.INTERRUPT:
            self._interrupted(arrival)
            self._credit(arrival)
        else:
            self._inbox.append(arrival)

    def _introduced(self, route: bytes, message: lane.Message) -> None:
        """Somebody new speaks on the lane: with an edge's token, its producer; else nobody that matters."""
        if message.type != lane.Type.MARK:
            return
        token = bytes(message.body)
        if token in self._tokens:
            self._mark(self._tokens[token], route, message.number)
        elif len(self._early) < MAX_EARLY:
            self._early[token] = (route, message.number)  # quicker than the host's word of its edge

    def _mark(self, link: InputLink, route: bytes, epoch: int) -> None:
        """A producer has shown an edge's token: what comes by this route is that edge's."""
        assert self._receiver is not None
        self._routes[route] = link
        link.mark(RouterLane(self._receiver, route), epoch)

    def _fast_lane(self, descriptor: int) -> FastLane:
        self._fast_lanes.append(FastLane(socket.socket(fileno=descriptor)))
        return self._fast_lanes[-1]

    def _trim(self) -> None:
        for port in self._ports.values():
            port.trim()
        self.reactor.call_later(TRIM_S, self._trim)

    def _set_state(self, state: State, now_ns: int) -> None:
        if self._state != state:
            self._state = state
            self._words[counters.Node.STATE] = state
            self._words[counters.Node.SINCE] = now_ns
