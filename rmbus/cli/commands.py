"""The commands by name. Each is imported when it is used, so that none costs more than what it needs."""

from __future__ import annotations

import importlib
from typing import Any, Final

import typer
from typer.core import TyperGroup

from rmbus.cli.failures import leave
from rmbus.errors import RmbusError

NAMES: Final = ("run", "demo", "host", "nodes", "pack", "inspect", "doctor")
"""The function of each is called as its module in this package."""


class Commands(TyperGroup):
    """The commands. An error is a line on standard error and an exit code; `--debug` adds the traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order of the help."""
        return list(NAMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; None where there is no such."""
        if cmd_name not in NAMES:
            return None
        module = importlib.import_module(f"rmbus.cli.{cmd_name}")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
        alone.command(cmd_name)(getattr(module, cmd_name))
        return typer.main.get_command(alone)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take `--debug` wherever it stands, but behind a lone `--`."""
        end = args.index("--") if "--" in args else len(args)
        ctx.obj = "--debug" in args[:end]
        kept = [each for each in args[:end] if each != "--debug"] + args[end:]
        return super().parse_args(ctx, kept)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, RmbusError, OSError) as error:
            leave(error, debug=bool(ctx.obj))
