"""Which attribute of an object cannot be pickled, or is too large: named by its path, as in `self.camera.handle`."""

from __future__ import annotations

import copyreg
import dis
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, cast

from attrs import frozen

_PLAIN: Final = (int, float, complex, str, bytes, bytearray, type(None), ModuleType)
_MAX_PARTS: Final = 1000
"""A container with more parts is looked at as one thing."""
_MAX_DEPTH: Final = 60

_STATE: Final = ".__getstate__()"
_ARGUMENT: Final = ": constructor argument"
_UNNAMED: Final = (_STATE, _ARGUMENT)
"""Parts that a user did not name: to call one of them large would tell him nothing."""

Part = tuple[str, Any]
"""A part of an object: what to add to the path (after `=`: a path of its own), and the part."""


@frozen
class Heavy:
    """An attribute that makes the state large.

    Attributes:
        path: as in `self.model.weights`.
        type_name: of the value.
        size: bytes that it takes when pickled.
    """

    path: str
    type_name: str
    size: int

    def __str__(self) -> str:
        return (
            f"{self.path} ({self.type_name}) takes {self.size / 1e6:.1f} MB on every start; "
            "load it in initialize() instead, in the node's process"
        )


def find_culprit(obj: object, attempt: Callable[[object], object]) -> tuple[str, str]:
    """Return path and type of the innermost part that makes `attempt(obj)` fail."""
    search = _Search(attempt)
    path, culprit = search.culprit(obj, _root(obj), 0) or (_root(obj), obj)
    return path, type_name(culprit)


def find_heavy(obj: object, limit: int, size_of: Callable[[object], int]) -> tuple[Heavy, ...]:
    """Return the innermost parts over `limit` bytes, the largest first."""
    found = _Search(size_of).heavy(obj, _root(obj), limit, 0)
    return tuple(sorted(found, key=lambda heavy: -heavy.size))


def type_name(value: object) -> str:
    """Return the name of a value's type, with its module where that is not `builtins`."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def is_by_value(obj: Any) -> bool:
    """Whether a function's or class's code is in the pickle: it cannot be found again by its name."""
    if obj.__module__ == "__main__":
        return True
    found: Any = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not obj


class _Search:
    def __init__(self, measure: Callable[[object], Any]) -> None:
        self._measure = measure
        self._seen: dict[int, object] = {}  # keeps what it has seen alive, so that no id is used twice

    def culprit(self, obj: object, path: str, depth: int) -> tuple[str, object] | None:
        """Return the innermost part that fails and none of whose own parts does; None if it only refers back."""
        if id(obj) in self._seen or depth > _MAX_DEPTH:
            return None
        self._seen[id(obj)] = obj
        blameless = True
        for label, part in _parts(obj):
            if self._fails(part):
                blameless = False
                found = self.culprit(part, _join(path, label), depth + 1)
                if found is not None:
                    return found
        return (path, obj) if blameless else None

    def heavy(self, obj: object, path: str, limit: int, depth: int) -> list[Heavy]:
        if id(obj) in self._seen or depth > _MAX_DEPTH:
            return []
        self._seen[id(obj)] = obj
        found: list[Heavy] = []
        explained = False
        parts = _parts(obj)
        for label, part in parts if len(parts) <= _MAX_PARTS else ():
            if label not in _UNNAMED and self._measure(part) > limit:
                explained = True
                found += self.heavy(part, _join(path, label), limit, depth + 1)
        return found if explained else [Heavy(path, type_name(obj), self._measure(obj))]

    def _fails(self, part: object) -> bool:
        if isinstance(part, _PLAIN):
            return False
        try:
            self._measure(part)
        except Exception:  # noqa: BLE001  # a reducer is the user's code and may raise anything
            return True
        return False


def _root(obj: object) -> str:
    return obj.__qualname__ if isinstance(obj, type | FunctionType) else "self"


def _join(path: str, label: str) -> str:
    return label[1:] if label.startswith("=") else path + label


def _parts(obj: object) -> list[Part]:
    try:
        return list(_walk(obj))
    except Exception:  # noqa: BLE001  # __getstate__ and __reduce__ are the user's code: then it is the culprit itself
        return []


def _walk(obj: object) -> Iterable[Part]:
    match obj:
        case _ if isinstance(obj, _PLAIN):
            return ()
        case dict():
            return _of_mapping(cast(Mapping[Any, Any], obj))
        case list() | tuple() | set() | frozenset():
            return ((f"[{number}]", item) for number, item in enumerate(cast(Iterable[Any], obj)))
        case type():
            return _of_class(obj) if is_by_value(obj) else ()
        case FunctionType():
            return _of_function(obj) if is_by_value(obj) else ()
        case MethodType():
            return ((".__self__", obj.__self__), (f"={obj.__qualname__}", obj.__func__))
        case functools.partial():
            return ((".func", obj.func), (".args", obj.args), (".keywords", obj.keywords))
        case staticmethod() | classmethod():
            return (("", cast(Any, obj).__func__),)
        case property():
            return (("", obj.fget), (".setter", obj.fset), (".deleter", obj.fdel))
        case _:
            return _of_instance(obj)


def _of_mapping(mapping: Mapping[Any, Any]) -> Iterator[Part]:
    for key, value in mapping.items():
        yield f"[{str(key)[:60]!r}]" if isinstance(key, str) else f"[{type_name(key)} key]", value
        yield f"[{type_name(key)} key] itself", key


def _of_class(cls: type) -> Iterator[Part]:
    for name, value in cls.__dict__.items():
        if name not in ("__dict__", "__weakref__", "__module__", "__doc__"):
            yield f".{name}", value
    for base in cls.__bases__:
        yield f"={base.__qualname__}", base


def _of_function(function: FunctionType) -> Iterator[Part]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f": closure variable {name}", cell.cell_contents
        except ValueError:  # not yet filled
            continue
    for name in _globals(function.__code__):
        if name in function.__globals__:
            yield f": global {name}", function.__globals__[name]
    yield ": default values", function.__defaults__
    yield ": default values", function.__kwdefaults__
    for name, value in function.__dict__.items():
        yield f".{name}", value


def _globals(code: CodeType) -> set[str]:
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname.endswith(("_GLOBAL", "LOAD_NAME"))}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _globals(constant)
    return names


def _of_instance(obj: object) -> Iterator[Part]:
    reduced = obj.__reduce_ex__(4)
    if isinstance(reduced, str):
        return
    fields: list[Any] = [*reduced, None, None, None]
    function, arguments, state, items, pairs = fields[:5]
    states: list[Any] = [*state] if type(state) is tuple else [state]
    for part in states:
        if isinstance(part, dict):
            yield from ((f".{name}", value) for name, value in cast(dict[str, Any], part).items())
        else:
            yield _STATE, part
    yield from ((f"[{number}]", item) for number, item in enumerate(items or ()))
    yield from ((f"[{str(key)[:60]!r}]", value) for key, value in pairs or ())
    if function not in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined]  # not in the stubs
        yield f"={getattr(function, '__qualname__', function)}", function
    for argument in arguments:
        by_name = isinstance(argument, type)
        yield f"={argument.__qualname__}" if by_name else _ARGUMENT, argument
