"""From errors to a line on the terminal and an exit code."""

from __future__ import annotations

import enum
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import typer

import rmbus
from rmbus.errors import ConnectFailed, NodeError, RmbusError


class Code(enum.IntEnum):
    """What the command ends with; `OK` where nothing else is said."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


class Misuse(RmbusError):
    """The command line asks for what cannot be meant."""


def leave(error: BaseException, *, debug: bool) -> NoReturn:
    """Tell an error, and end the command with its code.

    Raises:
        typer.Exit: always.
    """
    if debug:
        traceback.print_exception(error)
    print(f"rmbus: {tell(error)}", file=sys.stderr)
    raise typer.Exit(code_of(error))


def code_of(error: BaseException) -> Code:
    """Return the exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
        return Code.INTERRUPTED
    if isinstance(error, Misuse):
        return Code.USAGE
    return Code.UNREACHABLE if isinstance(error, ConnectFailed) else Code.FAILED


def tell(error: BaseException) -> str:
    """Return what went wrong, for a person."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, NodeError):
        return _tell_node(error)
    if isinstance(error, RmbusError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"


def _tell_node(error: NodeError) -> str:
    """Return the failure of a node; with its traceback where the code at fault is the user's own."""
    whole = str(error)
    if not error.traceback_text or _is_theirs(error.traceback_text):
        return whole
    return whole.partition("\n\nremote traceback:")[0]


def _is_theirs(traceback_text: str) -> bool:
    places = [line.split('"')[1] for line in traceback_text.splitlines() if line.lstrip().startswith('File "')]
    ours = Path(rmbus.__file__).parent
    homes = [str(ours), *(str((ours / name).resolve()) for name in ("nodes", "protocol", "brokers"))]
    return not (places and any(places[-1].startswith(home + "/") for home in homes))
