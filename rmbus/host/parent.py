"""A host that somebody starts for a while ends with whoever started it."""

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
