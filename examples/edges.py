"""A node in a file: the outlines of a picture, white on black.

rmbus run examples/edges.py:Edges -i in.mp4 -o out.mp4
rmbus run examples/edges.py:Edges --in camera/video --out edges/video
"""

from __future__ import annotations

import numpy as np

from rmbus import Input, Node, Output, Video, VideoFrame


class Edges(Node):
    """Shows where neighbouring pixels differ."""

    video = Input(Video("rgb24"))
    outlines = Output(Video("rgb24"))

    def process(self, frame: VideoFrame) -> VideoFrame:
        grey = frame.array.mean(axis=2, dtype=np.float32)
        down, across = np.gradient(grey)
        steep = np.clip(4 * np.hypot(down, across), 0, 255).astype(np.uint8)
        return frame.with_array(np.repeat(steep[..., None], 3, axis=2))
