"""The ends of a node's edges inside its process: what comes in, with credit, and what goes out, by mailbox."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import numpy as np

from rmbus import formats, framing, values
from rmbus.delivery import Delivery
from rmbus.errors import Broken, Closed, MalformedFrame
from rmbus.media import Frame, Packet
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import Entry, Header, Kind, Place, decode_frames, encode_frame, join_frames, with_ticket
from rmbus.protocol.limits import INLINE_BYTES, MAX_EPOCH, MAX_FRAMES
from rmbus.stamps import remember
from rmbus.transport import memory
from rmbus.transport.counters import Edge, Page
from rmbus.transport.lanes import Answering, Sending
from rmbus.transport.mailbox import Item, Mailbox
from rmbus.transport.memory import Held, Ledger, Lending

LEASE_QUOTA: Final = 16
"""Frames that a consumer may hold in its producer's memory, beside those that wait for it."""

ASK_S: Final = 0.5
"""A key frame is not asked for more often."""

BATCH_BYTES: Final = 64 * 1024
"""Frames that are due at once go in one message up to this size."""

BEHIND_FRAMES: Final = 8
"""A consumer that has more than so many small frames to work off gets what follows in batches."""

BATCH_FRAMES: Final = 32
"""So many small frames are held for a batch, no more."""

_CONTROL: Final = 16
_PACKET: Final = int(Kind.PACKET)
_DATA: Final = int(Kind.DATA)
_EPOCH_SHIFT: Final = 40
_ONE: Final = join_frames([b""])
_wall_ns: Final = time.time_ns
_RECEIVED: Final = int(Edge.RECEIVED)
_SENT: Final = int(Edge.SENT)
_SHARED: Final = int(Edge.SHARED)
_DELIVERED: Final = int(Edge.DELIVERED)
_DONE: Final = int(Edge.DONE)
_BEGAN: Final = int(Edge.BEGAN)


OTHER: Final = object()


class Arrival:
    """A frame that has arrived and waits for its turn in `process`; `frame` is None for control frames.

    `began_ns` is the time of the clock of `captured_ns` at which its `process` began, 0 before.
    """

    __slots__ = ("began_ns", "frame", "header", "link", "place")

    def __init__(self, link: InputLink, header: Header, place: int, frame: Frame | None) -> None:
        self.link, self.header, self.place, self.frame, self.began_ns = link, header, place, frame, 0

    def release(self) -> None:
        """Let go of the frame: where it lies in its producer's memory, that gets it back."""
        self.frame = None


class InputLink:
    """The consumer's end of one edge.

    It checks the order, decodes, and grants credit: a frame's credit returns when its `process` ends.

    Attributes:
        lane: by which its producer is answered; None until that has shown itself, and when it is gone.
        is_up: whether its producer has shown itself. is_orphan: whether that is gone.
        ended: whether nothing more comes.
        topic: the name of what feeds it, "" for an edge of a pipeline.
    """

    def __init__(
        self,
        edge: int,
        port: str,
        page: Page,
        segments: Mapping[int, memory.Mapping],
        *,
        credit: int,
        token: bytes = b"",
        topic: str = "",
    ) -> None:
        self.edge, self.port, self.token, self.topic = edge, port, token, topic
        self.page = page
        self.is_up = self.is_orphan = self.ended = False
        self.lane: Answering | None = None
        self._decode = framing.decoder(Any, topic)
        self._words = page.words
        self._note_latency = page.latency
        self._segments = segments
        self._credit = credit
        self._half = max(1, credit >> 1)
        self._received = page.words[Edge.RECEIVED]  # a consumer that is started anew goes on counting
        self._delivered = page.words[Edge.DELIVERED]
        self._done_in_all = page.words[Edge.DONE]
        self._epoch = 0
        self._acknowledged: int = 0
        self._last_place = self._finished = self._done = self._told = 0
        self._ledger = Ledger(page, credit + LEASE_QUOTA)
        self._can_decode: bool | None = None  # the video that comes next; None: what comes is none
        self._asked_at = -ASK_S

    @classmethod
    def of(cls, message: messages.Input, page: Page, segments: Mapping[int, memory.Mapping]) -> Self:
        """Return the end of an edge that the host has told of."""
        return cls(
            message.edge,
            message.port,
            page,
            segments,
            credit=message.credit,
            token=message.token,
            topic=message.topic,
        )

    def mark(self, lane_end: Answering, epoch: int) -> None:
        """A producer has shown the edge's token: a link begins.

        Raises:
            MalformedFrame: there is no such epoch.
        """
        if not 0 < epoch <= MAX_EPOCH:
            raise MalformedFrame(f"input {self.port!r}: a mark of epoch {epoch}; epochs are 1 to {MAX_EPOCH}")
        if epoch != self._epoch:
            self._ledger.end()
            self._ledger = Ledger(self.page, self._credit + LEASE_QUOTA)
            self._epoch = epoch
            self._last_place = self._finished = self._acknowledged = self._done = self._told = 0
        self.lane, self.is_up = lane_end, True
        self._answer(lane.Message(lane.Type.MARK_BACK, epoch, lane.pack_grant(self._credit)))

    def receive(self, message: lane.Message) -> list[Arrival]:
        """Take frames off the lane.

        Raises:
            Broken: one before them is missing. ProtocolError: they are not as specified.
        """
        _, place, body, apart = message
        entries = decode_frames(body)
        self._pass(place, len(entries))
        arrived: list[Arrival] = []
        decode = self._decode
        for entry in entries:
            _, header, payload = entry
            if header[0] < _CONTROL:
                if type(payload) is bytes:
                    frame = decode(header, payload)
                else:
                    fetched = self._fetch(entry, place, apart)
                    frame = decode(header, fetched)
                    if isinstance(fetched, np.ndarray) and header[0] != _PACKET:  # whose bytes were copied
                        remember(frame, fetched.base)
                if self._can_decode is not None:
                    self._look_for_key(frame)
                self._received += 1
                arrived.append(Arrival(self, header, place, frame))
            else:
                if header.kind == Kind.FORMAT:
                    form = formats.from_wire(header.extra)
                    decode = self._decode = framing.decoder(form, self.topic)
                    self._can_decode = False if formats.is_inter_coded(form) else None
                elif self._can_decode and header.kind in (Kind.GAP, Kind.INTERRUPT):
                    self._can_decode = False
                arrived.append(Arrival(self, header, place, None))
            place += 1
        self._words[_RECEIVED] = self._received
        return arrived

    def take_value(self, message: lane.Message) -> Any:
        """Take a message that is one small `Data` off the lane, by the shortest way: it is dealt with by that.

        Returns:
            Its value; `OTHER` where it is another message: then nothing has been done.

        Raises:
            as `receive`.
        """
        entries = decode_frames(message[2])
        _, header, payload = entries[0]
        if len(entries) > 1 or header[0] != _DATA or type(payload) is not bytes:
            return OTHER
        place = message[1]
        self._pass(place, 1)
        self._finished = place
        self._received += 1
        self._delivered += 1
        self._done += 1
        self._done_in_all += 1
        words = self._words
        words[_RECEIVED], words[_DELIVERED], words[_DONE] = self._received, self._delivered, self._done_in_all
        return values.load(header[7], payload)

    def tell_if_due(self) -> None:
        """Return credit where the producer may wait for it soon."""
        if self._done - self._told >= self._half:
            self.tell()

    def _pass(self, place: int, count: int) -> None:
        if place != self._last_place + 1:
            raise Broken(f"input {self.port!r} received place {place} after {self._last_place}")
        self._last_place += count

    @property
    def is_inter_coded(self) -> bool:
        """Whether encoded video comes, which cannot be decoded with holes in it."""
        return self._can_decode is not None

    def want_key(self) -> None:
        """Ask for a key frame, if this edge carries encoded video; not more often than makes sense."""
        now = time.monotonic()
        if self._can_decode is not None and self.lane is not None and now - self._asked_at >= ASK_S:
            self._asked_at = now
            self._answer(lane.Message(lane.Type.WANT_KEY, self._last_place))

    def _look_for_key(self, frame: Frame) -> None:
        """Ask for a key frame where video begins, or goes on behind a gap, without one."""
        if isinstance(frame, Packet):
            if frame.key:
                self._can_decode = True
            elif not self._can_decode:
                self.want_key()

    def begin(self, arrival: Arrival, now_ns: int) -> None:
        """Count a data frame as delivered: its `process` begins now."""
        words = self._words
        self._delivered += 1
        words[_DELIVERED] = self._delivered
        words[_BEGAN] = now_ns
        arrival.began_ns = _wall_ns()

    def finish(self, arrival: Arrival) -> bool:
        """An arrival has been dealt with; whether the producer should be told of it, lest it waits.

        It is at half the window, and at what ends something: until then its producer has credit enough.
        """
        self._finished = arrival.place
        if arrival.header[0] >= 16:
            return arrival.header[0] != Kind.FORMAT
        self._done += 1
        self._done_in_all += 1
        words = self._words
        words[_DONE] = self._done_in_all
        began_ns = arrival.began_ns
        if began_ns:  # else it was dropped, and another may be in `process`
            words[_BEGAN] = 0
            captured_ns = arrival.header[6]
            if captured_ns:
                self._note_latency(began_ns - captured_ns)
        return self._done - self._told >= self._half

    def end_for(self, waiting: int) -> Arrival:
        """Return the end of stream that a producer which has died cannot send, to be taken after all that it has sent.

        What it has published and what never came is lost with it, and counted here, since it counts nothing any more.

        Args:
            waiting: data frames that have come and are not delivered yet.
        """
        words, page = self._words, self.page
        published = words[Edge.PUBLISHED] + words[Edge.DUPLICATES]
        lost = published - words[Edge.DELIVERED] - sum(page.dropped().values()) - waiting
        if lost > 0:
            page.drop("producer_died", lost, by_consumer=True)
        return Arrival(self, Header(Kind.EOS, 0), self._last_place, None)

    def tell(self) -> None:
        """Return credit, and acknowledge."""
        if self.lane is not None and (self._finished != self._acknowledged):
            self._told, self._acknowledged = self._done, self._finished
            grant = lane.pack_grant(self._done + self._credit)
            self._answer(lane.Message(lane.Type.CREDIT, self._finished, grant))

    def _answer(self, message: lane.Message) -> None:
        assert self.lane is not None
        with contextlib.suppress(Closed):  # the producer is gone; its host will say so
            self.lane.send(message)  # and the lane is kept: what has been sent on it before is still good

    def _fetch(self, entry: Entry, place: int, apart: lane.Buffer) -> Any:
        """Return a payload that is not in the message."""
        where = entry.payload
        if not isinstance(where, Place):
            if where != len(apart):
                raise MalformedFrame(f"a frame announces a payload of {where!r} bytes, and {len(apart)} have come")
            return apart
        segment = self._segments.get(where.segment)
        if segment is None or where.offset + where.size > segment.size or not entry.ticket:
            raise MalformedFrame(f"a frame on input {self.port!r} lies where this process has no memory: {where}")
        return self._ledger.take(segment, where, entry.ticket, self._epoch << _EPOCH_SHIFT | place)


class OutputLink:
    """The producer's end of one edge: its mailbox and its lane.

    Attributes:
        shares: whether frames may go by reference. segments: numbers of those that its consumer has mapped.
        wants_key: whether the consumer cannot decode what comes before the next key frame, by its own word; then
            `on_key_wanted` is called.
        is_up: whether the mark has come back. is_full: whether the lane takes nothing more just now; then `on_full`
            is called, and `flush` is due when there is room.
        batches: whether small frames may be held for a batch: whoever says so pumps when nothing follows.
        on_wait: called when frames wait for the consumer, or for a batch; `pump` sends those that can go.
    """

    def __init__(
        self,
        edge: int,
        end: Sending,
        token: bytes,
        delivery: Delivery,
        page: Page,
        segments: set[int],
        *,
        shares: bool = True,
        epoch: int = 1,
        resends: bool = False,
        batches: bool = False,
    ) -> None:
        self.edge, self.lane, self.page = edge, end, page
        self.mailbox = self._new_mailbox(delivery, page, resends)
        self.shares, self.segments = shares, segments
        self.is_up = self.is_full = False
        self.on_full: Callable[[], None] = _nothing
        self.wants_key = False
        self.on_key_wanted: Callable[[], None] = _nothing
        self.on_wait: Callable[[], None] = _nothing
        self._batches = batches
        self._batch: list[bytes] = []
        self._batch_place = self._batch_bytes = 0
        self._words = page.words
        self._token = token
        self._epoch = epoch
        self.lending = Lending(page)
        self._say(lane.Message(lane.Type.MARK, epoch, token))

    @classmethod
    def of(
        cls, message: messages.Output, page: Page, end: Sending, segments: set[int], *, batches: bool = False
    ) -> Self:
        """Return the end of an edge that the host has told of."""
        return cls(
            message.edge,
            end,
            message.token,
            Delivery(message.delivery, message.n),  # type: ignore[arg-type]  # checked by Delivery itself
            page,
            segments,
            shares=message.shared,
            epoch=message.epoch,
            resends=message.resends,
            batches=batches,
        )

    def _new_mailbox(self, delivery: Delivery, page: Page, resends: bool) -> Mailbox:
        return Mailbox(delivery, page, resends=resends)

    @property
    def is_clear(self) -> bool:
        """Whether a small data frame that is no video packet may be sent at once."""
        return self.is_up and not self.is_full and self.mailbox.is_clear

    def offer(self, item: Item) -> None:
        """Put a frame into the mailbox, and send what can go."""
        if item.size <= INLINE_BYTES and item.key is None and item.kind < _CONTROL and self.is_clear:
            self.send_at_once(item.frame, item.size)
            return
        box = self.mailbox
        box.offer(item)
        self.pump()
        if box.waiting:
            self.on_wait()

    def send_at_once(self, frame: bytes, size: int) -> None:
        """Send a data frame past the mailbox, which is clear.

        While the consumer has many to work off, it goes into a batch with those that follow.
        """
        self.mailbox.pass_by(size)
        self._go(frame)

    def may_lend(self, held: Held) -> bool:
        """Whether a frame that lies in shared memory may go by reference."""
        return self.shares and held.place.segment in self.segments and self.lending.has_tickets

    def lend_at_once(self, frame: bytes, held: Held) -> None:
        """Send a data frame that lies in shared memory, and may be lent, past the mailbox, which is clear."""
        box = self.mailbox
        box.pass_by(held.place.size)
        ticket = self.lending.lend(held, self._epoch << _EPOCH_SHIFT | box.place)
        self._words[_SHARED] += 1
        self._go(with_ticket(frame, ticket))

    def _go(self, frame: bytes) -> None:
        box, batch, words = self.mailbox, self._batch, self._words
        is_behind = self._batches and words[_SENT] - words[_DELIVERED] > BEHIND_FRAMES
        if not batch and not is_behind:
            self._put(lane.encode_frames(box.place, _ONE + frame))
            return
        self._add(frame, box.place)
        if not is_behind or len(batch) >= BATCH_FRAMES:
            self._send_batch()
        elif len(batch) == 1:
            self.on_wait()

    def pump(self) -> None:
        """Send what is held for a batch, and what the mailbox, the window and the lane allow."""
        box = self.mailbox
        while self._takes_more() and (item := box.take()) is not None:
            frame, payload = (item.frame, item.payload) if item.held is None else self._shared(item)
            if len(payload):
                self._send_batch()
                self._say(lane.Message(lane.Type.FRAMES, box.place, join_frames([frame]), payload))
            else:
                self._add(frame, box.place)
        self._send_batch()

    def _add(self, frame: bytes, place: int) -> None:
        """Put a frame into the batch, which is sent before it becomes too large."""
        batch = self._batch
        if batch and (self._batch_bytes + len(frame) > BATCH_BYTES or len(batch) == MAX_FRAMES):
            self._send_batch()
        if not batch:
            self._batch_place, self._batch_bytes = place, 0
        batch.append(frame)
        self._batch_bytes += len(frame)

    def _send_batch(self) -> None:
        batch = self._batch
        if batch:
            body = join_frames(batch)
            batch.clear()
            self._put(lane.encode_frames(self._batch_place, body))

    def _takes_more(self) -> bool:
        return self.is_up and not self.is_full

    def flush(self) -> None:
        """Send what the lane had to keep, then what waits."""
        try:
            self.is_full = not self.lane.flush()
        except Closed:
            self.is_up = False
        if self.is_full:
            self.on_full()
        self.pump()

    def answered(self, message: lane.Message) -> bool:
        """Take what the consumer has said; whether the link came up by it."""
        kind = message.type
        if kind == lane.Type.CREDIT:
            self.mailbox.acknowledge(message.number, lane.unpack_grant(message.body))
            return False
        if kind == lane.Type.WANT_KEY:
            self.wants_key = True
            self.on_key_wanted()
            return False
        if kind != lane.Type.MARK_BACK or message.number != self._epoch:
            raise MalformedFrame(f"a consumer sent a lane message of type {kind}, number {message.number}")
        self.mailbox.grant(lane.unpack_grant(message.body))
        came_up, self.is_up = not self.is_up, True
        self._words[Edge.LINKED] = 1
        return came_up

    def cut(self) -> None:
        """The consumer is gone: nothing goes by this link any more."""
        self.is_up = False
        self._batch.clear()
        self.on_full = _nothing

    def note_blocked(self, blocked: bool) -> None:
        """Write into the account since when the node waits for this edge."""
        words = self._words
        if blocked != bool(words[Edge.BLOCKED_SINCE]):
            words[Edge.BLOCKED_SINCE] = time.monotonic_ns() if blocked else 0

    def _shared(self, item: Item) -> tuple[bytes, Any]:
        """Return a frame by reference where the consumer can see its memory, else apart."""
        held: Held = item.held
        if held.place.segment in self.segments:
            ticket = self.lending.lend(held, self._epoch << _EPOCH_SHIFT | self.mailbox.place)
            if ticket:
                self._words[_SHARED] += 1
                return with_ticket(item.frame, ticket), b""
        assert item.header is not None
        return encode_frame(item.header, item.size), held.view()

    def _put(self, data: bytes) -> None:
        try:
            self.is_full = not self.lane.put(data)
        except Closed:
            self.is_up = False
        if self.is_full:
            self.on_full()

    def _say(self, message: lane.Message) -> None:
        try:
            self.is_full = not self.lane.send(message)
        except Closed:
            self.is_up = False  # the consumer is gone; its host will say so
        if self.is_full:
            self.on_full()


def _nothing() -> None:
    return
