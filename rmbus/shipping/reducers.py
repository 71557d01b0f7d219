"""How cloudpickle's gaps are closed: caches and dispatchers of a script, which it would look up by name over there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, Final, cast

_CACHE: Final[type] = type(functools.lru_cache(lambda: None))


def reduce_wrapper(obj: object, is_by_value: Callable[[Any], bool]) -> Any:
    """Return how an object that wraps a function is made anew, or NotImplemented for any other.

    Args:
        obj: the object.
        is_by_value: whether it cannot be found again by its name.
    """
    if is_cache(obj):
        cache = cast(Any, obj)
        if hasattr(obj, "__qualname__") and not is_by_value(obj):  # what wraps a partial has no name
            return NotImplemented
        given = cache.cache_parameters()
        return cached, (cache.__wrapped__, given["maxsize"], given["typed"])
    if isinstance(obj, functools.cached_property):  # up to Python 3.11 it holds a lock
        known = cast(Any, obj)
        return functools.cached_property, (known.func,), {"attrname": known.attrname}
    if isinstance(obj, FunctionType) and _is_dispatcher(obj) and is_by_value(obj):
        kinds = dict(cast(Any, obj).registry)
        return dispatching, (kinds.pop(object), tuple(kinds.items()))
    return NotImplemented


def keep_slots(cls: type, reduced: Any) -> None:
    """Have a class that travels by value made with its slots: cloudpickle would give its instances a `__dict__`."""
    is_made_anew = "__slots__" in vars(cls) and reduced is not NotImplemented
    if is_made_anew and reduced[0].__name__ == "_make_skeleton_class":
        reduced[1][3]["__slots__"] = vars(cls)["__slots__"]


def is_cache(obj: object) -> bool:
    """Whether an object is a function in `functools.lru_cache`."""
    return isinstance(obj, _CACHE)


def cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Callable[..., Any]:
    """Return a function with a cache that is empty."""
    return functools.lru_cache(maxsize=maxsize, typed=typed)(function)


def dispatching(default: Callable[..., Any], kinds: Iterable[tuple[type, Callable[..., Any]]]) -> Callable[..., Any]:
    """Return a function that calls another by the type of its first argument."""
    made = functools.singledispatch(default)
    for kind, function in kinds:
        made.register(kind, function)
    return made


def _is_dispatcher(function: FunctionType) -> bool:
    return function.__code__.co_filename == functools.__file__ and {"registry", "dispatch"} <= set(vars(function))
