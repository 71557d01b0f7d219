"""Graphs of nodes: plain data, built and checked with nothing running."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

import attrs

from rmbus.delivery import DEFAULT, LIVE, Delivery, drop_oldest, latest, reliable
from rmbus.errors import PipelineError
from rmbus.graph import Edge, Graph, check, edge_label, port_labels, show_graph
from rmbus.node import Node, describe_ports, node_name, options_of, ports
from rmbus.ports import Convert, Input, Output, Port, Target

if TYPE_CHECKING:
    from rmbus.report import Report
    from rmbus.results import Results
    from rmbus.session import Session

__all__ = ["DEFAULT", "LIVE", "Delivery", "Edge", "Pipeline", "drop_oldest", "join", "latest", "merge", "reliable"]


_UNNAMED: Final = "pipeline"


class _Engine(Protocol):
    def close(self) -> None: ...


class Pipeline:
    """A graph of nodes. Its open ports are its own, so that it can be used as a node of another.

    Args:
        nodes: a line: each is joined to the next. Also ports and pipelines.
        name: what it is called in topics and reports.
        convert: "auto" puts converters on every edge where the formats differ.
    """

    def __init__(
        self, nodes: Iterable[Target] = (), name: str | None = None, *, convert: Convert | None = None
    ) -> None:
        if isinstance(nodes, Node | Port | Pipeline):
            raise PipelineError("Pipeline takes a list of nodes: write Pipeline([node])")
        self.name = name or _UNNAMED
        self.convert: Convert | None = convert
        self.engine: _Engine | None = None
        self.graph = Graph()
        line: Target | None = None
        for each in nodes:
            step = _checked(each)
            line = step if line is None else join(line, step)
        if line is not None:
            self.graph = _graph(line)

    # --- building ----------------------------------------------------------------------------------------------------

    def __rshift__(self, target: Target) -> Pipeline:
        return join(self, target)

    def __or__(self, other: Node | Pipeline) -> Pipeline:
        return merge(self, other)

    def add_node(self, node: Target) -> Self:
        """Join a node to the end of the line.

        Raises:
            PipelineError: it is no node, or cannot be joined, or the pipeline is initialized.
        """
        self._refuse_when_initialized("add a node to")
        step = _checked(node)
        self.graph = join(self, step).graph if self.graph.nodes else _graph(step)
        return self

    def remove_node(self, node: Node | str) -> bool:
        """Take a node out, with its edges; where one edge led to it and one from it, those are made one.

        Returns:
            Whether it was there.

        Raises:
            PipelineError: the pipeline is initialized.
        """
        self._refuse_when_initialized("remove a node from")
        gone = self.get_node(node) if isinstance(node, str) else node if node in self else None
        if gone is None:
            return False
        self.graph = self.graph.without(gone)
        return True

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, in the order in which they came."""
        return self.graph.nodes

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges, in the order in which they were made."""
        return self.graph.edges

    @property
    def open_inputs(self) -> tuple[Input, ...]:
        """The inputs that no edge feeds, optional ones included."""
        return self.graph.open_inputs()

    @property
    def open_outputs(self) -> tuple[Output, ...]:
        """The outputs that no edge leaves."""
        return self.graph.open_outputs()

    def names(self) -> dict[Node, str]:
        """Return each node's name, made unique: `edges`, `edges-2`. Names that `options` gave come first."""
        return self.graph.names()

    def get_node(self, name: str) -> Node | None:
        """Return the node of that name, or None."""
        return next((node for node, each in self.names().items() if each == name), None)

    def label(self, edge: Edge) -> str:
        """Return an edge as `reader.video -> edges.in`."""
        return edge_label(edge, self.names())

    def get_config(self) -> dict[str, Any]:
        """Return the graph as plain data."""
        names = self.names()
        return {
            "name": self.name,
            "convert": self.convert,
            "nodes": [_node_config(node, names[node]) for node in self.graph.nodes],
            "edges": [{"edge": edge_label(edge, names), **edge.terms()} for edge in self.graph.edges],
        }

    def __getitem__(self, name: str) -> Port:
        """Return an open port by its name, or by `node.port` where several have the name."""
        names = self.names()
        found = [
            port
            for port in (*self.open_inputs, *self.open_outputs)
            if port.node is not None and name in (port.name, f"{names[port.node]}.{port.name}")
        ]
        if len(found) != 1:
            has = ", ".join(port_labels((*self.open_inputs, *self.open_outputs), names)) or "none"
            raise PipelineError(
                f"{'no' if not found else 'more than one'} open port is called {name!r}; open are: {has}"
            )
        return found[0]

    def __len__(self) -> int:
        return len(self.graph.nodes)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Node]:
        return iter(self.graph.nodes)

    def __contains__(self, node: object) -> bool:
        return any(each is node for each in self.graph.nodes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return (self.name, self.convert, *_parts(self.graph)) == (other.name, other.convert, *_parts(other.graph))

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}: {', '.join(self.names().values()) or 'empty'}>"

    def __str__(self) -> str:
        return show_graph(self.graph, self.name, self.convert)

    # --- checking ----------------------------------------------------------------------------------------------------

    def validate(self, *, allow_open: bool = False) -> None:
        """Check that the graph can run.

        Args:
            allow_open: let inputs that aren't optional stay open, for they will be fed from outside.

        Raises:
            PipelineError: it is empty; an input is open; it has a cycle that no independent node breaks; formats of an
                edge do not fit, or its delivery does not suit them. Everything at fault is named.
        """
        check(self.graph, allow_open=allow_open)

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self, *, on: str | Sequence[str] = "local", duration_s: float | None = None) -> Report:
        """Run to the end, and report.

        Args:
            on: "inline" in this process; "local" in processes of their own; the address of a host, or several. A node's
                own `on` wins.
            duration_s: drain after this time.

        Raises:
            NodeError: a node failed; it is of the original type as well. PipelineError: the graph is invalid.
        """
        from rmbus import session

        return session.run(self, on=on, duration_s=duration_s)

    def start(self, *, on: str | Sequence[str] = "local") -> Session:
        """Start, and return the running session.

        Args:
            on: as for `run`.

        Raises:
            PipelineError: the graph is invalid.
        """
        from rmbus import session

        return session.start(self, on=on)

    def process(self, items: Iterable[Any] | AsyncIterable[Any], *, on: str | Sequence[str] = "inline") -> Results:
        """Feed the one open input, and return what comes out of the one open output, for `for` and `async for`.

        Args:
            items: frames, arrays or any other values.
            on: as for `run`, but inline by default.

        Raises:
            PipelineError: the graph is invalid, or has not exactly one open input and output.
        """
        from rmbus import session

        return session.process(self, items, on=on)

    def initialize(self) -> None:
        """Initialize the nodes in this process, so that several calls of `process` share them until `cleanup`.

        Raises:
            PipelineError: the graph is invalid, or is initialized already.
        """
        from rmbus import session

        self._refuse_when_initialized("initialize")
        self.validate(allow_open=True)
        self.engine = session.open_inline(self)

    def cleanup(self) -> None:
        """Clean up the nodes that `initialize` has initialized.

        Raises:
            PipelineError: the pipeline is not initialized.
        """
        engine, self.engine = self.engine, None
        if engine is None:
            raise PipelineError(f"{self.name!r} is not initialized: call initialize() first, or use it in a `with`")
        engine.close()

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cleanup()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _refuse_when_initialized(self, doing: str) -> None:
        if self.engine is not None:
            raise PipelineError(f"cannot {doing} {self.name!r} while it is initialized: call cleanup() first")


_End = TypeVar("_End", bound=Port)


def join(
    source: Target,
    target: Target,
    *,
    delivery: Delivery | None = None,
    deadline_ms: float | None = None,
    convert: Convert | None = None,
) -> Pipeline:
    """Return a pipeline of both, with an edge from the one output on the left to the one input on the right.

    Raises:
        PipelineError: there is not exactly one on each side, which are then listed; or the input is taken.
    """
    output, into = _leaving(source, target), _entering(target, source)
    edge = Edge(_as_node(output), output.name, _as_node(into), into.name, delivery, deadline_ms, convert)
    return _made(_graph(source).joined(_graph(target), edge), source, target)


def merge(one: Node | Pipeline, other: Node | Pipeline) -> Pipeline:
    """Return a pipeline of both, with no edge added; a node that is in both stays one.

    Raises:
        PipelineError: both feed the same input.
    """
    return _made(_graph(_checked(one)).merged(_graph(_checked(other))), one, other)


def _made(graph: Graph, *parts: Target) -> Pipeline:
    """Return a pipeline with the name and the conversion of the first of its parts that has one."""
    pipelines = [part for part in parts if isinstance(part, Pipeline)]
    name = next((part.name for part in pipelines if part.name != _UNNAMED), None)
    made = Pipeline(name=name, convert=next((part.convert for part in pipelines if part.convert), None))
    made.graph = graph
    return made


def _graph(step: Target) -> Graph:
    return step.graph if isinstance(step, Pipeline) else Graph.of(_as_node(step))


def _parts(graph: Graph) -> tuple[set[int], set[Edge]]:
    return {id(node) for node in graph.nodes}, set(graph.edges)


def _leaving(source: Target, target: Target) -> Output:
    """Return the one output on the left of `>>`."""
    if isinstance(source, Input):
        raise PipelineError(f"{_show_end(source)} is an input, and frames leave by an output: {_ports_near(source)}")
    if isinstance(source, Output):
        return source
    end = source.graph.tail if isinstance(source, Pipeline) and source.graph.tail is not None else source
    found = end.open_outputs if isinstance(end, Pipeline) else tuple(ports(_as_node(end)).outputs.values())
    return _only(found, "output", source, target)


def _entering(target: Target, source: Target) -> Input:
    """Return the one input on the right of `>>`."""
    if isinstance(target, Output):
        raise PipelineError(f"{_show_end(target)} is an output, and frames arrive by an input: {_ports_near(target)}")
    if isinstance(target, Input):
        return target
    end = target.graph.head if isinstance(target, Pipeline) and target.graph.head is not None else target
    found = end.open_inputs if isinstance(end, Pipeline) else tuple(ports(_as_node(end)).inputs.values())
    return _only(found, "input", target, source)


def _only(found: tuple[_End, ...], what: str, end: Target, other: Target) -> _End:
    if len(found) == 1:
        return found[0]
    whose, towards = _show_end(end), f"{'to' if what == 'output' else 'from'} {_show_end(other)}"
    if not found:
        raise PipelineError(f"nothing can be joined {towards}: {whose} has no {what}")
    names = [port.label for port in found]
    raise PipelineError(
        f"which {what} of {whose} is meant {towards}? It has {len(names)}: {', '.join(names)}. "
        f"Name the port: `{names[0]}`"
    )


def _as_node(step: Target) -> Node:
    checked = _checked(step)
    assert not isinstance(checked, Pipeline)
    node = checked if isinstance(checked, Node) else checked.node
    if node is None:
        raise PipelineError(f"{step!r} is the port of a class: take that of a node, `node.{getattr(step, 'name', '')}`")
    return node


def _checked(step: Any) -> Any:
    """Return the step if it is a node, a port or a pipeline."""
    if isinstance(step, Node | Port | Pipeline):
        return step
    if inspect.isclass(step) and issubclass(step, Node):
        raise PipelineError(f"{step.__name__} is a class, not a Node: build one, `{step.__name__}(...)`")
    if callable(step):
        raise PipelineError(f"{step!r} is not a Node: a function becomes one by nodes.Map(function)")
    raise PipelineError(f"{step!r} is not a Node: a pipeline is made of nodes, their ports, and pipelines")


def _ports_near(port: Port) -> str:
    return "" if port.node is None else f"{node_name(port.node)} has {describe_ports(port.node)}"


def _show_end(step: Target) -> str:
    if isinstance(step, Pipeline):
        ends = step.graph.tail or step.graph.head
        return f"the pipeline {step.name!r}" if ends is None else f"the line {' >> '.join(step.names().values())}"
    if isinstance(step, Port):
        return step.label
    return node_name(_as_node(step))


def _node_config(node: Node, name: str) -> dict[str, Any]:
    cls = type(node)
    options = attrs.asdict(options_of(node), recurse=False) | {"name": name}
    options["needs"] = attrs.asdict(options["needs"], filter=lambda field, value: value != field.default)
    return {
        "name": options.pop("name"),
        "type": f"{cls.__module__}:{cls.__qualname__}",
        **{key: value for key, value in options.items() if value not in (None, (), {}, "never", "stop")},
    }
