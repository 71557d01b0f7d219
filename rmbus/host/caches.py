"""Folders that outlive nodes, such as for the weights of models: by name, within a quota.

    .lock        held for a moment by whoever takes or removes a folder
    NAME/lock    held shared by the host of whoever uses the folder; its time is that of the last use
    NAME/data    what nodes see
    .gone-X      one that is being removed

Several hosts of one user may use one place. Folders are measured from time to time, in a thread: a user without rights
over the disk has no quota that the kernel would keep. What is written between two looks can be too much.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from rmbus.host.shelf import remove_tree
from rmbus.transport.reactor import Reactor

PATH: Final = "RMBUS_CACHE"
"""The environment variable that tells a node where its folder is."""

QUOTA_MB: Final = 20_000
"""All folders of a host together."""

MAX_FILES: Final = 100_000
"""Files of all folders together, so that a look at them has an end."""

MAX_DEPTH: Final = 64
"""Folders within each other. What is deeper, or cannot be listed, counts as too many files: it could hold anything."""

EVERY_S: Final = 1.0
"""Between two looks at folders that are in use."""


@attrs.define(eq=False)
class Use:
    """A folder, as one process has it.

    Attributes:
        name: the folder's. path: where it is. handle: the lock that keeps it.
        on_breach: called with what was wrong when the folder has outgrown the quota: its process is to end.
    """

    name: str
    path: str
    handle: int
    on_breach: Callable[[str], None] | None = None


@attrs.frozen
class Size:
    """What is in a folder: bytes on the disk, files and folders, and when it was last given to somebody."""

    bytes: int
    files: int
    used: float


class Caches:
    """The folders of a host.

    Args:
        root: where they are. quota_mb: what they may hold together, in MB (10⁶ bytes); 0: there are none.
    """

    def __init__(self, reactor: Reactor, root: Path, quota_mb: int = QUOTA_MB) -> None:
        self.quota_mb = quota_mb
        self._reactor, self._root = reactor, root
        self._uses: list[Use] = []
        self._sizes: dict[str, Size] = {}
        self._within: dict[str, Size] = {}  # as they were when they last kept within the quota
        self._is_looking = self._is_closed = False

    def take(self, name: str) -> Use:
        """Give a folder to one more process, until `give_back`; a new one is made. Its name was checked.

        Raises:
            OSError: it cannot be made.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            folder = self._root / name
            (folder / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_SH)
            os.utime(handle)
        use = Use(name, str(folder / "data"), handle)
        self._uses.append(use)
        self.look()
        return use

    def give_back(self, use: Use) -> None:
        """A process that had a folder has ended."""
        if use in self._uses:
            self._uses.remove(use)
            with suppress(OSError):  # a disk that is full
                os.utime(use.handle)
            os.close(use.handle)
            self._keep_within(self._sizes)
            self.look()

    def look(self) -> None:
        """Measure all folders, in a thread, and see to the quota then; again and again while one is in use."""
        if self._is_looking or self._is_closed or not self._root.is_dir():
            return
        self._is_looking = True
        threading.Thread(target=self._measure, name="rmbus-caches", daemon=True).start()

    def status(self) -> dict[str, object]:
        """Return which folders there are, by what was seen last, and how many use each."""
        return {
            name: {"mb": round(size.bytes / 1e6), "users": sum(use.name == name for use in self._uses)}
            for name, size in sorted(self._sizes.items())
        }

    def close(self) -> None:
        """Look no more."""
        self._is_closed = True

    def _measure(self) -> None:
        sizes: dict[str, Size] = {}
        try:
            for gone in self._root.glob(".gone-*"):
                remove_tree(gone)
            for name in self._names():
                if (size := size_on_disk(self._root / name)) is not None:
                    sizes[name] = size
        finally:
            self._reactor.call_soon(lambda: self._seen(sizes))

    def _seen(self, sizes: dict[str, Size]) -> None:
        self._is_looking = False
        self._sizes = sizes
        if not self._is_closed:
            self._keep_within(sizes)
            if self._uses:
                self._reactor.call_later(EVERY_S, self.look)

    def _keep_within(self, sizes: dict[str, Size]) -> None:
        """Remove what was used longest ago and nobody uses; if that is not enough, end those who have added most."""
        for name in sorted(sizes, key=lambda name: sizes[name].used):
            if self._is_over(sizes) and self._remove(name):
                del sizes[name]
        if not self._is_over(sizes):
            self._within = dict(sizes)
        elif names := {use.name for use in self._uses} & sizes.keys():
            worst = max(sorted(names), key=self._added)
            for use in self._uses:
                if use.name == worst and use.on_breach is not None:
                    use.on_breach(self._breach(worst, sizes))

    def _added(self, name: str) -> tuple[int, int]:
        size, before = self._sizes[name], self._within.get(name, Size(0, 0, 0.0))
        return max(0, size.files - before.files) // (MAX_FILES // 10), size.bytes - before.bytes

    def _breach(self, name: str, sizes: dict[str, Size]) -> str:
        size = sizes[name]
        files = f"{size.files} files" if size.files <= MAX_FILES else "more files than can be counted"
        return (
            f"its cache {name!r} has grown to {size.bytes / 1e6:.0f} MB, in {files}; all caches of the host together "
            f"may have {self.quota_mb} MB, in {MAX_FILES} files (its owner gives them more by --cache-mb)"
        )

    def _is_over(self, sizes: dict[str, Size]) -> bool:
        return (
            sum(size.bytes for size in sizes.values()) > self.quota_mb * 1_000_000
            or sum(size.files for size in sizes.values()) > MAX_FILES
        )

    def _names(self) -> Iterator[str]:
        return (path.name for path in self._root.iterdir() if not path.name.startswith("."))

    def _remove(self, name: str) -> bool:
        """Take a folder away, unless somebody uses it, of this host's or another's; a look later removes its files."""
        with self._alone():
            folder = self._root / name
            try:
                handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # another host has taken it away
                return True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                folder.rename(self._root / f".gone-{secrets.token_hex(8)}")
            except BlockingIOError:
                return False
            finally:
                os.close(handle)
        self._reactor.call_soon(self.look)
        return True

    @contextmanager
    def _alone(self) -> Generator[None]:
        handle = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def size_on_disk(folder: Path) -> Size | None:
    """Return what a cache takes on the disk, each file once, whatever its names; None where there is none any more."""
    try:
        used = (folder / "lock").stat().st_mtime
    except FileNotFoundError:
        used = time.time()
    if not folder.is_dir():
        return None
    seen: set[tuple[int, int]] = set()
    total = 0
    hidden: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=hidden.append):  # links are not followed
        for path in (place, *(os.path.join(place, name) for name in [*folders, *names])):
            with suppress(OSError):  # it was removed meanwhile
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * 512
        if len(seen) > MAX_FILES or place.count("/") > str(folder).count("/") + MAX_DEPTH:
            return Size(total, MAX_FILES + 1, used)
    is_hiding = any(not isinstance(error, FileNotFoundError) for error in hidden)
    return Size(total, MAX_FILES + 1 if is_hiding else len(seen), used)
