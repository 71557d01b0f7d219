"""Whether the bars of scripts/bench hold, by what a campaign gave."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from benching.bars import BARS, LARGE_CHAIN, SLOW, SMALL_CHAIN, Bar, Side, hop
from benching.campaign import Results
from benching.catalogue import SYSTEMS
from benching.judging import judge, judge_all
from benching.runs import Outcome
from benching.workloads import Case, full_cases

CASE = hop("6.2MB")


def outcome(latency_us: float, **changes: Any) -> Outcome:
    given: dict[str, Any] = {"per_s": 30.0, "cpu_s": 0.5, "window_s": 1.0, "rss_bytes": 1000, "lost": 0}
    return Outcome(latency_ns=np.full(1000, latency_us * 1000, np.int64), **given | changes)


def rounds(latency_us: float, count: int = 7, **changes: Any) -> dict[int, Outcome]:
    return {number: outcome(latency_us, **changes) for number in range(count)}


def results(**by_system: dict[int, Outcome]) -> Results:
    return Results(outcomes={(name.replace("_", "-"), CASE): each for name, each in by_system.items()})


def bar(*theirs: str, limit: float = 1.0, **changes: Any) -> Bar:
    made = Bar("a bar", "p50", Side(("ours",), CASE), Side(theirs, CASE), limit)
    return attrs.evolve(made, **changes)


def test_every_bar_names_systems_and_cases_that_are_run() -> None:
    """A name that is misspelt would never be measured."""
    systems, cases = {system.name: system for system in SYSTEMS}, set(full_cases())
    for each in BARS:
        for side in (each.ours, each.theirs):
            if side is not None:
                assert side.case in cases
                assert all(systems[name].can(side.case) for name in side.systems), each


def test_a_ratio_is_held_against_the_best_of_the_others() -> None:
    """Of several ways of a rival the quickest counts, and is named."""
    found = results(ours=rounds(200), slow=rounds(400), quick=rounds(150))
    verdict = judge(found, bar("slow", "quick"))
    assert (verdict.word, verdict.rival, verdict.note) == ("fails", "quick", "")
    assert verdict.ratio is not None
    assert verdict.ratio.median == pytest.approx(200 / 150)
    assert judge(found, bar("slow", "quick", limit=1.4)).word == "holds"
    assert judge(found, bar("slow")).word == "holds"


def test_rates_are_to_be_high() -> None:
    """Of throughput the highest is the best, and the bar is to be reached."""
    found = results(ours=rounds(1, per_s=80.0), slow=rounds(1, per_s=50.0), quick=rounds(1, per_s=100.0))
    for limit, word in ((0.7, "holds"), (0.9, "fails")):
        verdict = judge(found, bar("slow", "quick", limit=limit, measure="per_s", above=True))
        assert (verdict.word, verdict.rival) == (word, "quick")


def test_what_was_not_measured_is_no_failure() -> None:
    """The verdict says what is missing."""
    verdict = judge(results(ours=rounds(200)), bar("theirs"))
    assert (verdict.word, verdict.ratio) == ("not measured", None)
    assert "theirs" in verdict.note
    assert {verdict.word for verdict in judge_all(Results())} == {"not measured"}
    apart = results(ours={0: outcome(1)}, theirs={1: outcome(1)})
    assert judge(apart, bar("theirs")).note == "no round has measured both"


def test_too_few_rounds_and_samples_are_told() -> None:
    """A verdict by less than the rules ask for carries a note."""
    few = results(ours=rounds(1, 2), theirs=rounds(1, 2))
    assert judge(few, bar("theirs")).note == "2 rounds, 7 are wanted"
    many = results(ours=rounds(1), theirs=rounds(1))
    assert judge(many, bar("theirs", measure="p99")).note == ""
    short = {number: attrs.evolve(each, latency_ns=each.latency_ns[:700]) for number, each in rounds(1).items()}
    assert judge(results(ours=short, theirs=rounds(1)), bar("theirs", measure="p99")).note.startswith("4900 samples")


def shape(measure: str, case: Case) -> Bar:
    return next(each for each in BARS if each.measure == measure and each.ours.case == case)


def test_drops_to_the_sleeper_are_exact_in_every_round() -> None:
    """A count that is wrong once is not made good by six that are right."""
    for exact, word in ((True, "holds"), (False, "fails")):
        found = rounds(1, drops_exact=True) | {3: outcome(1, drops_exact=exact)}
        assert judge(Results(outcomes={("rmbus-copy", SLOW): found}), shape("drops", SLOW)).word == word


def test_a_chain_copies_a_frame_once() -> None:
    """One place is one copy; two are one too many, in any round."""
    for copies, word in ((1, "holds"), (2, "fails")):
        found = rounds(1, copies=1) | {3: outcome(1, copies=copies)}
        assert judge(Results(outcomes={("rmbus-copy", LARGE_CHAIN): found}), shape("copies", LARGE_CHAIN)).word == word


def test_a_chain_takes_the_hops_of_small_messages_and_one_copy() -> None:
    """1.15 of the small chain, and the copy of the same round on top."""
    found = Results(outcomes={("rmbus-copy", SMALL_CHAIN): rounds(1000), ("rmbus-copy", LARGE_CHAIN): rounds(1600)})
    found.copy_s[LARGE_CHAIN.size] = dict.fromkeys(range(7), 500e-6)
    assert judge(found, shape("hops", LARGE_CHAIN)).word == "holds"  # (1600 - 500) / 1000
    found.copy_s[LARGE_CHAIN.size] = dict.fromkeys(range(7), 300e-6)
    assert judge(found, shape("hops", LARGE_CHAIN)).word == "fails"
    found.copy_s.clear()
    assert judge(found, shape("hops", LARGE_CHAIN)).word == "not measured"


def test_what_shipping_takes_is_held_against_milliseconds() -> None:
    """No rival is needed."""
    for ms, word in ((24.0, "holds"), (27.0, "fails")):
        assert judge(results(ours=rounds(ms * 1000)), bar(limit=25.0, theirs=None, measure="p50_ms")).word == word
