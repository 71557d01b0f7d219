"""Two machines: the film is read and written here, and the work is done on the host at an address.

rmbus host --listen tcp://127.0.0.1:7700          (there)
python examples/first_day/two_machines.py tcp://127.0.0.1:7700 IN OUT

The class is in this script and has never been on that machine: it is sent, once.
"""

from __future__ import annotations

import sys
from collections import deque

import numpy as np
from numpy.typing import NDArray

from rmbus import Input, Node, Output, Video, VideoFrame
from rmbus.nodes import MediaReader, MediaWriter


class Trails(Node):
    """The brightest of the last pictures: what moves leaves a trail."""

    picture = Input(Video("rgb24"))
    trails = Output(Video("rgb24"))

    def __init__(self, length: int = 5) -> None:
        self.length = length

    def initialize(self) -> None:  # there, before the first picture
        self._last: deque[NDArray[np.uint8]] = deque(maxlen=self.length)

    def process(self, frame: VideoFrame) -> VideoFrame:
        self._last.append(frame.array)
        return frame.with_array(np.maximum.reduce(list(self._last)))


def main(address: str, film: str, out: str) -> None:
    reader, writer = MediaReader(film), MediaWriter(out)
    trails = Trails(length=8).options(on=address)
    report = (reader.video >> trails >> writer.video).run()
    there = report.node("trails")
    print(report)
    print(f"{there.frames_in} pictures went through process {there.pid} of {there.host}, in level {there.level}")


if __name__ == "__main__":
    main(*sys.argv[1:])
