"""Rounds of kills: each who may die, at each point, so many times."""

from __future__ import annotations

import sys
import time
from typing import Final

from rounds import CASES, campaign, theatre

from soaking.writing import Result, table

INTERRUPTED: Final = "by an interrupt"


def run(*, rounds: int, seed: int, at_most_s: float) -> Result:
    """Play the rounds; what did not hold is printed at once, and told in the result."""
    began = time.monotonic()
    rows: list[tuple[object, ...]] = []
    wrong: list[str] = []
    ended_early = ""
    try:
        with theatre() as (stage, watchers):
            for victim, point in CASES:
                since, played, bad = time.monotonic(), 0, 0
                for told in campaign(stage, watchers, victim, point, range(seed, seed + rounds)):
                    played += played < rounds
                    if told:
                        bad += 1
                        wrong.append(told)
                        print(told, end="", flush=True)
                    if time.monotonic() - began > at_most_s:
                        ended_early = f"after {at_most_s / 60:g} minutes"
                        break
                rows.append((victim, point, played, bad))
                print(f"{victim}, {point}: {played} rounds in {time.monotonic() - since:.0f} s, {bad} bad", flush=True)
                if ended_early:
                    break
    except KeyboardInterrupt:
        ended_early = INTERRUPTED
        print("interrupted", file=sys.stderr)
    return _result(rows, wrong, ended_early, time.monotonic() - began)


def _result(rows: list[tuple[object, ...]], wrong: list[str], ended_early: str, seconds: float) -> Result:
    total = sum(int(str(row[2])) for row in rows)
    told = [
        f"{total} rounds. In every second one a session of four nodes (head to middle to tail, lent on; head to a "
        "reader aside), in the others the same joined by topics.",
        table(("killed", "point", "rounds", "with something wrong"), rows),
        f"{len(wrong)} things did not hold." if wrong else "All held, in every round.",
    ]
    if ended_early:
        told.append(f"The run was ended early, {ended_early}: it says nothing of the rest.")
    told += ["```\n" + "".join(wrong)[:20_000] + "```"] if wrong else []
    return Result("\n\n".join(told), not wrong and not ended_early, seconds, ended_early != INTERRUPTED)
