"""The run folder of a host: sockets, the connection file, the list of its processes.

It lies in `$XDG_RUNTIME_DIR/rmbus`, else in `/run/user/UID/rmbus`, else in `/tmp/rmbus-UID`; mode 0700. Its owner
holds a lock on it; whatever is left without a holder is swept at the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rmbus.errors import ConnectFailed

LOCK = "lock"
MAX_BASE_BYTES: Final = 64
"""A longer `$XDG_RUNTIME_DIR` is passed over: with what comes below it, a Unix socket's path has 107 bytes at most."""

PROCESSES = "processes"
"""One line for each process that the host started: `pid starttime`, so that a recycled pid is not taken for it."""


def base() -> Path:
    """Return the folder that holds the run folders of this user; it may not exist."""
    uid = os.getuid()
    for given in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}"):
        if given and len(os.fsencode(given)) <= MAX_BASE_BYTES and os.access(given, os.W_OK | os.X_OK):
            return Path(given) / "rmbus"
    return Path(f"/tmp/rmbus-{uid}")


class RunFolder:
    """A run folder that this process owns, by its lock."""

    def __init__(self) -> None:
        self._parent = _private(base())
        self.path = self._create()
        self._processes = (self.path / PROCESSES).open("a", encoding="ascii")

    @property
    def identity(self) -> str:
        """The name of the folder: unique to this run."""
        return self.path.name

    def note_process(self, pid: int) -> None:
        """Write down that a process belongs to this run, for the janitor."""
        started = start_time(pid)
        if started is not None:
            self._processes.write(f"{pid} {started}\n")
            self._processes.flush()

    def remove(self) -> None:
        """Remove the folder, and its parent where that is empty now."""
        self._processes.close()
        remove(self.path)
        os.close(self._lock)

    def _create(self) -> Path:
        for _ in range(100):
            path = self._parent / secrets.token_hex(4)
            try:
                path.mkdir(mode=0o700)
                self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                if path.exists():  # a sweeper may have had the lock first
                    return path
                os.close(self._lock)
            except FileExistsError:
                continue
            except FileNotFoundError:  # a neighbour's end has just removed the empty parent
                _private(self._parent)
        raise ConnectFailed(f"cannot make a run folder in {self._parent}")


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or not folder.is_dir() or folder.is_symlink():
        raise ConnectFailed(f"{folder} must be a folder of yours that is open to you alone (chmod 700)")
    return folder


def remove(folder: Path) -> None:
    """Remove a run folder and, when it was the last, the folder above it."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.rmdir()
    except OSError:
        return  # others are still there


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def kill_noted(folder: Path) -> None:
    """Kill the processes that are noted in a run folder and still the same."""
    try:
        lines = (folder / PROCESSES).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        pid, _, started = line.partition(" ")
        if pid.isdigit() and started.isdigit() and start_time(int(pid)) in (None, int(started)):
            kill_session(int(pid))
        if pid.isdigit() and started.isdigit() and start_time(int(pid)) == int(started):  # it leads no session
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), signal.SIGKILL)


def kill_session(leader: int) -> None:
    """Kill a process that was started as the leader of a session, and what it has forked, even if it is gone."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == leader and folder.stat().st_uid == os.getuid():
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, IndexError):
            continue  # it has ended meanwhile


def sweep() -> None:
    """End and remove what runs without an owner have left."""
    for folder in folders():
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # being made, or being removed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            kill_noted(folder)
            remove(folder)
        finally:
            os.close(lock)


def is_held(folder: Path) -> bool:
    """Whether the owner of a run folder lives."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def folders() -> Iterator[Path]:
    """Return the run folders of this user, with an owner or without."""
    try:
        yield from sorted(path for path in base().iterdir() if path.is_dir())
    except OSError:
        return
