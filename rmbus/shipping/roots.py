"""From an object to the modules and scripts that its code comes from: where the finder starts."""

from __future__ import annotations

import dis
import linecache
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from attrs import frozen

from rmbus.shipping.imports import LocalModule, Root
from rmbus.shipping.modules import is_installed
from rmbus.shipping.pickling import Trace
from rmbus.shipping.source import ImportStatement, Reach, Scan, scan


@frozen
class Origins:
    """Where an object's code comes from.

    Attributes:
        entry: `module:qualified name` of its class, or of itself if it is a class or function.
        roots: modules that are imported by name.
        scripts: sources of code that travels by value: the script, a notebook's cells.
    """

    entry: str
    roots: tuple[Root, ...]
    scripts: tuple[LocalModule, ...]


def find_origins(obj: object, trace: Trace) -> Origins:
    """Return where the code of a pickled object comes from.

    Args:
        obj: the object.
        trace: what its pickle refers to.
    """
    named = obj if isinstance(obj, type | FunctionType) else type(obj)
    entry = f"{named.__module__}:{named.__qualname__}"
    top = named.__qualname__.partition(".")[0]
    names = {
        named.__module__: frozenset({top})
    }  # of other modules all that is in them counts: it may vary with the state
    roots = [
        Root(module, needed_by=named.__qualname__, names=names.get(module))
        for module in sorted(trace.modules - {"__main__"})
    ]
    in_modules, loose = _sort(trace.by_value)
    roots += [
        Root(module, Reach.LAZY, named.__qualname__, names.get(module)) for module in sorted(in_modules - trace.modules)
    ]
    return Origins(entry, tuple(roots), tuple(_scripts(loose)))


def _sort(by_value: Iterable[FunctionType | type]) -> tuple[set[str], list[FunctionType | type]]:
    """Split off what was made by functions of importable modules (lambdas, local classes): those are shipped."""
    modules: set[str] = set()
    loose: list[FunctionType | type] = []
    for item in by_value:
        module = sys.modules.get(item.__module__) if item.__module__ != "__main__" else None
        if getattr(module, "__file__", None) is None:
            loose.append(item)
        else:
            modules.add(item.__module__)
    return modules, loose


def _scripts(items: list[FunctionType | type]) -> Iterator[LocalModule]:
    names = {item.__qualname__.partition(".")[0] for item in items}
    functions = [item for item in items if isinstance(item, FunctionType)]
    packages = {item.__code__.co_filename: item.__globals__.get("__package__") for item in functions}
    main = sys.modules["__main__"]
    file_of_main = getattr(main, "__file__", None)
    if file_of_main and not is_installed(file_of_main) and any(item.__module__ == "__main__" for item in items):
        packages.setdefault(file_of_main, main.__package__)  # of classes that have no methods
    for filename in sorted(packages):
        package = packages[filename] or ""
        codes = (item.__code__ for item in functions if item.__code__.co_filename == filename)
        read = _scan_text(filename, names) or _scan_code(codes)
        file = "/".join([*(part for part in package.split(".") if part), Path(filename).name])
        yield LocalModule("__main__", package, file, Path(filename), read)


def _scan_text(filename: str, names: set[str]) -> Scan | None:
    linecache.checkcache(filename)
    text = "".join(linecache.getlines(filename))
    if not text:
        return None
    try:
        return scan(text.encode(), filename, names=names, imported=False)
    except (SyntaxError, ValueError):  # a cell with the shell's own syntax: what was compiled of it is read instead
        return None


def _scan_code(codes: Iterable[CodeType]) -> Scan:
    """Read imports from compiled functions whose text is gone (typed at a prompt, made by exec)."""
    imports: list[ImportStatement] = []
    for code in codes:
        imports += _imports_of(code)
        nested = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        imports += _scan_code(nested).imports
    return Scan(tuple(imports))


def _imports_of(code: CodeType) -> Iterator[ImportStatement]:
    steps = list(dis.get_instructions(code))
    line = code.co_firstlineno
    for number, step in enumerate(steps):
        line = step.starts_line or line
        if step.opname != "IMPORT_NAME":
            continue
        level: object = steps[number - 2].argval
        names: Any = steps[number - 1].argval
        yield ImportStatement(
            module=str(step.argval),
            names=tuple(str(name) for name in names or ()),
            level=level if isinstance(level, int) else 0,
            line=line,
            reach=Reach.OPTIONAL,
            conditional=True,
        )
