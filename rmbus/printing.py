"""What others have printed, on this terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # code from elsewhere does not get at the terminal


def plain(text: str) -> str:
    """Return text of somebody else's without what a terminal would obey."""
    return _CONTROL.sub("?", text)


def print_line(where: str, line: str) -> None:
    """Print a line that comes from somewhere else to standard error."""
    sys.stderr.write(f"{where} | {plain(line)}\n")


def print_log(node: str, host: str, lines: Sequence[str], suppressed: int) -> None:
    """Print what a node printed to standard error, prefixed with `node@host`."""
    for line in lines:
        print_line(f"{node}@{host}", line)
    if suppressed:
        sys.stderr.write(f"{node}@{host} | … {suppressed} lines suppressed (more than a few hundred a second)\n")
