"""The lanes of one machine, and a run over one of them whose account is checked."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
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


@contextmanager
def own_run_folder(patch: pytest.MonkeyPatch, folder: Path) -> Generator[Path]:
    """Let the hosts of a test be found by nobody else, nor anybody else's by it; they leave nothing in their folder."""
    runs = Path(tempfile.mkdtemp(prefix="rmbus-test-", dir="/tmp"))  # the path of a socket must be short
    patch.setenv("XDG_RUNTIME_DIR", str(runs))
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    yield runs
    left = [str(path) for path in runs.rglob("*")]
    shutil.rmtree(runs)
    assert not left, f"files of the run are left: {left}"
