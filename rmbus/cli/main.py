"""The `rmbus` command."""

from __future__ import annotations

from typing import Annotated

import typer

import rmbus

app = typer.Typer(name="rmbus", no_args_is_help=True, add_completion=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rmbus {rmbus.__version__}")
        raise typer.Exit


@app.callback()
def rmbus_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Stream media through classes that run as processes, anywhere."""


def main() -> None:
    """Run the command line."""
    app()
