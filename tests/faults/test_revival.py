"""Whatever node is killed and started anew: its neighbours wait, and of deterministic nodes every frame comes once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reviving import AsyncCopies, Copies, Doomed, Live, Merge, Numbers, Unsure, Written

from rmbus import NodeError, Session, reliable
from rmbus.errors import HostError, PipelineError
from rmbus.report import EdgeReport, Report

pytestmark = pytest.mark.timeout(120)  # real processes, killed and started anew

SHAPES = {"small": (2, 2, 3), "large": (1080, 1920, 3)}
COUNTS = {"small": 4000, "large": 150}


def lines(path: Path) -> list[int]:
    """Return the numbers that the sink was given; each picture bore one number at both its ends."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")  # the last line may be on its way
    pairs = [line.split() for line in whole.splitlines()]
    assert all(first == last for first, last in pairs)
    return [int(first) for first, _ in pairs]


def until(holds: Callable[[], bool], session: Session, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, str(session.report())
        with contextlib.suppress(TimeoutError):
            session.wait(0.01)


def state(session: Session, name: str) -> str:
    return next(node.state for node in session.report().nodes if node.name == name)


def kill(session: Session, name: str) -> None:
    """Kill a node's process, and wait until the session knows."""
    pid = next(node.pid for node in session.report().nodes if node.name == name)
    with contextlib.suppress(ProcessLookupError):  # it was quicker, and has ended
        os.kill(pid, signal.SIGKILL)
    until(lambda: state(session, name) in ("lost", "ended"), session)


def revive(session: Session, name: str) -> None:
    if state(session, name) == "lost":
        session.revive_node(name)


def edge(report: Report, name: str) -> EdgeReport:
    return next(each for each in report.edges if each.name.startswith(name))


def closes(report: Report) -> None:
    for each in report.edges:
        assert each.in_flight == 0, str(report)
        assert "stopped" not in each.dropped, str(report)


def both(n: int) -> list[int]:
    return [sign * number for number in range(n) for sign in (1, -1)]


POINTS = (0.0, 0.3, 0.8)
"""How much of all frames has come when a node is killed."""


def broken(
    path: Path,
    size: str,
    deaths: list[str],
    *,
    middle: type[Copies | AsyncCopies] = Copies,
    source: type[Numbers] = Numbers,
    **how: Any,
) -> Report:
    """Run source, middle and sink, and kill the nodes that are named at each of the points."""
    n = COUNTS[size]
    pipeline = (
        source(n, SHAPES[size]).options(name="source")
        >> middle().options(name="middle")
        >> Written(path).options(name="sink")
    )
    with Session(pipeline, revives=True, **how) as session:
        for point in POINTS:
            until(lambda: len(lines(path)) > 2 * n * point, session)  # noqa: B023 -- called within the round
            for name in deaths:
                kill(session, name)
            for name in deaths:
                revive(session, name)
        return session.wait(90)


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_sink_that_dies_is_sent_again_what_it_owed(size: str, tmp_path: Path) -> None:
    """In order, without a hole; what it had begun with comes twice, and is counted."""
    report = broken(tmp_path / "got", size, ["sink"])
    got = lines(tmp_path / "got")
    once = list(dict.fromkeys(position for position in got if position))
    assert once == [number for number in both(COUNTS[size]) if number]
    last = edge(report, "middle")
    assert len(got) - 2 * COUNTS[size] <= last.duplicates <= 2 * len(POINTS)
    assert last.published == 2 * COUNTS[size]
    assert last.delivered == last.published + last.duplicates - last.dropped.get("repeated", 0)
    closes(report)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("fast", [True, False])
def test_what_a_middle_node_makes_once_more_is_dropped(size: str, fast: bool, tmp_path: Path) -> None:
    """The sink sees every number once and in order; what had come already is counted as repeated."""
    report = broken(tmp_path / "got", size, ["middle"], fast=fast)
    assert lines(tmp_path / "got") == both(COUNTS[size])
    last = edge(report, "middle")
    assert (last.published, last.delivered) == (2 * COUNTS[size], 2 * COUNTS[size])
    assert last.dropped == ({"repeated": last.duplicates} if last.duplicates else {})
    assert edge(report, "source").published == COUNTS[size]
    closes(report)


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_middle_node_that_is_async(size: str, tmp_path: Path) -> None:
    """It is started anew like any other, and so are those beside it."""
    report = broken(tmp_path / "got", size, ["middle", "source"], middle=AsyncCopies)
    assert lines(tmp_path / "got") == both(COUNTS[size])
    closes(report)


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_deterministic_source_that_dies(size: str, tmp_path: Path) -> None:
    """It begins again, and the sink sees every number once and in order."""
    report = broken(tmp_path / "got", size, ["source"])
    assert lines(tmp_path / "got") == both(COUNTS[size])
    first = edge(report, "source")
    assert (first.published, first.delivered) == (COUNTS[size], COUNTS[size])
    assert first.dropped == ({"repeated": first.duplicates} if first.duplicates else {})  # it may have died in between
    closes(report)


def test_what_was_lent_on_outlives_its_owner(tmp_path: Path) -> None:
    """What lies in the memory of a source that has died, and waits behind the node that sent it on, is read."""
    path, n = tmp_path / "got", 40
    source = Numbers(n, SHAPES["large"]).options(name="source")
    pipeline = source >> Copies().options(name="middle") >> Written(path, every_s=0.1).options(name="sink")
    with Session(pipeline, revives=True) as session:
        until(lambda: len(lines(path)) > 4, session)
        kill(session, "source")
        revive(session, "source")
        closes(session.wait(60))
    assert lines(path) == both(n)


@pytest.mark.parametrize("deaths", [["source", "middle"], ["middle", "source"], ["source", "middle", "sink"]])
def test_several_die_at_once(deaths: list[str], tmp_path: Path) -> None:
    """Whatever of them is started anew first: nothing is missing, and nothing comes twice but to a sink that died."""
    report = broken(tmp_path / "got", "small", deaths)
    got = lines(tmp_path / "got")
    wanted = both(COUNTS["small"])
    if "sink" in deaths:
        got, wanted = list(dict.fromkeys(got)), list(dict.fromkeys(wanted))
    assert got == wanted
    closes(report)


def test_a_source_that_is_not_deterministic(tmp_path: Path) -> None:
    """It begins again, with further numbers; what only the dead one had is dropped as that."""
    report = broken(tmp_path / "got", "small", ["source"], source=Live)
    first = edge(report, "source")
    assert set(first.dropped) <= {"producer_died"}
    assert first.published == first.delivered + sum(first.dropped.values())
    assert first.delivered > COUNTS["small"]
    closes(report)


def test_a_middle_node_that_is_not_deterministic(tmp_path: Path) -> None:
    """Every number comes at least once; those that come once more are counted."""
    report = broken(tmp_path / "got", "small", ["middle"], middle=Unsure)
    got = lines(tmp_path / "got")
    assert list(dict.fromkeys(got)) == list(dict.fromkeys(both(COUNTS["small"])))
    last = edge(report, "middle")
    assert len(got) == last.delivered == last.published + last.duplicates
    assert last.dropped == {}
    closes(report)


def test_a_node_with_two_inputs(tmp_path: Path) -> None:
    """What comes by one edge stays in order and whole, however the two were mixed before and after the death."""
    n, path = COUNTS["small"] // 2, tmp_path / "got"
    merge = Merge().options(name="merge")
    left, right = (Numbers(n + 1, SHAPES["small"]).options(name=name) for name in ("left", "right"))
    pipeline = (left >> merge.left) | (right >> merge.right) | (merge >> Written(path).options(name="sink"))
    with Session(pipeline, revives=True) as session:
        for point in POINTS:
            until(lambda: len(lines(path)) > 2 * n * point, session)  # noqa: B023 -- called within the round
            kill(session, "merge")
            revive(session, "merge")
        report = session.wait(90)
    got = lines(path)
    assert [number for number in got if number > 0] == list(range(1, n + 1))
    assert [-number for number in got if number < 0] == list(range(1, n + 1))
    assert got.count(0) == 2
    closes(report)


def test_neighbours_of_a_dead_node_wait(tmp_path: Path) -> None:
    """A source fills its mailbox and no more, for as long as it takes; the report says who is lost."""
    path = tmp_path / "got"
    pipeline = Numbers(500, SHAPES["small"]).options(name="source") >> Written(path).options(name="sink")
    with Session(pipeline, revives=True) as session:
        until(lambda: len(lines(path)) > 10, session)
        kill(session, "sink")
        time.sleep(4.0)  # longer than nothing may move in a pipeline that lives
        session.check()
        report = session.report()
        assert state(session, "sink") == "lost"
        only = report.edges[0]
        window = reliable(8).n + 2 * 128
        assert only.published - only.delivered <= window
        revive(session, "sink")
        closes(session.wait(60))
    assert list(dict.fromkeys(lines(path))) == list(range(500))


def test_who_cannot_be_started_anew(tmp_path: Path) -> None:
    """A node that lives, and one of a session that did not ask for it."""
    path = tmp_path / "got"
    pipeline = Numbers(10**6, SHAPES["small"]).options(name="source") >> Written(path).options(name="sink")
    with Session(pipeline, revives=True) as session:
        with pytest.raises(HostError, match="it is ready"):
            session.revive_node("sink")
        session.kill()
    with Session(pipeline) as session:
        os.kill(session.report().nodes[1].pid, signal.SIGKILL)
        with pytest.raises(NodeError, match="SIGKILL"):
            session.wait(20)
        with pytest.raises(HostError, match="revives=True"):
            session.revive_node("sink")


def test_who_dies_before_all_is_up_ends_the_start() -> None:
    """Nobody could start it anew yet, since there is no session to ask."""
    pipeline = Numbers(3, SHAPES["small"]) >> Doomed().options(name="doomed") >> Copies()
    with pytest.raises(NodeError, match="SIGKILL"):
        Session(pipeline, revives=True)


def test_a_circle_is_refused() -> None:
    """What is made from a frame would wait for that frame."""
    merge, back = Merge().options(name="merge"), Copies().options(name="back")
    back.independent = True
    circle = (Numbers(3, SHAPES["small"]) >> merge.left) | (merge >> back) | (back >> merge.right)
    with pytest.raises(PipelineError, match="circle"):
        Session(circle, revives=True)
