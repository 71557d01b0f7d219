"""Room in a store of packages: what it holds, and what may go so that something else fits, least recently used first.

All of this is called under the store's own lock. A file that a process holds a lock on is in use, and never goes.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

from rmbus.errors import HostError
from rmbus.shipping.content import show_size

IDLE_S: Final = 600.0
"""An unfinished upload on which nothing has come for so long goes like a package that is not in use."""

COMPLETE: Final = ".zip"
UNFINISHED: Final = ".part"


@frozen(order=True)
class Kept:
    """A file of a store.

    Attributes:
        used: when it was used last, in seconds since 1970.
        path: where it is.
        size: in bytes.
    """

    used: float
    path: Path
    size: int


def contents(root: Path) -> list[Kept]:
    """Return the packages of a store, and the unfinished ones, the least recently used first."""
    return sorted(_kept(root))


def make_room(root: Path, wanted: int, quota: int, *, spare: Path | None = None) -> int:
    """Remove what is not in use, least recently used first, until so much more fits; return how many files went.

    Args:
        root: the store's folder.
        wanted: bytes that are to fit.
        quota: bytes that the store may hold.
        spare: the file that is to grow to `wanted` bytes; what it has already is part of them.

    Raises:
        HostError: it cannot fit, whatever goes; nothing was removed then.
    """
    held = [kept for kept in contents(root) if kept.path != spare]
    over = sum(kept.size for kept in held) + wanted - quota
    if over <= 0:
        return 0
    free = [kept for kept in held if _is_free(kept)]
    spared = sum(kept.size for kept in free)
    if spared < over and wanted:
        used = sum(kept.size for kept in held) - spared
        beside = f", of which {show_size(used)} are in use or about to be" if wanted <= quota else ""
        raise HostError(
            f"a package of {show_size(wanted)} does not fit into the host's store at {root}, which may hold "
            f"{show_size(quota)}{beside}: leave out of the package what the host does not need, "
            f"{'end what runs there, ' if beside else ''}or give the host a larger --store-quota"
        )
    gone = 0
    for kept in free:
        if over <= 0:
            break
        if _remove(kept.path):
            over -= kept.size
            gone += 1
    return gone


def _kept(root: Path) -> Iterator[Kept]:
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.endswith((COMPLETE, UNFINISHED)) and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield Kept(status.st_mtime, Path(entry.path), status.st_size)


def _is_free(kept: Kept) -> bool:
    if kept.path.suffix == UNFINISHED and abs(time.time() - kept.used) < IDLE_S:
        return False
    fd = _lock(kept.path)
    if fd is None:
        return False
    os.close(fd)
    return True


def _remove(path: Path) -> bool:
    fd = _lock(path)
    if fd is None:
        return False
    try:
        path.unlink()
    finally:
        os.close(fd)
    return True


def _lock(path: Path) -> int | None:
    """Return the descriptor of a file that is now locked for this process alone; None where that is not to be had."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a process holds it; or the file system has no such locks, and then nothing is known to be free
        os.close(fd)
        return None
    return fd
