"""Calls that import: `import_module("...")`, `__import__("...")`, and resources of a package that is named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from attrs import frozen

_IMPORTERS: Final = frozenset({"import_module", "__import__"})
_BY_PATH: Final = frozenset({"spec_from_file_location", "run_path", "run_module", "SourceFileLoader"})
_RESOURCES: Final = frozenset(
    {"files", "path", "contents", "is_resource", "open_text", "open_binary", "read_text", "read_binary"}
)
_HOMES: Final = ("importlib", "importlib.resources", "importlib.util", "importlib.machinery", "pkgutil", "runpy")
_OWN_PACKAGE: Final = ("__package__", "__name__")
_CATCHES_IMPORT_ERROR: Final = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


@frozen
class Call:
    """One call that imports.

    Attributes:
        line: counted from 1.
        module: the dotted name, without leading dots; empty where it is not known.
        level: leading dots.
        resource: it reads a file of that package rather than importing it.
        text: the call as it is written, if its module is known only at run time; else None.
    """

    line: int
    module: str = ""
    level: int = 0
    resource: bool = False
    text: str | None = None


class Calls:
    """Finds such calls in expressions, by the names that the module's imports gave to the functions."""

    def __init__(self) -> None:
        self._names = {"__import__": "__import__", "import_module": "import_module"}

    def learn(self, node: ast.ImportFrom) -> None:
        """Note the names under which a `from ... import` brings in functions that import."""
        if node.module in _HOMES:
            for alias in node.names:
                resource = alias.name in _RESOURCES and node.module == "importlib.resources"
                if resource or alias.name in _IMPORTERS | _BY_PATH | {"get_data"}:
                    self._names[alias.asname or alias.name] = alias.name

    def within(self, root: ast.AST, in_lambda: bool = False) -> Iterator[tuple[Call, bool]]:
        """Yield the calls in an expression, each with whether it stands in a lambda, and so runs later."""
        if isinstance(root, ast.Call):
            found = self._read(root)
            if found is not None:
                yield found, in_lambda
        for child in ast.iter_child_nodes(root):
            yield from self.within(child, in_lambda or isinstance(root, ast.Lambda))

    def _read(self, node: ast.Call) -> Call | None:
        name = self._function(node.func)
        if name is None:
            return None
        if name in _BY_PATH:
            return Call(node.lineno, text=_text(node))
        argument = node.args[0] if node.args else None
        literal = argument.value if isinstance(argument, ast.Constant) else None
        if name not in _IMPORTERS:
            return Call(node.lineno, literal, resource=True) if isinstance(literal, str) else None
        if not isinstance(literal, str) or len(node.args) > 4:
            return Call(node.lineno, text=_text(node))
        level = len(literal) - len(literal.lstrip("."))
        if level == 0:
            return Call(node.lineno, literal)
        return _relative(node, literal[level:], level)

    def _function(self, function: ast.expr) -> str | None:
        match function:
            case ast.Name(id=name):
                return self._names.get(name)
            case ast.Attribute(attr=name) if name in _IMPORTERS | _BY_PATH:
                return name
            case ast.Attribute(value=value, attr=name) if name in _RESOURCES:
                return name if dotted(value).endswith("resources") else None
            case ast.Attribute(value=ast.Name(id="pkgutil"), attr="get_data"):
                return "get_data"
            case _:
                return None


def dotted(expression: ast.expr) -> str:
    """Return a dotted name as it is written; empty for any other expression."""
    match expression:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            base = dotted(value)
            return f"{base}.{name}" if base else ""
        case _:
            return ""


def is_import_error(expression: ast.expr | None) -> bool:
    """Whether an `except` clause of this type catches a failed import; None is the bare `except:`."""
    match expression:
        case None:
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _CATCHES_IMPORT_ERROR
        case ast.Tuple(elts=items):
            return any(is_import_error(item) for item in items)
        case _:
            return False


def _relative(node: ast.Call, module: str, level: int) -> Call:
    given = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "package")]
    match given:
        case [ast.Name(id=name)] if name in _OWN_PACKAGE:
            return Call(node.lineno, module, level)
        case [ast.Constant(value=str(package))]:
            base = package.rsplit(".", level - 1)[0] if level > 1 else package
            return Call(node.lineno, f"{base}.{module}" if module else base)
        case _:
            return Call(node.lineno, text=_text(node))


def _text(node: ast.Call) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 120 else f"{text[:117]}..."
