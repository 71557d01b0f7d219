"""A `rmbus host` for a test that cares for its options, its level and its folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

NO_USERNS: Final = Path(__file__).parents[1] / "faults" / "no_userns.py"


class Daemon:
    """A running host. A context manager.

    Args:
        folder: its caches lie below. level: `jail`, or `confined` for a machine that has no more than that.
        run: the run folder's parent, shared by those who are to find each other; None: one of its own.
        python: the interpreter that it runs on.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        level: str = "jail",
        env: Mapping[str, str] = os.environ,
        run: Path | None = None,
        python: str = sys.executable,
    ) -> None:
        self.run = run or Path(tempfile.mkdtemp(prefix="rmbus-test-", dir="/tmp"))  # the path of a socket must be short
        self._owns_run = run is None
        self.env = {**env, "XDG_RUNTIME_DIR": str(self.run), "XDG_CACHE_HOME": str(folder / "cache")}
        without = [sys.executable, str(NO_USERNS)] if level == "confined" else []
        self.process = subprocess.Popen(
            [
                *without,
                python,
                "-m",
                "rmbus.cli.main",
                "host",
                "--listen",
                "tcp://127.0.0.1:0",
                "--level",
                level,
                *options,
            ],
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "tcp://" not in line:
            self.process.communicate()
            raise AssertionError(f"no host: {line!r}")
        self.address = next(word for word in line.split() if word.startswith("tcp://"))

    def script(
        self, path: Path, *arguments: str, timeout_s: float = 60.0, python: str = sys.executable
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of the user's to its end."""
        return subprocess.run(
            [python, str(path), self.address, *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        if self._owns_run:
            assert list(self.run.rglob("*")) == []
            self.run.rmdir()
