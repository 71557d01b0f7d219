"""Graphs of nodes: plain data, built and checked with nothing running."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import attrs

from rmbus.delivery import DEFAULT, LIVE, Delivery, drop_oldest, latest, reliable
from rmbus.errors import PipelineError
from rmbus.formats import fits, is_inter_coded, show
from rmbus.node import Convert, Input, Node, Output, Port, Target, describe_ports, node_name, options_of, ports

if TYPE_CHECKING:
    from rmbus.report import Report
    from rmbus.results import Results
    from rmbus.session import Session

__all__ = ["DEFAULT", "LIVE", "Delivery", "Edge", "Pipeline", "drop_oldest", "join", "latest", "merge", "reliable"]


def _is_time(_edge: object, _attribute: object, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"deadline_ms is a time above 0 in milliseconds, not {value!r}")


@attrs.frozen
class Edge:
    """An output joined to an input.

    Attributes:
        source, output: the node that it leaves, and the name of the output.
        target, input: the node that it feeds, and the name of the input.
        delivery: what happens while the consumer is busy; None: the default of the output.
        deadline_ms: frames later than this are dropped and counted as late.
        convert: "auto" puts converters where the formats differ.
    """

    source: Node = attrs.field(eq=id)
    output: str
    target: Node = attrs.field(eq=id)
    input: str
    delivery: Delivery | None = None
    deadline_ms: float | None = attrs.field(default=None, validator=_is_time)
    convert: Convert | None = None

    @property
    def output_port(self) -> Output:
        """The port that it leaves."""
        return ports(self.source).outputs[self.output]

    @property
    def input_port(self) -> Input:
        """The port that it feeds."""
        return ports(self.target).inputs[self.input]

    @property
    def ends(self) -> tuple[int, str, int, str]:
        """What it joins, as a key."""
        return id(self.source), self.output, id(self.target), self.input

    def resolved_delivery(self) -> Delivery:
        """Return its delivery, or the default of its output."""
        return self.delivery or (LIVE if self.output_port.live else DEFAULT)


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
        self.name = name or "pipeline"
        self.convert: Convert | None = convert
        self.engine: _Engine | None = None
        self._nodes: list[Node] = []
        self._edges: list[Edge] = []
        self._head: Node | None = None
        self._tail: Node | None = None
        line: Target | None = None
        for each in nodes:
            step = _checked(each)
            line = step if line is None else join(line, step)
        if line is not None:
            self._take_over(_part(line))

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
        self._take_over(join(self, step) if self._nodes else _part(step))
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
        before = [edge for edge in self._edges if edge.target is gone]
        after = [edge for edge in self._edges if edge.source is gone]
        self._nodes = [each for each in self._nodes if each is not gone]
        self._edges = [edge for edge in self._edges if edge not in before and edge not in after]
        if len(before) == len(after) == 1:
            self._edges.append(attrs.evolve(after[0], source=before[0].source, output=before[0].output))
        if self._head is gone:
            self._head = after[0].target if len(after) == 1 else None
        if self._tail is gone:
            self._tail = before[0].source if len(before) == 1 else None
        return True

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, in the order in which they came."""
        return tuple(self._nodes)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges, in the order in which they were made."""
        return tuple(self._edges)

    @property
    def open_inputs(self) -> tuple[Input, ...]:
        """The inputs that no edge feeds, optional ones included."""
        fed = {(id(edge.target), edge.input) for edge in self._edges}
        found = [port for node in self._nodes for port in ports(node).inputs.values()]
        return tuple(port for port in found if (id(port.node), port.name) not in fed)

    @property
    def open_outputs(self) -> tuple[Output, ...]:
        """The outputs that no edge leaves."""
        read = {(id(edge.source), edge.output) for edge in self._edges}
        found = [port for node in self._nodes for port in ports(node).outputs.values()]
        return tuple(port for port in found if (id(port.node), port.name) not in read)

    @property
    def head(self) -> Node | None:
        """The node at the beginning of the line, None where this is no line."""
        return self._head

    @property
    def tail(self) -> Node | None:
        """The node at the end of the line, None where this is no line."""
        return self._tail

    def names(self) -> dict[Node, str]:
        """Return each node's name, made unique: `edges`, `edges-2`. Names that `options` gave come first."""
        names: dict[Node, str] = {}
        taken: set[str] = set()
        given = [node for node in self._nodes if node_name(node) != type(node).__name__.lower()]
        for node in [*given, *(each for each in self._nodes if not _in(each, given))]:
            base, number = node_name(node), 1
            while (name := base if number == 1 else f"{base}-{number}") in taken:
                number += 1
            taken.add(name)
            names[node] = name
        return {node: names[node] for node in self._nodes}

    def get_node(self, name: str) -> Node | None:
        """Return the node of that name, or None."""
        return next((node for node, each in self.names().items() if each == name), None)

    def label(self, edge: Edge) -> str:
        """Return an edge as `reader.video -> edges.in`."""
        names = self.names()
        return f"{names[edge.source]}.{edge.output} -> {names[edge.target]}.{edge.input}"

    def get_config(self) -> dict[str, Any]:
        """Return the graph as plain data."""
        names = self.names()
        return {
            "name": self.name,
            "convert": self.convert,
            "nodes": [_node_config(node, names[node]) for node in self._nodes],
            "edges": [self._edge_config(edge) for edge in self._edges],
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
            has = ", ".join(_port_names((*self.open_inputs, *self.open_outputs), names)) or "none"
            raise PipelineError(
                f"{'no' if not found else 'more than one'} open port is called {name!r}; open are: {has}"
            )
        return found[0]

    def __len__(self) -> int:
        return len(self._nodes)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def __contains__(self, node: object) -> bool:
        return _in(node, self._nodes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        mine, theirs = ({id(node) for node in each} for each in (self, other))
        return (
            (self.name, self.convert, mine) == (other.name, other.convert, theirs)
            and len(self._edges) == len(other._edges)
            and set(self._edges) == set(other._edges)
        )

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}: {', '.join(self.names().values()) or 'empty'}>"

    def __str__(self) -> str:
        names = self.names()
        lines = [(self.label(edge), self._how(edge)) for edge in self._edges]
        lines += [(f"{name} -> nobody", "open output") for name in _port_names(self.open_outputs, names)]
        lines += [
            (f"nobody -> {name}", "open input, optional" if port.optional else "open input")
            for port, name in zip(self.open_inputs, _port_names(self.open_inputs, names), strict=True)
        ]
        width = max((len(left) for left, _ in lines), default=0)
        shown = [f"  {left:<{width}}  {right}" for left, right in lines]
        places = [f"  {names[node]} on {on}" for node in self._nodes if (on := options_of(node).on)]
        return "\n".join(
            [f"{self.name}: {_count(self._nodes, 'node')}, {_count(self._edges, 'edge')}", *shown, *places]
        )

    # --- checking ----------------------------------------------------------------------------------------------------

    def validate(self, *, allow_open: bool = False) -> None:
        """Check that the graph can run.

        Args:
            allow_open: let inputs that aren't optional stay open, for they will be fed from outside.

        Raises:
            PipelineError: it is empty; an input is open; it has a cycle that no independent node breaks; formats of an
                edge do not fit, or its delivery does not suit them. Everything at fault is named.
        """
        if not self._nodes:
            raise PipelineError("the pipeline is empty: give it nodes, `reader >> node >> writer`")
        names = self.names()
        dangling = [port for port in self.open_inputs if not port.optional]
        if dangling and not allow_open:
            listed = ", ".join(_port_names(dangling, names))
            raise PipelineError(
                f"nothing feeds {listed}: join an output to it, or declare it Input(..., optional=True)"
            )
        for edge in self._edges:
            self._check_edge(edge)
        cycle = _cycle(self._nodes, self._edges)
        if cycle:
            way = " -> ".join(names[node] for node in cycle)
            raise PipelineError(
                f"the pipeline has a cycle: {way}. Each would wait for the next; "
                "declare `independent = True` on a node whose outputs don't wait for its inputs"
            )

    def _check_edge(self, edge: Edge) -> None:
        offered, wanted = edge.output_port.format, edge.input_port.format
        misfit = fits(offered, wanted)
        if misfit is not None:
            raise PipelineError(
                f"{self.label(edge)}: {misfit} (the output gives {show(offered)}, the input takes {show(wanted)})"
            )
        if edge.resolved_delivery() == latest and (is_inter_coded(offered) or is_inter_coded(wanted)):
            raise PipelineError(
                f"{self.label(edge)}: `latest` would leave out packets that others need to be decoded: "
                "use drop_oldest(n) or reliable(n)"
            )

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

    def _take_over(self, other: Pipeline) -> None:
        self._nodes, self._edges = list(other.nodes), list(other.edges)
        self._head, self._tail = other.head, other.tail

    def _refuse_when_initialized(self, doing: str) -> None:
        if self.engine is not None:
            raise PipelineError(f"cannot {doing} {self.name!r} while it is initialized: call cleanup() first")

    def _how(self, edge: Edge) -> str:
        words = [str(edge.resolved_delivery())]
        words += [f"deadline {edge.deadline_ms:g} ms"] if edge.deadline_ms is not None else []
        words += ["convert"] if (edge.convert or self.convert) else []
        return ", ".join(words)

    def _edge_config(self, edge: Edge) -> dict[str, Any]:
        config: dict[str, Any] = {"edge": self.label(edge), "delivery": str(edge.resolved_delivery())}
        extra = {"deadline_ms": edge.deadline_ms, "convert": edge.convert}
        return config | {key: value for key, value in extra.items() if value is not None}


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
    left, right = _part(source), _part(target)
    output, into = _leaving(source, target), _entering(target, source)
    assert output.node is not None
    assert into.node is not None
    edge = Edge(output.node, output.name, into.node, into.name, delivery, deadline_ms, convert)
    made = _combined(left, right, [edge])
    made._head = left.head  # pyright: ignore[reportPrivateUsage] -- same module
    made._tail = right.tail  # pyright: ignore[reportPrivateUsage] -- same module
    return made


def merge(one: Node | Pipeline, other: Node | Pipeline) -> Pipeline:
    """Return a pipeline of both, with no edge added; a node that is in both stays one.

    Raises:
        PipelineError: both feed the same input.
    """
    return _combined(_part(_checked(one)), _part(_checked(other)), [])


def _combined(left: Pipeline, right: Pipeline, edges: Sequence[Edge]) -> Pipeline:
    made = Pipeline(name=next((each.name for each in (left, right) if each.name != "pipeline"), None))
    made.convert = left.convert or right.convert
    for node in (*left, *right):
        if node not in made:
            made._nodes.append(node)  # pyright: ignore[reportPrivateUsage] -- same module
    for edge in (*left.edges, *edges, *right.edges):
        _add_edge(made, edge)
    return made


def _add_edge(made: Pipeline, edge: Edge) -> None:
    if edge in made.edges:
        return
    same = [each for each in made.edges if each.target is edge.target and each.input == edge.input]
    if any(each.ends == edge.ends for each in same):
        _fail_taken(made, edge, "it is joined to the same output already, with another delivery")
    if same and not edge.input_port.many:
        _fail_taken(
            made, edge, f"{made.label(same[0])} feeds it already; declare it Input(..., many=True) to take several"
        )
    made._edges.append(edge)  # pyright: ignore[reportPrivateUsage] -- same module


def _fail_taken(made: Pipeline, edge: Edge, why: str) -> None:
    raise PipelineError(f"{made.label(edge)}: the input is taken: {why}")


def _leaving(source: Target, target: Target) -> Output:
    """Return the one output on the left of `>>`."""
    if isinstance(source, Input):
        raise PipelineError(f"{_show_end(source)} is an input, and frames leave by an output: {_ports_near(source)}")
    if isinstance(source, Output):
        return source
    end = source.tail if isinstance(source, Pipeline) and source.tail is not None else source
    found = end.open_outputs if isinstance(end, Pipeline) else tuple(ports(_as_node(end)).outputs.values())
    return _only(found, "output", _show_end(source), f"to {_show_end(target)}")


def _entering(target: Target, source: Target) -> Input:
    """Return the one input on the right of `>>`."""
    if isinstance(target, Output):
        raise PipelineError(f"{_show_end(target)} is an output, and frames arrive by an input: {_ports_near(target)}")
    if isinstance(target, Input):
        return target
    end = target.head if isinstance(target, Pipeline) and target.head is not None else target
    found = end.open_inputs if isinstance(end, Pipeline) else tuple(ports(_as_node(end)).inputs.values())
    return _only(found, "input", _show_end(target), f"from {_show_end(source)}")


def _only(found: tuple[_End, ...], what: str, whose: str, towards: str) -> _End:
    if len(found) == 1:
        return found[0]
    if not found:
        raise PipelineError(f"nothing can be joined {towards}: {whose} has no {what}")
    names = [f"{node_name(port.node)}.{port.name}" for port in found if port.node is not None]
    raise PipelineError(
        f"which {what} of {whose} is meant {towards}? It has {len(names)}: {', '.join(names)}. "
        f"Name the port: `{names[0]}`"
    )


def _part(step: Target) -> Pipeline:
    """Return the step as a pipeline of its own; a pipeline is itself."""
    if isinstance(step, Pipeline):
        return step
    made = Pipeline()
    node = _as_node(step)
    made._nodes.append(node)  # pyright: ignore[reportPrivateUsage] -- same module
    made._head = made._tail = node  # pyright: ignore[reportPrivateUsage] -- same module
    return made


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


def _cycle(nodes: Sequence[Node], edges: Sequence[Edge]) -> list[Node]:
    """Return the nodes of a cycle in order, the first again at the end, or nothing; independent nodes break cycles."""
    waits: dict[int, list[Node]] = {id(node): [] for node in nodes}
    for edge in edges:
        if not edge.source.independent and not edge.target.independent:
            waits[id(edge.source)].append(edge.target)
    done: set[int] = set()
    for start in nodes:
        way: list[Node] = []
        stack: list[tuple[Node, Iterator[Node]]] = []
        if id(start) not in done:
            way.append(start)
            stack.append((start, iter(waits[id(start)])))
        while stack:
            node, following = stack[-1]
            step = next(following, None)
            if step is None:
                done.add(id(node))
                stack.pop()
                way.pop()
            elif _in(step, way):
                place = next(place for place, each in enumerate(way) if each is step)
                return [*way[place:], step]
            elif id(step) not in done:
                way.append(step)
                stack.append((step, iter(waits[id(step)])))
    return []


def _in(node: object, nodes: Iterable[Node]) -> bool:
    return any(each is node for each in nodes)


def _port_names(found: Iterable[Port], names: Mapping[Node, str]) -> list[str]:
    return [f"{names[port.node]}.{port.name}" for port in found if port.node is not None]


def _ports_near(port: Port) -> str:
    return "" if port.node is None else f"{node_name(port.node)} has {describe_ports(port.node)}"


def _show_end(step: Target) -> str:
    if isinstance(step, Pipeline):
        ends = step.tail or step.head
        return f"the pipeline {step.name!r}" if ends is None else f"the line {' >> '.join(step.names().values())}"
    if isinstance(step, Port):
        return step.name if step.node is None else f"{node_name(step.node)}.{step.name}"
    return node_name(_as_node(step))


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _node_config(node: Node, name: str) -> dict[str, Any]:
    cls = type(node)
    options = attrs.asdict(options_of(node), recurse=False) | {"name": name}
    options["needs"] = attrs.asdict(options["needs"], filter=lambda field, value: value != field.default)
    return {
        "name": options.pop("name"),
        "type": f"{cls.__module__}:{cls.__qualname__}",
        **{key: value for key, value in options.items() if value not in (None, (), {}, "never", "stop")},
    }
