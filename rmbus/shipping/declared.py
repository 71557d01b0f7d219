"""What a user declares beside what is found: files, folders, and modules that no text names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

from rmbus.errors import PackagingError
from rmbus.shipping.imports import Root, scan_file
from rmbus.shipping.modules import Place, Resolver
from rmbus.shipping.source import Reach

FilePath = str | Path

_BY: str = "the list of files to ship"


@frozen
class Declared:
    """What was declared.

    Attributes:
        files: files and folders, each with its path in the package.
        roots: modules among them, whose own imports are needed too.
    """

    files: tuple[tuple[Path, str], ...] = ()
    roots: tuple[Root, ...] = ()


def read_declared(items: Sequence[FilePath], base: Path, path: Sequence[str] | None = None) -> Declared:
    """Return what is meant by the items.

    Args:
        items: files and folders, in the working folder or in `base`; or the dotted names of local modules.
        base: the folder that the entry's module is imported from: what lies below it keeps its path.
        path: the folders to search for modules, as in `sys.path`; None searches as this process does.

    Raises:
        PackagingError: there is no such file, folder or local module.
    """
    resolver = Resolver(path)
    files: list[tuple[Path, str]] = []
    roots: dict[str, Root] = {}
    for item in items:
        found = next((place for place in (Path.cwd() / item, base / item) if place.exists()), None)
        if found is None:
            roots[str(item)] = _module(str(item), base, resolver)
            continue
        real = found.resolve()
        inside = real.is_relative_to(base.resolve())
        name = real.relative_to(base.resolve()).as_posix() if inside else real.name
        files.append((real, name.removeprefix("./")))
        for root in _modules(real, name, resolver):
            roots.setdefault(root.module, root)
    return Declared(tuple(files), tuple(roots.values()))


def _module(name: str, base: Path, resolver: Resolver) -> Root:
    is_name = all(part.isidentifier() for part in name.split("."))
    place = resolver.resolve(name).place if is_name else Place.MISSING
    if place is Place.LOCAL:
        return Root(name, Reach.LAZY, _BY)
    if place is Place.MISSING:
        also = ", nor is it a local module" if is_name else ""
        raise PackagingError(f"{name} was to be shipped, but is neither in {Path.cwd()} nor in {base}{also}")
    raise PackagingError(f"{name} was to be shipped, but is {place.value}: a host has it, or needs it as a requirement")


def _modules(real: Path, path: str, resolver: Resolver) -> Iterator[Root]:
    """Yield the modules that a declared file or folder brings, where they are imported by their path in the package.

    Of a file what it imports is needed; of a folder whatever of that can be found here.
    """
    if real.is_file():
        yield from _of_file(real, path, resolver, Reach.LAZY)
        return
    for file in sorted(real.rglob("*.py")):
        inner = file.relative_to(real).as_posix()
        yield from _of_file(file, inner if path in ("", ".") else f"{path}/{inner}", resolver, Reach.OPTIONAL)


def _of_file(real: Path, path: str, resolver: Resolver, reach: Reach) -> Iterator[Root]:
    parts = path.removesuffix(".py").split("/")
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    if real.suffix != ".py" or not parts or not all(part.isidentifier() for part in parts):
        return
    found = resolver.resolve(".".join(parts))
    if found.place is not Place.LOCAL or found.file is None or found.file.resolve() != real:
        return
    try:
        scan_file(real, found.name, _BY)
    except PackagingError:  # what is no module is a file like others
        return
    yield Root(found.name, reach, _BY)
