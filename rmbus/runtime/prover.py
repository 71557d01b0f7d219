"""The proof of a package in a process of its own: what a node's process does with it, up to the import of its entry.

Started by `rmbus.packaging.prove` as `python -I -m rmbus.runtime.prover REPORT PACKAGE FOLDER PARENT ENTRY MODULE...`.
What does not hold is written to the descriptor REPORT, or `PROVED`, where all of it does.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rmbus.errors import RmbusError
from rmbus.runtime import confine
from rmbus.runtime.process import READY
from rmbus.shipping.load import activate, check_python, prove, unpack
from rmbus.shipping.modules import is_installed

REPORT_BYTES: Final = 16 * 1024
"""The report is cut to so many bytes, which a pipe takes at once."""

PROVED: Final = "proved"


def main() -> None:
    """Prove one package."""
    report, package, folder, parent = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    confine.die_with_parent(parent)
    for module in READY:
        importlib.import_module(module)
    forget_own_folders()
    try:
        manifest = unpack(package, folder)
        check_python(manifest)
        activate(folder)
        prove(manifest, folder)
        trouble = import_entry(sys.argv[5], sys.argv[6:], folder)
    except RmbusError as error:
        trouble = str(error)
    os.write(report, (trouble or PROVED).encode(errors="backslashreplace")[:REPORT_BYTES])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that the user's modules have started do not keep the process


def forget_own_folders() -> None:
    """Leave nothing on the search path but installed distributions: no folder that one was installed from in place."""
    sys.path[:] = [entry for entry in sys.path if is_installed(entry)]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_editable(finder)]
    importlib.invalidate_caches()


def import_entry(entry: str, modules: Sequence[str], folder: Path) -> str:
    """Import these modules and look the entry up; return what went wrong, with importer, file and line, or "".

    Args:
        entry: `module:qualified name`, or a module's name.
        modules: what loading the entry imports.
        folder: where the package was unpacked.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001  # the user's code may raise anything, SystemExit too
            return f"{entry} cannot be imported: {_told(error, folder)}"
    module, _, name = entry.partition(":")
    if module not in modules or "<locals>" in name:
        return ""
    found: object = sys.modules[module]
    for part in name.split(".") if name else ():
        found = getattr(found, part, None)
    return f"{entry} is not there after its module was imported" if found is None else ""


def _told(error: BaseException, folder: Path) -> str:
    text = f"{type(error).__name__}: {error}"
    place = _place(error, folder)
    if not isinstance(error, ModuleNotFoundError):
        return f"{text}\n  raised {place}" if place else text
    return (
        f"module {error.name!r} is missing\n  imported {place or 'as the entry itself'}\n"
        "it is neither in the package nor an installed distribution: import it by a name that stands in the text, or "
        "declare it"
    )


def _place(error: BaseException, folder: Path) -> str:
    """Return the innermost line of the package that led to an error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"by {_relative(error.filename, folder)}:{error.lineno}"
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = _relative(frame.f_code.co_filename, folder)
        if file:
            place = f"by {frame.f_globals.get('__name__')} at {file}:{line}"
    return place


def _relative(file: str, folder: Path) -> str:
    path = Path(file)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else ""


def _is_editable(finder: object) -> bool:
    kind = finder if isinstance(finder, type) else type(finder)
    return "editable" in kind.__module__.lower()


if __name__ == "__main__":
    main()
