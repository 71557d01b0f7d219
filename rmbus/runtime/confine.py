"""What a node process does to itself before it sees any code of others, and what it can say is in force.

`apply` is called first thing: before imports that start threads (numpy does), for Landlock binds the thread that
calls it and what comes of it. A step that fails raises; a process that could not be confined must end.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
from collections.abc import Sequence
from typing import Final

import attrs
from attrs import frozen

from rmbus.errors import ConfinementError
from rmbus.runtime import kernel, landlock, seccomp, visible

# the kernel writes no dump at all only at 1: at 0 it still feeds a dump to a program (core_pattern with a pipe)
_NO_CORE: Final = 1
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_COUNTS_BY_NAMESPACE: Final = (5, 14)  # since then processes are counted for each user namespace apart
_MACHINE_FACTS: Final = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu")


@frozen
class Limits:
    """Resource limits of one node process; each is lowered to the hard limit that is there already.

    Attributes:
        open_files: descriptors.
        file_bytes: size of any one file written.
        processes: processes and threads of one jail; where the kernel would count the user's others too, it is not set.
        memory_bytes: private writable memory; shared segments are the host's and count there.
    """

    open_files: int = 4096
    file_bytes: int = 4 << 30
    processes: int = 512
    memory_bytes: int | None = None


@frozen
class Allowed:
    """What a host allows a process beside its level, as it is told on its command line.

    Attributes:
        readable, writable, network, pinned: see `apply`.
        memory_bytes: private memory beyond what it begins with; 0: any.
        file_bytes: what one file may have, if that is more than the usual.
    """

    readable: Sequence[str] = ()
    writable: Sequence[str] = ()
    network: bool = False
    pinned: bool = False
    memory_bytes: int = 0
    file_bytes: int = 0

    @property
    def limits(self) -> Limits:
        """The limits that go with it."""
        usual = Limits()
        return attrs.evolve(usual, file_bytes=max(usual.file_bytes, self.file_bytes))

    def told(self) -> str:
        """Return it as an argument."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def heard(cls, argument: str) -> Allowed:
        """Return what an argument tells."""
        return cls(**json.loads(argument))


def apply(
    level_name: str,
    *,
    readable: Sequence[str] = (),
    writable: Sequence[str] = (),
    limits: Limits | None = None,
    network: bool = False,
    pinned: bool = False,
) -> dict[str, str]:
    """Put this process under its level, for good.

    Args:
        level_name: `trusted`, `confined` or `jail`. A jail was built around the process by the host; here it is
            verified, and limits are set.
        readable: what `confined` may read beside the interpreter and the system's libraries.
        writable: what `confined` may read and write: its work folder, granted folders and devices.
        limits: resource limits.
        network: whether the process was granted the network.
        pinned: whether it is to stay on the CPUs that it was started on; in a jail the host's filter sees to that.

    Returns:
        What is in force, by name, in words.

    Raises:
        ConfinementError: a part of the level could not be put in force, or is not; end the process.
    """
    if level_name not in _LEVELS:
        raise ConfinementError(f"no level of confinement is named {level_name!r}; there are {', '.join(_LEVELS)}")
    try:
        return {"level": level_name, **_LEVELS[level_name](readable, writable, limits or Limits(), network, pinned)}
    except OSError as error:
        raise ConfinementError(f"the level {level_name} could not be put in force: {error}") from error


def bind_memory(more_bytes: int) -> str:
    """Let this process, and each that comes of it, have so much private memory beyond what it has now; say so."""
    with open("/proc/self/status", "rb") as status:
        (line,) = (line for line in status if line.startswith(b"VmData:"))
    most = int(line.split()[1]) * 1024 + more_bytes
    return f"{_limit(resource.RLIMIT_DATA, most)} bytes of private memory"


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; end at once if that has happened.

    Args:
        parent_pid: the pid of the starting process, as it gave it. In a jail bubblewrap does this; don't call it there.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def verified() -> dict[str, str]:
    """Ask the kernel, rather than ourselves, what this process is under.

    Raises:
        ConfinementError: no_new_privs, seccomp or the loss of capabilities is missing.
    """
    with open("/proc/self/status", "rb") as status:
        facts = status.read()
    wanted = {b"NoNewPrivs": b"1", b"Seccomp": b"2", b"CapEff": b"0" * 16, b"CapPrm": b"0" * 16}
    missing = [name.decode() for name, value in wanted.items() if b"\n%s:\t%s\n" % (name, value) not in facts]
    if missing:
        raise ConfinementError(
            f"this process is not confined as it should be, see /proc/self/status: {', '.join(missing)}"
        )
    return {"no_new_privs": "yes", "seccomp": "allow-list", "capabilities": "none"}


def _trusted(
    readable: Sequence[str], writable: Sequence[str], limits: Limits, network: bool, pinned: bool
) -> dict[str, str]:
    _limit(resource.RLIMIT_CORE, _NO_CORE)
    return {"core": "no dumps"}


def _confined(
    readable: Sequence[str], writable: Sequence[str], limits: Limits, network: bool, pinned: bool
) -> dict[str, str]:
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise ConfinementError(
            f"this process has {threads} threads already, and Landlock binds only the one that asks: "
            "call apply() before the imports that start threads (numpy) and before any thread of your own"
        )
    said = _limits(limits, count_processes=False)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    everywhere = (*visible.SYSTEM_FOLDERS, *visible.SYSTEM_FILES, *visible.interpreter_paths(), *_MACHINE_FACTS)
    known = landlock.restrict(
        readable=(*everywhere, *(visible.NETWORK_FILES if network else ()), *readable),
        writable=(*_DEVICES, *writable),
        network=network,
    )
    kernel.drop_capabilities()
    scoped = known >= landlock.SCOPES_SINCE
    only = None if scoped else os.getpid()
    policy = seccomp.confined_policy(network=network, pinned=pinned, only_signals_to=only)
    seccomp.install(seccomp.compile_filter(policy, kernel.machine()))
    return {
        **said,
        **verified(),
        "files": f"Landlock {known}: the interpreter read-only, {', '.join(writable) or 'nothing'} writable",
        "network": "granted" if network else "none: no internet sockets",
        "signals": "kept in by Landlock" if scoped else "to itself only",
        "unix sockets": "any that file modes allow" + ("" if scoped else ", abstract ones too"),
        "user": f"uid {os.getuid()}, as the host",
    }


def _jail(
    readable: Sequence[str], writable: Sequence[str], limits: Limits, network: bool, pinned: bool
) -> dict[str, str]:
    if not os.statvfs("/").f_flag & os.ST_RDONLY:
        raise ConfinementError("this process was started as `jail`, but its root file system is writable")
    by_root = os.stat("/usr").st_uid == os.getuid()  # the host's root is the only user whose files can show as ours
    said = _limits(limits, count_processes=not by_root and _kernel() >= _COUNTS_BY_NAMESPACE)
    return {
        **said,
        **verified(),
        "files": "own mount namespace, root read-only, private /tmp",
        "network": "granted" if network else "none: own empty namespace",
        "signals": "own pid namespace",
        "unix sockets": "only those in its bound folder",
        "user": "own user namespace; outside the host's root, without its capabilities"
        if by_root
        else "own user namespace; outside the host's user",
    }


def _limits(limits: Limits, *, count_processes: bool) -> dict[str, str]:
    _limit(resource.RLIMIT_CORE, _NO_CORE)
    said = {
        "core": "no dumps",
        "open files": str(_limit(resource.RLIMIT_NOFILE, limits.open_files)),
        "file size": f"{_limit(resource.RLIMIT_FSIZE, limits.file_bytes)} bytes",
        "processes": "not limited: it would count all of the user's, and never binds root",
        "memory": "not limited",
    }
    if count_processes:
        said["processes"] = str(_limit(resource.RLIMIT_NPROC, limits.processes))
    if limits.memory_bytes is not None:
        said["memory"] = f"{_limit(resource.RLIMIT_DATA, limits.memory_bytes)} bytes of private memory"
    return said


def _limit(which: int, wanted: int) -> int:
    _, hard = resource.getrlimit(which)
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(which, (value, value))
    return value


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(itertools.takewhile(str.isdigit, minor)) or 0)


_LEVELS: Final = {"trusted": _trusted, "confined": _confined, "jail": _jail}
