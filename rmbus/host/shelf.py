"""The folder where a host keeps environments: their names, their locks, and which of them have to go.

    KEY          a finished environment, read-only
    KEY.lock     held shared by whoever runs on it, and exclusively by whoever builds or removes it; its time is that of
                 the last use, and in it stands the size
    KEY.X.part   one that is being built or removed

Any number of processes may use the folder at once. Nothing here knows Python's packages.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from rmbus.errors import HostError

QUOTA_BYTES: Final = 20 << 30
"""All environments of a folder."""

UNUSED_S: Final = 30 * 24 * 3600.0
"""An environment that nobody has used for so long is removed."""

_KEY: Final = re.compile(r"[0-9a-f]{40}")


@attrs.frozen
class _Kept:
    key: str
    used: float
    size: int


class Shelf:
    """The environments below a folder, which is made for this user alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def take(self, key: str) -> int | None:
        """Return a descriptor that keeps a finished environment from being removed, until it is closed.

        Returns:
            None where there is no such environment, or somebody is about to build or to remove it.
        """
        while (handle := self._opened(key, make=False)) is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return None
            if not self._is_current(handle, key):
                os.close(handle)
                continue
            if not self.path(key).is_dir():
                os.close(handle)
                return None
            with suppress(OSError):  # a disk that is full, or cannot be written, does not keep it from being used
                os.utime(handle)
            return handle
        return None

    @contextmanager
    def building(self, key: str) -> Generator[Path | None]:
        """Give a new folder to build in, with nobody else at it, and put it in its place at the end.

        Where it was built meanwhile, None is given. Where the building fails, nothing stays.
        """
        handle = self._alone(key)
        try:
            if self.path(key).is_dir():
                yield None
                return
            self._remove_parts(key)
            part = self._part(key)
            part.mkdir(mode=0o700)
            try:
                yield part
                os.pwrite(handle, f"{size_of(part):20}\n".encode(), 0)
                part.rename(self.path(key))
            except BaseException:
                remove_tree(part)
                with suppress(OSError):
                    self._lock(key).unlink()
                raise
        finally:
            os.close(handle)

    def path(self, key: str) -> Path:
        """Return where a finished environment lies."""
        if not _KEY.fullmatch(key):
            raise HostError(f"{key[:80]!a} is no key of an environment")
        return self.root / key

    def collect(self, *, quota_bytes: int = QUOTA_BYTES, unused_s: float = UNUSED_S) -> list[str]:
        """Remove what builders left that are gone, what was not used for long, and the longest unused over the quota.

        What anybody runs on is left alone.

        Returns:
            The keys of what was removed.
        """
        for key in {path.name.partition(".")[0] for path in self.root.glob("*.part")}:
            with self._unused(key) as is_mine:
                if is_mine:
                    self._remove_parts(key)
                    if not self.path(key).is_dir():
                        self._lock(key).unlink(missing_ok=True)
        removed: list[str] = []
        kept = sorted(self._kept(), key=lambda each: each.used)
        total = sum(each.size for each in kept)
        for each in kept:
            if total <= quota_bytes and time.time() - each.used <= unused_s:
                continue
            with self._unused(each.key) as is_mine:
                if is_mine:
                    self._remove(each.key)
                    total -= each.size
                    removed.append(each.key)
        return removed

    def _kept(self) -> Iterator[_Kept]:
        for path in self.root.iterdir():
            if not _KEY.fullmatch(path.name) or not path.is_dir():
                continue
            try:
                lock = self._lock(path.name)
                yield _Kept(path.name, lock.stat().st_mtime, int(lock.read_text(encoding="ascii") or 0))
            except (OSError, ValueError):  # its lock was taken away by hand: the environment is nobody's
                yield _Kept(path.name, 0.0, size_of(path))

    @contextmanager
    def _unused(self, key: str) -> Generator[bool]:
        """Hold the lock of an environment alone, if nobody runs on it, builds it or removes it; tell whether so."""
        handle = self._opened(key, make=True) if _KEY.fullmatch(key) else None
        if handle is None:
            yield False
            return
        try:
            yield _is_alone(handle) and self._is_current(handle, key)
        finally:
            os.close(handle)

    def _remove(self, key: str) -> None:
        """Take a finished environment away, in one step for whoever looks; its lock is held."""
        part = self._part(key)
        self.path(key).rename(part)
        self._lock(key).unlink(missing_ok=True)
        remove_tree(part)

    def _remove_parts(self, key: str) -> None:
        """Remove what an unfinished building has left; the lock is held."""
        for part in self.root.glob(f"{key}.*.part"):
            remove_tree(part)

    def _alone(self, key: str) -> int:
        while True:
            handle = self._opened(key, make=True)
            assert handle is not None
            fcntl.flock(handle, fcntl.LOCK_EX)
            if self._is_current(handle, key):
                return handle
            os.close(handle)

    def _opened(self, key: str, *, make: bool) -> int | None:
        try:
            return os.open(self._lock(key), os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
        except FileNotFoundError:
            return None

    def _is_current(self, handle: int, key: str) -> bool:
        """Whether the lock's path leads to this open file: whoever removed an environment took its lock along."""
        try:
            return os.path.samestat(os.fstat(handle), self._lock(key).stat())
        except FileNotFoundError:
            return False

    def _lock(self, key: str) -> Path:
        return self.path(key).with_name(f"{key}.lock")

    def _part(self, key: str) -> Path:
        return self.root / f"{key}.{secrets.token_hex(4)}.part"


def _is_alone(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names)


def make_read_only(folder: Path) -> None:
    """Let nobody add to or take from a folder and what is below it."""
    for place, _, _ in os.walk(folder):
        os.chmod(place, stat.S_IMODE(os.stat(place).st_mode) & ~0o222)


def remove_tree(folder: Path) -> None:
    """Remove a folder, also where it was made read-only; what somebody else removes meanwhile is no error."""
    for place, _, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(place, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
