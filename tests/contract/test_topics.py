"""The contract of delivery for topics: an edge as any other, and yet nobody waits for those who read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import LANES, LaneCase, note, own_run_folder
from kinds import KINDS, PACKETS, flaw
from steps import Relay, Steps, Take

import rmbus
from rmbus import Session, drop_oldest, latest, reliable
from rmbus.topics import Subscription

pytestmark = pytest.mark.timeout(120)  # real processes

PLAIN = [kind for kind in KINDS if kind not in PACKETS]
COUNT = 10 * len(PLAIN)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    with own_run_folder(monkeypatch, tmp_path):
        yield tmp_path


def take(packets: Subscription, count: int) -> list[int]:
    """Take so many frames, each as it was sent; return their numbers."""
    seen: list[int] = []
    for _ in range(count):
        frame = next(packets)
        assert frame.pts is not None
        assert flaw(frame, PLAIN[frame.pts % len(PLAIN)]) == ""
        seen.append(frame.pts)
    return seen


@pytest.mark.parametrize("lane", [LANES[0], LANES[3]], ids=str)
def test_who_reads_a_nodes_output_harms_himself_alone(folder: Path, lane: LaneCase) -> None:
    """Three read outputs of a pipeline: one as fast as it can, one stands still, one leaves; the pipeline goes on."""
    go, done = folder / "go", folder / "done"
    steps = [(PLAIN[number % len(PLAIN)], number) for number in range(COUNT)]
    source, relay, end = (
        Steps([*steps[:1], ("wait", go), *steps[1:], ("wait", done)]),
        Relay(),
        Take(folder / "note", PLAIN),
    )
    pipeline = source["out"].to(relay, delivery=reliable(8)) | relay >> end
    with Session(pipeline, fast=lane.fast, shared=lane.shared) as session, rmbus.connect() as bus:
        everything = bus.subscribe("pipeline/steps/out", delivery=drop_oldest(COUNT), last=True)
        newest = bus.subscribe("pipeline/steps/out", delivery=latest, last=True)
        some = bus.subscribe("pipeline/relay/out", delivery=drop_oldest(3), last=True)
        assert [take(each, 1) for each in (everything, newest, some)] == [[0], [0], [0]]
        some.close()
        go.touch()
        assert take(everything, COUNT - 1) == [*range(1, COUNT)]
        assert take(newest, 2) == [1, COUNT - 1]
        assert (everything.dropped, newest.dropped) == ({}, {"overflow": COUNT - 3})
        done.touch()
        report = session.wait(30)
        assert list(everything) == list(newest) == []
    assert note(folder / "note")["seen"] == [[number, number] for number in range(COUNT)]
    assert report.dropped == {}


def test_a_new_turn_reaches_those_who_read(folder: Path) -> None:
    """What waits for them is dropped and counted; of the new turn they get all."""
    go, sent, done = folder / "go", folder / "sent", folder / "done"
    old, new = [("small", n) for n in range(1, 21)], [("small", n) for n in range(100, 110)]
    source = Steps([("small", 0), ("wait", go), *old, "interrupt", *new, ("mark", sent), ("wait", done)])
    with Session(source >> Take(folder / "note")) as session, rmbus.connect() as bus:
        packets = bus.subscribe("pipeline/steps/out", delivery=drop_oldest(64), last=True)
        first = next(packets).pts
        go.touch()
        while not sent.exists():
            session.check()
        seen = [next(packets).pts for _ in range(10)]
        dropped = packets.dropped
        done.touch()
        session.wait(30)
    assert (first, seen) == (0, [*range(100, 110)])
    assert dropped == {"interrupted": 20}
