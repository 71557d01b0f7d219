"""What hosts tell of a session, put together: accounts, the report, and whether anything still moves. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from rmbus.plan import Plan, PlannedEdge
from rmbus.report import EdgeReport, NodeReport, Report, latencies
from rmbus.runtime.inline import InlineResult

INLINE: Final = "inline"

Account = Mapping[str, Any]
"""The account of one edge, or of one node, as one host gives it."""


@attrs.define
class Accounts:
    """The accounts of a session at one moment.

    Attributes:
        edges: by the edge's number; two for an edge between two gateways, each of whose hosts knows its end. Hosts that
            have met read one and the same page: of what they tell, the latest counts.
        nodes: by the node's number.
    """

    edges: dict[int, list[Account]] = attrs.field(factory=dict[int, list[Account]])
    nodes: dict[int, Account] = attrs.field(factory=dict[int, Account])

    def add(self, told: Mapping[str, Any]) -> None:
        """Take in what one host tells."""
        for account in told["edges"]:
            sides = self.edges.setdefault(account["edge"], [])
            if sides and account.get("met"):
                sides[0] = _latest(sides[0], account)
            else:
                sides.append(account)
        self.nodes.update({account["node"]: account for account in told["nodes"]})

    @property
    def moved(self) -> int:
        """A number that changes whenever a frame moves."""
        return sum(side["published"] + side["delivered"] for sides in self.edges.values() for side in sides)

    @property
    def all_wait(self) -> bool:
        """Whether every node waits, at least one of them for room, and none for a frame that is on its way to it."""
        doing = {number: node["doing"] for number, node in self.nodes.items() if node["doing"] != "ended"}
        idle = {number for number, state in doing.items() if state == "waiting"}
        if any(self._under_way(sides) for sides in self.edges.values() if idle & {side["consumer"] for side in sides}):
            return False  # it was stopped, or is slow to wake
        return "blocked" in doing.values() and all(each in ("blocked", "waiting") for each in doing.values())

    @staticmethod
    def _under_way(sides: Sequence[Account]) -> bool:
        published = _most(sides, "published") + _most(sides, "duplicates")
        return published > _most(sides, "delivered") + sum(sum(side["dropped"].values()) for side in sides)

    def waiting(self, plan: Plan) -> list[str]:
        """Say of each edge who waits for what."""
        told: list[str] = []
        for edge in plan.edges:
            sides = self.edges.get(edge.number, [])
            published, delivered = _most(sides, "published"), _most(sides, "delivered")
            full = any(side["blocked_since"] for side in sides)
            why = f"full, {edge.producer.name} waits for room" if full else f"{edge.consumer.name} waits for a frame"
            told.append(f"{edge.name}: {why} ({published} published, {delivered} delivered)")
        return told


def make_report(
    plan: Plan,
    accounts: Accounts,
    nodes: Sequence[NodeReport],
    seconds: float,
    error: BaseException | None,
    *,
    closed: bool,
) -> Report:
    """Return the report of a session.

    Args:
        plan: what ran. accounts: what the hosts tell. nodes: in the order of the plan.
        seconds: how long it has run. error: why it ended early.
        closed: whether it is over, so that what is under way will not arrive.
    """
    edges = [_edge_report(edge, accounts.edges.get(edge.number, []), closed=closed) for edge in plan.edges]
    last = [edge for edge in plan.edges if edge.consumer.number in plan.ends]
    p50, p99 = latencies(side["latency"] for edge in last for side in accounts.edges.get(edge.number, []))
    told = "" if error is None else next(iter(str(error).splitlines()), "")
    return Report(
        nodes=tuple(nodes),
        edges=tuple(edges),
        seconds=seconds,
        frames=sum(
            node.frames_in for planned, node in zip(plan.nodes, nodes, strict=True) if planned.number in plan.ends
        ),
        latency_p50_s=p50,
        latency_p99_s=p99,
        error=told or ("" if error is None else type(error).__name__),
    )


def inline_report(result: InlineResult) -> Report:
    """Return the report of an inline run."""
    nodes = tuple(
        NodeReport(count.name, INLINE, os.getpid(), "trusted", True, "", "ended", count.frames_in, count.frames_out)
        for count in result.nodes
    )
    edges = tuple(
        EdgeReport(
            edge.name, edge.delivery, INLINE, edge.published, edge.delivered, edge.dropped, edge.bytes, None, None
        )
        for edge in result.edges
    )
    sources = {edge.name.split(".")[0] for edge in result.edges}
    frames = sum(node.frames_in for node in nodes if node.name not in sources)
    return Report(nodes, edges, result.seconds, frames)


def _latest(one: Account, other: Account) -> Account:
    """Return that of two accounts of one page which was taken later: its counters never fall."""
    ends = {key: max(one[key], other[key]) for key in ("producer", "consumer")}  # each knows the number of its own
    latest = one if _counted(one) > _counted(other) else other
    return {**latest, **ends}


def _counted(account: Account) -> int:
    return int(account["published"] + account["delivered"] + sum(account["dropped"].values()))


def _most(sides: Sequence[Account], key: str) -> int:
    return max((int(side[key]) for side in sides), default=0)


def _edge_report(edge: PlannedEdge, sides: Sequence[Account], *, closed: bool) -> EdgeReport:
    published, delivered = _most(sides, "published"), _most(sides, "delivered")
    dropped: dict[str, int] = {}
    for side in sides:
        for reason, count in side["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count
    duplicates = _most(sides, "duplicates")
    published = max(
        published, delivered + sum(dropped.values()) - duplicates
    )  # where the producer's host is lost, it tells no more
    under_way = published + duplicates - delivered - sum(dropped.values())
    if closed and under_way > 0:
        dropped["stopped"] = dropped.get("stopped", 0) + under_way
    p50, p99 = latencies(side["latency"] for side in sides)
    return EdgeReport(
        name=edge.name,
        delivery=str(edge.delivery),
        lane=next((side["lane"] for side in sides), ""),
        published=published,
        delivered=delivered,
        dropped=dropped,
        bytes=_most(sides, "bytes"),
        latency_p50_s=p50,
        latency_p99_s=p99,
        shared=_most(sides, "shared"),
        pinned=_most(sides, "pinned"),
        duplicates=duplicates,
    )
