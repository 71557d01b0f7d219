"""`rmbus nodes`: what can be put into a pipeline by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import attrs
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmbus import formats
from rmbus.annotations import show
from rmbus.cli.failures import Misuse
from rmbus.cli.importing import import_named
from rmbus.cli.targets import Target
from rmbus.configuration import Schema, schema_of, show_default
from rmbus.errors import PipelineError
from rmbus.node import Input, Node, Output, ports
from rmbus.nodes import names


@attrs.frozen
class Entry:
    """A class of nodes, with the names that mean it."""

    cls: type[Node]
    name: str
    aliases: tuple[str, ...]
    place: str


def nodes(
    name: Annotated[
        str | None,
        typer.Argument(help="One of them, or a class as module:Class or FILE.py:Class: its ports and parameters."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what its constructor takes as a JSON Schema; of all of them by name.")
    ] = False,
) -> None:
    """List the nodes that come with rmbus and with installed packages, or tell what one is built with."""
    if not as_json and name is None:
        _list()
    elif not as_json and name is not None:
        _describe(_entry(name))
    elif name is not None:
        entry = _entry(name)
        _print_json(schema_of(entry.cls, entry.name).to_json())
    else:
        _print_json({each.name: schema_of(each.cls, each.name).to_json() for each in entries()})


def entries() -> list[Entry]:
    """Return the known classes, each once, by name. What cannot be imported is left out: naming it tells why."""
    by_place: dict[str, list[str]] = {}
    for each, place in names.known().items():
        by_place.setdefault(place, []).append(each)
    found: list[Entry] = []
    for place, called in by_place.items():
        own = place.rpartition(":")[2]
        name = own if own in called else called[0]
        try:
            cls = names.find(name)
        except PipelineError:
            continue
        found.append(Entry(cls, name, tuple(sorted(set(called) - {name})), place))
    return sorted(found, key=lambda entry: entry.name)


def _list() -> None:
    table = Table("node", "inputs", "outputs", "does", box=None, pad_edge=False)
    for entry in entries():
        known = ports(entry.cls)
        does = (inspect.getdoc(entry.cls) or "").partition("\n\n")[0].replace("\n", " ")
        table.add_row(entry.name, _brief(known.inputs), _brief(known.outputs), Text(does))
    _console().print(table)


def _entry(name: str) -> Entry:
    """Return the class that a name means: a registered one, or where it stands.

    Raises:
        Misuse: there is none, or it is no node. PipelineError: it cannot be imported.
    """
    if ":" not in name:
        if name not in names.known():
            raise Misuse(f"no node is called {name!r}; `rmbus nodes` lists them, and module:Class means any other")
        cls = names.find(name)
        return next(each for each in entries() if each.cls is cls)
    module, _, qualname = name.rpartition(":")
    if module.endswith(".py"):
        found = Target.parse(name).load()
    else:
        found = import_named(module)
        for part in qualname.split("."):
            found = getattr(found, part, None)
    if not inspect.isclass(found) or not issubclass(found, Node):
        raise Misuse(f"{name} is {'nothing' if found is None else repr(found)}, and no subclass of rmbus.Node")
    return Entry(found, name, (), f"{found.__module__}:{found.__qualname__}")


def _describe(entry: Entry) -> None:
    console = _console()
    also = f" (also {', '.join(entry.aliases)})" if entry.aliases else ""
    console.print(Text(f"{entry.name}{also}: {entry.place.replace(':', '.')}\n"))
    console.print(Text((inspect.getdoc(entry.cls) or "") + "\n"))
    table = Table("port", "carries", "", box=None, pad_edge=False)
    found = ports(entry.cls)
    for into in found.inputs.values():
        table.add_row(f"> {into.name}", Text(formats.show(into.format)), ", ".join(_traits(into)))
    for out in found.outputs.values():
        table.add_row(f"{out.name} >", Text(formats.show(out.format)), ", ".join(_traits(out)))
    console.print(table)
    console.print()
    _print_parameters(console, schema_of(entry.cls, entry.name))


def _print_parameters(console: Console, schema: Schema) -> None:
    if not schema.parameters and schema.others is None:
        console.print(Text("It is built without parameters."))
        return
    table = Table("parameter", "type", "default", "meaning", box=None, pad_edge=False)
    for each in schema.parameters:
        default = "required" if each.is_required else show_default(each)
        table.add_row(each.name, Text(show(each.hint)), Text(default), Text(each.meaning))
    if schema.others is not None:
        table.add_row("any other", Text(show(schema.others)), "", "")
    console.print(table)


def _print_json(found: dict[str, Any]) -> None:
    print(json.dumps(found, indent=2, ensure_ascii=False))


def _traits(port: Input | Output) -> list[str]:
    if isinstance(port, Output):
        return ["live"] if port.live else []
    return [word for word, holds in (("optional", port.optional), ("many", port.many)) if holds]


def _brief(found: Mapping[str, Input] | Mapping[str, Output]) -> Text:
    told: Iterable[str] = (f"{port.name}: {formats.show(port.format)}" for port in found.values())
    return Text("\n".join(told) or "-")


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=120)
