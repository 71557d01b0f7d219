"""The interpreters that a host offers, and what a node's process needs of each: its files, rmbus, what that requires.

A process in an environment of its own sees, behind the environment's distributions, rmbus and its requirements as they
are installed here, by links in a folder of their own; and nothing else of the host's.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

import rmbus
from rmbus.errors import HostError
from rmbus.runtime import visible
from rmbus.shipping.content import python_tag
from rmbus.shipping.own import OWN, own_distributions

DESCRIBE_S: Final = 30.0


@attrs.frozen
class Interpreter:
    """An interpreter with an installed rmbus.

    Attributes:
        executable: its path, as it was named.
        base: the program that environments link to.
        tag: implementation and minor version, as in `cpython-3.11`.
        version: all of its version.
        release: of the rmbus that is installed there.
        paths: files and folders that a confined process reads to run on it.
        links: rmbus and what it requires, by their names in a folder of modules.
    """

    executable: str
    base: str
    tag: str
    version: str
    release: str
    paths: tuple[str, ...] = ()
    links: Mapping[str, str] = attrs.field(factory=dict[str, str])


@functools.cache
def own() -> Interpreter:
    """Return the interpreter that this process runs on."""
    return Interpreter(
        executable=sys.executable,
        base=os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
        tag=python_tag(),
        version=".".join(map(str, sys.version_info[:3])),
        release=rmbus.__version__,
        paths=visible.interpreter_paths(),
        links=_links(),
    )


def describe(executable: str) -> Interpreter:
    """Return what another interpreter of this machine says of itself. It is run; whoever names it trusts it.

    Raises:
        HostError: it cannot be run, has no rmbus, or another release of it.
    """
    try:
        done = subprocess.run(
            [executable, "-I", "-m", "rmbus.host.interpreters"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DESCRIBE_S,
            check=False,
        )
        told: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise HostError(f"the interpreter {executable} cannot be run: {error}") from error
    if told is None:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise HostError(
            f"the interpreter {executable} has no working rmbus ({last}): install it there, "
            f"{executable} -m pip install rmbus=={rmbus.__version__}"
        )
    found = Interpreter(
        executable, told["base"], told["tag"], told["version"], told["release"], tuple(told["paths"]), told["links"]
    )
    if found.release != rmbus.__version__:
        raise HostError(
            f"the interpreter {executable} has rmbus {found.release}, and this host is {rmbus.__version__}: "
            "install the same release there"
        )
    return found


def _links() -> dict[str, str]:
    """Return where rmbus and the distributions that it requires lie, by the names in their folders of modules."""
    found: dict[str, str] = {}
    for distribution in own_distributions().values():
        for file in distribution.files or ():
            top = file.parts[0]
            if top in ("..", "__pycache__") or top.endswith(".pth") or os.path.isabs(top):
                continue  # scripts, and what is done when an interpreter starts
            found.setdefault(top, str(distribution.locate_file(top)))
    found[OWN] = str(Path(rmbus.__file__).parent)  # where it is installed in place, no list says so
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(attrs.asdict(own())))
