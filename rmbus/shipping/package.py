"""The packager: from an object to a content-addressed archive of all the source that it needs. State is not in it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from attrs import evolve, field, frozen

from rmbus.errors import PackagingError, ProtocolError
from rmbus.protocol.lock import LOCK_PATH
from rmbus.protocol.manifest import MAX_FILES, MAX_PACKAGE_BYTES, FileEntry, Kind, Manifest, Need
from rmbus.shipping.content import pack_content, python_tag, read_content, show_size
from rmbus.shipping.datafiles import DataFiles
from rmbus.shipping.declared import Declared, FilePath, read_declared
from rmbus.shipping.imports import Closure, Root, find_imports
from rmbus.shipping.modules import distributions, is_installed
from rmbus.shipping.pickling import Trace, trace
from rmbus.shipping.roots import find_origins

BIGGEST: Final = 5
"""How many files a report of sizes names."""


@frozen
class Package:
    """Shipped code.

    Attributes:
        manifest: what is in it.
        data: the archive.
        warnings: what may surprise: imports that could not be followed, files left out, names that shadow others.
        closure: what the finder found.
    """

    manifest: Manifest
    data: bytes = field(repr=False)
    warnings: tuple[str, ...] = field(repr=False)
    closure: Closure = field(repr=False)

    @property
    def address(self) -> str:
        """The content address, sha256 in hex: same code, same address, whatever the state."""
        return self.manifest.address

    def report(self) -> str:
        """Return sizes, the biggest files, what the host must have, and the warnings, for a person to read."""
        lines = [
            f"{self.manifest.entry}: {len(self.manifest.files)} files, {show_size(len(self.data))}, {self.address[:12]}"
        ]
        lines += _biggest({file.path: file.size for file in self.manifest.files})
        for top in sorted({need.module.partition(".")[0] for need in self.manifest.needs}):
            known = distributions().get(top)
            lines.append(f"  needs {top}" + (f" (here from {', '.join(sorted(set(known)))})" if known else ""))
        return "\n".join([*lines, *(f"  note: {warning}" for warning in self.warnings)])


def build(
    obj: object,
    *,
    files: Sequence[FilePath] = (),
    requirements: Sequence[str] = (),
    exclude: Sequence[str] = (),
    known: Trace | None = None,
) -> Package:
    """Package the code that an object, class or function needs, wherever its parts come from.

    Args:
        obj: the object. Its values stay out of the package: they travel as state, see `rmbus.shipping.pickling`.
        files: further files and folders. Each keeps its path below the folder of the object's own module, or comes to
            the top under its name. A relative one is looked for in the working folder, then in that of the module.
            Or names of local modules, as those that are imported by a name known only at run time. What declared
            modules import is shipped too.
        requirements: distributions that the host must have, as pip writes them.
        exclude: patterns of paths, or of parts of paths, to leave out.
        known: what the object's pickle refers to, if it was pickled already.

    Raises:
        PackagingError: the object cannot be pickled, a module is missing or no valid Python, or a limit is passed.
    """
    origins = find_origins(obj, known if known is not None else trace(obj))
    closure = find_imports(origins.roots, scripts=origins.scripts)
    declared = read_declared(files, _base(origins.entry, closure))
    if declared.roots:
        closure = find_imports([*origins.roots, *declared.roots], scripts=origins.scripts)
    return _package(origins.entry, "object", closure, declared, requirements, exclude)


def build_files(
    entries: Sequence[FilePath],
    *,
    files: Sequence[FilePath] = (),
    requirements: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Package:
    """Package Python files with all local modules that they need. Nothing of them is run.

    Args:
        entries: Python files; one that lies in a package is packaged under its full name.
        files: further files and folders, see `build`.
        requirements: distributions that the host must have, as pip writes them.
        exclude: patterns of paths, or of parts of paths, to leave out.

    Raises:
        PackagingError: a file or module is missing or no valid Python, or a limit is passed.
    """
    if not entries:
        raise PackagingError("no file was named to be packaged")
    homes = [home_of(Path(entry)) for entry in entries]
    path = list(dict.fromkeys([str(folder) for folder, _ in homes] + [entry for entry in sys.path if entry]))
    roots = [Root(module, needed_by="the list of files to package") for _, module in homes]
    declared = read_declared(files, homes[0][0], path)
    closure = find_imports([*roots, *declared.roots], path=path)
    return _package(homes[0][1], "files", closure, declared, requirements, exclude)


def with_lock(package: Package, requirements: Sequence[str], lock: bytes) -> Package:
    """Return the package with locked requirements in it, which are a part of its address.

    Args:
        package: a package without.
        requirements: as they were written.
        lock: what they were locked to, in canonical form.

    Raises:
        PackagingError: with them a limit is passed.
    """
    _, files = read_content(memoryview(package.data))
    contents = {path: bytes(data) for path, data in files.items()} | {LOCK_PATH: lock}
    digest = hashlib.sha256(lock).hexdigest()
    entries = sorted((*package.manifest.files, FileEntry(LOCK_PATH, digest, len(lock))))
    try:
        manifest = evolve(
            package.manifest,
            files=tuple(entries),
            requirements=tuple(sorted({*package.manifest.requirements, *requirements})),
            lock=digest,
        )
        return evolve(package, manifest=manifest, data=pack_content(manifest, contents))
    except ProtocolError as error:
        raise PackagingError(f"{package.manifest.entry} cannot be shipped: {error}") from error


def _package(
    entry: str,
    kind: Kind,
    closure: Closure,
    declared: Declared,
    requirements: Sequence[str],
    exclude: Sequence[str],
) -> Package:
    data_files = DataFiles(exclude)
    data_files.of_modules(closure.modules)
    for real, path in declared.files:
        data_files.declared(real, path)
    chosen: dict[str, Path] = {}
    for file in (*closure.files, *sorted(data_files.files)):
        if data_files.excluded(file.path):
            continue
        if chosen.setdefault(file.path, file.real).resolve() != file.real.resolve():
            raise PackagingError(f"two files would lie at {file.path} in the package: {chosen[file.path]}, {file.real}")
    contents = _read(chosen)
    needs = {Need(item.module, item.importer, item.file, item.line) for item in closure.external if not item.optional}
    try:
        manifest = Manifest(
            entry=entry,
            python=python_tag(),
            files=tuple(
                FileEntry(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in sorted(contents.items())
            ),
            needs=tuple(sorted(needs)),
            requirements=tuple(sorted(set(requirements))),
            kind=kind,
        )
        data = pack_content(manifest, contents)
    except ProtocolError as error:
        raise PackagingError(f"{entry} cannot be shipped: {error}") from error
    return Package(manifest, data, tuple(_warnings(closure, data_files, declared)), closure)


def _read(chosen: Mapping[str, Path]) -> dict[str, bytes]:
    try:
        sizes = {path: real.stat().st_size for path, real in chosen.items()}
        total = sum(sizes.values())
        if len(sizes) > MAX_FILES or total > MAX_PACKAGE_BYTES:
            raise PackagingError(
                f"the package would have {len(sizes)} files and {show_size(total)}; the limits are {MAX_FILES} and "
                f"{show_size(MAX_PACKAGE_BYTES)}; exclude what the host does not need. The biggest:\n"
                + "\n".join(_biggest(sizes))
            )
        return {path: real.read_bytes() for path, real in chosen.items()}
    except OSError as error:
        raise PackagingError(f"a file to ship cannot be read: {error}") from error


def home_of(file: Path) -> tuple[Path, str]:
    """Return the folder that a Python file is imported from, and the name of the module that it is there.

    Raises:
        PackagingError: it is no Python file.
    """
    if not file.is_file() or file.suffix != ".py":
        raise PackagingError(f"{file} is no Python file that could be packaged")
    file = file.resolve()
    parts, folder = [] if file.stem == "__init__" else [file.stem], file.parent
    while (folder / "__init__.py").exists():
        parts, folder = [folder.name, *parts], folder.parent
    return folder, ".".join(parts)


def _base(entry: str, closure: Closure) -> Path:
    """Return the folder that declared files are relative to: the one that the entry's module is imported from."""
    name = entry.partition(":")[0]
    for module in closure.modules:
        if module.name == name and module.file and module.real.is_file():
            return module.real.resolve().parents[module.file.count("/")]
    return Path.cwd()


def _warnings(closure: Closure, data_files: DataFiles, declared: Declared) -> Iterable[str]:
    for shadow in closure.shadows:
        what = "is shipped" if shadow.shipped else "is not shipped: the standard one was imported before it"
        yield (
            f"{shadow.real} has the name of the standard module {shadow.module!r}, which {shadow.importer} imports at "
            f"line {shadow.line}; it {what}; rename it"
        )
    for item in closure.dynamic if not declared.roots else ():  # who declares modules knows of these calls
        yield (
            f"{item.file}:{item.line}: {item.text} imports what is known only at run time; local modules that it means "
            "are not shipped unless they are imported by name elsewhere or declared: files=[the module's name]"
        )
    taken = {file.path for file in data_files.files}
    for skipped in sorted(data_files.skipped.values()):
        if skipped.path not in taken:
            yield f"{skipped.path} is left out: it {skipped.reason}"
    for module in closure.modules:
        if module.file and not module.file.endswith((".py", ".pyw")) and not is_installed(str(module.real)):
            yield f"{module.file} is compiled for {sys.platform}; a host of another kind cannot import it"


def _biggest(sizes: Mapping[str, int]) -> list[str]:
    order = sorted(sizes, key=lambda path: (-sizes[path], path))
    return [f"  {show_size(sizes[path]):>10}  {path}" for path in order[:BIGGEST]]
