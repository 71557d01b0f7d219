"""From what bubblewrap and the kernel say when a level fails to the reason and the remedy, in words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

_NO_NAMESPACE: Final = ("No permissions to creat", "Creating new namespace failed")
_NO_MAPPING: Final = ("setting up uid map", "setting up gid map", "loopback: Failed")
_SYSCTLS: Final = (
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.unprivileged_userns_clone",
    "user.max_user_namespaces",
)
_INSTALL: Final = "apt install bubblewrap (Debian, Ubuntu), dnf install bubblewrap (Fedora)"


@frozen
class Machine:
    """Facts of this machine that decide about user namespaces.

    Attributes:
        sysctls: those of interest that exist here.
        container: whether this runs in a container.
    """

    sysctls: Mapping[str, str]
    container: bool

    @classmethod
    def look(cls) -> Machine:
        """Read the facts of the machine this runs on."""
        found: dict[str, str] = {}
        for name in _SYSCTLS:
            path = Path("/proc/sys") / name.replace(".", "/")
            if path.is_file():
                found[name] = path.read_text().strip()
        marks = ("/.dockerenv", "/run/.containerenv")
        return cls(found, any(os.path.exists(mark) for mark in marks))


def why_no_jail(said: str, machine: Machine, *, bwrap: str) -> str:
    """Return why a jail did not start and what helps, in one sentence or two.

    Args:
        said: what bubblewrap, or the program in the jail, wrote to its standard error.
        machine: facts of the machine.
        bwrap: bubblewrap's program.
    """
    last = said.strip().splitlines()[-1].split(" See <")[0] if said.strip() else "no message"
    if any(mark in said for mark in (*_NO_NAMESPACE, *_NO_MAPPING)):
        return f"user namespaces are forbidden here ({last}); {_remedy_for_namespaces(machine)}"
    if "mount proc" in said:
        return (
            f"a new /proc may not be mounted here, for parts of this one are masked, as containers do ({last}); "
            "run the container with --security-opt systempaths=unconfined, or run the host outside it"
        )
    if "nknown option" in said:
        return f"{bwrap} is too old: {last}; rmbus needs bubblewrap 0.8 or later: {_INSTALL}"
    return f"a trial jail failed: {last}"


def no_bubblewrap(bwrap: str) -> str:
    """Return why there is no jail where bubblewrap is missing, and what helps."""
    return f"bubblewrap is not installed ({bwrap} was not found); {_INSTALL}"


def _remedy_for_namespaces(machine: Machine) -> str:
    sysctls = machine.sysctls
    if sysctls.get("user.max_user_namespaces") == "0":
        return "allow them: sysctl user.max_user_namespaces=10000"
    if sysctls.get("kernel.unprivileged_userns_clone") == "0":
        return "allow them: sysctl kernel.unprivileged_userns_clone=1"
    if sysctls.get("kernel.apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor restricts them (Ubuntu 23.10 and later): give bwrap a profile with `userns,` in /etc/apparmor.d, "
            "or allow them for all: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if machine.container:
        return (
            "this is a container: start it with a seccomp profile that allows them (--security-opt seccomp=…), "
            "or run the host outside it"
        )
    return "a seccomp filter or a security module of this machine refuses them: run the host outside of it"
