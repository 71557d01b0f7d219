"""The data thread of a node: it blocks on its lanes and runs the user's code, with no hand-over between threads."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import zmq

from rmbus.delivery import Delivery
from rmbus.errors import Broken, ProtocolError, RmbusError
from rmbus.media import Frame
from rmbus.node import Interrupt
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import Kind
from rmbus.runtime.invoke import Emission, Invoker
from rmbus.runtime.links import Arrival, InputLink, OutputLink, OutputPort
from rmbus.runtime.topics import TopicReader, TopicWriter
from rmbus.transport import counters
from rmbus.transport.counters import Page, State
from rmbus.transport.reactor import Reactor
from rmbus.transport.sockets import Socket, adopt, open_socket

TOPIC_FRAMES: Final = 8
"""Frames of a topic that wait for a slow reader."""

MAX_EARLY: Final = 1024
"""Marks that wait for the host's word about their edge."""


class UpstreamFailed(Exception):
    """A node upstream has failed: nothing more comes, and what is held must not be taken for whole."""


class NodeLoop:
    """Runs one node until its inputs have ended.

    Attributes:
        reactor: other threads reach the loop by its `call_soon`.
        frame: the number of the frame that the user's code has been given last, or None.
    """

    def __init__(self, invoker: Invoker, outputs: list[str], page: Page, *, is_source: bool) -> None:
        self.reactor = Reactor()
        self.frame: int | None = None
        self._invoker = invoker
        self._context: zmq.Context[Socket] = zmq.Context()
        self._words = page.words
        self._receiver: Socket | None = None
        self._tokens: dict[bytes, InputLink] = {}
        self._routes: dict[bytes, InputLink] = {}
        self._early: dict[bytes, tuple[bytes, int]] = {}
        self._inputs: list[InputLink] = []
        self._ports = {name: OutputPort(name) for name in outputs}
        self._links: list[OutputLink] = []
        self._topics: TopicWriter | None = None
        self._inbox: deque[Arrival] = deque()
        self._current: Arrival | None = None
        self._running: Iterator[Emission] | None = None
        self._held: Emission | None = None
        self._is_source = is_source
        self._may_start = False
        self._has_begun = False
        self._flushed = False
        self._ended = False

    # --- wiring, called through the reactor --------------------------------------------------------------------------

    def add_input(self, message: messages.Input, page: Page, listener: int | None) -> None:
        """Expect an edge on the listening socket."""
        link = InputLink(message.port, page, credit=message.credit, token=message.token)
        self._inputs.append(link)
        self._tokens[message.token] = link
        if message.token in self._early:
            self._mark(link, *self._early.pop(message.token))
        if self._receiver is None:
            if listener is None:
                raise Broken("the host sent an input without its listening socket")
            self._receiver = open_socket(self._context, zmq.ROUTER)
            adopt(self._receiver, listener, message.path)
            self.reactor.add(self._receiver, self._receive)

    def add_output(self, message: messages.Output, page: Page, on_up: Callable[[], None]) -> None:
        """Connect an edge, and call back when its mark has come back."""
        delivery = Delivery(message.delivery, message.n)  # type: ignore[arg-type]  # checked by Delivery itself
        link = OutputLink(message.edge, self._context, message.path, message.token, delivery, page)
        self._ports[message.port].links.append(link)
        self._links.append(link)

        def answered() -> None:
            if link.answered():
                on_up()

        self.reactor.add(link.socket, answered)

    def publish(self, message: messages.Publish, listener: int) -> None:
        """Publish outputs as topics."""
        ports = {self._ports[name]: topic for name, topic in message.topics.items()}
        self._topics = TopicWriter(self._context, listener, message.path, ports)
        self.reactor.add(self._topics.socket, self._topics.subscribed)

    def subscribe(self, message: messages.Subscribe, page: Page, on_up: Callable[[], None]) -> None:
        """Feed an input from a topic."""
        link = InputLink(message.port, page, credit=1, topic=message.topic)
        self._inputs.append(link)
        reader = TopicReader(self._context, message.path, link, on_up)
        self.reactor.add(reader.socket, partial(self._read_topic, reader))

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

    def topic_gone(self, topic: str) -> None:
        """The publisher of a topic is gone without an end of stream: the inputs that it fed have ended."""
        for link in self._inputs:
            if link.topic == topic and not link.ended:
                sys.stderr.write(f"rmbus: topic {topic} has ended: its publisher is gone\n")
                link.ended = True
                self._invoker.ended(link.port)

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
        while not (self._ended and all(port.is_settled for port in self._ports.values())):
            moved = self._step()
            self._pump()
            self.reactor.serve_once(wait=not moved)
        self._set_state(State.ENDED)

    def fail(self, type_name: str, message: str) -> None:
        """Tell the nodes downstream, in band, that this one has failed."""
        for port in self._ports.values():
            port.control(Kind.ERROR, [type_name, message[:1000]])
        self._pump()

    def close(self) -> None:
        """Close every socket."""
        if self._topics is not None:
            self._topics.close()
        self._context.destroy(linger=500)
        self.reactor.close()

    def _step(self) -> bool:
        """Do one thing, if there is one to do."""
        if self._held is not None:
            return self._release()
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
        self._set_state(State.BUSY)
        emission = next(running, None)
        self._set_state(State.WAITING)
        if emission is None:
            self._running = None
            self._finish()
        else:
            self._held = emission
            self._release()

    def _release(self) -> bool:
        """Send the emission that is held, if its output has room."""
        held = self._held
        assert held is not None
        port = self._ports.get(held.port)
        if port is None:  # nobody has joined it
            self._held = None
            return True
        if isinstance(held.value, Interrupt):
            port.interrupt()
        elif port.has_room:
            port.send(held.value)
            self._words[counters.Node.FRAMES_OUT] += 1
        else:
            self._set_state(State.BLOCKED)
            for link in port.links:
                link.note_blocked(not link.mailbox.has_room)
            return False
        self._held = None
        for link in port.links:
            link.note_blocked(False)
        return True

    def _begin(self, arrival: Arrival) -> None:
        link, kind = arrival.link, arrival.header.kind
        if arrival.frame is not None:
            self._process(arrival, arrival.frame)
            return
        if kind == Kind.EOS:
            link.ended = True
            self._invoker.ended(link.port)
        elif kind == Kind.ERROR:
            raise UpstreamFailed(f"input {link.port!r}: {arrival.header.extra}")
        self._credit(arrival)

    def _process(self, arrival: Arrival, frame: Frame) -> None:
        self._current = arrival
        self.frame = arrival.header.seq
        arrival.link.begin(arrival)
        self._words[counters.Node.FRAMES_IN] += 1
        self._set_state(State.BUSY)
        self._running = iter(self._invoker.process(frame, arrival.link.port))
        self._set_state(State.WAITING)

    def _finish(self) -> None:
        arrival, self._current = self._current, None
        if arrival is not None:
            self._credit(arrival)

    def _credit(self, arrival: Arrival) -> None:
        message = arrival.link.finish(arrival)
        if self._receiver is not None and arrival.link.route is not None:
            self._answer(arrival.link.route, message)

    def _interrupted(self, arrival: Arrival) -> None:
        """A new turn upstream: drop what waits of older ones, stop what runs, and pass it on."""
        kept: deque[Arrival] = deque()
        for waiting in self._inbox:
            if waiting.link is arrival.link and waiting.frame is not None and waiting.header.turn < arrival.header.turn:
                waiting.link.page.drop("interrupted", by_consumer=True)
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
                self._arrived(link.receive(lane.decode(parts)))
                continue
            with contextlib.suppress(ProtocolError):  # a stranger's bytes; who reaches this socket may be anybody
                self._introduced(route, lane.decode(parts))

    def _read_topic(self, reader: TopicReader) -> None:
        """Take in what a topic has; whoever reads too slowly loses the oldest, and it is counted."""
        for arrival in reader.read():
            self._arrived(arrival)
            waiting = [each for each in self._inbox if each.link is arrival.link and each.frame is not None]
            if len(waiting) > TOPIC_FRAMES:
                self._inbox.remove(waiting[0])
                arrival.link.page.drop("overflow", by_consumer=True)

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
        if message.header in self._tokens:
            self._mark(self._tokens[message.header], route, message.number)
        elif len(self._early) < MAX_EARLY:
            self._early[message.header] = (route, message.number)  # quicker than the host's word of its edge

    def _mark(self, link: InputLink, route: bytes, epoch: int) -> None:
        """A producer has shown an edge's token: what comes by this route is that edge's."""
        link.route = route
        self._routes[route] = link
        self._answer(route, lane.Message(lane.Type.MARK_BACK, epoch, lane.pack_grant(link.grant)))

    def _answer(self, route: bytes, message: lane.Message) -> None:
        assert self._receiver is not None
        try:
            self._receiver.send_multipart([route, *lane.encode(message)], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            # the producer is gone; its host will say so, and what it has sent is still good

    def _pump(self) -> None:
        for link in self._links:
            link.pump()
        if self._topics is not None:
            self._topics.pump()

    def _set_state(self, state: State) -> None:
        if self._words[counters.Node.STATE] != state:
            self._words[counters.Node.STATE] = state
            self._words[counters.Node.SINCE] = time.monotonic_ns()
