"""Where a module would come from: looked up by name along the search path, never imported."""

from __future__ import annotations

import enum
import functools
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    FrozenImporter,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import ModuleType
from typing import Final

from attrs import frozen

OWN: Final = "rmbus"
"""Our own package: every host has it, so it is never shipped."""


class Place(enum.Enum):
    """Where a module comes from."""

    LOCAL = "a file of the user's own"
    STANDARD = "the standard library, the interpreter, or rmbus"
    INSTALLED = "an installed distribution"
    LOADED = "made at run time: it has no file"
    MISSING = "found nowhere"


@frozen
class Found:
    """What the search for one module gave.

    Attributes:
        name: its dotted name.
        place: where it comes from.
        file: its file; None for a namespace package and for what has none.
        folders: where its submodules are looked for; empty if it is no package.
        shadow: a local file that has the name of a module of the standard library, if there is one.
    """

    name: str
    place: Place
    file: Path | None = None
    folders: tuple[str, ...] = ()
    shadow: Path | None = None


class Resolver:
    """Looks modules up, each once.

    Args:
        path: the folders to search, as in `sys.path`; None searches as this process does, and prefers what it has
            imported already.
    """

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self._loaded: Mapping[str, ModuleType] = sys.modules if path is None else {}
        self._everywhere = path is None
        self._path = [os.path.abspath(entry) for entry in (sys.path if path is None else path)]
        self._finders: dict[str, FileFinder | None] = {}
        self._found: dict[str, Found] = {}

    def resolve(self, name: str) -> Found:
        """Return where the module of this dotted name comes from."""
        if name not in self._found:
            parent, _, _ = name.rpartition(".")
            self._found[name] = self._submodule(name, self.resolve(parent)) if parent else self._top(name)
        return self._found[name]

    def _top(self, name: str) -> Found:
        if name in (OWN, "__main__") or name in sys.builtin_module_names or FrozenImporter.find_spec(name) is not None:
            return Found(name, Place.STANDARD)
        if name in sys.stdlib_module_names:
            return self._standard(name)
        return self._from_loaded(name) or self._from_path(name, self._path) or self._elsewhere(name)

    def _standard(self, name: str) -> Found:
        before = [entry for entry in self._path[: self._standard_place()] if not is_installed(entry)]
        found = self._from_path(name, before)
        if found is None or found.file is None:
            return Found(name, Place.STANDARD)
        loaded = getattr(self._loaded.get(name), "__file__", None)
        place = Place.LOCAL if loaded is None or Path(loaded) == found.file else Place.STANDARD
        return Found(name, place, found.file, found.folders, shadow=found.file)

    def _standard_place(self) -> int:
        places = (number for number, entry in enumerate(self._path) if entry in _standard_folders())
        return next(places, len(self._path))

    def _from_loaded(self, name: str) -> Found | None:
        module = self._loaded.get(name)
        file = getattr(module, "__file__", None)
        folders = tuple(str(folder) for folder in getattr(module, "__path__", ()))
        if isinstance(file, str) and file.endswith(_SUFFIXES) and os.path.isfile(file):
            return _found(name, os.path.abspath(file), folders)
        return None

    def _from_path(self, name: str, entries: Iterable[str]) -> Found | None:
        portions: list[str] = []
        for entry in entries:
            finder = self._finder(entry)
            spec = finder.find_spec(name) if finder is not None else None
            if spec is not None and spec.loader is not None:
                return _from_spec(name, spec)
            if spec is not None:
                portions += spec.submodule_search_locations or ()
        if not portions:
            return None
        own = any(not is_installed(portion) for portion in portions)
        return Found(name, Place.LOCAL if own else Place.INSTALLED, folders=tuple(portions))

    def _elsewhere(self, name: str) -> Found:
        """Ask the process's other finders (those of editable installs), then what was made at run time."""
        if not self._everywhere:
            return Found(name, Place.MISSING)
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # ValueError: loaded, and without a spec
            spec = None
        if spec is not None and (spec.origin or spec.submodule_search_locations):
            return _from_spec(name, spec)
        return Found(name, Place.LOADED if name in self._loaded else Place.MISSING)

    def _submodule(self, name: str, parent: Found) -> Found:
        if parent.place is Place.STANDARD:
            return Found(name, Place.STANDARD)
        found = self._from_loaded(name)
        if found is None and parent.place is Place.LOCAL:
            found = self._from_path(name, parent.folders)
        if found is not None or parent.place is Place.INSTALLED:
            return found or Found(name, Place.INSTALLED)
        return Found(name, Place.LOADED if name in self._loaded else Place.MISSING)

    def _finder(self, entry: str) -> FileFinder | None:
        if entry not in self._finders:
            loaders = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceFileLoader, SOURCE_SUFFIXES))
            self._finders[entry] = FileFinder(entry, *loaders) if os.path.isdir(entry) else None
        return self._finders[entry]


_SUFFIXES: Final = tuple(SOURCE_SUFFIXES + EXTENSION_SUFFIXES)


def is_installed(path: str) -> bool:
    """Whether a file or folder belongs to an installed distribution or to the interpreter."""
    parts = Path(path).parts
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return any(path == folder or path.startswith(folder + os.sep) for folder in _standard_folders())


@functools.cache
def distributions() -> Mapping[str, Sequence[str]]:
    """Return the installed distributions of each top-level module. Slow once (about 80 ms), then remembered."""
    import importlib.metadata  # here, because it takes long to import

    return importlib.metadata.packages_distributions()


@functools.cache
def _standard_folders() -> frozenset[str]:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return frozenset({*folders, *(os.path.join(folder, "lib-dynload") for folder in folders)})


def _from_spec(name: str, spec: ModuleSpec) -> Found:
    folders = tuple(spec.submodule_search_locations or ())
    if spec.origin is None or not os.path.isfile(spec.origin):
        own = any(not is_installed(folder) for folder in folders)
        return Found(name, Place.LOCAL if own else Place.INSTALLED, folders=folders)
    return _found(name, os.path.abspath(spec.origin), folders)


def _found(name: str, file: str, folders: tuple[str, ...]) -> Found:
    return Found(name, Place.INSTALLED if is_installed(file) else Place.LOCAL, Path(file), folders)
