"""Files and modules that are named on the command line, imported; what they raise is told with its place."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from rmbus.cli.failures import Misuse
from rmbus.errors import PipelineError


def import_file(file: Path, folder: Path, name: str) -> ModuleType:
    """Import a file under this name, with the folder first on the path.

    Raises:
        Misuse: the name means another module. PipelineError: the file cannot be imported.
    """
    sys.path.insert(0, str(folder))
    module = _import(name, file.name)
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != file:
        raise Misuse(
            f"{file.name} would be imported as {name!r}, which is {origin or 'built in'} already: give it another name"
        )
    return module


def import_named(name: str) -> ModuleType:
    """Import a module by its dotted name, with the working folder first on the path, as `python -m` does.

    Raises:
        Misuse: there is none. PipelineError: it cannot be imported.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise Misuse(f"{name!r} is no name of a module")
    sys.path.insert(0, os.getcwd())
    return _import(name, name)


def place_of(error: Exception) -> str:
    """Return an error of the user's code with the line that raised it."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}:{error.lineno})"
    raised = traceback.extract_tb(error.__traceback__)
    own = [entry for entry in raised if not entry.filename.startswith(("<", str(Path(__file__).parent)))]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


def _import(name: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's own code: whatever it raises is told with its place
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise Misuse(f"there is no module {name!r}, neither installed nor in {os.getcwd()}") from error
        raise PipelineError(f"{shown} cannot be imported: {place_of(error)}") from error
