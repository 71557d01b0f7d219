"""Seccomp allow-lists: which system calls a confined process may do, as a program for the kernel.

The filter is classic BPF, assembled here: a binary search over the numbers of the calls, and behind some of them a look
at one argument. Everything named in no table is answered ENOSYS, dangerous calls EPERM: programs get errors, not
signals.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from attrs import frozen

from rmbus.errors import ConfinementError
from rmbus.runtime import kernel, syscalls

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1  # SECCOMP_FILTER_FLAG_TSYNC

# classic BPF: load a word of struct seccomp_data, compare, jump, return
_LOAD: Final = 0x20
_JUMP: Final = 0x05
_IF_EQUAL: Final = 0x15
_IF_AT_LEAST: Final = 0x35
_IF_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_AT_NUMBER: Final = 0
_AT_ARCHITECTURE: Final = 4
_AT_ARGUMENTS: Final = 16  # six words of 64 bits; all arguments looked at are ints, of which the kernel takes 32
_FAR: Final = 255

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000

# clone: a new mount, cgroup, uts, ipc, user, pid or net namespace
_NEW_NAMESPACES: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_AF_UNIX: Final = 1
_AF_INET: Final = 2
_AF_INET6: Final = 10
# ioctl: type into a terminal, paste into a console, change a terminal's line discipline
_TERMINAL_INPUT: Final = (0x5412, 0x541C, 0x5423)
# prctl: what programs use for themselves (names, death signals, dumpability, timer slack, huge pages, named mappings);
# not seccomp, not ptracer, not capabilities, not speculation
_PRCTL: Final = (1, 2, 3, 4, 15, 16, 21, 23, 27, 29, 30, 36, 37, 38, 39, 40, 41, 42, 0x53564D41)
_PR_SET_PDEATHSIG: Final = 1
_F_SETOWN: Final = (8, 15)
_SCHED_OTHER: Final = 0
_NOT_ALONE: Final = frozenset(
    {
        *("clone", "fork", "vfork", "execve", "execveat", "setsid", "setpgid", "setrlimit", "pidfd_open"),
        *("socket", "bind", "connect", "listen", "accept", "accept4"),
        *("timer_create", "timer_settime", "timer_delete"),
    }
)


@frozen
class Rule:
    """What one argument of a call must be; else the call fails with `error`.

    Attributes:
        argument: which argument, from 0.
        test: `among` the values, `not among` them, or `no bit` of the one value set.
        values: 32-bit values.
        error: the errno of a refusal.
    """

    argument: int
    test: Literal["among", "not among", "no bit"]
    values: tuple[int, ...]
    error: int = errno.EPERM


@frozen
class Policy:
    """A list of allowed calls.

    Attributes:
        allowed: calls that go through, whatever their arguments.
        looked_at: calls that go through when the rule on an argument holds.
        refused: calls that fail with EPERM. All others fail with ENOSYS.
    """

    allowed: frozenset[str]
    looked_at: Mapping[str, Rule]
    refused: frozenset[str]


def jail_policy(*, network: bool = False, pinned: bool = False) -> Policy:
    """Return what a process in a jail may call: its namespaces bound what it can name, so signals are free.

    Args:
        network: whether internet sockets are granted.
        pinned: whether it stays on the CPUs that it was started on.
    """
    families = (_AF_UNIX, _AF_INET, _AF_INET6) if network else (_AF_UNIX,)
    looked_at = {
        "socket": Rule(0, "among", families, errno.EAFNOSUPPORT),
        "socketpair": Rule(0, "among", (_AF_UNIX,), errno.EAFNOSUPPORT),
        "clone": Rule(0, "no bit", (_NEW_NAMESPACES,)),
        "ioctl": Rule(1, "not among", _TERMINAL_INPUT),
        "prctl": Rule(0, "among", _PRCTL),
        "prlimit64": Rule(0, "among", (0,)),
        "seccomp": Rule(0, "among", (_SET_MODE_FILTER,)),  # a further filter only takes away
    }
    groups = (
        *(syscalls.FILES, syscalls.ATTRIBUTES, syscalls.MEMORY, syscalls.PROCESSES),
        *(syscalls.SIGNALS, syscalls.TIME, syscalls.WAITING, syscalls.SOCKETS),
    )
    refused = frozenset(syscalls.REFUSED) | ({"sched_setaffinity"} if pinned else set[str]())
    return Policy(frozenset[str]().union(*groups) - looked_at.keys() - refused, looked_at, refused)


def confined_policy(*, network: bool = False, pinned: bool = False, only_signals_to: int | None = None) -> Policy:
    """Return what a process may call that shares the machine's namespaces with its neighbours.

    Args:
        network, pinned: see `jail_policy`.
        only_signals_to: the one process that may be signalled, where Landlock does not keep signals in (before its
            version 6); None where it does.
    """
    jail = jail_policy(network=network, pinned=pinned)
    itself = Rule(0, "among", (0,))
    looked_at = {
        **jail.looked_at,
        **dict.fromkeys(("sched_setaffinity", "sched_setparam", "sched_setattr"), itself),
        "sched_setscheduler": Rule(1, "among", (_SCHED_OTHER,)),  # ZeroMQ asks this for each thread, by its number
    }
    refused = jail.refused | syscalls.ATTRIBUTES.keys() | {"setpriority", "ioprio_set"}
    if only_signals_to is not None:
        looked_at |= dict.fromkeys(("kill", "tgkill", "rt_tgsigqueueinfo"), Rule(0, "among", (only_signals_to,)))
        looked_at["fcntl"] = Rule(1, "not among", _F_SETOWN)
        refused |= {"tkill", "rt_sigqueueinfo", "pidfd_send_signal"}
    looked_at = {name: rule for name, rule in looked_at.items() if name not in refused}
    return Policy(jail.allowed - looked_at.keys() - refused, looked_at, refused)


def alone_policy(pid: int) -> Policy:
    """Return what a process may call that runs the code of others for a node: one thread, with what it has been given.

    No process, thread or socket can be made, nobody else signalled, and neither the timer nor the bond to the parent
    that will end it can be undone.

    Args:
        pid: the process.
    """
    confined = confined_policy(only_signals_to=pid)
    refused = confined.refused | _NOT_ALONE
    looked_at = {name: rule for name, rule in confined.looked_at.items() if name not in _NOT_ALONE}
    looked_at["prctl"] = Rule(0, "among", tuple(each for each in _PRCTL if each != _PR_SET_PDEATHSIG))
    return Policy(confined.allowed - refused, looked_at, refused)


class _Assembler:
    """Puts a program together from its end: every jump goes forward, so its target is always there already."""

    def __init__(self) -> None:
        self._backwards: list[bytes] = []

    def put(self, code: int, value: int, yes: int | None = None, no: int | None = None) -> int:
        """Put one instruction in front of all others and return its mark; a missing target is what follows."""
        here = len(self._backwards)
        yes, no = here if yes is None else yes, here if no is None else no
        if code in (_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT):
            # a conditional jump reaches 255 instructions; a plain one goes anywhere (one more may come between)
            yes = self._near(yes)
            no = self._near(no)
            here = len(self._backwards)
        self._backwards.append(struct.pack("=HBBI", code, here - yes, here - no, value & 0xFFFFFFFF))
        return here + 1

    def _near(self, target: int) -> int:
        if len(self._backwards) - target < _FAR:
            return target
        return self.put(_JUMP, len(self._backwards) - target)

    def program(self) -> bytes:
        return b"".join(reversed(self._backwards))


def compile_filter(policy: Policy, machine: str) -> bytes:
    """Return the program for a policy: an array of struct sock_filter, as the kernel and bubblewrap take it.

    Raises:
        ConfinementError: the architecture is not known here.
    """
    if machine not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise ConfinementError(f"no table of system calls for {machine}; confinement is known for {known}")
    code = _Assembler()
    outcomes = {value: code.put(_RETURN, value) for value in (_ALLOW, *_errors(policy))}
    unknown = outcomes[_ERRNO | errno.ENOSYS]
    targets: dict[str, int] = dict.fromkeys(policy.allowed, outcomes[_ALLOW])
    targets |= dict.fromkeys(policy.refused, outcomes[_ERRNO | errno.EPERM])
    blocks: dict[Rule, int] = {}
    for name, rule in policy.looked_at.items():
        if rule not in blocks:
            blocks[rule] = _rule(code, rule, outcomes)
        targets[name] = blocks[rule]
    column = syscalls.MACHINES.index(machine)
    by_number = {number: target for name, target in targets.items() if (number := _ALL_CALLS[name][column]) is not None}
    _search(code, _intervals(by_number, unknown))
    code.put(_LOAD, _AT_NUMBER)
    code.put(_IF_EQUAL, _ARCHITECTURES[machine], no=unknown)
    code.put(_LOAD, _AT_ARCHITECTURE)
    return code.program()


def install(program: bytes) -> None:
    """Put this process, all its threads, and all that come of them under a filter, for good. Needs no_new_privs.

    Raises:
        ConfinementError: the kernel refused, or a thread could not be reached; nothing changed.
    """
    array = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(array))
    try:
        stray = kernel.call(_SECCOMP[kernel.machine()], _SET_MODE_FILTER, _ALL_THREADS, header)
    except OSError as error:
        raise ConfinementError(f"the kernel refused the seccomp filter: {error.strerror}") from error
    if stray:
        raise ConfinementError(f"the seccomp filter does not reach thread {stray} of this process")


def _errors(policy: Policy) -> list[int]:
    codes = {errno.ENOSYS, errno.EPERM} | {rule.error for rule in policy.looked_at.values()}
    return [_ERRNO | code for code in sorted(codes)]


def _rule(code: _Assembler, rule: Rule, outcomes: Mapping[int, int]) -> int:
    met, failed = outcomes[_ALLOW], outcomes[_ERRNO | rule.error]
    if rule.test == "no bit":
        code.put(_IF_ANY_BIT, rule.values[0], yes=failed, no=met)
    else:
        hit, other = (met, failed) if rule.test == "among" else (failed, met)
        following: int | None = other
        for value in rule.values:
            following = code.put(_IF_EQUAL, value, yes=hit, no=following)
    return code.put(_LOAD, _AT_ARGUMENTS + 8 * rule.argument)


def _intervals(by_number: Mapping[int, int], unknown: int) -> list[tuple[int, int]]:
    """Return (first number, target) of each run of numbers with one target, from 0 to the end."""
    runs: list[tuple[int, int]] = []
    following, before = 0, -1
    for number in sorted(by_number):
        if number != following and before != unknown:
            runs.append((following, before := unknown))
        target, following = by_number[number], number + 1
        if target != before:
            runs.append((number, before := target))
    return runs if before == unknown else [*runs, (following, unknown)]


def _search(code: _Assembler, runs: Sequence[tuple[int, int]]) -> int:
    if len(runs) == 1:
        return runs[0][1]
    middle = len(runs) // 2
    above = _search(code, runs[middle:])
    below = _search(code, runs[:middle])
    return code.put(_IF_AT_LEAST, runs[middle][0], yes=above, no=below)


_ALL_CALLS: Final[Mapping[str, syscalls.Numbers]] = {
    name: numbers
    for table in (
        *(syscalls.FILES, syscalls.ATTRIBUTES, syscalls.MEMORY, syscalls.PROCESSES, syscalls.SIGNALS),
        *(syscalls.TIME, syscalls.WAITING, syscalls.SOCKETS, syscalls.REFUSED),
    )
    for name, numbers in table.items()
}
