"""The outputs of a node: what is encoded once, copied at most once, kept for those who come later, and given back."""

from __future__ import annotations

from collections.abc import Generator
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import pytest
from edges import TOKEN, Giver, NotingLane, new_page

from rmbus.delivery import Delivery, drop_oldest, reliable
from rmbus.media import Data, Frame, Packet, VideoFrame
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import Kind, Place, decode_frames, encode_frame
from rmbus.protocol.lane import Message, Type
from rmbus.protocol.limits import INLINE_BYTES
from rmbus.runtime import outputs
from rmbus.runtime.links import BATCH_FRAMES, BEHIND_FRAMES, Arrival, InputLink, OutputLink
from rmbus.runtime.outputs import OutputPort
from rmbus.stamps import memory_of, remember
from rmbus.transport.counters import TICKET_WORDS, Edge, Node
from rmbus.transport.memory import NEVER, Lease, Slot

SIZE = 300
LARGE = SIZE * SIZE
PATIENT = reliable(100)


class Producer:
    """A process with one output."""

    def __init__(self, giver: Giver) -> None:
        self.giver = giver
        self.memory = giver.process()
        self.page = new_page()
        self.port = OutputPort("out", self.memory, self.page)

    def joins(
        self,
        consumer: Consumer,
        *,
        delivery: Delivery = PATIENT,
        shared: bool = True,
        last: bool = False,
        batches: bool = False,
    ) -> None:
        """Begin an edge to a consumer, as both would be told by their host."""
        edge = consumer.edge
        if shared:
            self.giver.readers.append((consumer.memory, edge))
        consumer.link = InputLink(edge, "in", consumer.page, consumer.memory.segments, credit=50, token=TOKEN)
        consumer.sender = OutputLink(
            edge,
            consumer.lane,
            TOKEN,
            delivery,
            consumer.page,
            self.memory.readers(edge),
            shares=shared,
            batches=batches,
        )
        self.port.add(consumer.sender, last=last)
        consumer.comes_up()

    @property
    def copied(self) -> int:
        return int(self.page.words[Node.COPIED])


class Consumer:
    """A process that reads one edge."""

    numbers = iter(range(1, 1000))

    def __init__(self, giver: Giver) -> None:
        self.edge = next(self.numbers)
        self.memory = giver.process()
        self.page = new_page()
        self.lane = NotingLane()
        self.back = NotingLane()
        self.link: InputLink
        self.sender: OutputLink

    def comes_up(self) -> None:
        self.link.mark(self.back, 1)
        for message in self.back.take():
            self.sender.answered(message)
        self.sender.pump()

    def messages(self) -> list[Message]:
        return [message for message in self.lane.take() if message.type == Type.FRAMES]

    def takes(self) -> list[Arrival]:
        """Take in what has been sent, and grant more."""
        arrivals = [arrival for message in self.messages() for arrival in self.link.receive(message)]
        for arrival in arrivals:
            if arrival.frame is not None:
                self.link.begin(arrival, 1)
            self.link.finish(arrival)
        self.link.tell()
        for message in self.back.take():
            self.sender.answered(message)
        self.sender.pump()
        return arrivals

    def frames(self) -> list[Frame]:
        return [arrival.frame for arrival in self.takes() if arrival.frame is not None]


@pytest.fixture
def giver() -> Generator[Giver]:
    made = Giver()
    yield made
    made.close()


@pytest.fixture
def producer(giver: Giver) -> Producer:
    return Producer(giver)


@pytest.fixture
def consumer(giver: Giver) -> Consumer:
    return Consumer(giver)


def picture(value: int, size: int = SIZE) -> VideoFrame:
    """Return a picture that nobody can write to any more."""
    array = np.full((size, size), value, np.uint8)
    array.setflags(write=False)
    return VideoFrame(array)


def rendered(producer: Producer, value: int) -> tuple[VideoFrame, Slot]:
    """Return a picture that was rendered in shared memory, as `loan` lends it."""
    slot = producer.port.room(LARGE)
    assert slot is not None
    array = slot.view().reshape(SIZE, SIZE)
    array[:] = value
    array.setflags(write=False)
    return remember(VideoFrame(array), slot), slot


# --- what goes out ----------------------------------------------------------------------------------------------------


def test_a_format_is_told_before_the_first_frame_and_when_it_changes(producer: Producer, consumer: Consumer) -> None:
    """And not in between; frames are numbered, whatever their format."""
    producer.joins(consumer)
    for frame in (picture(1, 4), picture(2, 4), picture(3, 6), picture(4, 6), picture(5, 4)):
        producer.port.send(frame)
    arrivals = consumer.takes()
    assert [arrival.header.kind for arrival in arrivals] == [17, 1, 1, 17, 1, 1, 17, 1]
    assert [arrival.header.seq for arrival in arrivals if arrival.frame is not None] == [0, 1, 2, 3, 4]


def test_a_frame_is_encoded_once_for_all_edges(producer: Producer, giver: Giver) -> None:
    """Whether it is small or large: another consumer costs a ticket, and no copy."""
    consumers = [Consumer(giver) for _ in range(3)]
    for each in consumers:
        producer.joins(each)
    with mock.patch.object(outputs, "encode_frame", wraps=encode_frame) as encode:
        producer.port.send(picture(7))
        assert encode.call_count == 2  # the format is one of them
    assert producer.copied == LARGE
    for each in consumers:
        (message, *_) = messages_of_frames = each.messages()
        entries = [entry for sent in messages_of_frames for entry in decode_frames(sent.body)]
        assert [entry.header.kind for entry in entries] == [17, 1]
        assert entries[1].ticket == 1
        assert entries[1].payload == Place(1, 0, LARGE)
        assert not len(message.payload)


def test_small_payloads_ride_with_their_frame(producer: Producer, consumer: Consumer) -> None:
    """Up to the limit; no memory is asked for, and nothing counts as copied."""
    producer.joins(consumer)
    producer.port.send(Data(b"x" * (INLINE_BYTES - 8)))
    (frame,) = consumer.frames()
    assert isinstance(frame, Data)
    assert len(frame.value) == INLINE_BYTES - 8
    assert producer.giver.said == []
    assert producer.copied == 0


def test_the_short_way_of_an_array_tells_the_same(producer: Producer, giver: Giver) -> None:
    """A small array of a known format is encoded as its frame would be, and kept as that."""
    producer.port.keeps_last = True
    long_way, short_way = Consumer(giver), Consumer(giver)
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)[:, ::2]  # it need not lie in one piece
    base = Fraction(1, 30)
    first = VideoFrame(np.zeros((3, 2), np.uint8), "gray", pts=0, time_base=base)
    producer.joins(long_way)
    producer.port.send(first)
    frame = VideoFrame(array, "gray", pts=7, time_base=base, captured_ns=5)
    producer.port.send(frame.stamped())
    sent = [entry for message in long_way.messages() for entry in decode_frames(message.body)][-1]
    other = Producer(giver)
    other.port.keeps_last = True
    other.joins(short_way)
    other.port.send(first)
    assert other.port.send_array(int(Kind.VIDEO), first.format, 7, base, 5, array)
    assert [entry for message in short_way.messages() for entry in decode_frames(message.body)][-1] == sent
    assert other.page.words[Node.FRAMES_OUT] == producer.page.words[Node.FRAMES_OUT] == 2
    late = Consumer(giver)
    other.joins(late, last=True)
    assert isinstance(late.frames()[-1], VideoFrame)
    assert late.sender.mailbox.is_settled


def test_the_short_way_is_for_what_can_go_at_once(producer: Producer, consumer: Consumer) -> None:
    """Else nothing is done, and the long way is taken."""
    small = np.zeros((3, 2), np.uint8)
    frame = VideoFrame(small, "gray")

    def sends(array: np.ndarray[Any, Any], form: object = frame.format) -> bool:
        return producer.port.send_array(int(Kind.VIDEO), form, 0, Fraction(1, 30), 0, array)

    assert not sends(small)  # nobody reads
    producer.joins(consumer)
    assert not sends(small)  # the format is not told
    producer.port.send(frame)
    assert sends(small)
    assert not sends(small, VideoFrame(small, "gray", rate=Fraction(5)).format)
    for _ in range(48):
        assert sends(small)
    assert not sends(small)  # the window is closed
    assert len(consumer.frames()) == 50
    assert sends(small)
    assert producer.page.words[Node.FRAMES_OUT] == 1 + 1 + 48 + 1


def test_the_short_way_of_a_large_array_copies_it_once(producer: Producer, giver: Giver) -> None:
    """Into shared memory; what lies there already is not copied; where somebody cannot see it, nothing is done."""
    first, second, blind = Consumer(giver), Consumer(giver), Consumer(giver)
    producer.joins(first)
    producer.joins(second)
    producer.port.send(picture(1))
    form = producer.port._format

    def sends(array: np.ndarray[Any, Any], held: Slot | None = None) -> bool:
        return producer.port.send_array(int(Kind.VIDEO), form, 3, Fraction(1, 30), 0, array, held)

    array = np.full((SIZE, SIZE), 2, np.uint8)
    assert sends(array)
    array[:] = 9
    assert producer.copied == 2 * LARGE
    frame, slot = rendered(producer, 4)
    assert isinstance(frame, VideoFrame)
    assert sends(frame.array, slot)
    assert producer.copied == 2 * LARGE
    del frame, slot
    for consumer in (first, second):
        frames = consumer.frames()
        assert [int(each.array[0, 0]) for each in frames if isinstance(each, VideoFrame)] == [1, 2, 4]
        assert [each.pts for each in frames] == [None, 3, 3]
        assert all(isinstance(memory_of(each), Lease) for each in frames)
        assert consumer.page.words[Edge.SHARED] == 3
    assert not sends(array.T)  # which does not lie as it should
    producer.joins(blind, shared=False)
    assert not sends(array)
    assert producer.copied == 2 * LARGE
    producer.port.send(picture(5))
    assert [int(each.array[0, 0]) for each in blind.frames() if isinstance(each, VideoFrame)] == [5]


def test_a_consumer_with_much_to_do_gets_small_frames_in_batches(producer: Producer, consumer: Consumer) -> None:
    """What is held goes when there is enough of it, when the consumer has caught up, or when it is pumped."""
    producer.joins(consumer, batches=True)
    waits: list[int] = []
    consumer.sender.on_wait = lambda: waits.append(1)

    def sizes() -> list[int]:
        return [len(decode_frames(message.body)) for message in consumer.messages()]

    for _ in range(BEHIND_FRAMES):
        producer.port.send(picture(1, 4))
    assert sizes() == [1] * (BEHIND_FRAMES + 1)  # and the format
    assert waits == []
    producer.port.send(picture(1, 4))
    producer.port.send(picture(1, 4))
    assert sizes() == []
    assert waits == [1]
    consumer.page.words[Edge.DELIVERED] = BEHIND_FRAMES
    producer.port.send(picture(1, 4))
    assert sizes() == [3]
    consumer.page.words[Edge.DELIVERED] = 0
    for _ in range(BATCH_FRAMES + 1):
        producer.port.send(picture(1, 4))
    assert sizes() == [BATCH_FRAMES]
    consumer.sender.pump()
    assert sizes() == [1]
    assert consumer.page.words[Edge.SENT] == BEHIND_FRAMES + 3 + BATCH_FRAMES + 1


def test_large_frames_are_copied_once_into_shared_memory(producer: Producer, consumer: Consumer) -> None:
    """The array of the node's own is copied, and read in place from there on."""
    producer.joins(consumer)
    producer.port.send(picture(7))
    (frame,) = consumer.frames()
    assert isinstance(frame, VideoFrame)
    assert isinstance(memory_of(frame), Lease)
    assert (frame.array == 7).all()
    assert producer.copied == LARGE
    assert consumer.page.words[Edge.SHARED] == 1


def test_what_was_rendered_in_shared_memory_is_not_copied(producer: Producer, consumer: Consumer) -> None:
    """It goes as it lies, from the producer's own slot."""
    producer.joins(consumer)
    frame, slot = rendered(producer, 9)
    producer.port.send(frame)
    (got,) = consumer.frames()
    assert isinstance(got, VideoFrame)
    assert (got.array == 9).all()
    held = memory_of(got)
    assert isinstance(held, Lease)
    assert held.place == slot.place
    assert producer.copied == 0


def test_a_part_of_what_was_rendered_is_a_frame_of_its_own(producer: Producer, consumer: Consumer) -> None:
    """A frame of another size does not lie where the slot says."""
    producer.joins(consumer)
    frame, slot = rendered(producer, 9)
    half = np.ascontiguousarray(frame.array[:280])
    half.setflags(write=False)
    producer.port.send(remember(VideoFrame(half), slot))
    (got,) = consumer.frames()
    assert isinstance(got, VideoFrame)
    assert got.array.shape == (280, SIZE)
    held = memory_of(got)
    assert isinstance(held, Lease)
    assert held.place.offset != slot.place.offset


def test_a_slot_is_free_again_when_everybody_has_let_go(producer: Producer, giver: Giver) -> None:
    """The slowest consumer counts; then the lowest is taken again, and no memory is asked for."""
    consumers = [Consumer(giver) for _ in range(2)]
    for each in consumers:
        producer.joins(each)
    producer.port.send(picture(1))
    kept = [each.frames() for each in consumers]
    kept[0].clear()
    producer.port.reclaim(consumers[0].sender)
    producer.port.send(picture(2))
    assert isinstance(kept[1][0], VideoFrame)
    assert (kept[1][0].array == 1).all()
    for each in consumers:
        each.frames()
    kept[1].clear()
    producer.port.trim()
    producer.port.send(picture(3))
    places = [decode_frames(message.body)[-1].payload for message in consumers[0].messages()]
    assert places == [Place(1, 0, LARGE)]
    assert sum(isinstance(said, messages.Grow) for said in giver.said) == 1


def test_without_memory_frames_travel_apart(producer: Producer, consumer: Consumer) -> None:
    """The host gives none: what the node could still write to is copied, what it could not is not."""
    producer.giver.reason = "over the quota"
    producer.joins(consumer)
    producer.port.send(picture(1))
    assert producer.copied == 0
    own = np.full((SIZE, SIZE), 2, np.uint8)
    producer.port.send(VideoFrame(own))
    assert producer.copied == LARGE
    own[:] = 99
    first, second = consumer.frames()
    assert isinstance(first, VideoFrame)
    assert isinstance(second, VideoFrame)
    assert ((first.array == 1).all(), (second.array == 2).all()) == (True, True)
    assert memory_of(first) is None
    assert consumer.page.words[Edge.SHARED] == 0


def test_an_edge_that_shares_nothing_asks_for_no_memory(producer: Producer, consumer: Consumer) -> None:
    """Nobody would read it there."""
    producer.joins(consumer, shared=False)
    assert producer.port.room(LARGE) is None
    producer.port.send(picture(1))
    assert len(consumer.frames()) == 1
    assert producer.giver.said == []


def test_of_two_consumers_each_gets_it_as_it_can(producer: Producer, giver: Giver) -> None:
    """One reads the memory, the other gets the bytes; neither waits for the other."""
    near, far = Consumer(giver), Consumer(giver)
    producer.joins(near)
    producer.joins(far, shared=False)
    producer.port.send(picture(4))
    (one,), (other,) = near.frames(), far.frames()
    assert isinstance(one, VideoFrame)
    assert isinstance(other, VideoFrame)
    assert (one.array == other.array).all()
    assert (memory_of(one) is None, memory_of(other) is None) == (False, True)


# --- frames of others that go on --------------------------------------------------------------------------------------


class Line:
    """Three processes in a line; the middle one sends on what it gets."""

    def __init__(self, giver: Giver) -> None:
        self.first, self.middle = Producer(giver), Producer(giver)
        self.inlet, self.last = Consumer(giver), Consumer(giver)
        self.inlet.memory = self.middle.memory
        self.first.joins(self.inlet)
        giver.readers.clear()
        giver.readers.append((self.middle.memory, self.inlet.edge))
        self.middle.joins(self.last)

    def passes(self, value: int) -> None:
        self.first.port.send(picture(value))
        for frame in self.inlet.frames():
            self.middle.port.send(frame)


def test_a_frame_is_sent_on_without_a_copy(giver: Giver) -> None:
    """From the memory of the first; it goes back to that when the last has let go, and not sooner."""
    line = Line(giver)
    line.passes(5)
    word = TICKET_WORDS + 1
    assert sum(isinstance(said, messages.Share) for said in giver.said) == 1
    (frame,) = line.last.frames()
    assert isinstance(frame, VideoFrame)
    assert (frame.array == 5).all()
    assert line.middle.copied == 0
    line.middle.port.trim()
    assert line.inlet.page.words[word] == 0
    del frame
    assert line.inlet.page.words[word] == 0  # the middle has not looked yet
    line.middle.port.trim()
    assert line.inlet.page.words[word] == 1 << 40 | 2
    line.passes(6)
    assert sum(isinstance(said, messages.Share) for said in giver.said) == 1  # it is known now
    assert len(line.last.frames()) == 1


def test_a_frame_that_must_not_go_on_is_copied(giver: Giver) -> None:
    """The host says no, once: from then on the middle copies into memory of its own."""
    line = Line(giver)
    giver.agrees = False
    line.passes(5)
    line.passes(6)
    assert sum(isinstance(said, messages.Share) for said in giver.said) == 1
    assert line.middle.copied == 2 * LARGE
    frames = line.last.frames()
    assert [frame.array[0, 0] for frame in frames if isinstance(frame, VideoFrame)] == [5, 6]
    assert line.inlet.page.words[TICKET_WORDS + 1] == 1 << 40 | 3  # the first was back before the second was lent
    giver.agrees = True
    line.middle.joins(Consumer(giver))  # somebody new: the question may have another answer
    line.passes(7)
    assert sum(isinstance(said, messages.Share) for said in giver.said) == 2
    assert line.middle.copied == 2 * LARGE


def test_what_a_dead_consumer_held_of_others_is_never_written_again(giver: Giver) -> None:
    """It may have lent it on. Its producer gets it back with a mark, and gives up the segment."""
    line = Line(giver)
    line.passes(5)
    assert len(line.last.messages()) == 2  # the format and the frame, which nobody takes in
    line.middle.port.drop(line.last.sender, "consumer_died")
    assert line.inlet.page.words[TICKET_WORDS + 1] == 1 << 40 | 2 | NEVER
    line.first.port.reclaim(line.inlet.sender)
    line.first.port.trim()
    assert giver.said[-1] == messages.Retire(1)


# --- consumers that go ------------------------------------------------------------------------------------------------


def test_what_a_dead_consumer_held_is_never_written_again(producer: Producer, giver: Giver) -> None:
    """Its segment is retired, with what others hold of it; the others go on, in another."""
    dying, living = Consumer(giver), Consumer(giver)
    producer.joins(dying)
    producer.joins(living)
    producer.port.send(picture(1))
    (kept,) = living.frames()
    (looked_at,) = dying.frames()
    producer.port.drop(dying.sender, "consumer_died")
    assert [link.edge for link in producer.port.links] == [living.edge]
    for value in range(2, 12):
        producer.port.send(picture(value))
        living.frames()
    for frame in (kept, looked_at):
        assert isinstance(frame, VideoFrame)
        assert (frame.array == 1).all()
    assert sum(isinstance(said, messages.Grow) for said in giver.said) == 2
    del kept, frame
    producer.port.trim()
    assert messages.Retire(1) in giver.said


def test_a_consumer_that_held_nothing_takes_no_memory_with_it(producer: Producer, consumer: Consumer) -> None:
    """What it had given back is written again."""
    producer.joins(consumer)
    producer.port.send(picture(1))
    consumer.frames()
    producer.port.drop(consumer.sender, "consumer_ended")
    producer.port.trim()
    assert not any(isinstance(said, messages.Retire) for said in producer.giver.said)
    other = Consumer(producer.giver)
    producer.joins(other)
    producer.port.send(picture(2))
    assert producer.port.is_settled is False
    other.frames()
    assert producer.port.is_settled


def test_an_output_without_edges_counts_on(producer: Producer, consumer: Consumer) -> None:
    """Whoever comes later sees how many he has missed."""
    for value in range(3):
        producer.port.send(picture(value))
    assert producer.copied == 0
    producer.joins(consumer)
    producer.port.send(picture(3))
    assert [frame.seq for frame in consumer.frames()] == [3]


# --- those who come later ---------------------------------------------------------------------------------------------


def test_whoever_comes_later_is_told_the_format_and_the_last_frame(producer: Producer, giver: Giver) -> None:
    """The last frame only where it was wished for, and is kept at all."""
    producer.port.keeps_last = True
    for value in range(4):
        producer.port.send(picture(value))
    eager, plain = Consumer(giver), Consumer(giver)
    producer.joins(eager, last=True)
    producer.joins(plain)
    assert [frame.seq for frame in eager.frames()] == [3]
    assert [arrival.header.kind for arrival in plain.takes()] == [Kind.FORMAT]
    assert eager.page.words[Edge.PUBLISHED] == 1


def test_the_last_frame_is_read_where_it_lies(producer: Producer, giver: Giver) -> None:
    """It keeps its slot, however many come and go, until there is a newer one."""
    producer.port.keeps_last = True
    first = Consumer(giver)
    producer.joins(first)
    producer.port.send(picture(1))
    first.frames()
    later = Consumer(giver)
    producer.joins(later, last=True)
    producer.memory.take(messages.Usable("out", 1, [later.edge]), [])
    (frame,) = later.frames()
    assert isinstance(frame, VideoFrame)
    assert (frame.array == 1).all()


def test_the_last_packet_that_is_kept_is_a_key(producer: Producer, consumer: Consumer) -> None:
    """Nothing can be decoded from any other."""
    producer.port.keeps_last = True
    for number, key in enumerate((True, True, False, False)):
        producer.port.send(Packet(bytes([number]), "h264", key=key))
    producer.joins(consumer, last=True)
    assert [frame.data for frame in consumer.frames() if isinstance(frame, Packet)] == [b"\1"]


def test_every_packet_of_a_codec_without_predictions_is_kept(producer: Producer, consumer: Consumer) -> None:
    """Of pictures that stand alone the last is as good as any."""
    producer.port.keeps_last = True
    for number in range(3):
        producer.port.send(Packet(bytes([number]), "mjpeg", key=False))
    producer.joins(consumer, last=True)
    assert [frame.data for frame in consumer.frames() if isinstance(frame, Packet)] == [b"\2"]


# --- policy -----------------------------------------------------------------------------------------------------------


def test_a_full_edge_holds_the_output_up(producer: Producer, giver: Giver) -> None:
    """Whichever of its edges it is; one that drops never does."""
    patient, hasty = Consumer(giver), Consumer(giver)
    producer.joins(patient, delivery=reliable(2))
    producer.joins(hasty, delivery=drop_oldest(1))
    patient.sender.is_up = hasty.sender.is_up = False
    rooms: list[bool] = []
    for value in range(2):
        rooms.append(producer.port.has_room)
        producer.port.send(Data(value))
    assert [*rooms, producer.port.has_room] == [True, True, False]
    assert hasty.page.dropped() == {"overflow": 1}


def test_dropped_frames_give_their_slots_back(producer: Producer, consumer: Consumer) -> None:
    """A live edge whose consumer is stuck does not use up the memory."""
    producer.joins(consumer, delivery=drop_oldest(2))
    consumer.sender.is_up = False
    for value in range(50):
        producer.port.send(picture(value))
    assert consumer.page.dropped() == {"overflow": 48}
    assert sum(isinstance(said, messages.Grow) for said in producer.giver.said) == 1


def test_an_interruption_opens_the_next_turn(producer: Producer, consumer: Consumer) -> None:
    """It overtakes what waits, which gives its memory back."""
    producer.joins(consumer)
    consumer.sender.is_up = False
    producer.port.send(picture(1))
    producer.port.interrupt()
    consumer.sender.is_up = True
    producer.port.send(picture(2))
    arrivals = consumer.takes()
    # the format was told before, and stays
    assert [(arrival.header.kind, arrival.header.turn) for arrival in arrivals] == [(20, 1), (17, 0), (1, 1)]
    assert consumer.page.dropped() == {"interrupted": 1}


def test_whoever_waits_for_a_frame_is_told_by_the_edge(producer: Producer, consumer: Consumer) -> None:
    """The origin goes with small frames and large ones."""
    told: list[str] = []
    producer.joins(consumer, delivery=drop_oldest(1))
    consumer.sender.is_up = False
    producer.port.send(Data(1), lambda: told.append("small"))
    producer.port.send(picture(2), lambda: told.append("large"))
    producer.port.send(Data(3))
    assert told == ["small", "large"]


def test_control_frames_go_to_all(producer: Producer, giver: Giver) -> None:
    """In order behind the frames."""
    consumers = [Consumer(giver) for _ in range(2)]
    for each in consumers:
        producer.joins(each)
    producer.port.send(Data(1))
    producer.port.control(Kind.EOS)
    for each in consumers:
        arrivals: list[Any] = each.takes()
        assert [arrival.header.kind for arrival in arrivals] == [17, 4, 16]
        assert arrivals[-1].header.seq == 1


def test_credit_is_what_lets_frames_go(producer: Producer, consumer: Consumer) -> None:
    """A lane message of a consumer opens the window of its own edge."""
    producer.joins(consumer)
    producer.port.send(Data(1))
    producer.port.send(Data(2))
    assert not producer.port.is_settled
    assert not consumer.sender.answered(Message(Type.CREDIT, 3, lane.pack_grant(9)))
    assert producer.port.is_settled
