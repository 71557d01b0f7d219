"""The `rmbus` command."""

from __future__ import annotations

from typing import Annotated

import typer

import rmbus
from rmbus.cli.demo import demo
from rmbus.cli.doctor import doctor
from rmbus.cli.failures import Commands
from rmbus.cli.host import host
from rmbus.cli.nodes import nodes
from rmbus.cli.run import run

app = typer.Typer(
    name="rmbus", cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rmbus {rmbus.__version__}")
        raise typer.Exit


@app.callback()
def rmbus_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Stream media through classes that run as processes, anywhere."""


for _command in (run, demo, host, nodes, doctor):
    app.command()(_command)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
