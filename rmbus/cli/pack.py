"""`rmbus pack`: a package of code, written to a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Annotated

import attrs
import typer

from rmbus import packaging
from rmbus.cli.failures import Misuse
from rmbus.cli.importing import import_file, import_named
from rmbus.cli.inspect import facts
from rmbus.packaging import Package, extract_archive_info
from rmbus.shipping.package import home_of


def pack(
    entry: Annotated[
        str,
        typer.Argument(
            metavar="ENTRY",
            help="FILE.py or FILE.py:NAME or MODULE:NAME, where NAME is a class, a function or an object.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write the package.")],
    files: Annotated[
        list[str] | None,
        typer.Option("--files", metavar="PATH|MODULE", help="A file, a folder or a local module besides."),
    ] = None,
    requirements: Annotated[
        list[str] | None,
        typer.Option("--requirement", metavar="SPEC", help="A distribution that it needs, as pip writes it."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Leave out paths, or parts of paths, like this."),
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Import it in a clean process first: nothing is missing then.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON, and nothing else.")] = False,
) -> None:
    """Package code with every local module that it needs, as it would travel to a host.

    FILE.py alone is read and never run; with a NAME it is imported. Each option may be given several times.
    """
    source, colon, name = entry.rpartition(":")
    target = Target(source, name) if colon else Target(entry, "")
    if output.resolve() == Path(target.source).resolve():
        raise Misuse(f"-o {output} would overwrite what is to be packaged")
    package = target.pack(files or (), requirements or (), exclude or ())
    if prove:
        packaging.prove(package)
    write(output, package.data)
    if as_json:
        told = facts(extract_archive_info(package.data))
        print(json.dumps({**told, "file": str(output), "warnings": package.warnings, "proved": prove}, indent=2))
        return
    print(package.report())
    proved = f"; {package.manifest.entry} imports in a clean process" if prove else ""
    print(f"written to {output}{proved}")


@attrs.frozen
class Target:
    """What is to be packaged: a file or a module, and a name in it; "" for the whole file."""

    source: str
    name: str

    def pack(self, files: Sequence[str], requirements: Sequence[str], exclude: Sequence[str]) -> Package:
        """Return the package.

        Raises:
            Misuse: there is no such file, module or name. PipelineError: the module cannot be imported.
            PackagingError: it cannot be shipped.
        """
        if self.source.endswith(".py") and not Path(self.source).is_file():
            raise Misuse(f"there is no file {self.source!r}")
        if self.name:
            with redirect_stdout(sys.stderr):  # what the user's modules print is no part of the report
                found = self._load()
            return packaging.package_object(found, files, requirements, exclude)
        if not self.source.endswith(".py"):
            raise Misuse(f"{self.source!r}: write FILE.py, FILE.py:NAME or MODULE:NAME")
        return packaging.package_files([self.source], files, requirements, exclude)

    def _load(self) -> object:
        if self.source.endswith(".py"):
            file = Path(self.source).resolve()
            module = import_file(file, *home_of(file))
        else:
            module = import_named(self.source)
        found: object = module
        for part in self.name.split("."):
            found = getattr(found, part, None)
        if found is None or isinstance(found, ModuleType):
            named = [each for each, value in vars(module).items() if _is_own(value, module.__name__)]
            raise Misuse(
                f"{self.source} has no class, function or object {self.name!r}"
                + (f"; it has {', '.join(named)}" if named else "")
            )
        return found


def write(file: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _is_own(value: object, module: str) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module
