"""The contract of delivery, on every lane of one machine: what it is that moves the frames makes no difference."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from contract import LaneCase, edge_of, every_lane, note, numbers, run
from kinds import KINDS
from steps import Awaits, Join, Late, Relay, Steps, Take

from rmbus import Session, drop_oldest, latest, reliable
from rmbus.runtime.links import LEASE_QUOTA

pytestmark = pytest.mark.timeout(120)  # real processes

WINDOW = 2
"""Frames under way on an edge that drops, and on a reliable one that is small."""


def small(*span: int) -> list[tuple[str, int]]:
    """Return the steps that send small frames of these numbers."""
    return [("small", number) for number in range(*span)]


@every_lane
def test_every_frame_arrives_as_it_was(lane: LaneCase, tmp_path: Path) -> None:
    """In order, whatever its kind and size, though both change from frame to frame; through nodes that send on, too.

    One output feeds many edges. What the nodes give when their inputs end comes behind everything else.
    """
    count = 5 * len(KINDS)
    source = Steps([(KINDS[number % len(KINDS)], number) for number in range(count)])
    relay = Relay(("forward", "copy", "stamp", "loan"), last=count)
    behind = Take(tmp_path / "behind", [*KINDS * 5, "small"], keeps=True).options(name="behind")
    pipeline = source >> relay >> Awaits() >> behind
    for n in range(4):
        end = Take(tmp_path / f"end{n}", KINDS, keeps=n % 2 == 0).options(name=f"end{n}")
        pipeline = pipeline | source["out"].to(end, delivery=reliable(1 + 3 * n))
    report = run(pipeline, lane)
    for n in range(4):
        assert note(tmp_path / f"end{n}")["seen"] == [[number, number] for number in range(count)]
        assert note(tmp_path / f"end{n}")["told"] == ["frames ended", "flush"]
    assert numbers(tmp_path / "behind") == [*range(count + 1)]
    assert [edge.lane for edge in report.edges] == [lane.told] * 7
    assert report.dropped == {}
    assert all((edge.shared > 0) == lane.shared for edge in report.edges)


@every_lane
def test_a_slow_consumer_holds_its_producer_and_no_memory(lane: LaneCase, tmp_path: Path) -> None:
    """Of its frames, no more than the mailbox and the window hold are anywhere between the two."""
    count, most = 120, 0
    steps = [("large", number) for number in range(count)]
    end = Take(tmp_path / "note", ("large",), every_s=0.004)

    def watch(session: Session) -> None:
        nonlocal most
        while (edge := session.report().edges[0]).published < count:
            most = max(most, edge.in_flight)
            session.check()
            time.sleep(0.02)

    report = run(Steps(steps)["out"].to(end, delivery=reliable(4)), lane, watch=watch)
    assert numbers(tmp_path / "note") == [*range(count)]
    assert 1 <= most <= 4 + WINDOW
    assert report.edges[0].dropped == {}


@every_lane
def test_what_drops_drops_the_oldest_and_harms_nobody_else(lane: LaneCase, tmp_path: Path) -> None:
    """Two readers stand still from the first frame until a third has had all; then they are given the newest alone."""
    count, all_seen = 300, tmp_path / "all"
    kinds = ("small", "large", "large")
    source = Steps([(kinds[number % 3], number) for number in range(count)])
    first = Take(tmp_path / "first", kinds, waits={0: all_seen}).options(name="first")
    second = Take(tmp_path / "second", kinds, waits={0: all_seen}).options(name="second")
    third = Take(tmp_path / "third", kinds, marks={count - 1: all_seen}).options(name="third")
    pipeline = source["out"].to(first, delivery=latest) | source["out"].to(second, delivery=drop_oldest(5))
    report = run(pipeline | source["out"].to(third, delivery=reliable(8)), lane)
    assert note(tmp_path / "first")["seen"] == [[n, n] for n in (0, 1, count - 1)]
    assert note(tmp_path / "second")["seen"] == [[n, n] for n in (0, 1, *range(count - 5, count))]
    assert numbers(tmp_path / "third") == [*range(count)]
    assert [edge.dropped for edge in report.edges] == [{"overflow": count - 3}, {"overflow": count - 7}, {}]


@every_lane
def test_a_new_turn_takes_away_the_old_one_and_nothing_else(lane: LaneCase, tmp_path: Path) -> None:
    """Frames that wait, at the producer or the consumer, are dropped and counted; those of the new turn all arrive.

    On a fast lane the turn overtakes all that waits; by ZeroMQ's threads it comes when it comes.
    """
    begun, sent = [tmp_path / "begun 0", tmp_path / "begun 1"], [tmp_path / "sent 0", tmp_path / "sent 1"]
    waits = [("wait", mark) for mark in begun]
    source = Steps([*small(40), *waits, "interrupt", *small(100, 130), ("mark", sent[0])])
    relay = Relay(marks={129: sent[1]})
    ends = [Take(tmp_path / f"end{n}", marks={0: begun[n]}, waits={0: sent[n]}).options(name=f"end{n}") for n in (0, 1)]
    pipeline = source["out"].to(ends[0], delivery=reliable(80)) | source["out"].to(relay, delivery=reliable(80))
    report = run(pipeline | relay["out"].to(ends[1], delivery=reliable(80)), lane)
    lost = [edge.dropped.get("interrupted", 0) for edge in report.edges]
    sent_on = report.edges[2].published - 30
    assert sent_on in (40 - lost[1], 39 - lost[1])  # the relay may have had one in hand, and have stopped with it
    for n, old in enumerate([40 - lost[0], sent_on - lost[2]]):
        assert numbers(tmp_path / f"end{n}") == [*range(old), *range(100, 130)]
        assert note(tmp_path / f"end{n}")["told"] == ["interrupted", "frames ended", "flush"]
        assert old == 1 or not lane.fast


@every_lane
def test_a_turn_that_comes_by_two_ways_takes_nothing_of_itself(lane: LaneCase, tmp_path: Path) -> None:
    """Of a diamond one branch is late: the new turn has come by the other already, and waits before the last node."""
    marks = {name: tmp_path / name for name in ("stuck", "begun", "left has all", "right has come")}
    waits = [("wait", marks["stuck"]), ("wait", marks["begun"])]
    source = Steps([*small(1), *waits, "interrupt", *small(1, 21)])
    left = Relay().options(name="left")
    right = Late(tells=marks["stuck"], waits=marks["left has all"]).options(name="right")
    join = Join(marks={20: marks["left has all"], 1001: marks["right has come"]})
    end = Take(tmp_path / "note", marks={0: marks["begun"]}, waits={1: marks["right has come"]})
    pipeline = source["out"].to(left, delivery=reliable(64)) | source["out"].to(right, delivery=reliable(64))
    pipeline = pipeline | left >> join.left | right >> join.right
    report = run(pipeline | join["out"].to(end, delivery=reliable(64)), lane)
    got = numbers(tmp_path / "note")
    assert [number for number in got if number < 1000] == [*range(21)]
    assert [number for number in got if number > 1000] == [*range(1001, 1021)]
    assert report.dropped == {}
    assert note(tmp_path / "note")["told"] == ["interrupted", "frames ended", "flush"]


@every_lane
def test_inputs_do_not_wait_for_each_other(lane: LaneCase, tmp_path: Path) -> None:
    """Edges of two deliveries from one output, and one of a source that is silent until the others are through."""
    done = tmp_path / "done"
    source = Steps(small(200))
    silent = Steps([("wait", done), *small(500, 503)]).options(name="silent")
    one, two = Relay().options(name="one"), Relay().options(name="two")
    end = Take(tmp_path / "note", marks={199: done})
    pipeline = source["out"].to(one, delivery=reliable(1)) | source["out"].to(two, delivery=drop_oldest(1))
    report = run(pipeline | one >> end | two >> end | silent >> end, lane)
    got = numbers(tmp_path / "note")
    assert sorted(set(got)) == [*range(200), 500, 501, 502]
    assert note(tmp_path / "note")["told"] == ["frames ended", "flush"]
    lossy = edge_of(report, "steps.out -> two.in")
    assert len(got) == 203 + lossy.delivered


@every_lane
def test_one_output_feeds_two_inputs_of_one_node(lane: LaneCase, tmp_path: Path) -> None:
    """Each edge is delivered as it says, also where both end in one process that is slow."""
    source, join, end = Steps(small(100), every_s=0.001), Join(), Take(tmp_path / "note", every_s=0.002)
    pipeline = source["out"].to(join.left, delivery=reliable(1)) | source["out"].to(join.right, delivery=latest)
    report = run(pipeline | join["out"].to(end, delivery=reliable(1)), lane)
    got = numbers(tmp_path / "note")
    left, right = (edge_of(report, f"steps.out -> join.{port}") for port in ("left", "right"))
    assert (left.delivered, right.delivered + right.dropped.get("overflow", 0)) == (100, 100)
    assert len(got) == 100 + right.delivered
    assert sorted(set(got)) == [*range(100)]


@every_lane
def test_who_keeps_many_frames_has_them_as_they_were(lane: LaneCase, tmp_path: Path) -> None:
    """A consumer may hold so many frames in its producer's memory; what is beyond that it has copied, and counted."""
    count, window = 60, 4
    kinds = ("large", "many numbers", "large planar", "least apart")
    source = Steps([(kinds[number % 4], number) for number in range(count)])
    end = Take(tmp_path / "note", kinds, keeps=True)
    report = run(source["out"].to(end, delivery=reliable(2 * window)), lane)
    assert numbers(tmp_path / "note") == [*range(count)]
    (edge,) = report.edges
    assert (edge.shared, edge.pinned) == ((count, count - window - LEASE_QUOTA) if lane.shared else (0, 0))
