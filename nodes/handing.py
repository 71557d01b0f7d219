"""What goes between a node and the process that executes code for it: messages of a head and a value.

A message is a header (two sizes), the head in msgpack, and the value as the payload of `Data` (`rmbus.values`). The
process loads numpy only where there are arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

import msgpack

HEADER: Final = struct.Struct("!IQ")

_REFUSED: Final = (TypeError, ValueError, OverflowError, RecursionError)


def message(head: Mapping[str, object], value: object = None) -> bytes:
    """Return a message.

    Raises:
        FormatError: something in the value cannot travel; its path is named.
    """
    length, payload = _dumped(value)
    packed = msgpack.packb({**head, "length": length})
    return b"".join((HEADER.pack(len(packed), len(payload)), packed, payload))


def value_of(head: Mapping[str, Any], payload: bytes | memoryview) -> object:
    """Return the value of a message. Not for messages of strangers: see `rmbus.values.load`."""
    length = head["length"]
    if length is None:
        plain: object = msgpack.unpackb(payload, raw=False, strict_map_key=False)
        return plain
    from rmbus import values

    return values.load(length, payload)


def _dumped(value: object) -> tuple[int | None, bytes]:
    try:
        return None, msgpack.packb(value)
    except _REFUSED:
        from rmbus import values

        length, payload = values.dump(value)
        return length, bytes(payload)
