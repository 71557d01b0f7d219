"""Names of topics, and patterns over them."""

from __future__ import annotations

import re

from rmbus.errors import ProtocolError
from rmbus.protocol.limits import MAX_TOPIC_BYTES

_NAME = re.compile(r"[A-Za-z0-9_.:@-]+(/[A-Za-z0-9_.:@-]+)*")


def check_topic(name: str) -> str:
    """Return a topic's name if it is one.

    A name is one or more segments with a slash between; a segment is letters, digits and `_ . : @ -`.

    Raises:
        ProtocolError: it is not.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_TOPIC_BYTES:
        raise ProtocolError(
            f"{name!r} is no topic: segments of letters, digits and _ . : @ - with / between, "
            f"{MAX_TOPIC_BYTES} bytes at most"
        )
    return name


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic matches a pattern: `*` stands for one segment, a last `**` for any number of them."""
    wanted, given = pattern.split("/"), topic.split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        if len(given) < len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))
