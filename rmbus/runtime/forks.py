"""What a forked child must leave alone: sockets and locks that its parent goes on using."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Opened(Protocol):
    """What was opened by one process, and is of no use in its children."""

    def disown(self) -> None:
        """This is a child now: whatever is done here must not reach what is the parent's."""
        ...


_opened: weakref.WeakSet[Opened] = weakref.WeakSet()


def own(opened: Opened) -> None:
    """Note what belongs to this process alone."""
    _opened.add(opened)


def _forked() -> None:
    for each in list(_opened):
        each.disown()
    _opened.clear()


os.register_at_fork(after_in_child=_forked)
