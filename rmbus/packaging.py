"""Packages of code, by hand: `rmbus` makes them by itself whenever an object is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

from rmbus.errors import PackagingError
from rmbus.protocol.manifest import Manifest
from rmbus.shipping.content import read_content
from rmbus.shipping.package import Package, build, build_files

__all__ = ["ArchiveInfo", "Package", "extract_archive_info", "package_files", "package_object"]


@frozen
class ArchiveInfo:
    """What is in a package.

    Attributes:
        manifest: entry, files with hashes and sizes, what it needs, requirements, Python.
        address: the content address, sha256 in hex.
        size: bytes of the archive.
        biggest: path and bytes of each file, the biggest first.
    """

    manifest: Manifest = field(repr=False)
    address: str
    size: int
    biggest: tuple[tuple[str, int], ...] = field(repr=False)


def package_object(
    obj: object,
    additional_files: Sequence[str | Path] = (),
    pip_requirements: Sequence[str] = (),
    exclude_patterns: Sequence[str] = (),
) -> Package:
    """Package the code of an object, class or function with every local module that it needs.

    Args:
        obj: the object; its state is not in the package.
        additional_files: files and folders besides.
        pip_requirements: distributions that the host must have.
        exclude_patterns: of paths, or of parts of paths, to leave out.

    Raises:
        PackagingError: it cannot be shipped, with the reason and the place.
    """
    return build(obj, files=additional_files, requirements=pip_requirements, exclude=exclude_patterns)


def package_files(
    entry_files: Sequence[str | Path],
    additional_files: Sequence[str | Path] = (),
    pip_requirements: Sequence[str] = (),
    exclude_patterns: Sequence[str] = (),
) -> Package:
    """Package Python files with every local module that they need; nothing of them is run.

    Args:
        entry_files: the files to start from.
        additional_files: files and folders besides.
        pip_requirements: distributions that the host must have.
        exclude_patterns: of paths, or of parts of paths, to leave out.

    Raises:
        PackagingError: they cannot be shipped, with the reason and the place.
    """
    return build_files(entry_files, files=additional_files, requirements=pip_requirements, exclude=exclude_patterns)


def extract_archive_info(archive: str | Path | bytes) -> ArchiveInfo:
    """Return what is in a package, after it was verified as a host does.

    Args:
        archive: its file, or its bytes.

    Raises:
        ProtocolError: it is no valid package. PackagingError: the file cannot be read.
    """
    try:
        data = archive if isinstance(archive, bytes) else Path(archive).read_bytes()
    except OSError as error:
        raise PackagingError(f"the package cannot be read: {error}") from error
    manifest, _ = read_content(memoryview(data))
    sizes = sorted(((file.path, file.size) for file in manifest.files), key=lambda item: (-item[1], item[0]))
    return ArchiveInfo(manifest, manifest.address, len(data), tuple(sizes))
