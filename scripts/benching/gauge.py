"""Reads what a system costs: the processor time and the memory of all its processes, between two moments."""

from __future__ import annotations

import os
import signal
import socketserver
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

MARK: Final = "RMBUS_BENCH_RUN"
"""The environment variable by which the processes of a run are found, stray daemons among them."""

SAMPLE_EVERY_S: Final = 0.5


def marked(mark: str) -> set[int]:
    """Return the processes that inherited the mark, and all that descend from them."""
    wanted = f"{MARK}={mark}".encode()
    found: set[int] = set()
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid, stat = int(folder.name), (folder / "stat").read_text()
            parents[pid] = int(stat.rpartition(")")[2].split()[1])
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.add(pid)
        except OSError:  # it has ended, or is somebody else's
            continue
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def processor_s(pid: int) -> float | None:
    """Return the processor time of a process, user and system, of all its threads; None where it has ended."""
    clock = (~pid << 3) | 2  # what clock_getcpuclockid(3) gives
    try:
        return time.clock_gettime(clock)
    except OSError:
        return None


def memory_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes, where a page that several share counts once (the sum of their PSS)."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024
    return total


class Account:
    """What a run's processes say, and what they had used when they said it.

    Args:
        mark: of the processes.
        readers: how many of them take messages.

    Attributes:
        rss_bytes: the most memory that was seen.
        window_s: how long the window was, as far as readers have ended.
    """

    def __init__(self, mark: str, readers: int) -> None:
        self.rss_bytes = 0
        self.window_s = 0.0
        self._mark = mark
        self._readers = readers
        self._flowing = 0
        self._ended = 0
        self._is_whole = True  # nobody has ended
        self._began_at = 0.0
        self._first: dict[int, float] = {}
        self._latest: dict[int, float] = {}
        self._lock = threading.Lock()

    @property
    def cpu_s(self) -> float:
        """The processor time of all processes in the window."""
        return sum(last - self._first.get(pid, 0.0) for pid, last in self._latest.items())

    def answer(self, line: str) -> str:
        """Take a line of a process of the run; return what it is told."""
        with self._lock:
            if line == "flows":
                self._flowing += 1
            elif line == "flows?":
                return "yes" if self._flowing >= self._readers else "no"
            elif line == "over?":
                return "yes" if self._ended >= self._readers else "no"
            elif line == "used?":
                return str(sum(processor_s(pid) or 0.0 for pid in marked(self._mark)))
            elif line == "begin":
                self._look()
                self._first = dict(self._latest)
                self._began_at = time.monotonic()
            elif line.startswith("end"):
                self._take_end(line)
            return "ok"

    def sample(self) -> None:
        """Look at the memory, if the window is open."""
        with self._lock:
            if self._began_at and self._ended < self._readers:
                self._look()

    def _take_end(self, line: str) -> None:
        if self._is_whole:
            self._look()
        else:
            self._read_clocks(list(self._latest))
        self._is_whole = False
        self._ended += line.startswith("end reader")
        self.window_s = time.monotonic() - self._began_at

    def _look(self) -> None:
        pids = marked(self._mark)
        self._read_clocks(pids)
        self.rss_bytes = max(self.rss_bytes, memory_bytes(pids))

    def _read_clocks(self, pids: Iterable[int]) -> None:
        self._latest.update({pid: seconds for pid in pids if (seconds := processor_s(pid)) is not None})


class GaugeServer:
    """Answers the processes of a run, as long as it is entered.

    Args:
        path: of its socket.
        account: keeps what is said.
        samples: whether the memory is read in between, too; at 1 kHz that would be seen in the latency.
    """

    def __init__(self, path: Path, account: Account, *, samples: bool) -> None:
        self._account = account
        self._over = threading.Event()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    self.wfile.write(f"{account.answer(line.decode().strip())}\n".encode())

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self._server.daemon_threads = True
        self._threads = [threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)]
        if samples:
            self._threads.append(threading.Thread(target=self._sample, daemon=True))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_EVERY_S):
            self._account.sample()


def end_marked(mark: str) -> int:
    """Kill what is left of a run; return how many processes that were."""
    left = marked(mark)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended by itself
            continue
    return len(left)
