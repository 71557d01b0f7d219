"""The embedded host: a child of the script, which runs the user's own nodes as the user's own processes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys

from rmbus.errors import ConnectFailed
from rmbus.transport.security import Connection


class EmbeddedHost:
    """A host process that ends with this one, on every path: it watches this process by a pidfd."""

    def __init__(self, *, spares: int, timeout_s: float = 20.0) -> None:
        """Start the host, with spare processes for the nodes that will come.

        Raises:
            ConnectFailed: it did not come up.
        """
        reader, writer = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *("-I", "-m", "rmbus.host", "--embedded", "--name", "local"),
                    *("--parent", str(os.getpid()), "--spares", str(spares), "--announce", str(writer)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[writer],
                start_new_session=True,
            )
        finally:
            os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as announced:
            waiting = select.poll()  # unlike select() it takes descriptors of any number
            waiting.register(announced, select.POLLIN)
            ready = waiting.poll(timeout_s * 1000)
            line = announced.readline() if ready else ""
        if not line:
            self.close()
            raise ConnectFailed("the embedded host did not come up; what it said is above")
        self.connection = Connection(**json.loads(line))

    def close(self) -> None:
        """End the host and everything that it started, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
