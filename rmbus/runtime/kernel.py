"""The few system calls that confinement needs and Python does not offer, by number, with errors as OSError."""

from __future__ import annotations

import ctypes
import os
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

CAPSET: Final = {"x86_64": 126, "aarch64": 91}
CAPABILITY_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def machine() -> str:
    """Return the architecture of this process as the kernel's table of calls names it."""
    return os.uname().machine


def call(number: int, *arguments: int | bytes | ctypes.Structure | None) -> int:
    """Do one system call; integers go as longs, bytes, structures and None as pointers.

    Raises:
        OSError: the kernel refused; errno says why.
    """
    result = int(_syscall(ctypes.c_long(number), *[_argument(each) for each in arguments]))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, *arguments: int) -> int:
    """Do one prctl.

    Raises:
        OSError: the kernel refused; errno says why.
    """
    padded = [*arguments, 0, 0, 0, 0][:4]
    result = int(_prctl(option, *padded))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def drop_capabilities() -> None:
    """Give up every capability of this thread, for good once no_new_privs is set.

    Raises:
        OSError: the kernel refused.
    """
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    call(CAPSET[machine()], bytes(header), bytes(nothing))
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def _argument(value: int | bytes | ctypes.Structure | None) -> object:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, int):
        return ctypes.c_long(value)
    if isinstance(value, bytes):
        return ctypes.c_char_p(value)
    return ctypes.byref(value)
