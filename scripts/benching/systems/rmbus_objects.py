"""rmbus: `connect()`, `bus.ship(object)`, calls of the stand-in, and generators of it.

The host is `rmbus host` with its defaults: the highest level that works, two processes kept ready. It has folders of
its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rmbus
from benching.measured.calling import play
from benching.measured.code import Code
from benching.measured.payload import Array
from benching.measured.task import Task


class Shipped:
    """A stand-in."""

    def __init__(self, bus: rmbus.Bus, proxy: Any) -> None:
        self._bus, self._proxy = bus, proxy

    def answer(self, array: Array) -> Array:
        """Call it."""
        found: Array = self._proxy.answer(array)
        return found

    def items(self, count: int) -> Iterator[Array]:
        """Have a stream."""
        found: Iterator[Array] = self._proxy.items(count)
        return found

    def release(self) -> None:
        """End it."""
        self._bus.release(self._proxy)


class Host:
    """A host, and a bus to it."""

    def __init__(self, folder: Path) -> None:
        for name in ("run", "cache"):
            (folder / name).mkdir(mode=0o700)
        os.environ.update(XDG_RUNTIME_DIR=str(folder / "run"), XDG_CACHE_HOME=str(folder / "cache"))
        command = [sys.executable, "-m", "rmbus.cli.main", "host"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if "listening" not in self._process.stdout.readline():
            raise RuntimeError("the host does not listen")
        self.bus = rmbus.connect()
        code = Code(folder / "before", "before", 0)
        proxy = self.bus.ship(code.tool())
        self.level: str = self.bus.nodes()[0]["level"]
        self.bus.release(proxy)

    def leave(self) -> None:
        """There is nothing to do."""

    def begin(self, code: Code, *, is_known: bool) -> None:
        """There is nothing to do."""

    def ship(self, code: Code, tool: Any) -> Shipped:
        """Ship an object."""
        return Shipped(self.bus, self.bus.ship(tool))

    def close(self) -> None:
        """End all."""
        self.bus.close()
        self._process.terminate()
        self._process.wait()


def main() -> None:
    """Run a task."""
    task = Task.load(Path(sys.argv[1]))
    play(task, Host(Path(task.folder)))


if __name__ == "__main__":
    main()
