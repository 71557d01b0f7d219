"""How a process below a node's, which runs code of others once, confines itself further than the node is.

It does so in two steps: `enclose` before it has its work, `seal` when the time of that begins. Neither can be undone.
Both work in a plain process, in a confined one, where /proc may not be read and no capability is left to drop, and in
a jail.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import struct
from collections.abc import Mapping
from typing import Final

from rmbus.errors import ConfinementError
from rmbus.runtime import confine, kernel, landlock, seccomp, syscalls, visible

_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_OPEN_FILES: Final = 64
_NO_CORE: Final = 1  # at 0 the kernel still feeds a dump to a program
_CLOCK_MONOTONIC: Final = 1
_PR_GET_SECCOMP: Final = 21
_PR_GET_NO_NEW_PRIVS: Final = 39
_FILTERED: Final = 2


class _Timer(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int),)


class _Capabilities(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint32 * 6),)


def enclose(memory_bytes: int) -> None:
    """Leave this process nothing to write to, nothing to read but the interpreter and its libraries, so much memory.

    Args:
        memory_bytes: address space, all that is mapped: shared memory escapes any narrower limit.

    Raises:
        ConfinementError: a part of it could not be put in force, or there is no Landlock on this machine.
    """
    try:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        everywhere = (*visible.SYSTEM_FOLDERS, *visible.SYSTEM_FILES, *visible.interpreter_paths(), *_DEVICES)
        landlock.restrict(readable=everywhere, writable=())
        if any(_capabilities()):
            kernel.drop_capabilities()
        _limit(
            {
                resource.RLIMIT_AS: memory_bytes,
                resource.RLIMIT_FSIZE: 0,
                resource.RLIMIT_NOFILE: _OPEN_FILES,
                resource.RLIMIT_CORE: _NO_CORE,
            }
        )
    except OSError as error:
        raise ConfinementError(f"the process for the code could not be confined: {error}") from error


def seal(time_s: float, parent_pid: int) -> None:
    """Bound the life of this process, and let it make nothing and reach nobody.

    It ends with its parent, and `time_s` from now at the latest, by the kernel's hand: whoever started it may have no
    right to signal it.

    Args:
        time_s: seconds, by the clock and of the processor. parent_pid: who has started it.

    Raises:
        ConfinementError: a part of it could not be put in force.
    """
    try:
        confine.die_with_parent(parent_pid)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit({resource.RLIMIT_CPU: math.ceil(used.ru_utime + used.ru_stime + time_s)})
        _die_after(time_s)
        policy = seccomp.alone_policy(os.getpid())
        seccomp.install(seccomp.compile_filter(policy, kernel.machine()))
        if (
            any(_capabilities())
            or kernel.prctl(_PR_GET_NO_NEW_PRIVS) != 1
            or kernel.prctl(_PR_GET_SECCOMP) != _FILTERED
        ):
            raise ConfinementError("the process for the code is not confined as it should be")
    except OSError as error:
        raise ConfinementError(f"the process for the code could not be confined: {error}") from error


def _limit(limits: Mapping[int, int]) -> None:
    for which, wanted in limits.items():
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


def _die_after(seconds: float) -> None:
    """Have the kernel kill this process then, by a timer that no handler can catch."""
    event = struct.pack("@Qii48x", 0, signal.SIGKILL, 0)
    timer = _Timer()
    kernel.call(_number("timer_create"), _CLOCK_MONOTONIC, event, timer)
    whole = int(seconds)
    due = struct.pack("@qqqq", 0, 0, whole, max(1, int((seconds - whole) * 1e9)))
    kernel.call(_number("timer_settime"), timer.id, 0, due, None)


def _capabilities() -> list[int]:
    """Return the capabilities of this process, effective, permitted and inheritable, in two halves."""
    header = struct.pack("@Ii", kernel.CAPABILITY_VERSION_3, 0)
    found = _Capabilities()
    kernel.call(_number("capget"), header, found)
    return list(found.words)


def _number(name: str) -> int:
    number = {**syscalls.PROCESSES, **syscalls.TIME}[name][syscalls.MACHINES.index(kernel.machine())]
    assert number is not None
    return number
