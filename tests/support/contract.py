"""The lanes of one machine, and a run over one of them whose account is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from rmbus import Pipeline, Report, Session
from rmbus.report import EdgeReport

LIMIT_S: Final = 40.0


@attrs.frozen
class LaneCase:
    """How frames go, and what the report says where large ones do."""

    fast: bool
    shared: bool
    told: str

    def __str__(self) -> str:
        return f"{'fast' if self.fast else 'ipc'}-{'shared' if self.shared else 'inline'}"


LANES: Final = [
    LaneCase(True, True, "fast, shared memory"),
    LaneCase(True, False, "fast, inline (shared=False)"),
    LaneCase(False, True, "ipc (fast=False), shared memory"),
    LaneCase(False, False, "ipc (fast=False), inline (shared=False)"),
]

every_lane: Final = pytest.mark.parametrize("lane", LANES, ids=str)


def run(pipeline: Pipeline, lane: LaneCase, *, watch: Callable[[Session], object] = lambda session: None) -> Report:
    """Run a pipeline to its end; `watch` may look on. Every frame is accounted for, or this fails."""
    with Session(pipeline, fast=lane.fast, shared=lane.shared) as session:
        watch(session)
        report = session.wait(LIMIT_S)
    for edge in report.edges:
        assert edge.in_flight == 0, edge
        assert edge.published == edge.delivered + sum(edge.dropped.values()), edge
    return report


def edge_of(report: Report, name: str) -> EdgeReport:
    """Return the edge of that name: `producer.port -> consumer.port`."""
    (edge,) = [edge for edge in report.edges if edge.name == name]
    return edge


def note(path: Path) -> dict[str, Any]:
    """Return what a `Take` has written down, without a flaw."""
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["flaws"] == []
    return found


def numbers(path: Path) -> list[int]:
    """Return the numbers of the frames that a `Take` was given."""
    return [number for number, _ in note(path)["seen"]]
