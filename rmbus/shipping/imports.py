"""The finder: every local module that some code needs, however it imports it, with the data files beside them.

Local is what is neither the standard library, nor installed, nor rmbus. Nothing is imported or run to find out.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import Final

from attrs import evolve, field, frozen

from rmbus.errors import PackagingError
from rmbus.shipping.modules import Found, Place, Resolver
from rmbus.shipping.source import ImportStatement, Reach, Scan, scan


@frozen(order=True)
class SourceFile:
    """A file to ship.

    Attributes:
        path: where it lies in the package, with slashes.
        real: where it lies here.
    """

    path: str
    real: Path


@frozen(order=True)
class Import:
    """An import of a module that is not shipped.

    Attributes:
        module: its dotted name.
        importer: the module that imports it.
        file: the importer's file, as a path in the package; the bare file name of a script.
        line: counted from 1.
        optional: its absence on the host is no error.
    """

    module: str
    importer: str
    file: str
    line: int
    optional: bool


@frozen(order=True)
class Dynamic:
    """An import whose module is known only at run time: what it imports may be missing on the host."""

    importer: str
    file: str
    line: int
    text: str


@frozen(order=True)
class Shadow:
    """A local file that has the name of a module of the standard library, and code that imports that name."""

    module: str
    real: Path
    importer: str
    line: int
    shipped: bool


@frozen
class LocalModule:
    """A module that is shipped, or a script whose code travels by value.

    Attributes:
        name: its dotted name; `__main__` for a script.
        package: what its relative imports start from.
        file: the path in the package; the bare file name of a script.
        real: where it lies here; for a notebook's cell, the name that it was compiled under.
        scan: what its text says.
        folders: where its submodules lie; empty if it is no package.
    """

    name: str
    package: str
    file: str
    real: Path
    scan: Scan
    folders: tuple[str, ...] = ()


@frozen
class Closure:
    """All that some code needs, sorted.

    Attributes:
        files: the modules to ship, with the `__init__` files of their packages.
        external: imports of what is installed, and of what is missing here.
        missing: those of them that were found nowhere here; they may exist on the host alone.
        dynamic: imports that could not be followed.
        shadows: local files that take the name of a standard module.
        modules: the modules behind `files`, and scripts.
    """

    files: tuple[SourceFile, ...]
    external: tuple[Import, ...]
    missing: tuple[Import, ...]
    dynamic: tuple[Dynamic, ...]
    shadows: tuple[Shadow, ...]
    modules: tuple[LocalModule, ...] = field(repr=False)


@frozen
class Root:
    """A module to start from.

    Attributes:
        module: its dotted name.
        reach: how surely the code that is shipped imports it.
        needed_by: what needs it, for the text of an error.
        names: the names of it that are used; None for the whole of it.
    """

    module: str
    reach: Reach = Reach.EAGER
    needed_by: str = "the object that is shipped"
    names: frozenset[str] | None = None


def find_imports(
    roots: Iterable[Root], *, scripts: Iterable[LocalModule] = (), path: Sequence[str] | None = None
) -> Closure:
    """Return all that these modules and scripts need, recursively.

    Args:
        roots: the modules to start from.
        scripts: code that travels by value: what it imports is needed, it itself is not shipped as a file.
        path: the folders to search, as in `sys.path`; None searches as this process does.

    Raises:
        PackagingError: a local module is no valid Python, or a module that is imported at once is found nowhere.
    """
    walk = _Walk(Resolver(path))
    for root in roots:
        walk.start(root)
    for script in scripts:
        walk.read(script, Reach.EAGER)
    return walk.finish()


@frozen
class _Origin:
    importer: str
    file: str
    real: Path | None
    line: int

    def __str__(self) -> str:
        return f"{self.importer} imports it at {self.real}:{self.line}" if self.real is not None else self.importer


class _Walk:
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._queues: tuple[deque[tuple[Found, _Origin]], ...] = tuple(deque() for _ in Reach)
        self._seen: set[str] = set()
        self._modules: list[LocalModule] = []
        self._external: dict[tuple[str, str], Import] = {}
        self._missing: set[tuple[str, str]] = set()
        self._shadows: dict[str, Shadow] = {}
        self._names: dict[str, frozenset[str] | None] = {}

    def start(self, root: Root) -> None:
        found = self._resolver.resolve(root.module)
        if found.place in (Place.LOADED, Place.MISSING):
            raise PackagingError(
                f"{root.needed_by} refers to module {root.module!r}, which has no file that could be shipped; "
                "define its classes in a module that lies in a file, or in the script itself"
            )
        self._names[root.module] = root.names
        self._meet(found, root.reach, _Origin(root.needed_by, "", None, 0))

    def finish(self) -> Closure:
        while any(self._queues):
            reach = next(reach for reach in Reach if self._queues[reach])
            found, origin = self._queues[reach].popleft()
            if found.name not in self._seen:
                self._seen.add(found.name)
                self._visit(found, reach, origin)
        modules = sorted(self._modules, key=lambda module: (module.file, module.name))
        shipped = [module for module in modules if module.name != "__main__"]
        external = sorted(self._external.values())
        return Closure(
            files=tuple(SourceFile(module.file, module.real) for module in shipped if module.file),
            external=tuple(external),
            missing=tuple(item for item in external if (item.module, item.importer) in self._missing),
            dynamic=tuple(
                Dynamic(module.name, module.file, line, text)
                for module in modules
                for line, text in module.scan.dynamic
            ),
            shadows=tuple(sorted(self._shadows.values())),
            modules=tuple(modules),
        )

    def read(self, module: LocalModule, reach: Reach) -> None:
        """Follow the imports of a module that is reached in this way."""
        self._modules.append(module)
        for statement in module.scan.imports:
            judged = evolve(statement, reach=max(reach, statement.reach))
            origin = _Origin(module.name, module.file, module.real, statement.line)
            for target in self._targets(judged, module, origin):
                self._follow(target, judged, origin)

    def _visit(self, found: Found, reach: Reach, origin: _Origin) -> None:
        parent = found.name.rpartition(".")[0]
        if found.file is None:  # a namespace package: nothing but its folders
            self._modules.append(LocalModule(found.name, found.name, "", Path(), Scan(()), found.folders))
            return
        is_package = bool(found.folders)
        folder = found.name if is_package else parent
        suffix = next(ending for ending in (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES) if found.file.name.endswith(ending))
        file = "/".join([*folder.split("."), "__init__"] if is_package else found.name.split(".")) + suffix
        text = Scan(()) if suffix in EXTENSION_SUFFIXES else self._scan(found.file, found.name, origin)
        self.read(LocalModule(found.name, folder, file, found.file, text, found.folders), reach)

    def _scan(self, file: Path, module: str, origin: _Origin) -> Scan:
        return scan_file(file, module, origin, self._names.get(module))

    def _meet(self, found: Found, reach: Reach, origin: _Origin) -> None:
        if found.shadow is not None and found.name not in self._shadows:
            shipped = found.place is Place.LOCAL
            self._shadows[found.name] = Shadow(found.name, found.shadow, origin.importer, origin.line, shipped)
        if found.place is not Place.LOCAL:
            return
        parts = found.name.split(".")
        for length in range(1, len(parts)):
            parent = self._resolver.resolve(".".join(parts[:length]))
            self._queues[reach].append((parent, origin))
        self._queues[reach].append((found, origin))

    def _follow(self, found: Found, statement: ImportStatement, origin: _Origin) -> None:
        reach = statement.reach
        match found.place:
            case Place.STANDARD | Place.LOCAL:
                self._meet(found, reach, origin)
            case Place.INSTALLED | Place.LOADED:
                self._note(found.name, origin, reach is Reach.OPTIONAL)
            case Place.MISSING:
                if statement.conditional:
                    reach = Reach.OPTIONAL
                parent = found.name.rpartition(".")[0]
                certain = bool(parent) and self._resolver.resolve(parent).place is Place.LOCAL
                if reach is Reach.EAGER or (certain and reach is not Reach.OPTIONAL):
                    raise PackagingError(_missing(found.name, origin, parent if certain else ""))
                self._missing.add((found.name, origin.importer))
                self._note(found.name, origin, reach is Reach.OPTIONAL)

    def _note(self, module: str, origin: _Origin, optional: bool) -> None:
        key = (module, origin.importer)
        before = self._external.get(key)
        if before is None or (before.optional and not optional):
            self._external[key] = Import(module, origin.importer, origin.file, origin.line, optional)

    def _targets(self, statement: ImportStatement, module: LocalModule, origin: _Origin) -> Iterator[Found]:
        base = statement.module
        if statement.level:
            package = module.package.split(".") if module.package else []
            kept = len(package) - statement.level + 1
            if kept < 1:
                if statement.reach is Reach.OPTIONAL:
                    return
                raise PackagingError(
                    f"a relative import leads out of its package: {origin.real}:{origin.line} in {module.name}"
                )
            base = ".".join([*package[:kept], *([base] if base else [])])
        found = self._resolver.resolve(base)
        yield found
        if found.place is Place.LOCAL and found.folders:
            for name in statement.names:
                yield from self._members(found, name, origin)

    def _members(self, package: Found, name: str, origin: _Origin) -> Iterator[Found]:
        if name == "*":
            exported: tuple[str, ...] = ()
            if package.file is not None:
                exported = scan_file(package.file, package.name, origin).exports
            names = exported
        else:
            names = (name,)
        for member in names:
            found = self._resolver.resolve(f"{package.name}.{member}")
            if found.place is not Place.MISSING or package.file is None:
                yield found


_Stamp = tuple[int, int]
_scans: Final[dict[tuple[Path, frozenset[str] | None], tuple[_Stamp, Scan]]] = {}


def scan_file(real: Path, module: str, origin: object, names: frozenset[str] | None = None) -> Scan:
    """Return what a local module's file says; remembered until the file changes.

    Raises:
        PackagingError: it is no valid Python, with file, line and importer, or cannot be read.
    """
    try:
        status = os.stat(real)
        stamp = (status.st_mtime_ns, status.st_size)
        known = _scans.get((real, names))
        if known is None or known[0] != stamp:
            known = (stamp, scan(real.read_bytes(), str(real), names=names))
            _scans[real, names] = known
        return known[1]
    except SyntaxError as error:
        raise PackagingError(
            f"module {module!r} has a syntax error and cannot be shipped: {real}:{error.lineno}: {error.msg}\n"
            f"needed because: {origin}"
        ) from error
    except (OSError, ValueError) as error:
        raise PackagingError(
            f"module {module!r} cannot be shipped: {real}: {error}\nneeded because: {origin}"
        ) from error


def _missing(module: str, origin: _Origin, package: str) -> str:
    where = f"package {package!r} has no such module" if package else "it is found nowhere on this machine"
    return (
        f"module {module!r} cannot be shipped: {where}; {origin}\n"
        "install it, correct the name, guard the import with `except ImportError`, or move it into the method "
        "that uses it if only the host has it"
    )
