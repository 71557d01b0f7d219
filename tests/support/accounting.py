"""Whether accounts close: a frame that was published is delivered or dropped, or still on its way."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from rmbus import session
from rmbus.accounts import Accounts, inline_report, make_report
from rmbus.plan import Plan
from rmbus.report import EdgeReport, NodeReport, Report
from rmbus.runtime.inline import InlineResult

Account = Mapping[str, Any]


def under_way(sides: Sequence[Account]) -> int:
    """Return how many frames of an edge are neither delivered nor dropped, by what each of its hosts tells."""
    most = {key: max(int(side[key]) for side in sides) for key in ("published", "duplicates", "delivered")}
    dropped = sum(sum(side["dropped"].values()) for side in sides)
    return most["published"] + most["duplicates"] - most["delivered"] - dropped


def open_edges(edges: Iterable[EdgeReport], *, at_rest: bool) -> list[str]:
    """Say which edges of a report have less than nothing under way, or, at rest, anything."""
    return [
        f"{edge.name}: {edge.in_flight} under way {'at rest' if at_rest else ''}: {edge}"
        for edge in edges
        if edge.in_flight < 0 or (at_rest and edge.in_flight)
    ]


@contextmanager
def audit() -> Generator[list[str]]:
    """Look at every account that the sessions of this process take; yield the list of what is wrong with them.

    The accounts themselves are looked at too, before a report makes them good: in a run that has ended well every edge
    is at rest, and on no edge of one host is there ever less than nothing under way.
    """
    wrong: list[str] = []

    def report(
        plan: Plan,
        accounts: Accounts,
        nodes: Sequence[NodeReport],
        seconds: float,
        error: BaseException | None,
        *,
        closed: bool,
    ) -> Report:
        made = make_report(plan, accounts, nodes, seconds, error, closed=closed)
        wrong.extend(open_edges(made.edges, at_rest=closed))
        for edge in plan.edges:
            sides = accounts.edges.get(edge.number, [])
            left = under_way(sides) if sides else 0
            if (left < 0 and len(sides) == 1) or (left and closed and error is None):
                wrong.append(f"{edge.name}: {left} under way{' at the end' if closed else ''} by its account: {sides}")
        return made

    def inline(result: InlineResult) -> Report:
        made = inline_report(result)
        wrong.extend(open_edges(made.edges, at_rest=True))
        return made

    with patch.object(session, "make_report", report), patch.object(session, "inline_report", inline):
        yield wrong
