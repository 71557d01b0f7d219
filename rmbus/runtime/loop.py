"""The data thread of a node: it blocks on its lanes and runs the user's code, with no hand-over between threads."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

import zmq

from rmbus.delivery import Delivery
from rmbus.errors import Broken, Closed, ProtocolError
from rmbus.node import Interrupt
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import Kind
from rmbus.protocol.limits import FIRST_TOPIC_EDGE
from rmbus.runtime.attendant import Attendant
from rmbus.runtime.invoke import Emission, Invoker
from rmbus.runtime.keys import KeyFrames
from rmbus.runtime.links import Arrival, InputLink, OutputLink
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.outputs import END_S, OutputPort
from rmbus.runtime.turns import Turns
from rmbus.transport import counters
from rmbus.transport.counters import Page, State
from rmbus.transport.lanes import DealerLane, FastLane, RouterLane
from rmbus.transport.reactor import Reactor
from rmbus.transport.sockets import Socket, adopt, open_socket

MAX_EARLY: Final = 1024
"""Marks that wait for the host's word about their edge."""

LOOK_NS: Final = 200_000
"""While there is work, the lanes are looked at again after this time."""

DETACH_S: Final = 1.0
"""How long a segment in which nothing more will lie is kept for frames that others have sent on just before."""

TRIM_S: Final = 1.0
"""How often memory that is not used any more is given back."""

now_ns: Final = time.monotonic_ns
_BUSY: Final = State.BUSY
_FRAMES: Final = int(lane.Type.FRAMES)
_INTERRUPT: Final = int(Kind.INTERRUPT)
_FRAMES_IN: Final = int(counters.Node.FRAMES_IN)
_FRAMES_OUT: Final = int(counters.Node.FRAMES_OUT)


class UpstreamFailed(Exception):
    """A node upstream has failed: nothing more comes, and what is held must not be taken for whole."""


class _Watched(NamedTuple):
    """The producer's end of an edge; `serve` takes what its consumer has said."""

    port: OutputPort
    link: OutputLink
    end: DealerLane | FastLane
    serve: Callable[[], None]


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
        self._lanes_in: dict[int, FastLane] = {}
        self._watched: dict[int, _Watched] = {}
        self._current: Arrival | None = None
        self._running: Iterator[Emission] | None = None
        self._held: Emission | None = None
        self._turns = Turns()
        self._frames_in = 0
        self._state = State.STARTING
        self._is_source = is_source
        self._may_start = False
        self._has_begun = False
        self._flushed = False
        self._ended = False
        keys = KeyFrames(self.reactor, self._key_wanted)
        for port in self._ports.values():
            keys.watch(port)
        self._attendant = Attendant(self._attend, self._done, self.abort)
        memory.on_detach = self._detach
        invoker.breathe()
        invoker.send_by({name: port.send_array for name, port in self._ports.items()})
        invoker.lend_from(lambda port, size: self._ports[port].room(size))
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
        watched = self._watched[link.edge] = _Watched(port, link, end, partial(self._answered, port, link, end, on_up))
        self.reactor.add(end.source, watched.serve)

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
            batches=isinstance(end, FastLane),
        )

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

    def go(self) -> None:
        """Everything is linked: a source may begin."""
        self._may_start = True

    def stop(self) -> None:
        """Drain: a source ends here; what is queued is finished."""
        if self._is_source and not self._flushed:
            self._may_start = True
            self._has_begun = True
            self._let_go()
            self._close_running()

    def conclude(self) -> None:
        """The node has ended and has cleaned up; one that cannot be started anew has nothing more to say."""

    def abort(self, error: BaseException) -> None:
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
        attendant = self._attendant
        try:
            with attendant.lock, self._invoker.giving_way(attendant.lock):
                self._run()
        finally:
            attendant.end()
        self._set_state(State.ENDED, now_ns())

    def _run(self) -> None:
        attendant = self._attendant
        look = 0
        while not self.is_over:
            while self._inbox and self._running is None and self._held is None and now_ns() - look < LOOK_NS:
                self._begin(self._inbox.popleft())
            if self.is_due(look):
                self._look()
                look = now_ns()
            if not self._step():
                if attendant.is_needed:
                    self._attend()
                self._set_state(State.BLOCKED if self._held is not None else State.WAITING, now_ns())
                self.reactor.serve_once(wait=True)
                look = now_ns()

    def _look(self) -> None:
        """Take in all that has come, before the next thing is done: a new turn overtakes what is still on its lane."""
        self.reactor.serve_once(wait=False)
        for link in self._inputs:
            if link.edge in self._lanes_in:
                self._read_out(link, self._lanes_in[link.edge])

    @property
    def is_over(self) -> bool:
        """Whether the node has ended, and all that it sent is processed."""
        return self._ended and all(port.is_settled for port in self._ports.values())

    @staticmethod
    def is_due(look: int) -> bool:
        """Whether the lanes, last looked at at that time, are to be looked at again while there is work."""
        return now_ns() - look > LOOK_NS

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
        if self._state is not _BUSY:
            self._set_state(_BUSY, now_ns())
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
            port.interrupt(self._turns.begin())
        elif port.has_room:
            port.send(emission.value)
        else:
            self._held = emission
            for link in port.links:
                link.note_blocked(not link.mailbox.has_room)
            return False
        if self._held is not None:
            self._let_go()
        return True

    def _let_go(self) -> None:
        """Hold nothing back any more: it has been sent, or is void."""
        held, self._held = self._held, None
        if held is not None and held.port in self._ports:
            for link in self._ports[held.port].links:
                link.note_blocked(False)

    def _begin(self, arrival: Arrival) -> None:
        if arrival.frame is None:
            self._control(arrival)
            return
        self._note_begin(arrival)
        emissions = self._invoker.process(arrival.frame, arrival.link.port)
        if emissions:  # some, or an iterator that is pulled from now on
            self._running = iter(emissions)
        else:
            self._finish()

    def _note_begin(self, arrival: Arrival) -> None:
        """Count a frame as given to the node's code."""
        now = now_ns()
        self._current = arrival
        self.frame = arrival.header[1]
        arrival.link.begin(arrival, now)
        self._frames_in += 1
        self._words[_FRAMES_IN] = self._frames_in
        if self._state is not _BUSY:
            self._set_state(_BUSY, now)

    def _control(self, arrival: Arrival) -> None:
        """Heed a control frame."""
        link, kind, extra = arrival.link, arrival.header.kind, arrival.header.extra
        if kind == Kind.EOS:
            self._input_ended(link)
        elif kind == Kind.ERROR and link.topic:  # whoever reads a topic outlives its publisher, however that ends
            sys.stderr.write(f"rmbus: topic {link.topic} has ended: its publisher has failed: {extra!r:.300}\n")
            self._input_ended(link)
        elif kind == Kind.ERROR:
            raise UpstreamFailed(f"input {link.port!r}: {extra}")
        self._credit(arrival)

    def _input_ended(self, link: InputLink) -> None:
        link.ended = True
        if all(each.ended for each in self._inputs if each.port == link.port):  # several may end at one port
            self._tell_ended(link.port)
        if link.is_orphan:
            self._inputs.remove(link)

    def _tell_ended(self, port: str) -> None:
        self._invoker.ended(port)

    def _finish(self) -> None:
        arrival, self._current = self._current, None
        if arrival is not None:
            self._invoker.forget()
            arrival.frame = None
            self._credit(arrival)

    def _credit(self, arrival: Arrival) -> None:
        """An arrival is dealt with: tell its producer, if it may wait for that."""
        link = arrival.link
        if link.finish(arrival):
            link.tell()

    def _interrupted(self, arrival: Arrival) -> None:
        """A new turn upstream: drop what waits of older ones, stop what runs, and pass it on."""
        self._drop_older(arrival)
        if self._current is not None and self._current.link is arrival.link:
            self._let_go()
            self._close_running()
        number = self._turns.number_of(arrival)
        if self._turns.is_new(number, self._inputs):
            self._invoker.interrupted()
            for port in self._ports.values():
                port.interrupt(number)
        elif self._turns.lags(number, arrival.link):
            self._invoker.interrupted()

    def _drop_older(self, arrival: Arrival) -> None:
        """Drop what waits of older turns than that of an interrupt."""
        kept: deque[Arrival] = deque()
        for waiting in self._inbox:
            if waiting.link is arrival.link and waiting.frame is not None and waiting.header.turn < arrival.header.turn:
                waiting.link.page.drop("interrupted", by_consumer=True)
                waiting.release()
                self._credit(waiting)
            else:
                kept.append(waiting)
        self._inbox = kept

    def _key_wanted(self, port: str) -> None:
        """Tell the node that a key frame of an output is wanted, and ask those before it for theirs."""
        if not self._ended and self._invoker.key_wanted(port):
            self._ask_for_keys()

    def _ask_for_keys(self) -> None:
        for link in self._inputs:
            link.want_key()

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
            self._note_flush()
            self._running = iter(self._invoker.flush())
            return True
        self._end()
        return True

    def _note_flush(self) -> None:
        """All inputs have ended: what the node's code makes now comes from none of them."""
        self._flushed = True
        self.frame = None

    def _end(self) -> None:
        self._ended = True
        for port in self._ports.values():
            port.control(Kind.EOS)
        self.reactor.call_later(END_S, self._leave_topics)

    def _leave_topics(self) -> None:
        """Those who read outputs as topics have had their time; consumers of the session are waited for."""
        for port, link, _, _ in self._watched.values():
            if link.edge >= FIRST_TOPIC_EDGE and link in port.links:
                port.leave(link)

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

    def _arrive(self, link: InputLink, message: lane.Message) -> None:
        for arrival in link.receive(message):
            if arrival.header[0] != _INTERRUPT:
                self._inbox.append(arrival)
            else:
                self._interrupt(arrival)

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

    def _note_waiting(self) -> None:
        """Frames wait at an output, for their consumer or for a batch, and the user's code may take its time."""
        self._attendant.need()

    def _attend(self) -> bool:
        """Take what consumers have said, and send what can go; whether something still waits for them."""
        for watched in list(self._watched.values()):
            watched.serve()
        return any(watched.link.is_up and watched.link.mailbox.waiting for watched in self._watched.values())

    def _done(self) -> int:
        return self._words[_FRAMES_IN] + self._words[_FRAMES_OUT]

    def _watch_room(self, link: OutputLink, end: DealerLane | FastLane) -> None:
        """See to it that what a full lane has kept is sent when there is room."""
        if self.reactor.watches(end.source):
            self.reactor.add_writer(end.source, link.flush)

    def _interrupt(self, arrival: Arrival) -> None:
        """An interrupt overtakes what waits."""
        self._interrupted(arrival)
        self._credit(arrival)

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

    def _set_state(self, state: State, now_ns: int) -> None:
        if self._state is not state:
            self._state = state
            self._words[counters.Node.STATE] = state
            self._words[counters.Node.SINCE] = now_ns
