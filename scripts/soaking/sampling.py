"""Samples of what processes have, taken at an interval, and the question whether it grows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
from census import census

from soaking.writing import table

WARM_UP: Final = 0.2
"""The share of the samples, at the beginning, that is not looked at: caches fill, pools find their size."""

_MIB: Final = 1 << 20


@attrs.frozen
class Sample:
    """What a process had at a moment: memory in bytes, and the numbers of the rest."""

    rss: int
    pss: int
    descriptors: int
    segments: int
    threads: int


TOLERANCE: Final[dict[str, tuple[float, int]]] = {
    "rss": (0.05, 6 * _MIB),
    "pss": (0.05, 6 * _MIB),
    "descriptors": (0.0, 2),
    "segments": (0.0, 2),
    "threads": (0.0, 0),
}
"""By how much the median of the last fifth may be above that of the first: a share of it, or so much, if that is more.

Shared memory counts in what maps it, and comes and goes by segments of about 2 MiB.
"""


class Sampler:
    """Samples of some processes, by name.

    Attributes:
        pids: which. gone: which of them have ended. moments: samples of quiet moments; those are looked at.
    """

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}
        self.gone: list[str] = []
        self.moments = 0
        self._quiet: dict[str, list[Sample]] = {}
        self._highest: dict[str, Sample] = {}

    def take(self, *, quiet: bool = False) -> None:
        """Take one sample of each process; of one that has ended it is noted that it has."""
        self.moments += quiet
        for name, pid in list(self.pids.items()):
            try:
                sample = _sample(pid)
            except OSError:
                self.gone.append(name)
                del self.pids[name]
                continue
            self._highest[name] = _higher(self._highest.get(name, sample), sample)
            if quiet:
                self._quiet.setdefault(name, []).append(sample)

    def growing(self) -> list[str]:
        """Say what has grown by more than the tolerance."""
        told: list[str] = []
        for name, samples in self._quiet.items():
            for field in TOLERANCE:
                first, last = _ends(samples, field)
                if last > first + _allowed(field, first):
                    told.append(f"{name}: {field} grew from {_shown(field, first)} to {_shown(field, last)}")
        return told

    def table(self) -> str:
        """Return the medians of the first and the last fifth, and the highest of all."""
        rows: list[list[str]] = []
        for name, samples in self._quiet.items():
            cells = [name]
            for field in TOLERANCE:
                first, last = _ends(samples, field)
                highest = float(getattr(self._highest[name], field))
                cells.append(f"{_shown(field, first)} → {_shown(field, last)} ({_shown(field, highest)})")
            rows.append(cells)
        return table(("process", "RSS", "PSS", "descriptors", "segments", "threads"), rows)

    @staticmethod
    def tolerance() -> str:
        """Say what is allowed."""
        return "; ".join(
            f"{field} {share:.0%} or {_shown(field, least)}" if share else f"{field} {least}"
            for field, (share, least) in TOLERANCE.items()
        )


def _sample(pid: int) -> Sample:
    memory: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        memory[name] = int(value.split()[0]) * 1024
    has = census(pid)
    return Sample(memory["Rss"], memory["Pss"], has.descriptors.total(), len(has.segments), has.threads)


def _higher(one: Sample, other: Sample) -> Sample:
    return Sample(*map(max, attrs.astuple(one), attrs.astuple(other)))


def _ends(samples: Sequence[Sample], field: str) -> tuple[float, float]:
    """Return the medians of the first and of the last fifth of the samples behind the warm-up."""
    looked_at = samples[int(len(samples) * WARM_UP) :]
    fifth = max(1, len(looked_at) // 5)
    values = [float(getattr(sample, field)) for sample in looked_at]
    return statistics.median(values[:fifth]), statistics.median(values[-fifth:])


def _allowed(field: str, first: float) -> float:
    share, least = TOLERANCE[field]
    return max(share * first, least)


def _shown(field: str, value: float) -> str:
    return f"{value / _MIB:.1f} MiB" if field in ("rss", "pss") else f"{value:g}"
