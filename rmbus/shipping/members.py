"""What can be reached of an object from outside: the names of its class and of its attributes, and what each is."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final, cast

KINDS: Final = ("method", "coroutine", "generator", "asyncgen", "value")
"""A method of each sort, by what a call of it gives; and anything else: a property, an attribute."""

SPECIAL: Final = (
    "__call__",
    "__len__",
    "__contains__",
    "__iter__",
    "__getitem__",
    "__setitem__",
    "__delitem__",
)
"""Of the names with two underscores before and behind, those that a remote object has if its class has them."""


def members(obj: object) -> dict[str, str]:
    """Return the names that an object has, with the kind of each; none that is private to its class or to Python."""
    cls = type(obj)
    found = {name: _kind(inspect.getattr_static(cls, name)) for name in dir(cls) if _is_open(name)}
    return found | {name: "value" for name in getattr(obj, "__dict__", ()) if _is_open(name)}


def _is_open(name: str) -> bool:
    return name in SPECIAL or not (name.startswith("__") or name.startswith("_rmbus_"))


def _kind(member: Any) -> str:
    function: Any = getattr(member, "__func__", member)  # of a static or class method
    while isinstance(function, functools.partial | functools.partialmethod):
        function = cast("Any", function).func
    if isinstance(function, type) or not callable(function):
        return "value"
    called: Any = function
    if inspect.isasyncgenfunction(called):
        return "asyncgen"
    if inspect.iscoroutinefunction(called):
        return "coroutine"
    return "generator" if inspect.isgeneratorfunction(called) else "method"
