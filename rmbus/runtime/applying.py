"""A node that is called rather than joined: a value goes in, and what the node makes of it comes back."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rmbus.errors import PipelineError
from rmbus.media import AudioFrame, Data, Packet, VideoFrame, datum
from rmbus.node import Interrupt, Node, node_name
from rmbus.runtime.invoke import Emission, Invoker

_FRAMES = (VideoFrame, AudioFrame, Packet, Data)


class Applied:
    """Holds a node with one input, as a remote object whose methods are called.

    Args:
        node: the node, or the name of a registered one, which is looked up where this runs.
        config: what the class of a registered one is built with.
    """

    def __init__(self, node: Node | str, config: Mapping[str, Any] | None = None) -> None:
        self.node = node
        self.config = dict(config or {})

    def initialize(self) -> None:
        """Build the node, if it was named, and initialize it."""
        if isinstance(self.node, str):
            # The built-in nodes stand above this layer, and are reached by name only.
            cls: type[Node] = importlib.import_module("rmbus.nodes.names").find(self.node)
            try:
                self.node = cls(**self.config)
            except TypeError as error:
                raise PipelineError(f"{cls.__name__} cannot be built with {self.config!r:.200}: {error}") from error
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
