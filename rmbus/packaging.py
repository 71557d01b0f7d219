"""Packages of code, by hand: `rmbus` makes them by itself whenever an object is shipped."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

from rmbus.errors import PackagingError, TooLarge
from rmbus.host.jail import environment
from rmbus.protocol.manifest import Manifest
from rmbus.runtime.prover import PROVED, REPORT_BYTES
from rmbus.shipping.content import MAX_ARCHIVE_BYTES, read_content
from rmbus.shipping.package import Package, build, build_files
from rmbus.shipping.source import ImportStatement, Reach
from rmbus.transport import runfolder
from rmbus.transport.runfolder import RunFolder
from rmbus.transport.umbilical import close_all, memory_file

__all__ = ["ArchiveInfo", "Package", "extract_archive_info", "package_files", "package_object", "prove"]


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
        ProtocolError: it is no valid package, or too large for one. PackagingError: the file cannot be read.
    """
    try:
        data = archive if isinstance(archive, bytes) else _read(Path(archive))
    except OSError as error:
        raise PackagingError(f"the package cannot be read: {error}") from error
    manifest, _ = read_content(memoryview(data))
    sizes = sorted(((file.path, file.size) for file in manifest.files), key=lambda item: (-item[1], item[0]))
    return ArchiveInfo(manifest, manifest.address, len(data), tuple(sizes))


def prove(package: Package, *, timeout_s: float = 60.0) -> None:
    """Show that a package stands alone: import its entry in a clean process on this machine.

    The process has the package's own files and the installed distributions on its path and nothing of the user's
    folders, not even of distributions that were installed from them in place. It checks what a host's node checks:
    the archive, Python, and that every module is there that is needed. What is printed goes to standard error.

    Args:
        package: the package.
        timeout_s: how long the import may take.

    Raises:
        PackagingError: a module is missing or fails, with its importer, file and line; or the import does not end.
    """
    runfolder.sweep()
    folder = RunFolder()
    work = folder.path / "work"
    reader, writer = os.pipe()
    data = memory_file("rmbus-package", package.data)
    try:
        work.mkdir(mode=0o700)
        command = [sys.executable, "-I", "-m", "rmbus.runtime.prover", str(writer), str(data), str(work / "code")]
        process = subprocess.Popen(
            [*command, str(os.getpid()), package.manifest.entry, *_imported(package)],
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=environment(str(work)),
            cwd=work,
            pass_fds=[writer, data],
            start_new_session=True,
        )
        folder.note_process(process.pid)
        try:
            ended = _has_ended(process, timeout_s)
        finally:
            runfolder.kill_session(process.pid)
            status = process.wait()
        report = _read_pipe(reader)
        if not ended:
            report = f"{package.manifest.entry} has not been imported within {timeout_s:g} s"
        elif not report:
            report = f"the process that imported {package.manifest.entry} ended with status {status}"
        if report != PROVED:
            raise PackagingError(report)
    finally:
        close_all([reader, writer, data])
        folder.remove()


def _has_ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    handle = os.pidfd_open(process.pid)
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        return bool(waiting.poll(timeout_s * 1000))
    finally:
        os.close(handle)


def _read_pipe(reader: int) -> str:
    """Return what is in a pipe; whoever still has its other end is not waited for."""
    os.set_blocking(reader, False)
    try:
        return os.read(reader, REPORT_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""


def _imported(package: Package) -> list[str]:
    """Return the shipped modules that loading the entry imports."""
    module = package.manifest.entry.partition(":")[0]
    local = {each.name for each in package.closure.modules}
    if module != "__main__":
        return [module] if module in local else []
    found: list[str] = []
    for script in package.closure.modules:
        for statement in script.scan.imports if script.name == "__main__" else ():
            if statement.reach is Reach.EAGER:
                found.append(_absolute(statement, script.package))
    return [each for each in dict.fromkeys(found) if each in local]


def _absolute(statement: ImportStatement, package: str) -> str:
    if not statement.level:
        return statement.module
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - statement.level + 1], *([statement.module] if statement.module else [])])


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > MAX_ARCHIVE_BYTES:
            raise TooLarge("a package's archive", size, MAX_ARCHIVE_BYTES)
        return opened.read(MAX_ARCHIVE_BYTES)
