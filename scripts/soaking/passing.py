"""What comes and goes: readers, publishers and sessions, which end, are cut off, or are killed, by chance of a seed."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Final

import attrs
from breakable import Keeper, Painter, Passer
from breaking import OF_CONSUMERS, OF_PRODUCERS, RARE, Fault
from hatchery import Dead, Hatchling, Order
from rounds import settle_accounts
from stage import Play, Stage, play

from rmbus import NodeError
from rmbus.errors import RmbusError
from rmbus.session import Session

READERS: Final = 5
PUBLISHERS: Final = 2
SESSIONS: Final = 2
REAL_EVERY_S: Final = 20.0
"""How often a session with a host and processes of its own is started and ended, which takes seconds."""


@attrs.define
class _Visit:
    """Something that is there for a while."""

    until: float
    what: Hatchling | Play
    stack: ExitStack = attrs.field(factory=ExitStack)


class Passing:
    """The visitors of a stage."""

    def __init__(self, stage: Stage, seed: int, wrong: list[str]) -> None:
        self._stage, self._wrong = stage, wrong
        self._chance = random.Random(seed)
        self._number = 1000
        self._readers: list[_Visit] = []
        self._publishers: list[_Visit] = []
        self._sessions: list[_Visit] = []
        self._next = 0.0
        self._next_real = 0.0
        self._counts: Counter[str] = Counter()

    def told(self) -> str:
        """Say how many there were."""
        return ", ".join(f"{count} {what}" for what, count in sorted(self._counts.items())) or "nobody yet"

    def step(self, now: float) -> None:
        """Let somebody come, and let go whose time is over."""
        for visits, leave in (
            (self._readers, self._leave),
            (self._publishers, self._leave),
            (self._sessions, self._end_session),
        ):
            for visit in [each for each in visits if each.until < now]:
                visits.remove(visit)
                leave(visit)
        if now < self._next:
            return
        self._next = now + self._chance.uniform(0.3, 1.5)
        self._number += 1
        if len(self._readers) < READERS:
            self._readers.append(_Visit(now + self._chance.uniform(1, 8), self._reader()))
        if len(self._publishers) < PUBLISHERS and self._chance.random() < 0.3:
            self._publishers.append(_Visit(now + self._chance.uniform(1, 8), self._publisher()))
        if len(self._sessions) < SESSIONS and self._chance.random() < 0.3:
            self._sessions.append(self._session(now + self._chance.uniform(1, 6)))
        if now > self._next_real:
            self._next_real = now + REAL_EVERY_S
            self._real_session()

    def close(self) -> None:
        """Let all of them go."""
        for visit in (*self._readers, *self._publishers):
            self._leave(visit)
        for visit in self._sessions:
            self._end_session(visit)
        for visits in (self._readers, self._publishers, self._sessions):
            visits.clear()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _fault(self, points: tuple[str, ...]) -> Fault | None:
        if self._chance.random() < 0.6:
            return None
        point = self._chance.choice(points)
        return Fault(point, self._chance.randint(1, 2 if point in RARE else 200))

    def _hatch(self, order: Order) -> Hatchling:
        hatched = self._stage.hatch(order)
        self._stage.hatched.remove(hatched)
        return hatched

    def _reader(self) -> Hatchling:
        topic = self._chance.choice(("made/steady", "passed/steady", "made/*"))
        given = {"keeps": self._chance.choice((4, 12, 24)), "every_s": self._chance.choice((0.0, 0.0, 0.05))}
        self._counts["readers of topics"] += 1
        return self._hatch(Order("keeper", given, inputs={"video": topic}, fault=self._fault(OF_CONSUMERS)))

    def _publisher(self) -> Hatchling:
        self._counts["publishers of topics"] += 1
        order = Order("painter", {"stream": self._number, "every_s": 0.01}, outputs={"out": f"made/{self._number}"})
        return self._hatch(attrs.evolve(order, fault=self._fault(OF_PRODUCERS)))

    def _leave(self, visit: _Visit) -> None:
        hatched = visit.what
        assert isinstance(hatched, Hatchling)
        try:
            self._wrong.extend(f"a {hatched.order.kind}: {what}" for what in hatched.ask("look")["bad"])
            outcome = hatched.outcome(0.001)
            if outcome:
                self._wrong.append(f"a {hatched.order.kind} has ended so: {outcome}")
            if hatched.order.kind == "painter" and self._chance.random() < 0.5:
                hatched.ask("finish")
                self._wrong.extend([] if hatched.outcome(10.0) == "" else ["a painter does not finish"])
                self._wrong.extend(settle_accounts([hatched]))
                self._counts["that finished"] += 1
            elif self._chance.random() < 0.5:
                hatched.signal(signal.SIGKILL)
                self._counts["that were killed"] += 1
            else:
                self._counts["that left"] += 1
        except Dead:
            self._counts["that died at a point"] += 1
        hatched.close()

    def _session(self, until: float) -> _Visit:
        """Start a session of processes that are forked."""
        stream = self._number
        head = Painter(stream, every_s=0.005).options(name="head")
        middle, tail, aside = Passer().options(name="middle"), Keeper().options(name="tail"), Keeper(keeps=24)
        points = {"head": OF_PRODUCERS, "middle": (*OF_PRODUCERS, *OF_CONSUMERS), "tail": OF_CONSUMERS}
        name = self._chance.choice(tuple(points))
        fault = self._fault(points[name])
        stack = ExitStack()
        started = play(
            self._stage,
            (head >> middle >> tail) | (head >> aside.options(name="aside")),
            faults={name: fault} if fault else {},
            fast=self._chance.random() < 0.7,
        )
        run = stack.enter_context(started)
        for hatched in run.cast.values():
            self._stage.hatched.remove(hatched)
            stack.callback(hatched.close)
        self._counts["sessions"] += 1
        return _Visit(until, run, stack)

    def _end_session(self, visit: _Visit) -> None:
        run = visit.what
        assert isinstance(run, Play)
        alive = 0
        for each in run.cast.values():
            with suppress(Dead):  # at its point, before this or just now
                self._wrong.extend(f"a {each.order.kind} of a session: {what}" for what in each.ask("look")["bad"])
                alive += 1
        try:
            if alive == len(run.cast) and self._chance.random() < 0.5:
                run.session.stop(10.0)
                self._counts["sessions stopped"] += 1
            else:
                run.session.check()
                run.session.kill()
                self._counts["sessions killed"] += 1
        except NodeError as error:
            self._counts["sessions that lost a node"] += 1
            if "SIGKILL" not in str(error) and "left" not in str(error):
                self._wrong.append(f"a session has ended so: {error}")
        except (RmbusError, TimeoutError) as error:
            self._wrong.append(f"a session has ended so: {type(error).__name__}: {error}")
        visit.stack.close()

    def _real_session(self) -> None:
        """Start a session with a host of its own, kill one of its nodes, and see what is told."""
        nodes = {"head": Painter(self._number), "middle": Passer(), "tail": Keeper()}
        head, middle, tail = (node.options(name=name) for name, node in nodes.items())
        victim = self._chance.choice(tuple(nodes))
        self._counts["sessions with a host of their own"] += 1
        lines: list[str] = []
        try:
            with Session(head >> middle >> tail, on_log=lambda node, host, said, more: lines.extend(said)) as session:
                pid = session.report().node(victim).pid
                os.kill(pid, signal.SIGKILL)
                session.wait(10.0)
            self._wrong.append("a session has not told that its node was killed")
        except NodeError as error:
            if error.node != victim:
                self._wrong.append(f"a session tells of another failure: {error}")
        except (RmbusError, TimeoutError) as error:
            self._wrong.append(f"a session has ended so: {type(error).__name__}: {error}")
        self._wrong.extend(line for line in lines if "torn" in line)
