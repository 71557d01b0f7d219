"""The data thread of a node: it blocks on its lanes and runs the user's code, with no hand-over between threads."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Final

from rmbus.node import Interrupt
from rmbus.protocol import lane
from rmbus.protocol.frames import Kind
from rmbus.runtime.attendant import Attendant
from rmbus.runtime.ends import Ends
from rmbus.runtime.invoke import Emission, Invoker
from rmbus.runtime.keys import KeyFrames
from rmbus.runtime.links import Arrival, InputLink
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.outputs import END_S
from rmbus.runtime.turns import Turns
from rmbus.transport import counters
from rmbus.transport.counters import Page, State

LOOK_NS: Final = 200_000
"""While there is work, the lanes are looked at again after this time."""

now_ns: Final = time.monotonic_ns
_BUSY: Final = State.BUSY
_INTERRUPT: Final = int(Kind.INTERRUPT)
_FRAMES_IN: Final = int(counters.Node.FRAMES_IN)
_FRAMES_OUT: Final = int(counters.Node.FRAMES_OUT)


class UpstreamFailed(Exception):
    """A node upstream has failed: nothing more comes, and what is held must not be taken for whole."""


class NodeLoop(Ends):
    """Runs one node until its inputs have ended.

    Attributes:
        reactor: other threads reach the loop by its `call_soon`.
        frame: the number of the frame that the user's code has been given last, or None.
    """

    def __init__(
        self, invoker: Invoker, outputs: list[str], page: Page, memory: NodeMemory, *, is_source: bool
    ) -> None:
        super().__init__(outputs, page, memory)
        self.frame: int | None = None
        self._invoker = invoker
        self._words = page.words
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
        self._is_beside = False
        self._attendant = Attendant(self._attend_beside, self._done, self.abort)
        invoker.breathe()
        invoker.send_by({name: port.send_array for name, port in self._ports.items()})
        invoker.lend_from(lambda port, size: self._ports[port].room(size))

    # --- orders, called through the reactor --------------------------------------------------------------------------

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
        if self._ports:
            attendant.start()
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

    @property
    def is_over(self) -> bool:
        """Whether the node has ended, and all that it sent is processed."""
        return self._ended and all(port.is_settled for port in self._ports.values())

    @staticmethod
    def is_due(look: int) -> bool:
        """Whether the lanes, last looked at at that time, are to be looked at again while there is work."""
        return now_ns() - look > LOOK_NS

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
        if self._is_beside:
            self.reactor.call_soon(partial(self._key_wanted, port))
        elif not self._ended and self._invoker.key_wanted(port):
            self._ask_for_keys()

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

    # --- lanes -------------------------------------------------------------------------------------------------------

    def _arrive(self, link: InputLink, message: lane.Message) -> None:
        for arrival in link.receive(message):
            if arrival.header[0] != _INTERRUPT:
                self._inbox.append(arrival)
            else:
                self._interrupt(arrival)

    def _note_waiting(self) -> None:
        """Frames wait at an output, for their consumer or for a batch, and the user's code may take its time."""
        self._attendant.need()

    def _attend_beside(self) -> bool:
        """Do so in the attendant's thread, which must not speak to the node."""
        self._is_beside = True
        try:
            return self._attend()
        finally:
            self._is_beside = False

    def _done(self) -> int:
        return self._words[_FRAMES_IN] + self._words[_FRAMES_OUT]

    def _interrupt(self, arrival: Arrival) -> None:
        """An interrupt overtakes what waits."""
        self._interrupted(arrival)
        self._credit(arrival)

    def _set_state(self, state: State, now_ns: int) -> None:
        if self._state is not state:
            self._state = state
            self._words[counters.Node.STATE] = state
            self._words[counters.Node.SINCE] = now_ns
