"""The payload of `Data`: msgpack, with the bytes of its arrays behind it, each at a multiple of 64.

An array is an extension of type 1 in the msgpack: `[dtype, shape, offset]`, the offset counted from the first multiple
of 64 behind the msgpack. So an array is read in place, without a copy.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import attrs
import msgpack
import numpy as np
from numpy.typing import NDArray

from rmbus.copying import LARGE_BYTES, address, copy_into, roomy
from rmbus.errors import FormatError, MalformedFrame
from rmbus.protocol.lane import Buffer

_Array = NDArray[Any]

_ARRAY = 1
_ALIGN = 64
_KINDS = "biufcSUMm"  # plain numbers, flags, text and times; never objects, never records
_MAX_AXES = 32
_REFUSED = (TypeError, ValueError, OverflowError, RecursionError)


class Draft:
    """A payload with arrays in it that is not written yet, so that it can be written where it is wanted."""

    def __init__(self, head: bytes, arrays: list[_Array], places: list[int]) -> None:
        self._head, self._arrays, self._places = head, arrays, places
        self._start = _aligned(len(head))

    def __len__(self) -> int:
        return self._start + self._places[-1]

    def __bytes__(self) -> bytes:
        whole = bytearray(len(self))
        self.write(memoryview(whole))
        return bytes(whole)

    def lies_in(self, room: _Array) -> bool:
        """Whether the payload is what lies in a room, uint8[length]: the same msgpack, and the very same arrays."""
        head, begin = self._head, address(room) + self._start
        if bytes(room[: len(head)]) != head:
            return False
        return all(address(array) == begin + at for array, at in zip(self._arrays, self._places, strict=False))

    def write(self, into: memoryview) -> None:
        """Write the payload, as many bytes as it is long; what lies between its arrays is left as it is."""
        head, start = self._head, self._start
        into[: len(head)] = head
        for array, place in zip(self._arrays, self._places, strict=False):
            copy_into(into[start + place : start + place + array.nbytes], array.reshape(-1).view(np.uint8).data)


def dump(value: object) -> tuple[int | None, bytes | Draft]:
    """Return how many bytes of the payload are msgpack, None for all of them, and the payload.

    Raises:
        FormatError: something in the value cannot travel; its path is named.
    """
    arrays: list[_Array] = []
    places = [0]

    def other(item: object) -> object:
        array = _sound_array(item)
        if array is None:
            return _plain(item)
        if array.nbytes >= LARGE_BYTES:
            places[-1] = roomy(places[-1])
        arrays.append(array)
        places.append(_aligned(places[-1] + array.nbytes))
        return msgpack.ExtType(_ARRAY, msgpack.packb([array.dtype.str, list(array.shape), places[-2]]))

    try:
        head = msgpack.packb(value, default=other)
    except _REFUSED as error:
        raise FormatError(_blame(value, str(error))) from error
    if not arrays:
        return None, head
    return len(head), Draft(head, arrays, places)


def load(length: object, payload: Buffer) -> object:
    """Return the value; its arrays are read-only views of the payload.

    Args:
        length: how many bytes of the payload are msgpack, None for all.
        payload: the payload; it must not change while the value lives.

    Raises:
        MalformedFrame: the payload is none of this form.
    """
    if length is None and type(payload) is bytes and payload:
        try:
            return msgpack.unpackb(payload, raw=False, strict_map_key=False, ext_hook=_alone)
        except (*_REFUSED, msgpack.UnpackException, MemoryError) as error:
            raise _no_msgpack(error) from error
    view = memoryview(payload).toreadonly()
    if length is None:
        length = len(view)
    if type(length) is not int or not 0 < length <= len(view):
        raise MalformedFrame(f"the payload of data has {len(view)} bytes, and {length!r} of them would be msgpack")
    # What lies in shared memory its producer can change while it is read: the structure is read from a copy.
    head = view[:length] if isinstance(payload, bytes) else bytes(view[:length])
    behind = view[_aligned(length) :]

    def extension(code: int, data: bytes) -> object:
        return _array_in(data, behind) if code == _ARRAY else msgpack.ExtType(code, data)

    try:
        value: object = msgpack.unpackb(head, raw=False, strict_map_key=False, ext_hook=extension)
    except (*_REFUSED, msgpack.UnpackException, MemoryError) as error:
        raise _no_msgpack(error) from error
    return value


def _alone(code: int, data: bytes) -> object:
    """Return an extension of a value behind which no arrays lie."""
    return _array_in(data, memoryview(b"")) if code == _ARRAY else msgpack.ExtType(code, data)


def _no_msgpack(error: BaseException) -> MalformedFrame:
    return MalformedFrame(f"the payload of data is no msgpack: {error}")


def _aligned(place: int) -> int:
    return -(-place // _ALIGN) * _ALIGN


def _sound_array(item: object) -> _Array | None:
    if not isinstance(item, np.ndarray):
        return None
    array = cast("_Array", item)
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"an array of type {array.dtype} cannot travel, only numbers, text and times")
    return np.ascontiguousarray(array).reshape(array.shape)  # which makes one axis of none


def _array_in(about: bytes, behind: memoryview) -> _Array:
    name, shape, offset = _array_fields(msgpack.unpackb(about))
    try:
        dtype: np.dtype[Any] = np.dtype(name)
    except SyntaxError as error:  # numpy reads some names as Python
        raise MalformedFrame(f"an array in data has the type {name!r}, which is none") from error
    if dtype.kind not in _KINDS:
        raise MalformedFrame(f"an array in data has the type {name!r}, which is neither numbers, text nor times")
    size = math.prod(shape) * dtype.itemsize
    if offset + size > len(behind):
        raise MalformedFrame(f"an array in data needs {size} bytes at {offset}, and there are {len(behind)}")
    if not size:
        return np.zeros(shape, dtype)
    array: _Array = np.ndarray(shape, dtype, cast("Any", behind), offset)
    if not array.flags.aligned:
        array = array.copy()
        array.setflags(write=False)
    return array


def _array_fields(about: Any) -> tuple[str, list[int], int]:
    fields: list[Any] = [*about] if isinstance(about, list) else []
    if len(fields) < 3:
        raise MalformedFrame("an array in data is [dtype, shape, offset]")
    name, shape, offset = fields[:3]
    if not isinstance(name, str) or not 2 <= len(name) <= 64 or type(offset) is not int or offset < 0:
        raise MalformedFrame("the dtype of an array in data is a name, its offset a whole number")
    lengths: list[Any] = [*shape] if isinstance(shape, list) else [None]
    if len(lengths) > _MAX_AXES or not all(type(n) is int and 0 <= n < 1 << 62 for n in lengths):
        raise MalformedFrame(f"the shape of an array in data is a list of at most {_MAX_AXES} whole numbers")
    return name, lengths, offset


def _plain(item: object) -> object:
    """Return what msgpack knows for what it does not know."""
    if isinstance(item, np.generic):
        return cast("Any", item).item()
    if isinstance(item, int):
        raise TypeError("a whole number over 64 bits cannot travel")
    fields = _fields(item)
    if fields is None:
        raise TypeError(f"a value of type {type(item).__name__} cannot travel")
    return fields


def _fields(item: object) -> dict[str, object] | None:
    cls = cast("type[Any]", type(item))
    if attrs.has(cls):
        return {field.name: getattr(item, field.name) for field in attrs.fields(cls)}
    if dataclasses.is_dataclass(cls):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(cls)}
    return None


def _blame(value: object, error: str) -> str:
    """Say what in the value cannot travel, and where in it."""
    path, depth = "value", 0
    while depth < 100:
        for where, item in _inside(value, path):
            said = _refusal(item)
            if said is not None:
                path, value, error, depth = where, item, said, depth + 1
                break
        else:
            break
    return f"Data cannot be sent: {path}: {error}; use plain values, arrays, attrs classes or dataclasses"


def _inside(value: object, path: str) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [(f"{path}[{key!r}]", item) for key, item in cast("dict[object, object]", value).items()]
    if isinstance(value, list | tuple):
        return [(f"{path}[{at}]", item) for at, item in enumerate(cast("list[object]", value))]
    return [(f"{path}.{name}", item) for name, item in (_fields(value) or {}).items()]


def _refusal(value: object) -> str | None:
    def other(item: object) -> object:
        return None if _sound_array(item) is not None else _plain(item)

    try:
        msgpack.packb(value, default=other)
    except _REFUSED as error:
        return str(error)
    return None
