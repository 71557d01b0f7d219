"""What the types of graphs promise. Read by mypy and pyright; as tests they say the same at run time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

import pytest

from rmbus import (
    Audio,
    Input,
    Interrupt,
    Needs,
    Node,
    Output,
    Pipeline,
    Report,
    Session,
    Video,
    VideoFrame,
    drop_oldest,
    latest,
    reliable,
)
from rmbus.errors import PipelineError


class Camera(Node):
    video = Output(Video("rgb24"), live=True)

    def process(self) -> Iterator[VideoFrame]:
        return iter(())


class Edges(Node):
    needs = Needs(memory_mb=100)
    video = Input(Video("rgb24"))
    lines = Output(Video("rgb24"))
    counts = Output(int)

    def __init__(self, threshold: int = 3) -> None:
        self.threshold = threshold

    def process(self, frame: VideoFrame) -> Iterator[tuple[Output, int] | VideoFrame | Interrupt]:
        yield self.counts, self.threshold
        yield frame


class Film(Node):
    video = Input(Video("rgb24"))
    audio = Input(Audio(), optional=True)

    def process(self, frame: VideoFrame, port: str) -> None:
        return None


def test_ports_and_nodes_keep_their_types() -> None:
    """A port is an Input or an Output wherever it is read, and options() gives the class that it was called on."""
    node = Edges(4).options(name="edges", restart="on-failure")
    assert_type(node, Edges)
    assert_type(node.video, Input)
    assert_type(Edges.lines, Output)
    assert node.threshold == 4
    assert node.lines.node is node


def test_what_joins_is_a_pipeline() -> None:
    """Nodes, ports and pipelines join to pipelines, by operators, by to() and by a list."""
    camera, edges, film = Camera(), Edges(), Film()
    line = camera >> edges.video
    assert_type(line, Pipeline)
    assert_type(edges.lines >> film.video, Pipeline)
    assert_type(edges.lines.to(film.video, delivery=drop_oldest(4), deadline_ms=40), Pipeline)
    both = line | (edges.lines >> film.video)
    assert_type(both, Pipeline)
    assert_type(Pipeline([camera, edges.video], name="line"), Pipeline)
    assert_type(both.get_node("film"), Node | None)
    assert [type(node) for node in both] == [Camera, Edges, Film]


def test_deliveries_are_one_type() -> None:
    """The three policies can stand in one list, in place of one another."""
    kinds = [latest, drop_oldest(2), reliable(8)]
    assert len({type(each) for each in kinds}) == 1


def test_a_node_is_no_number() -> None:
    """What cannot be joined is refused by checkers and at run time."""
    with pytest.raises((PipelineError, TypeError)):
        _ = Camera() >> 3  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]


def running(pipeline: Pipeline) -> None:
    """Say the types of what runs; it is read by the checkers, and never called."""
    assert_type(pipeline.run(on="inline"), Report)
    with pipeline.start() as session:
        assert_type(session, Session)
        assert_type(session.wait(timeout_s=1), Report)
    report = session.stop()
    assert_type(report.dropped, dict[str, int])
    assert_type(report.to_json(), str)
