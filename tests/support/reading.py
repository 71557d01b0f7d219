"""Who reads an edge in memory, and who sends on one, with what must hold for what arrives.

They serve the ends of edges as a node's loop does, one step at a time.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import NotRequired, TypedDict, Unpack

from inmemory import Joined, Party

from rmbus.delivery import Delivery
from rmbus.media import Data, Frame, Packet, VideoFrame
from rmbus.protocol import lane
from rmbus.protocol.frames import Kind
from rmbus.runtime.links import Arrival
from rmbus.transport.counters import Edge


def fill_of(number: int) -> int:
    """Return the value of each byte of the frame of that number."""
    return (number * 7 + 1) % 256


def check_content(frame: Frame) -> None:
    """What a frame holds is what its number says: nobody has written over it."""
    number = frame.pts
    assert number is not None
    if isinstance(frame, VideoFrame):
        assert (frame.array == fill_of(number)).all()
    elif isinstance(frame, Data):
        assert frame.value["number"] == number
        assert (frame.value["array"] == fill_of(number)).all()
    else:
        assert isinstance(frame, Packet)
        assert struct.unpack_from("<I", frame.data) == (number,)


class Reader:
    """The consumer's end of an edge, served as a node's loop serves it, with what must hold for what arrives."""

    def __init__(self, edge: Joined, offered: deque[int], *, begins_anew: bool) -> None:
        self.edge, self.offered = edge, offered
        self.inbox: deque[Arrival] = deque()
        self.current: Arrival | None = None
        self.is_owing = self.is_ended = self.is_gone = False
        self.seen: list[int | None] = []
        self.kept: list[Frame] = []
        self.on_interrupt: Callable[[], None] = _nothing
        self.turn = self.told = self.missing = 0
        self.last_packet: int | None = None
        self.knows_stream = begins_anew

    @property
    def under_way(self) -> int:
        """Data frames between the mailbox and the end of their processing, as the lane and the inbox hold them."""
        return int(self.edge.page.words[Edge.SENT]) - int(self.edge.page.words[Edge.DONE])

    @property
    def interrupted(self) -> int:
        """Data frames that the consumer has dropped for a new turn."""
        return self.edge.page.dropped_by_consumer()

    def receive(self) -> bool:
        """Take one message off the lane; whether there was one."""
        message = self.edge.there.receive()
        if message is None:
            return False
        if message.type == lane.Type.MARK:
            self.edge.input.mark(self.edge.there, message.number)
        else:
            for arrival in self.edge.input.receive(message):
                if arrival.header.kind == Kind.INTERRUPT:
                    self._interrupted(arrival)
                else:
                    self.inbox.append(arrival)
        if self.edge.output.is_full:
            self.edge.output.flush()  # as soon as the lane has room again
        return True

    def begin(self, dependencies: dict[int, int | None]) -> Frame | None:
        """Begin with what waits longest; return the frame, where it is one."""
        arrival = self.inbox.popleft()
        header = arrival.header
        if arrival.frame is None:
            if header.kind == Kind.GAP:
                assert header.extra[0] > 0
                self.told += header.extra[0]
            elif header.kind == Kind.EOS:
                assert self.missing + len(self.offered) == self.told
                self.is_ended = True
            self._finished(arrival)
            return None
        self.edge.input.begin(arrival, 1)
        self.current = arrival
        assert header.turn == self.turn
        self.missing += self._missing_before(header.seq)
        assert self.told >= self.missing  # a loss is never told late
        self._check_packet(header.seq, arrival.frame, dependencies)
        check_content(arrival.frame)
        self.seen.append(arrival.frame.pts)
        return arrival.frame

    def finish(self, *, keep: bool) -> None:
        """End with the frame that was begun."""
        arrival, self.current = self.current, None
        assert arrival is not None
        assert arrival.frame is not None
        if keep:
            self.kept.append(arrival.frame)
        arrival.release()
        self._finished(arrival)

    def tell(self) -> None:
        """Give credit for all that was finished."""
        self.is_owing = False
        self.edge.input.tell()

    def _finished(self, arrival: Arrival) -> None:
        self.is_owing = True
        if self.edge.input.finish(arrival):
            self.tell()

    def _interrupted(self, interrupt: Arrival) -> None:
        older = [waiting for waiting in self.inbox if waiting.frame is not None]
        for arrival in older:
            assert arrival.header.turn < interrupt.header.turn
            self.edge.page.drop("interrupted", by_consumer=True)
            self.inbox.remove(arrival)
            arrival.release()
            self._finished(arrival)
        if self.current is not None:
            self.finish(keep=False)
        self.inbox = deque(waiting for waiting in self.inbox if waiting.header.kind != Kind.GAP)
        assert interrupt.header.turn == self.turn + 1
        self.turn, self.told, self.missing = interrupt.header.turn, 0, 0
        while self.offered and self.offered[0] < interrupt.header.seq:
            self.offered.popleft()
        self.last_packet, self.knows_stream = None, True  # what was thrown away here is for its producer to mend
        self.on_interrupt()
        self._finished(interrupt)

    def _missing_before(self, seq: int) -> int:
        missing = 0
        while self.offered[0] != seq:
            self.offered.popleft()
            missing += 1
        self.offered.popleft()
        return missing

    def _check_packet(self, seq: int, frame: Frame, dependencies: dict[int, int | None]) -> None:
        if not isinstance(frame, Packet) or frame.codec == "aac":
            return
        if not frame.key and self.edge.delivery.kind != "reliable" and not self.knows_stream:
            assert self.last_packet == dependencies[seq]  # it can be decoded
        self.last_packet, self.knows_stream = seq, self.knows_stream and not frame.key and self.last_packet is None


class Terms(TypedDict):
    credit: int
    room: int
    shares: bool
    last: bool
    is_topic: NotRequired[bool]


class Stream:
    """What a port has sent, for the oracle."""

    def __init__(self, party: Party) -> None:
        self.party = party
        self.seq = 0
        self.packet: int | None = None
        self.dependencies: dict[int, int | None] = {}
        self.readers: list[Reader] = []
        self.last: int | None = None

    def join(self, consumer: Party, delivery: Delivery, **terms: Unpack[Terms]) -> Reader:
        """Make an edge, and a reader for it."""
        offered = deque([self.last] if terms["last"] and self.last is not None else [])
        edge = self.party.join(consumer, delivery, **terms)
        reader = Reader(edge, offered, begins_anew=self.packet is None)
        self.readers.append(reader)
        return reader

    def send(self, frame: Frame) -> None:
        """Send a frame to all edges."""
        is_video = isinstance(frame, Packet) and frame.codec != "aac"
        if is_video:
            self.dependencies[self.seq], self.packet = self.packet, self.seq
        if not is_video or (isinstance(frame, Packet) and frame.key):
            self.last = self.seq
        for reader in self.readers:
            reader.offered.append(self.seq)
        self.party.port.send(frame)
        self.seq += 1

    def interrupt(self) -> None:
        """Begin a new turn."""
        self.last = None
        self.party.port.interrupt()

    def serve(self, reader: Reader) -> bool:
        """Take what a consumer has answered; whether it had."""
        edge, has_answered = reader.edge, False
        while (message := edge.here.receive()) is not None:
            edge.output.answered(message)
            edge.there.flush()  # as soon as the lane has room again
            has_answered = True
        self.party.port.reclaim(edge.output)
        edge.output.pump()
        return has_answered

    def lose(self, reader: Reader, reason: str) -> None:
        """A reader has gone: what it held, it never gives back where it has died."""
        reader.is_gone = True
        if reason == "consumer_died":
            reader.edge.input._ledger.end()
        self.readers.remove(reader)
        self.party.leave(reader.edge, reason)


def _nothing() -> None:
    return
