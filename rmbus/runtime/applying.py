"""A node that is called rather than joined: a value goes in, and what the node makes of it comes back."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rmbus.configuration import Schema, schema_of
from rmbus.errors import ConfigurationError, PipelineError
from rmbus.media import AudioFrame, Data, Packet, VideoFrame, datum
from rmbus.node import Interrupt, Node, node_name
from rmbus.runtime.invoke import Emission, Invoker

_FRAMES = (VideoFrame, AudioFrame, Packet, Data)


class Applied:
    """Holds a node with one input, as a remote object whose methods are called.

    Args:
        node: the node, or its class, or the name of a registered one, which is looked up where this runs.
        config: what the class is built with, which is done where this runs.
    """

    def __init__(self, node: Node | type[Node] | str, config: Mapping[str, Any] | None = None) -> None:
        self.node = node
        self.config = dict(config or {})

    def initialize(self) -> None:
        """Build the node, if its class was given, and initialize it.

        Raises:
            ConfigurationError: the constructor that is found here does not take the configuration; it has not run.
        """
        if not isinstance(self.node, Node):
            cls = registered(self.node) if isinstance(self.node, str) else self.node
            self.node = cls(**schema_for(cls, self.node).fit(self.config))
        self.invoker = Invoker(self.node)
        inputs = self.invoker.ports.inputs
        if len(inputs) != 1:
            raise PipelineError(
                f"{node_name(self.node)} has the inputs {', '.join(inputs) or 'none'}: only a node with one is called"
            )
        (self.port,) = inputs
        self.invoker.initialize()

    def process(self, value: Any) -> Any:
        """Return what the node makes of a value.

        Returns:
            None where it emits nothing, the value where it emits one, a list where more; of a node with several
            outputs `{port: list}`. The value of a `Data` stands for that.
        """
        found: dict[str, list[Any]] = {port: [] for port in self.invoker.ports.outputs}
        for port, emitted in self._emitted(self._emissions(value)):
            found[port].append(emitted)
        if len(found) != 1:
            return found
        (values,) = found.values()
        return values if len(values) > 1 else values[0] if values else None

    def emissions(self, value: Any) -> list[Any]:
        """Return all that the node makes of a value, in order; of a node with several outputs `(port, value)` each."""
        return self._listed(self._emissions(value))

    def flush(self) -> list[Any]:
        """Return what the node still emits when all its input has ended, as `emissions` does."""
        return self._listed(self.invoker.flush())

    def cleanup(self) -> None:
        """Let the node clean up."""
        self.invoker.cleanup()
        self.invoker.close()

    def _emissions(self, value: Any) -> Iterable[Emission]:
        frame = value if isinstance(value, _FRAMES) else datum(value, Any)
        return self.invoker.process(frame, self.port)

    def _emitted(self, emissions: Iterable[Emission]) -> Iterator[tuple[str, Any]]:
        for port, value in emissions:
            if not isinstance(value, Interrupt):
                yield port, value.value if isinstance(value, Data) else value

    def _listed(self, emissions: Iterable[Emission]) -> list[Any]:
        pairs = list(self._emitted(emissions))
        return pairs if len(self.invoker.ports.outputs) > 1 else [value for _, value in pairs]


def registered(name: str) -> type[Node]:
    """Return the class of a registered node.

    Raises:
        PipelineError: there is none of that name here, or it cannot be imported.
    """
    # The built-in nodes stand above this layer, and are reached by name only.
    cls: type[Node] = importlib.import_module("rmbus.nodes.names").find(name)
    return cls


def schema_for(cls: type[Node], node: type[Node] | str) -> Schema:
    """Return the schema of a class, under the name that it is asked for by."""
    return schema_of(cls, node if isinstance(node, str) else None)


def check_config(node: Node | type[Node] | str, config: Mapping[str, Any] | None) -> None:
    """Pass what can be built, before anything is sent.

    A name that is not known here may be known on the host, which has the last word.

    Raises:
        ConfigurationError: the constructor does not take the configuration, or the node is built already.
    """
    if isinstance(node, Node):
        if config:
            raise ConfigurationError(
                node_name(node),
                [f"{name}: the node is built already" for name in config],
                f"give its class, `{type(node).__name__}`, or set it where the node is built",
            )
        return
    try:
        cls = registered(node) if isinstance(node, str) else node
    except PipelineError:
        return
    schema_for(cls, node).fit(config or {})
