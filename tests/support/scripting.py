"""Short scripts as processes of their own, on a bus that nobody else has: they say what they see in lines of JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from command import Command, finish

PRELUDE = f"""
SUPPORT = {str(Path(__file__).parent)!r}
import json, os, sys, threading, time
import numpy as np
import rmbus
if "RMBUS_TEST_FAR" in os.environ:
    sys.path.append(SUPPORT)
    import far
    sys.path.remove(SUPPORT)
from rmbus import *

def say(value):
    print(json.dumps(value), flush=True)

def hear():
    return sys.stdin.readline().strip()

"""


class Script:
    """A script that runs."""

    def __init__(self, text: str, env: dict[str, str], folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(text)],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def heard(self) -> Any:
        """Wait for the next thing that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, err = self.process.communicate(timeout=10)
            raise AssertionError(f"the script has ended with {self.process.returncode}:\n{err}")
        return json.loads(line)

    def tell(self, line: str = "") -> None:
        """Say something to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self, timeout_s: float = 30) -> tuple[int, list[Any], str]:
        """Wait for its end: its exit status, what it has said since, and its standard error."""
        done = finish(self.process, timeout_s)
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def said(self, timeout_s: float = 30) -> list[Any]:
        """Wait for its end, which must be a good one; return what it has said since."""
        status, said, err = self.end(timeout_s)
        assert (status, err) == (0, ""), f"the script has ended with {status}:\n{err}"
        return said


class Scripts:
    """A folder and a run folder for scripts; with `host`, a host too. A context manager: nothing may be left.

    With `far` the scripts see the host as from another machine.
    """

    def __init__(self, folder: Path, *, host: bool = True, far: bool = False) -> None:
        self.command = Command(folder)
        self.folder = folder
        self.host: subprocess.Popen[str] | None = None
        self._with_host = host
        self._listen = ["--listen", "tcp://127.0.0.1:0"] if far else []
        if far:
            self.command.env["RMBUS_TEST_FAR"] = "1"
        self._scripts: list[Script] = []
        self._temporary = folder / "temporary"
        self._temporary.mkdir()
        self.command.env["TMPDIR"] = str(self._temporary)

    def start(self, text: str) -> Script:
        """Start a script."""
        script = Script(text, self.command.env, self.folder)
        self._scripts.append(script)
        return script

    def run_folder(self) -> Path:
        """Return the host's run folder."""
        (folder,) = (self.command.run_folder / "rmbus").iterdir()
        return folder

    def __enter__(self) -> Self:
        self.command.__enter__()
        if self._with_host:
            self.host = self.command.start("host", "--spares", "0", *self._listen)
            assert self.host.stdout is not None
            assert "listening" in self.host.stdout.readline()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for script in self._scripts:
            script.process.kill()
            script.process.communicate()
        self.command.__exit__(kind, error, trace)
        left = [*os.listdir(self._temporary), *(name for name in os.listdir("/dev/shm") if "rmbus" in name)]
        assert error is not None or not left, f"left as temporary files or in /dev/shm: {left}"
