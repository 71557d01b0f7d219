"""`rmbus inspect`: what is in a package, after it was verified as a host does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

from rmbus.cli.failures import Misuse
from rmbus.packaging import ArchiveInfo, extract_archive_info
from rmbus.protocol.manifest import Need
from rmbus.shipping.content import python_tag


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A package, as `rmbus pack` writes it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Verify a package as a host does, and show its manifest: files with hashes, needs, requirements, Python, address.

    Nothing of it is imported or run. Ends with 1 where it is no valid package.
    """
    if not file.is_file():
        raise Misuse(f"there is no file {str(file)!r}")
    info = extract_archive_info(file)
    if as_json:
        print(json.dumps(facts(info), indent=2))
    else:
        print("\n".join(_lines(info)))


def facts(info: ArchiveInfo) -> dict[str, Any]:
    """Return what a package says of itself, for programs."""
    return {"address": info.address, "size": info.size, **attrs.asdict(info.manifest)}


def _lines(info: ArchiveInfo) -> list[str]:
    manifest = info.manifest
    ours = python_tag()
    fits = "" if manifest.python == ours else f"; a host that runs {ours}, as this one, refuses it"
    lines = [
        _shown(manifest.entry),
        f"  address       {info.address}",
        f"  archive       {info.size:,} bytes, with {len(manifest.files)} files of {manifest.size:,} bytes",
        f"  python        {manifest.python}{fits}",
        f"  requirements  {_shown(', '.join(manifest.requirements)) or 'none'}",
    ]
    if manifest.lock:
        lines.append(f"  lock          {manifest.lock}")
    lines += ["", "needs on the host:" if manifest.needs else "needs nothing on the host"]
    lines += [
        f"  {_shown(need.module)}: {_shown(need.importer)} imports it at {_place(need)}" for need in manifest.needs
    ]
    lines += ["", "files (bytes, sha256, path):" if manifest.files else "no files"]
    return [*lines, *(f"  {file.size:>11,}  {file.sha256}  {file.path}" for file in manifest.files)]


def _place(need: Need) -> str:
    return _shown(f"{need.file}:{need.line}")


def _shown(text: str) -> str:
    """Return a text of somebody else's without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
