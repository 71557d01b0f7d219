"""A node of one's own over a film: the picture is turned into its negative, the sound stays.

python examples/first_day/own_node.py IN OUT
"""

from __future__ import annotations

import sys

from rmbus import Input, Node, Output, Video, VideoFrame
from rmbus.nodes import MediaReader, MediaWriter


class Negative(Node):
    picture = Input(Video("rgb24"))
    negative = Output(Video("rgb24"))

    def process(self, frame: VideoFrame) -> VideoFrame:
        return frame.with_array(255 - frame.array)


def main(film: str, out: str) -> None:
    reader, writer = MediaReader(film), MediaWriter(out)
    pipeline = reader.video >> Negative() >> writer.video | reader.audio >> writer.audio
    print(pipeline)
    print(pipeline.run())


if __name__ == "__main__":
    main(*sys.argv[1:])
