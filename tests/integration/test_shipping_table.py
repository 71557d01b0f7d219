"""What travels: each kind of code is shipped to a host and runs there, confined, with nothing declared by its user."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from talking import Talk
from watch import Ground

from rmbus.errors import UnsupportedVersion
from rmbus.protocol import messages
from rmbus.shipping.content import pack_content
from rmbus.shipping.package import build_files

pytestmark = pytest.mark.timeout(60)  # real processes

RUN = """
import json, sys
from rmbus import Pipeline
print(json.dumps([frame.value for frame in Pipeline([Far()]).process([1, 2], on=sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One host for all of these; what each leaves behind would show at its end."""
    made = Ground(tmp_path_factory.mktemp("host"))
    yield made
    made.end_host()
    assert made.remains(2.0) == ""


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"))
    return folder


def start(host: Ground, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py"), host.address, *arguments],
        cwd=folder,
        env=host.env | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(script: subprocess.Popen[str]) -> tuple[Any, str]:
    """Return what the script printed last, and what it said on standard error."""
    out, err = script.communicate(timeout=50)
    assert script.returncode == 0, err
    return json.loads(out.splitlines()[-1]), err


def ship(host: Ground, folder: Path, files: Mapping[str, str], **environment: str) -> tuple[Any, str]:
    return finish(start(host, write(folder, files), **environment))


def fail(host: Ground, folder: Path, files: Mapping[str, str]) -> str:
    """Return what a script that fails says on standard error."""
    script = start(host, write(folder, files))
    _, err = script.communicate(timeout=50)
    assert script.returncode == 1
    return err


# --- kinds of code --------------------------------------------------------------------------------------------------

KINDS = {
    "dataclass": (
        """
        from dataclasses import dataclass, field

        @dataclass
        class Point:
            x: int
            rest: list = field(default_factory=list)

        @dataclass
        class Far(Node):
            gain: int = 3

            def process(self, frame):
                return [Point(frame.value, [self.gain]).rest, Point(1) == Point(1), repr(Point(2))[-17:]]
        """,
        [[[3], True, "Point(x=2, rest=[])"[-17:]]] * 2,
    ),
    "slots": (
        """
        class Box:
            __slots__ = ("a", "b")

            def __init__(self, a):
                self.a, self.b = a, [a]

        class Far(Node):
            def __init__(self):
                self.box = Box(4)

            def process(self, frame):
                return [self.box.a + frame.value, self.box.b, hasattr(self.box, "__dict__")]
        """,
        [[5, [4], False], [6, [4], False]],
    ),
    "enum": (
        """
        import enum

        class Colour(enum.Enum):
            RED = 1
            BLUE = 2

            def shout(self):
                return self.name + "!"

        class Bits(enum.Flag):
            ONE = enum.auto()
            TWO = enum.auto()

        class Far(Node):
            def __init__(self):
                self.colour = Colour.BLUE

            def process(self, frame):
                return [self.colour is Colour.BLUE, Colour(frame.value).shout(), (Bits.ONE | Bits.TWO).value]
        """,
        [[True, "RED!", 3], [True, "BLUE!", 3]],
    ),
    "ABC": (
        """
        import abc

        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...

        class Square(Shape):
            def __init__(self, side):
                self.side = side

            def area(self):
                return self.side ** 2

        class Far(Node):
            def process(self, frame):
                try:
                    Shape()
                except TypeError:
                    return [Square(frame.value).area(), isinstance(Square(1), Shape)]
        """,
        [[1, True], [4, True]],
    ),
    "generic": (
        """
        from typing import Generic, TypeVar

        T = TypeVar("T")

        class Stack(Generic[T]):
            def __init__(self):
                self.items: list[T] = []

            def push(self, item: T) -> T:
                self.items.append(item)
                return item

        class Far(Node):
            def __init__(self):
                self.stack = Stack[int]()

            def process(self, frame):
                return [self.stack.push(frame.value), len(self.stack.items), Stack[int].__origin__ is Stack]
        """,
        [[1, 1, True], [2, 2, True]],
    ),
    "metaclass": (
        """
        class Named(type):
            def __new__(meta, name, bases, space):
                cls = super().__new__(meta, name, bases, space)
                cls.called = name.lower()
                return cls

            def twice(cls):
                return cls.called * 2

        class Tagged(metaclass=Named):
            pass

        class Far(Node, metaclass=Named):
            def process(self, frame):
                return [Tagged.twice(), type(self).twice(), self.called]
        """,
        [["taggedtagged", "farfar", "far"]] * 2,
    ),
    "descriptor": (
        """
        class Positive:
            def __set_name__(self, owner, name):
                self.name = "_" + name

            def __get__(self, instance, owner):
                return self if instance is None else getattr(instance, self.name)

            def __set__(self, instance, value):
                if value < 0:
                    raise ValueError(self.name)
                setattr(instance, self.name, value)

        class Far(Node):
            gain = Positive()

            def __init__(self):
                self.gain = 7

            def process(self, frame):
                try:
                    self.gain = -1
                except ValueError as error:
                    return [self.gain, str(error)]
        """,
        [[7, "_gain"]] * 2,
    ),
    "super() cells": (
        """
        class Base(Node):
            def process(self, frame):
                return [frame.value]

        class Middle(Base):
            def process(self, frame):
                return [*super().process(frame), __class__.__name__]

        class Far(Middle):
            def process(self, frame):
                return [*(part for part in super().process(frame)), __class__.__name__]
        """,
        [[1, "Middle", "Far"], [2, "Middle", "Far"]],
    ),
    "lru_cache": (
        """
        import functools

        calls = []

        @functools.lru_cache(maxsize=5)
        def square(x):
            calls.append(x)
            return x * x

        @functools.cache
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        class Far(Node):
            @functools.lru_cache
            def thrice(self, x):
                return 3 * x

            @functools.cached_property
            def once(self):
                calls.append("once")
                return 11

            def process(self, frame):
                square(9)
                told = [square(frame.value), self.thrice(2), self.once, len(calls)]
                return [*told, square.cache_info().maxsize, fib(30)]
        """,
        [[1, 6, 11, 3, 5, 832040], [4, 6, 11, 4, 5, 832040]],
    ),
    "decorators": (
        """
        import contextlib, functools

        def scaled(by):
            def decorate(function):
                @functools.wraps(function)
                def scale(*args):
                    return function(*args) * by
                return scale
            return decorate

        @contextlib.contextmanager
        def opened(name):
            yield name + " is open"

        @functools.singledispatch
        def kind(value):
            return "other"

        @kind.register
        def _(value: int):
            return "int"

        class Far(Node):
            factor = 2

            @property
            def gain(self):
                return self.factor

            @classmethod
            def make(cls):
                return cls.__name__

            @staticmethod
            def add(a, b):
                return a + b

            @scaled(10)
            def times(self, x):
                return x * self.gain

            def process(self, frame):
                with opened("it") as told:
                    return [self.times(frame.value), self.make(), self.add(1, 2), told, kind(1), kind(""),
                            type(self).times.__name__]
        """,
        [[20, "Far", 3, "it is open", "int", "other", "times"], [40, "Far", 3, "it is open", "int", "other", "times"]],
    ),
    "async generators": (
        """
        import asyncio

        async def count(n):
            for number in range(n):
                await asyncio.sleep(0)
                yield number

        class Far(Node):
            async def process(self, frame):
                async for number in count(2):
                    yield [frame.value, number]
        """,
        [[1, 0], [1, 1], [2, 0], [2, 1]],
    ),
    "numpy state": (
        """
        import numpy as np

        class Far(Node):
            def __init__(self):
                self.table = np.arange(6, dtype=np.float32).reshape(2, 3)

            def process(self, frame):
                return [float((self.table * frame.value).sum()), str(self.table.dtype), list(self.table.shape)]
        """,
        [[15.0, "float32", [2, 3]], [30.0, "float32", [2, 3]]],
    ),
    "closure over local functions": (
        """
        def make(gain):
            def inner(x):
                return x * gain

            def outer(x):
                return inner(x) + 1

            class Local:
                def run(self, x):
                    return outer(x) * 100

            return outer, Local(), lambda x: outer(inner(x))

        class Far(Node):
            def __init__(self):
                self.outer, self.local, self.both = make(5)

            def process(self, frame):
                return [self.outer(frame.value), self.local.run(frame.value), self.both(frame.value)]
        """,
        [[6, 600, 26], [11, 1100, 51]],
    ),
}


@pytest.mark.parametrize("home", ["script", "module"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_code(host: Ground, tmp_path: Path, kind: str, home: str) -> None:
    """Every kind of class and function works there as here, in the script itself and in a module of its own."""
    text, expected = KINDS[kind]
    code = "from rmbus import Node\n" + textwrap.dedent(text)
    if home == "module":
        files = {"far.py": code, "script.py": f"from far import Far\n{RUN}"}
    else:
        files = {"script.py": code + RUN}
    assert ship(host, tmp_path, files)[0] == expected


# --- where it comes from --------------------------------------------------------------------------------------------

LIBRARY = {
    "lib/__init__.py": "from lib import circle_a\n",
    "lib/circle_a.py": "from lib import circle_b\nA = 1\n",
    "lib/circle_b.py": "import lib.circle_a\ndef total():\n    return lib.circle_a.A + 1\n",
    "lib/near.py": "from . import circle_b\nfrom .deep.leaf import LEAF\n",
    "lib/deep/__init__.py": "",
    "lib/deep/leaf.py": "from ..circle_a import A\nLEAF = A + 40\n",
    "lib/table.csv": "1,2,3\n",
    "space/part.py": "from space import other\nVALUE = other.VALUE + 1\n",
    "space/other.py": "VALUE = 6\n",
    "plain.py": "VALUE = 'plain'\n",
    "beside.py": "import pathlib\ndef words():\n    return pathlib.Path(__file__).with_name('words.txt').read_text()\n",
    "words.txt": "well said",
}

IMPORTS = {
    "imported at the top": ("import plain", "return plain.VALUE", "plain"),
    "imported in a method": ("", "import plain\n        return plain.VALUE", "plain"),
    "relatively, within a package": ("from lib import near", "return near.LEAF", 41),
    "relatively and late": ("", "from lib.near import LEAF\n        return LEAF", 41),
    "from a namespace package": ("", "from space.part import VALUE\n        return VALUE", 7),
    "circularly": ("import lib.circle_b as b", "return b.total()", 2),
    "by a literal": ("from importlib import import_module", "return import_module('plain').VALUE", "plain"),
    "as a resource": (
        "from importlib import resources",
        "return resources.files('lib').joinpath('table.csv').read_text()",
        "1,2,3\n",
    ),
    "beside the file of a module": ("import beside", "return beside.words()", "well said"),
    "beside the file of the class": (
        "import pathlib",
        "return pathlib.Path(__file__).with_name('words.txt').read_text()",
        "well said",
    ),
}


@pytest.mark.parametrize("home", ["script", "module", "package"])
@pytest.mark.parametrize("way", IMPORTS)
def test_ways_to_import(host: Ground, tmp_path: Path, way: str, home: str) -> None:
    """However code and data are reached, they are there, for a class of the script, of a module, and of a package."""
    top, body, expected = IMPORTS[way]
    code = f"{top}\nfrom rmbus import Node\nclass Far(Node):\n    def process(self, frame):\n        {body}\n"
    files = dict(LIBRARY)
    if home == "package":
        files |= {"own/__init__.py": "", "own/far.py": code, "own/words.txt": "well said"}
        files["script.py"] = f"from own.far import Far\n{RUN}"
    elif home == "module":
        files |= {"far.py": code, "script.py": f"from far import Far\n{RUN}"}
    else:
        files["script.py"] = code + RUN
    told, err = ship(host, tmp_path, files)
    assert told == [expected] * 2
    assert "rmbus:" not in err  # nothing to warn of


VARIABLE = {
    **LIBRARY,
    "plugins/__init__.py": "",
    "plugins/blur.py": "from plugins import strength\nVALUE = strength.VALUE\n",
    "plugins/strength.py": "import plain\nVALUE = plain.VALUE + ' blur'\n",
    "far.py": """
        import importlib
        from rmbus import Node

        class Far(Node):
            def __init__(self):
                self.plugin = "blur"

            def process(self, frame):
                return importlib.import_module("plugins." + self.plugin).VALUE
    """,
}


def test_import_by_a_variable(host: Ground, tmp_path: Path) -> None:
    """What is imported by a variable is flagged with file and line, fails there, and is cured by one declared name."""
    err = fail(host, tmp_path, {**VARIABLE, "script.py": f"from far import Far\n{RUN}"})
    assert (
        "rmbus: far: far.py:9: importlib.import_module('plugins.' + self.plugin) imports what is known only at" in err
    )
    assert "files=[the module's name]" in err
    assert "No module named 'plugins'" in err
    cured = RUN.replace("Far()", "Far().options(files=['plugins.blur'])")
    told, err = ship(host, tmp_path, {"script.py": f"from far import Far\n{cured}"})
    assert told == ["plain blur"] * 2
    assert "run time" not in err


@pytest.mark.parametrize("declared", ["plugins", "plugins/blur.py"])
def test_import_by_a_variable_is_cured_by_a_path(host: Ground, tmp_path: Path, declared: str) -> None:
    """A declared file or folder brings what its modules import, as a declared name does."""
    cured = RUN.replace("Far()", f"Far().options(files={declared!r})")
    assert ship(host, tmp_path, {**VARIABLE, "script.py": f"from far import Far\n{cured}"})[0] == ["plain blur"] * 2


def test_module_that_shadows_the_standard_library(host: Ground, tmp_path: Path) -> None:
    """It is what the class gets there, as here; and it is reported with file, importer and line."""
    far = (
        "import {0}\nfrom rmbus import Node\nclass Far(Node):\n    def process(self, frame):\n        return {0}.MINE\n"
    )
    files = {"sched.py": "MINE = 5\n", "far.py": far.format("sched"), "script.py": f"from far import Far\n{RUN}"}
    told, err = ship(host, tmp_path, files)
    assert told == [5, 5]
    assert f"{tmp_path}/sched.py has the name of the standard module 'sched', which far imports at line 1" in err
    assert "rename it" in err


# --- prompts and notebooks ------------------------------------------------------------------------------------------


def test_class_of_a_cell(host: Ground, tmp_path: Path) -> None:
    """A class that a notebook's cell defines, and then another cell anew, travels as it is when it is shipped."""
    first = "from lib import near\nfrom rmbus import Node\nclass Far(Node):\n    def process(self, frame): return 0\n"
    second = first.replace("return 0", "\n        import plain\n        return [near.LEAF, plain.VALUE]")
    script = f"""
import linecache
def cell(number, text):
    name = f"/tmp/ipykernel_1/{{number}}.py"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), globals())
cell(1, {first!r})
cell(2, {second!r})
cell(3, {RUN!r})
"""
    assert ship(host, tmp_path, {**LIBRARY, "script.py": script})[0] == [[41, "plain"]] * 2


NOTEBOOK = """
import json, sys
import nbformat
from nbclient import NotebookClient

cells = json.loads(sys.argv[1])
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
NotebookClient(book, timeout=40, kernel_name="python3", resources={"metadata": {"path": sys.argv[2]}}).execute()
print(json.dumps(["".join(output.get("text", "") for output in cell.outputs) for cell in book.cells]))
"""


def test_class_of_a_notebook(host: Ground, tmp_path: Path) -> None:
    """In a real notebook, with its running loop: a class is shipped, corrected in its cell, and shipped again."""
    write(tmp_path, LIBRARY)
    define = """
import functools
from lib import near
from rmbus import Node, Pipeline

class Far(Node):
    def __init__(self):
        self.gain = GAIN

    @functools.cached_property
    def leaf(self):
        import plain
        return [near.LEAF, plain.VALUE]

    def process(self, frame):
        return [frame.value * self.gain, *self.leaf, CONSTANT]

CONSTANT = "told"
"""
    run = f"print([frame.value for frame in Pipeline([Far()]).process([1, 2], on={host.address!r})])"
    cells = [define.replace("GAIN", "2"), run, define.replace("GAIN", "3").replace("told", "told anew"), run]
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, json.dumps(cells), str(tmp_path)],
        env=host.env | {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, first, _, second = json.loads(done.stdout.splitlines()[-1])
    assert first.splitlines()[-1] == "[[2, 41, 'plain', 'told'], [4, 41, 'plain', 'told']]"
    assert second.splitlines()[-1] == "[[3, 41, 'plain', 'told anew'], [6, 41, 'plain', 'told anew']]"


# --- several clients ------------------------------------------------------------------------------------------------

ROUNDS = """
import json, sys
from common import Far
from rmbus.protocol import messages
from rmbus.shipping import package, pickling
from talking import Talk
with Talk(sys.argv[1]) as talk:
    print("ready", flush=True)
    sys.stdin.readline()
    told = []
    for number in range(int(sys.argv[2])):
        made, state, session = package.build(Far()), pickling.dumps(Far()), f"{sys.argv[3]}-{number}"
        if not talk.have(made.address):
            talk.put(made.address, made.data)
        talk.start(made.address, state, session=session)
        told += talk.said(messages.Log).lines
        talk.drop(session)
print(json.dumps(told))
"""


@pytest.mark.timeout(180)
def test_two_clients_with_one_module_name(host: Ground, tmp_path: Path) -> None:
    """Two clients at once, each with another module of the same name: each gets its own, in every one of 100 rounds."""
    rounds = 50
    scripts: list[subprocess.Popen[str]] = []
    support = str(Path(__file__).parents[1] / "support")
    for name in ("one", "two"):
        common = (
            f"from helper import NAME\nfrom rmbus import Node\nclass Far(Node):\n    mine = {name!r}\n"
            "    def initialize(self):\n        import late\n        print(self.mine, NAME, late.NAME)\n"
            "    def process(self, frame):\n        return frame\n"
        )
        files = {"common.py": common, "helper.py": f"NAME = {name!r}\n", "late.py": f"NAME = {name!r}\n"}
        folder = write(tmp_path / name, {**files, "script.py": ROUNDS})
        scripts.append(
            subprocess.Popen(
                [sys.executable, str(folder / "script.py"), host.address, str(rounds), name],
                env=host.env | {"PYTHONPATH": support},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for script in scripts:
        assert script.stdout is not None
        assert script.stdout.readline() == "ready\n"
    for script in scripts:
        assert script.stdin is not None
        script.stdin.write("go\n")
        script.stdin.flush()
    for name, script in zip(("one", "two"), scripts, strict=True):
        out, err = script.communicate(timeout=150)
        assert script.returncode == 0, err
        assert json.loads(out) == [f"{name} {name} {name}"] * rounds


# --- what does not travel -------------------------------------------------------------------------------------------


def test_what_cannot_be_pickled_is_named_by_its_path(host: Ground, tmp_path: Path) -> None:
    """The attribute that is to blame is named by its path and type, and nothing has run."""
    text = """
        import threading
        from rmbus import Node

        class Stage:
            def __init__(self):
                self.lock = threading.Lock()

        class Far(Node):
            def __init__(self):
                self.pipeline = Stage()

            def process(self, frame):
                print("it has run")
    """
    err = fail(host, tmp_path, {"script.py": textwrap.dedent(text) + RUN})
    assert "Far cannot be shipped: self.pipeline.lock (_thread.lock) cannot be pickled" in err
    assert "it has run" not in err


def test_secret_of_a_module_stays_here(host: Ground, tmp_path: Path) -> None:
    """What a module reads into a global when it is imported does not travel: there it reads what there is."""
    far = (
        "import os\nimport settings\nfrom rmbus import Node\nTOKEN = os.environ.get('TOKEN')\nclass Far(Node):\n"
        "    def process(self, frame):\n        return [TOKEN, settings.TOKEN, settings.key()]\n"
    )
    settings = (
        "import os, pathlib\nTOKEN = os.environ.get('TOKEN')\ndef key():\n"
        "    file = pathlib.Path(__file__).with_name('.env')\n    return file.exists()\n"
    )
    script = (
        "from rmbus.shipping import package, pickling\nfrom far import Far, TOKEN\nassert TOKEN == 'hunter2'\n"
        f"made = package.build(Far()).data + pickling.dumps(Far())\nassert b'hunter2' not in made\n{RUN}"
    )
    files = {"far.py": far, "settings.py": settings, ".env": "TOKEN=hunter2", "script.py": script}
    assert ship(host, tmp_path, files, TOKEN="hunter2")[0] == [[None, None, False]] * 2


def test_package_of_another_python_is_refused(host: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with another tag is refused before anything of it is loaded, with both versions named."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(host.run))
    ours, theirs = sys.version_info[:2], (sys.version_info[0], sys.version_info[1] + 1)
    write(tmp_path, {"far.py": "raise SystemExit('it was imported')\n"})
    package = build_files([tmp_path / "far.py"])
    other = attrs.evolve(package.manifest, python="cpython-{}.{}".format(*theirs))
    data = pack_content(other, {"far.py": (tmp_path / "far.py").read_bytes()})
    state = b"cos\nabort\n(tR."  # who loads this dies
    with Talk(host.address) as talk:
        talk.put(other.address, data)
        with pytest.raises(UnsupportedVersion, match=_both(theirs, ours)):
            talk.start(other.address, state, python=theirs)
        talk.start(other.address, state, session="1" * 16)  # who claims another version than the package's
        event = talk.said(messages.NodeEvent)
        assert isinstance(event, messages.NodeEvent)
        assert event.state == "failed"
        assert event.type_name.endswith("UnsupportedVersion")
        assert "cpython-{}.{}; this host runs cpython-{}.{}".format(*theirs, *ours) in event.message
        talk.drop("1" * 16)


def _both(theirs: tuple[int, int], ours: tuple[int, int]) -> str:
    return r"cpython-{}\.{}, .* offers cpython-{}\.{}: run the script with one of those".format(*theirs, *ours)
