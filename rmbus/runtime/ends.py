"""The ends of a node's edges: how they are wired, and what comes and goes on their lanes."""

from __future__ import annotations

import contextlib
import socket
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import zmq

from rmbus.errors import Broken, Closed, ProtocolError
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import Kind
from rmbus.protocol.limits import FIRST_TOPIC_EDGE
from rmbus.runtime.links import Arrival, InputLink, OutputLink
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.outputs import OutputPort
from rmbus.transport.counters import Page
from rmbus.transport.lanes import DealerLane, FastLane, RouterLane
from rmbus.transport.reactor import Reactor
from rmbus.transport.sockets import Socket, adopt, open_socket

MAX_EARLY: Final = 1024
"""Marks that wait for the host's word about their edge."""

DETACH_S: Final = 1.0
"""How long a segment in which nothing more will lie is kept for frames that others have sent on just before."""

TRIM_S: Final = 1.0
"""How often memory that is not used any more is given back."""

_FRAMES: Final = int(lane.Type.FRAMES)


class Watched(NamedTuple):
    """The producer's end of an edge; `serve` takes what its consumer has said."""

    port: OutputPort
    link: OutputLink
    end: DealerLane | FastLane
    serve: Callable[[], None]


class Ends(ABC):
    """The inputs and outputs of one node. What to do with what arrives, `NodeLoop` knows.

    Attributes:
        reactor: other threads reach the node by its `call_soon`.
    """

    def __init__(self, outputs: list[str], page: Page, memory: NodeMemory) -> None:
        self.reactor = Reactor()
        self._context: zmq.Context[Socket] = zmq.Context()
        self._memory = memory
        self._receiver: Socket | None = None
        self._tokens: dict[bytes, InputLink] = {}
        self._routes: dict[bytes, InputLink] = {}
        self._early: dict[bytes, tuple[bytes, int]] = {}
        self._inputs: list[InputLink] = []
        self._inbox: deque[Arrival] = deque()
        self._lanes_in: dict[int, FastLane] = {}
        self._ports = {name: self._new_port(name, page) for name in outputs}
        self._watched: dict[int, Watched] = {}
        memory.on_detach = self._detach
        if outputs:
            self.reactor.call_later(TRIM_S, self._trim)

    # --- wiring, called through the reactor --------------------------------------------------------------------------

    def add_input(self, message: messages.Input, page: Page, listener: int | None, fast: int | None) -> None:
        """Expect an edge, on a lane of its own or on the listening socket."""
        link = self._new_input(message, page)
        self._inputs.append(link)
        if fast is not None:
            end = self._lanes_in[link.edge] = FastLane(socket.socket(fileno=fast))
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
        link.on_wait = self._note_waiting
        port = self._ports[message.port]
        port.add(link, last=message.last)
        self._watch(port, link, end, on_up)

    def _watch(self, port: OutputPort, link: OutputLink, end: DealerLane | FastLane, on_up: Callable[[], None]) -> None:
        """Hear what the consumer of an edge says."""
        link.on_full = partial(self._watch_room, link, end)
        if link.is_full:
            link.on_full()
        watched = self._watched[link.edge] = Watched(port, link, end, partial(self._answered, port, link, end, on_up))
        self.reactor.add(end.source, watched.serve)

    def _new_port(self, name: str, page: Page) -> OutputPort:
        return OutputPort(name, self._memory, page)

    def _new_input(self, message: messages.Input, page: Page) -> InputLink:
        return InputLink.of(message, page, self._memory.segments)

    def _new_output(self, message: messages.Output, page: Page, end: DealerLane | FastLane) -> OutputLink:
        readers = self._memory.readers(message.edge)
        return OutputLink.of(message, page, end, readers, batches=isinstance(end, FastLane))

    def _new_lane(self, message: messages.Output, fast: int | None) -> DealerLane | FastLane:
        if fast is not None:
            return FastLane(socket.socket(fileno=fast))
        dealer = open_socket(self._context, zmq.DEALER)
        dealer.connect(f"ipc://{message.path}")
        return DealerLane(dealer)

    def publish(self, message: messages.Publish) -> None:
        """Outputs are topics: keep the last frame of each for those who come later."""
        for name in message.topics:
            self._ports[name].keeps_last = True

    def gone(self, message: messages.Gone) -> None:
        """The other end of an edge is gone."""
        if message.reason == "producer_died":
            self._without_producer(message.edge)
            return
        port, link, end, _ = self._watched.pop(message.edge)
        self.reactor.remove(end.source)
        end.close()
        if link in port.links:  # else it had its time before
            port.drop(link, message.reason)
        self._memory.forget_readers(link.edge)

    def _without_producer(self, edge: int) -> None:
        """A producer is gone: what it has sent is still taken, then its edge ends and is forgotten."""
        for link in [each for each in self._inputs if each.edge == edge]:
            lane_end = self._lanes_in.pop(edge, None)
            if lane_end is not None:
                self._read_out(link, lane_end)
                self.reactor.remove(lane_end.source)
                lane_end.close()
            elif self._receiver is not None:
                self._receive()
            self._tokens.pop(link.token, None)
            self._routes = {route: each for route, each in self._routes.items() if each is not link}
            link.lane = None
            link.is_orphan = True
            waiting = [each for each in self._inbox if each.link is link]
            if link.ended:
                self._inputs.remove(link)
            elif not any(each.header.kind in (Kind.EOS, Kind.ERROR) for each in waiting):
                if link.topic:
                    sys.stderr.write(f"rmbus: topic {link.topic} has ended: its publisher is gone\n")
                self._inbox.append(link.end_for(sum(each.frame is not None for each in waiting)))

    def fail(self, type_name: str, message: str) -> None:
        """Tell the nodes downstream, in band, that this one has failed."""
        for port in self._ports.values():
            port.control(Kind.ERROR, [type_name, message[:1000]])

    def close(self) -> None:
        """Close every socket."""
        for end in (*self._lanes_in.values(), *(watched.end for watched in self._watched.values())):
            if isinstance(end, FastLane):  # the context has the others, and lets them send what they have
                end.close()
        self._context.destroy(linger=500)
        self.reactor.close()

    # --- for whoever decides what is done next -----------------------------------------------------------------------

    @abstractmethod
    def _arrive(self, link: InputLink, message: lane.Message) -> None:
        """Frames have come on an edge."""

    @abstractmethod
    def _note_waiting(self) -> None:
        """Frames wait at an output, for their consumer or for a batch, and the user's code may take its time."""

    # --- lanes -------------------------------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Take in all that has come, before the next thing is done: a new turn overtakes what is still on its lane.

        Returns:
            Whether there was anything but frames.
        """
        served = self.reactor.serve_once(wait=False)
        for link in self._inputs:
            if link.edge in self._lanes_in:
                self._read_out(link, self._lanes_in[link.edge])
        return served

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
            self.reactor.remove(end.source)  # what has become of the producer, its host will say
            link.lane = None
            return
        if message is not None:
            if message[0] == _FRAMES and link.is_up:
                self._arrive(link, message)
            else:
                self._take(link, end, message)

    def _read_out(self, link: InputLink, end: FastLane) -> None:
        """Take all that there is on a fast lane: as much as its window, at most."""
        with contextlib.suppress(Closed):
            while (message := end.receive()) is not None:
                self._take(link, end, message)

    def _take(self, link: InputLink, end: FastLane, message: lane.Message) -> None:
        if message.type == lane.Type.FRAMES and link.is_up:
            self._arrive(link, message)
        elif message.type == lane.Type.MARK and bytes(message.body) == link.token:
            link.mark(end, message.number)
        else:
            raise Broken(f"input {link.port!r}: a lane message of type {message.type} on its fast lane")

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

    def _attend(self) -> bool:
        """Take what consumers have said, and send what can go; whether something still waits for them."""
        for watched in list(self._watched.values()):
            watched.serve()
        return any(watched.link.is_up and watched.link.mailbox.waiting for watched in self._watched.values())

    def _watch_room(self, link: OutputLink, end: DealerLane | FastLane) -> None:
        """See to it that what a full lane has kept is sent when there is room."""
        if self.reactor.watches(end.source):
            self.reactor.add_writer(end.source, link.flush)

    def _ask_for_keys(self) -> None:
        for link in self._inputs:
            link.want_key()

    def _leave_topics(self) -> None:
        """Those who read outputs as topics have had their time; consumers of the session are waited for."""
        for port, link, _, _ in self._watched.values():
            if link.edge >= FIRST_TOPIC_EDGE and link in port.links:
                port.leave(link)

    # --- memory ------------------------------------------------------------------------------------------------------

    def _detach(self, segment: int) -> None:
        """No further frame lies in a segment; called in the umbilical's thread."""
        self.reactor.call_soon(lambda: self.reactor.call_later(DETACH_S, lambda: self._forget_segment(segment)))

    def _forget_segment(self, segment: int) -> None:
        """Take in what is under way, for it may lie there; then let go."""
        for link in self._inputs:
            if link.edge in self._lanes_in:
                self._read_out(link, self._lanes_in[link.edge])
        if self._receiver is not None:
            self._receive()
        self._memory.forget(segment)

    def _trim(self) -> None:
        for port in self._ports.values():
            port.trim()
        self.reactor.call_later(TRIM_S, self._trim)
