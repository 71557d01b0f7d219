"""Visits: two relays face each other, and neither a process nor a host sees that there is a connection in between."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hosting import FakeReactor, open_descriptors

from rmbus.brokers import visits as gateway_visits
from rmbus.brokers.visits import CLAIM_S, Host, Visits
from rmbus.errors import Closed
from rmbus.protocol import lane, messages
from rmbus.protocol.lane import Buffer
from rmbus.transport import counters, visits
from rmbus.transport.counters import Edge, Page
from rmbus.transport.lanes import FastLane, fast_pair
from rmbus.transport.reactor import Reactor
from rmbus.transport.umbilical import Umbilical
from rmbus.visiting import Process

TOKEN = bytes(range(16))


def pair() -> tuple[Umbilical, Umbilical]:
    """Return both ends of an umbilical; neither waits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Umbilical(ours, is_host=True), Umbilical(theirs, is_host=True)


class Visiting:
    """A host and a process, two relays between them, and no network: what one sends, the other gets in its turn.

    Attributes:
        host, process: what each holds of its umbilical. over: which relays have ended.
    """

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.host, far = pair()
        self.process, near = pair()
        self.over: list[str] = []
        self._ends: list[End] = []
        self.there = Host(self.reactor, far, self._to(lambda: self.here), lambda: self.over.append("there"))
        self.here = Process(self.reactor, near, self._to(lambda: self.there), lambda: self.over.append("here"))

    def _to(self, relay: Callable[[], visits.Relay]) -> Callable[[Sequence[Buffer]], None]:
        def send(parts: Sequence[Buffer]) -> None:
            sent = [memoryview(bytes(part)) for part in parts]
            self.reactor.call_soon(lambda: relay().arrive(sent))

        return send

    def until(self, look: Callable[[], Any]) -> Any:
        """Serve until something is there, and return it."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                found = look()
            except BlockingIOError:
                found = None
            if found:
                return found
            self.reactor.serve_once(wait=False)
        raise AssertionError("it has not come")

    def hear(self, umbilical: Umbilical) -> tuple[messages.Message, list[int]]:
        """Return what an umbilical brings next."""
        _, message, descriptors = self.until(umbilical.receive)
        return message, descriptors

    def edge(self, kind: type[messages.Input] | type[messages.Output], number: int = 7) -> tuple[End, End]:
        """Give the process an end of an edge; return the end at the host, and that in the process."""
        ours, theirs = fast_pair()
        page = counters.create()
        kinds: dict[str, Any] = (
            {"credit": 2} if kind is messages.Input else {"delivery": "reliable", "n": 8, "path": ""}
        )
        self.host.send(kind(edge=number, port="p", token=TOKEN, page=0, lane=1, **kinds), [page, theirs.fileno()])
        theirs.close()
        there = self._kept(End(Page(page), FastLane(ours)))
        message, (given, end) = self.hear(self.process)
        assert isinstance(message, kind)
        assert (message.edge, message.port, message.token, message.page, message.lane) == (number, "p", TOKEN, 0, 1)
        here = self._kept(End(Page(given), FastLane(socket.socket(fileno=end))))
        for descriptor in (page, given):
            os.close(descriptor)
        return there, here

    def _kept(self, end: End) -> End:
        self._ends.append(end)
        return end

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self.here.end("over")
        self.there.end("over")
        self.host.close()
        self.process.close()
        self.reactor.close()


class End:
    """An end of an edge: its page and its lane."""

    def __init__(self, page: Page, end: FastLane) -> None:
        self.page, self.lane = page, end

    def close(self) -> None:
        self.page.close()
        self.lane.close()


@pytest.fixture
def visiting() -> Iterator[Visiting]:
    visiting = Visiting()
    yield visiting
    visiting.close()


def frames(payload: bytes = b"", body: bytes = b"body") -> lane.Message:
    return lane.Message(lane.Type.FRAMES, 1, body, payload)


def got(message: lane.Message | None) -> tuple[int, int, bytes, bytes] | None:
    return message and (message.type, message.number, bytes(message.body), bytes(message.payload))


@pytest.mark.parametrize("kind", [messages.Input, messages.Output])
def test_lanes_go_through(visiting: Visiting, kind: type[messages.Input]) -> None:
    """Both ways, in order, payloads that travel apart whole."""
    there, here = visiting.edge(kind)
    large = secrets.token_bytes(3_000_000)
    for one, other in ((there, here), (here, there)):
        sent = [frames(), frames(large), frames(body=b"last")]
        for message in sent:
            if not one.lane.send(message):
                visiting.until(one.lane.flush)
        arrived = [got(visiting.until(other.lane.receive)) for _ in sent]
        assert arrived == [got(message) for message in sent]


def test_a_lane_that_never_rests(visiting: Visiting) -> None:
    """Of what a process sends without waiting for credit a part goes on at a time, in order; others have their turn."""
    _, busy = visiting.edge(messages.Output, number=7)
    there, here = visiting.edge(messages.Output, number=9)
    count = 2 * visits.BURST + 3
    for number in range(count):
        assert busy.lane.send(lane.Message(lane.Type.FRAMES, number, b""))
    assert here.lane.send(frames(body=b"another's"))
    sent: list[int] = []
    before = visiting.here._send

    def noting(parts: Sequence[Buffer]) -> None:
        sent.append(visits.unpack_number(parts[0]))
        before(parts)

    visiting.here._send = noting
    assert got(visiting.until(there.lane.receive)) == got(frames(body=b"another's"))
    assert 7 in sent
    assert sent.index(9) <= visits.BURST
    visiting.until(lambda: sent.count(7) == count)


def test_memory_stays_where_it_is(visiting: Visiting) -> None:
    """A process that asks for memory that is shared is told that there is none; the host hears nothing of it."""
    visiting.process.send(messages.Grow("p", 4, 1000))
    message, descriptors = visiting.hear(visiting.process)
    assert isinstance(message, messages.Segment)
    assert (message.port, message.descriptor, descriptors) == ("p", -1, [])
    assert "another machine" in message.reason
    visiting.process.send(messages.Linked("s", 3))
    assert visiting.hear(visiting.host)[0] == messages.Linked("s", 3)


def test_counts_are_told(visiting: Visiting) -> None:
    """Each end knows what the other counts, after a moment; times of another clock it does not."""
    there, here = visiting.edge(messages.Input)
    there.page.words[Edge.PUBLISHED], there.page.words[Edge.BLOCKED_SINCE] = 10, 99
    there.page.drop("overflow", 3)
    here.page.words[Edge.DELIVERED], here.page.words[Edge.BEGAN] = 5, 99
    here.page.drop("late", 2, by_consumer=True)
    visiting.until(lambda: here.page.words[Edge.PUBLISHED] and there.page.words[Edge.DELIVERED])
    assert here.page.dropped() == there.page.dropped() == {"overflow": 3, "late": 2}
    assert there.page.words[Edge.DELIVERED] == 5
    assert here.page.words[Edge.BLOCKED_SINCE] == there.page.words[Edge.BEGAN] == 0
    there.page.words[Edge.PUBLISHED] = 11
    visiting.until(lambda: here.page.words[Edge.PUBLISHED] == 11)


def test_what_was_counted_is_known_at_the_end(visiting: Visiting, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the end of the stream, and when the other end is gone, the account is exact at once."""
    monkeypatch.setattr(visits, "TELL_S", 1e6)
    there, here = visiting.edge(messages.Input)
    there.page.words[Edge.PUBLISHED] = 10
    there.page.drop("overflow", 4)
    there.page.words[Edge.ENDED] = 1
    there.lane.send(frames())
    visiting.until(here.lane.receive)
    assert here.page.dropped() == {"overflow": 4}
    there.page.drop("overflow", 1)
    visiting.host.send(messages.Gone(7, "producer_died"))
    assert visiting.hear(visiting.process)[0] == messages.Gone(7, "producer_died")
    assert here.page.dropped() == {"overflow": 5}


def test_what_is_said_after_a_frame_comes_after_it(visiting: Visiting) -> None:
    """That an edge is gone, and a process's last word, wait for what was sent before, though nobody read it yet."""
    there, here = visiting.edge(messages.Input)
    back, forth = visiting.edge(messages.Output, 8)
    large = secrets.token_bytes(2_000_000)
    for one in (there, forth):
        if not one.lane.send(frames(large)):
            visiting.until(one.lane.flush)
    visiting.host.send(messages.Gone(7, "producer_died"))
    visiting.process.send(messages.NodeEvent("s", 0, "ended"))
    for _ in range(200):
        visiting.reactor.serve_once(wait=False)
    for umbilical in (visiting.process, visiting.host):
        with pytest.raises(BlockingIOError):
            umbilical.receive()
    assert got(visiting.until(here.lane.receive)) == got(frames(large))
    assert visiting.hear(visiting.process)[0] == messages.Gone(7, "producer_died")
    assert got(visiting.until(back.lane.receive)) == got(frames(large))
    assert visiting.hear(visiting.host)[0] == messages.NodeEvent("s", 0, "ended")
    assert visiting.over == []


def test_an_edge_that_gets_another_producer(visiting: Visiting) -> None:
    """What the one that has died had sent comes first, by its lane; the account goes on."""
    there, here = visiting.edge(messages.Input)
    there.page.words[Edge.PUBLISHED] = 3
    there.lane.send(frames(body=b"old"))
    again, anew = visiting.edge(messages.Input)
    assert got(here.lane.receive()) == got(frames(body=b"old"))
    again.lane.send(frames(body=b"new"))
    assert got(visiting.until(anew.lane.receive)) == got(frames(body=b"new"))
    anew.page.words[Edge.RECEIVED] = 2
    assert here.page.words[Edge.RECEIVED] == 2
    visiting.until(lambda: again.page.words[Edge.RECEIVED] == 2)
    with pytest.raises(Closed):
        visiting.until(here.lane.receive)


@pytest.mark.parametrize(
    "said", [messages.Retire(1), messages.Mapped(1), messages.Share("p", 1), messages.Spare({}), messages.Ping()]
)
def test_words_that_a_visitor_does_not_have(visiting: Visiting, said: messages.Message) -> None:
    """They end the visit, at both ends; the host's own process would be cut off for them, too."""
    visiting.here.say(said)
    visiting.until(lambda: "there" in visiting.over)
    with pytest.raises(Closed):
        visiting.until(visiting.host.receive)


@pytest.mark.parametrize(
    "parts",
    [
        [b"short"],
        [visits.pack_number(0), b"no envelope"],
        [visits.pack_number(7), b""],
        [visits.pack_number(7)],
        [visits.pack_number(0), messages.encode(messages.Counts(7, [1]))],
        [visits.pack_number(0), messages.encode(messages.Ok()).replace(b"ok", b"OK", 1), b"more"],
    ],
)
def test_what_cannot_be_taken_ends_the_visit(visiting: Visiting, parts: list[bytes]) -> None:
    """Whatever comes, it is the end of this visit at most: nothing is raised where all visits are served."""
    visiting.edge(messages.Output)
    before = list(visiting.over)
    visiting.there.arrive([memoryview(part) for part in parts])
    assert before == []
    is_later_word = len(parts) == 3
    assert visiting.over == ([] if is_later_word else ["there"])


def test_an_edge_that_is_not_known(visiting: Visiting) -> None:
    """What comes for it is dropped: it has been taken down meanwhile."""
    visiting.there.arrive([memoryview(visits.pack_number(9)), memoryview(b"anything")])
    assert visiting.over == []


def test_a_reader_that_does_not_read(visiting: Visiting, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is bounded; then the visit ends."""
    monkeypatch.setattr(visits, "MAX_BEHIND_BYTES", 5_000_000)
    there, _ = visiting.edge(messages.Input)
    large = bytes(2_000_000)
    for _ in range(2):
        if not there.lane.send(frames(large)):
            visiting.until(there.lane.flush)
    for _ in range(100):
        visiting.reactor.serve_once(wait=False)
    assert visiting.over == []
    for _ in range(4):
        if not there.lane.send(frames(large)):
            visiting.until(lambda: there.lane.flush() or visiting.over)
        if visiting.over:
            break
    visiting.until(lambda: "here" in visiting.over)
    with pytest.raises(Closed):
        visiting.until(visiting.process.receive)


def test_a_reader_that_is_always_a_little_behind(visiting: Visiting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what waits counts, not what has waited."""
    monkeypatch.setattr(visits, "MAX_BEHIND_BYTES", 5_000_000)
    there, here = visiting.edge(messages.Input)
    large = bytes(2_000_000)

    def write() -> None:
        if not there.lane.send(frames(large)):
            visiting.until(there.lane.flush)

    write()
    for _ in range(10):
        write()  # the next comes before the last was read
        assert got(visiting.until(here.lane.receive)) == got(frames(large))
    assert visiting.over == []


def test_what_came_by_a_lost_connection_does_not_wait_for_ever(
    visiting: Visiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads it: the visit ends all the same, and whoever has the umbilical sees that."""
    monkeypatch.setattr(visits, "SETTLE_S", 0.05)
    _, here = visiting.edge(messages.Output)
    if not here.lane.send(frames(bytes(2_000_000))):
        visiting.until(here.lane.flush)
    for _ in range(200):
        visiting.reactor.serve_once(wait=False)
    visiting.there.lose("the cable")
    assert visiting.over == []
    visiting.until(lambda: visiting.over == ["there"])
    with pytest.raises(Closed):
        visiting.until(visiting.host.receive)


def test_a_connection_that_is_lost(visiting: Visiting) -> None:
    """What had come is passed on first, then each side sees the end; what is sent from then on goes nowhere."""
    there, here = visiting.edge(messages.Output)
    large = secrets.token_bytes(2_000_000)
    if not here.lane.send(frames(large)):
        visiting.until(here.lane.flush)
    for _ in range(200):
        visiting.reactor.serve_once(wait=False)
    visiting.there.lose("the cable")
    visiting.here.lose("the cable")
    assert visiting.over == ["here"]
    assert got(visiting.until(there.lane.receive)) == got(frames(large))
    visiting.until(lambda: visiting.over == ["here", "there"])
    for umbilical in (visiting.host, visiting.process):
        with pytest.raises(Closed):
            visiting.until(umbilical.receive)


def test_leaving(visiting: Visiting) -> None:
    """A process that closes its umbilical has left; its host, that cuts it off, has it end."""
    visiting.process.close()
    with pytest.raises(Closed):
        visiting.until(visiting.host.receive)
    visiting.host.close()
    visiting.until(lambda: len(visiting.over) == 2)


def test_no_descriptor_is_left() -> None:
    """Whatever was given to a relay is closed with it."""
    before = open_descriptors()
    visiting = Visiting()
    visiting.edge(messages.Input)
    visiting.edge(messages.Output, 8)
    visiting.host.send(messages.Gone(7, "producer_died"))
    visiting.hear(visiting.process)
    visiting.close()
    assert open_descriptors() == before


# --- who may come ----------------------------------------------------------------------------------------------------


class Door:
    """A gateway's visits, and the host's ends of the umbilicals of those that are expected."""

    def __init__(self) -> None:
        self.clock = FakeReactor()
        self.reactor = Reactor()
        self.sent: list[tuple[object, list[bytes]]] = []
        self.visits = Visits(self)  # type: ignore[arg-type]

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> object:
        return self.clock.call_later(delay_s, callback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reactor, name)

    def expect(self, name: str) -> Umbilical:
        ours, theirs = Umbilical.pair()
        self.visits.expect(messages.Visit(name, TOKEN), theirs.detach())
        return ours

    def claim(self, name: bytes, token: bytes, place: str) -> bool:
        return self.visits.claim(name, token, place, lambda parts: self.sent.append((place, list(map(bytes, parts)))))


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.visits.lost(lambda _: True)
    door.reactor.close()


def test_a_visit_is_claimed_once_by_its_token(door: Door) -> None:
    """Who has another, or comes for what nobody is expected for, is not let in; nor is a second one."""
    umbilical = door.expect("v")
    assert not door.claim(b"v", bytes(16), "a")
    assert not door.claim(b"w", TOKEN, "a")
    assert door.claim(b"v", TOKEN, "a")
    assert not door.claim(b"v", TOKEN, "b")
    word = [memoryview(visits.pack_number(0)), memoryview(messages.encode(messages.Linked("s", 3)))]
    assert door.visits.arrive(b"v", "b", word)  # it is of a visit, and from elsewhere: dropped
    with pytest.raises(BlockingIOError):
        umbilical.receive()
    assert door.visits.arrive(b"v", "a", word)
    assert umbilical.receive()[1] == messages.Linked("s", 3)
    assert not door.visits.arrive(b"w", "a", word)
    umbilical.close()


def test_nobody_comes(door: Door) -> None:
    """The host sees the end of the umbilical, after a while; one who has come in time stays."""
    early, late = door.expect("early"), door.expect("late")
    door.clock.passes(CLAIM_S / 2)
    assert door.claim(b"early", TOKEN, "a")
    door.clock.passes(CLAIM_S)
    with pytest.raises(Closed):
        late.receive()
    with pytest.raises(BlockingIOError):
        early.receive()
    assert not door.claim(b"late", TOKEN, "a")
    late.close()
    early.close()


def test_too_many_that_have_not_come(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host sees at once that there is no place; who was expected before still is."""
    monkeypatch.setattr(gateway_visits, "MAX_EXPECTED", 1)
    first, second = door.expect("first"), door.expect("second")
    with pytest.raises(Closed):
        second.receive()
    assert door.claim(b"first", TOKEN, "a")
    first.close()
    second.close()


def test_too_many_that_are_there(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is let in when one has gone."""
    monkeypatch.setattr(gateway_visits, "MAX_VISITS", 1)
    first = door.expect("first")
    assert door.claim(b"first", TOKEN, "a")
    second = door.expect("second")
    with pytest.raises(Closed):
        second.receive()
    door.visits.lost(lambda place: place == "a")
    third = door.expect("third")
    assert door.claim(b"third", TOKEN, "a")
    for each in (first, second, third):
        each.close()


def test_connections_that_are_lost(door: Door) -> None:
    """Those end whose place is gone, and no others."""
    one, other = door.expect("one"), door.expect("other")
    assert door.claim(b"one", TOKEN, "a")
    assert door.claim(b"other", TOKEN, "b")
    door.visits.lost(lambda place: place == "a")
    with pytest.raises(Closed):
        one.receive()
    with pytest.raises(BlockingIOError):
        other.receive()
    assert not door.visits.arrive(b"one", "a", [memoryview(b"")])
    one.close()
    other.close()


def test_a_visitor_that_does_not_read(door: Door) -> None:
    """When the network takes nothing more from the gateway the visit ends, and no other."""
    umbilical = door.expect("v")

    def full(parts: Sequence[Buffer]) -> None:
        raise Closed("it does not read")

    assert door.visits.claim(b"v", TOKEN, "a", full)
    umbilical.send(messages.Go("s"))
    for _ in range(20):
        door.reactor.serve_once(wait=False)
    with pytest.raises(Closed):
        umbilical.receive()
    umbilical.close()
