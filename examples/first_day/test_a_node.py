"""The unit test of a node: no process, no socket, no film.

pytest examples/first_day/test_a_node.py
"""

from __future__ import annotations

from collections.abc import Iterator

from rmbus import Input, Node, Output, Video, VideoFrame
from rmbus.testing import run_node, video


class KeepEvery(Node):
    """Passes every n-th picture on, and at the end the last one, if it was held back."""

    pictures = Input(Video())
    kept = Output(Video())

    def __init__(self, n: int) -> None:
        self.n = n

    def initialize(self) -> None:
        self._count = 0
        self._held: VideoFrame | None = None

    def process(self, frame: VideoFrame) -> VideoFrame | None:
        self._count += 1
        self._held = None if self._count % self.n == 1 else frame
        return frame if self._held is None else None

    def flush(self) -> Iterator[VideoFrame]:
        if self._held is not None:
            yield self._held


def test_keeps_every_third_and_the_last() -> None:
    """Pictures 0, 3, 6 and, by `flush`, the last."""
    kept = run_node(KeepEvery(3), video(9))
    assert [frame.pts for frame in kept] == [0, 3, 6, 8]


def test_changes_no_picture() -> None:
    """What is passed on is what came."""
    pictures = video(4)
    kept = run_node(KeepEvery(2), pictures)
    assert (kept[1].array == pictures[2].array).all()
