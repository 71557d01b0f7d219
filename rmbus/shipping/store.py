"""The packages that a host holds, by content address. Bytes only: nothing is imported or unpickled here.

Several hosts of one user may use one folder. What one of them needs it holds by a lock on the file, which ends with its
process on every path; what nobody holds may be removed by any of them when the quota is reached.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from rmbus.errors import HostError, MalformedFrame, PackagingError, RmbusError, TooLarge
from rmbus.protocol.manifest import is_address
from rmbus.shipping.content import MAX_ARCHIVE_BYTES, read_content
from rmbus.shipping.room import COMPLETE, UNFINISHED, make_room

STALE_S: Final = 24 * 3600.0
"""An upload that stood still for this long is given up."""

QUOTA_BYTES: Final = 4_000_000_000
"""What a store may hold if nobody says otherwise: several of the largest packages."""

LOCK: Final = ".lock"
"""Held for a moment by whoever decides what is kept; nobody waits for anything else meanwhile."""

_OWNER: Final = re.compile(r"[0-9A-Za-z_-]{0,64}")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@frozen
class Held:
    """How much of a package a store holds.

    Attributes:
        complete: all of it, verified.
        offset: bytes that are there; where an upload goes on.
    """

    complete: bool
    offset: int


class Hold:
    """Keeps a package where it is until it is closed, or this process ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Let it go."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Store:
    """A folder of packages. Any number of processes may use one at once.

    Args:
        root: the folder; it is made, for this user alone.
        quota_bytes: what all files in it may take together. What nobody holds goes first, by when it was used last.
    """

    def __init__(self, root: Path, *, quota_bytes: int = QUOTA_BYTES) -> None:
        self._root = root
        self._quota = quota_bytes
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def have(self, address: str, *, owner: str = "") -> Held:
        """Return how much of a package is here; it counts as used now.

        Args:
            address: its content address.
            owner: who uploads: everybody sees what is complete, and of the rest only what is his own.

        Raises:
            MalformedFrame: that is no address.
        """
        final, part = self._paths(address, owner)
        with self._guarded():
            for path, complete in ((final, True), (part, False)):
                try:
                    os.utime(path, follow_symlinks=False)
                    return Held(complete, path.lstat().st_size)
                except FileNotFoundError:
                    continue
        return Held(complete=False, offset=0)

    def hold(self, address: str) -> Hold:
        """Keep a complete package from being collected, by this and every other process; it counts as used now.

        Raises:
            PackagingError: it is not here.
        """
        with self._guarded():
            hold = Hold(fd := self.open(address))
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
                os.utime(fd)
            except BaseException:
                hold.close()
                raise
        return hold

    def collect(self) -> int:
        """Remove what nobody holds until the quota is kept, as far as it can be; return how many files went."""
        with self._guarded():
            return make_room(self._root, 0, self._quota)

    def put(self, address: str, offset: int, data: bytes | memoryview, total: int, *, owner: str = "") -> Held:
        """Take a chunk of a package; the last one makes it complete, once all of it was verified.

        A chunk that is here already is taken again; so an upload may be repeated, and two may run at once.

        Args:
            address: its content address.
            offset: where in the archive the chunk lies.
            data: the chunk.
            total: the size of the whole archive.
            owner: who uploads.

        Returns:
            What is held now; the next chunk goes to its `offset`.

        Raises:
            ProtocolError: the chunk leaves a gap or passes the end, or the whole is not the package of that address;
                then what was uploaded is thrown away.
            TooLarge: the archive is over the limit.
            HostError: the disk is full, or it does not fit into the quota beside what is held; what was uploaded is
                thrown away.
        """
        final, part = self._paths(address, owner)
        if total > MAX_ARCHIVE_BYTES:
            raise TooLarge("a package's archive", total, MAX_ARCHIVE_BYTES)
        size = len(memoryview(data).cast("B"))
        if offset < 0 or offset + size > total:
            raise MalformedFrame(f"a chunk of {size} bytes at {offset} passes the end of an archive of {total}")
        try:
            with _locked(part, final) as fd:
                return self.have(address) if fd is None else self._take(fd, part, final, offset, data, total)
        except OSError as error:
            raise HostError(_trouble(self._root, error, total)) from error

    def open(self, address: str) -> int:
        """Return a descriptor of a complete package, for reading; the caller closes it.

        Raises:
            PackagingError: it is not here.
        """
        try:
            return os.open(self._paths(address, "")[0], os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise PackagingError(f"package {address[:12]} is not on this host; send it first") from error

    def discard(self, address: str) -> None:
        """Remove a package, complete or not. Who has it open keeps it."""
        final, _ = self._paths(address, "")
        for path in (final, *self._root.glob(f"{address}*{UNFINISHED}")):
            path.unlink(missing_ok=True)

    def sweep(self, *, older_than_s: float = STALE_S) -> int:
        """Remove uploads on which nothing has come for so long; return how many there were."""
        swept = 0
        for part in self._root.glob(f"*{UNFINISHED}"):
            with suppress(FileNotFoundError, BlockingIOError), part.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else it is being written right now
                if time.time() - os.fstat(file.fileno()).st_mtime > older_than_s:
                    part.unlink()
                    swept += 1
        return swept

    def _paths(self, address: str, owner: str) -> tuple[Path, Path]:
        if not is_address(address):
            raise MalformedFrame(f"{address[:80]!a} is no content address")
        if not _OWNER.fullmatch(owner):
            raise MalformedFrame(f"{owner[:80]!a} is no name of an uploader")
        return self._root / f"{address}{COMPLETE}", self._root / f"{address}.{owner}{UNFINISHED}"

    def _take(self, fd: int, part: Path, final: Path, offset: int, data: bytes | memoryview, total: int) -> Held:
        """Write a chunk, and make the package complete if it was the last; on any failure nothing of it stays."""
        held = os.fstat(fd).st_size
        if offset > held:
            raise MalformedFrame(f"a chunk at {offset} leaves a gap: the next one goes to {held}")
        try:
            with self._guarded():
                make_room(self._root, total, self._quota, spare=part)
                _write(fd, data, offset)
            held = os.fstat(fd).st_size
            if held < total:
                return Held(complete=False, offset=held)
            _verify(fd, final.stem)
            os.fchmod(fd, 0o400)
            os.fsync(fd)
            os.rename(part, final)
        except (OSError, RmbusError):
            part.unlink(missing_ok=True)
            raise
        return Held(complete=True, offset=held)

    @contextmanager
    def _guarded(self) -> Generator[None]:
        """Hold the store's lock: nothing is collected, and nothing grows, but by this process."""
        fd = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


@contextmanager
def _locked(part: Path, final: Path) -> Generator[int | None]:
    """Open the unfinished file under its lock; give None if the package is complete."""
    while True:
        if final.exists():
            yield None
            return
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_still(fd, part):
                yield fd
                return
        finally:
            os.close(fd)


def _is_still(fd: int, path: Path) -> bool:
    """Whether the path leads to this open file: another upload may have completed or removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _write(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _verify(fd: int, address: str) -> None:
    size = os.fstat(fd).st_size
    if size == 0:
        raise MalformedFrame("a package is empty")
    manifest, _ = read_content(memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ)))
    if manifest.address != address:
        raise MalformedFrame(f"a package sent as {address[:12]} has the address {manifest.address[:12]}")


def _trouble(root: Path, error: OSError, total: int) -> str:
    if error.errno in _FULL:
        return (
            f"the host's disk is full at {root}: a package of {total} bytes does not fit; free some space there, or "
            "give the host a smaller --store-quota, so that it removes what it does not use"
        )
    return f"the host cannot keep a package in {root}: {error}"
