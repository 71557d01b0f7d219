"""Pipelines in processes of their own: what goes in comes out, and the account is right to the frame."""

from __future__ import annotations

import ast
import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streams import (
    Ahead,
    Burst,
    Corners,
    Count,
    Deltas,
    Double,
    Echo,
    Fail,
    Fork,
    Negative,
    Odd,
    Pair,
    Pictures,
    Poll,
    Reuse,
    Seer,
    Shout,
    Spark,
    Take,
    TwoSounds,
)
from watch import ended

from rmbus import Data, Node, NodeError, Pipeline, Report, VideoFrame, drop_oldest, latest, reliable
from rmbus.delivery import Delivery
from rmbus.errors import PackagingError, PipelineError, Stalled
from rmbus.media import Frame
from rmbus.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # real processes

Lines = dict[str, list[str]]


def run(pipeline: Pipeline, **options: object) -> tuple[Report, Lines]:
    """Run a pipeline in processes; return its report, and what each node printed."""
    lines: Lines = {}

    def keep(node: str, host: str, said: Sequence[str], suppressed: int) -> None:
        lines.setdefault(node, []).extend(said)
        if suppressed:
            lines.setdefault(f"{node} suppressed", []).append(str(suppressed))

    session = Session(pipeline, on_log=keep)
    with session:
        report = session.wait(15)
    check_account(report)
    return report, lines


def check_account(report: Report) -> None:
    """At rest every frame that was published was delivered, or dropped for a reason."""
    for edge in report.edges:
        assert edge.in_flight == 0, edge
        assert edge.published == edge.delivered + sum(edge.dropped.values()), edge


def value(frame: Frame) -> object:
    """Return what a frame of data holds."""
    assert isinstance(frame, Data)
    return frame.value


def got(lines: Lines, node: str = "take") -> list[Any]:
    """Return what a `Take` was given."""
    return list(ast.literal_eval(lines[node][-1].removeprefix("got ")))


def test_a_line_of_three() -> None:
    """Every value arrives, in order, and the report names host, level and counts."""
    report, lines = run(Count(100) >> Double() >> Take())
    assert got(lines) == [2 * number for number in range(100)]
    assert [(node.name, node.host, node.level, node.state) for node in report.nodes] == [
        ("count", "local", "trusted", "ended"),
        ("double", "local", "trusted", "ended"),
        ("take", "local", "trusted", "ended"),
    ]
    assert report.frames == 100
    assert report.dropped == {}
    assert report.latency_p50_s is not None
    assert 0 < report.latency_p50_s <= (report.latency_p99_s or 0)


def test_fan_out_with_each_its_delivery() -> None:
    """A slow reader with a dropping delivery loses frames, counted; the other loses none."""
    source, fast, slow = Count(200, every_s=0.002), Take(), Take(every_s=0.02).options(name="slow")
    p = (source >> fast) | source["out"].to(slow, delivery=drop_oldest(3))
    report, lines = run(p)
    assert got(lines) == list(range(200))
    seen = got(lines, "slow")
    assert seen == sorted(seen)
    assert seen[-1] == 199  # the newest is never dropped
    edges = {edge.name: edge for edge in report.edges}
    lossy = edges["count.out -> slow.in"]
    assert lossy.dropped == {"overflow": 200 - len(seen)}
    assert lossy.dropped["overflow"] > 50
    assert edges["count.out -> take.in"].dropped == {}


def test_latest_keeps_the_newest() -> None:
    """Of what came while the consumer was busy only the newest is delivered."""
    source = Count(150, every_s=0.002)
    report, lines = run(source["out"].to(Take(every_s=0.03), delivery=latest))
    seen = got(lines)
    assert seen[-1] == 149
    assert report.edges[0].dropped == {"overflow": 150 - len(seen)}
    assert len(seen) < 60


def test_two_inputs_end_when_both_have() -> None:
    """A node with two inputs is flushed once, when both have ended."""
    one, other, pair = Count(30), Count(50).options(name="other"), Pair()
    _, lines = run((one >> pair.left) | (other >> pair.right) | (pair >> Take()))
    assert lines["take"][-1] == "got [{'left': 30, 'right': 50}]"


def test_one_output_far_ahead_of_the_other_does_not_deadlock() -> None:
    """The shape of a film whose sound is far ahead: one port through a node, the other straight."""
    source, pair = TwoSounds(60, ahead=500), Pair()
    p = (source.early >> pair.left) | (source.late >> Double() >> pair.right) | (pair >> Take())
    _, lines = run(p)
    assert lines["take"][-1] == "got [{'left': 60, 'right': 60}]"


def test_a_graph_that_cannot_go_on_is_reported() -> None:
    """A ring that fills itself up ends with an error that names the edges which are full."""
    spark, echo = Spark(), Echo()
    p = (Count(1) >> spark.start) | (spark >> echo.back) | (echo.out >> spark.ring)
    with pytest.raises(Stalled) as caught:
        run(p)
    assert any("spark.out -> echo.back: full" in edge for edge in caught.value.edges)
    assert any("echo.out -> spark.ring: full" in edge for edge in caught.value.edges)


def test_a_failure_is_both_types_and_says_where() -> None:
    """`except ValueError` and `except NodeError` both catch it; it carries node, host, frame and traceback."""
    with pytest.raises(ValueError, match="7 is too many") as caught:
        run(Count(20) >> Fail(7) >> Take())
    error = caught.value
    assert isinstance(error, NodeError)
    assert (error.node, error.host, error.frame, error.type_name) == ("fail", "local", 7, "ValueError")
    assert "streams.py" in error.traceback_text
    assert "rmbus/runtime" not in error.traceback_text


def test_what_a_node_prints_is_rate_limited() -> None:
    """A node that prints thousands of lines is heard, and the number of lines held back is told."""
    _, lines = run(Count(1) >> Shout())
    passed, suppressed = len(lines["shout"]), sum(int(count) for count in lines["shout suppressed"])
    assert passed + suppressed == 3000
    assert 400 <= passed < 1500


def test_what_a_node_has_forked_ends_with_it() -> None:
    """A child that the user's code has forked does not outlive the run."""
    _, lines = run(Count(1) >> Fork() >> Take())
    (child,) = got(lines)
    assert ended(child, time.monotonic() + 2)


@pytest.mark.parametrize(
    ("how", "kind", "wanted"),
    [
        ("group", ExceptionGroup, "two of them"),
        ("mute", RuntimeError, "its message cannot be had"),
        ("surrogate", ValueError, "bad \\\\udc80 text"),
        ("exit", NodeError, "SystemExit"),
    ],
)
def test_odd_failures_arrive_too(how: str, kind: type[Exception], wanted: str) -> None:
    """Groups, errors whose text cannot be had or sent, and exits: each is told, and nobody waits in vain."""
    with pytest.raises(NodeError, match=wanted) as caught:
        run(Count(3) >> Odd(how) >> Take())
    assert caught.value.node == "odd"
    assert isinstance(caught.value, NodeError if how == "group" else kind)


def test_duration_drains() -> None:
    """After `duration_s` the sources end, and what was sent is finished."""
    report = (Count(100_000, every_s=0.002) >> Take()).run(duration_s=0.3)
    check_account(report)
    assert 20 < report.frames < 2000
    assert all(node.state == "ended" for node in report.nodes)


def test_a_source_that_waits_drains() -> None:
    """It yields None meanwhile, so that it can be told to end."""
    report = (Poll() >> Take()).run(duration_s=0.1)
    assert report.frames == 0
    assert all(node.state == "ended" for node in report.nodes)


@pytest.mark.parametrize("delivery", [None, reliable(300), drop_oldest(100)])
def test_what_a_source_has_sent_goes_while_its_code_waits(tmp_path: Path, delivery: Delivery | None) -> None:
    """Though more waits than may be under way at once: the last is seen before the source's code goes on."""
    seen = str(tmp_path / "seen")
    source, seer = Ahead(100, seen), Seer(100, seen)
    report, _ = run(source["out"].to(seer, delivery=delivery))
    assert report.edges[0].delivered == 100


def test_what_a_node_has_sent_goes_while_its_code_waits(tmp_path: Path) -> None:
    """Likewise between two frames that it gets."""
    seen = str(tmp_path / "seen")
    report, _ = run(Count(3) >> Burst(100, seen) >> Seer(100, seen))
    assert report.edges[-1].delivered == 300


def test_a_node_is_not_spoken_to_while_its_code_runs(tmp_path: Path) -> None:
    """Though what its consumers ask for is heard meanwhile, by the thread that sends what waits."""
    seen = str(tmp_path / "seen")
    _, lines = run(Deltas(100, seen)["out"].to(Seer(100, seen, every_s=0.005), delivery=reliable(100)))
    assert lines["deltas"] == ["asked between two values"]


def test_process_through_processes() -> None:
    """`process` feeds the open input and gives what comes out, in order, wherever the nodes are."""
    results = Pipeline([Double(), Double().options(name="again")]).process(range(20), on="local")
    assert [value(frame) for frame in results] == [4 * number for number in range(20)]


def test_arrays_become_what_the_input_takes() -> None:
    """An array that is given to an input of a video format arrives as a picture."""
    pictures = [np.full((4, 6, 3), number, np.uint8) for number in range(3)]
    results = list(Pipeline([Negative()]).process(pictures, on="local"))
    assert all(isinstance(frame, VideoFrame) for frame in results)
    assert [int(frame.array[0, 0, 0]) for frame in results if isinstance(frame, VideoFrame)] == [255, 254, 253]


@pytest.mark.parametrize("on", ["local", "inline"])
def test_a_node_may_reuse_its_array(on: str) -> None:
    """What was sent does not change when the node draws the next picture into the same array."""
    pictures = [VideoFrame(np.full((240, 320, 3), number, np.uint8), pts=number) for number in range(40)]
    seen = list(Pipeline([Reuse()]).process(pictures, on=on))
    assert [(f.pts, int(f.array[0, 0, 0]), int(f.array[-1, -1, -1])) for f in seen if isinstance(f, VideoFrame)] == [
        (number, number, number) for number in range(40)
    ]


def test_pictures_that_wait_do_not_change() -> None:
    """The same, with a slow reader, so that pictures wait in the mailbox."""
    _, lines = run(Pictures() >> Reuse() >> Corners() >> Take())
    assert got(lines) == [[number] * 3 for number in range(40)]


async def test_process_through_processes_for_async_for() -> None:
    """The same with `async for`, and the event loop is not blocked."""
    results = Pipeline([Double()]).process(range(5), on="local")
    assert [value(frame) async for frame in results] == [0, 2, 4, 6, 8]


async def test_results_that_are_given_up_end_the_run() -> None:
    """Cancelling whoever waits for results ends the session and its host, and is told as the cancellation it is."""
    results = Pipeline([Double()]).process(Count(100_000, every_s=0.05).process(), on="local")

    async def read() -> None:
        async for frame in results:
            assert isinstance(value(frame), int)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 4)
    await results.aclose()


def test_process_gives_the_failure_of_the_items() -> None:
    """What the caller's own iterator raises comes back as it is."""

    def items() -> object:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(Pipeline([Double()]).process(items(), on="local"))  # type: ignore[arg-type]


def test_inline_gives_the_same() -> None:
    """The same pipeline by another argument: the report has the same counts."""
    report = (Count(25) >> Double() >> Take()).run(on="inline")
    assert [(node.name, node.frames_in, node.frames_out) for node in report.nodes] == [
        ("count", 0, 25),
        ("double", 25, 25),
        ("take", 25, 0),
    ]
    check_account(report)


def test_what_cannot_be_pickled_is_named_before_anything_runs() -> None:
    """The error names the attribute by its path."""

    class Held(Node):
        def __init__(self) -> None:
            self.inner = {"lock": threading.Lock()}

        def process(self, frame: object) -> None: ...

    with pytest.raises(PackagingError, match=r"inner.*lock"):
        (Count(3) >> Held()).run()


def test_a_short_line_is_refused_with_the_ports_listed() -> None:
    """A source with two outputs joined as if it had one: nothing is lost silently."""
    with pytest.raises(PipelineError, match=r"early.*late"):
        _ = TwoSounds(3, 0) >> Take()
