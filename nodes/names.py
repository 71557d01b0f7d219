"""Node classes by name: for graphs that are written as text, and for the command line.

Distributions add theirs by entry points of the group `rmbus.nodes`: `Blur = my_package.blur:Blur`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from rmbus.errors import PipelineError
from rmbus.node import Node

_GROUP = "rmbus.nodes"

BUILT_IN = {
    "Buffer": "rmbus.nodes.flow:Buffer",
    "Calculator": "rmbus.nodes.calculator:Calculator",
    "Chunk": "rmbus.nodes.sound:Chunk",
    "CodeExecutor": "rmbus.nodes.code:CodeExecutor",
    "Convert": "rmbus.nodes.filters:Convert",
    "Crop": "rmbus.nodes.filters:Crop",
    "Filter": "rmbus.nodes.filters:Filter",
    "FrameRate": "rmbus.nodes.filters:FrameRate",
    "Gain": "rmbus.nodes.sound:Gain",
    "LevelMeter": "rmbus.nodes.sound:LevelMeter",
    "Map": "rmbus.nodes.flow:Map",
    "MediaReader": "rmbus.nodes.files:MediaReader",
    "MediaWriter": "rmbus.nodes.files:MediaWriter",
    "Merge": "rmbus.nodes.flow:Merge",
    "Normalize": "rmbus.nodes.filters:Normalize",
    "Pad": "rmbus.nodes.filters:Pad",
    "PassThrough": "rmbus.nodes.flow:PassThrough",
    "Resample": "rmbus.nodes.filters:Resample",
    "Rotate": "rmbus.nodes.filters:Rotate",
    "Scale": "rmbus.nodes.filters:Scale",
    "Select": "rmbus.nodes.flow:Select",
    "SerializedClassExecutor": "rmbus.nodes.serialized:SerializedClassExecutor",
    "TestPattern": "rmbus.nodes.video:TestPattern",
    "TextProcessor": "rmbus.nodes.text:TextProcessor",
    "Throttle": "rmbus.nodes.flow:Throttle",
    "Tone": "rmbus.nodes.sound:Tone",
    "VoiceActivity": "rmbus.nodes.sound:VoiceActivity",
    # The earlier SDK's names.
    "BufferNode": "rmbus.nodes.flow:Buffer",
    "CalculatorNode": "rmbus.nodes.calculator:Calculator",
    "CodeExecutorNode": "rmbus.nodes.code:CodeExecutor",
    "MediaReaderNode": "rmbus.nodes.files:MediaReader",
    "MediaWriterNode": "rmbus.nodes.files:MediaWriter",
    "PassThroughNode": "rmbus.nodes.flow:PassThrough",
    "SerializedClassExecutorNode": "rmbus.nodes.serialized:SerializedClassExecutor",
    "TextProcessorNode": "rmbus.nodes.text:TextProcessor",
}
"""The classes of this distribution: name, module and class."""


def known() -> dict[str, str]:
    """Return the place `module:Class` of every class that has a name.

    Raises:
        PipelineError: two distributions use one name for different classes.
    """
    return dict(_known())


def find(name: str) -> type[Node]:
    """Return the class of that name.

    Raises:
        PipelineError: there is none, or it cannot be imported.
    """
    place = BUILT_IN.get(name) or _known().get(name)
    if place is None:
        raise PipelineError(f"no node is called {name!r}; there are {', '.join(sorted(_known()))}")
    module, _, attribute = place.partition(":")
    try:
        found: object = functools.reduce(getattr, attribute.split("."), cast(object, importlib.import_module(module)))
    except (ImportError, AttributeError) as error:
        raise PipelineError(f"the node {name} is to be {place}, which cannot be imported: {error}") from error
    if not inspect.isclass(found) or not issubclass(found, Node):
        raise PipelineError(f"the node {name} is to be {place}, which is no subclass of rmbus.Node")
    return found


@functools.cache
def _known() -> dict[str, str]:
    places = dict(BUILT_IN)
    for point in entry_points(group=_GROUP):
        if places.setdefault(point.name, point.value) != point.value:
            raise PipelineError(
                f"the name {point.name!r} of a node is taken twice: by {places[point.name]} and by {point.value} "
                f"of {_distribution(point)}"
            )
    return places


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"
