"""What every confined process may read: the interpreter, the system's libraries, rmbus itself, and nothing more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Final

import rmbus

# what the host's user is called in a jail; all other users' files show as the kernel's overflow uid there
JAIL_UID: Final = 1000
# folders of the system; where one is a link (merged /usr) it is kept as a link
SYSTEM_FOLDERS: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# single files and folders of /etc that libraries need; no accounts, no keys, no names of machines
SYSTEM_FILES: Final = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
# added for a process that was granted the network
NETWORK_FILES: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/ssl",
    "/etc/services",
)


def interpreter_paths() -> tuple[str, ...]:
    """Return the real folders and files that this interpreter and the rmbus packages are read from.

    Folders inside others of the list, or inside /usr, are left out. A prefix that is the root of the file system or
    holds the user's home is not given whole: only its folders that an interpreter needs.
    """
    found: list[str] = []
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    for prefix in prefixes | {os.path.realpath(prefix) for prefix in prefixes}:
        found += _of_prefix(prefix)
    found += [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    found += chain(sys.executable)
    found += _own_packages()
    return outermost(found)


def _of_prefix(prefix: str) -> list[str]:
    home = os.path.realpath(os.path.expanduser("~"))
    if not _inside(home, os.path.realpath(prefix)):
        return [prefix]
    parts = ("bin", "lib", "lib64", "pyvenv.cfg")
    return [path for part in parts if os.path.lexists(path := os.path.join(prefix, part))]


def chain(path: str) -> list[str]:
    """Return each step of the chain of links from an interpreter to the real program."""
    steps: list[str] = []
    while path and path not in steps:
        steps.append(path)
        if os.path.islink(path):
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return steps


def _own_packages() -> list[str]:
    """Return the folder of rmbus, and where its links lead when it is installed in place (`rmbus/nodes`, ...)."""
    own = os.path.dirname(os.path.abspath(rmbus.__file__))
    links = (entry.path for entry in os.scandir(own) if entry.is_symlink() and entry.is_dir())
    return [own, os.path.realpath(own), *(os.path.realpath(link) for link in links)]


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Return those of the paths that exist, without those inside others, or inside /usr."""
    kept: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths if os.path.exists(path)}):
        if not any(_inside(path, folder) for folder in ("/usr", *kept)):
            kept.append(path)
    return tuple(kept)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
