"""The nodes of the main job, which tell what processor time their own code has taken."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

from demo import Edges

from rmbus import VideoFrame
from rmbus.media import Frame
from rmbus.nodes import MediaReader, MediaWriter

TOLD: Final = "processor "
"""What a node prints at its end begins so; then JSON, in nanoseconds.

`thread`: of the thread that runs the node's code. `inside`: of that, in the code. `before`: of that, before the code's
`initialize`. `process`: of all threads of the process.
"""


class Clock:
    """Counts the processor time of this thread in the blocks that it guards."""

    def __init__(self) -> None:
        self._before = time.thread_time_ns()
        self._inside = self._since = 0

    def __enter__(self) -> None:
        self._since = time.thread_time_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside += time.thread_time_ns() - self._since

    def tell(self) -> None:
        """Print what was counted."""
        told = {"inside": self._inside, "before": self._before}
        print(TOLD + json.dumps(told | {"thread": time.thread_time_ns(), "process": time.process_time_ns()}))


class TimedReader(MediaReader):
    """Reads a film."""

    def initialize(self) -> None:
        """Open it."""
        self.clock = Clock()
        with self.clock:
            super().initialize()

    def process(self) -> Iterator[Any]:
        """Decode it."""
        steps, over = super().process(), object()
        while True:
            with self.clock:
                value = next(steps, over)
            if value is over:
                return
            yield value

    def cleanup(self) -> None:
        """Close it."""
        with self.clock:
            super().cleanup()
        self.clock.tell()


class TimedEdges(Edges):
    """Draws."""

    def initialize(self) -> None:
        """Begin to count."""
        self.clock = Clock()

    def process(self, frame: VideoFrame) -> VideoFrame:
        """Draw one picture."""
        with self.clock:
            return super().process(frame)

    def cleanup(self) -> None:
        """Tell."""
        self.clock.tell()


class TimedWriter(MediaWriter):
    """Writes a film."""

    def initialize(self) -> None:
        """Open it."""
        self.clock = Clock()
        with self.clock:
            super().initialize()

    def process(self, frame: Frame, port: str) -> None:
        """Encode."""
        with self.clock:
            super().process(frame, port)

    def flush(self) -> None:
        """Encode the rest."""
        with self.clock:
            super().flush()

    def cleanup(self) -> None:
        """Close it."""
        with self.clock:
            super().cleanup()
        self.clock.tell()
