"""What the process of a node does with a package: check, unpack, prove, load. It is confined when it does so."""

from __future__ import annotations

import importlib
import importlib.util
import mmap
import os
import sys
from pathlib import Path
from typing import Any

from rmbus.errors import MalformedFrame, PackagingError, TooLarge, UnsupportedVersion
from rmbus.protocol.manifest import Manifest, Need
from rmbus.shipping.content import MAX_ARCHIVE_BYTES, python_tag, read_content
from rmbus.shipping.pickling import loads


def load(fd: int, folder: Path, state: bytes | memoryview) -> tuple[Manifest, Any]:
    """Unpack a package, hold it against this interpreter, and load the object whose state this is.

    Args:
        fd: the package, open for reading.
        folder: where to unpack it; it is made, or is empty.
        state: the pickled object.

    Returns:
        The manifest and the object.

    Raises:
        ProtocolError: the package is not valid. UnsupportedVersion: it was made by another Python.
        PackagingError: a module is missing here. What the shipped modules raise when they are imported comes as it is.
    """
    manifest = unpack(fd, folder)
    check_python(manifest)
    activate(folder)
    prove(manifest, folder)
    return manifest, loads(state, folder)


def unpack(fd: int, folder: Path) -> Manifest:
    """Write a package's files into a folder, after all checks.

    Raises:
        ProtocolError: the package is not valid; nothing was written.
        PackagingError: the folder has something in it already, or cannot be written.
    """
    size = os.fstat(fd).st_size
    if size > MAX_ARCHIVE_BYTES:
        raise TooLarge("a package's archive", size, MAX_ARCHIVE_BYTES)
    if size == 0:
        raise MalformedFrame("a package is empty")
    manifest, files = read_content(memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ)))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise PackagingError(f"{folder} is to take a package, but is not empty")
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(content)
    except OSError as error:
        raise PackagingError(f"a package cannot be unpacked into {folder}: {error}") from error
    return manifest


def check_python(manifest: Manifest) -> None:
    """Pass a package that was made by this implementation and minor version of Python.

    Raises:
        UnsupportedVersion: it was made by another; a pickle of one can crash the other.
    """
    ours = python_tag()
    if manifest.python != ours:
        raise UnsupportedVersion(
            f"{manifest.entry} was packaged by {manifest.python}; this host runs {ours}: "
            "use the same implementation and minor version of Python at both ends"
        )


def activate(folder: Path) -> None:
    """Put an unpacked package first on the search path."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def prove(manifest: Manifest, folder: Path) -> None:
    """Show, before anything of the package is imported, that it can be: every module that it needs is here.

    Raises:
        PackagingError: modules are missing, or would be hidden by others of the same name that this process has
            imported already; all of them are named, with who imports them and where.
    """
    lines = [_absent(need) for need in manifest.needs if not _is_here(need.module)]
    tops = {file.path.partition("/")[0].partition(".")[0] for file in manifest.files if file.path.endswith(".py")}
    lines += [_hidden(top) for top in sorted(tops) if _is_hidden(top, folder)]
    if lines:
        raise PackagingError(f"{manifest.entry} cannot run on this host:\n" + "\n".join(f"  {line}" for line in lines))


def _is_here(module: str) -> bool:
    top = module.partition(".")[0]
    if top in sys.modules:
        return True
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _absent(need: Need) -> str:
    return (
        f"module {need.module!r} is missing, which {need.importer} imports at {need.file}:{need.line}; "
        "install it on the host, add it to the requirements, or guard the import with `except ImportError`"
    )


def _is_hidden(top: str, folder: Path) -> bool:
    module = sys.modules.get(top)
    if module is None or top == "__main__":
        return False
    file = getattr(module, "__file__", None)
    if file is None:  # a namespace package takes up the new folder; a built-in module hides the file
        return not hasattr(module, "__path__")
    return not Path(file).resolve().is_relative_to(folder.resolve())


def _hidden(top: str) -> str:
    file = getattr(sys.modules[top], "__file__", None) or "the interpreter"
    return f"the package's module {top!r} would be hidden by that of {file}, which this process has imported; rename it"
