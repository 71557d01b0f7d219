"""What a process has of the system's: descriptors, threads, and memory of anonymous files; read from `/proc`."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

_SHM = re.compile(r" (/dev/shm/\S+)$", re.MULTILINE)
_MAPPED = re.compile(r"^\S+ \S+ \S+ \S+ (\d+) +/memfd:(\S+) \(deleted\)$", re.MULTILINE)


@attrs.frozen
class Census:
    """What one process has.

    Attributes:
        descriptors: by what they are of. segments: files of shared memory, by their number in the system.
        pages: files of counters, likewise. threads: how many. in_shm: what it has mapped in /dev/shm.
    """

    descriptors: Counter[str]
    segments: frozenset[int]
    pages: frozenset[int]
    threads: int
    in_shm: frozenset[str]

    def beyond(self, base: Census) -> str:
        """Say what is there that was not at another time, "" where nothing is; threads are not compared."""
        more = self.descriptors - base.descriptors
        told = [f"{count} descriptors of {what}" for what, count in more.items()]
        told += [f"segment {number}" for number in sorted(self.segments - base.segments)]
        told += [f"page {number}" for number in sorted(self.pages - base.pages)]
        told += sorted(self.in_shm)
        return ", ".join(told)


def census(pid: int) -> Census:
    """Count what a process has.

    Raises:
        OSError: it has ended.
    """
    folder = Path(f"/proc/{pid}")
    kinds: Counter[str] = Counter()
    held: dict[str, set[int]] = {"rmbus-segment": set(), "rmbus-counters": set()}
    for entry in os.scandir(folder / "fd"):
        try:
            target = os.readlink(entry.path)
            if target.startswith("/memfd:"):
                name = target.removeprefix("/memfd:").removesuffix(" (deleted)")
                held.setdefault(name, set()).add(os.stat(entry.path).st_ino)
        except OSError:
            continue  # it was closed meanwhile
        kinds[re.sub(r"\d+", "", target)] += 1
    maps = (folder / "maps").read_text()
    for number, name in _MAPPED.findall(maps):
        held.setdefault(name, set()).add(int(number))
    return Census(
        kinds,
        frozenset(held["rmbus-segment"]),
        frozenset(held["rmbus-counters"]),
        len(os.listdir(folder / "task")),
        frozenset(_SHM.findall(maps)),
    )


def shared_bytes(pids: Iterable[int]) -> int:
    """Return the size of all segments that any of these processes has open or mapped, each counted once."""
    sizes: dict[int, int] = {}
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                if "/memfd:rmbus-segment" in line:
                    low, _, high = line.split()[0].partition("-")
                    sizes[int(line.split()[4])] = int(high, 16) - int(low, 16)
            for entry in os.scandir(f"/proc/{pid}/fd"):
                if os.readlink(entry.path).startswith("/memfd:rmbus-segment"):
                    facts = os.stat(entry.path)
                    sizes[facts.st_ino] = facts.st_size
        except OSError:
            continue  # it has ended, or the descriptor was closed
    return sum(sizes.values())


def settles(look: Callable[[], str], within_s: float) -> str:
    """Look until there is nothing to tell any more; return what there still is after so long, or ""."""
    deadline = time.monotonic() + within_s
    while (told := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return told
