"""Run a command where new user namespaces are forbidden, as in a container started with the usual seccomp profile.

    python tests/faults/no_userns.py COMMAND [ARGUMENT...]

The filter is on this process and what it starts; the machine is not changed. `clone3` is answered ENOSYS, for a filter
cannot see its flags, and the C library then falls back to `clone`.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

from rmbus.runtime import kernel, seccomp

_CALLS = {"x86_64": (56, 272, 308), "aarch64": (220, 97, 268)}  # clone, unshare, setns
_CLONE3 = 435
_NEW_NAMESPACES = 0x7E020000
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000


def program(machine: str) -> bytes:
    """Return the filter: struct sock_filter by struct sock_filter, jumps counted from the next one."""
    clone, unshare, setns = _CALLS[machine]
    code = (
        (0x20, 0, 0, 0),  # 0 load the number
        (0x15, 7, 0, _CLONE3),  # 1 -> 9
        (0x15, 5, 0, setns),  # 2 -> 8
        (0x15, 1, 0, clone),  # 3 -> 5
        (0x15, 0, 2, unshare),  # 4 -> 5, else 7
        (0x20, 0, 0, 16),  # 5 load the flags
        (0x45, 1, 0, _NEW_NAMESPACES),  # 6 -> 8
        (0x06, 0, 0, _ALLOW),  # 7
        (0x06, 0, 0, _ERRNO | errno.EPERM),  # 8
        (0x06, 0, 0, _ERRNO | errno.ENOSYS),  # 9
    )
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def main(argv: list[str]) -> None:
    """Forbid user namespaces for this process and become the command."""
    if not argv:
        sys.exit(__doc__)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(program(kernel.machine()))
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
