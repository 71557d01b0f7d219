"""What carries a process that has joined a host of another machine: its umbilical and its lanes, over one connection.

Two relays face each other, one in the process itself and one in the host's gateway. Each stands, on its machine, where
the other end of the umbilical and of the fast lanes would be, and passes on what it is told; so neither the process
nor the host needs to know. Descriptors stay where they are: each side makes its own lanes and pages.

    process ── umbilical, lanes ── relay ══ ZeroMQ, CURVE ══ relay ── umbilical, lanes ── host, nodes
                                                          (gateway)
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from rmbus.errors import Broken, Closed, MalformedFrame, ProtocolError, RmbusError
from rmbus.protocol import lane, messages
from rmbus.protocol.lane import Buffer
from rmbus.protocol.limits import MAX_CREDIT, MAX_PAYLOAD_BYTES
from rmbus.transport.lanes import FastLane
from rmbus.transport.mirroring import TELL_S, Mirror
from rmbus.transport.reactor import Reactor, Timer
from rmbus.transport.umbilical import Umbilical, close_all

WORDS: Final = 0
"""Stands where the number of an edge would: what follows is a message of the umbilical, or nothing: its end."""

BURST: Final = 64
"""Messages of one lane that are sent on before others have their turn."""

MAX_BEHIND_BYTES: Final = 4 * MAX_PAYLOAD_BYTES
"""What may wait for a process that does not read its lane."""

SETTLE_S: Final = 30.0
"""What came by a connection that is gone waits so long for whoever is to read it."""

_NUMBER: Final = struct.Struct("<Q")


def pack_number(number: int) -> bytes:
    """Return the part that says which edge the following ones are of."""
    return _NUMBER.pack(number)


def unpack_number(part: Buffer) -> int:
    """Return what `pack_number` was given.

    Raises:
        MalformedFrame: it was given nothing.
    """
    if len(part) != _NUMBER.size:
        raise MalformedFrame(f"the number of an edge is {_NUMBER.size} bytes")
    return int(_NUMBER.unpack(part)[0])


class Carried:
    """One lane: this end of it, and what goes on from it to the far relay.

    Attributes:
        mirror: its account.

    Args:
        send: sends parts to the far relay. tell_counts: tells it of the account.
    """

    def __init__(
        self,
        reactor: Reactor,
        end: FastLane,
        mirror: Mirror,
        send: Callable[[Sequence[Buffer]], None],
        tell_counts: Callable[[], None],
    ) -> None:
        self._reactor, self._end, self._send, self._tell_counts = reactor, end, send, tell_counts
        self.mirror = mirror
        self._is_behind = False
        self._on_settled: Callable[[], None] | None = None
        self._is_closed = False

    def watch(self, arrived: Callable[[], None]) -> None:
        """Call back when something has come on the lane, to have it `read`, and again while there is more."""
        self._reactor.add(self._end.source, arrived)

    def read(self) -> None:
        """Send on some of what has come on the lane: who sends without end delays others by no more than `BURST`.

        Raises:
            ProtocolError: that is no message.
        """
        for _ in range(BURST):
            if not self._send_on():
                return

    def read_out(self) -> None:
        """Send on all that has come on the lane, whose other end sends no more than its window without an answer.

        Raises:
            ProtocolError: that is no message.
        """
        for _ in range(4 * MAX_CREDIT):  # with what is no frame
            if not self._send_on():
                return

    def _send_on(self) -> bool:
        """Send on one message of the lane; whether there was one."""
        if self._is_closed:
            return False
        try:
            message = self._end.receive()
        except Closed:
            self._reactor.remove(self._end.source)  # what has become of the other end, words will say
            self._settle()
            return False
        if message is None:
            return False
        if self.mirror.ends():
            self._tell_counts()
        self._send(lane.encode(message))
        return True

    def deliver(self, parts: Sequence[memoryview]) -> None:
        """Pass on what has come from the far relay.

        Raises:
            ProtocolError: it is no lane message. Broken: too much waits already.
        """
        message = lane.decode(list(parts))
        if self._is_closed:
            return
        try:
            if self._end.send(message):
                return
        except Closed:
            self._settle()
            return
        self._is_behind = True
        if (waiting := self._end.kept_bytes) > MAX_BEHIND_BYTES:
            raise Broken(f"{waiting:,} bytes wait for a process that does not read them")
        self._await_room()

    def when_settled(self, call: Callable[[], None]) -> None:
        """Call back when nothing waits for room on the lane any more: now, if nothing does."""
        if not self._is_behind:
            call()
            return
        earlier = self._on_settled

        def both() -> None:
            if earlier is not None:
                earlier()
            call()

        self._on_settled = both

    def disown(self) -> None:
        """Close the descriptor alone, in a forked child."""
        self._end.close()

    def close(self) -> None:
        """Close this end."""
        if not self._is_closed:
            self._is_closed = True
            self._reactor.remove(self._end.source)
            self._end.close()

    def _await_room(self) -> None:
        if self._reactor.watches(self._end.source):
            self._reactor.add_writer(self._end.source, self._flush)

    def _flush(self) -> None:
        try:
            if not self._end.flush():
                self._await_room()
                return
        except Closed:
            pass  # there is nobody to wait for
        self._settle()

    def _settle(self) -> None:
        self._is_behind = False
        settled, self._on_settled = self._on_settled, None
        if settled is not None:
            settled()


class Relay(ABC):
    """One of the two; all of it in one reactor's thread.

    Args:
        umbilical: our end, which does not wait. send: sends parts to the far relay; Closed: they cannot be sent.
        on_over: called, once, when nothing more can come or go.
    """

    def __init__(
        self,
        reactor: Reactor,
        umbilical: Umbilical,
        send: Callable[[Sequence[Buffer]], None],
        on_over: Callable[[], None],
    ) -> None:
        self._reactor, self._umbilical, self._send, self._on_over = reactor, umbilical, send, on_over
        self._carried: dict[int, Carried] = {}
        self._is_over = self._is_lost = False
        self._timer: Timer | None = None
        reactor.add(umbilical.fileno(), self._hear)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._is_over

    def arrive(self, parts: Sequence[memoryview]) -> None:
        """Take what the far relay has sent; one that sends what cannot be taken has ended."""
        if self._is_over:
            return
        try:
            number, rest = unpack_number(parts[0]) if parts else WORDS, parts[1:]
            if number != WORDS:
                if number in self._carried:  # else it has been taken down here meanwhile
                    self._carried[number].deliver(rest)
            elif rest:
                message = messages.decode(rest[0])[1]
                if not isinstance(message, messages.Counts):
                    self._told(message)
                elif message.edge in self._carried:
                    self._carried[message.edge].mirror.learn(message.counts)
            else:
                self._far_ended()
        except messages.UnknownTag:
            return  # a later version says more
        except (RmbusError, OSError) as error:
            self.end(str(error))

    def lose(self, reason: str) -> None:
        """The connection is gone: what came by it before is passed on, then this side ends."""
        if not (self._is_over or self._is_lost):
            self._is_lost = True
            self._reactor.call_later(SETTLE_S, partial(self.end, reason))
            self._guarded(partial(self.settle, partial(self.end, reason)))

    def end(self, reason: str) -> None:
        """End it now, at this side; who is at the umbilical sees it."""
        if self._is_over:
            return
        self._is_over = True
        self._reactor.remove(self._umbilical.fileno())
        self._umbilical.close()
        for each in self._carried.values():
            each.close()
            each.mirror.close()
        self._carried.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._over(reason)
        self._on_over()

    # --- what the two sides do differently ---------------------------------------------------------------------------

    @abstractmethod
    def _told(self, message: messages.Message) -> None:
        """The far relay has sent a message."""

    @abstractmethod
    def _far_ended(self) -> None:
        """The far relay has nothing more to say."""

    @abstractmethod
    def _pass_on(self, message: messages.Message, descriptors: list[int]) -> None:
        """The umbilical has said something; the descriptors are this call's to close."""

    @abstractmethod
    def _over(self, reason: str) -> None:
        """It has ended."""

    # --- for both ----------------------------------------------------------------------------------------------------

    def say(self, message: messages.Message) -> None:
        """Send a message to the far relay."""
        self._put(WORDS, [messages.encode(message)])

    def say_end(self) -> None:
        """Say that nothing more comes from this side."""
        self._put(WORDS, [])

    def carry(self, edge: int, end: FastLane, mirror: Mirror) -> None:
        """Send on what comes by a lane, and pass on by it what comes for it; and so with what its ends count.

        An edge that is known gets another lane, since another process is at its end now.
        """
        earlier = self._carried.get(edge)
        if earlier is not None:
            earlier.read_out()
            earlier.when_settled(earlier.close)
            if earlier.mirror is not mirror:
                earlier.mirror.close()
        send, tell_counts = partial(self._put, edge), partial(self._tell_counts, edge, mirror)
        carried = self._carried[edge] = Carried(self._reactor, end, mirror, send, tell_counts)
        carried.watch(partial(self._guarded, carried.read))
        if self._timer is None:
            self._timer = self._reactor.call_later(TELL_S, self._tell_all_counts)

    def mirror(self, edge: int) -> Mirror | None:
        """Return the account of an edge that is carried."""
        carried = self._carried.get(edge)
        return None if carried is None else carried.mirror

    def take_down(self, edge: int, last: Callable[[], None]) -> None:
        """An edge is gone: what has come on its lane is sent on, what waits for room passed on; then it is closed."""
        carried = self._carried.get(edge)
        if carried is None:
            last()
            return
        carried.read_out()
        self._tell_counts(edge, carried.mirror)

        def close() -> None:
            if self._carried.get(edge) is carried:
                del self._carried[edge]
            if not self._is_over:
                last()
                carried.close()
                carried.mirror.close()

        carried.when_settled(close)

    def settle(self, last: Callable[[], None]) -> None:
        """What has come on all lanes is sent on, and what waits for room is passed on; then call back."""
        waiting = len(self._carried) + 1

        def one() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting and not self._is_over:
                last()

        for each in list(self._carried.values()):
            each.read_out()
            each.when_settled(one)
        for edge, each in list(self._carried.items()):
            self._tell_counts(edge, each.mirror)
        one()

    def _tell_counts(self, edge: int, mirror: Mirror) -> None:
        news = mirror.news()
        if news is not None:
            self.say(messages.Counts(edge, news))

    def _tell_all_counts(self) -> None:
        self._timer = None
        for edge, carried in list(self._carried.items()):
            self._tell_counts(edge, carried.mirror)
        if self._carried and not self._is_over:
            self._timer = self._reactor.call_later(TELL_S, self._tell_all_counts)

    def _put(self, number: int, parts: Sequence[Buffer]) -> None:
        if self._is_over or self._is_lost:
            return
        try:
            self._send([pack_number(number), *parts])
        except Closed as error:
            self._reactor.call_soon(partial(self.lose, str(error)))

    def _hear(self) -> None:
        """Take one message of the umbilical."""
        try:
            _, message, descriptors = self._umbilical.receive()
        except BlockingIOError:
            return
        except messages.UnknownTag:
            return  # it is for a later version
        except (Closed, ProtocolError, Broken):
            self._reactor.remove(self._umbilical.fileno())
            self._guarded(partial(self.settle, self._near_ended))
            return
        self._guarded(partial(self._pass_on, message, descriptors))

    def _guarded(self, call: Callable[[], None]) -> None:
        """Do something with what a process has said; what cannot be taken is the end of this relay, and of no other."""
        try:
            call()
        except (RmbusError, OSError) as error:  # OSError: no descriptor is left
            self.end(str(error))

    @abstractmethod
    def _near_ended(self) -> None:
        """The umbilical has said its last."""

    def hand_on(self, message: messages.Message, descriptors: Sequence[int] = ()) -> None:
        """Say something by the umbilical; the descriptors are given away."""
        try:
            if not self._is_over:
                self._umbilical.send(message, descriptors)
        except RmbusError as error:
            self._reactor.call_soon(partial(self.end, str(error)))
        finally:
            close_all(descriptors)
