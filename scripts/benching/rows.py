"""What a campaign gave, one row for each system in each case: medians over the rounds."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np

from benching.campaign import Results
from benching.workloads import Case


@attrs.frozen
class Row:
    """A system in a case. None where a figure does not apply, or there is none.

    Attributes:
        system, workload, size_bytes, rate_hz: which; rate_hz is 0 where the source sends as fast as it can.
        p50_us: the median of the rounds' medians. p99_us: over the messages of all rounds.
        per_s: messages a second that reached the slowest awake reader.
        cpu_s: processor time of all processes in the window. rss_bytes: their memory, shared pages counted once.
        lost: messages that did not arrive, in all rounds together: a median would hide them.
    """

    system: str
    workload: str
    size_bytes: int
    rate_hz: int
    p50_us: float | None = None
    p99_us: float | None = None
    per_s: float | None = None
    cpu_s: float | None = None
    rss_bytes: int | None = None
    lost: int | None = None


def row_of(results: Results, system: str, case: Case) -> Row:
    """Return the row of a system in a case; one without figures where it has failed."""
    row = Row(system, case.workload, case.size, case.rate_hz)
    outcomes = list(results.of(system, case).values())
    if not outcomes:
        return row
    if case.has_latency:
        medians = [float(np.median(outcome.latency_ns)) for outcome in outcomes]
        samples = np.concatenate([outcome.latency_ns for outcome in outcomes])
        row = attrs.evolve(row, p50_us=float(np.median(medians)) / 1e3, p99_us=float(np.percentile(samples, 99)) / 1e3)
    return attrs.evolve(
        row,
        per_s=float(np.median([outcome.per_s for outcome in outcomes])),
        cpu_s=float(np.median([outcome.cpu_s for outcome in outcomes])),
        rss_bytes=int(np.median([outcome.rss_bytes for outcome in outcomes])),
        lost=sum(outcome.lost for outcome in outcomes),
    )


def rows_of(results: Results) -> tuple[Row, ...]:
    """Return a row for each system in each case that it was to take part in."""
    return tuple(row_of(results, system, case) for case, systems in results.planned.items() for system in systems)


def cpu_s_per_gb(results: Results, system: str, case: Case) -> float | None:
    """Return the processor time for a gigabyte that arrived in the window, at all readers; None without figures."""
    costs = [
        outcome.cpu_s / (outcome.messages * case.size * case.readers / 1e9)
        for outcome in results.of(system, case).values()
        if outcome.messages
    ]
    return float(np.median(costs)) if costs else None


def to_json(rows: tuple[Row, ...]) -> str:
    """Return rows as JSON."""
    return json.dumps([attrs.asdict(row) for row in rows], indent=1)


def write_json(path: Path, rows: tuple[Row, ...]) -> None:
    """Write rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(rows) + "\n", encoding="utf-8")
