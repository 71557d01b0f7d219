"""Nodes that pass frames on, all of them or some."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rmbus import Data, Node, Packet, Pipeline, VideoFrame, testing
from rmbus.errors import FormatError
from rmbus.nodes import Merge, Select, Throttle
from rmbus.testing import run_node


def test_select_passes_on_what_is_wanted() -> None:
    frames = testing.video(6)
    out = run_node(Select(lambda frame: frame.pts % 2), frames)
    assert [frame.pts for frame in out] == [1, 3, 5]
    assert out[0].array.tolist() == frames[1].array.tolist()
    with pytest.raises(TypeError, match="Select takes a function, not 3"):
        Select(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rate", "passed"),
    [
        (25, list(range(50))),
        (100, list(range(50))),
        (12.5, list(range(0, 50, 2))),
        (10, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38, 40, 43, 45, 48]),
        (1, [0, 25]),
    ],
)
def test_throttle_by_the_time_of_the_frames(rate: float, passed: list[int]) -> None:
    """On the long run the rate is kept, also where it is no part of theirs."""
    assert [frame.pts for frame in run_node(Throttle(rate), testing.video(50))] == passed


def test_throttle_goes_on_after_a_gap_and_a_leap_back() -> None:
    times = [0, 1, 50, 51, 52, 53, 2, 3, 4, 5]
    frames = [frame.stamped(pts=at) for frame, at in zip(testing.video(10), times, strict=True)]
    assert [frame.pts for frame in run_node(Throttle(12.5), frames)] == [0, 50, 52, 2, 4]


def test_throttle_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values without a time."""
    moments = iter([0.0, 0.05, 0.099, 0.1, 0.15, 0.21])
    monkeypatch.setattr("rmbus.nodes.flow.monotonic_ns", lambda: round(next(moments) * 1e9))
    assert [frame.value for frame in run_node(Throttle(10), [Data(n) for n in range(6)])] == [0, 3, 5]


def test_throttle_begins_anew_with_a_turn() -> None:
    node = Throttle(1)
    first, second = testing.video(2)
    assert node.process(first) is first
    assert node.process(second) is None
    node.interrupted()
    assert node.process(second) is second


def test_packets_that_need_each_other_are_not_throttled() -> None:
    with pytest.raises(FormatError, match="throttle: packets of h264 cannot be left out: throttle the pictures"):
        run_node(Throttle(1), [Packet(b"1", "h264", key=True, pts=0)])
    assert len(run_node(Throttle(1), [Packet(b"1", "opus", key=True, pts=0)])) == 1


class Counts(Node):
    def __init__(self, first: int) -> None:
        self.first = first

    def process(self) -> Iterator[Any]:
        yield from range(self.first, self.first + 3)


def test_merge_passes_on_all_of_all() -> None:
    merged = Merge()
    seen: list[int] = []
    sink = Select(lambda frame: seen.append(frame.value))
    ((Counts(0) >> merged) | (Counts(10) >> merged) | Pipeline([merged, sink])).run(on="inline")
    assert sorted(seen) == [0, 1, 2, 10, 11, 12]
    assert [number for number in seen if number < 10] == [0, 1, 2]


def test_frames_come_out_as_they_went_in() -> None:
    frame = testing.video(1)[0]
    assert isinstance(frame, VideoFrame)
    assert Select(lambda _: True).process(frame) is frame
    assert Merge().process(frame) is frame
