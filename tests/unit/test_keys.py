"""Key frames: who asks for one, who is told, and how often."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from edges import TOKEN, Giver, NotingLane, new_page

from rmbus import formats
from rmbus.delivery import Delivery, drop_oldest, latest, reliable
from rmbus.errors import FormatError
from rmbus.formats import Encoded
from rmbus.media import Data, Packet
from rmbus.protocol.frames import Header, Kind, encode_frame, join_frames
from rmbus.protocol.lane import Message, Type
from rmbus.protocol.limits import FIRST_TOPIC_EDGE
from rmbus.runtime import keys
from rmbus.runtime.keys import KEY_S, KeyFrames
from rmbus.runtime.links import ASK_S, InputLink, OutputLink
from rmbus.runtime.outputs import OutputPort
from rmbus.transport.reactor import Reactor

H264 = Encoded("h264")


# --- the consumer asks ------------------------------------------------------------------------------------------------


class Reader:
    """The consumer's end of an edge, at a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.lane = NotingLane()
        self.link = InputLink(0, "in", new_page(), {}, credit=9, token=TOKEN)
        self.link.mark(self.lane, 1)
        self._place = 1

    def takes(self, *entries: bytes) -> list[int]:
        """Give it frames in one message; return the places that it names in asking for a key frame."""
        self.lane.take()
        self.link.receive(Message(Type.FRAMES, self._place, memoryview(join_frames(entries))))
        self._place += len(entries)
        return [message.number for message in self.lane.take() if message.type == Type.WANT_KEY]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(monkeypatch)


def told(form: formats.Format) -> bytes:
    return encode_frame(Header(Kind.FORMAT, 0, extra=formats.to_wire(form)))


def packet(*, key: bool) -> bytes:
    return encode_frame(Header(Kind.PACKET, 0, extra=[key, None, 0]), b"bytes")


GAP = encode_frame(Header(Kind.GAP, 0, extra=[1, "overflow"]))


def test_who_cannot_decode_asks_once_in_a_while_until_a_key_comes(reader: Reader) -> None:
    """It names the last place that has come."""
    assert reader.takes(told(H264), packet(key=False), packet(key=False)) == [3]
    reader.now += ASK_S / 2
    assert reader.takes(packet(key=False)) == []
    reader.now += ASK_S / 2
    assert reader.takes(packet(key=False)) == [5]
    reader.now += ASK_S
    assert reader.takes(packet(key=True), packet(key=False)) == []


@pytest.mark.parametrize("cut", [GAP, encode_frame(Header(Kind.INTERRUPT, 0, 1)), told(H264)])
def test_behind_a_cut_a_key_is_asked_for_again(reader: Reader, cut: bytes) -> None:
    """Unless it comes of itself."""
    assert reader.takes(told(H264), packet(key=True), cut, packet(key=True), packet(key=False)) == []
    assert reader.takes(cut, packet(key=False)) == [7]


@pytest.mark.parametrize("form", [Encoded("mjpeg"), Encoded("aac"), Encoded("wmav2", layout="stereo")])
def test_where_packets_stand_alone_nobody_asks(reader: Reader, form: formats.Format) -> None:
    """Neither of itself, nor where others behind it wait for a key frame."""
    assert reader.takes(told(form), packet(key=False)) == []
    reader.link.want_key()
    assert reader.lane.take() == []


# --- the producer hears it --------------------------------------------------------------------------------------------


class Writer:
    """An output with one edge, whose consumer takes nothing more before it is granted."""

    def __init__(self, delivery: Delivery, edge: int = 0) -> None:
        self.port = OutputPort("out", Giver().process(), new_page())
        self.told = 0
        self.port.on_key_wanted = self._wanted
        self.lane = NotingLane()
        self.page = new_page()
        self.link = OutputLink(edge, self.lane, TOKEN, delivery, self.page, set())
        self.port.add(self.link)

    def sends(self, *kinds: bool) -> int:
        """Send packets, key or not; return how often a key frame was wanted meanwhile."""
        before = self.told
        for key in kinds:
            self.port.send(Packet(b"bytes", H264, key=key))
        return self.told - before

    def _wanted(self) -> None:
        self.told += 1


def test_an_overflow_wants_a_key_with_each_packet_that_is_none() -> None:
    """Packets are counted as awaiting it."""
    writer = Writer(drop_oldest(2))
    assert writer.sends(True, False) == 0
    assert writer.sends(False, False) == 2
    assert writer.page.dropped() == {"awaiting_key": 4}
    wanted = [writer.port.wants_key]
    assert writer.sends(True, False) == 0
    assert [*wanted, writer.port.wants_key] == [True, False]


def test_a_reader_that_comes_in_mid_stream_wants_a_key() -> None:
    """At once, and not where nothing has been sent yet, or where what is sent is no video any more."""
    writer = Writer(reliable(8))
    late = [OutputLink(number, NotingLane(), TOKEN, drop_oldest(2), new_page(), set()) for number in range(1, 4)]
    writer.port.add(late[0])
    assert writer.told == 0
    writer.sends(True)
    writer.port.add(late[1])
    assert writer.told == 1
    writer.port.send(Data(1))
    writer.port.add(late[2])
    assert writer.told == 1


def test_a_consumer_that_asks_wants_a_key_until_one_is_sent() -> None:
    """Also where nothing is dropped: nothing is left out for it."""
    writer = Writer(reliable(8))
    writer.sends(False)
    assert not writer.link.answered(Message(Type.WANT_KEY, 2))
    assert writer.told == 1
    wanted = [writer.port.wants_key]
    assert writer.sends(False) == 1
    assert writer.sends(True, False) == 0
    assert [*wanted, writer.port.wants_key] == [True, False]
    assert writer.page.dropped() == {}


def test_sound_drops_alone() -> None:
    """Nobody waits for a key of it."""
    writer = Writer(drop_oldest(2))
    for number in range(5):
        writer.port.send(Packet(b"bytes", Encoded("wmav2", layout="mono"), key=False, pts=number))
    assert writer.page.dropped() == {"overflow": 3}
    assert writer.told == 0


def test_single_packets_of_video_are_not_left_out() -> None:
    """`latest` is refused when video comes, with what to use instead; but a topic's reader harms nobody else."""
    writer = Writer(latest)
    writer.port.send(Packet(b"bytes", "mjpeg", key=True))
    with pytest.raises(FormatError, match=r"output 'out' sends Encoded\(h264\).*`latest`.*drop_oldest\(n\)"):
        writer.sends(True)
    topic = Writer(latest, FIRST_TOPIC_EDGE)
    assert topic.sends(True) == 0


# --- the node is told -------------------------------------------------------------------------------------------------


class Wanting(OutputPort):
    """An output that somebody may want a key frame of."""

    def __init__(self) -> None:
        self.name = "out"
        self.is_wanted = True
        self.on_key_wanted = lambda: None

    @property
    def wants_key(self) -> bool:
        return self.is_wanted


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Generator[Reactor]:
    monkeypatch.setattr(keys, "KEY_S", 0.05)
    made = Reactor()
    yield made
    made.close()


def test_a_node_is_told_at_once_and_then_at_its_time(reactor: Reactor) -> None:
    """However often the wish is heard; no more when the key frame has come, and at once when another is wanted."""
    told: list[str] = []
    port, frames = Wanting(), KeyFrames(reactor, told.append)
    frames.watch(port)
    for _ in range(30):
        port.on_key_wanted()
    assert told == ["out"]
    reactor.serve_once(wait=True)
    assert told == ["out"] * 2
    port.on_key_wanted()
    assert told == ["out"] * 2
    port.is_wanted = False
    reactor.serve_once(wait=True)
    assert told == ["out"] * 2
    port.is_wanted = True
    port.on_key_wanted()
    assert told == ["out"] * 3


def test_the_rate_is_a_second() -> None:
    """An encoder that makes a key frame each time does not make its stream much larger."""
    assert KEY_S == 1.0
    assert ASK_S < KEY_S
