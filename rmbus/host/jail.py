"""How the host starts a process under a level: command, environment, descriptors, and no code between fork and exec."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

from attrs import field, frozen

from rmbus.errors import ConfinementError
from rmbus.host.bubblewrap import PRIVATE, Grants, jail_arguments
from rmbus.host.levels import Level
from rmbus.runtime import kernel, seccomp

__all__ = ["Command", "Grants", "Level", "died_of", "spawn_command"]

TMP_BYTES: Final = 256 << 20

LARGE_COPIES: Final = {"GLIBC_TUNABLES": "glibc.cpu.x86_non_temporal_threshold=0x400000"}
"""How a process that moves frames copies what is larger than 4 MiB: past the caches, which takes half the time, see
`rmbus.copying`. The C library would do so by itself only from a size on that it takes from a whole socket's cache."""

_SECCOMP_FD: Final = "{seccomp}"


@frozen
class Command:
    """A process ready to be started under its level.

    Attributes:
        level: the level.
        argv: the command line; where a jail's filter is handed over, its descriptor is put in at the start.
        env: the whole environment.
        cwd: the folder to start in, outside a jail.
        pass_fds: descriptors that the process inherits, at their own numbers.
        work_dir: where the process may write, as it sees it.
        filter: the jail's seccomp program.
        cpus: those that it runs on; (): any.
    """

    level: Level
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    pass_fds: tuple[int, ...]
    work_dir: str
    filter: bytes = field(default=b"", repr=False)
    cpus: tuple[int, ...] = ()

    def start(
        self,
        *,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start the process. Call it from the thread that lives as long as the host: the process dies with it.

        In a jail the process returned is bubblewrap's; killing it kills all of the jail. See `died_of` for its end.

        Raises:
            ConfinementError: the program cannot be started at all.
        """
        with ExitStack() as stack:
            argv, fds = list(self.argv), self.pass_fds
            if self.filter:
                handle = _readable(self.filter)
                stack.callback(os.close, handle)
                argv = [str(handle) if part == _SECCOMP_FD else part for part in argv]
                fds = (*fds, handle)
            stack.enter_context(_running_on(self.cpus))
            try:
                return subprocess.Popen(
                    argv,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    env=dict(self.env),
                    cwd=self.cwd,
                    pass_fds=fds,
                    start_new_session=True,
                )
            except OSError as error:
                raise ConfinementError(f"{argv[0]} cannot be started: {error.strerror}") from error


def spawn_command(
    level: Level,
    argv: Sequence[str],
    *,
    node_dir: Path,
    work_dir: Path,
    fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    grants: Grants | None = None,
    tmp_bytes: int = TMP_BYTES,
    bwrap: str = "bwrap",
) -> Command:
    """Return how to start `argv` under a level.

    Args:
        level: the level; `confined` is put in force by the process itself (`rmbus.runtime.confine.apply`).
        argv: the program and its arguments.
        node_dir: the process's folder of sockets, the host's: in a jail it shows read-only at the same path, and what
            the host links into it later shows too. Keep it short: a socket's path has at most 107 bytes.
        work_dir: where a `confined` process may write; it starts there. In a jail that is a private /tmp of
            `tmp_bytes`, and this folder isn't seen. A `trusted` process starts where the host is.
        fds: descriptors to inherit.
        env: variables beside the few that a confined process gets; a `trusted` one gets the host's environment too.
        grants: what the policy allowed beside.
        tmp_bytes: the size of a jail's /tmp.
        bwrap: bubblewrap's program.

    Raises:
        ConfinementError: a granted path doesn't exist, or the filter of calls isn't known for this machine.
    """
    grants = grants or Grants()
    for path in (*grants.readable, *grants.writable, *(path for path, _ in grants.devices)):
        if not os.path.exists(path):
            raise ConfinementError(f"{path} was granted to a node and doesn't exist on this host")
    given = dict(env or {})
    if level is Level.TRUSTED:
        everything = {**LARGE_COPIES, **os.environ, **given}
        return Command(level, tuple(argv), everything, os.getcwd(), tuple(fds), str(work_dir), cpus=grants.cpus)
    work = PRIVATE if level is Level.JAIL else str(work_dir)
    everything = {**environment(work), **LARGE_COPIES, **given}
    if level is Level.CONFINED:
        return Command(level, tuple(argv), everything, work, tuple(fds), work, cpus=grants.cpus)
    options = jail_arguments(node_dir=str(node_dir), grants=grants, tmp_bytes=tmp_bytes, seccomp_fd=_SECCOMP_FD)
    policy = seccomp.jail_policy(network=grants.network, pinned=bool(grants.cpus))
    program = seccomp.compile_filter(policy, kernel.machine())
    inner = (os.path.normpath(argv[0]), *argv[1:])  # a jail lacks the folders that `..` would lead back out of
    return Command(level, (bwrap, *options, "--", *inner), everything, "/", tuple(fds), work, program, grants.cpus)


def died_of(level: Level, returncode: int) -> signal.Signals | None:
    """Return the signal that ended a process, or None: bubblewrap tells it as 128 + its number, like a shell."""
    number = -returncode if returncode < 0 else returncode - 128 if level is Level.JAIL else 0
    return signal.Signals(number) if number in {each.value for each in signal.Signals} else None


def environment(work_dir: str) -> dict[str, str]:
    """Return the exact list of variables of a confined process: nothing of the host's own, which may hold secrets."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": work_dir,
        "TMPDIR": work_dir,
        "USER": "node",
        "LOGNAME": "node",
        "LANG": "C.UTF-8",
    }


@contextmanager
def _running_on(cpus: Sequence[int]) -> Generator[None]:
    """Have this thread run on those CPUs, so that a process that it starts does from its first moment."""
    before = os.sched_getaffinity(0)
    try:
        if cpus:
            os.sched_setaffinity(0, cpus)
        yield
    finally:
        if cpus:
            os.sched_setaffinity(0, before)


def _readable(program: bytes) -> int:
    """Return a descriptor that the program is read from, once: readers share its offset."""
    handle = os.memfd_create("rmbus-seccomp", os.MFD_CLOEXEC)
    os.write(handle, program)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle
