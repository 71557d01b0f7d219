"""What runs where, before anything runs: nodes with their places, edges with their ends. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final

import attrs

from rmbus.delivery import Delivery
from rmbus.errors import PipelineError
from rmbus.node import Node, options_of
from rmbus.pipeline import Pipeline
from rmbus.protocol.limits import DEFAULT_CREDIT

MAX_WINDOW: Final = 128
"""The greatest window of a reliable edge."""

LOCAL = "local"
"""The place of the script's own processes."""


@attrs.frozen
class PlannedNode:
    """A node, its number in the session, its name, and the address of its host."""

    number: int
    node: Node
    name: str
    place: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@attrs.frozen
class PlannedEdge:
    """An edge by the numbers of its nodes."""

    number: int
    producer: PlannedNode
    out: str
    consumer: PlannedNode
    into: str
    delivery: Delivery
    token: bytes = attrs.field(factory=lambda: secrets.token_bytes(16), repr=False)

    @property
    def credit(self) -> int:
        """Frames that may be under way: few, since they cannot be taken back; more where nothing is ever dropped."""
        return (
            DEFAULT_CREDIT
            if self.delivery.kind != "reliable"
            else max(DEFAULT_CREDIT, min(self.delivery.n // 2, MAX_WINDOW))
        )

    @property
    def name(self) -> str:
        """The edge, for people."""
        return f"{self.producer.name}.{self.out} -> {self.consumer.name}.{self.into}"


@attrs.frozen
class Plan:
    """A pipeline with everything placed."""

    nodes: tuple[PlannedNode, ...]
    edges: tuple[PlannedEdge, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """The addresses of the hosts that take part, each once."""
        return tuple(dict.fromkeys(node.place for node in self.nodes))

    @property
    def ends(self) -> frozenset[int]:
        """Numbers of the nodes that nothing is joined behind."""
        return frozenset(node.number for node in self.nodes) - {edge.producer.number for edge in self.edges}


def make_plan(pipeline: Pipeline, on: str | Sequence[str], *, here: Sequence[Node] = ()) -> Plan:
    """Place every node: by its own `on`, else by the run's; several addresses take turns.

    Args:
        pipeline: a valid pipeline.
        on: "local", an address, or several addresses.
        here: nodes that belong to the script's own machine, whatever `on` says.

    Raises:
        PipelineError: a place is none.
    """
    addresses = [on] if isinstance(on, str) else list(on)
    if not addresses:
        raise PipelineError("on=[] names no place: give 'local', an address, or several addresses")
    _check_supported(pipeline)
    names = pipeline.names()
    planned: dict[Node, PlannedNode] = {}
    for number, node in enumerate(pipeline.nodes):
        place = LOCAL if node in here else options_of(node).on or addresses[number % len(addresses)]
        inputs = tuple(dict.fromkeys(edge.input for edge in pipeline.edges if edge.target is node))
        outputs = tuple(dict.fromkeys(edge.output for edge in pipeline.edges if edge.source is node))
        planned[node] = PlannedNode(number, node, names[node], _checked(place), inputs, outputs)
    edges = tuple(
        PlannedEdge(
            number, planned[edge.source], edge.output, planned[edge.target], edge.input, edge.resolved_delivery()
        )
        for number, edge in enumerate(pipeline.edges)
    )
    return Plan(tuple(planned.values()), edges)


def check_revivable(plan: Plan) -> None:
    """Refuse a pipeline whose nodes could not be started anew when they die.

    Raises:
        PipelineError: it is spread over several hosts, or runs in a circle.
    """
    if len(plan.places) > 1:
        raise PipelineError(f"nodes are started anew on one host so far, and these are on {', '.join(plan.places)}")
    feeds = {node.number: {edge.producer.number for edge in plan.edges if edge.consumer is node} for node in plan.nodes}
    try:
        TopologicalSorter(feeds).prepare()
    except CycleError as error:
        names = {node.number: node.name for node in plan.nodes}
        circle = " -> ".join(names[number] for number in error.args[1])
        raise PipelineError(
            f"{circle} is a circle: what is made from a frame would be waited for by that frame, so its nodes cannot "
            "be started anew"
        ) from error


def _check_supported(pipeline: Pipeline) -> None:
    """Refuse what processes do not do yet, rather than leave it out silently."""
    names = pipeline.names()
    for node in pipeline.nodes:
        options = options_of(node)
        asked = {
            f"restart={options.restart!r}": options.restart != "never",
            f"on_error={options.on_error!r}": options.on_error != "stop",
        }
        for what, is_asked in asked.items():
            if is_asked:
                raise PipelineError(f"{names[node]} asks for {what}, which this release does not do in processes yet")
    for edge in pipeline.edges:
        for what, value in (("deadline_ms", edge.deadline_ms), ("convert", edge.convert)):
            if value is not None:
                asked_for = f"{pipeline.label(edge)} asks for {what}={value!r}"
                raise PipelineError(f"{asked_for}, which this release does not do yet")


def _checked(place: str) -> str:
    if place == LOCAL or place.startswith(("tcp://", "ipc://", "ssh://")):
        return place
    if place == "inline":
        raise PipelineError("on='inline' is for a whole pipeline, not for one node of it")
    raise PipelineError(
        f"{place!r} is no place: give 'local', or a host's address such as tcp://127.0.0.1:7700 or ssh://box"
    )


def dialer(producer: str, consumer: str, listens: Mapping[str, bool]) -> str:
    """Return which of two places connects to the other: the one that nobody can connect to, else the producer's.

    Raises:
        PipelineError: neither listens.
    """
    if listens[consumer]:
        return producer
    if listens[producer]:
        return consumer
    raise PipelineError(
        f"neither {producer} nor {consumer} can be reached by the other: put a node on 'local' between the two, or "
        "reach one of them by its own address, of a host that was started with `rmbus host --listen`"
    )
