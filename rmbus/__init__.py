"""A message bus for streaming media: write a class, run it as a process anywhere, stream through it.

The public names are imported when they are first used, so that `import rmbus.protocol` costs what the wire costs, and
a client loads neither ZeroMQ nor numpy before it needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmbus import aio, errors, nodes, packaging, testing
    from rmbus.bus import Bus, connect
    from rmbus.errors import NodeError, RmbusError
    from rmbus.formats import Audio, Encoded, Video
    from rmbus.media import AudioFrame, Data, Packet, VideoFrame
    from rmbus.node import Input, Interrupt, Needs, Node, Output
    from rmbus.pipeline import Pipeline, drop_oldest, latest, reliable
    from rmbus.report import Report
    from rmbus.session import Session

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "AudioFrame",
    "Bus",
    "Data",
    "Encoded",
    "Input",
    "Interrupt",
    "Needs",
    "Node",
    "NodeError",
    "Output",
    "Packet",
    "Pipeline",
    "Report",
    "RmbusError",
    "Session",
    "Video",
    "VideoFrame",
    "aio",
    "connect",
    "drop_oldest",
    "errors",
    "latest",
    "nodes",
    "packaging",
    "reliable",
    "testing",
]

_HOMES = {
    "Audio": "rmbus.formats",
    "AudioFrame": "rmbus.media",
    "Bus": "rmbus.bus",
    "Data": "rmbus.media",
    "Encoded": "rmbus.formats",
    "Input": "rmbus.node",
    "Interrupt": "rmbus.node",
    "Needs": "rmbus.node",
    "Node": "rmbus.node",
    "NodeError": "rmbus.errors",
    "Output": "rmbus.node",
    "Packet": "rmbus.media",
    "Pipeline": "rmbus.pipeline",
    "Report": "rmbus.report",
    "RmbusError": "rmbus.errors",
    "Session": "rmbus.session",
    "Video": "rmbus.formats",
    "VideoFrame": "rmbus.media",
    "connect": "rmbus.bus",
    "drop_oldest": "rmbus.pipeline",
    "latest": "rmbus.pipeline",
    "reliable": "rmbus.pipeline",
}
_MODULES = frozenset({"aio", "errors", "nodes", "packaging", "testing"})


if not TYPE_CHECKING:  # a checker that saw this function would take any misspelt name for an object

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return importlib.import_module(f"rmbus.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'rmbus' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
