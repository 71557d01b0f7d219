"""A package's bytes: its manifest and its files in one archive, and the one check that every reader makes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Final

from rmbus.errors import MalformedFrame
from rmbus.protocol.manifest import MAX_MANIFEST_BYTES, MAX_PACKAGE_BYTES, Manifest, decode_manifest
from rmbus.shipping.archive import read_archive, write_archive

MANIFEST_NAME: Final = "manifest.json"
CODE: Final = "code/"
"""The folder of the archive that holds the files, and that is put on the search path once it is unpacked."""

MAX_ARCHIVE_BYTES: Final = MAX_PACKAGE_BYTES + MAX_MANIFEST_BYTES + 16 * 1024 * 1024
"""An archive: all files, the manifest, and the headers."""


def python_tag(implementation: str | None = None, version: tuple[int, int] | None = None) -> str:
    """Return implementation and minor version of a Python, by default of this one, as in `cpython-3.11`."""
    major, minor = sys.version_info[:2] if version is None else version
    return f"{sys.implementation.name if implementation is None else implementation}-{major}.{minor}"


def pack_content(manifest: Manifest, files: Mapping[str, bytes]) -> bytes:
    """Return the archive of a manifest and its files, by path in the package."""
    members = {f"{CODE}{path}": data for path, data in files.items()}
    return write_archive({MANIFEST_NAME: manifest.encode(), **members})


def read_manifest(data: memoryview) -> Manifest:
    """Return the manifest of an archive, without having looked at the files.

    Raises:
        ProtocolError: the archive is not in its form, or has no valid manifest.
    """
    return _manifest(read_archive(data))


def read_content(data: memoryview) -> tuple[Manifest, dict[str, memoryview]]:
    """Return manifest and files, by path in the package, after every file was held against the manifest.

    Raises:
        ProtocolError: the archive is not in its form, a file is missing, extra or other than the manifest says, a path
            leads out of the package, or a limit is passed.
    """
    members = read_archive(data)
    manifest = _manifest(members)
    del members[MANIFEST_NAME]
    files: dict[str, memoryview] = {}
    for entry in manifest.files:
        member = members.pop(f"{CODE}{entry.path}", None)
        if member is None:
            raise MalformedFrame(f"a package lacks the file {entry.path!a} that its manifest names")
        if len(member) != entry.size or hashlib.sha256(member).hexdigest() != entry.sha256:
            raise MalformedFrame(f"a package's file {entry.path!a} is not what its manifest says")
        files[entry.path] = member
    if members:
        raise MalformedFrame(f"a package has the file {next(iter(members))[:120]!a} that its manifest does not name")
    return manifest, files


def _manifest(members: Mapping[str, memoryview]) -> Manifest:
    if MANIFEST_NAME not in members:
        raise MalformedFrame(f"a package has no {MANIFEST_NAME}")
    return decode_manifest(bytes(members[MANIFEST_NAME]))


def show_size(count: int) -> str:
    """Return a number of bytes for a person to read."""
    return f"{count} B" if count < 10_000 else f"{count / 1e3:,.1f} kB" if count < 1e6 else f"{count / 1e6:,.1f} MB"
