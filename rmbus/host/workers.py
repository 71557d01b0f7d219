"""Processes that a host speaks to: how one is started, spoken to, heard and ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from rmbus.errors import Broken, Closed, ProtocolError, RmbusError
from rmbus.host.jail import died_of
from rmbus.host.levels import Level
from rmbus.host.logs import LineLimiter
from rmbus.protocol import messages
from rmbus.runtime import kernel
from rmbus.transport.reactor import Reactor
from rmbus.transport.runfolder import RunFolder, kill_session
from rmbus.transport.umbilical import Umbilical, close_all

Launch = Callable[[int, int], tuple["subprocess.Popen[bytes]", Level]]
"""Starts a process, given the umbilical's descriptor and the one for its output; returns it and its level."""


class Worker:
    """A process at the other end of an umbilical; it was started by hand and has joined. See `Child` for one of ours.

    Attributes:
        level: the confinement it was started under. in_force: what it found in force.
        pid: of the process itself, also where a jail's own process stands between; 0 until it has spoken.
        is_ready: whether it has said that it is there.
    """

    def __init__(self, reactor: Reactor, umbilical: Umbilical, pid: int, level: Level = Level.TRUSTED) -> None:
        self.level = level
        self.pid = pid
        self.is_ready = True
        self.in_force: dict[str, str] = {}
        self.on_message: Callable[[messages.Message], None] = _unexpected
        self.on_lines: Callable[[list[str], int], None] = _unheard
        self.on_exit: Callable[[str], None] = _unheard_exit
        self.on_ready: Callable[[], None] = _nothing
        self._reactor = reactor
        self._umbilical = umbilical
        self._pidfd = os.pidfd_open(pid)
        self._is_over = False
        self._outbox: list[tuple[messages.Message, list[int]]] = []
        reactor.add(self._pidfd, self._exited)
        reactor.add(umbilical.fileno(), self._spoken)

    def send(self, message: messages.Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, once the process is ready; the descriptors are given away."""
        if self._is_over:
            close_all(descriptors)
            return
        self._outbox.append((message, list(descriptors)))
        if self.is_ready:
            self._flush()

    def kill(self) -> None:
        """Cut it off the bus, now. Its process is its user's own, and hears of it by the umbilical."""
        self._end("cut off by the host")

    def hear_all(self) -> None:
        """Take in what the process has printed so far; one that was started by hand prints where it was started."""

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        for message, descriptors in outbox:
            try:
                self._umbilical.send(message, descriptors)
            except RmbusError:  # it does not read, or is gone, or cannot be told so much at once; its exit tells,
                self._reactor.call_soon(self.kill)  # and not while whoever speaks to it is in the middle of something
            finally:
                close_all(descriptors)

    def _spoken(self) -> None:
        try:
            _, message, descriptors = self._umbilical.receive()
        except BlockingIOError:
            return
        except (Closed, ProtocolError, Broken) as error:
            self._reactor.remove(self._umbilical.fileno())
            self._cut(error)
            return
        close_all(descriptors)  # descriptors travel from the host to a node, never back
        self._take(message)

    def _take(self, message: messages.Message) -> None:
        self.on_message(message)

    def _cut(self, error: Exception) -> None:
        if isinstance(error, Closed):
            self._exited()  # it has left the bus; its process may go on
        else:
            self.on_lines([f"rmbus: the node broke the protocol and is ended: {error}"], 0)
            self.kill()

    def _exited(self) -> None:
        self._end("left")

    def _end(self, status: str) -> None:
        while not self._is_over and self._has_words():
            self._spoken()
        if self._is_over:
            return
        self._is_over = True
        self.hear_all()
        for source in (self._pidfd, self._umbilical.fileno()):
            self._reactor.remove(source)
        os.close(self._pidfd)
        self._umbilical.close()
        for _, descriptors in self._outbox:
            close_all(descriptors)
        self._outbox = []
        self.on_exit(status)

    def _has_words(self) -> bool:
        """Whether the process has said something before it ended that is still unread."""
        return self._reactor.watches(self._umbilical.fileno()) and _is_readable(self._umbilical.fileno())


class Child(Worker):
    """A child process with its umbilical, its output and its end.

    Args:
        mark: what its processes bear. on_gone: called when all of them have ended; who gives none need not wait for it.
    """

    def __init__(
        self,
        reactor: Reactor,
        folder: RunFolder,
        launch: Launch,
        mark: str,
        on_gone: Callable[[], None] | None = None,
    ) -> None:
        self._mark = mark
        self._on_gone = on_gone
        self._left: set[int] = set()
        self._fault = ""
        umbilical, theirs = Umbilical.pair()
        self._pipe, write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._pipe, False)
        try:
            self._process, level = launch(theirs.fileno(), write_end)
        finally:
            theirs.close()
            os.close(write_end)
        started.add(self._process.pid)
        folder.note_process(self._process.pid)
        super().__init__(reactor, umbilical, self._process.pid, level)
        self.is_ready = False
        self._folder = folder
        self._limiter = LineLimiter()
        reactor.add(self._pipe, self._read_output)

    def kill(self) -> None:
        """End the process, now, and the jail around it. `on_exit` is called when it has ended."""
        if not self._is_over:
            for pid in {self.pid, self._process.pid}:
                _kill(pid)

    def condemn(self, why: str) -> None:
        """End the process for what it did; its end is told with that."""
        self._fault = self._fault or f": {why}"
        self.kill()

    def hear_all(self) -> None:
        """Take in what the process has printed so far, and tell of the lines held back."""
        while self._read_output():
            continue
        self._hand_on([], self._limiter.take_suppressed())

    def _take(self, message: messages.Message) -> None:
        if not isinstance(message, messages.Spare):
            self.on_message(message)
            return
        self.pid = self._umbilical.peer_pid
        self._folder.note_process(self.pid)
        self.in_force = message.confinement
        self.is_ready = True
        self._flush()
        self.on_ready()

    def _cut(self, error: Exception) -> None:
        if not isinstance(error, Closed):  # else its exit tells
            super()._cut(error)

    def _read_output(self) -> bool:
        """Read once; whether there was anything."""
        try:
            data = os.read(self._pipe, 65_536)
        except BlockingIOError:
            return False
        if not data:
            self._reactor.remove(self._pipe)
        self._hand_on(*self._limiter.feed(data))
        return bool(data)

    def _hand_on(self, lines: list[str], suppressed: int) -> None:
        if lines or suppressed:
            self.on_lines(lines, suppressed)

    def _exited(self) -> None:
        started.discard(self._process.pid)
        if self._on_gone is not None:
            self._left = set(_bearing(self._mark))
        number = died_of(self.level, status := self._process.wait())
        kill_session(self._process.pid)  # what its code has forked ends with it,
        end_strays(self._mark)  # also where that has begun a session of its own
        self._end((f"exit status {status}" if number is None else f"killed by {number.name}") + self._fault)
        for pidfd in self._left:  # a jail goes down behind its first process, and a driver may hold up the end of any
            self._reactor.add(pidfd, partial(self._gone, pidfd))
        if not self._left:
            self._all_gone()

    def _gone(self, pidfd: int) -> None:
        self._reactor.remove(pidfd)
        os.close(pidfd)
        self._left.discard(pidfd)
        if not self._left:
            self._all_gone()

    def _all_gone(self) -> None:
        if self._on_gone is not None:
            end_strays(self._mark)  # what was forked while the others were looked for
            self._on_gone()

    def _end(self, status: str) -> None:
        told = self.on_exit

        def last_words(status: str) -> None:
            self._hand_on(*self._limiter.finish())
            self._reactor.remove(self._pipe)
            os.close(self._pipe)
            told(status)

        self.on_exit = last_words
        super()._end(status)


def _is_readable(descriptor: int) -> bool:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(0))


def _bearing(mark: str) -> Iterator[int]:
    """Return a descriptor of each process that bears a mark, also those in a jail."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            pidfd = os.pidfd_open(int(folder.name))
            try:
                is_marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                is_marked = False
            if is_marked and not _is_readable(pidfd):
                yield pidfd
            else:
                os.close(pidfd)


def adopt_strays() -> None:
    """Become the parent of whatever outlives its own parent below this process, so that it can be ended."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)


def end_strays(mark: str) -> None:
    """Kill what a node that has ended has left to this process: children not of our own starting that bear its mark.

    Args:
        mark: what only that node's processes have in their environment.
    """
    for tasks in Path("/proc/self/task").glob("*/children"):
        for pid in set(map(int, tasks.read_text().split())) - started:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


MARK = "RMBUS_NODE"
"""The environment variable by which the processes of a node are known."""

started: set[int] = set()
"""The children that this process has started."""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _unexpected(message: messages.Message) -> None:
    raise Broken(f"an idle process sent {message.tag!r}")


def _unheard(lines: list[str], suppressed: int) -> None:
    for line in lines:
        sys.stderr.write(f"rmbus host: a process says: {line}\n")


def _unheard_exit(status: str) -> None:
    return


def _nothing() -> None:
    return
