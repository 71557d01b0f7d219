"""The edges of a host: what both ends are told, how an edge stands, and what its ends hear of each other's end."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest
from hosting import FakeReactor, Process, edge_between, open_descriptors

from rmbus.errors import HostError
from rmbus.host.edges import HostedEdge, Wiring
from rmbus.host.hosted import HostedSession
from rmbus.protocol import messages
from rmbus.protocol.limits import FIRST_TOPIC_EDGE
from rmbus.protocol.messages import Bridge, Gone, Grow, Input, Join, Mapped, Output, Usable
from rmbus.transport.counters import Edge, Page
from rmbus.transport.memory import PAGE_BYTES


class Wired:
    """The wiring of a host, with processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wiring = Wiring(FakeReactor().real, 1 << 20)
        self.processes: list[Process] = []
        self.edges: list[HostedEdge] = []

    def process(self, session: str = "s") -> Process:
        folder = self.folder / f"n{len(self.processes)}"
        folder.mkdir()
        self.processes.append(Process(session, folder))
        return self.processes[-1]

    def join(self, producer: Process, consumer: Process, /, **link: object) -> HostedEdge:
        made = edge_between(producer, consumer, len(self.edges), **link)
        made.close()
        self.edges.append(self.wiring.join(made.link, producer.endpoint, consumer.endpoint))
        return self.edges[-1]

    def close(self) -> None:
        self.wiring.memory.close()
        for edge in self.edges:
            edge.close()
        for process in self.processes:
            process.worker.close()
            process.endpoint.remove()


@pytest.fixture
def wired(tmp_path: Path) -> Generator[Wired]:
    before = open_descriptors()
    made = Wired(tmp_path)
    yield made
    made.close()
    assert not open_descriptors() - before


# --- how an edge stands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "shared", "sent", "problem", "standing"),
    [
        ({}, 0, 0, "", "fast, shared memory"),
        ({}, 5, 5, "", "fast, shared memory"),
        ({}, 1, 900, "", "fast, shared memory"),
        ({}, 0, 5, "", "fast, inline (small frames)"),
        ({"shared": False}, 0, 5, "", "fast, inline (shared=False)"),
        ({"fast": False}, 5, 5, "", "ipc (fast=False), shared memory"),
        ({"fast": False}, 0, 5, "", "ipc (fast=False), inline (small frames)"),
        ({"fast": False, "shared": False}, 0, 5, "", "ipc (fast=False), inline (shared=False)"),
        ({}, 0, 5, "its consumer did not map memory in time", "fast, inline (its consumer did not map memory in time)"),
        ({"producer": -1}, 0, 5, "", "tcp, inline (two hosts)"),
        ({"consumer": -1, "fast": False}, 0, 5, "", "tcp, inline (two hosts)"),
    ],
)
def test_an_edge_says_where_it_stands_and_why(
    link: dict[str, object], shared: int, sent: int, problem: str, standing: str
) -> None:
    """In words, for the report: what moves the frames, and why not by shared memory."""
    edge = edge_between(Process(), Process(), **link)
    try:
        edge.page.words[Edge.SHARED] = shared
        edge.page.words[Edge.SENT] = sent
        edge.problem = problem
        assert edge.standing == standing
        assert edge.report()["lane"] == standing
        assert edge.shares is ("tcp" not in standing and link.get("shared", True) and not problem)
    finally:
        edge.close()


def test_an_account_is_what_the_page_says() -> None:
    """Every word that a report needs, reasons and latencies without those that count nothing."""
    edge = edge_between(Process(), Process(), 3)
    try:
        words = {Edge.PUBLISHED: 9, Edge.BYTES: 900, Edge.DELIVERED: 6, Edge.SHARED: 5, Edge.PINNED: 1}
        words |= {Edge.DUPLICATES: 2, Edge.BLOCKED_SINCE: 77, Edge.BEGAN: 88, Edge.SENT: 8}
        for word, value in words.items():
            edge.page.words[word] = value
        edge.page.drop("overflow", 2)
        edge.page.drop("interrupted", 1, by_consumer=True)
        edge.page.latency(1 << 20)
        assert edge.report() == {
            "edge": 3,
            "producer": 0,
            "consumer": 1,
            "published": 9,
            "bytes": 900,
            "delivered": 6,
            "shared": 5,
            "pinned": 1,
            "duplicates": 2,
            "blocked_since": 77,
            "began": 88,
            "dropped": {"overflow": 2, "interrupted": 1},
            "latency": {160: 1},
            "lane": "fast, shared memory",
            "met": False,
        }
    finally:
        edge.close()


@pytest.mark.parametrize(
    ("delivered", "told"),
    [(7, {"overflow": 1, "consumer_died": 2}), (8, {"overflow": 1, "consumer_died": 1}), (9, {"overflow": 1})],
)
def test_a_frame_is_not_lost_and_delivered(delivered: int, told: dict[str, int]) -> None:
    """A consumer that is told of as dead begins with what its producer has given up: that was not lost."""
    edge = edge_between(Process(), Process())
    try:
        edge.page.words[Edge.PUBLISHED] = 10
        edge.page.drop("overflow")
        edge.page.drop("consumer_died", 2)
        edge.page.words[Edge.DELIVERED] = delivered
        assert edge.report()["dropped"] == told
    finally:
        edge.close()


# --- what its ends are told -------------------------------------------------------------------------------------------


def test_both_ends_of_a_fast_lane_are_one_pair(wired: Wired) -> None:
    """The consumer hears of it first; both have the edge's page, and the ends of one lane."""
    producer, consumer = wired.process(), wired.process()
    edge = wired.join(producer, consumer, delivery="latest", n=1, credit=5)
    (said,), (told,) = consumer.told(Input), producer.told(Output)
    assert said == Input(0, "in", edge.link.token, credit=5, page=0, lane=1)
    assert told == Output(0, "out", edge.link.token, "latest", 1, path="", page=0, lane=1)
    pages = [Page(process.given(kind)[0]) for process, kind in ((consumer, Input), (producer, Output))]
    pages[1].words[Edge.PUBLISHED] = 3
    assert pages[0].words[Edge.PUBLISHED] == edge.page.words[Edge.PUBLISHED] == 3
    with socket.socket(fileno=os.dup(producer.given(Output)[1])) as one:
        one.send(b"by the lane")
    with socket.socket(fileno=os.dup(consumer.given(Input)[1])) as other:
        assert other.recv(100) == b"by the lane"
    assert not os.get_inheritable(producer.given(Output)[1])
    for page in pages:
        page.close()


def test_a_lane_by_socket_has_a_door(wired: Wired) -> None:
    """The first edge brings the consumer its listening socket; the producer gets a name of it in its own folder."""
    producer, consumer = wired.process(), wired.process()
    first, second = (wired.join(producer, consumer, fast=False, shared=False) for _ in range(2))
    one, other = consumer.told(Input)
    assert (one.lane, one.listener, one.path) == (-1, 1, str(consumer.endpoint.inbox))
    assert (other.lane, other.listener) == (-1, -1)
    with socket.socket(fileno=os.dup(consumer.given(Input)[1])) as listener:
        assert listener.getsockname() == str(consumer.endpoint.inbox)
    paths = [told.path for told in producer.told(Output)]
    assert paths == [str(first.door), str(second.door)]
    assert all(Path(path).parent == producer.endpoint.folder for path in paths)
    assert all(told.lane == -1 and not told.shared for told in producer.told(Output))
    assert all(os.path.samefile(path, consumer.endpoint.inbox) for path in paths)
    wired.wiring.leave(wired.edges.pop())
    assert not Path(paths[1]).exists()


def test_an_edge_to_another_host_goes_by_the_gateway(wired: Wired) -> None:
    """The gateway is told of it, and neither end is offered a lane or memory that ends at this machine."""
    node, gateway = wired.process(), wired.process("")
    wired.join(node, gateway, consumer=-1, peer="tcp://192.0.2.7:1", dial=True)
    (bridge,) = gateway.told(Bridge)
    assert (bridge.link.peer, bridge.path) == ("tcp://192.0.2.7:1", str(gateway.endpoint.inbox))
    assert (node.told(Output)[0].lane, node.told(Output)[0].shared) == (-1, False)
    wired.join(gateway, node, producer=-1)
    assert Path(gateway.told(Bridge)[1].path).parent == gateway.endpoint.folder
    assert node.told(Input)[0].lane == -1


def test_a_new_edge_gets_the_memory_that_is_there(wired: Wired) -> None:
    """Whoever joins an output later sees its segments."""
    producer, consumer = wired.process(), wired.process()
    wired.wiring.memory.heard(producer.endpoint, Grow("out", 4, PAGE_BYTES))
    number = producer.told(messages.Segment)[0].segment
    wired.wiring.memory.heard(producer.endpoint, Mapped(number))
    wired.join(producer, consumer)
    assert [attach.segment for attach in consumer.told(messages.Attach)] == [number]
    kinds = [type(message) for message, _ in consumer.worker.heard]
    assert kinds == [Input, messages.Attach]
    wired.wiring.memory.heard(consumer.endpoint, Mapped(number))
    assert producer.told(Usable)[-1] == Usable("out", number, [0])


def test_a_subscription_is_an_edge(wired: Wired) -> None:
    """With a number beyond those of sessions, a token of its own, and the delivery that the subscriber asked for."""
    publisher, subscribers = wired.process(), [wired.process("") for _ in range(2)]
    wish = Join("meter", inputs={"level": "a/*"}, delivery="latest", n=1, last=True)
    edges = [
        wired.wiring.subscribe(publisher.endpoint, "out", each.endpoint, "level", "a/b", wish) for each in subscribers
    ]
    wired.edges += edges
    assert [edge.link.edge for edge in edges] == [FIRST_TOPIC_EDGE, FIRST_TOPIC_EDGE + 1]
    assert len({edge.link.token for edge in edges}) == 2
    (said,), told = subscribers[0].told(Input), publisher.told(Output)
    assert (said.port, said.topic, said.lane) == ("level", "a/b", 1)
    assert [(each.port, each.delivery, each.n, each.last) for each in told] == [("out", "latest", 1, True)] * 2
    assert len([*wired.wiring.readers(publisher.endpoint, "out")]) == 2
    assert all(edge.standing == "fast, shared memory" for edge in edges)


def test_the_numbers_of_topics_are_not_a_clients(wired: Wired) -> None:
    """An edge that took one would be forgotten with either end, and then once more with its session."""
    session = HostedSession("s", lambda message: None, wired.wiring)
    link = messages.Link("s", FIRST_TOPIC_EDGE, bytes(16), -1, "out", -1, "in")
    with pytest.raises(HostError, match="below 1073741824"):
        session.link(link, wired.process("").endpoint)


# --- ends -------------------------------------------------------------------------------------------------------------


def chain(wired: Wired) -> list[Process]:
    line = [wired.process() for _ in range(3)]
    wired.join(line[0], line[1])
    wired.join(line[1], line[2])
    return line


@pytest.mark.parametrize(("died", "reason"), [(True, "consumer_died"), (False, "consumer_ended")])
def test_the_other_ends_hear_of_an_end(wired: Wired, died: bool, reason: str) -> None:
    """The producer, whether it was in order; the consumer, that nothing more comes. Nobody else hears of it."""
    first, second, third = chain(wired)
    wired.wiring.ended(second.endpoint, died=died)
    assert first.told(Gone) == [Gone(0, reason)]
    assert third.told(Gone) == [Gone(1, "producer_died")]
    assert second.told(Gone) == []


def test_the_account_of_a_sessions_edge_outlives_its_ends(wired: Wired) -> None:
    """The session's report tells of it until the session is over."""
    _, second, _ = chain(wired)
    wired.wiring.ended(second.endpoint, died=True)
    assert [edge.report()["published"] for edge in wired.edges] == [0, 0]


def test_an_edge_from_a_topic_goes_with_either_end(wired: Wired) -> None:
    """It is of no session, so nobody would ever ask for its account."""
    publisher, one, other = wired.process(), wired.process(""), wired.process("")
    wish = Join("x", inputs={"in": "a/b"})
    for each in (one, other):
        wired.wiring.subscribe(publisher.endpoint, "out", each.endpoint, "in", "a/b", wish)
    wired.wiring.ended(one.endpoint, died=True)
    assert publisher.told(Gone) == [Gone(FIRST_TOPIC_EDGE, "consumer_died")]
    assert [edge.consumer for edge in wired.wiring.readers(publisher.endpoint, "out")] == [other.endpoint]
    wired.wiring.ended(publisher.endpoint, died=False)
    assert other.told(Gone) == [Gone(FIRST_TOPIC_EDGE + 1, "producer_died")]
    assert one.told(Gone) == []
    assert not list(wired.wiring.readers(publisher.endpoint, "out"))


def test_a_gateway_hears_nothing_of_the_ends_of_nodes(wired: Wired) -> None:
    """What an end leaves to the other machine is for the host there to tell."""
    node, gateway = wired.process(), wired.process("")
    wired.join(node, gateway, consumer=-1)
    wired.join(gateway, node, producer=-1)
    wired.wiring.ended(node.endpoint, died=True)
    assert gateway.told(Gone) == []


def test_memory_goes_with_its_process(wired: Wired) -> None:
    """Readers are told to let go of it."""
    first, second, _ = chain(wired)
    wired.wiring.memory.heard(first.endpoint, Grow("out", 4, PAGE_BYTES))
    number = first.told(messages.Segment)[0].segment
    wired.wiring.memory.heard(first.endpoint, Mapped(number))
    wired.wiring.ended(first.endpoint, died=True)
    assert second.told(messages.Detach) == [messages.Detach(number)]
    assert wired.wiring.memory.size_bytes == 0


# --- another process for one that has died ----------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
def test_an_edge_that_outlives_an_end_is_joined_anew(wired: Wired, fast: bool) -> None:
    """Nobody hears of the death; both ends are told the next epoch, and the consumer how many producers it has had."""
    first, second, third = (wired.process() for _ in range(3))
    wired.join(first, second, resends=True, fast=fast)
    wired.join(second, third, resends=True, fast=fast)
    wired.wiring.died(second.endpoint)
    assert [first.told(Gone), third.told(Gone)] == [[], []]
    new = wired.process()
    wired.wiring.rejoin(second.endpoint, new.endpoint)
    assert [(said.edge, said.epoch, said.resends) for said in first.told(Output)] == [(0, 1, True), (0, 2, True)]
    assert [(said.edge, said.epoch, said.life) for said in third.told(Input)] == [(1, 1, 1), (1, 2, 2)]
    assert [(said.edge, said.epoch, said.life) for said in new.told(Input)] == [(0, 2, 1)]
    assert [(said.edge, said.epoch) for said in new.told(Output)] == [(1, 2)]
    assert {said.token for said in first.told(Output)} == {said.token for said in new.told(Input)}
    assert ([*first.endpoint.folder.glob("*.sock")] != []) is not fast
    assert next(wired.wiring.readers(first.endpoint, "out")).consumer is new.endpoint


def test_an_edge_that_does_not_outlive_an_end_goes_with_it(wired: Wired) -> None:
    """A topic's, and one that was not asked to: the other end is told at once, and is not joined again."""
    publisher, subscriber, other = wired.process(), wired.process(""), wired.process()
    wish = Join("meter", inputs={"level": "a/b"}, delivery="latest", n=1)
    wired.wiring.subscribe(publisher.endpoint, "out", subscriber.endpoint, "level", "a/b", wish)
    wired.join(publisher, other)
    wired.wiring.died(publisher.endpoint)
    assert [said.reason for said in (*subscriber.told(Gone), *other.told(Gone))] == ["producer_died"] * 2
    new = wired.process()
    wired.wiring.rejoin(publisher.endpoint, new.endpoint)
    assert new.told(Output) == []


def test_the_memory_of_one_that_has_died_goes_when_another_follows(wired: Wired) -> None:
    """And not before: its consumer still takes what it had sent. The next one has what others had lent to it."""
    first, second, third = (wired.process() for _ in range(3))
    wired.join(first, second, resends=True)
    wired.join(second, third, resends=True)
    memory = wired.wiring.memory
    numbers: list[int] = []
    for process, reader in ((first, second), (second, third)):
        memory.heard(process.endpoint, Grow("out", 4, PAGE_BYTES))
        numbers.append(process.told(messages.Segment)[0].segment)
        memory.heard(process.endpoint, Mapped(numbers[-1]))
        memory.heard(reader.endpoint, Mapped(numbers[-1]))
    wired.wiring.died(second.endpoint)
    assert third.told(messages.Detach) == []
    new = wired.process()
    wired.wiring.rejoin(second.endpoint, new.endpoint)
    kinds = [type(message) for message, _ in third.worker.heard]
    assert kinds == [Input, messages.Attach, Input, messages.Detach]
    assert third.told(messages.Detach)[0].segment == numbers[1]
    assert [said.segment for said in new.told(messages.Attach)] == [numbers[0]]
