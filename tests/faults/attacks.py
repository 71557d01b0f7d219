"""What hostile code in a node would try, each as a function that returns when it succeeded and raises when stopped.

Run as `python -I -c SOURCE LEVEL JSON`, for a jail does not see this file: it takes its level, then tries everything in
`targets`, each in a child of its own, and prints {attack: "hit" or the error}.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final, TypeGuard

_LIBC = ctypes.CDLL(None, use_errno=True)
_X86: Final = os.uname().machine == "x86_64"
_CLONE_NEWUSER: Final = 0x10000000


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _call(number: int, *arguments: Any) -> int:
    return _checked(_LIBC.syscall(number, *arguments))


def read_a_secret(target: dict[str, Any]) -> None:
    with open(target["secret"]) as file:
        assert file.read() == target["word"]


def list_a_folder(target: dict[str, Any]) -> None:
    assert os.listdir(os.path.dirname(target["secret"]))


def write_outside(target: dict[str, Any]) -> None:
    with open(target["secret"] + ".new", "w") as file:
        file.write("x")


def write_among_the_libraries(target: dict[str, Any]) -> None:
    path = os.path.join(sys.prefix, f"rmbus-attack-{os.getpid()}")
    with open(path, "w"):
        os.unlink(path)


def open_a_secret_to_all(target: dict[str, Any]) -> None:
    os.chmod(target["secret"], 0o644)
    os.chmod(target["secret"], 0o600)


def tcp_to_loopback(target: dict[str, Any]) -> None:
    socket.create_connection(("127.0.0.1", target["tcp"]), timeout=2).close()


def udp_to_loopback(target: dict[str, Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", target["udp"]))
        sender.send(b"x")
        sender.settimeout(2)
        assert sender.recv(1) == b"y"


def another_socket_family(target: dict[str, Any]) -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


def a_neighbours_unix_socket(target: dict[str, Any]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(target["unix"])


def a_neighbours_abstract_socket(target: dict[str, Any]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + target["abstract"])


def kill_a_neighbour(target: dict[str, Any]) -> None:
    os.kill(target["pid"], signal.SIGURG)  # which it ignores: only the permission counts


def environment_of_a_neighbour(target: dict[str, Any]) -> None:
    with open(f"/proc/{target['pid']}/environ", "rb") as file:
        assert target["word"].encode() in file.read()


def command_line_of_a_neighbour(target: dict[str, Any]) -> None:
    with open(f"/proc/{target['pid']}/cmdline", "rb") as file:
        assert b"python" in file.read()


def trace_a_neighbour(target: dict[str, Any]) -> None:
    _checked(_LIBC.ptrace(0x4206, target["pid"], None, None))  # PTRACE_SEIZE; ends with this child


def memory_of_a_neighbour(target: dict[str, Any]) -> None:
    there = ctypes.create_string_buffer(16)
    one = (ctypes.c_void_p * 2)(ctypes.addressof(there), 16)
    far = (ctypes.c_void_p * 2)(target["address"], 16)
    _call(
        310 if _X86 else 270,
        ctypes.c_long(target["pid"]),
        one,
        ctypes.c_long(1),
        far,
        ctypes.c_long(1),
        ctypes.c_long(0),
    )


def slow_a_neighbour_down(target: dict[str, Any]) -> None:
    os.setpriority(os.PRIO_PROCESS, target["pid"], 19)


def starve_a_neighbour(target: dict[str, Any]) -> None:
    os.sched_setscheduler(target["pid"], os.SCHED_IDLE, os.sched_param(0))


def shared_memory_of_a_neighbour(target: dict[str, Any]) -> None:
    with open(f"/dev/shm/{target['shm']}") as file:
        assert file.read() == target["word"]


def memory_of_its_own(target: dict[str, Any]) -> None:
    os.close(os.memfd_create("attack"))


def settings_of_the_kernel(target: dict[str, Any]) -> None:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))


def user_namespace_by_unshare(target: dict[str, Any]) -> None:
    _checked(_LIBC.unshare(_CLONE_NEWUSER))


def user_namespace_by_clone(target: dict[str, Any]) -> None:
    pid = _call(56 if _X86 else 220, ctypes.c_long(_CLONE_NEWUSER | signal.SIGCHLD), None, None, None, None)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def user_namespace_by_clone3(target: dict[str, Any]) -> None:
    arguments = (ctypes.c_uint64 * 8)(_CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = _call(435, arguments, ctypes.c_long(64))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def io_uring(target: dict[str, Any]) -> None:
    os.close(_call(425, ctypes.c_long(2), ctypes.create_string_buffer(120)))


def keyring(target: dict[str, Any]) -> None:
    _call(250 if _X86 else 219, ctypes.c_long(0), ctypes.c_long(-3), ctypes.c_long(1))  # id of the session keyring


def page_faults_in_hand(target: dict[str, Any]) -> None:
    os.close(_call(323 if _X86 else 282, ctypes.c_long(1)))  # userfaultfd, user mode only


def _is_attack(name: str, value: object) -> TypeGuard[Callable[[dict[str, Any]], None]]:
    return callable(value) and getattr(value, "__module__", "") == __name__ and not name.startswith("_")


ATTACKS: Final = {name: found for name, found in list(globals().items()) if _is_attack(name, found)}


def _try(attack: Callable[[dict[str, Any]], None], target: dict[str, Any]) -> str:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            attack(target)
            said = "hit"
        except OSError as error:
            said = error.strerror or str(error)
        except BaseException:
            said = "broken: " + traceback.format_exc()
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said or "killed"


def _main(level: str, target: dict[str, Any]) -> None:
    from rmbus.runtime import confine, landlock

    if "landlock" in target:
        landlock.version = lambda: target["landlock"]  # as an older kernel would answer
    confine.apply(level, writable=[os.getcwd()] if level == "confined" else [])
    print(json.dumps({name: _try(attack, target) for name, attack in ATTACKS.items()}))


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]))
