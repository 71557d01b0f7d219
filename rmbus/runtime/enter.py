"""How a process comes to an environment that others have filled.

Where it has no jail around it, it confines itself first, on the host's own interpreter, and then becomes that of the
environment: an interpreter runs what lies in its folder of modules (`.pth` files, a `sitecustomize`) as it starts, and
what is on its path would be imported by the very code that confines.

Started by a host as `python -m rmbus.runtime.enter PARENT ALLOWED -- PROGRAM…`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from rmbus.runtime import confine

IN_FORCE: Final = "RMBUS_IN_FORCE"
"""The environment variable that tells the next program what is in force."""

BOOT: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); from rmbus.runtime.process import main; main()"  # behind all others
)


def command(
    python: str, beside: str, given: Sequence[str], *, confined: bool, parent: int, allowed: confine.Allowed
) -> list[str]:
    """Return the command line of a node's process in an environment.

    Args:
        python: the environment's interpreter.
        beside: a folder of modules that comes behind the environment's own: rmbus, and what that requires.
        given: the arguments of `rmbus.runtime.process`.
        confined: whether the process has to confine itself before.
        parent: the process that it ends with.
        allowed: what it may do then, beside its level.
    """
    program = [python, "-I", "-c", BOOT, beside, *given]
    if not confined:
        return program
    return [sys.executable, "-I", "-m", "rmbus.runtime.enter", str(parent), allowed.told(), "--", *program]


def main() -> None:
    """Confine this process, and become the next program."""
    parent, told, _, *program = sys.argv[1:]
    allowed = confine.Allowed.heard(told)
    confine.die_with_parent(int(parent))
    in_force = confine.apply(
        "confined",
        readable=allowed.readable,
        writable=[os.environ["TMPDIR"], *allowed.writable],
        limits=allowed.limits,
        network=allowed.network,
        pinned=allowed.pinned,
    )
    os.execve(program[0], program, {**os.environ, IN_FORCE: json.dumps(in_force)})


if __name__ == "__main__":
    main()
