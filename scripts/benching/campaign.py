"""Rounds of runs, one system after the other in each, so that what the machine does meanwhile meets all of them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import numpy as np

from benching import runs
from benching.catalogue import System
from benching.environments import CannotInstall, python_of
from benching.runs import Outcome, RunFailed
from benching.workloads import Case, Effort

GIVE_UP_AFTER: Final = 2
"""A system that has failed so often in a case is not tried there again."""

OVERTIME_S: Final = 3.0
"""What a run that takes longer than expected may take beyond the budget before it is ended."""

Tell = Callable[[str], None]

TakesPart = Callable[[System, Case], bool]

Key = tuple[str, Case]
"""A system's name, and a case."""


@attrs.define
class Results:
    """What a campaign has given so far.

    Attributes:
        planned: the systems of each case, in the order of tables.
        outcomes: by system, case and round.
        failures: why a system has no figures in a case.
        copy_s: the time of one copy, by size and round.
    """

    planned: dict[Case, tuple[str, ...]] = attrs.field(factory=dict[Case, tuple[str, ...]])
    outcomes: dict[Key, dict[int, Outcome]] = attrs.field(factory=dict[Key, dict[int, Outcome]])
    failures: dict[Key, str] = attrs.field(factory=dict[Key, str])
    copy_s: dict[int, dict[int, float]] = attrs.field(factory=dict[int, dict[int, float]])

    def of(self, system: str, case: Case) -> dict[int, Outcome]:
        """Return the outcomes of a system in a case, by round."""
        return self.outcomes.get((system, case), {})

    @property
    def rounds(self) -> int:
        """The most rounds that any system has."""
        return max((len(each) for each in self.outcomes.values()), default=0)


@attrs.define
class Campaign:
    """What is run, how often, and for how long at most.

    Attributes:
        systems, cases, effort, rounds: what is run.
        budget_s: when no further run is begun that is expected to end later; None: no matter how long.
        tell: told what is being run.
        takes_part: whether a system is to be run in a case.
    """

    systems: Sequence[System]
    cases: Sequence[Case]
    effort: Effort
    rounds: int
    budget_s: float | None = None
    tell: Tell = lambda _: None
    takes_part: TakesPart = System.can

    def run(self) -> Results:
        """Run everything, and return what it gave."""
        results = Results({case: tuple(each.name for each in self._systems_of(case)) for case in self.cases})
        pythons = self._environments(results)
        began, took_s = time.monotonic(), dict[Key, float]()
        failed: Counter[Key] = Counter()
        for number in range(self.rounds):
            for case in self.cases:
                if case.relays:
                    results.copy_s.setdefault(case.size, {})[number] = copy_s(case.size)
                for system in self._in_turn(number, case):
                    key = (system.name, case)
                    if system.family not in pythons or failed[key] >= GIVE_UP_AFTER:
                        continue
                    left_s = math.inf if self.budget_s is None else self.budget_s - (time.monotonic() - began)
                    expected_s = took_s.get(key) or 1.5 * float(np.median([*took_s.values(), 0.0]))
                    if expected_s > left_s:
                        if not results.of(*key):
                            results.failures.setdefault(key, "no time was left")
                        continue
                    before = time.monotonic()
                    failed[key] += not self._run_once(results, number, system, pythons[system.family], case, left_s)
                    took_s[key] = time.monotonic() - before
        return results

    def _environments(self, results: Results) -> dict[str, Path]:
        pythons: dict[str, Path] = {}
        for family, requirements in {system.family: system.requirements for system in self.systems}.items():
            try:
                pythons[family] = python_of(family, requirements)
            except CannotInstall as error:
                self.tell(f"{family}: cannot be installed: {error}")
                names = {system.name for system in self.systems if system.family == family}
                for case, planned in results.planned.items():
                    for name in names.intersection(planned):
                        results.failures[name, case] = f"cannot be installed: {error}"
        return pythons

    def _systems_of(self, case: Case) -> list[System]:
        return [system for system in self.systems if self.takes_part(system, case)]

    def _in_turn(self, number: int, case: Case) -> Iterator[System]:
        """Yield the systems of a case; each round begins with another one."""
        there = self._systems_of(case)
        for place in range(len(there)):
            yield there[(place + number) % len(there)]

    def _run_once(self, results: Results, number: int, system: System, python: Path, case: Case, left_s: float) -> bool:
        key = (system.name, case)
        try:
            outcome = runs.run(system, python, case, self.effort, left_s + OVERTIME_S)
        except RunFailed as error:
            results.failures[key] = str(error)
            self.tell(f"round {number + 1}: {system.name}, {case}: {error}")
            return False
        results.outcomes.setdefault(key, {})[number] = outcome
        p50_us = float(np.median(outcome.latency_ns)) / 1e3
        shown = f"p50 {p50_us:.0f} us" if case.has_latency else f"{outcome.per_s:.0f}/s"
        self.tell(f"round {number + 1}: {system.name}, {case}: {shown}")
        return True


def copy_s(size: int) -> float:
    """Return what one copy takes here and now: of an array that was just written, to one of four in turn."""
    source, targets = np.zeros(size, np.uint8), [np.ones(size, np.uint8) for _ in range(4)]
    times: list[int] = []
    for number in range(24):
        source.fill(number)
        before = time.monotonic_ns()
        np.copyto(targets[number % 4], source)
        times.append(time.monotonic_ns() - before)
    return float(np.median(times[4:])) / 1e9
