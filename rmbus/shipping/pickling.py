"""State: an object's values, by cloudpickle. Classes travel as a name, those of a script or a notebook by value.

What modules need to be there for a state to be loaded is learnt by pickling it, see `trace`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from attrs import frozen

from rmbus.errors import PackagingError
from rmbus.shipping.blame import Heavy, find_culprit, find_heavy, is_by_value
from rmbus.shipping.reducers import is_cache, keep_slots, reduce_wrapper

if TYPE_CHECKING:  # cloudpickle ships no types; its pickler has the standard one's
    from pickle import Pickler as CloudPickler
else:
    from cloudpickle import Pickler as CloudPickler

OUTSIDE_BYTES: Final = 4096
"""A buffer from this size on lies beside the pickle of arguments."""

_CALL: Final = [tuple, dict]
_PLAIN: Final = frozenset((type(None), bool, int, float, complex, str, bytes))

HEAVY_BYTES: Final = 1_000_000
"""An attribute over this size is reported."""


@frozen
class Trace:
    """What a pickled object refers to.

    Attributes:
        modules: names of the modules that are imported when it is loaded.
        by_value: functions and classes whose code is in the pickle itself.
    """

    modules: frozenset[str]
    by_value: tuple[FunctionType | type, ...]


@frozen
class State:
    """A pickled object.

    Attributes:
        data: the pickle.
        trace: what it refers to.
        heavy: attributes over 1 MB.
    """

    data: bytes
    trace: Trace
    heavy: tuple[Heavy, ...]


def dump(obj: object) -> State:
    """Pickle an object, and say what it refers to and what is large in it.

    Raises:
        PackagingError: it cannot be pickled; the message names the attribute that is to blame by its path.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    _run(pickler, obj)
    heavy = find_heavy(obj, HEAVY_BYTES, size_of) if file.tell() > HEAVY_BYTES else ()
    return State(file.getvalue(), pickler.trace(), heavy)


def dumps(obj: object) -> bytes:
    """Pickle an object.

    Raises:
        PackagingError: it cannot be pickled; the message names the attribute that is to blame by its path.
    """
    file = io.BytesIO()
    _run(_Pickler(file), obj)
    return file.getvalue()


def dump_arguments(value: object) -> tuple[bytes, list[memoryview]]:
    """Pickle what is given to a remote object; large buffers lie beside the pickle, in order (PEP 574).

    Raises:
        PackagingError: something in it cannot be pickled; the message names its type.
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
        if _is_plain(value):
            return pickle.dumps(value, 5, buffer_callback=keep), buffers
        _ArgumentPickler(file, protocol=5, buffer_callback=keep).dump(value)
    except Exception as error:  # a reducer is the user's code and may raise anything
        raise PackagingError(f"an argument cannot be sent: {error}") from error
    return file.getvalue(), buffers


def _is_plain(value: object) -> bool:
    """Whether it is nothing, or arguments that the standard pickler, which is quicker, writes as cloudpickle does."""
    if type(value) is not tuple:
        return value is None
    pair: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]  # of whatever is given
    if [*map(type, pair)] != _CALL:
        return False  # an attribute, or a state, may be a tuple too
    parts: tuple[Any, ...] = (*pair[0], *pair[1], *pair[1].values()) if pair[1] else pair[0]
    for each in parts:
        if type(each) is np.ndarray:
            if each.dtype.hasobject or whole(each) is not NotImplemented:
                return False
        elif type(each) not in _PLAIN:
            return False
    return True


def whole(array: np.ndarray[Any, Any]) -> Any:
    """Return how to pickle an array: one with gaps as a copy without, whose bytes may lie beside the pickle."""
    is_whole = array.flags.c_contiguous or array.flags.f_contiguous
    if is_whole or array.nbytes < OUTSIDE_BYTES or array.dtype.hasobject:
        return NotImplemented
    return np.ascontiguousarray(array).__reduce_ex__(5)


def load_arguments(data: bytes, buffers: Sequence[Any]) -> Any:
    """Load what `dump_arguments` has written; arrays are views of the buffers. Only a node's process does this.

    Raises:
        PackagingError: a module that it refers to is not here.
    """
    try:
        return pickle.loads(data, buffers=buffers)
    except (ModuleNotFoundError, pickle.UnpicklingError, EOFError) as error:
        raise _not_loaded(
            error,
            "an argument",
            "was not shipped with the object",
            "import that module in a module of the object's, or name its file when it is shipped: files=[...]",
        ) from error


def trace(obj: object) -> Trace:
    """Return what the pickled object would refer to, without copying its arrays.

    Raises:
        PackagingError: it cannot be pickled.
    """
    pickler = _Pickler(_Sink())
    _run(pickler, obj)
    return pickler.trace()


def size_of(obj: object) -> int:
    """Return the bytes that the pickled object would take, without copying its arrays."""
    sink = _Sink()
    _Pickler(sink).dump(obj)
    return sink.size


def loads(data: bytes | memoryview, folder: Path | None = None) -> Any:
    """Load an object. Only the process of a node does this, confined: a pickle can run any code.

    Args:
        data: the pickle.
        folder: where the package was unpacked. Functions that travelled by value are told that their script lies
            there, so that `Path(__file__)` finds the data files that were shipped with it.

    Raises:
        PackagingError: a module that the state refers to is not here, or the bytes are no pickle. What the imported
            modules themselves raise is passed on as it is.
    """
    try:
        return _Unpickler(io.BytesIO(data), folder).load()
    except (ModuleNotFoundError, pickle.UnpicklingError, EOFError) as error:
        raise _not_loaded(
            error, "the state", "is neither shipped nor on this host", "install it there, or add it to the requirements"
        ) from error


def _not_loaded(error: Exception, what: str, missing: str, advice: str) -> PackagingError:
    """Say what cannot be loaded, why, and what to do."""
    if isinstance(error, ModuleNotFoundError):
        return PackagingError(f"to load {what}, module {error.name!r} is needed, which {missing}: {error}\n{advice}")
    return PackagingError(f"{what} cannot be loaded: it was cut off or damaged ({error})")


class _ArgumentPickler(CloudPickler):
    def reducer_override(self, obj: object) -> Any:
        return whole(obj) if type(obj) is np.ndarray else super().reducer_override(obj)


class _Sink(io.RawIOBase):
    """Takes bytes, and counts them."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        self.size += length
        return length


class _Pickler(CloudPickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=5)
        self._modules: set[str] = set()
        self._by_value: list[FunctionType | type] = []

    def trace(self) -> Trace:
        return Trace(frozenset(self._modules), tuple(self._by_value))

    def reducer_override(self, obj: object) -> Any:
        reduced: Any = reduce_wrapper(obj, is_by_value)
        if reduced is not NotImplemented:
            return reduced
        reduced = super().reducer_override(obj)
        if isinstance(obj, type):
            keep_slots(obj, reduced)
        if isinstance(obj, ModuleType):
            self._modules.add(obj.__name__)
        elif isinstance(obj, FunctionType | type):
            if reduced is not NotImplemented and obj.__module__ != "builtins":
                self._by_value.append(obj)
            elif obj.__module__:
                self._modules.add(obj.__module__)
        elif is_cache(obj):
            self._modules.add(obj.__module__)
        return reduced


def _run(pickler: _Pickler, obj: object) -> None:
    try:
        pickler.dump(obj)
    except Exception as error:  # a reducer is the user's code and may raise anything
        path, kind = find_culprit(obj, size_of)
        raise PackagingError(
            f"{type(obj).__name__} cannot be shipped: {path} ({kind}) cannot be pickled: {error}\n"
            "make it in initialize(), which runs in the node's process, or leave it out of __getstate__()"
        ) from error


class _Unpickler(pickle.Unpickler):
    """Loads what cloudpickle made, and moves the scripts of by-value functions into the package's folder."""

    def __init__(self, file: io.BytesIO, folder: Path | None) -> None:
        super().__init__(file)
        self._folder = folder

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = super().find_class(module_name, global_name)
        if module_name != "cloudpickle.cloudpickle":
            return found
        if global_name == "_make_function":
            return self._made(found)
        return _kept(found) if global_name == "_function_setstate" and self._folder is not None else found

    def _made(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def make_moved(code: Any, names: dict[str, Any], *rest: Any) -> Any:
            if isinstance(names.get("__file__"), str):
                if self._folder is not None:
                    moved = self._folder.joinpath(*_folders(names), Path(names["__file__"]).name)
                    if names.get("__name__") == "__main__" or moved.exists():
                        names["__file__"] = str(moved)
                code = _told_where(code, names["__file__"])
            return make(code, names, *rest)

        return make_moved


def _told_where(code: CodeType, file: str) -> CodeType:
    """Return code with the name of its file, which cloudpickle leaves out from 3.1.3 on: a traceback shall say it."""
    if code.co_filename != "<dynamic-code>":
        return code
    inner = tuple(_told_where(each, file) if isinstance(each, CodeType) else each for each in code.co_consts)
    return code.replace(co_filename=file, co_consts=inner)


def _kept(set_state: Callable[..., Any]) -> Callable[..., Any]:
    def set_state_but_file(function: FunctionType, state: tuple[Any, dict[str, Any]]) -> Any:
        if "__file__" in function.__globals__:  # where it was moved to
            state[1]["__globals__"].pop("__file__", None)
        return set_state(function, state)

    return set_state_but_file


def _folders(names: Mapping[str, Any]) -> list[str]:
    return [part for part in str(names.get("__package__") or "").split(".") if part]
