"""Names of topics, and patterns over them."""

from __future__ import annotations

import re

from rmbus.errors import ProtocolError
from rmbus.protocol.limits import MAX_TOPIC_BYTES

_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9_.:@-]+"
_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_PATTERN = re.compile(rf"(?:(?:{_SEGMENT}|\*)/)*(?:{_SEGMENT}|\*\*?)")


def check_topic(name: str) -> str:
    """Return a topic's name if it is one.

    A name is one or more segments with a slash between; a segment is letters, digits and `_ . : @ -`, and neither `.`
    nor `..`.

    Raises:
        ProtocolError: it is not.
    """
    if len(name) > MAX_TOPIC_BYTES or not _NAME.fullmatch(name):
        raise ProtocolError(
            f"{name[: MAX_TOPIC_BYTES + 1]!r} is no topic: segments of letters, digits and _ . : @ - with / between, "
            f"{MAX_TOPIC_BYTES} bytes at most"
        )
    return name


def check_pattern(pattern: str) -> str:
    """Return a pattern over topics if it is one: a name in which a segment may be `*`, and the last one `**`.

    Raises:
        ProtocolError: it is not.
    """
    if len(pattern) > MAX_TOPIC_BYTES or not _PATTERN.fullmatch(pattern):
        raise ProtocolError(
            f"{pattern[: MAX_TOPIC_BYTES + 1]!r} is no pattern over topics: a name in which * stands for one segment, "
            "and a last ** for any number of them"
        )
    return pattern


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic matches a pattern: `*` stands for one segment, a last `**` for any number of them."""
    wanted, given = pattern.split("/"), topic.split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        if len(given) < len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))
