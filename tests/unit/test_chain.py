"""How acknowledgements chain, and what is known again: a source, a node and a sink that die in any order, in memory."""

from __future__ import annotations

import os
import random
import select
import threading
from collections import deque
from collections.abc import Generator, Iterator

import msgpack
import pytest

from rmbus.errors import Broken, MalformedFrame
from rmbus.media import Data
from rmbus.node import Node
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import (
    Header,
    Kind,
    decode_frames,
    encode_frame,
    encode_identity,
    identities,
    join_frames,
    with_identity,
    with_ticket,
)
from rmbus.protocol.lane import Buffer
from rmbus.runtime.invoke import Invoker
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.revival import KnownArrival, KnownInput, KnownOutput, KnownPort, ReviveLoop
from rmbus.transport import counters
from rmbus.transport.chain import Chain, Record, Seen
from rmbus.transport.counters import Edge, Page
from rmbus.transport.lanes import FastLane, fast_pair

TOKEN = bytes(16)


made_pages: list[Page] = []


def page() -> Page:
    descriptor = counters.create()
    made_pages.append(Page(descriptor))
    os.close(descriptor)
    return made_pages[-1]


@pytest.fixture(autouse=True)
def _pages_are_closed() -> Generator[None]:
    yield
    while made_pages:
        made_pages.pop().close()


# --- the parts ------------------------------------------------------------------------------------------------------


def test_an_input_is_settled_when_all_that_was_made_from_it_is() -> None:
    """In the order in which the node began with them, over all edges; what nothing was made from waits its turn."""
    chain = Chain(["out"], deterministic=True)
    first = chain.open(1, 1, 1, (0, 0))
    chain.make("out", 0)
    one, other = chain.due(kept=True), chain.due(kept=True)
    chain.close(first)
    second = chain.open(2, 1, 1, (0, 0))
    chain.close(second)
    settled = [list(chain.advance())]
    one()
    settled.append(chain.advance())
    other()
    settled.append(chain.advance())
    assert settled == [[], [], [first, second]]
    assert chain.dump() == [[1], [[1, 0, 0], [2, 0, 0]]]


def test_an_input_is_not_settled_while_more_is_made_from_it() -> None:
    """Also where all that was made from it so far is acknowledged."""
    chain = Chain(["out"], deterministic=True)
    cause = chain.open(1, 1, 1, (0, 0))
    chain.make("out", 0)
    chain.due(kept=True)()
    assert chain.advance() == []
    chain.close(cause)
    assert chain.advance() == [cause]


def test_an_edge_that_drops_holds_nobody() -> None:
    """What goes to a dropping edge is dealt with when it is offered."""
    chain = Chain(["out"], deterministic=True)
    cause = chain.open(1, 1, 1, (0, 0))
    chain.make("out", 0)
    chain.due(kept=False)
    chain.close(cause)
    assert chain.advance() == [cause]


def made_from(chain: Chain, edge: int, identity: tuple[int, ...]) -> list[int]:
    cause = chain.open(edge, 1, 1, identity)
    chain.make("out", 0)
    told = chain.due(kept=False).identity
    chain.close(cause)
    return list(msgpack.unpackb(told))


def test_what_a_frame_is_known_by_goes_on_from_its_cause() -> None:
    """The numbers of its cause, and its own place; ways that differ give streams that differ."""
    chain = Chain(["out"], deterministic=True)
    stream, *numbers = made_from(chain, 1, (0, 7, 2))
    assert numbers == [7, 2, 0]
    assert len({stream, made_from(chain, 2, (0, 7, 2))[0], made_from(chain, 1, (5, 7, 2))[0], 0}) == 4
    assert len({made_from(chain, 1, (-1, 7))[0], made_from(chain, 1, (-2, 7))[0]}) == 2  # another life


def test_who_is_not_deterministic_gives_no_identity() -> None:
    """Nor is there one where the way of a frame has become too long for it."""
    chain = Chain(["out"], deterministic=False)
    chain.open(1, 1, 1, (0, 0))
    chain.make("out", 0)
    assert chain.due(kept=True).identity == b""
    chain = Chain(["out"], deterministic=True)
    chain.open(1, 1, 1, tuple(range(32)))
    chain.make("out", 0)
    assert chain.due(kept=True).identity == b""


def test_streams_are_seen_each_for_itself() -> None:
    """What comes behind the last of its stream is new, whatever came on the others."""
    seen = Seen([(1, 4, 0)])
    assert [seen.is_repeated(each) for each in [(1, 3, 9), (1, 4, 0), (1, 4, 1), (2, 0), (2, 0), (1, 5)]] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert sorted(seen.all()) == [(1, 5), (2, 0)]


def test_a_record_is_replaced_as_a_whole() -> None:
    """A kill in the middle of writing leaves the last one."""
    words = page()
    record = Record(words)
    assert record.read() is None
    record.write([[3], [[1, 0, 5]]])
    in_force = words.words[counters.Node.BANK]
    record.write([[4], [[1, 0, 6]]])
    assert Record(words).read() == [[4], [[1, 0, 6]]]
    words.words[counters.Node.BANK] = in_force  # as if it had died before the last word
    assert Record(words).read() == [[3], [[1, 0, 5]]]


def test_a_record_that_is_too_long_is_refused() -> None:
    """And leaves the last one."""
    record = Record(page())
    record.write("short")
    with pytest.raises(Broken, match="too many"):
        record.write("x" * 4000)
    assert record.read() == "short"


def test_identities_ride_behind_a_frame() -> None:
    """With a ticket or without; who does not look for them sees the same frame."""
    plain = encode_frame(Header(Kind.DATA, 5), b"abc")
    known = with_identity(plain, encode_identity((0, 5)))
    lent = with_identity(with_ticket(plain, 3), encode_identity((9, 5, 1)))
    body = join_frames([plain, known, lent])
    assert identities(body) == [None, (0, 5), (9, 5, 1)]
    assert [entry.header.seq for entry in decode_frames(body)] == [5, 5, 5]
    assert [entry.ticket for entry in decode_frames(body)] == [0, 0, 3]


@pytest.mark.parametrize("wrong", [7, [1], [1, -1], [1, "2"], [1, True], list(range(33))])
def test_what_is_no_identity_is_refused(wrong: object) -> None:
    """A peer may send anything."""
    body = join_frames([with_identity(encode_frame(Header(Kind.DATA, 5)), msgpack.packb(wrong))])
    with pytest.raises(MalformedFrame, match="identity"):
        identities(body)


# --- all of it ------------------------------------------------------------------------------------------------------


class Pipe:
    """A lane in memory: what one of its ends has sent, until the other takes it."""

    def __init__(self) -> None:
        self.there: deque[lane.Message] = deque()
        self.back: deque[lane.Message] = deque()


class Near:
    """The producer's end."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def put(self, data: Buffer) -> bool:
        self._pipe.there.append(lane.decode([memoryview(bytes(data))]))
        return True

    def send(self, message: lane.Message) -> bool:
        return self.put(lane.encode(message)[0])

    def flush(self) -> bool:
        return True


class Far:
    """The consumer's end."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def send(self, message: lane.Message) -> bool:
        self._pipe.back.append(message)
        return True


class Wire:
    """An edge as its host sees it: the page, and how often it was joined."""

    def __init__(self, number: int, n: int, credit: int) -> None:
        self.number, self.n, self.credit = number, n, credit
        self.page = page()
        self.pipe = Pipe()
        self.epoch, self.life = 0, 1

    def join(self) -> tuple[messages.Output, messages.Input]:
        self.epoch += 1
        old, self.pipe = self.pipe, Pipe()
        self.rest = old.there
        output = messages.Output(
            self.number, "out", TOKEN, "reliable", self.n, "", page=0, epoch=self.epoch, resends=True
        )
        into = messages.Input(self.number, "in", TOKEN, self.credit, page=0, epoch=self.epoch, life=self.life)
        return output, into


class Part:
    """A node without its thread: it does one thing at a time, and may die between any two."""

    def __init__(self, node_page: Page, feed: Wire | None, out: Wire | None, *, deterministic: bool = True) -> None:
        self.feed, self.out = feed, out
        self.record = Record(node_page)
        self.chain = Chain(["out"] if out else [], self.record.read(), deterministic=deterministic)
        self.begins = feed is None and not deterministic
        self.port = (
            KnownPort("out", NodeMemory(lambda message: None), node_page, self.chain, begins=self.begins)
            if out
            else None
        )
        self.input: KnownInput | None = None
        self.output: KnownOutput | None = None
        self.inbox: deque[KnownArrival] = deque()
        self.running: Iterator[int] | None = None
        self.current: KnownArrival | None = None
        self.next = 0

    def join_output(self, message: messages.Output) -> None:
        assert self.out is not None
        assert self.port is not None
        end = Near(self.out.pipe)
        if self.output is None:
            first = None if self.begins else self.chain.first["out"]
            self.output = KnownOutput(message, self.out.page, end, set(), self.chain, first)
            self.port.add(self.output)
        else:
            self.port.rejoin(self.output, message, end)

    def join_input(self, message: messages.Input) -> None:
        assert self.feed is not None
        if self.input is None:
            self.input = KnownInput(message, self.feed.page, {}, self.chain.settled(message.edge).all())
        else:
            for each in self.feed.rest:
                if each.type == lane.Type.FRAMES:
                    self.take(each)
            self.input.rejoin(message)

    def take(self, message: lane.Message) -> None:
        assert self.input is not None
        for arrival in self.input.receive(message):
            assert isinstance(arrival, KnownArrival)
            self.inbox.append(arrival)

    def hear(self) -> bool:
        """Take one message of either neighbour."""
        if self.feed is not None and self.feed.pipe.there:
            message = self.feed.pipe.there.popleft()
            assert self.input is not None
            if message.type == lane.Type.MARK:
                self.input.mark(Far(self.feed.pipe), message.number)
            else:
                self.take(message)
            return True
        if self.out is not None and self.out.pipe.back:
            assert self.output is not None
            self.output.answered(self.out.pipe.back.popleft())
            self.output.pump()
            return True
        return False

    def step(self) -> bool:
        """Begin with an arrival, or make one frame, or be done with it."""
        if self.running is None:
            if not self.inbox:
                return False
            arrival = self.current = self.inbox.popleft()
            assert self.input is not None
            if arrival.frame is not None:
                arrival.cause = self.chain.open(self.input.edge, arrival.epoch, arrival.place, arrival.identity)
                self.input.begin(arrival, 1)
                self.running = iter(self.process(int(arrival.frame.value)))  # type: ignore[union-attr]
            else:
                self.running = iter(())
            return True
        if self.port is not None and not self.port.has_room:
            return False
        value = next(self.running, None)
        if value is not None:
            assert self.port is not None
            self.port.send(Data(value))
            return True
        self.running = None
        if self.current is not None:
            assert self.input is not None
            self.input.finish(self.current)
            if self.current.cause is not None:
                self.chain.close(self.current.cause)
            else:
                self.chain.skip(self.input.edge, self.current.epoch, self.current.place, self.current.identity)
            self.settle()
        return True

    def settle(self) -> bool:
        """Write down what is settled; telling it is another step."""
        settled = self.chain.advance()
        if not settled:
            return False
        self.record.write(self.chain.dump())
        assert self.input is not None
        for cause in settled:
            self.input.settle(cause.epoch, cause.place)
        return True

    def tell(self) -> None:
        if self.input is not None:
            self.input.tell()

    def process(self, value: int) -> list[int]:
        """From none to two of each."""
        return [10 * value + k for k in range(value % 3)]


class Last(Part):
    """Keeps what it was given where its death does not reach."""

    got: list[int]

    def process(self, value: int) -> list[int]:
        self.got.append(value)
        return []


DOINGS = [(number, doing) for number in range(3) for doing in ("hears", "works", "settles", "tells")]


class Line:
    """A source, a node and a sink; each may die at any moment, and be started anew at any later one."""

    def __init__(self, n: int, credit: int, many: int) -> None:
        self.many = many
        self.pages = [page() for _ in range(3)]
        self.wires = [Wire(0, n, credit), Wire(1, n, credit)]
        self.parts: list[Part | None] = [None] * 3
        self.got: list[int] = []
        self.deaths_of_sink = 0
        for number in range(3):
            self.start(number)
        for wire in self.wires:
            self.join(wire)

    def start(self, number: int) -> None:
        wires = self.wires
        if number == 0:
            self.parts[0] = Part(self.pages[0], None, wires[0])
        elif number == 1:
            self.parts[1] = Part(self.pages[1], wires[0], wires[1])
        else:
            last = self.parts[2] = Last(self.pages[2], wires[1], None)
            last.got = self.got

    def join(self, wire: Wire) -> None:
        output, into = wire.join()
        producer, consumer = self.parts[wire.number], self.parts[wire.number + 1]
        if consumer is not None:
            consumer.join_input(into)
        if producer is not None:
            producer.join_output(output)

    def dies(self, number: int) -> None:
        if self.parts[number] is not None:
            self.parts[number] = None
            self.deaths_of_sink += number == 2

    def is_started_anew(self, number: int) -> None:
        if self.parts[number] is None:
            self.start(number)
            for wire in self.wires:
                wire.life += wire.number == number
                if number in (wire.number, wire.number + 1):
                    self.join(wire)

    def does(self, number: int, doing: str) -> None:
        part = self.parts[number]
        if part is None:
            return
        if doing == "hears":
            part.hear()
        elif doing == "works":
            self.work(number)
        elif doing == "settles":
            part.settle()
        else:
            part.tell()

    def work(self, number: int) -> bool:
        part = self.parts[number]
        if part is None:
            return False
        if number:
            return part.step()
        assert part.port is not None
        if part.next == self.many or not part.port.has_room:
            return False
        part.port.send(Data(part.next))
        part.next += 1
        return True

    def comes_to_rest(self) -> None:
        for number in range(3):
            self.is_started_anew(number)
        moved = True
        while moved:
            moved = False
            for number, part in enumerate(self.parts):
                assert part is not None
                moved |= part.hear() | self.work(number) | part.settle()
                part.tell()
            moved |= any(wire.pipe.there or wire.pipe.back for wire in self.wires)

    def check(self) -> None:
        wanted = [10 * value + k for value in range(self.many) for k in range(value % 3)]
        assert list(dict.fromkeys(self.got)) == wanted
        assert len(self.got) - len(wanted) <= self.deaths_of_sink
        for wire, made in zip(self.wires, (self.many, len(wanted)), strict=True):
            words, dropped = wire.page.words, wire.page.dropped()
            assert words[Edge.PUBLISHED] == made
            assert words[Edge.PUBLISHED] + words[Edge.DUPLICATES] == words[Edge.DELIVERED] + sum(dropped.values())
            assert set(dropped) <= {"repeated"}
        for part in self.parts[:2]:
            assert part is not None
            assert part.port is not None
            assert part.port.is_settled
            assert len(part.chain) == 0


@pytest.mark.parametrize("seed", range(20))
def test_every_frame_comes_once_and_is_accounted_for(seed: int) -> None:
    """Whoever dies between any two things that it does, and whenever it is started anew."""
    chance = random.Random(seed)
    for _ in range(15):
        line = Line(chance.randint(1, 3), chance.randint(1, 3), chance.randint(5, 40))
        rarely = chance.choice([0.003, 0.01, 0.03])
        for _ in range(chance.randint(100, 800)):
            if chance.random() < rarely:
                line.dies(chance.randrange(3))
            elif chance.random() < 0.05:
                line.is_started_anew(chance.randrange(3))
            else:
                line.does(*chance.choice(DOINGS))
        line.comes_to_rest()
        line.check()


def test_what_came_in_an_epoch_before_says_nothing_of_this_one() -> None:
    """It is processed, but acknowledges no place and opens no window of the producer that was started anew."""
    wire = Wire(0, 3, 2)
    _, into = wire.join()
    link = KnownInput(into, wire.page, {}, [])
    link.mark(Far(wire.pipe), 1)
    body = join_frames([with_identity(encode_frame(Header(Kind.DATA, 0), msgpack.packb(7)), encode_identity((0, 0)))])
    (arrival,) = link.receive(lane.Message(lane.Type.FRAMES, 1, body))
    _, into = wire.join()
    link.rejoin(into)
    link.mark(Far(wire.pipe), 2)
    assert isinstance(arrival, KnownArrival)
    link.finish(arrival)
    link.settle(arrival.epoch, arrival.place)
    link.tell()
    assert [message.type for message in wire.pipe.back] == [lane.Type.MARK_BACK]
    assert wire.page.words[Edge.DONE] == 1


class Double(Node):
    deterministic = True

    def process(self, frame: Data) -> int:
        return 2 * int(frame.value)


def test_nothing_is_begun_with_before_all_edges_are_there() -> None:
    """A producer that lives is quick: what is made from its frames would be lost where no output is joined yet."""
    loop = ReviveLoop(Invoker(Double()), ["out"], page(), NodeMemory(lambda message: None), is_source=False)
    feed, out = fast_pair(), fast_pair()
    feeding = FastLane(feed[0])
    taking = FastLane(out[1])
    loop.add_input(messages.Input(0, "in", TOKEN, 2, page=0), page(), None, feed[1].detach())
    feeding.send(lane.Message(lane.Type.MARK, 1, TOKEN))
    body = join_frames([encode_frame(Header(Kind.DATA, 0), msgpack.packb(21)), encode_frame(Header(Kind.EOS, 1))])
    feeding.send(lane.Message(lane.Type.FRAMES, 1, body))
    loop.reactor.call_later(
        0.05,
        lambda: loop.add_output(
            messages.Output(1, "out", TOKEN, "reliable", 2, "", page=0, resends=True),
            page(),
            out[0].detach(),
            lambda: None,
        ),
    )
    loop.reactor.call_later(0.1, loop.go)
    runs = threading.Thread(target=loop.run, daemon=True)
    runs.start()
    got: list[int] = []
    link = KnownInput(messages.Input(1, "in", TOKEN, 2, page=0), page(), {}, [])
    waiting = select.poll()
    waiting.register(out[1].fileno(), select.POLLIN)
    ended = False
    while not ended and waiting.poll(5000):
        message = taking.receive()
        if message is None:
            continue
        if message.type == lane.Type.MARK:
            link.mark(taking, message.number)
            continue
        for arrival in link.receive(message):
            got += [int(arrival.frame.value)] if isinstance(arrival.frame, Data) else []
            ended = arrival.header.kind == Kind.EOS
            link.settle(1, arrival.place)
            link.tell()
    runs.join(5)
    loop.close()
    feeding.close()
    taking.close()
    assert got == [42]
