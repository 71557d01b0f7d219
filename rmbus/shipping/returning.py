"""What comes back from a node's process: values as pickles that run nothing where they are read.

The node's side tells every object of a class that is not plain data by the names of its class and by its state. The
reader knows a list of types of the standard library and of numpy. Of other classes it takes those of the user's own
modules, and dataclasses, attrs classes and named tuples, where they are imported already: it makes an empty object,
whose `__init__` is not run, and sets the state. No other name is looked up, and nothing is imported. Large buffers lie
beside the pickle (protocol 5, PEP 574), so that an array is read in place.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import io
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final, cast

import attrs
import numpy as np

from rmbus.errors import MalformedFrame, PackagingError
from rmbus.shipping.modules import is_installed
from rmbus.shipping.pickling import OUTSIDE_BYTES, whole
from rmbus.shipping.plain import PLAIN

_EXCEPTIONS: Final = tuple(
    name for name, found in vars(builtins).items() if isinstance(found, type) and issubclass(found, Exception)
)
_KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    **PLAIN,
    "builtins": (*PLAIN["builtins"], *_EXCEPTIONS, "Ellipsis", "NotImplemented"),
    "pathlib": ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path", "PurePath"),
    "rmbus.media": ("AudioFrame", "Data", "Packet", "VideoFrame"),
    "rmbus.stamps": ("build",),
    "uuid": (*PLAIN["uuid"], "SafeUUID"),
}
"""What a pickle that has come back may look up: types and functions that make a value of what they are given."""


def dump(value: object) -> tuple[bytes, list[memoryview]]:
    """Return a value as a pickle that `load` reads, and the large buffers that belong to it, in order.

    Raises:
        PackagingError: something in it cannot go back; the message names its type.
    """
    file = io.BytesIO()
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUTSIDE_BYTES:
            return True
        buffers.append(raw)
        return False

    try:
        _Pickler(file, protocol=5, buffer_callback=keep).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise PackagingError(f"a value of type {type(value).__qualname__} cannot be returned: {error}") from error
    return file.getvalue(), buffers


def load(data: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
    """Return a value that `dump` has written, whoever wrote it: nothing of it is run.

    Args:
        data: the pickle. buffers: those beside it, which arrays are then views of.

    Raises:
        PackagingError: it holds an object of a class that is not known here. MalformedFrame: it is no such pickle.
    """
    try:
        return _Unpickler(io.BytesIO(data), buffers=buffers).load()
    except PackagingError:
        raise
    except Exception as error:
        raise MalformedFrame(f"what has come back is no value: {type(error).__name__}: {error}") from error


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        cls = cast("type[Any]", type(obj))
        if isinstance(obj, _CODE):
            if _is_plain(obj) or obj in _MAKERS.values():
                return NotImplemented
            raise pickle.PicklingError(f"{obj!r:.100} is code, and what comes back is values")
        if cls is np.ndarray:
            return whole(cast("np.ndarray[Any, Any]", obj))
        if isinstance(obj, enum.Enum):
            return _member, (cls.__module__, cls.__qualname__, obj.name)
        if _is_plain(cls) or not _is_told_by_state(cls):
            return NotImplemented  # what it names is looked up by the reader, who knows what it may
        state = obj.__reduce_ex__(5)[2]  # which raises where there is more to an object than it could tell
        return _empty, (cls.__module__, cls.__qualname__, *_content(obj)), state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name in _MAKERS:
            return _MAKERS[name]
        if name in _KNOWN.get(module, ()):
            return super().find_class(module, name)
        raise PackagingError(
            f"a value of type {module}.{name} has come back, which is neither plain data nor of a class that takes its "
            "state by attributes: return plain values, arrays, dataclasses, or objects without `__reduce__`"
        )


def _is_plain(code: Any) -> bool:
    return getattr(code, "__qualname__", "") in _KNOWN.get(getattr(code, "__module__", ""), ())


def _is_told_by_state(cls: type) -> bool:
    code: Any = cls
    return code.__reduce_ex__ is _REDUCE_EX and code.__reduce__ is _REDUCE


def _content(obj: object) -> tuple[object, ...]:
    """Return what an object of a subclass of a builtin type holds beside its attributes, a named tuple's fields say."""
    for base in _BASES:
        if isinstance(obj, base):
            return base.__name__, base(obj)
    return ()


def _member(module: object, name: object, member: object) -> Any:
    """Return a member of an enumeration that is known here."""
    cls = _class(module, name)
    if not issubclass(cls, enum.Enum) or not isinstance(member, str) or member not in cls.__members__:
        raise PackagingError(f"{module}.{name} has no member {member!r:.100} here")
    return cls.__members__[member]


def _empty(module: object, name: object, base: object = "", content: Any = None) -> Any:
    """Return an object of a class that is known here, whose state is still to be set."""
    cls = _class(module, name)
    if not _is_told_by_state(cls) or issubclass(cls, enum.Enum):
        raise PackagingError(f"an object of {module}.{name} is not made of its attributes alone: return plain values")
    for kind, fill in _BASES.items():
        if kind.__name__ == base and issubclass(cls, kind):
            new: Callable[..., Any] = kind.__new__
            if fill is None:
                return new(cls, content)
            made = new(cls)
            fill(made, content)
            return made
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
    return dataclasses.is_dataclass(cls) or attrs.has(cls) or is_named_tuple


def _is_local(module: str) -> bool:
    """Whether a module is the user's own."""
    if module == "__main__":
        return True
    file = getattr(sys.modules[module], "__file__", None)
    top = module.partition(".")[0]
    return file is not None and top != "rmbus" and top not in sys.stdlib_module_names and not is_installed(file)


_REDUCE: Final[Any] = object.__reduce__
_REDUCE_EX: Final[Any] = object.__reduce_ex__
_CODE: Final = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
_BASES: Final[Mapping[type[Any], Callable[[Any, Any], None] | None]] = {
    tuple: None,
    str: None,
    bytes: None,
    int: None,
    float: None,
    frozenset: None,
    list: lambda made, content: made.extend(content),
    dict: lambda made, content: made.update(content),
    set: lambda made, content: made.update(content),
}
"""Builtin types that classes derive from, and how one whose objects can change is filled."""
_MAKERS: Final[Mapping[str, Callable[..., Any]]] = {"_member": _member, "_empty": _empty}
