"""Landlock: which files, ports, signals and abstract sockets this process may reach, as far as the kernel knows it."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from typing import Final

from rmbus.errors import ConfinementError
from rmbus.runtime import kernel

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_QUERY_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_MAKE_DEVICES: Final = 1 << 6 | 1 << 11  # character, block
_ON_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READING: Final = _EXECUTE | _READ_FILE | _READ_DIR
_TCP: Final = 1 | 2  # bind, connect
_SCOPES: Final = 1 | 2  # abstract unix sockets, signals

NETWORK_SINCE: Final = 4
SCOPES_SINCE: Final = 6


def version() -> int:
    """Return the version of Landlock that this kernel speaks, 0 where it has none or it is off."""
    try:
        return kernel.call(_CREATE_RULESET, None, 0, _QUERY_VERSION)
    except OSError:
        return 0


def restrict(*, readable: Sequence[str], writable: Sequence[str], network: bool = False) -> int:
    """Restrict this thread, and all that comes of it, for good. Needs no_new_privs.

    Args:
        readable: files and folders to read and execute; those that don't exist are passed over.
        writable: folders, files and devices to read and write; each must exist.
        network: whether TCP is left open.

    Returns:
        The version that is in force.

    Raises:
        ConfinementError: there is no Landlock, a writable path doesn't exist, or the kernel refused.
    """
    known = version()
    if not known:
        raise ConfinementError(
            "this kernel has no Landlock (it needs Linux 5.13, and `landlock` in the boot option lsm=)"
        )
    files = _all_file_rights(known)
    scopes = _SCOPES if known >= SCOPES_SINCE else 0
    tcp = _TCP if known >= NETWORK_SINCE and not network else 0
    attributes = struct.pack("=QQQ", files, tcp, scopes)
    size = 24 if known >= SCOPES_SINCE else 16 if known >= NETWORK_SINCE else 8
    try:
        ruleset = kernel.call(_CREATE_RULESET, attributes, size, 0)
    except OSError as error:
        raise ConfinementError(f"the kernel refused a Landlock ruleset: {error.strerror}") from error
    try:
        for path in readable:
            _add(ruleset, path, _READING & files, required=False)
        for path in writable:
            _add(ruleset, path, files & ~_MAKE_DEVICES, required=True)
        kernel.call(_RESTRICT_SELF, ruleset, 0)
    except OSError as error:
        raise ConfinementError(f"Landlock could not be put in force: {error}") from error
    finally:
        os.close(ruleset)
    return known


def _all_file_rights(known: int) -> int:
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if known >= since else 0
    return rights


def _add(ruleset: int, path: str, rights: int, *, required: bool) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        if required:
            raise
        return
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _ON_FILES
        kernel.call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, handle), 0)
    finally:
        os.close(handle)
