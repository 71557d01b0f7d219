"""What executed code sees, what it leaves, how its errors are told, and the language guard."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rmbus.nodes import CodeExecutor, CodeExecutorNode
from rmbus.nodes.executed import NO_RESULT, execute, told
from rmbus.nodes.guard import SAFE_MODULES, GuardError, check
from rmbus.nodes.names import find

ESCAPES = {
    "the module of print": "print.__self__",
    "subclasses": "().__class__.__base__.__subclasses__()",
    "bases": "().__class__.__bases__",
    "globals of a function": "(lambda: 0).__globals__",
    "code of a function": "(lambda: 0).__code__",
    "frames of a generator": "(x for x in ()).gi_frame.f_back",
    "frames of a traceback": "error.__traceback__.tb_frame",
    "builtins": "x.__builtins__",
}


@pytest.fixture(autouse=True)
def _own_main() -> Iterator[None]:
    """Code becomes the main module of its process; here it may not."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


def result(source: str, value: object = None, modules: tuple[str, ...] = SAFE_MODULES) -> Any:
    return execute(source, value, modules, ["math", "json", "base64"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("result = input_data * 2", 42),
        ("x = 1", NO_RESULT),
        ("", NO_RESULT),
        ("result = None", None),
        ("result = math.floor(2.5) + json.loads('3') + len(base64.b64encode(b'abc'))", 9),
        ("def fact(n): return 1 if n < 2 else n * fact(n - 1)\nresult = fact(10)", 3628800),
        ("def a(x): return b(x) + 1\ndef b(x): return x * 2\nresult = [a(x) for x in range(3)]", [1, 3, 5]),
        (
            "def f(x): return x + 1\nresult = {f(k): [f(v) for v in range(k)] for k in range(3)}",
            {1: [], 2: [1], 3: [1, 2]},
        ),
        ("even = lambda n: n == 0 or odd(n - 1)\nodd = lambda n: n != 0 and even(n - 1)\nresult = even(10)", True),
        (
            "class A:\n    kind = 'a'\n    def __init__(self, n): self._n = n\n"
            "    def __repr__(self): return f'A{self._n}'\n"
            "class B(A):\n    def __init__(self, n):\n        super().__init__(n)\n        self._n += 1\n"
            "result = [repr(B(1)), B(2).kind, B.__name__, B(1).__class__.__name__]",
            ["A2", "a", "B", "B"],
        ),
        (
            "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    result = str(error)\nfinally:\n    done = True",
            "division by zero",
        ),
        ("import collections.abc, urllib.parse\nresult = urllib.parse.quote('a b')", "a%20b"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\nresult = P(2).x", 2),
        ("from enum import Enum\nclass C(Enum):\n    RED = 1\nresult = C.RED.name", "RED"),
        (
            "from functools import lru_cache\n@lru_cache\n"
            "def f(n): return n if n < 2 else f(n-1) + f(n-2)\nresult = f(60)",
            1548008755920,
        ),
        ("from datetime import datetime\nresult = datetime.strptime('2024-05', '%Y-%m').month", 5),
        ("import time\nresult = time.strptime('2024', '%Y').tm_year", 2024),
        ("def g():\n    yield from (1, 2)\nresult = sum(g())", 3),
        ("total = 0\ndef add(n):\n    global total\n    total += n\nadd(2); add(3)\nresult = total", 5),
        ("match input_data:\n    case int(n) if n > 3: result = 'large'\n    case _: result = 'else'", "large"),
        ("with __import__('contextlib').suppress(KeyError):\n    {}['a']\nresult = 'on'", "on"),
        ("if __name__ == '__main__':\n    result = 'main'", "main"),
        ("def open(x): return x\nresult = open(5)", 5),
        ("def compile(input): return input\nresult = compile(3)", 3),
    ],
)
def test_ordinary_python(source: str, expected: object) -> None:
    """What works in a script works here."""
    assert result(source, 21) == expected


@pytest.mark.parametrize(
    "name", ["os", "sys", "subprocess", "socket", "builtins", "os.path", "urllib.request", "pickle"]
)
def test_imports_that_were_not_allowed(name: str) -> None:
    """The error names the module and says how it is allowed."""
    with pytest.raises(ImportError, match=rf"may not import {name}; .*CodeExecutor\(modules="):
        result(f"import {name}")
    with pytest.raises(ImportError, match="may not import"):
        result(f"from {name} import anything")


def test_a_relative_import_is_refused() -> None:
    """There is no package around the code."""
    with pytest.raises(ImportError, match=r"may not import \.math"):
        result("from .math import x")


def test_an_allowed_module_brings_what_is_below_it() -> None:
    """And not what is beside it."""
    assert result("import xml.dom.minidom\nresult = 1", modules=("xml.dom",)) == 1
    with pytest.raises(ImportError, match=r"xml\.sax"):
        result("import xml.sax", modules=("xml.dom",))


@pytest.mark.parametrize("name", ["open", "eval", "exec", "compile", "input", "breakpoint", "exit", "quit", "help"])
def test_builtins_that_are_withheld(name: str) -> None:
    """To call one is an error that names it."""
    with pytest.raises(GuardError, match=rf"may not call {name}\(\)"):
        result(f"{name}('x')")


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES.keys())
def test_attributes_that_lead_to_the_interpreter(source: str) -> None:
    """They are refused where they are written out, with the line, before anything runs."""
    with pytest.raises(GuardError, match=r"line 2"):
        check(ast.parse(f"x = 1\n{source}"))


def test_an_error_is_told_from_the_code_on() -> None:
    """The traceback has the lines of the code, and none of ours."""
    source = "def deep():\n    return {}['gone']\n\nresult = deep()"
    with pytest.raises(KeyError) as caught:
        result(source)
    answer = told(caught.value)
    assert answer["error"] == "KeyError: 'gone'"
    assert "return {}['gone']" in answer["traceback"]
    assert 'File "<code>", line 4, in <module>' in answer["traceback"]
    assert "executed.py" not in answer["traceback"]


def test_a_syntax_error_is_told_with_its_line() -> None:
    """Nothing of it has run."""
    with pytest.raises(SyntaxError) as caught:
        result("x = 1\ndef f(:\n")
    assert "line 2" in told(caught.value)["error"]
    assert told(caught.value)["error"].startswith("SyntaxError")


def test_an_error_that_cannot_tell_itself() -> None:
    """Its type is told, and why there is no message."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of a class of the code
        result("class Mute(Exception):\n    def __str__(self): return 1 / 0\nraise Mute")
    assert told(caught.value)["error"].startswith("Mute: (its message cannot be had")


def test_long_texts_are_cut() -> None:
    """What is told stays small, and is always text that can be sent."""
    answer = told(ValueError("\ud800" + "x" * 100_000))
    assert len(answer["error"]) <= 20_000
    assert told(ValueError("\ud800"))["error"] == "ValueError: \\ud800"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"time_s": 0}, "time_s"),
        ({"time_s": float("nan")}, "time_s"),
        ({"time_s": float("inf")}, "time_s"),
        ({"memory_mb": 10}, "memory_mb"),
        ({"output_bytes": -1}, "output_bytes"),
        ({"result_bytes": 0}, "result_bytes"),
        ({"modules": "numpy"}, "modules is a list of names"),
        ({"profile": "free"}, "profile is 'safe' or 'permissive'"),
    ],
)
def test_parameters_are_checked_where_the_node_is_built(arguments: dict[str, Any], text: str) -> None:
    """Each error names the parameter."""
    with pytest.raises(ValueError, match=text):
        CodeExecutor(**arguments)


def test_the_earlier_name() -> None:
    """It is the same class, by import and by name."""
    assert CodeExecutorNode is CodeExecutor is find("CodeExecutorNode")
