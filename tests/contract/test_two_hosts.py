"""The contract of delivery between two hosts, by their gateways: a part of what holds on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import LANES, edge_of, note, numbers, own_run_folder, run
from kinds import KINDS
from steps import Relay, Steps, Take

from rmbus import drop_oldest, latest, reliable
from rmbus.cli.daemon import Daemon

pytestmark = pytest.mark.timeout(120)  # real processes on two hosts

TCP = LANES[3]
"""Without the fast lane two hosts do not meet."""


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Daemon]:
    with own_run_folder(monkeypatch, tmp_path), Daemon("other") as daemon:
        yield daemon


def test_every_frame_arrives_as_it_was(other: Daemon, tmp_path: Path) -> None:
    """There and back, whatever its kind and size; what the node there gives at the end comes last."""
    count = 3 * len(KINDS)
    source = Steps([(KINDS[number % len(KINDS)], number) for number in range(count)])
    relay = Relay(("forward", "copy", "stamp", "loan"), last=count).options(on=other.address)
    report = run(source >> relay >> Take(tmp_path / "note", [*KINDS * 3, "small"], keeps=True), TCP)
    assert numbers(tmp_path / "note") == [*range(count + 1)]
    assert [edge.lane for edge in report.edges] == ["tcp, inline (two hosts: fast=False)"] * 2
    assert report.dropped == {}


def test_what_drops_drops_the_oldest_and_harms_nobody_else(other: Daemon, tmp_path: Path) -> None:
    """Two readers across the network stand still until a third has had all; then they are given the newest alone."""
    count, all_seen = 200, tmp_path / "all"
    source, relay = Steps([("small", number) for number in range(count)]), Relay().options(on=other.address)
    first = Take(tmp_path / "first", waits={0: all_seen}).options(name="first")
    second = Take(tmp_path / "second", waits={0: all_seen}).options(name="second")
    third = Take(tmp_path / "third", marks={count - 1: all_seen}).options(name="third")
    pipeline = relay["out"].to(first, delivery=latest) | relay["out"].to(second, delivery=drop_oldest(5))
    report = run(source >> relay | pipeline | relay["out"].to(third, delivery=reliable(8)), TCP)
    assert note(tmp_path / "first")["seen"] == [[n, n] for n in (0, 1, count - 1)]
    assert note(tmp_path / "second")["seen"] == [[n, n] for n in (0, 1, *range(count - 5, count))]
    assert numbers(tmp_path / "third") == [*range(count)]
    assert edge_of(report, "relay.out -> first.frames").dropped == {"overflow": count - 3}
    assert edge_of(report, "relay.out -> second.frames").dropped == {"overflow": count - 7}


def test_a_new_turn_takes_away_the_old_one_and_nothing_else(other: Daemon, tmp_path: Path) -> None:
    """By the network it comes when it comes; whatever is dropped for it is counted, and of the new turn all arrive."""
    begun, sent = tmp_path / "begun", tmp_path / "sent"
    old, new = [("small", n) for n in range(40)], [("small", n) for n in range(100, 130)]
    source = Steps([*old, ("wait", begun), "interrupt", *new, ("mark", sent)])
    relay, end = Relay().options(on=other.address), Take(tmp_path / "note", marks={0: begun}, waits={0: sent})
    pipeline = source["out"].to(relay, delivery=reliable(80)) | relay["out"].to(end, delivery=reliable(80))
    report = run(pipeline, TCP)
    lost = [edge.dropped.get("interrupted", 0) for edge in report.edges]
    sent_on = report.edges[1].published - 30
    assert sent_on in (40 - lost[0], 39 - lost[0])  # the relay may have had one in hand, and have stopped with it
    assert numbers(tmp_path / "note") == [*range(sent_on - lost[1]), *range(100, 130)]
    assert note(tmp_path / "note")["told"] == ["interrupted", "frames ended", "flush"]
