"""A builder as its host sees it: a process that is heard, has a limit, and is ended with the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from rmbus.host.building import Task
from rmbus.host.logs import LineLimiter
from rmbus.host.workers import started
from rmbus.transport.reactor import Reactor, Timer
from rmbus.transport.runfolder import RunFolder, kill_session

_TAIL: Final = 200


class Builder:
    """A builder at work.

    Args:
        package: a descriptor that is given away; -1: none.
        lines: takes what it says, and how many more lines were held back.
        ended: takes "" where it has done its work, else why not.
    """

    def __init__(
        self,
        reactor: Reactor,
        folder: RunFolder,
        task: Task,
        package: int,
        lines: Callable[[list[str], int], None],
        ended: Callable[[str], None],
    ) -> None:
        self._lines = lines
        self._reactor = reactor
        self._told = ended
        self._limit_s = task.limit_s
        self._is_late = False
        self._limiter = LineLimiter()
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._output, output = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._output, False)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "rmbus.host.building", json.dumps(attrs.asdict(task))],
                stdin=package if package >= 0 else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.close(output)
            if package >= 0:
                os.close(package)
        started.add(self._process.pid)
        folder.note_process(self._process.pid)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._timer: Timer = reactor.call_later(task.limit_s, self._late)
        reactor.add(self._pidfd, self._exited)
        reactor.add(self._output, self._read)

    def kill(self) -> None:
        """End it, and the installer with it."""
        kill_session(self._process.pid)

    def end(self) -> None:
        """End it, and see it ended."""
        self.kill()
        self._exited()

    def _late(self) -> None:
        self._is_late = True
        self.kill()

    def _read(self) -> bool:
        """Read once; whether there was anything."""
        try:
            data = os.read(self._output, 65_536)
        except BlockingIOError:
            return False
        if not data:
            self._reactor.remove(self._output)
        self._tell(*self._limiter.feed(data))
        return bool(data)

    def _tell(self, lines: list[str], suppressed: int) -> None:
        self._tail.extend(lines)
        if lines or suppressed:
            self._lines(lines, suppressed)

    def _exited(self) -> None:
        self._timer.cancel()
        started.discard(self._process.pid)
        status = self._process.wait()
        kill_session(self._process.pid)  # the installer, where the builder was killed
        while self._read():
            continue
        self._tell(*self._limiter.finish())
        for source in (self._pidfd, self._output):
            self._reactor.remove(source)
            os.close(source)
        self._told(self._problem(status))

    def _problem(self, status: int) -> str:
        if status == 0:
            return ""
        if self._is_late:
            return f"it was not built within {self._limit_s:g} s"
        ended = f"the builder was killed by signal {-status}" if status < 0 else "its builder has failed"
        said = "\n".join(self._tail)
        return f"{ended}\n{said}" if status < 0 or not said else said
