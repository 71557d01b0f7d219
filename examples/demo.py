"""The demo: every picture of a film becomes a pencil drawing, and the sound stays as it is.

    scripts/demo [IN [OUT]] [--on ADDRESS] [--json]

`Edges` is defined in this file and works with the package `effects` beside it. It runs on the host at `on`, which gets
both sent; reader and writer run here. The command starts a host for it; this file alone runs all on this machine:

    python examples/demo.py IN OUT
"""

from __future__ import annotations

import sys

from rmbus import Input, Node, Output, Pipeline, Video, VideoFrame
from rmbus.nodes import MediaReader, MediaWriter


class Edges(Node):
    """Draws the edges of a picture with a pencil.

    Args:
        threshold: how clear an edge must be to be drawn: more gives fewer lines.
    """

    video = Input(Video("rgb24"))
    drawing = Output(Video("rgb24"))
    deterministic = True

    def __init__(self, threshold: int = 32) -> None:
        self.threshold = threshold

    def process(self, frame: VideoFrame) -> VideoFrame:
        from effects import edges  # nobody has declared it: it is found, and sent along

        return frame.with_array(edges.draw(frame.array, self.threshold))


def pipeline(film: str, out: str, *, on: str = "local") -> Pipeline:
    """Return the demo's graph: pictures through `Edges` on the host at `on`, sound straight to the writer."""
    reader = MediaReader(film).options(name="reader", on="local")
    edges = Edges().options(name="edges", on=on)
    quick = {"preset": "ultrafast"} if out.endswith((".mp4", ".mkv", ".mov")) else {}  # H.264: a drawing is hard work
    writer = MediaWriter(out, video_options=quick).options(name="writer", on="local")
    graph = reader.video >> edges >> writer.video
    if MediaReader.probe(film).audio_codec:
        graph |= reader.audio >> writer.audio
    return graph


if __name__ == "__main__":
    print(pipeline(*sys.argv[1:3]).run())
