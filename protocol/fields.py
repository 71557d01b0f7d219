"""What the values of a message's fields may be, beyond their types: attrs validators that raise `MalformedFrame`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

import attrs

from rmbus.errors import MalformedFrame
from rmbus.protocol.limits import (
    MAX_COUNTS,
    MAX_NAME_BYTES,
    MAX_NEEDED,
    MAX_NEEDED_BYTES,
    MAX_TOKEN_BYTES,
    MIN_TOKEN_BYTES,
)
from rmbus.protocol.topics import check_pattern, check_topic

Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]

_SESSION: Final = re.compile(r"[0-9A-Za-z_-]{0,64}")
_KEY: Final = re.compile(rf"[0-9a-f]{{0,{2 * MAX_TOKEN_BYTES}}}")
_ADDRESS: Final = re.compile(r"([0-9a-f]{64})?")
_CACHE: Final = re.compile(r"([0-9A-Za-z][0-9A-Za-z._-]{0,63})?")


def number(low: int, high: int) -> Check:
    """Return the check of a whole number in a range, its ends included."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: int) -> None:
        if not low <= value <= high:
            raise MalformedFrame(f"{attribute.name} is {value}, and may be {low} to {high}")

    return check


def amount(most: float) -> Check:
    """Return the check of a finite number from 0 up."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: float) -> None:
        if not (math.isfinite(value) and 0 <= value <= most):
            raise MalformedFrame(f"{attribute.name} is {value}, and may be 0 to {most:g}")

    return check


def one_of(*words: str) -> Check:
    """Return the check of a word."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
        if value not in words:
            raise MalformedFrame(f"{attribute.name} is {value[:MAX_NAME_BYTES]!r}, and may be {', '.join(words)}")

    return check


def counts(_: Any, attribute: attrs.Attribute[Any], value: list[int]) -> None:
    """Check what an end of an edge has counted."""
    if len(value) > MAX_COUNTS or not all(0 <= count < 1 << 64 for count in value):
        raise MalformedFrame(f"{attribute.name} are up to {MAX_COUNTS} numbers from 0 up, of 64 bits")


def session(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """Check the name of a session, from which names of files are made."""
    if not _SESSION.fullmatch(value):
        raise MalformedFrame(f"{attribute.name} {value[:80]!r} is not letters, digits, _ and -, 64 at most")


def address(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """Check a content address; none at all passes."""
    if not _ADDRESS.fullmatch(value):
        raise MalformedFrame(f"{attribute.name} {value[:80]!r} is no content address, 64 hex digits in lower case")


def name(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """Check the length of a name."""
    if len(value.encode(errors="replace")) > MAX_NAME_BYTES:
        raise MalformedFrame(f"{attribute.name} {value[:40]!r}… is longer than {MAX_NAME_BYTES} bytes")


def token(_: Any, attribute: attrs.Attribute[Any], value: bytes) -> None:
    """Check the length of an edge's token."""
    if not MIN_TOKEN_BYTES <= len(value) <= MAX_TOKEN_BYTES:
        raise MalformedFrame(f"{attribute.name} has {len(value)} bytes, and has {MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES}")


def key(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """Check the form of a shared key in hex; none at all passes. The key itself is in no error."""
    if not _KEY.fullmatch(value):
        raise MalformedFrame(f"{attribute.name} is not hex digits in lower case, {2 * MAX_TOKEN_BYTES} at most")


def topic(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """Check the name of a topic."""
    check_topic(value)


def topics(_: Any, attribute: attrs.Attribute[Any], value: dict[str, str]) -> None:
    """Check a map from ports to topics."""
    for topic in value.values():
        check_topic(topic)


def patterns(_: Any, attribute: attrs.Attribute[Any], value: dict[str, str]) -> None:
    """Check a map from ports to patterns over topics."""
    for pattern in value.values():
        check_pattern(pattern)


def pattern(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """Check a pattern over topics."""
    check_pattern(value)


def cache(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """Check the name of a cache, which becomes that of a folder; none at all passes."""
    if not _CACHE.fullmatch(value):
        raise MalformedFrame(
            f"{attribute.name} {value[:80]!r} is not letters, digits, _, - and ., a letter or digit first, 64 at most"
        )


def needed(_: Any, attribute: attrs.Attribute[Any], value: list[str]) -> None:
    """Check a list of what is needed: how many, and how long each may be."""
    if len(value) > MAX_NEEDED:
        raise MalformedFrame(f"{attribute.name} names {len(value)} things, and may name {MAX_NEEDED}")
    for each in value:
        if not each or "\0" in each or len(each.encode(errors="replace")) > MAX_NEEDED_BYTES:
            raise MalformedFrame(f"{attribute.name} holds {each[:40]!r}: it is empty, or over {MAX_NEEDED_BYTES} bytes")
