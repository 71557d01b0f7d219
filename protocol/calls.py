"""What a caller and a remote object say to each other: the value of a `Data` frame, a list that begins `[call, word]`.

`call` is the number of a call, counted by its caller from 1 up. What follows the word is in `Request` and `Reply`.
What goes to the object is a pickle, what comes back is told by `rmbus.shipping.returning`; the large buffers of either
follow, each an array of uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from rmbus.errors import MalformedFrame
from rmbus.protocol.codec import named

MAX_TEXT: Final = 60_000
"""Characters of a traceback, a message or a name."""

MAX_WINDOW: Final = 1024
"""Items of a stream that a caller may ask for ahead."""

CALLS: Final = "calls"
REPLIES: Final = "replies"
"""What the ports of both are called; at the object the number of the caller follows."""

WINDOW: Final = 64
"""Calls of one caller that may be under way at once; others wait with it."""

ASKS: Final = ("call", "get", "set", "next", "close", "state", "restore")
"""What may be asked of an object: call a method, read or set an attribute; give the next items of what a call has
given, or end it; give its state, or take one over."""

ANSWERS: Final = ("value", "flow", "item", "end", "raised")
"""What is answered: a value; that items come; an item, the end of the items; that the user's code has raised."""


_REQUEST: Final = [int, str, str, int, int, bytes]
_REPLY: Final = [int, str, str, str, str, bytes]


class Request(NamedTuple):
    """What a caller asks: `[call, word, name, limit_ms, number, pickle, *buffers]`.

    Attributes:
        word: of `ASKS`. name: of the method or attribute, else "".
        limit_ms: how long the user's code may take, 0 for ever.
        number: how many items more may come: of a `next`, and of a `call` whose outcome may be a flow.
        pickle, buffers: `(args, kwargs)` of a call, the value of an attribute, the state.
    """

    call: int
    word: str
    name: str = ""
    limit_ms: int = 0
    number: int = 0
    pickle: bytes = b""
    buffers: Sequence[Any] = ()

    def to_wire(self) -> list[Any]:
        """Return it as it is sent."""
        return [*self[:6], *self.buffers]

    @classmethod
    def of(cls, value: object) -> Request:
        """Read one.

        Raises:
            MalformedFrame: it is none.
        """
        if type(value) is not list or [*map(type, value[:6])] != _REQUEST:
            raise MalformedFrame("a call is [number, word, name, limit, number, pickle, buffers...]")
        found = named(cls, (*value[:6], value[6:]))
        if found.word not in ASKS or min(found.call, found.limit_ms, found.number) < 0 or found.number > MAX_WINDOW:
            raise MalformedFrame(f"a call asks for {found.word[:40]!r}, or a number in it is out of its range")
        return found


class Reply(NamedTuple):
    """What an object answers: `[call, word, type, message, traceback, told, *buffers]`.

    Attributes:
        word: of `ANSWERS`.
        type_name, message, traceback: of what was raised.
        told, buffers: the value, or the item, by `rmbus.shipping.returning`.
    """

    call: int
    word: str
    type_name: str = ""
    message: str = ""
    traceback: str = ""
    told: bytes = b""
    buffers: Sequence[Any] = ()

    def to_wire(self) -> list[Any]:
        """Return it as it is sent."""
        return [*self[:6], *self.buffers]

    @classmethod
    def of(cls, value: object) -> Reply:
        """Read one.

        Raises:
            MalformedFrame: it is none.
        """
        if type(value) is not list or [*map(type, value[:6])] != _REPLY:
            raise MalformedFrame("a reply is [call, word, type, message, traceback, told, buffers...]")
        found = named(cls, (*value[:6], value[6:]))
        if found.word not in ANSWERS:
            raise MalformedFrame(f"a reply says {found.word[:40]!r}, which is no answer")
        return found
