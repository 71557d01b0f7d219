"""Mixed traffic: what runs all the time is sampled; what comes and goes around it is killed, cut off, restarted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from accounting import audit
from breakable import Keeper, Painter, Passer
from hatchery import Hatchling, Order
from rounds import Watchers, settle_accounts, theatre
from stage import Stage, under_way
from watch import family

from rmbus import Pipeline, Report, drop_oldest, latest, reliable
from rmbus.errors import RmbusError
from rmbus.session import Session
from soaking.passing import Passing
from soaking.sampling import Sampler
from soaking.smalls import Double, Numbers, Total
from soaking.writing import Result, table

BUSY_S: Final = 20.0
"""How long others come and go, until all of them leave and a moment of quiet is sampled."""

QUIET_S: Final = 5.0
"""How long it takes until memory that is not used any more is given back everywhere."""

LOOKS: Final = 3
"""Samples of a moment of quiet."""


def run(*, seconds: float, interval_s: float, seed: int) -> Result:
    """Run traffic for so long; a session or a process that should not end ends the run."""
    began = time.monotonic()
    sampler = Sampler()
    wrong: list[str] = []
    told: list[str] = []
    interrupted = False
    with audit() as open_accounts:
        try:
            with theatre() as (stage, watchers), ExitStack() as stack:
                lasting = Lasting(stack, stage, watchers, wrong)
                sampler.pids = lasting.pids()
                passing = Passing(stage, seed, wrong)
                stack.callback(passing.close)
                _go_on(lasting, passing, sampler, time.monotonic() + seconds, interval_s, wrong)
                told += [passing.told(), lasting.close()]
                watchers.forget()
                wrong += filter(None, [watchers.left_over(), stage.left_over()])
        except KeyboardInterrupt:
            interrupted = True
            print("interrupted", file=sys.stderr)
        except (RmbusError, TimeoutError) as error:
            wrong.append(f"{type(error).__name__}: {error}")
    wrong += open_accounts
    wrong += [f"{name} has ended" for name in sampler.gone]
    wrong += sampler.growing()
    left = family(os.getpid()) - {os.getpid()}
    wrong += [f"processes are left: {left}"] if left else []
    for line in wrong:
        print(f"WRONG: {line}", flush=True)
    return _result(sampler, told, wrong, time.monotonic() - began, interval_s, interrupted=interrupted)


def _go_on(
    lasting: Lasting, passing: Passing, sampler: Sampler, until: float, interval_s: float, wrong: list[str]
) -> None:
    began = time.monotonic()
    while time.monotonic() + QUIET_S < until:
        _let_pass(lasting, passing, sampler, min(time.monotonic() + BUSY_S, until - QUIET_S), interval_s)
        passing.close()
        lasting.forget()
        time.sleep(QUIET_S)
        for _ in range(LOOKS):
            lasting.check()
            sampler.take(quiet=True)
            time.sleep(0.2)
        print(f"{time.monotonic() - began:.0f} s: {passing.told()}; {len(wrong)} wrong", flush=True)


def _let_pass(lasting: Lasting, passing: Passing, sampler: Sampler, until: float, interval_s: float) -> None:
    sampled = 0.0
    while (now := time.monotonic()) < until:
        if now - sampled >= interval_s:
            sampled = now
            sampler.take()
            lasting.check()
        passing.step(now)
        time.sleep(0.05)


class Lasting:
    """What runs from the beginning to the end: four sessions of real processes, and some that joined by topics."""

    def __init__(self, stack: ExitStack, stage: Stage, watchers: Watchers, wrong: list[str]) -> None:
        self._stage, self._watchers, self._wrong = stage, watchers, wrong
        self._sessions: dict[str, Session] = {}
        for name, (pipeline, plain) in _pipelines().items():
            session = Session(pipeline, on_log=self._logged, fast=not plain, shared=not plain)
            stack.callback(session.kill)
            self._sessions[name] = session
        self._painter = stage.hatch(Order("painter", {"stream": 90, "every_s": 0.01}, outputs={"out": "made/steady"}))
        self._passer = stage.hatch(Order("passer", inputs={"video": "made/steady"}, outputs={"out": "passed/steady"}))
        stage.hatched.clear()
        for each in (self._painter, self._passer):
            stack.callback(each.close)

    def pids(self) -> dict[str, int]:
        """Return what is to be sampled."""
        found = {"this script": os.getpid(), "host of topics": self._stage.host}
        for name, session in self._sessions.items():
            nodes = session.report().nodes
            found |= {f"{name}: {node.name}": node.pid for node in nodes}
            found[f"{name}: host"] = _parent(nodes[0].pid)
        hands = {"painter": self._painter, "passer": self._passer}
        hands |= {"watcher of made": self._watchers.made, "watcher of passed": self._watchers.passed}
        return found | {f"topics: {name}": hand.pid for name, hand in hands.items()}

    def check(self) -> None:
        """Look at the sessions: one that has failed raises."""
        for session in self._sessions.values():
            session.check()

    def forget(self) -> None:
        """Close the accounts of edges that are gone, and look at every picture that is kept."""
        for each in self._hands():
            self._wrong.extend(f"{each.order.kind}: {what}" for what in each.ask("look")["bad"])
            over = each.ask("forget")["over"]
            self._wrong.extend(f"{each.order.kind}: {account} is open" for account in over if under_way(account))

    def close(self) -> str:
        """End it all in order; return the accounts of its edges."""
        self.forget()
        reports = {name: session.stop() for name, session in self._sessions.items()}
        self._painter.ask("finish")
        for each in (self._painter, self._passer):
            outcome = each.outcome(10.0)
            self._wrong.extend([f"the {each.order.kind} has ended so: {outcome}"] if outcome else [])
        self._wrong.extend(settle_accounts(self._hands()))
        return _accounts(reports, self._hands())

    def _hands(self) -> list[Hatchling]:
        return [self._painter, self._passer, *self._watchers.both]

    def _logged(self, node: str, host: str, lines: Sequence[str], suppressed: int) -> None:
        self._wrong.extend(f"{node}: {line}" for line in lines if "torn" in line)


def _pipelines() -> dict[str, tuple[Pipeline, bool]]:
    """Return the pipelines, each with whether it goes without fast lanes and shared memory."""
    first = Painter(1, every_s=0.02).options(name="head")
    pictures = (first >> Passer().options(name="middle") >> Keeper().options(name="tail")) | (
        first >> Keeper(keeps=24, every_s=0.03).options(name="slow")
    )
    second = Painter(2, every_s=0.01).options(name="head")
    deliveries = (
        second["out"].to(Keeper(every_s=0.05).options(name="latest"), delivery=latest)
        | second["out"].to(Keeper(every_s=0.08).options(name="oldest"), delivery=drop_oldest(4))
        | second["out"].to(Keeper().options(name="reliable"), delivery=reliable(16))
    )
    plain = Painter(3, every_s=0.03).options(name="head") >> Passer().options(name="middle") >> Keeper()
    small = Numbers(0.001) >> Double() >> Total()
    return {
        "pictures": (pictures, False),
        "deliveries": (deliveries, False),
        "plain": (plain, True),
        "small": (small, False),
    }


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def _accounts(reports: dict[str, Report], hands: list[Hatchling]) -> str:
    rows: list[tuple[object, ...]] = []
    for name, report in reports.items():
        for edge in report.edges:
            dropped = ", ".join(f"{count} {why}" for why, count in edge.dropped.items()) or "0"
            flow = (edge.published, edge.delivered, dropped, edge.in_flight)
            rows.append((f"{name}: {edge.name}", edge.delivery, edge.lane, *flow))
    for hand in hands:
        for account in hand.ask("accounts")["accounts"]:
            if account["side"] == "in":
                dropped = ", ".join(f"{count} {why}" for why, count in account["dropped"].items()) or "0"
                flow = (account["published"], account["delivered"], dropped, under_way(account))
                rows.append((f"topic to {hand.order.kind}", "drop_oldest(8)", "fast", *flow))
    head = ("edge", "delivery", "lane", "published", "delivered", "dropped", "under way at the end")
    return table(head, rows)


def _result(
    sampler: Sampler, told: list[str], wrong: list[str], seconds: float, interval_s: float, *, interrupted: bool
) -> Result:
    parts = [
        "Four sessions of real processes run all the time (large and small frames, every delivery, slow readers, with "
        "and without fast lanes and shared memory), and so do a publisher, a node that passes on, and two readers that "
        "joined by topics. Around them others come and go:",
        *told[:1],
        f"Every {BUSY_S:g} s the others leave, so that what runs all the time is alone for a moment: the figures are "
        f"of those moments, {sampler.moments // LOOKS} of them, behind a warm-up of a fifth of them: the median of the "
        "first fifth, and of the last. In parentheses the highest figure in between, sampled every "
        f"{interval_s:g} s. Allowed growth: {sampler.tolerance()}.",
        sampler.table(),
        *told[1:],
    ]
    if interrupted:
        parts.append("The run was interrupted.")
    elif not wrong:
        parts.append("All is flat, every picture was whole, and every account closes.")
    if wrong:
        parts.append(f"{len(wrong)} things did not hold:\n\n```\n" + "\n".join(wrong)[:20_000] + "\n```")
    return Result("\n\n".join(parts), not wrong and not interrupted, seconds, not interrupted)
