"""A `rmbus host` of one's own: a separate daemon on a free port, which ends with the process that started it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from types import TracebackType
from typing import Final, Self

from rmbus.errors import HostError

_CLOSE_S: Final = 5.0


class Daemon:
    """A running daemon. Leaving it as a context manager ends it; it also watches this process, and ends with it.

    Attributes:
        address: where it listens. pid: its process.
    """

    def __init__(self, name: str, *, timeout_s: float = 30.0) -> None:
        """Start the daemon and wait until it listens.

        Raises:
            HostError: it did not come up.
        """
        reader, writer = os.pipe()
        command = [sys.executable, "-I", "-m", "rmbus.cli.main", "host", "--listen", "tcp://127.0.0.1:0"]
        own = ["--name", name, "--spares", "1", "--parent-pid", str(os.getpid()), "--announce", str(writer)]
        with os.fdopen(reader, encoding="utf-8") as announced:
            try:
                self._process = subprocess.Popen(
                    [*command, *own], stdin=subprocess.DEVNULL, stdout=2, pass_fds=[writer], start_new_session=True
                )
            finally:
                os.close(writer)
            try:
                ready, _, _ = select.select([announced], [], [], timeout_s)
                self.address = announced.readline().strip() if ready else ""
            except BaseException:
                self.close()
                raise
        if not self.address:
            self.close()
            raise HostError(f"the host {name!r} did not come up; what it said is above", host=name)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def close(self) -> None:
        """End the daemon and everything that it started, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
