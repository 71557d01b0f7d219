"""What a process prints, and a host: cut into lines and rate-limited, with the number of lines held back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

from rmbus.errors import UnsupportedVersion

LINES_PER_SECOND: Final = 200
BURST_LINES: Final = 400
MAX_LINE_BYTES: Final = 8192


class LineLimiter:
    """Turns bytes into lines; after a burst only `LINES_PER_SECOND` pass, the rest is counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = float(BURST_LINES)
        self._filled = clock()
        self._rest = b""
        self._suppressed = 0

    def feed(self, data: bytes) -> tuple[list[str], int]:
        """Take bytes.

        Returns:
            The lines that pass, and how many were held back since a line last passed (told once a line passes).
        """
        *whole, rest = (self._rest + data).split(b"\n")
        pieces = [piece for line in whole for piece in _pieces(line)]
        *full, self._rest = _pieces(rest)
        return self._pass(pieces + full)

    def finish(self) -> tuple[list[str], int]:
        """The process has ended: return an unfinished last line, and what is still to be told."""
        last, self._rest = self._rest, b""
        lines, suppressed = self._pass([last] if last else [])
        return lines, suppressed + self.take_suppressed()

    def take_suppressed(self) -> int:
        """Return how many lines were held back and not told of, and count anew."""
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed

    def _pass(self, whole: list[bytes]) -> tuple[list[str], int]:
        now = self._clock()
        self._tokens = min(float(BURST_LINES), self._tokens + (now - self._filled) * LINES_PER_SECOND)
        self._filled = now
        count = min(len(whole), int(self._tokens))
        self._tokens -= count
        told = self._suppressed if count else 0
        self._suppressed += len(whole) - count - told
        return [line.decode(errors="replace").rstrip("\r") for line in whole[:count]], told


def _pieces(line: bytes) -> list[bytes]:
    """Return a line, in pieces of the greatest length where it is longer."""
    return [line[place : place + MAX_LINE_BYTES] for place in range(0, len(line), MAX_LINE_BYTES)] or [b""]


_own: Final = LineLimiter()


def tell_owner(text: str) -> None:
    """Say something on one line to whoever runs this host; of too many lines the rest is counted."""
    line = "".join(each if each.isprintable() else " " for each in text)
    lines, suppressed = _own.feed(f"rmbus host: {line}\n".encode(errors="backslashreplace"))
    told = [f"rmbus host: ({suppressed} lines were held back)", *lines] if suppressed else lines
    for each in told:
        sys.stderr.write(f"{each}\n")


def tell_refusal(type_name: str, message: str, whose: str = "a client") -> None:
    """Say to the owner that code or a client of another version was refused; other errors are the client's alone."""
    if type_name in (UnsupportedVersion.__name__, f"{UnsupportedVersion.__module__}.{UnsupportedVersion.__name__}"):
        tell_owner(f"{whose} was refused: {message}")
