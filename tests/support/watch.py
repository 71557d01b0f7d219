"""What the fault tests watch: a machine's worth of processes and files, before and after something is broken."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNNING = Path(__file__).with_name("running.py")


class Ground:
    """A host daemon and a user's script, each with its temporary and run folders below one folder."""

    def __init__(self, folder: Path, level: str = "confined") -> None:
        self.folder = folder
        self.run = Path(tempfile.mkdtemp(prefix="rmbus-test-", dir="/tmp"))  # the path of a socket must be short
        self.env = os.environ | {
            "XDG_RUNTIME_DIR": str(self.run),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "TMPDIR": str(folder),
        }
        self._shm = set(os.listdir("/dev/shm"))
        self.host = subprocess.Popen(
            [sys.executable, "-m", "rmbus.cli.main", "host", "--listen", "tcp://127.0.0.1:0", "--level", level],
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.host.stdout is not None
        line = self.host.stdout.readline()
        assert "tcp://" in line, line
        self.address = next(word for word in line.split() if word.startswith("tcp://"))
        self.family = family(self.host.pid)
        self.script: subprocess.Popen[str] | None = None

    def start(self, fault: str = "none") -> dict[str, int]:
        """Start the script, and return its nodes' pids once frames flow."""
        self.script = subprocess.Popen(
            [sys.executable, str(RUNNING), self.address, fault],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.script.stdout is not None
        told = json.loads(self.script.stdout.readline())
        self.family = family(self.script.pid) | family(self.host.pid)
        return dict(told["nodes"])

    def outcome(self, within_s: float) -> tuple[int, dict[str, object], str, float]:
        """Wait for the script's end: its exit status, what it said last, its standard error, and how long it took."""
        assert self.script is not None
        began = time.monotonic()
        out, err = self.script.communicate(timeout=within_s + 10)
        assert "accounts do not close" not in err, err
        lines = [line for line in out.splitlines() if line.startswith("{")]
        return self.script.returncode, json.loads(lines[-1]) if lines else {}, err, time.monotonic() - began

    def wait_for_spares(self) -> None:
        """Wait until the daemon has spare processes ready."""
        deadline = time.monotonic() + 15
        while self._ready_spares() < 2:
            assert time.monotonic() < deadline, "no spares"
            self.host.poll()
            select.select([], [], [], 0.05)

    def _ready_spares(self) -> int:
        return sum(_is_ready(pid) for pid in family(self.host.pid))

    def find(self, module: str) -> int:
        """Return the daemon's child that runs a module."""
        (pid,) = [pid for pid in family(self.host.pid) if module in _command(pid)]
        return pid

    def folders(self) -> list[Path]:
        """Return the run folders that are there."""
        return sorted(path for path in (self.run / "rmbus").iterdir() if path.is_dir())

    def is_hosts(self, folder: Path) -> bool:
        """Whether a run folder is the daemon's, and not that of the script's own host."""
        return bool(json.loads((folder / "connection.json").read_text())["pid"] == self.host.pid)

    def sockets(self) -> list[Path]:
        """Return every socket file of every host."""
        return sorted(path for path in self.run.rglob("*.sock") if path.is_socket())

    def end_host(self) -> None:
        """End the daemon as a service manager does."""
        if self.host.poll() is None:
            self.host.send_signal(signal.SIGTERM)
        self.host.communicate(timeout=10)
        if self.script is not None and self.script.poll() is None:
            self.script.kill()
            self.script.communicate()

    def remains(self, within_s: float) -> str:
        """Return what is still there after so long: processes, sockets, folders; "" where nothing is."""
        deadline = time.monotonic() + within_s
        mine = {self.host.pid} if self.host.poll() is None else set()
        if mine:
            mine = family(self.host.pid)
        left = [pid for pid in self.family - mine if not ended(pid, deadline)]
        names = [f"{pid} {_command(pid)}" for pid in left]
        if not mine:
            names += [str(path) for path in self.run.rglob("*")]
        names += sorted(set(os.listdir("/dev/shm")) - self._shm)
        if not names and not mine and self.run.exists():
            self.run.rmdir()
        return "\n".join(names)


def family(pid: int) -> set[int]:
    """Return a process and all that came of it."""
    found = {pid}
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in tasks.read_text().split():
            found |= family(int(child))
    return found


def _is_ready(pid: int) -> bool:
    """Whether a process is a node's with its imports done: it has mapped what they bring."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
        return "rmbus.runtime.process" in _command(pid) and "uvloop" in maps
    except OSError:
        return False


def ended(pid: int, deadline: float) -> bool:
    """Whether a process has ended, or ends before the deadline (monotonic seconds)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0])
    finally:
        os.close(handle)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return "?"
