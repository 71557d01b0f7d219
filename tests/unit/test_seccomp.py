"""The seccomp filters, run by a small interpreter of BPF: what passes, what is refused, what is unknown."""

from __future__ import annotations

import errno
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbus.errors import ConfinementError
from rmbus.runtime import seccomp, syscalls

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW = 0x7FFF0000
_TABLES = (
    *(syscalls.FILES, syscalls.ATTRIBUTES, syscalls.MEMORY, syscalls.PROCESSES, syscalls.SIGNALS),
    *(syscalls.TIME, syscalls.WAITING, syscalls.SOCKETS, syscalls.REFUSED),
)
_POLICIES = {
    "jail": seccomp.jail_policy(),
    "jail with network": seccomp.jail_policy(network=True),
    "confined": seccomp.confined_policy(),
    "confined, old Landlock": seccomp.confined_policy(only_signals_to=4242),
    "alone": seccomp.alone_policy(4242),
}


def _run(program: bytes, number: int, *arguments: int, architecture: int) -> int | str:
    """Run a filter on one call; return "allow" or the errno. Fails when it leaves the program or goes round."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *(*arguments, *[0] * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x05:
                at += value
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no
            case 0x06:
                return "allow" if value == _ALLOW else value & 0xFFFF
            case _:
                raise AssertionError(f"no such operation: {operation:#x}")


def _number(name: str, machine: str) -> int:
    found = next(table[name] for table in _TABLES if name in table)[syscalls.MACHINES.index(machine)]
    assert found is not None
    return found


def _result(policy: str, name: str, *arguments: int, machine: str = "x86_64") -> int | str:
    program = seccomp.compile_filter(_POLICIES[policy], machine)
    return _run(program, _number(name, machine), *arguments, architecture=_ARCHITECTURES[machine])


@pytest.mark.parametrize("machine", syscalls.MACHINES)
@pytest.mark.parametrize("policy", _POLICIES)
def test_every_number_has_the_outcome_of_its_policy(policy: str, machine: str) -> None:
    """Allowed calls pass, refused ones give EPERM, and every other number up to 1000 gives ENOSYS."""
    wanted = _POLICIES[policy]
    program = seccomp.compile_filter(wanted, machine)
    column = syscalls.MACHINES.index(machine)
    names = {numbers[column]: name for table in _TABLES for name, numbers in table.items()}
    for number in range(1000):
        name = names.get(number)
        if name in wanted.looked_at:
            continue
        expected: int | str = errno.ENOSYS
        if name in wanted.allowed:
            expected = "allow"
        elif name in wanted.refused:
            expected = errno.EPERM
        assert _run(program, number, architecture=_ARCHITECTURES[machine]) == expected, name


@pytest.mark.parametrize("machine", syscalls.MACHINES)
@pytest.mark.parametrize(
    ("policy", "name", "arguments", "expected"),
    [
        ("jail", "socket", (1, 1), "allow"),
        ("jail", "socket", (2, 1), errno.EAFNOSUPPORT),
        ("jail", "socket", (10, 2), errno.EAFNOSUPPORT),
        ("jail", "socket", (40, 1), errno.EAFNOSUPPORT),
        ("jail with network", "socket", (2, 1), "allow"),
        ("jail with network", "socket", (10, 1), "allow"),
        ("jail with network", "socket", (16, 3), errno.EAFNOSUPPORT),
        ("jail", "socket", (1 << 32 | 2, 1), errno.EAFNOSUPPORT),  # the kernel takes 32 bits of it
        ("jail", "socket", (1 << 32 | 1, 1), "allow"),
        ("jail", "clone", (0x003D0F00,), "allow"),  # a thread
        ("jail", "clone", (0x10000011,), errno.EPERM),
        ("jail", "clone", (0x40000011,), errno.EPERM),
        ("jail", "clone", (0x00020011,), errno.EPERM),
        ("jail", "ioctl", (0, 0x5401), "allow"),
        ("jail", "ioctl", (0, 0x5412), errno.EPERM),
        ("jail", "ioctl", (0, 0xFFFFFFFF00005412), errno.EPERM),
        ("jail", "prctl", (15,), "allow"),
        ("jail", "prctl", (22,), errno.EPERM),
        ("jail", "prlimit64", (0, 7), "allow"),
        ("jail", "prlimit64", (7, 7), errno.EPERM),
        ("jail", "kill", (7, 9), "allow"),
        ("jail", "fchmod", (3,), "allow"),
        ("jail", "seccomp", (1, 0), "allow"),  # a further filter
        ("jail", "seccomp", (0, 0), errno.EPERM),
        ("alone", "prctl", (15,), "allow"),
        ("alone", "prctl", (1,), errno.EPERM),  # the bond to its parent
        ("alone", "clone", (0x003D0F00,), errno.EPERM),  # a thread
        ("alone", "clone", (17,), errno.EPERM),
        ("alone", "execve", (), errno.EPERM),
        ("alone", "socket", (1, 1), errno.EPERM),
        ("alone", "timer_settime", (0,), errno.EPERM),
        ("alone", "kill", (4242, 9), "allow"),
        ("alone", "kill", (1, 9), errno.EPERM),
        ("alone", "recvfrom", (3,), "allow"),
        ("confined", "kill", (7, 9), "allow"),  # Landlock keeps it in
        ("confined", "fchmod", (3,), errno.EPERM),
        ("confined", "setpriority", (0, 7), errno.EPERM),
        ("confined", "sched_setscheduler", (7, 0), "allow"),
        ("confined", "sched_setscheduler", (7, 5), errno.EPERM),
        ("confined", "sched_setaffinity", (0, 8), "allow"),
        ("confined", "sched_setaffinity", (7, 8), errno.EPERM),
        ("confined, old Landlock", "kill", (4242, 9), "allow"),
        ("confined, old Landlock", "kill", (7, 9), errno.EPERM),
        ("confined, old Landlock", "kill", (0xFFFFFFFFFFFFFFFF, 9), errno.EPERM),  # -1: all of them
        ("confined, old Landlock", "tgkill", (4242, 4243, 9), "allow"),
        ("confined, old Landlock", "tkill", (4242, 9), errno.EPERM),
        ("confined, old Landlock", "fcntl", (3, 8, 7), errno.EPERM),
        ("confined, old Landlock", "fcntl", (3, 3), "allow"),
    ],
)
def test_arguments_are_looked_at(
    policy: str, name: str, arguments: tuple[int, ...], expected: int | str, machine: str
) -> None:
    """Families, flags, targets and commands decide where the number alone cannot."""
    assert _result(policy, name, *arguments, machine=machine) == expected


@pytest.mark.parametrize("machine", syscalls.MACHINES)
@pytest.mark.parametrize("policy", _POLICIES)
def test_dangerous_calls_are_in_no_policy(policy: str, machine: str) -> None:
    """Tracing, namespaces, mounts, io_uring and the like fail with EPERM under every policy."""
    names = "ptrace bpf keyctl userfaultfd mount unshare setns perf_event_open process_vm_readv kexec_load init_module"
    for name in (*names.split(), "io_uring_setup", "io_uring_enter", "pidfd_getfd", "seccomp"):
        assert _result(policy, name, machine=machine) == errno.EPERM, name


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_clone3_and_memfds_do_not_exist(machine: str) -> None:
    """A call whose flags cannot be seen and memory that escapes limits are answered as if the kernel were older."""
    program = seccomp.compile_filter(_POLICIES["jail"], machine)
    for number in (435, {"x86_64": 319, "aarch64": 279}[machine]):
        assert _run(program, number, architecture=_ARCHITECTURES[machine]) == errno.ENOSYS


@given(number=st.integers(0, 0xFFFFFFFF), architecture=st.sampled_from([0x40000003, 0x40000028, 0, 0xC00000B7]))
def test_another_architecture_gets_nothing(number: int, architecture: int) -> None:
    """Calls of another architecture's table (32-bit ones in a 64-bit process) are refused, whatever their number."""
    program = seccomp.compile_filter(_POLICIES["jail"], "x86_64")
    assert _run(program, number, architecture=architecture) == errno.ENOSYS


@given(number=st.integers(0x40000000, 0x400003FF))
def test_the_x32_table_gets_nothing(number: int) -> None:
    """The second table of x86_64, marked by a bit in the number, is refused."""
    program = seccomp.compile_filter(_POLICIES["jail"], "x86_64")
    assert _run(program, number, architecture=_ARCHITECTURES["x86_64"]) == errno.ENOSYS


def test_far_jumps_are_bridged() -> None:
    """A program with more blocks than a conditional jump reaches is still right."""
    many = {name: seccomp.Rule(0, "among", tuple(range(number, number + 40))) for number, name in enumerate(_SOME)}
    program = seccomp.compile_filter(seccomp.Policy(frozenset({"read"}), many, frozenset()), "x86_64")
    assert len(program) // 8 > 400
    for number, name in enumerate(_SOME):
        call = _number(name, "x86_64")
        for value, expected in ((number, "allow"), (number + 39, "allow"), (number + 40, errno.EPERM)):
            assert _run(program, call, value, architecture=_ARCHITECTURES["x86_64"]) == expected
    assert _run(program, 0, architecture=_ARCHITECTURES["x86_64"]) == "allow"


_SOME = ("write", "close", "lseek", "mmap", "ioctl", "dup", "socket", "clone", "kill", "fcntl", "fsync", "openat")


def test_tables_agree_with_the_headers_of_this_machine() -> None:
    """The numbers are those of the kernel's own headers, where they are installed."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no kernel headers (linux-libc-dev) here")
    official = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    ours = {name: numbers[0] for table in _TABLES for name, numbers in table.items()}
    assert len(official.keys() & ours.keys()) > 250
    assert {name: ours[name] for name in official.keys() & ours.keys()} == {
        name: official[name] for name in official.keys() & ours.keys()
    }


def test_no_call_is_in_two_tables() -> None:
    """Each call belongs to one table, and no two have one number."""
    names = [name for table in _TABLES for name in table]
    assert len(names) == len(set(names))
    for column in range(2):
        numbers = [each[column] for table in _TABLES for each in table.values() if each[column] is not None]
        assert len(numbers) == len(set(numbers))


def test_an_unknown_machine_is_refused() -> None:
    """Where no table is known there is no filter, and no silence about it."""
    with pytest.raises(ConfinementError, match="riscv64"):
        seccomp.compile_filter(_POLICIES["jail"], "riscv64")


def test_a_filter_binds_a_process_and_its_threads() -> None:
    """The kernel takes the program, for threads that were there before too."""
    source = """if True:
        import errno, os, socket, threading
        from rmbus.runtime import kernel, seccomp
        filtered, results = threading.Event(), []
        def ask():
            filtered.wait()
            try:
                socket.socket(socket.AF_INET)
            except OSError as error:
                results.append(error.errno)
        thread = threading.Thread(target=ask)
        thread.start()
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(seccomp.compile_filter(seccomp.confined_policy(), kernel.machine()))
        filtered.set()
        thread.join()
        assert results == [errno.EAFNOSUPPORT], results
    """
    subprocess.run([sys.executable, "-I", "-c", source], check=True, timeout=10)
