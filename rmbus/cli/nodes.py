"""`rmbus nodes`: what can be put into a pipeline by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated

import attrs
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmbus import formats
from rmbus.cli.failures import Misuse
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
    name: Annotated[str | None, typer.Argument(help="One of them: its ports and parameters.")] = None,
) -> None:
    """List the nodes that come with rmbus and with installed packages."""
    if name is None:
        _list()
    else:
        _describe(name)


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


def _describe(name: str) -> None:
    known = names.known()
    if name not in known:
        raise Misuse(f"no node is called {name!r}; `rmbus nodes` lists them")
    cls = names.find(name)
    entry = next(each for each in entries() if each.cls is cls)
    console = _console()
    also = f" (also {', '.join(entry.aliases)})" if entry.aliases else ""
    console.print(Text(f"{entry.name}{also}: {entry.place.replace(':', '.')}\n"))
    console.print(Text((inspect.getdoc(cls) or "") + "\n"))
    table = Table("port", "carries", "", box=None, pad_edge=False)
    found = ports(cls)
    for into in found.inputs.values():
        table.add_row(f"> {into.name}", Text(formats.show(into.format)), ", ".join(_traits(into)))
    for out in found.outputs.values():
        table.add_row(f"{out.name} >", Text(formats.show(out.format)), ", ".join(_traits(out)))
    console.print(table)
    console.print(Text(f"\n{entry.name}{_signature(cls)}"))


def _traits(port: Input | Output) -> list[str]:
    if isinstance(port, Output):
        return ["live"] if port.live else []
    return [word for word, holds in (("optional", port.optional), ("many", port.many)) if holds]


def _brief(found: Mapping[str, Input] | Mapping[str, Output]) -> Text:
    told: Iterable[str] = (f"{port.name}: {formats.show(port.format)}" for port in found.values())
    return Text("\n".join(told) or "-")


def _signature(cls: type[Node]) -> str:
    if cls.__init__ is object.__init__:
        return "()"
    shown: list[str] = []
    for each in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if each.kind is each.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        kind = "" if each.annotation is each.empty else f": {each.annotation}"
        shown.append(f"{each.name}{kind}" + ("" if each.default is each.empty else f" = {each.default!r}"))
    return f"({', '.join(shown)})"


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=120)
