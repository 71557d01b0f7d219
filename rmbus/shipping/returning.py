"""What comes back from a node's process: values told as data, which a reader makes anew himself.

It is msgpack. What msgpack does not know is an extension whose content is `[word, told]`; each word has one function
here that makes the value of what was told, and checks it. An object of a class is told by the names of its class and by
its state: the reader takes those of the user's own modules, and dataclasses, attrs classes and named tuples, where they
are imported already, makes an empty one, whose `__init__` is not run, and sets its attributes. Of the user's code only
`__setstate__`, if the class has one, and `__hash__` and `__eq__` of keys are run. Large arrays lie beside, so that they
are read in place. What is held twice comes back as two.
"""

# What has been told has no types, until it has been looked at.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import builtins
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import math
import pathlib
import re
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import MemberDescriptorType, ModuleType
from typing import Any, Final, cast

import attrs
import msgpack
import numpy as np

from rmbus import formats
from rmbus.errors import MalformedFrame, PackagingError
from rmbus.media import AudioFrame, Data, Packet, VideoFrame
from rmbus.shipping.modules import is_installed
from rmbus.shipping.pickling import OUTSIDE_BYTES
from rmbus.stamps import build

MAX_BITS: Final = 1 << 20
"""Of a whole number."""

_TOLD: Final = 0  # the code of the extension
_PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes))  # what msgpack knows
_NUMBERS: Final = frozenset("biufc")
_WORD: Final = 1 << 63
_pack: Final[Callable[[object], bytes]] = msgpack.Packer().pack  # for what is small: its room only grows
_SIMPLE: Final = re.compile(r"[<>|=]?[?biufcSUMm][0-9]*(\[[0-9a-zA-Z]*\])?")
_FRAMES: Final = {cls.__name__: cls for cls in (AudioFrame, Data, Packet, VideoFrame)}
_PATHS: Final = {cls.__name__: cls for cls in (pathlib.PosixPath, pathlib.PurePosixPath, pathlib.PureWindowsPath)}
_FACTORIES: Final[Mapping[str, type[Any]]] = {cls.__name__: cls for cls in (list, dict, set, int, float, str)}


def dump(value: object) -> tuple[bytes, list[memoryview]]:
    """Return a value as `load` reads it, and the large buffers that belong to it, in order.

    Raises:
        PackagingError: something in it cannot go back; the message names its type.
    """
    kind, writer = type(value), _Writer()
    try:
        if kind is np.ndarray:
            told = _small_array(cast("np.ndarray[Any, Any]", value))
            if told is not None:
                return told, []
        elif kind in _PLAIN and (kind is not int or -_WORD <= value < _WORD):  # type: ignore[operator]  # it is an int
            return msgpack.packb(value), []
        return writer.pack(value), writer.buffers
    except Exception as error:  # `__getstate__` is the user's code and may raise anything
        raise PackagingError(f"a value of type {type(value).__qualname__} cannot be returned: {error}") from error


def load(data: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
    """Return a value that `dump` has written, whoever wrote it.

    Args:
        data: what `dump` returned. buffers: those beside it, which arrays are then views of.

    Raises:
        PackagingError: it holds an object of a class that is not known here. MalformedFrame: it is nothing of the kind.
    """
    try:
        return _Reader(buffers).unpack(data)
    except PackagingError:
        raise
    except Exception as error:
        raise MalformedFrame(f"what has come back is no value: {type(error).__name__}: {error}") from error


def _small_array(array: np.ndarray[Any, Any]) -> bytes | None:
    """Return a contiguous array of numbers that goes within the message as `_Writer` does, by the shortest way."""
    if array.nbytes >= OUTSIDE_BYTES or array.dtype.kind not in _NUMBERS or not array.flags.c_contiguous:
        return None
    content = [array.dtype.str, list(array.shape), "C", array.tobytes()]
    return _pack(msgpack.ExtType(_TOLD, _pack(["array", content])))


class _Writer:
    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

    def pack(self, value: object) -> bytes:
        data: bytes = msgpack.packb(value, default=self._told, strict_types=True)
        return data

    def _told(self, obj: Any) -> msgpack.ExtType:
        return msgpack.ExtType(_TOLD, self.pack(list(self._say(obj))))

    def _say(self, obj: Any) -> tuple[str, Any]:
        tell = _TELL.get(type(obj))
        if tell is not None:
            word, of = tell
            return word, of(obj)
        if isinstance(obj, np.ndarray):
            return "array", self._array(np.asarray(obj))
        if isinstance(obj, np.generic):
            return "scalar", [_descr(obj.dtype), obj.tobytes()]
        if isinstance(obj, enum.Enum):
            return "member", [type(obj).__module__, type(obj).__qualname__, obj.name]
        if type(obj).__name__ in _FRAMES and type(obj) is _FRAMES[type(obj).__name__]:
            fields = {field.name: getattr(obj, field.name) for field in attrs.fields(type(obj)) if field.name[0] != "_"}
            return "frame", [type(obj).__name__, {**fields, "format": formats.to_wire(obj.format)}]
        if isinstance(obj, Exception) and vars(builtins).get(type(obj).__name__) is type(obj):
            return "exception", [type(obj).__name__, list(obj.args)]
        return "object", _object(obj)

    def _array(self, array: np.ndarray[Any, Any]) -> list[Any]:
        if array.dtype.hasobject:
            return ["O", list(array.shape), "C", array.ravel().tolist()]
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        lying = np.ascontiguousarray(array.T if order == "F" else array)
        data: Any = lying.reshape(-1).view(np.uint8).data if lying.size else b""
        if lying.nbytes < OUTSIDE_BYTES:
            return [_descr(array.dtype), list(array.shape), order, bytes(data)]
        self.buffers.append(data)
        return [_descr(array.dtype), list(array.shape), order, len(self.buffers) - 1]


def _descr(dtype: np.dtype[Any]) -> Any:
    if dtype.names is None:
        return dtype.str
    return [[name, field[0].str] for name, field in (dtype.fields or {}).items()]


def _object(obj: Any) -> list[Any]:
    """Return what an object is told by: module, name, builtin base and its content, attributes, slots, state."""
    cls: Any = type(obj)
    if isinstance(obj, type | ModuleType) or (callable(obj) and not _is_local(cls.__module__)):
        raise TypeError(f"{obj!r:.100} is code, and what comes back is values")
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} has a `__reduce__` of its own: return plain values")
    state = obj.__reduce_ex__(5)[2]  # which raises where there is more to an object than it could tell
    base = next((kind for kind in _BASES if isinstance(obj, kind)), None)
    told = [
        cls.__module__,
        cls.__qualname__,
        "" if base is None else base.__name__,
        None if base is None else base(obj),
    ]
    if hasattr(cls, "__setstate__"):
        return [*told, None, None, [state]]
    attributes, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    return [*told, attributes, slots, None]


class _Reader:
    def __init__(self, buffers: Sequence[Any]) -> None:
        self._buffers = buffers

    def unpack(self, data: bytes | memoryview) -> Any:
        return msgpack.unpackb(data, ext_hook=self._made, strict_map_key=False, raw=False)

    def _made(self, code: int, data: bytes) -> Any:
        found = self.unpack(data)
        if code != _TOLD or type(found) is not list or len(found) != 2:
            raise MalformedFrame("an extension is none of a value")
        word, told = found
        if word == "array":
            return self._array(*told)
        return _MAKE[word](told)

    def _array(self, descr: Any, shape: list[int], order: str, content: Any) -> Any:
        lengths = [*map(_whole, shape)]
        if descr == "O":
            array = np.empty(len(content), object)
            array[:] = content
            return array.reshape(lengths)
        dtype = _dtype(descr)
        if type(content) is int:
            raw = self._buffers[_whole(content)]
            size = memoryview(raw).nbytes
        else:
            raw = bytearray(_exactly(bytes, content))  # which can be written to, as the array that was told of
            size = len(raw)
        if math.prod(lengths) * dtype.itemsize != size:
            raise MalformedFrame("an array has other bytes than its shape says")
        flat = np.frombuffer(raw, dtype) if size else np.zeros(0, dtype)
        return flat.reshape(lengths[::-1]).T if order == "F" else flat.reshape(lengths)


@functools.lru_cache(maxsize=64)
def _simple_dtype(name: str) -> np.dtype[Any]:
    if not _SIMPLE.fullmatch(name):
        raise MalformedFrame(f"an array of type {name[:40]!r}")
    return np.dtype(name)


def _dtype(descr: Any) -> np.dtype[Any]:
    """Return a type of plain numbers, flags, text and times, or of named ones side by side."""
    if type(descr) is str:
        return _simple_dtype(descr)
    return np.dtype([(_exactly(str, name), _dtype(_exactly(str, kind))) for name, kind in descr])


def _scalar(told: Any) -> Any:
    descr, data = told
    return np.frombuffer(_exactly(bytes, data), _dtype(descr))[0]


def _exactly(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise MalformedFrame(f"{type(value).__name__} where {kind.__name__} is due")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise MalformedFrame("a size that is none")
    return value


def _int(told: Any) -> int:
    if len(_exactly(str, told)) > MAX_BITS // 4:
        raise MalformedFrame("a whole number is too large")
    return int(told, 16)


def _say_int(value: int) -> str:
    if value.bit_length() >= MAX_BITS - 8:
        raise ValueError(f"a whole number of {value.bit_length()} bits is too large")
    return hex(value)


def _zone(offset: Any) -> datetime.timezone | None:
    return None if offset is None else datetime.timezone(datetime.timedelta(seconds=offset))


def _say_time(value: datetime.datetime | datetime.time) -> list[Any]:
    if value.tzinfo is not None and type(value.tzinfo) is not datetime.timezone:
        raise TypeError(f"a time of the zone {value.tzinfo!r}: give its offset, astimezone(datetime.timezone.utc) say")
    offset = value.utcoffset()
    return [value.replace(tzinfo=None).isoformat(), value.fold, None if offset is None else offset.total_seconds()]


def _exception(told: Any) -> Exception:
    name, args = told
    cls = vars(builtins).get(_exactly(str, name))
    if not isinstance(cls, type) or not issubclass(cls, Exception):
        raise MalformedFrame("an exception that is none")
    return cls(*_exactly(list, args))


def _frame(told: Any) -> Any:
    name, fields = told
    cls: type[Any] = _FRAMES[_exactly(str, name)]
    names = {field.name for field in attrs.fields(cls) if field.name[0] != "_"}
    if set(fields) != names:
        raise MalformedFrame("a frame has other fields than it should")
    return build(cls, {**fields, "format": formats.from_wire(fields["format"])}, {})


def _member(told: Any) -> Any:
    module, name, member = told
    cls = _class(module, name)
    if not issubclass(cls, enum.Enum) or not isinstance(member, str) or member not in cls.__members__:
        raise PackagingError(f"{module}.{name} has no member {member!r:.100} here")
    return cls.__members__[member]


def _made_object(told: Any) -> Any:
    """Return an object of a class that is known here, with its attributes."""
    module, name, base, content, attributes, slots, state = told
    cls = _class(module, name)
    made = _empty(cls, base, content)
    if state is not None:
        made.__setstate__(state[0])
        return made
    if attributes is not None:
        vars(made).update({_exactly(str, key): value for key, value in _exactly(dict, attributes).items()})
    for key, value in _exactly(dict, slots).items() if slots is not None else ():
        descriptor = next((vars(each)[key] for each in cls.__mro__ if key in vars(each)), None)
        if not isinstance(descriptor, MemberDescriptorType):
            raise MalformedFrame(f"{module}.{name} has no slot {key!r:.100}")
        descriptor.__set__(made, value)
    return made


def _empty(cls: type[Any], base: Any, content: Any) -> Any:
    for kind, fill in _BASES.items():
        if issubclass(cls, kind):
            if kind.__name__ != base:
                break
            _exactly(kind, content)
            new: Callable[..., Any] = kind.__new__
            if fill is None:
                return new(cls, content)
            made = new(cls)
            fill(made, content)
            return made
    if base or issubclass(cls, enum.Enum):
        raise MalformedFrame(f"an object of {cls.__name__} is not made so")
    return object.__new__(cls)


def _class(module: object, name: object) -> type[Any]:
    """Return a class that is imported here already, and of which an object may be made from what has come back."""
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    for part in name.split(".") if isinstance(name, str) else [""]:
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None
    if not isinstance(found, type) or found.__module__ != module:
        raise PackagingError(
            f"an object of {module}.{name} has come back, and that class is not known here: import its module first"
        )
    if not (_is_record(found) or _is_local(found.__module__)):
        raise PackagingError(
            f"an object of {module}.{name} has come back, a class of a library: return plain values, arrays, "
            "dataclasses, or objects of your own classes"
        )
    if hasattr(found, "__del__"):
        raise PackagingError(f"{module}.{name} has a `__del__`, which is not run on what has come back")
    return found


def _is_record(cls: type[Any]) -> bool:
    """Whether a class is nothing but named fields."""
    is_named_tuple = tuple in cls.__mro__ and hasattr(cls, "_fields")
    return not hasattr(cls, "__call__") and (dataclasses.is_dataclass(cls) or attrs.has(cls) or is_named_tuple)  # noqa: B004 - of its objects


def _is_local(module: str) -> bool:
    """Whether a module is the user's own."""
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    top = module.partition(".")[0]
    return file is not None and top != "rmbus" and top not in sys.stdlib_module_names and not is_installed(file)


_BASES: Final[Mapping[type[Any], Callable[[Any, Any], None] | None]] = {
    tuple: None,
    str: None,
    bytes: None,
    int: None,
    float: None,
    frozenset: None,
    list: lambda made, content: list.extend(made, content),
    dict: lambda made, content: dict.update(made, content),
    set: lambda made, content: set.update(made, content),
}
"""Builtin types that classes derive from, and how one whose objects can change is filled."""

_TELL: Final[Mapping[type[Any], tuple[str, Callable[[Any], Any]]]] = {
    tuple: ("tuple", list),
    set: ("set", list),
    frozenset: ("frozenset", list),
    int: ("int", _say_int),
    complex: ("complex", lambda value: [value.real, value.imag]),
    slice: ("slice", lambda value: [value.start, value.stop, value.step]),
    range: ("range", lambda value: [value.start, value.stop, value.step]),
    type(...): ("ellipsis", lambda value: None),
    datetime.datetime: ("datetime", _say_time),
    datetime.time: ("time", _say_time),
    datetime.date: ("date", lambda value: value.isoformat()),
    datetime.timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    datetime.timezone: ("timezone", lambda value: value.utcoffset(None).total_seconds()),
    decimal.Decimal: ("decimal", str),
    fractions.Fraction: ("fraction", lambda value: [value.numerator, value.denominator]),
    uuid.UUID: ("uuid", lambda value: value.bytes),
    collections.OrderedDict: ("ordered", lambda value: [list(item) for item in value.items()]),
    collections.Counter: ("counter", dict),
    collections.deque: ("deque", lambda value: [list(value), value.maxlen]),
    collections.defaultdict: ("defaultdict", lambda value: [_factory(value.default_factory), dict(value)]),
    **{cls: ("path", lambda value: [type(value).__name__, str(value)]) for cls in _PATHS.values()},
}
"""By the exact type: the word, and what is told."""


def _factory(factory: Any) -> str | None:
    if factory is None or _FACTORIES.get(getattr(factory, "__name__", "")) is factory:
        return None if factory is None else str(factory.__name__)
    raise TypeError(f"a defaultdict of {factory!r:.100}")


_MAKE: Final[Mapping[str, Callable[[Any], Any]]] = {
    "tuple": lambda told: tuple(_exactly(list, told)),
    "set": lambda told: set(_exactly(list, told)),
    "frozenset": lambda told: frozenset(_exactly(list, told)),
    "int": _int,
    "complex": lambda told: complex(_exactly(float, told[0]), _exactly(float, told[1])),
    "slice": lambda told: slice(*_exactly(list, told)),
    "range": lambda told: range(*(_exactly(int, each) for each in told)),
    "ellipsis": lambda told: ...,
    "datetime": lambda told: datetime.datetime.fromisoformat(told[0]).replace(fold=told[1], tzinfo=_zone(told[2])),
    "time": lambda told: datetime.time.fromisoformat(told[0]).replace(fold=told[1], tzinfo=_zone(told[2])),
    "date": lambda told: datetime.date.fromisoformat(told),
    "timedelta": lambda told: datetime.timedelta(told[0], told[1], told[2]),
    "timezone": _zone,
    "decimal": lambda told: decimal.Decimal(_exactly(str, told)),
    "fraction": lambda told: fractions.Fraction(_exactly(int, told[0]), _exactly(int, told[1])),
    "uuid": lambda told: uuid.UUID(bytes=_exactly(bytes, told)),
    "ordered": lambda told: collections.OrderedDict((key, value) for key, value in told),
    "counter": lambda told: collections.Counter(_exactly(dict, told)),
    "deque": lambda told: collections.deque(_exactly(list, told[0]), told[1]),
    "defaultdict": lambda told: collections.defaultdict(
        None if told[0] is None else _FACTORIES[told[0]], _exactly(dict, told[1])
    ),
    "path": lambda told: _PATHS[told[0]](_exactly(str, told[1])),
    "scalar": _scalar,
    "exception": _exception,
    "frame": _frame,
    "member": _member,
    "object": _made_object,
}
"""By the word: what makes a value of what was told."""
