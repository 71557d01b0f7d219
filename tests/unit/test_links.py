"""The two ends of an edge: what a consumer takes, gives back and refuses, and what a producer sends, and how."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edges import TOKEN, NotingLane, new_page

from rmbus import formats, values
from rmbus.delivery import Delivery, drop_oldest, reliable
from rmbus.errors import Broken, FormatError, MalformedFrame, ProtocolError
from rmbus.formats import Encoded, Video
from rmbus.media import Data, Packet, VideoFrame
from rmbus.protocol import lane
from rmbus.protocol.frames import Entry, Header, Kind, Payload, Place, decode_frames, encode_frame, join_frames
from rmbus.protocol.frames import with_ticket as ticketed
from rmbus.protocol.lane import Message, Type
from rmbus.protocol.limits import MAX_EPOCH, MAX_FRAMES, TICKETS
from rmbus.runtime import links
from rmbus.runtime.links import BATCH_BYTES, LEASE_QUOTA, Arrival, InputLink, OutputLink
from rmbus.stamps import memory_of
from rmbus.transport.counters import TICKET_WORDS, Edge
from rmbus.transport.mailbox import Item
from rmbus.transport.memory import NEVER, PAGE_BYTES, Lease, Mapping, Slot

GRAY = Video("gray", width=4, height=4)
PICTURE = bytes(range(16))


def frames(place: int, *entries: Entry, payload: bytes = b"") -> Message:
    """Return a message of frames, as it comes off a lane."""
    body = join_frames([ticketed(encode_frame(entry.header, entry.payload), entry.ticket) for entry in entries])
    return Message(Type.FRAMES, place, memoryview(body), payload)


def entry(seq: int, payload: Payload = PICTURE, ticket: int = 0, **header: Any) -> Entry:
    return Entry(ticket, Header(**{"kind": Kind.VIDEO, "seq": seq, **header}), payload)


def told(format: formats.Format = GRAY) -> Entry:
    return Entry(0, Header(Kind.FORMAT, 0, extra=formats.to_wire(format)), b"")


EOS = Entry(0, Header(Kind.EOS, 0), b"")


# --- the consumer's end -----------------------------------------------------------------------------------------------


class Consumer:
    """The end of an edge in a consumer, with what it answers."""

    def __init__(self, credit: int = 4, topic: str = "") -> None:
        self.page = new_page()
        self.segments: dict[int, Mapping] = {}
        self.lane = NotingLane()
        self.link = InputLink(0, "in", self.page, self.segments, credit=credit, token=TOKEN, topic=topic)
        self.link.mark(self.lane, 1)

    def takes(self, message: Message) -> list[Arrival]:
        return self.link.receive(message)

    def done(self, arrivals: list[Arrival]) -> list[bool]:
        return [self.link.finish(arrival) for arrival in arrivals]

    def credits(self) -> list[tuple[int, int]]:
        """Return what was told since it was asked last: acknowledged places, with their grants."""
        return [(message.number, lane.unpack_grant(message.body)) for message in self.lane.take()]

    def shares(self, number: int = 7, size: int = 4 * PAGE_BYTES) -> Mapping:
        """Give it a segment, and return that as its producer has it."""
        descriptor = os.memfd_create("rmbus-test-links", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, size)
        mine = Mapping(number, size, descriptor, writable=True)
        self.segments[number] = Mapping(number, size, descriptor, writable=False)
        os.close(descriptor)
        return mine


@pytest.fixture
def consumer() -> Consumer:
    made = Consumer()
    made.lane.take()
    return made


def test_a_mark_is_answered_with_the_first_grant() -> None:
    """By the lane that it came from, with its epoch: as many frames as the window holds."""
    (back,) = Consumer(credit=3).lane.sent
    assert (back.type, back.number, lane.unpack_grant(back.body)) == (Type.MARK_BACK, 1, 3)


@pytest.mark.parametrize("epoch", [0, MAX_EPOCH + 1, 2**64 - 1])
def test_a_mark_of_no_epoch_is_refused(consumer: Consumer, epoch: int) -> None:
    """What is given back is known by epoch and place, and both have to go into one word."""
    with pytest.raises(MalformedFrame, match="epoch"):
        consumer.link.mark(consumer.lane, epoch)
    consumer.link.mark(consumer.lane, MAX_EPOCH)


def test_frames_come_decoded_and_in_order(consumer: Consumer) -> None:
    """Each with its place, the format in force and the name of its topic."""
    arrivals = consumer.takes(frames(1, told(), entry(0), entry(1, turn=2)))
    arrivals += consumer.takes(frames(4, told(Video("gray", width=2, height=8)), entry(2), EOS))
    assert [arrival.place for arrival in arrivals] == [1, 2, 3, 4, 5, 6]
    assert [arrival.header.kind for arrival in arrivals] == [17, 1, 1, 17, 1, 16]
    shapes = [arrival.frame.array.shape for arrival in arrivals if isinstance(arrival.frame, VideoFrame)]
    assert shapes == [(4, 4), (4, 4), (8, 2)]
    assert consumer.page.words[Edge.RECEIVED] == 3
    (named,) = Consumer(topic="a/b").takes(frames(1, Entry(0, Header(Kind.DATA, 5), b"\xc0")))
    assert named.frame is not None
    assert (named.frame.topic, named.frame.seq) == ("a/b", 5)


@pytest.mark.parametrize("place", [0, 2, 4, 5, 2**64 - 1])
def test_a_place_that_is_not_the_next_breaks_the_edge(consumer: Consumer, place: int) -> None:
    """Nothing is lost silently, and nothing comes twice."""
    consumer.takes(frames(1, told(), entry(0)))
    with pytest.raises(Broken, match=f"place {place} after 2"):
        consumer.takes(frames(place, entry(1)))


def test_what_is_no_frame_breaks_the_edge(consumer: Consumer) -> None:
    """Whatever a producer makes up is told as such."""
    for message in (
        Message(Type.FRAMES, 1, b""),
        Message(Type.FRAMES, 1, b"\x90"),
        frames(1, entry(0)),  # no format yet
        frames(1, told(), entry(0, b"short")),
    ):
        with pytest.raises(ProtocolError):
            Consumer().takes(message)
    with pytest.raises(FormatError):
        consumer.takes(frames(1, Entry(0, Header(Kind.FORMAT, 0, extra=[]), b"")))


def test_credit_is_told_at_half_a_window_and_once(consumer: Consumer) -> None:
    """A message for each frame would cost more than the frames; a producer that waits must not wait for the last."""
    arrivals = consumer.takes(frames(1, told(), *(entry(seq) for seq in range(4))))
    assert consumer.done(arrivals) == [False, False, True, True, True]
    consumer.link.tell()
    assert consumer.credits() == [(5, 8)]
    consumer.link.tell()
    assert consumer.credits() == []
    assert consumer.page.words[Edge.DONE] == 4


def test_a_window_of_one_is_told_with_each_frame() -> None:
    """Its producer waits for every one of them."""
    consumer = Consumer(credit=1)
    arrivals = consumer.takes(frames(1, told(), entry(0)))
    assert consumer.done(arrivals) == [False, True]  # the format, which nobody waits for, and the frame


def test_control_frames_are_acknowledged_and_grant_nothing(consumer: Consumer) -> None:
    """A producer ends when its end of stream is acknowledged."""
    consumer.done(consumer.takes(frames(1, told(), EOS)))
    consumer.link.tell()
    assert consumer.credits()[-1] == (2, 4)


def test_the_account_of_a_consumer(consumer: Consumer) -> None:
    """What it has begun, since when, how long it took to get there, and what it has done."""
    captured = time.time_ns() - 10**9
    first, second = consumer.takes(frames(1, told(), entry(0, captured_ns=captured), entry(1)))[1:]
    consumer.link.begin(first, 77)
    words = consumer.page.words
    assert (words[Edge.DELIVERED], words[Edge.BEGAN], words[Edge.DONE]) == (1, 77, 0)
    consumer.link.finish(first)
    assert (words[Edge.BEGAN], words[Edge.DONE]) == (0, 1)
    assert sum(consumer.page.histogram()[200:]) == 1  # a second is far up
    consumer.link.begin(second, 88)
    consumer.link.finish(second)  # it bears no time
    assert sum(consumer.page.histogram()) == 1


def test_a_producer_that_is_gone_needs_no_credit(consumer: Consumer) -> None:
    """Its host says what has become of it; what it has sent is still good."""
    arrivals = consumer.takes(frames(1, told(), entry(0)))
    consumer.lane.is_cut = True
    consumer.done(arrivals)
    consumer.link.tell()
    assert consumer.link.lane is consumer.lane  # what it has sent before may still be taken
    consumer.done(consumer.takes(frames(3, entry(1))))
    consumer.link.tell()


# --- payloads that are not in the message -----------------------------------------------------------------------------


def test_a_payload_that_travels_apart(consumer: Consumer) -> None:
    """It is the frame's when it has the size that was announced."""
    arrivals = consumer.takes(frames(1, told()))
    (arrival,) = consumer.takes(frames(2, entry(0, 16), payload=PICTURE))
    assert isinstance(arrival.frame, VideoFrame)
    assert arrival.frame.array.tobytes() == PICTURE
    for announced, came in ((17, PICTURE), (15, PICTURE), (16, b"")):
        with pytest.raises(MalformedFrame, match=f"announces a payload of {announced} bytes, and {len(came)} have"):
            Consumer().takes(frames(1, entry(0, announced), payload=came))
    assert len(arrivals) == 1


def test_a_payload_in_shared_memory_is_read_where_it_lies(consumer: Consumer) -> None:
    """Without a copy; its producer gets it back when the last view has gone, and not when `process` has ended."""
    mine = consumer.shares()
    mine.view[100:116] = PICTURE
    consumer.takes(frames(1, told()))
    (arrival,) = consumer.takes(frames(2, entry(0, Place(7, 100, 16), ticket=9)))
    frame = arrival.frame
    assert isinstance(frame, VideoFrame)
    assert frame.array.tobytes() == PICTURE
    assert isinstance(memory_of(frame), Lease)
    mine.view[100] = 99
    assert frame.array[0, 0] == 99
    part = frame.array[1:, 2:]
    consumer.link.finish(arrival)
    arrival.release()
    del frame, arrival
    assert consumer.page.words[TICKET_WORDS + 9] == 0
    del part
    assert consumer.page.words[TICKET_WORDS + 9] == 1 << 40 | 2


def test_frames_that_are_let_go_of_are_given_back(consumer: Consumer) -> None:
    """By `release`, of a frame that nobody has kept."""
    consumer.shares()
    (_, arrival) = consumer.takes(frames(1, told(), entry(0, Place(7, 0, 16), ticket=1)))
    arrival.release()
    assert consumer.page.words[TICKET_WORDS + 1] == 1 << 40 | 2


def test_a_frame_that_is_kept_keeps_its_memory(consumer: Consumer) -> None:
    """Also by another header, which has the same content."""
    consumer.shares()
    (_, arrival) = consumer.takes(frames(1, told(), entry(0, Place(7, 0, 16), ticket=1)))
    assert arrival.frame is not None
    kept = arrival.frame.stamped(pts=5)
    arrival.release()
    assert consumer.page.words[TICKET_WORDS + 1] == 0
    assert isinstance(memory_of(kept), Lease)
    del kept
    assert consumer.page.words[TICKET_WORDS + 1] == 1 << 40 | 2


def test_arrays_in_data_keep_their_memory(consumer: Consumer) -> None:
    """They are read in place too."""
    mine = consumer.shares()
    length, payload = values.dump({"a": np.arange(5)})
    mine.view[0 : len(payload)] = bytes(payload)
    (arrival,) = consumer.takes(frames(1, Entry(1, Header(Kind.DATA, 0, extra=length), Place(7, 0, len(payload)))))
    assert isinstance(arrival.frame, Data)
    array = arrival.frame.value["a"]
    arrival.release()
    assert array.tolist() == [0, 1, 2, 3, 4]
    assert consumer.page.words[TICKET_WORDS + 1] == 0
    del array
    gc.collect()
    assert consumer.page.words[TICKET_WORDS + 1] == 1 << 40 | 1


def test_a_packet_is_the_consumers_own(consumer: Consumer) -> None:
    """Its bytes are copied, so its memory goes back at once."""
    mine = consumer.shares()
    mine.view[0:3] = b"abc"
    packet = Entry(1, Header(Kind.PACKET, 0, extra=[True, None, 0]), Place(7, 0, 3))
    (_, arrival) = consumer.takes(frames(1, told(Encoded("h264")), packet))
    assert isinstance(arrival.frame, Packet)
    assert arrival.frame.data == b"abc"
    assert consumer.page.words[TICKET_WORDS + 1] == 1 << 40 | 2
    assert memory_of(arrival.frame) is None


def test_who_keeps_many_frames_gets_copies_of_the_rest(consumer: Consumer) -> None:
    """So a node that collects frames does not take all of its producer's memory."""
    consumer.shares(size=64 * PAGE_BYTES)
    consumer.takes(frames(1, told()))
    kept: list[Any] = []
    for number in range(4 + LEASE_QUOTA + 3):
        kept += consumer.takes(frames(2 + number, entry(number, Place(7, number * 16, 16), ticket=number + 1)))
    assert consumer.page.words[Edge.PINNED] == 3
    assert sum(isinstance(memory_of(arrival.frame), Lease) for arrival in kept) == 4 + LEASE_QUOTA


@pytest.mark.parametrize(
    ("place", "ticket"),
    [
        (Place(8, 0, 16), 1),
        (Place(7, 4 * PAGE_BYTES - 15, 16), 1),
        (Place(7, 2**64 - 1, 16), 1),
        (Place(7, 0, 16), 0),
    ],
)
def test_memory_that_is_not_there_is_not_read(consumer: Consumer, place: Place, ticket: int) -> None:
    """An unknown segment, a place beyond its end, and one that could not be given back."""
    consumer.shares()
    consumer.takes(frames(1, told()))
    with pytest.raises(MalformedFrame, match="has no memory"):
        consumer.takes(frames(2, entry(0, place, ticket)))


def test_another_epoch_begins_afresh(consumer: Consumer) -> None:
    """Places from 1, a full window; what is held of the first is read on, and given back to nobody."""
    mine = consumer.shares()
    mine.view[0:16] = PICTURE
    (_, kept) = consumer.takes(frames(1, told(), entry(0, Place(7, 0, 16), ticket=1)))
    consumer.done([kept])
    consumer.link.mark(consumer.lane, 2)
    (back,) = consumer.lane.take()
    assert (back.type, back.number, lane.unpack_grant(back.body)) == (Type.MARK_BACK, 2, 4)
    consumer.done(consumer.takes(frames(1, told(), entry(1))))
    consumer.link.tell()
    assert consumer.credits() == [(2, 5)]
    assert isinstance(kept.frame, VideoFrame)
    assert kept.frame.array.tobytes() == PICTURE
    kept.release()
    assert consumer.page.words[TICKET_WORDS + 1] == 0


def test_a_mark_of_the_same_epoch_begins_nothing(consumer: Consumer) -> None:
    """It only says anew where the answers go."""
    consumer.takes(frames(1, told(), entry(0)))
    other = NotingLane()
    consumer.link.mark(other, 1)
    consumer.done(consumer.takes(frames(3, entry(1))))
    consumer.link.tell()
    assert [message.type for message in other.sent] == [Type.MARK_BACK, Type.CREDIT]


# --- the producer's end -----------------------------------------------------------------------------------------------


WIDE = reliable(500)


class Producer:
    """The end of an edge in a producer, with what it sends."""

    def __init__(self, delivery: Delivery = WIDE, *, shares: bool = True, epoch: int = 1) -> None:
        self.page = new_page()
        self.lane = NotingLane()
        self.segments: set[int] = set()
        self.full = 0
        self.link = OutputLink(
            3, self.lane, TOKEN, delivery, self.page, self.segments, shares=shares, epoch=epoch, resends=False
        )
        self.link.on_full = self._full

    def _full(self) -> None:
        self.full += 1

    def up(self, grant: int = 1000) -> Producer:
        self.lane.take()
        assert self.link.answered(Message(Type.MARK_BACK, 1, lane.pack_grant(grant)))
        return self

    def offers(self, *items: Item) -> None:
        for item in items:
            self.link.mailbox.offer(item)

    def sent(self) -> list[tuple[int, list[Entry], bytes]]:
        """Return what was sent since it was asked last: places, frames, payloads apart."""
        messages = self.lane.take()
        assert all(message.type == Type.FRAMES for message in messages)
        return [(each.number, decode_frames(each.body), bytes(each.payload)) for each in messages]


def small(seq: int, size: int = 16) -> Item:
    return Item(Kind.VIDEO, encode_frame(Header(Kind.VIDEO, seq), bytes(size)), size)


def apart(seq: int, payload: bytes) -> Item:
    header = Header(Kind.VIDEO, seq)
    return Item(Kind.VIDEO, encode_frame(header, len(payload)), len(payload), payload, None, header)


def shared(seq: int, segment: int = 1, freed: list[int] | None = None, size: int = 16) -> Item:
    descriptor = os.memfd_create("rmbus-test-links", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, PAGE_BYTES)
    mapping = Mapping(segment, PAGE_BYTES, descriptor, writable=True)
    os.close(descriptor)
    slot = Slot(mapping, Place(segment, 32, size), seq, [] if freed is None else freed)
    slot.write(bytes([seq]) * size)
    header = Header(Kind.VIDEO, seq)
    return Item(Kind.VIDEO, encode_frame(header, slot.place), size, b"", slot, header)


def test_a_producer_shows_the_edges_token_first() -> None:
    """With its epoch, and nothing else before it has come back."""
    producer = Producer(epoch=1)
    producer.offers(small(0))
    producer.link.pump()
    (mark,) = producer.lane.take()
    assert (mark.type, mark.number, bytes(mark.body)) == (Type.MARK, 1, TOKEN)
    assert producer.page.words[Edge.LINKED] == 0
    assert producer.link.answered(Message(Type.MARK_BACK, 1, lane.pack_grant(2)))
    assert producer.page.words[Edge.LINKED] == 1
    assert not producer.link.answered(Message(Type.MARK_BACK, 1, lane.pack_grant(2)))  # it is up already
    producer.link.pump()
    assert [place for place, _, _ in producer.sent()] == [1]


@pytest.mark.parametrize(
    "message",
    [
        Message(Type.MARK_BACK, 2, lane.pack_grant(2)),
        Message(Type.MARK, 1, TOKEN),
        Message(Type.FRAMES, 1, b"\x90"),
        Message(9, 1, lane.pack_grant(2)),
        Message(Type.MARK_BACK, 1, b"short"),
        Message(Type.CREDIT, 1, b"short"),
    ],
)
def test_what_no_consumer_says_is_refused(message: Message) -> None:
    """The edge is broken by it."""
    with pytest.raises(MalformedFrame):
        Producer().link.answered(message)


def test_a_wish_for_a_key_frame_is_passed_on() -> None:
    """To the output, which is told each time, and forgets it when a key frame has come."""
    producer, wishes = Producer().up(), [0]
    producer.link.on_key_wanted = lambda: wishes.append(1)
    assert not producer.link.answered(Message(Type.WANT_KEY, 7))
    assert not producer.link.answered(Message(Type.WANT_KEY, 8))
    assert producer.link.is_up
    assert producer.link.wants_key
    assert sum(wishes) == 2


def test_frames_that_are_due_at_once_go_in_one_message() -> None:
    """Up to the size and the number of a message; their places follow each other."""
    producer = Producer().up()
    producer.offers(*(small(seq) for seq in range(300)))
    producer.link.pump()
    sent = producer.sent()
    assert [(place, len(entries)) for place, entries, _ in sent] == [
        (1, MAX_FRAMES),
        (MAX_FRAMES + 1, 300 - MAX_FRAMES),
    ]
    assert [entry.header.seq for _, entries, _ in sent for entry in entries] == list(range(300))
    producer.offers(*(small(seq, 10_000) for seq in range(300, 310)))
    producer.link.pump()
    sizes = [sum(len(bytes(entry.payload)) for entry in entries) for _, entries, _ in producer.sent()]
    assert sizes == [60_000, 40_000]
    assert all(size <= BATCH_BYTES for size in sizes)


def test_a_window_holds_frames_back() -> None:
    """What the consumer has not granted waits, and goes when it has."""
    producer = Producer().up(grant=2)
    producer.offers(*(small(seq) for seq in range(5)))
    producer.link.pump()
    assert [len(entries) for _, entries, _ in producer.sent()] == [2]
    assert not producer.link.answered(Message(Type.CREDIT, 2, lane.pack_grant(4)))
    producer.link.pump()
    assert [(place, len(entries)) for place, entries, _ in producer.sent()] == [(3, 2)]


def test_a_large_payload_goes_alone_and_in_its_turn() -> None:
    """Neither before the frames that it follows, nor with those that follow it."""
    producer = Producer().up()
    producer.offers(small(0), small(1), apart(2, b"large" * 10), small(3))
    producer.link.pump()
    sent = [(place, [entry.header.seq for entry in entries], payload) for place, entries, payload in producer.sent()]
    assert sent == [(1, [0, 1], b""), (3, [2], b"large" * 10), (4, [3], b"")]


def test_a_frame_goes_by_reference_where_its_consumer_has_the_memory() -> None:
    """With a ticket of the edge; the slot is the consumer's until it is given back."""
    producer, freed = Producer().up(), list[int]()
    producer.segments.add(1)
    producer.offers(shared(5, freed=freed), small(6))
    producer.link.pump()
    ((place, (first, second), payload),) = producer.sent()
    assert (place, payload) == (1, b"")
    assert (first.ticket, first.payload) == (1, Place(1, 32, 16))
    assert (second.ticket, second.payload) == (0, bytes(16))
    assert producer.page.words[Edge.SHARED] == 1
    assert (producer.link.lending.lent, freed) == (1, [])
    producer.page.words[TICKET_WORDS + 1] = 1 << 40 | 1
    assert producer.link.lending.reclaim() == []
    assert freed == [5]


def test_a_frame_goes_apart_where_its_consumer_has_not_the_memory() -> None:
    """With all of its bytes, and without a ticket."""
    producer = Producer().up()
    producer.offers(small(4), shared(5, segment=2), small(6))
    producer.segments.add(1)
    producer.link.pump()
    sent = [(place, [(e.ticket, e.payload) for e in entries], payload) for place, entries, payload in producer.sent()]
    assert sent == [
        (1, [(0, bytes(16))], b""),
        (2, [(0, 16)], bytes([5]) * 16),
        (3, [(0, bytes(16))], b""),
    ]
    assert producer.page.words[Edge.SHARED] == 0


def test_a_frame_goes_apart_where_no_ticket_is_left() -> None:
    """A consumer that gives nothing back gets copies, and its producer goes on."""
    producer = Producer(reliable(1000)).up()
    producer.segments.add(1)
    one = shared(5)
    producer.offers(*[one] * (TICKETS + 2))
    producer.link.pump()
    sent = producer.sent()
    entries = [entry for _, entries, _ in sent for entry in entries]
    assert sorted(entry.ticket for entry in entries) == [0, 0, *range(1, TICKETS + 1)]
    assert [payload for _, _, payload in sent if payload] == [bytes([5]) * 16] * 2


def test_the_number_of_a_ticket_tells_epochs_apart() -> None:
    """What a consumer of the first epoch gives back late is nothing to the second."""
    producer = Producer(epoch=2)
    producer.link.answered(Message(Type.MARK_BACK, 2, lane.pack_grant(9)))
    producer.segments.add(1)
    producer.offers(shared(5))
    producer.link.pump()
    producer.page.words[TICKET_WORDS + 1] = 1 << 40 | 1
    producer.link.lending.reclaim()
    assert producer.link.lending.lent == 1
    producer.page.words[TICKET_WORDS + 1] = 2 << 40 | 1 | NEVER
    (spoilt,) = producer.link.lending.reclaim()
    assert spoilt.place.segment == 1


def test_a_full_lane_stops_the_edge_until_it_has_room() -> None:
    """What waits stays in the mailbox, where its policy can still drop it."""
    producer = Producer(drop_oldest(2)).up()
    producer.lane.has_room = False
    producer.offers(small(0))
    producer.link.pump()
    assert (len(producer.sent()), producer.full, producer.link.is_full) == (1, 1, True)
    producer.offers(*(small(seq) for seq in range(1, 5)))
    producer.link.pump()
    producer.link.flush()
    assert (producer.sent(), producer.full) == ([], 2)
    producer.lane.has_room = True
    producer.link.flush()
    ((_, entries, _),) = producer.sent()
    assert [entry.header.kind for entry in entries] == [Kind.GAP, Kind.VIDEO, Kind.VIDEO]
    assert producer.page.dropped() == {"overflow": 2}


def test_a_lane_that_fills_in_between_gets_no_more() -> None:
    """Of several messages that are due, those behind the one that filled it wait."""
    producer = Producer().up()
    producer.lane.has_room = False
    producer.offers(*(apart(seq, bytes(10)) for seq in range(3)))
    producer.link.pump()
    assert len(producer.sent()) == 1
    assert producer.link.mailbox.waiting == 2


def test_a_lane_that_is_cut_is_the_hosts_to_tell() -> None:
    """Nothing is raised into the user's code; the edge is down, and its mailbox is as it was."""
    producer = Producer(reliable(2)).up()
    producer.lane.is_cut = True
    producer.offers(small(0), small(1))
    producer.link.pump()
    producer.link.flush()
    assert not producer.link.is_up
    producer.link.pump()
    assert producer.sent() == []


def test_a_mark_to_nobody_raises_nothing() -> None:
    """Its consumer may be gone before the edge has begun."""
    cut = NotingLane()
    cut.is_cut = True
    link = OutputLink(0, cut, TOKEN, reliable(1), new_page(), set())
    assert not link.is_up


def test_since_when_a_node_waits_for_an_edge() -> None:
    """It is written down once, and taken away when there is room."""
    producer = Producer()
    producer.link.note_blocked(True)
    since = producer.page.words[Edge.BLOCKED_SINCE]
    assert since
    producer.link.note_blocked(True)
    assert producer.page.words[Edge.BLOCKED_SINCE] == since
    producer.link.note_blocked(False)
    assert producer.page.words[Edge.BLOCKED_SINCE] == 0


def test_the_shift_leaves_room_for_both() -> None:
    """Epoch and place make up a number below the mark of what must not be written again."""
    assert (MAX_EPOCH << links._EPOCH_SHIFT | (1 << links._EPOCH_SHIFT) - 1) == NEVER - 1


# --- both ends --------------------------------------------------------------------------------------------------------


@pytest.fixture
def joined() -> tuple[Producer, InputLink, Callable[[], list[Arrival]]]:
    """Give both ends of an edge with one page, and what lets the consumer take in all that was sent."""
    producer = Producer(reliable(50))
    link = InputLink(3, "in", producer.page, {}, credit=4)
    back = NotingLane()
    link.mark(back, 1)

    def takes() -> list[Arrival]:
        for message in back.take():
            producer.link.answered(message)
        producer.link.pump()
        messages = [message for message in producer.lane.take() if message.type == Type.FRAMES]
        return [arrival for message in messages for arrival in link.receive(message)]

    return producer, link, takes


def test_an_edge_comes_to_rest_with_an_exact_account(
    joined: tuple[Producer, InputLink, Callable[[], list[Arrival]]],
) -> None:
    """However credit is batched, everything is delivered, acknowledged and counted."""
    producer, link, takes = joined
    producer.offers(Item(Kind.FORMAT, encode_frame(told().header)))
    for seq in range(40):
        producer.offers(small(seq))
    producer.offers(Item(Kind.EOS, encode_frame(EOS.header)))
    seen: list[int] = []
    while not producer.link.mailbox.is_settled:
        arrivals = takes()
        assert len([arrival for arrival in arrivals if arrival.frame is not None]) <= 4
        for arrival in arrivals:
            if arrival.frame is not None:
                link.begin(arrival, 1)
                seen.append(arrival.header.seq)
            link.finish(arrival)
        link.tell()
    words = producer.page.words
    assert seen == list(range(40))
    assert [words[word] for word in (Edge.PUBLISHED, Edge.SENT, Edge.RECEIVED, Edge.DELIVERED, Edge.DONE)] == [40] * 5
    assert words[Edge.ENDED] == 1
