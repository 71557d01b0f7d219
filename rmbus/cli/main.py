"""The `rmbus` command."""

from __future__ import annotations

from typing import Annotated

import typer

import rmbus
from rmbus.cli.commands import Commands

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
    """Stream media through classes that run as processes, anywhere.

    Ends with 0; 1 the pipeline failed; 2 wrong usage; 3 no host answered; 130 interrupted.
    """


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
