"""What one source text imports, read from its syntax tree. Pure: nothing is looked up, imported or run."""

from __future__ import annotations

import ast
import bisect
import enum
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import evolve, frozen

from rmbus.shipping.calls import Calls, dotted, is_import_error
from rmbus.shipping.uses import bound_names, is_main_guard, used_names


class Reach(enum.IntEnum):
    """How surely an import is carried out. Along a chain of imports the greatest value counts."""

    EAGER = 0
    """As soon as the module is imported."""
    LAZY = 1
    """When a function runs: it may be meant for the host alone."""
    OPTIONAL = 2
    """Guarded, or of no concern to what is shipped: its failure is expected."""


@frozen
class ImportStatement:
    """One import as it is written.

    Attributes:
        module: the dotted name; empty in `from . import b`.
        names: what is taken from it; `*` for everything; empty for a plain `import`.
        level: leading dots.
        line: counted from 1.
        reach: how surely it is carried out.
        conditional: it stands under an `if` that cannot be decided here.
    """

    module: str
    names: tuple[str, ...]
    level: int
    line: int
    reach: Reach
    conditional: bool


@frozen
class Scan:
    """What was read from one source text.

    Attributes:
        imports: in the order of the text.
        dynamic: imports whose module is known only at run time, as (line, text of the call).
        exports: the names of a literal `__all__`.
        literals: its text literals, if it looks at its own folder (`__file__`, `importlib.resources`); else none.
    """

    imports: tuple[ImportStatement, ...]
    dynamic: tuple[tuple[int, str], ...] = ()
    exports: tuple[str, ...] = ()
    literals: frozenset[str] = frozenset()


_CALLS: Final = (b"import_module", b"__import__", b"resources", b"get_data", b"run_path", b"run_module", b"_location")
_FOLDER: Final = (b"__file__", b"resources", b"get_data")

_PARSING: Final = threading.Lock()
"""CPython counts how deep a tree is for all threads together: two that parse at once may get a SystemError (3.11)."""


def scan(source: bytes, filename: str, *, names: Iterable[str] | None = None, imported: bool = True) -> Scan:
    """Return what the source imports.

    Args:
        source: the text, as it stands in its file.
        filename: for the error's text.
        names: if given, only what these top-level names of the text use counts; the rest is `Reach.OPTIONAL`.
        imported: the text is imported as a module, so its own imports are carried out whatever is used of it. Else
            it is a script, of which those names travel by value.

    Raises:
        SyntaxError: the text is no Python. ValueError: it has a zero byte.
    """
    with _PARSING:
        tree = ast.parse(source, filename)
    used = None if names is None else used_names(tree, names, imported=imported)
    reader = _Reader(source, used, imported=imported)
    reader.block(tree.body, _Context())
    literals: frozenset[str] = frozenset()
    if any(word in source for word in _FOLDER):
        constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        literals = frozenset(value for value in constants if isinstance(value, str))
    return Scan(tuple(reader.imports), tuple(reader.dynamic), _exports(tree), literals)


@frozen
class _Context:
    reach: Reach = Reach.EAGER
    conditional: bool = False
    top: bool = True
    unused: bool = False

    def at(self, reach: Reach) -> _Context:
        return evolve(self, reach=max(self.reach, reach))


class _Reader:
    def __init__(self, source: bytes, used: frozenset[str] | None, *, imported: bool) -> None:
        self.imports: list[ImportStatement] = []
        self.dynamic: list[tuple[int, str]] = []
        self._used = used
        self._imported = imported
        self._calls = Calls() if any(word in source for word in _CALLS) else None
        self._lines = [number for number, line in enumerate(source.splitlines(), 1) if b"import" in line]

    def block(self, statements: Sequence[ast.stmt], context: _Context) -> None:
        for statement in statements:
            if self._calls is not None or self._has_import(statement):
                self._statement(statement, context)

    def _has_import(self, node: ast.stmt) -> bool:
        """Whether the word stands in the statement's lines: most need not be looked into."""
        place = bisect.bisect_left(self._lines, node.lineno)
        return place < len(self._lines) and self._lines[place] <= (node.end_lineno or node.lineno)

    def _statement(self, node: ast.stmt, context: _Context) -> None:
        match node:
            case ast.Import():
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    self._add(alias.name, (), 0, node.lineno, self._judge(context, {bound}))
            case ast.ImportFrom():
                self._from(node, context)
            case ast.If():
                self._if(node, context)
            case ast.Try() | ast.TryStar():
                guarded = any(is_import_error(handler.type) for handler in node.handlers)
                inner = context.at(Reach.OPTIONAL) if guarded else context
                self.block(node.body, inner)
                for handler in node.handlers:
                    self.block(handler.body, evolve(inner, conditional=True))
                self.block([*node.orelse, *node.finalbody], context)
            case ast.With() | ast.AsyncWith():
                suppressed = any(_suppresses(item.context_expr) for item in node.items)
                self._expressions([item.context_expr for item in node.items], context)
                self.block(node.body, context.at(Reach.OPTIONAL) if suppressed else context)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                judged = evolve(self._judge(context, {node.name}), top=False)
                self._expressions([*node.decorator_list, node.args], judged)
                self.block(node.body, judged.at(Reach.OPTIONAL if judged.unused else Reach.LAZY))
            case ast.ClassDef():
                judged = evolve(self._judge(context, {node.name}), top=False)
                self._expressions([*node.decorator_list, *node.bases, *node.keywords], judged)
                self.block(node.body, judged)
            case ast.For() | ast.AsyncFor() | ast.While():
                self._expressions([node.test if isinstance(node, ast.While) else node.iter], context)
                self.block([*node.body, *node.orelse], context)
            case ast.Match():
                self._expressions([node.subject], context)
                for case in node.cases:
                    self.block(case.body, evolve(context, conditional=True))
            case _:
                self._expressions([node], self._judge(context, bound_names(node)) if context.top else context)

    def _from(self, node: ast.ImportFrom, context: _Context) -> None:
        for alias in node.names:
            judged = context if alias.name == "*" else self._judge(context, {alias.asname or alias.name})
            self._add(node.module or "", (alias.name,), node.level, node.lineno, judged)
        if self._calls is not None:
            self._calls.learn(node)

    def _if(self, node: ast.If, context: _Context) -> None:
        self._expressions([node.test], context)
        verdict = not self._imported if is_main_guard(node.test) else _verdict(node.test)
        if isinstance(verdict, Reach):
            context = context.at(verdict)
        unknown = evolve(context, conditional=True)
        if verdict is not False:
            self.block(node.body, context if verdict is True else unknown)
        if verdict is not True:
            self.block(node.orelse, context if verdict is False else unknown)

    def _judge(self, context: _Context, bound: set[str]) -> _Context:
        if not context.top or self._used is None or bound & self._used:
            return context
        return evolve(context, unused=True, reach=context.reach if self._imported else Reach.OPTIONAL)

    def _add(self, module: str, names: tuple[str, ...], level: int, line: int, context: _Context) -> None:
        self.imports.append(ImportStatement(module, names, level, line, context.reach, context.conditional))

    def _expressions(self, nodes: Iterable[ast.AST], context: _Context) -> None:
        if self._calls is None:
            return
        for node in nodes:
            for call, in_lambda in self._calls.within(node):
                inner = context.at(Reach.LAZY) if in_lambda else context
                if call.text is not None:
                    self.dynamic.append((call.line, call.text))
                else:
                    reach = inner.at(Reach.OPTIONAL) if call.resource else inner
                    self._add(call.module, (), call.level, call.line, reach)


def _verdict(test: ast.expr) -> bool | Reach | None:
    """Decide a condition: true, false, of another platform (optional), or unknown (None)."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _verdict(operand)
            return not inner if isinstance(inner, bool) else inner
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return False
        case ast.Compare(left=left, ops=[op], comparators=[right]) if dotted(left) == "sys.version_info":
            return _version(op, right)
        case _:
            names = (dotted(node) for node in ast.walk(test) if isinstance(node, ast.Attribute))
            elsewhere = any(name in ("sys.platform", "os.name") or name.startswith("platform.") for name in names)
            return Reach.OPTIONAL if elsewhere else None


def _version(op: ast.cmpop, right: ast.expr) -> bool | None:
    try:
        bound: object = ast.literal_eval(right)
    except ValueError:
        return None
    if not isinstance(bound, tuple):
        return None
    ours = tuple(sys.version_info)
    match op:
        case ast.GtE():
            return bool(ours >= bound)
        case ast.Gt():
            return bool(ours > bound)
        case ast.Lt():
            return bool(ours < bound)
        case ast.LtE():
            return bool(ours <= bound)
        case _:
            return None


def _suppresses(expression: ast.expr) -> bool:
    if not isinstance(expression, ast.Call) or dotted(expression.func) not in ("suppress", "contextlib.suppress"):
        return False
    return any(is_import_error(argument) for argument in expression.args)


def _exports(tree: ast.Module) -> tuple[str, ...]:
    names: list[str] = []
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                pass
            case ast.AugAssign(target=ast.Name(id="__all__"), value=value):
                pass
            case _:
                continue
        if isinstance(value, ast.List | ast.Tuple):
            constants = (item.value for item in value.elts if isinstance(item, ast.Constant))
            names += [value for value in constants if isinstance(value, str)]
    return tuple(names)
