"""Lanes of one machine: what goes in comes out, in order and whole, or the lane is broken."""

from __future__ import annotations

import select
import socket
from collections.abc import Generator

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from rmbus.errors import Closed, MalformedFrame, TooLarge
from rmbus.protocol import lane
from rmbus.protocol.lane import Message, Type
from rmbus.protocol.limits import INLINE_BYTES, MAX_LANE_BYTES
from rmbus.transport import lanes
from rmbus.transport.lanes import PIECE_BYTES, DealerLane, FastLane, RouterLane, fast_pair


class Pair:
    """Both ends of a fast lane, and the socket of the other where it sends what no lane would."""

    def __init__(self) -> None:
        ours, self.raw = fast_pair()
        self.producer, self.consumer = FastLane(self.raw), FastLane(ours)

    def close(self) -> None:
        self.producer.close()
        self.consumer.close()

    def received(self) -> list[tuple[int, int, bytes, bytes]]:
        """Take in all that has come."""
        found: list[tuple[int, int, bytes, bytes]] = []
        while (message := self.consumer.receive()) is not None:
            found.append(plain(message))
        return found


def plain(message: Message) -> tuple[int, int, bytes, bytes]:
    return message.type, message.number, bytes(message.body), bytes(message.payload)


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.fixture
def pair() -> Generator[Pair]:
    made = Pair()
    yield made
    made.close()


MESSAGES = st.builds(
    Message,
    type=st.sampled_from([Type.MARK, Type.MARK_BACK, Type.CREDIT, Type.WANT_KEY, Type.FRAMES]),
    number=st.integers(0, 2**64 - 1),
    body=st.one_of(st.binary(max_size=50), st.integers(0, 60_000).map(pattern)),
    payload=st.just(b""),
)
WITH_PAYLOAD = st.builds(
    Message,
    type=st.just(Type.FRAMES),
    number=st.integers(0, 2**64 - 1),
    body=st.binary(max_size=50),
    payload=st.sampled_from([1, 100, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, 500_000]).map(
        pattern
    ),
)


@settings(max_examples=50)
@given(st.lists(MESSAGES | WITH_PAYLOAD, max_size=12), st.booleans())
def test_messages_come_whole_and_in_order(sent: list[Message], eager: bool) -> None:
    """However full the lane is in between, and whenever somebody reads: nothing is lost, mixed or overtaken."""
    pair = Pair()
    try:
        got: list[tuple[int, int, bytes, bytes]] = []
        for message in sent:
            pair.producer.send(message)
            if eager:
                got += pair.received()
        while not pair.producer.flush():
            got += pair.received()
        got += pair.received()
        assert got == [plain(message) for message in sent]
    finally:
        pair.close()


def test_nothing_has_come_yet(pair: Pair) -> None:
    """A reader that is early gets None, and does not wait."""
    assert pair.consumer.receive() is None


def test_both_ends_speak(pair: Pair) -> None:
    """What a consumer says comes by the same lane."""
    assert pair.producer.send(Message(Type.MARK, 1, bytes(16)))
    assert pair.received() == [(Type.MARK, 1, bytes(16), b"")]
    assert pair.consumer.send(Message(Type.MARK_BACK, 1, lane.pack_grant(2)))
    answer = pair.producer.receive()
    assert answer is not None
    assert plain(answer) == (Type.MARK_BACK, 1, lane.pack_grant(2), b"")


def test_a_full_lane_keeps_what_it_cannot_send(pair: Pair) -> None:
    """It says so at once, keeps the order while it is full, and is empty again when it has been flushed."""
    sent, room = 0, True
    while room:
        sent += 1
        room = pair.producer.send(Message(Type.FRAMES, sent, bytes(30_000)))
    for _ in range(3):
        sent += 1
        assert not pair.producer.send(Message(Type.FRAMES, sent, b"small"))
    assert not pair.producer.flush()
    got = [number for _, number, _, _ in pair.received()]
    assert 0 < len(got) < sent
    sent += 1
    pair.producer.send(Message(Type.FRAMES, sent, b"there is room now, and yet others go first"))
    while not pair.producer.flush():
        got += [number for _, number, _, _ in pair.received()]
    assert pair.producer.flush()
    assert pair.producer.send(Message(Type.FRAMES, sent + 1, b"again"))
    got += [number for _, number, _, _ in pair.received()]
    assert got == list(range(1, sent + 2))


def test_what_was_kept_goes_in_front_of_the_next(pair: Pair) -> None:
    """Whoever is not told of room, as a consumer is not, sends what was kept when he speaks again."""
    sent = 0
    while pair.producer.send(Message(Type.CREDIT, sent)):
        sent += 1
    assert [number for _, number, _, _ in pair.received()] == list(range(sent))
    assert pair.producer.send(Message(Type.CREDIT, sent + 1))
    assert [number for _, number, _, _ in pair.received()] == [sent, sent + 1]


def test_a_payload_travels_in_pieces_before_its_frame(pair: Pair) -> None:
    """Whoever reads a frame has all of it; the pieces are those of the specification."""
    payload = pattern(2 * PIECE_BYTES + 5)
    pair.producer.send(Message(Type.FRAMES, 9, b"body", payload))
    datagrams: list[Message] = []
    while select.select([pair.consumer.source], [], [], 0)[0] or not pair.producer.flush():
        datagrams.append(lane.decode([memoryview(_raw(pair))]))
    assert [(each.type, each.number, len(each.body)) for each in datagrams] == [
        (Type.PIECE, 9, PIECE_BYTES),
        (Type.PIECE, 9, PIECE_BYTES),
        (Type.PIECE, 9, 5),
        (Type.FRAMES, 9, 4),
    ]
    assert b"".join(bytes(each.body) for each in datagrams[:3]) == payload
    assert PIECE_BYTES + lane.PREFIX_BYTES <= MAX_LANE_BYTES
    assert PIECE_BYTES <= INLINE_BYTES


def _raw(pair: Pair) -> bytes:
    """Take one datagram off the consumer's end, past its lane."""
    assert isinstance(pair.consumer.source, int)
    with socket.socket(fileno=pair.consumer.source) as end:
        data = end.recv(MAX_LANE_BYTES + 1)
        end.detach()
    return data


def test_half_a_payload_is_not_given_out(pair: Pair) -> None:
    """Pieces are kept until their frame has come."""
    pair.raw.send(encoded(Type.PIECE, 4, b"abc"))
    assert pair.consumer.receive() is None
    pair.raw.send(encoded(Type.PIECE, 4, b"def"))
    assert pair.consumer.receive() is None
    pair.raw.send(encoded(Type.FRAMES, 4, b"body"))
    assert pair.received() == [(Type.FRAMES, 4, b"body", b"abcdef")]
    pair.raw.send(encoded(Type.FRAMES, 5, b"next"))
    assert pair.received() == [(Type.FRAMES, 5, b"next", b"")]


def test_a_payload_is_its_receivers_own(pair: Pair) -> None:
    """What was received apart does not change with the next message, as a body may."""
    pair.producer.send(Message(Type.FRAMES, 1, b"body", b"payload"))
    first = pair.consumer.receive()
    assert first is not None
    pair.producer.send(Message(Type.FRAMES, 2, b"next", b"another"))
    assert pair.consumer.receive() is not None
    assert first.payload == b"payload"


# --- ends -------------------------------------------------------------------------------------------------------------


def test_what_was_sent_before_the_end_is_still_read(pair: Pair) -> None:
    """A producer that has gone in order has left everything behind; then its end is told, again and again."""
    pair.producer.send(Message(Type.FRAMES, 1, b"last words"))
    pair.producer.close()
    message = pair.consumer.receive()
    assert message is not None
    assert bytes(message.body) == b"last words"
    for _ in range(2):
        with pytest.raises(Closed, match="gone"):
            pair.consumer.receive()


def test_sending_to_nobody_says_so(pair: Pair) -> None:
    """Whether something is kept already or not, and for a payload in pieces too."""
    while pair.producer.send(Message(Type.FRAMES, 1, bytes(30_000))):
        continue
    pair.consumer.close()
    with pytest.raises(Closed, match="cut"):
        pair.producer.flush()
    other = Pair()
    other.consumer.close()
    for message in (Message(Type.FRAMES, 1, b"x"), Message(Type.FRAMES, 2, b"x", bytes(100_000))):
        with pytest.raises(Closed, match="cut"):
            other.producer.send(message)
    other.close()


def test_an_end_that_this_process_has_closed_is_no_stranger(pair: Pair) -> None:
    """After `close` both directions fail in the one way that a caller expects."""
    pair.consumer.close()
    with pytest.raises(Closed):
        pair.consumer.receive()
    with pytest.raises(Closed):
        pair.consumer.send(Message(Type.CREDIT, 1, lane.pack_grant(1)))


# --- garbage ----------------------------------------------------------------------------------------------------------


def encoded(kind: Type, number: int, body: bytes = b"") -> bytes:
    return bytes(lane.encode(Message(kind, number, body))[0])


@pytest.mark.parametrize(
    ("datagrams", "error", "said"),
    [
        ([b"x"], MalformedFrame, "prefix"),
        ([bytes(11)], MalformedFrame, "prefix"),
        ([encoded(Type.PIECE, 1, b"a"), encoded(Type.PIECE, 2, b"b")], MalformedFrame, "mixed"),
        ([encoded(Type.PIECE, 1, b"a"), encoded(Type.FRAMES, 2, b"b")], MalformedFrame, "something else"),
        ([encoded(Type.PIECE, 1, b"a"), encoded(Type.CREDIT, 1, b"b")], MalformedFrame, "something else"),
        ([encoded(Type.PIECE, 1, b"a"), encoded(Type.MARK, 1, b"b")], MalformedFrame, "something else"),
        ([encoded(Type.PIECE, 1)], MalformedFrame, "no bytes"),
    ],
)
def test_what_is_no_lane_message_is_refused(
    pair: Pair, datagrams: list[bytes], error: type[Exception], said: str
) -> None:
    """The lane is broken by it: the error says what came."""
    for datagram in datagrams:
        pair.raw.send(datagram)
    with pytest.raises(error, match=said):
        pair.received()


def test_a_datagram_over_the_limit_is_refused_and_not_cut(pair: Pair) -> None:
    """What is just within it passes."""
    pair.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_LANE_BYTES)
    pair.raw.send(encoded(Type.FRAMES, 1, bytes(MAX_LANE_BYTES - lane.PREFIX_BYTES)))
    assert len(pair.received()) == 1
    pair.raw.send(encoded(Type.FRAMES, 1, bytes(MAX_LANE_BYTES - lane.PREFIX_BYTES)) + b"x")
    with pytest.raises(TooLarge):
        pair.consumer.receive()


def test_pieces_do_not_pile_up_beyond_the_limit(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends pieces for ever is stopped where no payload could be as large."""
    monkeypatch.setattr(lanes, "MAX_PAYLOAD_BYTES", 100)
    pair.raw.send(encoded(Type.PIECE, 1, bytes(100)))
    assert pair.consumer.receive() is None
    pair.raw.send(encoded(Type.PIECE, 1, bytes(1)))
    with pytest.raises(MalformedFrame, match="larger than a payload"):
        pair.consumer.receive()


@settings(max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=60) | MESSAGES.map(lambda m: bytes(lane.encode(m)[0])), max_size=6))
def test_any_datagrams(datagrams: list[bytes]) -> None:
    """Whatever a peer sends, a message is returned or the lane refused; no other error comes out."""
    pair = Pair()
    try:
        for datagram in datagrams:
            pair.raw.send(datagram)
        while pair.consumer.receive() is not None:
            continue
    except MalformedFrame:
        return
    finally:
        pair.close()


# --- the lane that works everywhere -----------------------------------------------------------------------------------


@pytest.fixture
def joined() -> Generator[tuple[DealerLane, zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.bind("inproc://here")
    dealer.connect("inproc://here")
    yield DealerLane(dealer), router
    context.destroy(linger=0)


def test_an_ipc_lane_carries_the_same_messages(joined: tuple[DealerLane, zmq.Socket[bytes]]) -> None:
    """A payload is a part of its own; the answer comes by the route."""
    dealer, router = joined
    assert dealer.receive() is None
    assert dealer.send(Message(Type.MARK, 1, bytes(16)))
    assert dealer.send(Message(Type.FRAMES, 1, b"body", pattern(100_000)))
    assert dealer.flush()
    route, *mark = router.recv_multipart()
    assert plain(lane.decode([memoryview(part) for part in mark])) == (Type.MARK, 1, bytes(16), b"")
    _, *frames = router.recv_multipart()
    assert len(frames) == 2
    assert plain(lane.decode([memoryview(part) for part in frames])) == (Type.FRAMES, 1, b"body", pattern(100_000))
    back = RouterLane(router, route)
    assert back.send(Message(Type.CREDIT, 1, lane.pack_grant(3)))
    answer = dealer.receive()
    assert answer is not None
    assert plain(answer) == (Type.CREDIT, 1, lane.pack_grant(3), b"")


def test_credit_for_a_producer_that_is_gone_is_nobodys_failure(joined: tuple[DealerLane, zmq.Socket[bytes]]) -> None:
    """Its host tells what has become of it."""
    _, router = joined
    assert RouterLane(router, b"nobody").send(Message(Type.CREDIT, 1, lane.pack_grant(3)))
