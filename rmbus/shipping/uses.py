"""Which top-level names of a text are used, directly or not, by some of them: the rest is of no concern to these."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator


def used_names(tree: ast.Module, names: Iterable[str], *, imported: bool) -> frozenset[str]:
    """Return the names that are used by the definitions of these names.

    Args:
        tree: the text.
        names: top-level names to start from.
        imported: count as well what is used when the text is run as a module.
    """
    definitions: dict[str, list[ast.AST]] = {}
    executed: set[str] = set()
    for node in _top_level(tree.body, imported):
        for name in _defined(node):
            definitions.setdefault(name, []).append(node)
        if imported:
            executed |= _names(_executed(node))
    reached: set[str] = {*names, *executed}
    pending = list(reached)
    while pending:
        used = _names(definitions.get(pending.pop(), ())) - reached
        reached |= used
        pending += used
    return frozenset(reached)


def bound_names(node: ast.AST) -> set[str]:
    """Return the names that a statement binds; not those of an import, a function or a class."""
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load)}


def is_main_guard(test: ast.expr) -> bool:
    """Whether a condition is `__name__ == "__main__"`."""
    match test:
        case ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()], comparators=[ast.Constant(value="__main__")]):
            return True
        case _:
            return False


def _top_level(body: Iterable[ast.stmt], imported: bool) -> Iterator[ast.stmt]:
    """Yield the statements that are carried out when a text is imported, also those in blocks."""
    for node in body:
        yield node
        inner: list[ast.stmt] = []
        match node:
            case ast.If(test=test):
                inner = [*([] if imported and is_main_guard(test) else node.body), *node.orelse]
            case ast.For() | ast.AsyncFor() | ast.While():
                inner = [*node.body, *node.orelse]
            case ast.With() | ast.AsyncWith():
                inner = node.body
            case ast.Try() | ast.TryStar():
                handled = [statement for handler in node.handlers for statement in handler.body]
                inner = [*node.body, *handled, *node.orelse, *node.finalbody]
            case ast.Match():
                inner = [statement for case in node.cases for statement in case.body]
            case _:
                continue
        yield from _top_level(inner, imported)


_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def _defined(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (node.name,)
    return () if isinstance(node, _BLOCKS) else bound_names(node)


def _executed(node: ast.stmt) -> list[ast.AST]:
    """Return what of a top-level statement is evaluated on import: all but the bodies of functions."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [*node.decorator_list, *node.args.defaults, *(item for item in node.args.kw_defaults if item)]
        case ast.ClassDef():
            inner = [part for statement in node.body for part in _executed(statement)]
            return [*node.decorator_list, *node.bases, *node.keywords, *inner]
        case ast.If() | ast.While():
            return [node.test]
        case ast.For() | ast.AsyncFor():
            return [node.iter]
        case ast.With() | ast.AsyncWith():
            return [*node.items]
        case ast.Match():
            return [node.subject]
        case ast.Try() | ast.TryStar():
            return []
        case _:
            return [node]


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}
