"""Survivors of a kill, of a fork and of exhausted descriptors, each in a case of its own that once went wrong."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from breakable import Keeper, Painter, Passer
from breaking import INSIDE, SENT, Fault
from census import census, settles
from hatchery import Hatchling, Order
from painting import differs, frame_of
from rounds import ASIDE, CONSUMER, MIDDLE, PRODUCER, Round, chain, settle_accounts
from stage import Stage, seen, under_way, wait_for
from watch import ended

from rmbus import NodeError, Pipeline
from rmbus.errors import Closed
from rmbus.protocol import lane
from rmbus.session import Session
from rmbus.transport.lanes import FastLane, fast_pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]  # real processes

ENOUGH = 60
"""Pictures: more than fit into the memory that their producer has at first."""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


def painter(topic: str, fault: Fault | None = None) -> Order:
    return Order("painter", {"stream": 1, "every_s": 0.001}, outputs={"out": topic}, fault=fault)


def keeper(topic: str, fault: Fault | None = None, **given: float) -> Order:
    return Order("keeper", given, inputs={"video": topic}, fault=fault)


def check_ended(hatched: Hatchling) -> None:
    assert hatched.outcome(10.0) == ""
    assert hatched.ask("look")["bad"] == []
    assert settle_accounts([hatched]) == []


def test_both_ends_of_an_edge_die_at_once(stage: Stage) -> None:
    """The host, which hears of both deaths in one moment, and everybody else go on."""
    reader = stage.hatch(keeper("made/one"))
    other = stage.hatch(keeper("made/*"))
    source = stage.hatch(painter("made/one"))
    assert wait_for(lambda: seen(reader) > 5 and seen(other) > 5)
    os.kill(stage.host, signal.SIGSTOP)
    try:
        for each in (source, reader):
            each.signal(signal.SIGKILL)
            assert each.dies(5.0)
    finally:
        os.kill(stage.host, signal.SIGCONT)
    again = stage.hatch(painter("made/two"))
    before = seen(other)
    assert wait_for(lambda: seen(other) > before + ENOUGH)
    again.ask("finish")
    check_ended(again)
    assert settle_accounts([other]) == []


def test_what_a_dead_producer_has_sent_is_still_taken(stage: Stage) -> None:
    """Its frames lie in memory of its own, its lane is cut, and its reader is slow: it gets them all, then the end."""
    reader = stage.hatch(keeper("made/one", every_s=0.3))
    source = stage.hatch(painter("made/one", Fault(SENT, 3)))
    assert source.dies(10.0)
    check_ended(reader)
    (account,) = reader.ask("accounts")["accounts"]
    assert account["delivered"] == account["sent"] > 1
    assert account["shared"] > 0


def test_a_lane_that_was_reset_gives_what_is_in_it() -> None:
    """An end has died with something unread: the kernel tells that before what it has sent; nothing is lost by it."""
    here, there = map(FastLane, fast_pair())
    for number in (1, 2):
        there.send(lane.Message(lane.Type.FRAMES, number, b"body"))
    here.send(lane.Message(lane.Type.CREDIT, 1, lane.pack_grant(1)))
    there.close()
    received = [here.receive(), here.receive()]
    assert [message and message.number for message in received] == [1, 2]
    with pytest.raises(Closed):
        here.receive()
    here.close()


@pytest.mark.parametrize("forker", [ASIDE, CONSUMER, MIDDLE])
def test_a_forked_child_gives_nothing_back(stage: Stage, forker: str) -> None:
    """It lets go of what it has inherited, and outlives its parent: nobody's pictures are written over by that."""
    plan = Round(MIDDLE, Fault(INSIDE, 30), number=1, forker=forker, forks_at=12)
    assert chain(stage, plan) == []


def test_frames_of_one_host_are_fed_to_another() -> None:
    """Segments are numbered by each host: a number that both know names two of them."""
    first = Pipeline([Passer()]).process((frame_of(1, number) for number in range(ENOUGH)), on="local")
    second = Pipeline([Passer()]).process(first, on="local")
    seen_pictures = [differs(frame.array, frame.pts) for frame in second]  # type: ignore[union-attr]  # pictures all
    assert seen_pictures == [""] * ENOUGH


def test_a_publisher_outlives_its_readers(stage: Stage) -> None:
    """Twenty readers come, hold views, and are killed or leave: the publisher and the host have no more than before."""
    source = stage.hatch(painter("made/one"))
    stage.hatched.clear()
    try:
        first = stage.hatch(keeper("made/one"))
        assert wait_for(lambda: seen(first) > ENOUGH)
        first.signal(signal.SIGKILL)
        stage.close_all()
        assert settles(lambda: unread(source), 10.0) == ""
        stage.rebase()
        base = census(source.pid).descriptors
        for number in range(20):
            reader = stage.hatch(keeper("made/one"))
            assert wait_for(lambda reader=reader: seen(reader) > 20)  # type: ignore[misc]
            if number % 2:
                reader.signal(signal.SIGKILL)
                assert reader.dies(5.0)
            stage.close_all()
        assert settles(lambda: unread(source), 10.0) == ""
        assert unlike_segments(census(source.pid).descriptors - base) == ""
        assert settles(lambda: unlike_segments(census(stage.host).descriptors - stage.base.descriptors), 10.0) == ""
    finally:
        source.close()


def unlike_segments(more: Counter[str]) -> str:
    """Say what descriptors there are more of but those of segments, of which a publisher keeps the last."""
    return ", ".join(kind for kind in more if "rmbus-segment" not in kind)


def unread(source: Hatchling) -> str:
    """Say what a publisher that nobody reads has still of edges, "" where it has nothing but one segment."""
    over = source.ask("forget")["over"]
    assert [account for account in over if under_way(account)] == []
    now = census(source.pid)
    return "" if len(now.pages) == 1 and len(now.segments) <= 1 else str(now)


def forgetting(hatched: Hatchling) -> int:
    """Let one forget the frames that it has, and the pages of edges that are over by now; return its pid."""
    hatched.ask("forget")
    return hatched.pid


def has_segments(pid: int, more_than: int) -> bool:
    return len(census(pid).segments) > more_than


def test_a_reader_that_was_stopped_lets_go_of_what_is_over(stage: Stage) -> None:
    """It maps memory long after its producer has gone on without it, and has ended: it must not keep that."""
    other = stage.hatch(keeper("made/*"))
    reader = stage.hatch(keeper("made/*"))
    warm = stage.hatch(painter("made/warm"))
    assert wait_for(lambda: seen(other) > ENOUGH and seen(reader) > ENOUGH)
    warm.ask("finish")
    check_ended(warm)
    for each in (other, reader):
        assert settles(lambda each=each: str(census(forgetting(each)).segments or ""), 10.0) == ""  # type: ignore[misc]
    base = census(reader.pid)
    reader.signal(signal.SIGSTOP)
    try:
        source = stage.hatch(painter("made/one"))
        assert wait_for(lambda: seen(other) > ENOUGH)  # after the time that the stopped one is given
        source.signal(signal.SIGKILL)
        assert source.dies(5.0)
        assert settles(lambda: "" if not has_segments(stage.host, 0) else "segments", 10.0) == ""
    finally:
        reader.signal(signal.SIGCONT)
    assert wait_for(lambda: has_segments(reader.pid, 0))  # for a moment, in which frames might still come
    assert settles(lambda: census(forgetting(reader)).beyond(base), 10.0) == ""


def test_whoever_is_refused_leaves_nothing(stage: Stage) -> None:
    """A topic that is taken: the second publisher is told, and the host keeps no folder for it."""
    source = stage.hatch(painter("made/one"))
    reader = stage.hatch(keeper("made/one"))
    assert wait_for(lambda: seen(reader) > 5)
    folder = os.path.dirname(stage.connection.local.removeprefix("ipc://"))
    before = sorted(os.listdir(folder))
    second = stage.hatch(painter("made/one"))
    assert "published already" in str(second.outcome(10.0))
    second.close()
    assert settles(lambda: "" if sorted(os.listdir(folder)) == before else str(os.listdir(folder)), 5.0) == ""
    source.ask("finish")
    check_ended(source)


@pytest.mark.parametrize("role", [CONSUMER, PRODUCER])
def test_descriptors_run_out(stage: Stage, role: str) -> None:
    """However few there are, the link works, in its memory or past it, or fails with an error that names it."""
    watcher = stage.hatch(keeper("made/*"))
    stage.hatched.clear()
    outcomes: list[str] = []
    told: list[str] = []
    for spare in range(24):
        topic = f"made/{spare}"
        orders = {CONSUMER: keeper(topic), PRODUCER: painter(topic)}
        given = orders[role]
        orders[role] = Order(given.kind, given.given, inputs=given.inputs, outputs=given.outputs, spare_files=spare)
        cast = {name: stage.hatch(order) for name, order in orders.items()}
        poor, reader = cast[role], cast[CONSUMER]
        assert wait_for(lambda: has_failed(poor) or seen(reader) > ENOUGH), spare  # noqa: B023 - called at once
        assert not poor.is_dead, spare
        if has_failed(poor):
            text = str(poor.outcome(1.0))
            assert "files" in text, text
            outcomes.append("failed")
            told.append(text)
        else:
            outcomes.append("flows")
        if not has_failed(cast[PRODUCER]):
            cast[PRODUCER].ask("finish")
            check_ended(cast[PRODUCER])
        assert settle_accounts([watcher]) == []
        watcher.ask("forget")
        stage.close_all()
    watcher.close()
    assert outcomes == sorted(outcomes), outcomes  # from a number on it works, and with more it works as well
    assert {"failed", "flows"} == set(outcomes)
    port = "input 'video'" if role == CONSUMER else "output 'out'"
    assert sum(port in text and "cannot be linked" in text for text in told) >= 3, told


def has_failed(hatched: Hatchling) -> bool:
    return bool(hatched.outcome(0.001))


@pytest.mark.parametrize("name", ["head", "middle", "tail"])
def test_processes_of_a_host_of_its_own(name: str) -> None:
    """The same holds for nodes that the host itself has started: no torn picture, and the session tells of the kill."""
    lines: list[str] = []
    fault = (SENT if name == "head" else INSIDE, 25)
    made = {
        "head": Painter(1, every_s=0.001, fault=fault if name == "head" else None),
        "middle": Passer(fault=fault if name == "middle" else None),
        "tail": Keeper(fault=fault if name == "tail" else None),
        "aside": Keeper(keeps=24),
    }
    head, middle, tail, aside = (node.options(name=role) for role, node in made.items())
    session = Session(
        (head >> middle >> tail) | (head >> aside), on_log=lambda node, host, said, more: lines.extend(said)
    )
    try:
        assert ended(session.report().node(name).pid, time.monotonic() + 10)
        goal = session.report().node("aside").frames_in + (ENOUGH if name != "head" else 0)
        assert wait_for(lambda: session.report().node("aside").frames_in >= goal)
        with pytest.raises(NodeError) as caught:
            session.wait(10)
    finally:
        session.kill()
    assert caught.value.node == name
    assert "SIGKILL" in str(caught.value)
    assert [line for line in lines if "torn" in line] == []
