"""The end of an edge that is at another host, and memory that goes from host to host."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence

import attrs
import pytest

from rmbus.errors import Broken, MalformedFrame
from rmbus.host.edges import HostedEdge
from rmbus.host.endpoints import End
from rmbus.host.memory import Memory
from rmbus.host.peers import FarEnd
from rmbus.protocol import messages
from rmbus.transport.umbilical import close_all

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | 0x10  # with F_SEAL_FUTURE_WRITE
LINK = messages.Link("session", 3, bytes(16), -1, "out", 1, "in", meet=True)


@attrs.define(eq=False)
class Ear:
    """Keeps what it is told, instead of a process."""

    session: str = "session"
    heard: list[messages.Message] = attrs.field(factory=list[messages.Message])

    @property
    def worker(self) -> Ear:
        return self

    def send(self, message: messages.Message, descriptors: Sequence[int] = ()) -> None:
        close_all(descriptors)
        self.heard.append(message)

    def may_lend_on(self, owner: End) -> bool:
        return self.session == owner.session

    def take(self) -> list[messages.Message]:
        heard, self.heard = self.heard, []
        return heard


@attrs.define(eq=False)
class Line:
    """Keeps what it is told, instead of the connection to another host."""

    ends: dict[int, FarEnd] = attrs.field(factory=dict[int, FarEnd])
    heard: list[messages.Message] = attrs.field(factory=list[messages.Message])

    def send(self, message: messages.Message, number: int, descriptors: Sequence[int] = ()) -> None:
        assert number in self.ends
        close_all(descriptors)
        self.heard.append(message)

    def take(self) -> list[messages.Message]:
        heard, self.heard = self.heard, []
        return heard


class Never:
    """A reactor whose timers never run out."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> None:
        return


class Place:
    """A host's memory with its edges."""

    def __init__(self) -> None:
        self.edges: list[HostedEdge] = []
        self.memory = Memory(Never(), self._readers)  # type: ignore[arg-type]

    def edge(self, producer: End, consumer: End, number: int = 3, out: str = "out") -> HostedEdge:
        """Join two ends; the session knows those at other hosts by -1."""
        link = attrs.evolve(
            LINK,
            edge=number,
            out=out,
            producer=-1 if isinstance(producer, FarEnd) else 0,
            consumer=-1 if isinstance(consumer, FarEnd) else 1,
        )
        edge = HostedEdge(link, producer, consumer)
        for end in (producer, consumer):
            if isinstance(end, FarEnd):
                end.edge = edge
        self.edges.append(edge)
        return edge

    def _readers(self, end: End, port: str) -> Iterator[HostedEdge]:
        return (edge for edge in self.edges if edge.producer is end and edge.link.out == port)

    def close(self) -> None:
        self.memory.close()
        for edge in self.edges:
            edge.close()


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(made, 4096)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, SEALS)
    yield made
    os.close(made)


def far(peer: Line, number: int = 2, session: str = "session") -> FarEnd:
    """Return an end at another host."""
    made = FarEnd(session)
    made.attach(peer, number)  # type: ignore[arg-type]
    return made


def lend(place: Place, producer: FarEnd, descriptor: int, number: int = 7) -> None:
    producer.asked(number)
    place.memory.lent(producer, producer.edge.link.out, messages.Attach(number, 4096), descriptor)


def test_words_of_an_edge(place: Place) -> None:
    """It is told what a process would be told, under the number of the edge, until the edge has lost an end."""
    peer, end = Line(), far(Line())
    end.detach()
    end.attach(peer, 5)  # type: ignore[arg-type]
    place.edge(Ear(), end)
    end.send(messages.Detach(9))
    end.send(messages.Gone(3, "producer_died"))
    end.send(messages.Detach(10))
    end.send(messages.Gone(3, "producer_died"))
    assert peer.take() == [messages.Detach(9), messages.Gone(3, "producer_died")]
    with pytest.raises(MalformedFrame, match="is taken"):
        FarEnd("session").attach(peer, 5)  # type: ignore[arg-type]


def test_whose_memory_it_may_see() -> None:
    """That of its own session; what belongs to none may see nothing of others."""
    assert FarEnd("session").may_lend_on(Ear("session"))
    assert not FarEnd("session").may_lend_on(Ear("another"))
    assert not FarEnd("").may_lend_on(Ear(""))


def test_nobody_is_told_before_somebody_has_come(place: Place) -> None:
    """And the descriptors are closed."""
    end = FarEnd("session")
    place.edge(end, Ear())
    reading, writing = os.pipe()
    end.send(messages.Attach(1, 1), [writing])
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_memory_from_another_host_is_handed_on_and_answered_once(place: Place, descriptor: int) -> None:
    """Its consumer gets it; the word that it is mapped goes back, and again only when it is asked for again."""
    peer, node = Line(), Ear()
    end = far(peer)
    place.edge(end, node)
    lend(place, end, descriptor)
    assert node.take() == [messages.Attach(7, 4096)]
    assert peer.take() == []
    place.memory.heard(node, messages.Mapped(7))
    place.memory.heard(node, messages.Mapped(7))
    assert peer.take() == [messages.Mapped(7)]
    lend(place, end, descriptor)
    assert (node.take(), peer.take()) == ([], [messages.Mapped(7)])
    place.memory.withdrawn(end, 7)
    assert node.take() == [messages.Detach(7)]


def test_a_consumer_that_cannot_map_is_told(place: Place, descriptor: int) -> None:
    """The other host hears why."""
    peer, node = Line(), Ear()
    end = far(peer)
    place.edge(end, node)
    lend(place, end, descriptor)
    place.memory.heard(node, messages.Mapped(7, "no room"))
    assert peer.take() == [messages.Mapped(7, "its consumer cannot map memory: no room")]


def test_memory_that_comes_back_is_known(place: Place) -> None:
    """What a process here lends to another host, and that sends on to a process here: one segment, and no echo."""
    there, owner, last = Line(), Ear(), Ear()
    out, back = far(there, 2), far(there, 3)
    place.edge(owner, out, 1)
    place.edge(back, last, 2)
    place.memory.heard(owner, messages.Grow("out", 1, 4096))
    (segment,) = owner.take()
    assert isinstance(segment, messages.Segment)
    number = segment.segment
    place.memory.heard(owner, messages.Mapped(number))
    assert there.take() == [messages.Attach(number, 4096)]
    place.memory.heard(out, messages.Mapped(number))
    assert owner.take() == [messages.Usable("out", number, [1])]
    mine = place.memory._segments[number].descriptor
    lend(place, back, mine, number)
    assert last.take() == [messages.Attach(number, 4096)]
    place.memory.heard(last, messages.Mapped(number))
    assert there.take() == [messages.Mapped(number)]
    place.memory.heard(out, messages.Mapped(number))  # the other host says it once more, and is not answered
    assert there.take() == []
    place.memory.withdrawn(back, number)
    assert number in place.memory._segments
    assert last.take() == []
    lend(place, back, mine, number)
    there.take()
    place.memory.heard(owner, messages.Retire(number))  # and of that nobody is told as of a failure
    assert there.take() == [messages.Detach(number)]


def test_memory_stays_with_whoever_lends_it_on(place: Place, descriptor: int) -> None:
    """Its producer at another host is gone, and a process here still lends it on."""
    peer, middle, last = Line(), Ear(), Ear()
    end = far(peer)
    place.edge(end, middle, 1)
    place.edge(middle, last, 2, out="on")
    lend(place, end, descriptor)
    place.memory.heard(middle, messages.Mapped(7))
    place.memory.heard(middle, messages.Share("on", 7))
    place.memory.heard(last, messages.Mapped(7))
    assert messages.Usable("on", 7, [2]) in middle.take()
    place.memory.ended(end)
    assert last.take() == [messages.Attach(7, 4096)]
    place.memory.ended(middle)
    assert last.take() == [messages.Detach(7)]


def test_memory_of_another_session_is_not_handed_out(place: Place, descriptor: int) -> None:
    """A host that passes on what it has of one session by an edge of another is refused."""
    peer, node, stranger = Line(), Ear(), Ear("another")
    end, foreign = far(peer, 2), far(peer, 3, "another")
    place.edge(end, node, 1)
    place.edge(foreign, stranger, 2)
    lend(place, end, descriptor)
    with pytest.raises(Broken, match="may not read it"):
        lend(place, foreign, descriptor)
    place.memory.heard(node, messages.Mapped(7))
    assert stranger.take() == []
    assert peer.take() == [messages.Mapped(7)]


@pytest.mark.parametrize(("number", "size"), [(0, 4096), (7, 4095), (7, 8192)])
def test_memory_that_is_not_as_it_is_told(place: Place, descriptor: int, number: int, size: int) -> None:
    """It is not taken in."""
    end = far(Line())
    place.edge(end, Ear())
    with pytest.raises(Broken, match="memory that nobody can change"):
        place.memory.lent(end, "out", messages.Attach(number, size), descriptor)


def test_numbers_are_those_of_a_machine(place: Place) -> None:
    """Those of two hosts do not meet: they are drawn at random, from 1 up."""
    owner = Ear()
    for _ in range(20):
        place.memory.heard(owner, messages.Grow("out", 1, 4096))
    numbers = [message.segment for message in owner.take() if isinstance(message, messages.Segment)]
    assert len(set(numbers)) == 20
    assert max(numbers) > 1000
