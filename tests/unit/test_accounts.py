"""What the hosts of a run tell, put together."""

from __future__ import annotations

from typing import Any

import pytest

from rmbus.accounts import Accounts, make_report
from rmbus.node import Node
from rmbus.plan import Plan, make_plan
from rmbus.report import EdgeReport, NodeReport


class First(Node):
    def process(self) -> int:
        return 1


class Second(Node):
    def process(self, frame: Any) -> None: ...


@pytest.fixture
def plan() -> Plan:
    return make_plan(First() >> Second(), ["local", "tcp://127.0.0.1:1"])


def account(**fields: Any) -> dict[str, Any]:
    """Return the account of edge 0, with all that is not given at zero."""
    zero = dict.fromkeys(("edge", "bytes", "shared", "pinned", "duplicates", "blocked_since", "began"), 0)
    ends = {"producer": -1, "consumer": -1, "published": 0, "delivered": 0}
    return {**zero, **ends, "dropped": {}, "latency": {}, "lane": "", "met": False, **fields}


def report(plan: Plan, *told: dict[str, Any]) -> EdgeReport:
    """Return what the report of a run that is over says of its edge, given what each host told."""
    accounts = Accounts()
    for each in told:
        accounts.add({"edges": [each], "nodes": []})
    nodes = [NodeReport(node.name, "", 0, "", True, "", "ended", 0, 0) for node in plan.nodes]
    (edge,) = make_report(plan, accounts, nodes, 1.0, None, closed=True).edges
    return edge


PRODUCER = {"producer": 0, "published": 10, "dropped": {"overflow": 3}}
CONSUMER = {"consumer": 1, "delivered": 5, "dropped": {"interrupted": 2}}


def test_two_gateways_each_know_their_end(plan: Plan) -> None:
    """What the producer's host tells and what the consumer's host tells add up."""
    edge = report(plan, account(**PRODUCER), account(**CONSUMER))
    assert (edge.published, edge.delivered, edge.dropped) == (10, 5, {"overflow": 3, "interrupted": 2})


def test_hosts_that_have_met_tell_of_one_page(plan: Plan) -> None:
    """Both tell all of it, and it counts once."""
    page: dict[str, Any] = {"published": 10, "delivered": 5, "dropped": {"overflow": 3, "interrupted": 2}, "met": True}
    edge = report(plan, account(**page, producer=0, shared=7), account(**page, consumer=1, shared=7))
    assert (edge.published, edge.delivered, edge.shared) == (10, 5, 7)
    assert edge.dropped == {"overflow": 3, "interrupted": 2}


@pytest.mark.parametrize("first", [0, 1])
def test_the_later_look_at_a_page_counts(plan: Plan, first: int) -> None:
    """Where a host is lost, what it told last is older than what the other tells; whichever comes first."""
    older = account(producer=0, published=4, delivered=2, met=True)
    newer = account(consumer=1, published=10, delivered=9, dropped={"overflow": 1}, met=True)
    told = [older, newer]
    edge = report(plan, told[first], told[1 - first])
    assert (edge.published, edge.delivered, edge.dropped) == (10, 9, {"overflow": 1})


def test_a_page_knows_both_ends_of_its_edge() -> None:
    """Each host knows the number of its own node; together they know whether somebody waits for a frame on its way."""
    accounts = Accounts()
    doing = {"node": 1, "doing": "waiting"}
    page = {"published": 10, "delivered": 9, "met": True}
    accounts.add({"edges": [account(**page, consumer=1)], "nodes": [doing]})
    accounts.add({"edges": [account(**page, producer=0)], "nodes": [{"node": 0, "doing": "blocked"}]})
    (side,) = accounts.edges[0]
    assert (side["producer"], side["consumer"]) == (0, 1)
    assert accounts.moved == 19
    assert not accounts.all_wait
