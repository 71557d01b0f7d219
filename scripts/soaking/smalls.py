"""Nodes for small frames."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rmbus import Data, Node


class Numbers(Node):
    """A source of whole numbers, without end."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s

    def process(self) -> Iterator[int]:
        """Count."""
        number = 0
        while True:
            yield number
            number += 1
            time.sleep(self.every_s)


class Double(Node):
    """Doubles."""

    def process(self, frame: Data) -> int:
        """Return twice the number."""
        value: int = frame.value
        return 2 * value


class Total(Node):
    """Looks whether the numbers are even, and come in order."""

    def initialize(self) -> None:
        """Begin."""
        self.last = -1

    def process(self, frame: Data) -> None:
        """Look at a number; whoever reads the log sees what is wrong."""
        if frame.value % 2 or frame.value <= self.last:
            print(f"torn: {frame.value} came after {self.last}")
        self.last = frame.value
