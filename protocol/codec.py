"""msgpack with the limits of the wire enforced."""

from __future__ import annotations

from typing import Any

import msgpack

from rmbus.errors import MalformedFrame, TooLarge
from rmbus.protocol.limits import MAX_DEPTH, MAX_ITEMS

_Value = Any  # msgpack's own types; validated by whoever asked


def pack(value: object) -> bytes:
    """Encode plain values (None, bool, int, float, str, bytes, list, dict) as msgpack."""
    try:
        return bytes(msgpack.packb(value, use_bin_type=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedFrame(f"cannot be written as msgpack: {error}") from error


def unpack(data: bytes | memoryview, *, limit: int, what: str) -> _Value:
    """Decode msgpack, within the limits.

    Args:
        data: the bytes.
        limit: the greatest number of bytes that is taken.
        what: what it is, for the error.

    Raises:
        TooLarge: more than `limit` bytes.
        MalformedFrame: no msgpack, or nested too deep, or containers too large.
    """
    if len(data) > limit:
        raise TooLarge(what, len(data), limit)
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedFrame(f"{what} is no msgpack within the limits: {error}") from error
    if _depth(value) > MAX_DEPTH:
        raise MalformedFrame(f"{what} is nested deeper than {MAX_DEPTH}")
    return value


def _depth(value: object) -> int:
    level, layer = 0, [value]
    while layer and level <= MAX_DEPTH:
        below: list[object] = []
        for item in layer:
            if isinstance(item, dict):
                below += [v for v in item.values() if isinstance(v, dict | list)]
            elif isinstance(item, list):
                below += [v for v in item if isinstance(v, dict | list)]
        level, layer = level + 1, below
    return level
