"""Rounds of a fault test: pictures flow, a process is killed, and what must hold for the others is looked at.

A round returns what did not hold, in words. What happens in it follows from its seed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
from breakable import Keeper, Painter, Passer
from breaking import OF_CONSUMERS, OF_PRODUCERS, RARE, SENT, Fault
from census import Census, census, settles
from hatchery import Hatchling, Order
from stage import Play, Stage, has_joined, open_accounts, play, seen, wait_for

from rmbus import NodeError
from rmbus.errors import RmbusError

PRODUCER: Final = "producer"
MIDDLE: Final = "middle"
CONSUMER: Final = "consumer"
ASIDE: Final = "aside"

ON: Final = 25
"""Pictures that are made after a kill, so that memory which is given back too early is written to again."""

LET_GO_S: Final = 6.0
"""Within so long watchers have let go of everything: segments are kept for a moment, and trimmed at times."""

CASES: Final = (
    *((PRODUCER, point) for point in OF_PRODUCERS),
    *((MIDDLE, point) for point in (*OF_PRODUCERS, *OF_CONSUMERS)),
    *((CONSUMER, point) for point in OF_CONSUMERS),
)

_numbers = itertools.count(1)
_NAMES: Final = {PRODUCER: "head", MIDDLE: "middle", CONSUMER: "tail"}


@attrs.frozen
class Round:
    """What is to happen in a round.

    Attributes:
        victim, fault: who is killed, and where. number: of the round; it is the stream of its pictures.
        forker: who forks a child that lets go of all that it inherits, and stays: the victim, a survivor, or nobody.
        forks_at: at which of its pictures. fast: whether fast lanes are used.
    """

    victim: str
    fault: Fault
    number: int
    forker: str = ""
    forks_at: int = 0
    fast: bool = True

    @classmethod
    def drawn(cls, victim: str, point: str, number: int, seed: int) -> Round:
        """Return the round that a seed means."""
        chance = random.Random(f"{victim}/{point}/{seed}")
        nth = chance.randint(1, 2 if point in RARE else 25)
        forker = chance.choice((victim, CONSUMER, ASIDE, "", "", ""))
        return cls(victim, Fault(point, nth), number, forker, chance.randint(1, 20), chance.random() < 0.7)

    def forks(self, who: str) -> int:
        """Return when one of the processes forks."""
        return self.forks_at if who == self.forker else 0


def chain(stage: Stage, plan: Round) -> list[str]:
    """A session: head to middle to tail, which lends on, and head to aside. One of the first three is killed."""
    head = Painter(plan.number, forks_at=plan.forks(PRODUCER)).options(name="head")
    middle = Passer(forks_at=plan.forks(MIDDLE)).options(name="middle")
    tail = Keeper(keeps=12, forks_at=plan.forks(CONSUMER)).options(name="tail")
    aside = Keeper(keeps=24, forks_at=plan.forks(ASIDE)).options(name="aside")  # more than may be held: it gets copies
    name = _NAMES[plan.victim]
    with play(stage, (head >> middle >> tail) | (head >> aside), faults={name: plan.fault}, fast=plan.fast) as run:
        victim = run.cast[name]
        survivors = [each for each in run.cast.values() if each is not victim]
        if not victim.dies(10.0):
            return [f"the point was not reached: {run.session.report()}"]
        wrong: list[str] = []
        if plan.victim != PRODUCER:
            wrong += _goes_on(run.cast["aside"])
            run.cast["head"].ask("finish")
        wrong += _ended_well(survivors)
        wrong += _look_all(survivors)
        wrong += settle_accounts(survivors)
        wrong += _reported(run)
        wrong += _ended_by(run, name)
        wrong += _look_all(survivors)  # the session has ended, and they still have their views
    return wrong


@attrs.define
class Watchers:
    """Subscribers that stay for many rounds: one for what is made, one for what is passed on."""

    made: Hatchling
    passed: Hatchling
    bases: list[Census] = attrs.field(factory=list[Census])

    @classmethod
    def join(cls, stage: Stage) -> Watchers:
        """Let them join; they are no processes of a round."""
        made = stage.hatch(Order("keeper", {"keeps": 24}, inputs={"video": "made/*"}))
        passed = stage.hatch(Order("keeper", {"keeps": 12}, inputs={"video": "passed/*"}))
        stage.hatched.clear()
        assert wait_for(lambda: has_joined(made) and has_joined(passed))
        return cls(made, passed)

    @property
    def both(self) -> tuple[Hatchling, Hatchling]:
        """Both of them."""
        return self.made, self.passed

    def forget(self) -> None:
        """Let them let go of all that they keep."""
        for each in self.both:
            each.ask("forget")

    def left_over(self) -> str:
        """Say what they have beyond what they had after the first round, "" where they have gone back to that."""
        return settles(self._beyond, LET_GO_S)

    def rebase(self) -> None:
        """Take what they have now, when they have let go of all, for their base."""
        wait_for(self._are_bare)
        self.bases = [census(each.pid) for each in self.both]

    def close(self) -> None:
        """Let them go."""
        for each in self.both:
            each.close()

    def _are_bare(self) -> bool:
        """Whether they have no segment, and no page but that of their node."""
        self.forget()
        has = [census(each.pid) for each in self.both]
        return all(not each.segments and len(each.pages) == 1 for each in has)

    def _beyond(self) -> str:
        self.forget()  # again and again: an edge is over when its end has been heard of
        pairs = zip(self.both, self.bases, strict=True)
        return "; ".join(f"watcher: {told}" for each, base in pairs if (told := census(each.pid).beyond(base)))


@contextmanager
def theatre() -> Generator[tuple[Stage, Watchers]]:
    """Give a stage with watchers, all of them warm and at their base."""
    with Stage() as stage:
        watchers = Watchers.join(stage)
        try:
            for play_round in (chain, lambda stage, plan: topics(stage, watchers, plan)):
                wrong = play_round(stage, Round(PRODUCER, Fault(SENT, 20), 0))
                assert not wrong, wrong
            watchers.rebase()
            stage.rebase()
            yield stage, watchers
        finally:
            watchers.close()


def campaign(stage: Stage, watchers: Watchers, victim: str, point: str, seeds: Iterable[int]) -> Iterator[str]:
    """Play a round for each seed, by turns a session and topics; yield what was wrong after each, and at the end."""
    for seed in seeds:
        plan = Round.drawn(victim, point, next(_numbers), seed)
        try:
            wrong = chain(stage, plan) if seed % 2 else topics(stage, watchers, plan)
        finally:
            stage.close_all()
        wrong += filter(None, [stage.left_over()])
        yield "".join(f"seed {seed}, {plan}: {what}\n" for what in wrong)
    left = filter(None, [watchers.left_over(), stage.left_over()])
    yield "".join(f"after {victim}, {point}: {what}\n" for what in left)
    kept = settles(lambda: f"{size} bytes of shared memory" if (size := stage.shared_bytes()) else "", LET_GO_S)
    yield f"after {victim}, {point}: {kept} are left\n" if kept else ""


def topics(stage: Stage, watchers: Watchers, plan: Round) -> list[str]:
    """Joined by topics: a painter, a passer that reads it, a keeper, and watchers. One of the first three dies."""
    source, passed = f"made/{plan.number}", f"passed/{plan.number}"
    orders = {
        CONSUMER: Order("keeper", {"keeps": 12, "forks_at": plan.forks(CONSUMER)}, inputs={"video": source}),
        MIDDLE: Order("passer", {"forks_at": plan.forks(MIDDLE)}, inputs={"video": source}, outputs={"out": passed}),
        PRODUCER: Order(
            "painter",
            {"stream": plan.number, "every_s": 0.001, "forks_at": plan.forks(PRODUCER)},
            outputs={"out": source},
        ),
    }
    orders[plan.victim] = attrs.evolve(orders[plan.victim], fault=plan.fault)
    cast: dict[str, Hatchling] = {}
    for role, order in orders.items():  # readers first, for a topic may be over before one has joined that is late
        cast[role] = stage.hatch(order)
        assert wait_for(lambda role=role: has_joined(cast[role]))  # type: ignore[misc]
    victim = cast[plan.victim]
    if not victim.dies(10.0):
        return [f"the point was not reached: {[each.outcome(0.1) for each in cast.values()]}"]
    wrong: list[str] = []
    survivors = [each for each in cast.values() if each is not victim]
    if plan.victim != PRODUCER:
        wrong += _goes_on(watchers.made)
        cast[PRODUCER].ask("finish")
    wrong += _ended_well(survivors)
    everybody = [*survivors, watchers.made, watchers.passed]
    wrong += _look_all(everybody)
    wrong += settle_accounts(everybody)
    wrong += _look_all(everybody)
    watchers.forget()
    return wrong


def settle_accounts(survivors: Iterable[Hatchling]) -> list[str]:
    """Say which accounts do not close, when all has come to rest."""
    told = settles(lambda: "\n".join(line for each in survivors for line in open_accounts(each)), 5.0)
    return [told] if told else []


def _goes_on(reader: Hatchling) -> list[str]:
    """Let pictures flow for a while after the kill."""
    target = seen(reader) + ON
    return [] if wait_for(lambda: seen(reader) >= target) else ["nothing flows any more between the survivors"]


def _ended_well(survivors: Iterable[Hatchling]) -> list[str]:
    """Wait for the nodes of survivors to end, since nothing more comes to them; their processes stay."""
    outcomes = [(each.order.kind, each.outcome(10.0)) for each in survivors]
    return [f"the {kind} did not end as it should, but so: {outcome}" for kind, outcome in outcomes if outcome != ""]


def _look_all(survivors: Iterable[Hatchling]) -> list[str]:
    """Look at every picture that the survivors keep, and at how they are."""
    wrong: list[str] = []
    for each in survivors:
        wrong += [f"the {each.order.kind} saw: {what}" for what in each.ask("look")["bad"]]
    return wrong


def _reported(run: Play) -> list[str]:
    """Look at the session's report: at rest nothing is under way, on any edge, and no edge was waited for in vain."""
    edges = run.session.report().edges
    return [f"the report says of an edge at rest: {edge}" for edge in edges if edge.in_flight or "(its" in edge.lane]


def _ended_by(run: Play, name: str) -> list[str]:
    """Look at the end of the session: it must tell of the node that was killed, and of no other."""
    try:
        run.session.wait(5.0)
    except NodeError as error:
        return [] if error.node == name else [f"the session tells of another failure: {error}"]
    except (RmbusError, TimeoutError) as error:
        return [f"the session has ended otherwise: {error}"]
    return ["the session has not told of the kill"]
