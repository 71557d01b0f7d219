"""The built-in nodes. Each is imported when it is first used, so that none costs more than what it needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmbus.nodes.calculator import Calculator
    from rmbus.nodes.calculator import Calculator as CalculatorNode
    from rmbus.nodes.code import CodeExecutor
    from rmbus.nodes.code import CodeExecutor as CodeExecutorNode
    from rmbus.nodes.files import MediaReader, MediaWriter
    from rmbus.nodes.files import MediaReader as MediaReaderNode
    from rmbus.nodes.files import MediaWriter as MediaWriterNode
    from rmbus.nodes.filters import Convert, Crop, Filter, FrameRate, Normalize, Pad, Resample, Rotate, Scale
    from rmbus.nodes.flow import Buffer, Map, Merge, PassThrough, Select, Throttle
    from rmbus.nodes.flow import Buffer as BufferNode
    from rmbus.nodes.flow import PassThrough as PassThroughNode
    from rmbus.nodes.serialized import SerializedClassExecutor
    from rmbus.nodes.serialized import SerializedClassExecutor as SerializedClassExecutorNode
    from rmbus.nodes.sound import Chunk, Gain, LevelMeter, Tone, VoiceActivity
    from rmbus.nodes.text import TextProcessor
    from rmbus.nodes.text import TextProcessor as TextProcessorNode
    from rmbus.nodes.video import TestPattern

__all__ = [
    "Buffer",
    "BufferNode",
    "Calculator",
    "CalculatorNode",
    "Chunk",
    "CodeExecutor",
    "CodeExecutorNode",
    "Convert",
    "Crop",
    "Filter",
    "FrameRate",
    "Gain",
    "LevelMeter",
    "Map",
    "MediaReader",
    "MediaReaderNode",
    "MediaWriter",
    "MediaWriterNode",
    "Merge",
    "Normalize",
    "Pad",
    "PassThrough",
    "PassThroughNode",
    "Resample",
    "Rotate",
    "Scale",
    "Select",
    "SerializedClassExecutor",
    "SerializedClassExecutorNode",
    "TestPattern",
    "TextProcessor",
    "TextProcessorNode",
    "Throttle",
    "Tone",
    "VoiceActivity",
]


if not TYPE_CHECKING:  # so that type checkers see misspelt names

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module 'rmbus.nodes' has no attribute {name!r}")
        value = importlib.import_module("rmbus.nodes.names").find(name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
