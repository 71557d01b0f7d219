"""Graphs as values: nodes, edges and the two ends of a line; how they are put together, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import attrs

from rmbus.delivery import DEFAULT, LIVE, Delivery, latest
from rmbus.errors import PipelineError
from rmbus.formats import Encoded, Format, fits, is_inter_coded, show
from rmbus.node import Node, node_name, options_of, ports
from rmbus.ports import Convert, Input, Output, Port


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

    def terms(self) -> dict[str, Any]:
        """Return delivery, deadline and conversion as plain data, where they are set."""
        given = {"delivery": str(self.resolved_delivery()), "deadline_ms": self.deadline_ms, "convert": self.convert}
        return {name: value for name, value in given.items() if value is not None}


@attrs.frozen
class Graph:
    """Nodes and edges.

    Attributes:
        nodes, edges: each once, in the order in which they came.
        head, tail: the nodes at the ends of the line, None where this is no line.
    """

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    head: Node | None = None
    tail: Node | None = None

    @classmethod
    def of(cls, node: Node) -> Self:
        """Return the graph of one node."""
        return cls((node,), (), node, node)

    def joined(self, other: Graph, edge: Edge) -> Graph:
        """Return the line of this graph, an edge, and another graph.

        Raises:
            PipelineError: an input is fed twice.
        """
        nodes = _each_once((*self.nodes, *other.nodes))
        return Graph(nodes, _fed_once((*self.edges, edge, *other.edges), nodes), self.head, other.tail)

    def merged(self, other: Graph) -> Graph:
        """Return both graphs, with no edge added.

        Raises:
            PipelineError: an input is fed twice.
        """
        nodes = _each_once((*self.nodes, *other.nodes))
        return Graph(nodes, _fed_once((*self.edges, *other.edges), nodes))

    def without(self, node: Node) -> Graph:
        """Return the graph without a node; where one edge led to it and one from it, those are made one."""
        before = [edge for edge in self.edges if edge.target is node]
        after = [edge for edge in self.edges if edge.source is node]
        edges = [edge for edge in self.edges if edge.target is not node and edge.source is not node]
        if len(before) == len(after) == 1:
            edges.append(attrs.evolve(after[0], source=before[0].source, output=before[0].output))
        head = self.head if self.head is not node else after[0].target if len(after) == 1 else None
        tail = self.tail if self.tail is not node else before[0].source if len(before) == 1 else None
        return Graph(tuple(each for each in self.nodes if each is not node), tuple(edges), head, tail)

    def open_inputs(self) -> tuple[Input, ...]:
        """Return the inputs that no edge feeds, optional ones included."""
        fed = {(id(edge.target), edge.input) for edge in self.edges}
        found = [port for node in self.nodes for port in ports(node).inputs.values()]
        return tuple(port for port in found if (id(port.node), port.name) not in fed)

    def open_outputs(self) -> tuple[Output, ...]:
        """Return the outputs that no edge leaves."""
        read = {(id(edge.source), edge.output) for edge in self.edges}
        found = [port for node in self.nodes for port in ports(node).outputs.values()]
        return tuple(port for port in found if (id(port.node), port.name) not in read)

    def names(self) -> dict[Node, str]:
        """Return each node's name, made unique: `edges`, `edges-2`. Names that `options` gave come first."""
        return unique_names(self.nodes)

    def cycle(self) -> list[Node]:
        """Return the nodes of a cycle in order, the first again at the end, or none; independent nodes break cycles."""
        waits: dict[int, list[Node]] = {id(node): [] for node in self.nodes}
        for edge in self.edges:
            if not edge.source.independent and not edge.target.independent:
                waits[id(edge.source)].append(edge.target)
        done: set[int] = set()
        for start in self.nodes:
            found = [] if id(start) in done else _cycle_from(start, waits, done)
            if found:
                return found
        return []


def unique_names(nodes: Iterable[Node]) -> dict[Node, str]:
    """Return a name for each node, by which it can be told from the others; names that `options` gave come first."""
    every = list(nodes)
    names: dict[int, str] = {}
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for node in sorted(every, key=lambda node: node_name(node) == type(node).__name__.lower()):
        base = node_name(node)
        number = numbers.get(base, 1)
        while (name := base if number == 1 else f"{base}-{number}") in taken:
            number += 1
        numbers[base] = number + 1
        taken.add(name)
        names[id(node)] = name
    return {node: names[id(node)] for node in every}


def edge_label(edge: Edge, names: Mapping[Node, str]) -> str:
    """Return an edge as `reader.video -> edges.in`."""
    return f"{names[edge.source]}.{edge.output} -> {names[edge.target]}.{edge.input}"


def port_labels(found: Iterable[Port], names: Mapping[Node, str]) -> list[str]:
    """Return ports of nodes as `reader.video`."""
    return [f"{names[port.node]}.{port.name}" for port in found if port.node is not None]


def show_graph(graph: Graph, name: str, convert: Convert | None) -> str:
    """Return the graph for a person: each edge with its delivery, what is open, and where nodes run."""
    names = graph.names()
    lines = [(edge_label(edge, names), _show_terms(edge, convert)) for edge in graph.edges]
    lines += [(f"{label} -> nobody", "open output") for label in port_labels(graph.open_outputs(), names)]
    inputs = graph.open_inputs()
    lines += [
        (f"nobody -> {label}", "open input, optional" if port.optional else "open input")
        for port, label in zip(inputs, port_labels(inputs, names), strict=True)
    ]
    width = max((len(left) for left, _ in lines), default=0)
    shown = [f"  {left:<{width}}  {right}" for left, right in lines]
    places = [f"  {names[node]} on {on}" for node in graph.nodes if (on := options_of(node).on)]
    return "\n".join([f"{name}: {_count(graph.nodes, 'node')}, {_count(graph.edges, 'edge')}", *shown, *places])


def check(graph: Graph, *, allow_open: bool = False) -> None:
    """Check that a graph can run.

    Args:
        graph: the graph.
        allow_open: let inputs that aren't optional stay open.

    Raises:
        PipelineError: it cannot; what is at fault is named.
    """
    if not graph.nodes:
        raise PipelineError("the pipeline is empty: give it nodes, `reader >> node >> writer`")
    names = graph.names()
    dangling = port_labels((port for port in graph.open_inputs() if not port.optional), names)
    if dangling and not allow_open:
        raise PipelineError(
            f"nothing feeds {', '.join(dangling)}: join an output to it, or declare it Input(..., optional=True)"
        )
    for edge in graph.edges:
        _check_edge(edge, names)
    cycle = graph.cycle()
    if cycle:
        raise PipelineError(
            f"the pipeline has a cycle: {' -> '.join(names[node] for node in cycle)}. Each would wait for the next; "
            "declare `independent = True` on a node whose outputs don't wait for its inputs"
        )


def _show_terms(edge: Edge, convert: Convert | None) -> str:
    words = [str(edge.resolved_delivery())]
    words += [f"deadline {edge.deadline_ms:g} ms"] if edge.deadline_ms is not None else []
    words += ["convert"] if edge.convert or convert else []
    return ", ".join(words)


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _check_edge(edge: Edge, names: Mapping[Node, str]) -> None:
    offered, wanted = edge.output_port.format, edge.input_port.format
    misfit = fits(offered, wanted)
    if misfit is not None:
        raise PipelineError(
            f"{edge_label(edge, names)}: {misfit} (the output gives {show(offered)}, the input takes {show(wanted)})"
        )
    if edge.resolved_delivery() == latest and is_inter_coded(_encoded(offered, wanted)):
        raise PipelineError(
            f"{edge_label(edge, names)}: `latest` would leave out packets that others need to be decoded: "
            "use drop_oldest(n) or reliable(n)"
        )


def _encoded(offered: Format, wanted: Format) -> Format:
    """Return the packets that an edge may carry, as narrowly as its ends tell; Any where none of them names packets."""
    ends = [each for each in (offered, wanted) if isinstance(each, Encoded)]
    told: list[set[str]] = [set(each.codecs) for each in ends if each.codecs]
    layout = next((each.layout for each in ends if each.layout is not None), None)
    common = sorted(codec for codec in told[0] if all(codec in each for each in told)) if told else []
    return Encoded(*common, layout=layout) if ends else Any


def _each_once(nodes: Iterable[Node]) -> tuple[Node, ...]:
    return tuple({id(node): node for node in nodes}.values())


def _fed_once(edges: Iterable[Edge], nodes: tuple[Node, ...]) -> tuple[Edge, ...]:
    """Return the edges, equal ones once, and refuse two different ones into one input that is not for many."""
    into: dict[tuple[int, str], list[Edge]] = {}
    for edge in dict.fromkeys(edges):
        others = into.setdefault((id(edge.target), edge.input), [])
        if any(other.ends == edge.ends for other in others):
            why = "it is joined to the same output already, with another delivery"
        elif others and not edge.input_port.many:
            why = f"{edge_label(others[0], unique_names(nodes))} feeds it already; "
            why += "declare it Input(..., many=True) to take several"
        else:
            others.append(edge)
            continue
        raise PipelineError(f"{edge_label(edge, unique_names(nodes))}: the input is taken: {why}")
    return tuple(dict.fromkeys(edges))


def _cycle_from(start: Node, waits: Mapping[int, list[Node]], done: set[int]) -> list[Node]:
    """Follow the edges from a node, with no recursion, for a graph may be deep."""
    way: list[Node] = [start]
    places = {id(start): 0}
    stack: list[Iterator[Node]] = [iter(waits[id(start)])]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            gone = way.pop()
            del places[id(gone)]
            done.add(id(gone))
        elif id(node) in places:
            return [*way[places[id(node)] :], node]
        elif id(node) not in done:
            places[id(node)] = len(way)
            way.append(node)
            stack.append(iter(waits[id(node)]))
    return []
