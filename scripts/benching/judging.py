"""Whether the bars hold, by what a campaign gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import attrs
import numpy as np

from benching.bars import BARS, ENOUGH_ROUNDS, MANY_SAMPLES, Bar, Measure, Side
from benching.campaign import Results
from benching.ratios import Ratio, holds_above, holds_below, per_round, pooled_summary, summary
from benching.runs import Outcome
from benching.workloads import Case

Word = Literal["holds", "fails", "not measured"]

WORST: Final[Mapping[Measure, Callable[[Iterable[float]], float]]] = {"drops": min, "copies": max}
"""Counts must be right in every round: the worst one counts."""


@attrs.frozen
class Verdict:
    """A bar, and what became of it.

    Attributes:
        ratio: what was measured, None where nothing was. rival: the system that it was measured against, or "".
        note: why it is not measured, or why it is not yet sure.
    """

    bar: Bar
    word: Word
    ratio: Ratio | None = None
    rival: str = ""
    note: str = ""


def judge_all(results: Results, bars: Iterable[Bar] = BARS) -> tuple[Verdict, ...]:
    """Return a verdict on every bar."""
    return tuple(judge(results, bar) for bar in bars)


def judge(results: Results, bar: Bar) -> Verdict:
    """Return the verdict on a bar."""
    ours = _best(results, bar, bar.ours)
    theirs = None if bar.theirs is None else _best(results, bar, bar.theirs)
    if ours is None or (bar.theirs is not None and theirs is None):
        side = bar.ours if ours is None or bar.theirs is None else bar.theirs
        return Verdict(bar, "not measured", note=f"no figures of {' or '.join(side.systems)} in {side.case}")
    try:
        ratio = _ratio(results, bar, ours, theirs)
    except ValueError as error:
        return Verdict(bar, "not measured", note=str(error))
    holds = holds_above(ratio, bar.limit) if bar.above else holds_below(ratio, bar.limit)
    rival = theirs if theirs is not None and theirs != ours else ""
    note = _doubt(results, bar, ours, ratio)
    return Verdict(bar, "holds" if holds else "fails", ratio, rival, note)


def compared(results: Results, case: Case, measure: Measure, ours: str, theirs: str) -> Ratio | None:
    """Return what a system takes over what another takes in a case, None where no round has measured both."""
    mine, others = (_values(measure, results.of(name, case)) for name in (ours, theirs))
    ratios = per_round(mine, others)
    return summary(ratios) if ratios else None


def _ratio(results: Results, bar: Bar, ours: str, theirs: str | None) -> Ratio:
    mine = results.of(ours, bar.ours.case)
    if bar.theirs is None or theirs is None:
        values = list(_values(bar.measure, mine).values())
        worst = WORST.get(bar.measure)
        return summary([worst(values)] * len(values) if worst and values else values)
    others = results.of(theirs, bar.theirs.case)
    if bar.measure == "p99":
        return pooled_summary(_samples(mine), _samples(others), 99)
    numerators = _values(bar.measure, mine)
    if bar.measure == "hops":
        copies = results.copy_s.get(bar.ours.case.size, {})
        numerators = {number: value - copies[number] for number, value in numerators.items() if number in copies}
    return summary(per_round(numerators, _values(bar.measure, others)))


def _samples(outcomes: Mapping[int, Outcome]) -> dict[int, list[float]]:
    return {number: outcome.latency_ns.tolist() for number, outcome in outcomes.items()}


def _values(measure: Measure, outcomes: Mapping[int, Outcome]) -> dict[int, float]:
    found = {number: _value(measure, outcome) for number, outcome in outcomes.items()}
    return {number: value for number, value in found.items() if value is not None}


def _value(measure: Measure, outcome: Outcome) -> float | None:
    if measure == "per_s":
        return outcome.per_s
    if measure == "cpu":
        return outcome.cpu_s
    if measure == "drops":
        return None if outcome.drops_exact is None else float(outcome.drops_exact)
    if measure == "copies":
        return None if outcome.copies is None else float(outcome.copies)
    if measure == "p50_ms":
        return float(np.median(outcome.latency_ns)) / 1e6
    return float(np.percentile(outcome.latency_ns, 99 if measure == "p99" else 50)) / 1e9


def _best(results: Results, bar: Bar, side: Side) -> str | None:
    """Return the system of a side that does best in its case, None where none has figures."""
    found = {name: _median(bar.measure, results.of(name, side.case)) for name in side.systems}
    there = {name: value for name, value in found.items() if value is not None}
    pick = max if bar.measure == "per_s" else min
    return pick(there, key=lambda name: there[name]) if there else None


def _median(measure: Measure, outcomes: Mapping[int, Outcome]) -> float | None:
    values = list(_values(measure, outcomes).values())
    return float(np.median(values)) if values else None


def _doubt(results: Results, bar: Bar, ours: str, ratio: Ratio) -> str:
    if ratio.rounds < ENOUGH_ROUNDS:
        return f"{ratio.rounds} rounds, {ENOUGH_ROUNDS} are wanted"
    count = _count(results, ours, bar.ours.case)
    if bar.measure == "p99" and count < MANY_SAMPLES:
        return f"{count} samples, {MANY_SAMPLES} are wanted"
    return ""


def _count(results: Results, system: str, case: Case) -> int:
    return sum(outcome.messages for outcome in results.of(system, case).values())
