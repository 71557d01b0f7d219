"""What bubblewrap is told: the namespaces of a jail, and the exact list of what is in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

from rmbus.runtime import visible
from rmbus.runtime.confine import Allowed

PRIVATE: Final = "/tmp"  # the work folder of a jailed process, and all that it can write without a grant
_SHARED_MEMORY_BYTES: Final = 64 << 20


@frozen
class Grants:
    """What a node asked for and the host's policy allowed; nothing by default.

    Attributes:
        readable: files and folders to read, at their own paths.
        writable: files and folders to read and write.
        devices: device files to open: where they are, and where a jail sees them.
        network: the machine's own network, instead of none.
        cpus: those to run on, and no others; (): any.
        memory_bytes: private memory beyond what a process begins with; 0: any.
        file_bytes: what one file may have, if that is more than the usual.
    """

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    devices: tuple[tuple[str, str], ...] = ()
    network: bool = False
    cpus: tuple[int, ...] = ()
    memory_bytes: int = 0
    file_bytes: int = 0

    def allowed(self) -> Allowed:
        """Return what a process is to let itself do by it."""
        return Allowed(
            readable=self.readable,
            writable=(*self.writable, *(path for path, _ in self.devices)),
            network=self.network,
            pinned=bool(self.cpus),
            memory_bytes=self.memory_bytes,
            file_bytes=self.file_bytes,
        )


def jail_arguments(*, node_dir: str, grants: Grants, tmp_bytes: int, seccomp_fd: str) -> list[str]:
    """Return bubblewrap's options for a jail, in the order in which they build it.

    Args:
        node_dir: a folder of the host, bound read-only at its own path; links that the host makes in it later show.
        grants: what is bound beside the interpreter.
        tmp_bytes: the size of the private /tmp.
        seccomp_fd: the number of the descriptor that the filter is read from.
    """
    return [
        *_namespaces(network=grants.network),
        *_system(),
        *_read_only([*visible.SYSTEM_FILES, *(visible.NETWORK_FILES if grants.network else ())]),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"),
        *("--size", str(tmp_bytes), "--tmpfs", PRIVATE),
        *_read_only(visible.interpreter_paths()),  # after the private folder: an environment may lie below it
        *("--ro-bind", node_dir, node_dir),
        *_granted(grants),
        # /proc too: where the host is root, the kernel's settings in it belong to the jailed process's user
        *("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"),
        *("--chdir", PRIVATE, "--seccomp", seccomp_fd),
    ]


def _namespaces(*, network: bool) -> Iterator[str]:
    yield from ("--unshare-user", "--disable-userns", "--unshare-pid", "--unshare-ipc", "--unshare-uts")
    yield "--unshare-cgroup-try"
    if not network:
        yield "--unshare-net"
    # the user of the host, under another number: no program in a jail takes itself for root
    yield from ("--uid", str(visible.JAIL_UID), "--gid", str(visible.JAIL_UID))
    yield from ("--cap-drop", "ALL", "--hostname", "jail", "--die-with-parent", "--new-session")


def _system() -> Iterator[str]:
    for path in visible.SYSTEM_FOLDERS:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            yield from ("--ro-bind", path, path)


def _read_only(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        yield from ("--ro-bind-try", path, path)


def _granted(grants: Grants) -> Iterator[str]:
    for option, paths in (("--ro-bind", grants.readable), ("--bind", grants.writable)):
        for path in paths:
            yield from (option, path, path)
    for path, seen in grants.devices:
        yield from ("--dev-bind", path, seen)
