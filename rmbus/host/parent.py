"""A host that somebody starts for a while: it tells them when it is up, and ends with them."""

from __future__ import annotations

import os


def watch_parent(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the parent of this process ends.

    Args:
        pid: the parent, as it was told to this process by the parent itself.

    Returns:
        None where the parent has ended already: this process has another one now.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if os.getppid() != pid:
        os.close(handle)
        return None
    return handle


def announce(pipe: int, line: str) -> bool:
    """Write a line to a pipe that somebody waits at, and close it; return whether anybody still waits."""
    try:
        with os.fdopen(pipe, "w", encoding="utf-8") as waiting:
            waiting.write(line + "\n")
    except BrokenPipeError:
        return False
    return True
