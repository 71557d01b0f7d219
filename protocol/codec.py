"""msgpack with the limits of the wire enforced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol, TypeVar, cast

import msgpack

from rmbus.errors import MalformedFrame, TooLarge
from rmbus.protocol.limits import MAX_DEPTH, MAX_ITEMS

_T = TypeVar("_T")


class _MakeNamed(Protocol):
    def __call__(self, cls: type[_T], values: Iterable[Any], /) -> _T: ...


named: Final = cast("_MakeNamed", tuple.__new__)
"""Make a named tuple of a class and its values, at half the cost of its own constructor: a frame needs three."""

_Value = Any  # msgpack's own types; validated by whoever asked


def pack(value: object) -> bytes:
    """Encode plain values (None, bool, int, float, str, bytes, list, dict) as msgpack."""
    try:
        return bytes(msgpack.packb(value, use_bin_type=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedFrame(f"cannot be written as msgpack: {error}") from error


def unpack(data: bytes | bytearray | memoryview, *, limit: int, what: str, deep: bool = True) -> _Value:
    """Decode msgpack, within the limits.

    Args:
        data: the bytes.
        limit: the greatest number of bytes that is taken.
        what: what it is, for the error.
        deep: whether the depth of it is checked here; else whoever asked checks what it takes.

    Raises:
        TooLarge: more than `limit` bytes.
        MalformedFrame: no msgpack, or nested too deep, containers too large, keys that are neither text nor whole
            numbers, or an extension type.
    """
    if len(data) > limit:
        raise TooLarge(what, len(data), limit)
    most = min(MAX_ITEMS, len(data))  # an item is a byte at least; room is made for as many as an array announces
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            object_hook=_keyed,
            ext_hook=_no_extension,
            max_array_len=most,
            max_map_len=most,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedFrame(f"{what} is no msgpack within the limits: {error}") from error
    if deep and is_deeper(value, MAX_DEPTH):
        raise MalformedFrame(f"{what} is nested deeper than {MAX_DEPTH}")
    return value


def _keyed(value: dict[Any, Any]) -> dict[Any, Any]:
    for key in value:
        if type(key) is not str and type(key) is not int:
            raise ValueError(f"a key is {type(key).__name__}, neither text nor a whole number")
    return value


def _no_extension(code: int, _: bytes) -> object:
    raise ValueError(f"extension type {code}")


_CONTAINERS = (list, dict)  # a tuple: isinstance() against `list | dict` takes five times as long


def is_deeper(value: object, depth: int) -> bool:
    """Whether containers are nested deeper than that; a value that is no container has the depth 0."""
    layer: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    while layer and depth:
        layer = [item for each in layer for item in _inside(each) if isinstance(item, _CONTAINERS)]
        depth -= 1
    return bool(layer)


def _inside(container: dict[Any, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
