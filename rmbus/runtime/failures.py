"""What is told of a failure of the user's code: its type, its message and its traceback, as text that can be sent."""

from __future__ import annotations

import traceback
from pathlib import Path

from rmbus.errors import UPSTREAM_FAILED


def type_name(error: BaseException) -> str:
    """Return the name of an error's type, by which the caller finds it again."""
    kind = type(error)
    if kind.__name__ == UPSTREAM_FAILED:
        return UPSTREAM_FAILED
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException, size: int | None = None) -> str:
    """Return an error's message, as text that can be sent, also where its own `str()` fails.

    Args:
        size: of a longer one the end, of so many characters; it is cut before it is copied.
    """
    try:
        text = str(error)
    except BaseException as second:  # noqa: BLE001 - the supervisor around user code
        text = f"(its message cannot be had: str() raised {type(second).__name__})"
    return sendable(text if size is None else text[-size:])


def last_bytes(text: str, size: int) -> str:
    """Return the end of a text that is too long to be sent."""
    return text[-size:].encode()[-size:].decode(errors="ignore")


def sendable(text: str) -> str:
    """Return text with what UTF-8 cannot hold escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def describe(error: BaseException) -> str:
    """Return the traceback as text, without the frames of this runtime that stand before the user's."""
    told = traceback.TracebackException.from_exception(error)
    ours = str(Path(__file__).parent)
    while len(told.stack) > 1 and told.stack[0].filename.startswith(ours):
        del told.stack[0]
    return sendable("".join(told.format()))
