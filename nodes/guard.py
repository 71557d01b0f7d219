"""The language guard of executed code: against accidents, and never the wall.

It refuses imports that were not allowed, builtins that reach for files or a terminal, and attributes by which one gets
from a value to the interpreter. Who wants to pass it passes it: what keeps code in is `rmbus.runtime.alone`.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Sequence
from typing import Any, Final

SAFE_MODULES: Final = (
    *("__future__", "abc", "array", "base64", "binascii", "bisect", "calendar", "cmath", "collections", "colorsys"),
    *("contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools"),
    *("graphlib", "hashlib", "heapq", "html", "itertools", "json", "math", "numbers", "operator", "pprint", "random"),
    *("re", "secrets", "statistics", "string", "struct", "textwrap", "time", "typing", "unicodedata", "urllib.parse"),
    *("uuid", "weakref", "zlib", "zoneinfo"),
)
"""What code may import by itself: modules that compute, and touch neither files, processes nor the network."""

PERMISSIVE_MODULES: Final = ("cloudpickle", "pickle")
"""What it may import in the permissive profile, too."""

_WITHHELD: Final = ("breakpoint", "compile", "eval", "exec", "exit", "help", "input", "open", "quit")

_REFUSED_ATTRIBUTES: Final = frozenset(
    {
        *(
            "__base__",
            "__bases__",
            "__builtins__",
            "__closure__",
            "__code__",
            "__globals__",
            "__import__",
            "__loader__",
        ),
        *("__mro__", "__reduce__", "__reduce_ex__", "__self__", "__spec__", "__subclasses__"),
        *("ag_code", "ag_frame", "cr_code", "cr_frame", "gi_code", "gi_frame", "tb_frame", "tb_next"),
        *("f_back", "f_builtins", "f_code", "f_globals", "f_locals"),
    }
)


class GuardError(Exception):
    """Code uses what the guard withholds."""


def check(tree: ast.AST) -> None:
    """Refuse the attributes that lead from a value to the interpreter, where they are written out.

    Raises:
        GuardError: one is used; the message names it and its line.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _REFUSED_ATTRIBUTES:
            raise GuardError(f"executed code may not use the attribute {node.attr!r} (line {node.lineno})")


def guarded_builtins(modules: Sequence[str]) -> dict[str, Any]:
    """Return the builtins for executed code.

    Args:
        modules: what may be imported, with what lies below it.
    """
    names = {**vars(builtins), **{name: _withheld(name) for name in _WITHHELD}}
    return {**names, "__import__": _import_of(modules)}


def _import_of(modules: Sequence[str]) -> Callable[..., Any]:
    allowed = frozenset(modules)

    def guarded_import(
        name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] = (), level: int = 0
    ) -> Any:
        if type(fromlist) is list:  # not the code, but a library in C that needs it (`strptime`, pickles)
            return __import__(name, globals, locals, fromlist, level)
        parts = name.split(".")
        if level or not any(".".join(parts[:end]) in allowed for end in range(1, len(parts) + 1)):
            raise ImportError(
                f"executed code may not import {'.' * level}{name}; what it may: {', '.join(sorted(allowed))}; "
                "CodeExecutor(modules=[...]) allows more",
                name=name,
            )
        return __import__(name, globals, locals, fromlist, level)

    return guarded_import


def _withheld(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise GuardError(f"executed code may not call {name}()")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse
