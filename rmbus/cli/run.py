"""`rmbus run`: a pipeline, a node around a film, or one node on a running bus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from rmbus import joined
from rmbus.cli import progress
from rmbus.cli.failures import Misuse
from rmbus.cli.progress import Gauge
from rmbus.cli.targets import Target, check_place, fill
from rmbus.errors import RmbusError, node_error
from rmbus.node import Node, Port, describe_ports, node_name, ports
from rmbus.plan import LOCAL
from rmbus.runtime.failures import describe, type_name


def run(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE[:NAME]",
            help="A Pipeline, a function that returns one, or a Node class, by its name in a Python file.",
        ),
    ],
    source: Annotated[str | None, typer.Option("-i", "--input", metavar="FILM", help="Fills the open input.")] = None,
    sink: Annotated[str | None, typer.Option("-o", "--output", metavar="FILM", help="Takes the open output.")] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="ADDRESS", help="The host to run on, tcp://HOST:PORT; by default this machine."),
    ] = None,
    reads: Annotated[
        list[str] | None,
        typer.Option("--in", metavar="[PORT=]TOPIC", help="Run one node on a running bus: feed an input from a topic."),
    ] = None,
    writes: Annotated[
        list[str] | None,
        typer.Option("--out", metavar="[PORT=]TOPIC", help="Likewise: publish an output as a topic."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")] = False,
) -> None:
    """Run a pipeline, and report what it did.

    `rmbus run edges.py:Edges -i in.mp4 -o out.mp4` puts a reader and a writer around a node; sound goes straight to the
    writer. `rmbus run edges.py:Edges --in camera/video --out edges/video` makes this process a node of a running bus.
    """
    if reads or writes:
        if source or sink:
            raise Misuse("--in and --out name topics, -i and -o films: give one pair or the other")
        join_bus(Target.parse(target).load_node(), reads or (), writes or (), bus=on)
        return
    filled = fill(Target.parse(target).load_pipeline(), source, sink)
    dangling = [port for port in filled.pipeline.open_inputs if not port.optional]
    if dangling and source is None:
        names = filled.pipeline.names()
        told = ", ".join(f"{names[port.node]}.{port.name}" for port in dangling if port.node is not None)
        raise Misuse(f"nothing feeds {told}: give -i FILM, or --in TOPIC for a node on a running bus")
    total = filled.film.frames if filled.film else None
    gauge = Gauge.of(filled.pipeline, total=total, reader=filled.reader)
    progress.run(filled.pipeline, gauge, on=check_place(on) if on else LOCAL, as_json=as_json, debug=bool(ctx.obj))


def join_bus(node: Node, reads: Sequence[str], writes: Sequence[str], *, bus: str | None) -> None:
    """Let this process be a node of a running bus, until its inputs have ended.

    Raises:
        Misuse: a port is unknown or not named where there are several. NodeError: the node's own code has failed.
        RmbusError: see `rmbus.joined.run`.
    """
    found = ports(node)
    inputs = dict(_port_topic(each, found.inputs, node) for each in reads)
    outputs = dict(_port_topic(each, found.outputs, node) for each in writes)
    try:
        joined.run(node, inputs=inputs, outputs=outputs, bus=bus)
    except (RmbusError, OSError):
        raise
    except Exception as error:  # the node's own code: whatever it raises is told with its place
        name = type_name(error)
        raise node_error(
            str(error), node=node_name(node), host="", type_name=name, traceback_text=describe(error)
        ) from error


def _port_topic(text: str, known: Mapping[str, Port], node: Node) -> tuple[str, str]:
    port, equals, topic = text.partition("=")
    if equals:
        if port not in known:
            raise Misuse(f"{text}: {node_name(node)} has no such port ({describe_ports(node)})")
        return port, topic
    if len(known) != 1:
        raise Misuse(f"{text}: which port is meant? Write port={text}; {node_name(node)} has {describe_ports(node)}")
    return next(iter(known)), text
