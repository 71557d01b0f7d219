"""A user's script that runs a film-like stream through a node on another host, for tests that break it on the way.

Run as `python running.py ADDRESS [FAULT]`; with `gateways` for a fault, the hosts do not meet. It prints a line of JSON
once the frames flow.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from accounting import audit

from rmbus import Input, Node, NodeError, Output, RmbusError, Session, Video, VideoFrame


class Frames(Node):
    out = Output(Video("rgb24"))

    def process(self) -> Iterator[VideoFrame]:
        for number in range(100_000):
            picture = np.full((90, 160, 3), number % 256, np.uint8)
            yield VideoFrame(picture, pts=number, time_base=Fraction(1, 25))
            time.sleep(0.005)


class Invert(Node):
    frames = Input(Video("rgb24"))
    out = Output(Video("rgb24"))

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.count = 0

    def process(self, frame: VideoFrame) -> VideoFrame:
        number, self.count = self.count, self.count + 1
        if self.fault == "raise" and number >= 20:
            print(f"line {number}")
        if self.fault == "raise" and number == 40:
            raise ValueError("forty is too many")
        return frame.with_array(255 - frame.array)


class Sink(Node):
    frames = Input(Video("rgb24"))

    def process(self, frame: VideoFrame) -> None:
        self.last = frame.pts


def wait_a_little(session: Session) -> None:
    with contextlib.suppress(TimeoutError):
        session.wait(0.02)


def main() -> None:
    address, fault = sys.argv[1], (sys.argv[2:] or ["none"])[0]
    with audit() as wrong:
        try:
            run(address, fault)
        finally:
            for line in wrong:
                print(f"accounts do not close: {line}", file=sys.stderr)


def run(address: str, fault: str) -> None:
    pipeline = Frames() >> Invert(fault).options(on=address) >> Sink()
    try:
        with Session(pipeline, fast=fault != "gateways") as session:
            while session.report().frames < 5:
                wait_a_little(session)
            nodes = {node.name: node.pid for node in session.report().nodes}
            print(json.dumps({"script": os.getpid(), "nodes": nodes}), flush=True)
            session.wait()
    except NodeError as error:
        told = {
            "error": type(error).__name__,
            "is_value_error": isinstance(error, ValueError),
            "text": str(error),
            "node": error.node,
            "host": error.host,
            "frame": error.frame,
            "output": list(error.output),
        }
        print(json.dumps(told), flush=True)
        sys.exit(1)
    except RmbusError as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
