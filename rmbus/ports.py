"""Ports: the named inputs and outputs of nodes, as class attributes and as values."""

from __future__ import annotations

import copy
import keyword
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import attrs

from rmbus.delivery import Delivery
from rmbus.errors import PipelineError
from rmbus.formats import as_format, show

if TYPE_CHECKING:
    from rmbus.node import Node
    from rmbus.pipeline import Pipeline

Convert = Literal["auto"]

Target: TypeAlias = "Node | Port | Pipeline"
"""What stands to the right of `>>`."""

LENDER: Final = "_rmbus_lender"
"""The attribute of a running node that lends frames."""


class Port:
    """A named input or output. `node.video` is the port `video` of that node; `Class.video` belongs to no node.

    A port whose name is a word of Python's is declared with an underscore behind it: `in_ = Input()` is the port `in`.

    Attributes:
        name: its name on the node.
        node: the node that it belongs to, or None.
        format: what it carries.
    """

    __slots__ = ("format", "name", "node")

    def __init__(self, format: object = Any) -> None:
        self.format = as_format(format)
        self.name = ""
        self.node: Node | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        bare = name.removesuffix("_")
        self.name = bare if keyword.iskeyword(bare) else name

    def __get__(self, instance: Any, owner: type | None = None) -> Self:
        return self if instance is None else self.of(instance)

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(
            f"{self.name!r} is a port of {type(instance).__name__} and cannot be set: give the attribute another name"
        )

    @property
    def label(self) -> str:
        """The port with its node, as `reader.video`."""
        from rmbus.node import node_name

        return self.name if self.node is None else f"{node_name(self.node)}.{self.name}"

    def of(self, node: Node) -> Self:
        """Return this port, of the given node."""
        port = copy.copy(self)
        port.node = node
        return port

    def to(
        self,
        target: Target,
        *,
        delivery: Delivery | None = None,
        deadline_ms: float | None = None,
        convert: Convert | None = None,
    ) -> Pipeline:
        """Return a pipeline of this output joined to an input.

        Args:
            target: an input, or whatever has exactly one.
            delivery: what happens while the consumer is busy; by default `reliable(8)`, or `drop_oldest(8)` out of an
                output declared live.
            deadline_ms: frames that are later than this are dropped and counted as late.
            convert: "auto" puts converters where the formats differ.

        Raises:
            PipelineError: the two cannot be joined; the ports are listed.
        """
        from rmbus.pipeline import join

        return join(self, target, delivery=delivery, deadline_ms=deadline_ms, convert=convert)

    def __rshift__(self, target: Target) -> Pipeline:
        return self.to(target)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Port) or self.node is None or other.node is None:
            return self is other
        return type(self) is type(other) and self.node is other.node and self.name == other.name

    def __hash__(self) -> int:
        return id(self) if self.node is None else hash((id(self.node), self.name))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}: {show(self.format)}>"


class Input(Port):
    """A named input of a node, declared as a class attribute.

    Args:
        format: what it accepts: `Video(...)`, `Audio(...)`, `Encoded(...)`, a plain type for data; by default anything.
        optional: it may stay open.
        many: any number of outputs may be joined to it.
    """

    __slots__ = ("many", "optional")

    def __init__(self, format: object = Any, *, optional: bool = False, many: bool = False) -> None:
        super().__init__(format)
        self.optional = optional
        self.many = many


class Output(Port):
    """A named output of a node, declared as a class attribute.

    Args:
        format: what it emits: `Video(...)`, `Audio(...)`, `Encoded(...)`, a plain type for data; by default anything.
        live: frames come when the world sends them (camera, network), so that by default none waits for a slow reader.
    """

    __slots__ = ("live",)

    def __init__(self, format: object = Any, *, live: bool = False) -> None:
        super().__init__(format)
        self.live = live

    def loan(self, *, like: Any = None) -> AbstractContextManager[Any]:
        """Lend a writable frame that is sent when the context ends; only inside `process`, `flush` and the like.

        Args:
            like: a video or audio frame whose header, format and size the new one takes; by default the input frame.

        Raises:
            PipelineError: the node is not running.
        """
        lender = None if self.node is None else self.node.__dict__.get(LENDER)
        if lender is None:
            raise PipelineError(f"{self!r} lends frames only while its node runs: call loan() inside process()")
        loan: AbstractContextManager[Any] = lender(self.name, like)
        return loan


@attrs.frozen
class Ports:
    """The ports of a node or of a class, by name, in the order of declaration."""

    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
