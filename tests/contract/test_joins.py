"""Branches that meet again: no shape of them stands still for ever, and what cannot go on is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract import LANES, LaneCase, edge_of, note, numbers, run
from steps import Few, Join, Pairs, Relay, Slowly, Steps, Take
from streams import Count, Echo, Spark

from rmbus import Session, drop_oldest, latest, reliable
from rmbus.delivery import Delivery
from rmbus.errors import Stalled
from rmbus.session import STALL_S

pytestmark = pytest.mark.timeout(120)  # real processes

two_lanes = pytest.mark.parametrize("lane", [LANES[0], LANES[3]], ids=str)


def small(*span: int) -> list[tuple[str, int]]:
    return [("small", number) for number in range(*span)]


@two_lanes
@pytest.mark.parametrize("n", [1, 6])
def test_a_diamond_with_little_room(lane: LaneCase, n: int, tmp_path: Path) -> None:
    """Every edge holds few frames and loses none: all of them arrive, by both branches."""
    source, left, right, join = Steps(small(150)), Relay().options(name="l"), Relay().options(name="r"), Join()
    pipeline = source["out"].to(left, delivery=reliable(n)) | source["out"].to(right, delivery=reliable(n))
    pipeline = pipeline | left["out"].to(join.left, delivery=reliable(n))
    pipeline = pipeline | right["out"].to(join.right, delivery=reliable(n))
    report = run(pipeline | join["out"].to(Take(tmp_path / "note"), delivery=reliable(n)), lane)
    assert sorted(numbers(tmp_path / "note")) == sorted([*range(150)] * 2)
    assert report.dropped == {}


@two_lanes
def test_a_branch_that_passes_little_on(lane: LaneCase, tmp_path: Path) -> None:
    """The join waits for pairs; one branch gives one frame in ten, and the join holds the others back."""
    source, few, pairs = Steps(small(200)), Few(10), Pairs()
    pipeline = source["out"].to(pairs.left, delivery=reliable(1)) | source["out"].to(few, delivery=reliable(1))
    pipeline = pipeline | few["out"].to(pairs.right, delivery=reliable(1))
    report = run(pipeline | pairs["out"].to(Take(tmp_path / "note"), delivery=reliable(1)), lane)
    assert numbers(tmp_path / "note") == [*range(0, 200, 10)]
    assert report.dropped == {}


@pytest.mark.parametrize("delivery", [latest, drop_oldest(2)], ids=str)
def test_a_branch_that_drops_most(delivery: Delivery, tmp_path: Path) -> None:
    """It is slow, and its edge drops; the join waits for pairs, and gets those that there are. The other loses none."""
    lane = LANES[0]
    source, slow, pairs = Steps(small(150), every_s=0.001), Slowly(0.03), Pairs()
    pipeline = source["out"].to(pairs.left, delivery=reliable(1)) | source["out"].to(slow, delivery=delivery)
    pipeline = pipeline | slow["out"].to(pairs.right, delivery=reliable(1))
    report = run(pipeline | pairs["out"].to(Take(tmp_path / "note"), delivery=reliable(1)), lane)
    lossy = edge_of(report, "steps.out -> slowly.in")
    assert len(numbers(tmp_path / "note")) == lossy.delivered == 150 - lossy.dropped["overflow"]
    assert lossy.dropped["overflow"] > 30
    assert edge_of(report, "steps.out -> pairs.left").delivered == 150


@two_lanes
def test_a_branch_that_ends_early(lane: LaneCase, tmp_path: Path) -> None:
    """The join goes on with what the other gives; it is told of each end when it comes, and flushed when both have."""
    short, long = Steps(small(1000, 1005)).options(name="short"), Steps(small(200)).options(name="long")
    end = Take(tmp_path / "note")
    pipeline = short["out"].to(end, delivery=reliable(1)) | long >> Relay() >> end
    run(pipeline, lane)
    got = numbers(tmp_path / "note")
    assert [number for number in got if number < 1000] == [*range(200)]
    assert [number for number in got if number >= 1000] == [*range(1000, 1005)]
    assert note(tmp_path / "note")["told"] == ["frames ended", "flush"]


def test_a_ring_that_fills_itself_up_is_told() -> None:
    """However little room its edges have, it ends with the names of those that are full."""
    spark, echo, one = Spark(), Echo(), reliable(1)
    pipeline = Count(1)["out"].to(spark.start, delivery=one) | spark["out"].to(echo.back, delivery=one)
    with Session(pipeline | echo.out.to(spark.ring, delivery=one)) as session, pytest.raises(Stalled) as caught:
        session.wait(30)
    assert any("spark.out -> echo.back: full" in edge for edge in caught.value.edges)
    assert any("echo.out -> spark.ring: full" in edge for edge in caught.value.edges)


def test_a_node_that_takes_long_is_not_taken_for_a_stall(tmp_path: Path) -> None:
    """Nothing moves for longer than it takes to tell a stall, and all others wait; but it is at work."""
    slow = Slowly(first_s=1.5 * STALL_S)
    report = run(Steps(small(12))["out"].to(slow, delivery=reliable(1)) | slow >> Take(tmp_path / "note"), LANES[0])
    assert numbers(tmp_path / "note") == [*range(12)]
    assert report.seconds > 1.5 * STALL_S
