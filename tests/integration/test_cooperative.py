"""Nodes whose code is async: it runs in one event loop, which serves the lanes while the code awaits."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import pytest
from awaiting import AsyncCount, AsyncDouble, AsyncFail, AsyncTwice, Background, OwnTimeout, Sleeper, Turns
from streams import Count, Take

from rmbus import NodeError, Pipeline, Report
from rmbus.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def run(pipeline: Pipeline) -> tuple[Report, dict[str, list[str]]]:
    """Run a pipeline; return its report, and what each node printed."""
    lines: dict[str, list[str]] = {}

    def keep(node: str, host: str, said: Sequence[str], suppressed: int) -> None:
        lines.setdefault(node, []).extend(said)

    with Session(pipeline, on_log=keep) as session:
        report = session.wait(30)
    assert all(edge.in_flight == 0 for edge in report.edges)
    return report, lines


def got(lines: dict[str, list[str]]) -> list[int]:
    """Return what the `Take` at the end was given."""
    return list(ast.literal_eval(lines["take"][-1].removeprefix("got ")))


def test_a_coroutine_for_each_frame_and_at_the_end() -> None:
    """Results come in order, and flush is awaited in the same loop as initialize and process."""
    report, lines = run(Count(500) >> AsyncDouble() >> Take())
    assert got(lines) == [*range(0, 1000, 2), -1]
    assert report.node("asyncdouble").frames_in == 500


def test_an_async_generator_and_an_async_source() -> None:
    """What is yielded goes out in order, under back-pressure."""
    _, lines = run(AsyncCount(200) >> AsyncTwice() >> Take())
    assert got(lines) == [number for number in range(200) for _ in range(2)]


def test_a_task_of_the_nodes_own_goes_on_between_frames() -> None:
    """The loop runs while no frame is there."""
    _, lines = run(Count(20, every_s=0.02) >> Background() >> Take())
    turns = got(lines)
    assert turns == sorted(turns)
    assert turns[-1] >= 10


def test_what_a_coroutine_raises_is_raised_at_home() -> None:
    """With its own type, its node and its frame."""
    with pytest.raises(LookupError, match="three is too many") as raised, Session(Count(9) >> AsyncFail()) as session:
        session.wait(30)
    assert isinstance(raised.value, NodeError)
    assert raised.value.frame == 3


def test_a_nodes_own_time_out_is_no_cancellation() -> None:
    """It is an error as any other."""
    with pytest.raises(TimeoutError) as raised, Session(Count(1) >> OwnTimeout()) as session:
        session.wait(30)
    assert isinstance(raised.value, NodeError)


def test_a_new_turn_cancels_what_is_awaited() -> None:
    """The frame of the old turn is given up, `interrupted` follows, and the frame of the new turn is untouched."""
    _, lines = run(Turns() >> Sleeper() >> Take())
    assert lines["sleeper"] == ["cancelled", "interrupted"]
    assert got(lines) == [2]
