"""A film of whatever comes: the end of a line of nodes that are started one by one.

rmbus run examples/recorder.py:Recorder --in video=edges/video
"""

from __future__ import annotations

import os

from rmbus.nodes import MediaWriter


class Recorder(MediaWriter):
    """Writes the film that RMBUS_RECORD names, by default recorded.mp4."""

    def __init__(self) -> None:
        super().__init__(os.environ.get("RMBUS_RECORD", "recorded.mp4"))
