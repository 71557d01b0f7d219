"""The two ends of a topic in a script, with a stand-in for the host, and for whoever is at the other end of an edge."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmbus import formats
from rmbus.errors import Broken, Closed, HostError, NodeError
from rmbus.media import Data, Frame
from rmbus.node import Interrupt
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import Header, Kind, decode_frames, encode_frame, join_frames
from rmbus.runtime.inlet import Inlet
from rmbus.runtime.outlet import Outlet
from rmbus.transport import counters
from rmbus.transport.counters import Edge, Page
from rmbus.transport.lanes import FastLane, fast_pair
from rmbus.transport.umbilical import Umbilical

TOKEN = b"t" * 16


class Host:
    """The host's end of an umbilical, and of what it has made."""

    def __init__(self) -> None:
        self.umbilical, self.theirs = Umbilical.pair()
        self.lanes: list[FastLane] = []

    def edge(self, make: Callable[[], messages.Message], count: int = 2) -> tuple[Page, FastLane]:
        """Make an edge, hand its one end over, and return the other; with `count` that many descriptors come."""
        descriptor = counters.create()
        ours, theirs = fast_pair()
        given = [descriptor, theirs.fileno()]
        self.umbilical.send(make(), given[:count])
        theirs.close()
        page = Page(descriptor)
        os.close(descriptor)
        self.lanes.append(FastLane(ours))
        return page, self.lanes[-1]

    def heard(self) -> messages.Message:
        """Wait for the next message."""
        select.select([self.umbilical], [], [], 5)
        return self.umbilical.receive()[1]

    def close(self) -> None:
        """Leave."""
        self.umbilical.close()
        for each in self.lanes:
            each.close()


@pytest.fixture
def host() -> Generator[Host]:
    before = open_files()
    made = Host()
    yield made
    made.close()
    assert open_files() <= before  # what earlier tests had left may have gone meanwhile


def open_files() -> int:
    """Count descriptors, but for those of pages, which go with the last frame of them."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found += "memfd:rmbus-counters" not in os.readlink(descriptor)
    return found


def receive(end: FastLane) -> lane.Message:
    """Wait for a message on a lane."""
    assert isinstance(end.source, int)
    while True:
        message = end.receive()
        if message is not None:
            return message._replace(body=bytes(message.body))
        select.select([end.source], [], [], 5)


# --- whoever reads ---------------------------------------------------------------------------------------------------


class Writer:
    """A publisher, at the other end of a reader's edge."""

    def __init__(self, host: Host, edge: int = 1, topic: str = "cam") -> None:
        make = lambda: messages.Input(edge, "in", TOKEN, 2, page=0, lane=1, topic=topic)  # noqa: E731
        self.page, self.lane = host.edge(make)
        self.lane.send(lane.Message(lane.Type.MARK, 1, TOKEN))
        assert receive(self.lane).type == lane.Type.MARK_BACK  # nobody takes yet, and yet it is answered
        self.place = 0
        self.control(Kind.FORMAT, formats.to_wire(Any))

    def put(self, header: Header, payload: bytes = b"") -> None:
        self.place += 1
        body = join_frames([encode_frame(header, payload)])
        self.lane.send(lane.Message(lane.Type.FRAMES, self.place, body))

    def control(self, kind: Kind, extra: object = None, turn: int = 0) -> None:
        self.put(Header(kind, 0, turn, extra=extra))

    def data(self, value: int, turn: int = 0) -> None:
        self.page.words[Edge.PUBLISHED] += 1
        self.put(Header(Kind.DATA, value, turn), bytes([value]))  # a small number is its own msgpack


@pytest.fixture
def inlet(host: Host) -> Generator[Inlet]:
    opened = Inlet(Umbilical(host.theirs), "cam", "ipc://there")
    yield opened
    closing(host, opened.close)


@pytest.fixture
def every(host: Host) -> Generator[Inlet]:
    opened = Inlet(Umbilical(host.theirs), "**", "ipc://there")
    yield opened
    closing(host, opened.close)


def closing(host: Host, close: Callable[[], None]) -> None:
    """Close one end while the host hears it, and leaves in its turn."""
    if host.umbilical.fileno() < 0:
        close()
        return
    thread = threading.Thread(target=close)
    thread.start()
    try:
        while True:
            host.heard()
    except Closed:
        host.umbilical.close()
    thread.join()


def values(*frames: Frame | None) -> list[object]:
    return [frame.value if isinstance(frame, Data) else frame for frame in frames]


def taken(inlet: Inlet, count: int) -> list[object]:
    return values(*(inlet.take(wait=True) for _ in range(count)))


def test_frames_and_their_end(host: Host, inlet: Inlet) -> None:
    """They are taken in order; what comes after the end is nothing, again and again."""
    writer = Writer(host)
    writer.data(1)
    writer.data(2)
    writer.control(Kind.EOS)
    assert taken(inlet, 3) == [1, 2, None]
    assert inlet.is_over
    assert inlet.take(wait=True) is None
    # Each is acknowledged when the next is asked for, the format was the first; and so is the end, which is waited for.
    assert [receive(writer.lane).number for _ in range(3)] == [2, 3, 4]


def test_nothing_to_take(host: Host, inlet: Inlet) -> None:
    """Without waiting, None is returned at once; `wake` ends a wait, though nothing is over."""
    assert inlet.take(wait=False) is None
    threading.Timer(0.05, inlet.wake).start()
    assert inlet.take(wait=True) is None
    assert not inlet.is_over
    assert not select.select([inlet], [], [], 0)[0]
    Writer(host).data(7)
    frames: list[Frame | None] = []
    while not frames and select.select([inlet], [], [], 5)[0]:
        frames = [frame for frame in [inlet.take(wait=False)] if frame is not None]
    assert values(*frames) == [7]


def test_a_new_turn_drops_what_waits(host: Host, inlet: Inlet) -> None:
    """Frames of the old turn that have come are dropped and counted; the one in hand is kept."""
    writer = Writer(host)
    writer.data(1)
    assert taken(inlet, 1) == [1]
    body = join_frames([encode_frame(Header(Kind.DATA, seq), bytes([seq])) for seq in (2, 3)])
    writer.lane.send(lane.Message(lane.Type.FRAMES, writer.place + 1, body))
    writer.place += 2
    assert taken(inlet, 1) == [2]
    writer.control(Kind.INTERRUPT, turn=1)
    writer.data(4, turn=1)
    assert taken(inlet, 1) == [4]
    assert inlet.dropped == {"interrupted": 1}


def test_a_publisher_that_fails(host: Host, inlet: Inlet) -> None:
    """Its failure is raised as what it was, and again."""
    writer = Writer(host)
    writer.data(1)
    writer.control(Kind.ERROR, ["ValueError", "too dark"])
    assert taken(inlet, 1) == [1]
    for _ in range(2):
        with pytest.raises(NodeError, match=r"ValueError: too dark \(node 'publisher of cam'") as told:
            inlet.take(wait=True)
        assert isinstance(told.value, ValueError)


def test_one_of_several_that_fails(host: Host, every: Inlet) -> None:
    """A pattern goes on with the others."""
    first, second = Writer(host, 1, "cam/a"), Writer(host, 2, "cam/b")
    first.control(Kind.ERROR, ["ValueError", "too dark"])
    second.data(5)
    assert taken(every, 1) == [5]
    host.umbilical.send(messages.Gone(1, "producer_died"))
    host.umbilical.send(messages.Gone(2, "producer_died"))
    third = Writer(host, 3, "cam/c")
    third.data(6)
    assert taken(every, 1) == [6]
    assert not every.is_over


def test_what_a_dead_publisher_has_sent(host: Host, inlet: Inlet) -> None:
    """It is taken, though nothing was taken before it died; what it had not sent is lost, and counted."""
    writer = Writer(host)
    writer.data(1)
    writer.data(2)
    writer.page.words[Edge.PUBLISHED] += 5
    writer.page.drop("overflow", 2)
    writer.lane.close()
    host.umbilical.send(messages.Gone(1, "producer_died"))
    assert taken(inlet, 3) == [1, 2, None]
    assert inlet.is_over
    assert inlet.dropped == {"overflow": 2, "producer_died": 3}


def test_a_publisher_that_dies_before_it_has_shown_itself(host: Host, inlet: Inlet) -> None:
    """The topic has ended."""
    _, end = host.edge(lambda: messages.Input(1, "in", TOKEN, 2, page=0, lane=1, topic="cam"))
    end.close()
    host.umbilical.send(messages.Gone(1, "producer_died"))
    assert inlet.take(wait=True) is None
    assert inlet.is_over


def test_a_lane_that_breaks_the_protocol(host: Host, inlet: Inlet) -> None:
    """What had come is taken; then it is an error, and stays one."""
    writer = Writer(host)
    writer.data(1)
    writer.place += 1
    writer.data(2)
    assert taken(inlet, 1) == [1]
    for _ in range(2):
        with pytest.raises(Broken, match="received place 4 after 2"):
            inlet.take(wait=True)


def test_descriptors_that_did_not_come(host: Host, inlet: Inlet) -> None:
    """An edge that cannot be linked is an error that says so."""
    host.edge(lambda: messages.Input(3, "in", TOKEN, 2, page=0, lane=1, topic="cam"), count=1)
    with pytest.raises(Broken, match="edge 3 cannot be linked"):
        inlet.take(wait=True)
    host.umbilical.send(messages.Gone(3, "producer_died"))  # and that harms nobody
    with pytest.raises(Broken, match="edge 3 cannot be linked"):
        inlet.take(wait=True)


def test_a_host_that_ends(host: Host, inlet: Inlet) -> None:
    """What had come is taken; then it is an error."""
    Writer(host).data(1)
    host.umbilical.close()
    assert taken(inlet, 1) == [1]
    with pytest.raises(HostError, match="the subscription to cam has ended: the host at ipc://there has ended"):
        inlet.take(wait=True)


def test_what_was_not_taken_is_counted(host: Host, inlet: Inlet) -> None:
    """Whoever closes has left what had come, and is told of it as dropped."""
    writer = Writer(host)
    body = join_frames([encode_frame(Header(Kind.DATA, seq), bytes([seq])) for seq in (1, 2, 3)])
    writer.lane.send(lane.Message(lane.Type.FRAMES, writer.place + 1, body))
    assert taken(inlet, 1) == [1]
    closing(host, inlet.close)
    assert inlet.dropped == {"consumer_ended": 2}


# --- whoever publishes -----------------------------------------------------------------------------------------------


class Reader:
    """A reader, at the other end of a publisher's edge."""

    def __init__(self, host: Host, edge: int, *, last: bool = False) -> None:
        make = lambda: messages.Output(  # noqa: E731
            edge, "out", TOKEN, "drop_oldest", 10, "", page=0, lane=1, last=last
        )
        self.page, self.lane = host.edge(make)
        assert receive(self.lane).type == lane.Type.MARK

    def grant(self, count: int) -> None:
        self.lane.send(lane.Message(lane.Type.MARK_BACK, 1, lane.pack_grant(count)))

    def wait_up(self) -> None:
        """Wait until the publisher has taken the grant."""
        wait_until(lambda: self.page.words[Edge.LINKED])

    def values(self, count: int) -> list[object]:
        """Wait for so many data frames."""
        found: list[object] = []
        while len(found) < count:
            for entry in decode_frames(receive(self.lane).body):
                if entry.header.kind == Kind.DATA:
                    found.append(entry.payload[0] if isinstance(entry.payload, bytes) else entry.payload)
        return found


@pytest.fixture
def outlet(host: Host) -> Generator[Outlet]:
    descriptor = counters.create()
    opened = Outlet(Umbilical(host.theirs), Page(descriptor), "cam", Any, "ipc://there")
    os.close(descriptor)
    host.umbilical.send(messages.Go(""))
    opened.begin(5)
    yield opened
    closing(host, lambda: opened.close(0))


def test_a_host_that_does_not_let_it_begin(host: Host) -> None:
    """It is waited for, and not for ever."""
    descriptor = counters.create()
    opened = Outlet(Umbilical(host.theirs), Page(descriptor), "cam", Any, "ipc://there")
    os.close(descriptor)
    with pytest.raises(HostError, match="did not let cam begin"):
        opened.begin(0.05)
    closing(host, lambda: opened.close(0))
    with pytest.raises(Closed):
        opened.send(1)


def test_readers_have_what_is_sent(host: Host, outlet: Outlet) -> None:
    """Those who came before, and with `last` those who come later; a window that is closed holds nobody."""
    first = Reader(host, 1)
    first.grant(3)
    first.wait_up()
    for value in (1, 2, 3):
        outlet.send(value)
    assert first.values(3) == [1, 2, 3]
    late = Reader(host, 2, last=True)
    late.grant(2)
    assert late.values(1) == [3]
    outlet.send(4)
    assert late.values(1) == [4]
    first.lane.send(lane.Message(lane.Type.CREDIT, 4, lane.pack_grant(6)))
    assert first.values(1) == [4]


def wait_until(true: Callable[[], object]) -> None:
    """Wait for what another thread does; the test's own time limit bounds it."""
    while not true():
        threading.Event().wait(0.001)


def test_a_reader_that_breaks_the_protocol_harms_itself_alone(host: Host, outlet: Outlet) -> None:
    """It is left, and what it lost is counted; the other goes on."""
    good, bad = Reader(host, 1), Reader(host, 2)
    good.grant(5)
    bad.grant(1)
    wait_until(lambda: good.page.words[Edge.LINKED] and bad.page.words[Edge.LINKED])
    for value in (1, 2, 3):
        outlet.send(value)
    bad.lane.send(lane.Message(lane.Type.FRAMES, 1, b"what is no answer"))
    wait_until(bad.page.dropped)
    assert bad.page.dropped() == {"link_lost": 3}
    outlet.send(4)
    host.umbilical.send(messages.Gone(2, "consumer_died"))
    outlet.send(5)
    assert good.values(5) == [1, 2, 3, 4, 5]


def test_memory_is_waited_for_without_the_lock(host: Host, outlet: Outlet) -> None:
    """While one thread waits for the host's memory, credit is taken, and who must not wait is told so."""
    reader = Reader(host, 1)
    reader.grant(2)
    reader.wait_up()
    sender = threading.Thread(target=outlet.send, args=({"large": np.zeros(100_000, np.uint8)},))
    sender.start()
    assert isinstance(host.heard(), messages.Grow)
    late = Reader(host, 2)  # the order is obeyed meanwhile, and the reader's grant is taken
    late.grant(2)
    late.wait_up()
    assert sender.is_alive()
    assert outlet.send_at_once(1) is False
    host.umbilical.send(messages.Segment("out", 0, reason="there is none"))
    sender.join()
    assert outlet.send_at_once(1) is True
    for each in (reader, late):
        (size,) = each.values(1)
        assert isinstance(size, int)
        assert size > 100_000  # it went apart
        assert each.values(1) == [1]


def test_large_values_are_not_sent_at_once(outlet: Outlet) -> None:
    """What is large, or may be, is left to whoever may wait."""
    large: list[object] = [np.zeros(70_000, np.uint8), bytes(70_000), {"a": 1}, [1]]
    for value in large:
        assert outlet.send_at_once(value) is False
    small: list[object] = [np.zeros(7, np.uint8), b"", "word", None, True, 5, 1.5, Interrupt()]
    for value in small:
        assert outlet.send_at_once(value) is True


def test_nothing_is_a_value_too(host: Host, outlet: Outlet) -> None:
    """Of a node None means nothing; sent, it is the value None."""
    reader = Reader(host, 1)
    reader.grant(2)
    reader.wait_up()
    outlet.send(None)
    assert reader.values(1) == [0xC0]


def test_an_interrupted_send_ends_the_topic(outlet: Outlet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the frame has gone is not known: nothing may follow it."""
    port = outlet._port

    def interrupted(frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(port, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        outlet.send(1)
    monkeypatch.undo()
    with pytest.raises(HostError, match="the topic cam has ended: the last frame was interrupted on its way"):
        outlet.send(2)


def test_the_end_waits_for_readers_and_not_for_ever(host: Host, outlet: Outlet) -> None:
    """Whoever has processed all is not waited for any more; whoever stands still is left, and what waits is counted."""
    reader = Reader(host, 1)
    reader.grant(2)
    reader.wait_up()
    for value in range(5):
        outlet.send(value)
    closing(host, lambda: outlet.close(0.1))
    assert reader.page.dropped() == {"stopped": 3}
    assert reader.values(2) == [0, 1]
    with pytest.raises(Closed):
        receive(reader.lane)


def test_a_reader_that_cannot_be_served(host: Host, outlet: Outlet, capfd: pytest.CaptureFixture[str]) -> None:
    """Without its descriptors it is passed over, which is said."""
    host.edge(lambda: messages.Output(9, "out", TOKEN, "latest", 1, "", page=0, lane=1), count=1)
    host.umbilical.send(messages.Gone(9, "consumer_died"))
    good = Reader(host, 1)
    good.grant(2)
    good.wait_up()
    outlet.send(1)
    assert good.values(1) == [1]
    assert "topic cam has a reader that it cannot serve: edge 9 cannot be linked" in capfd.readouterr().err
