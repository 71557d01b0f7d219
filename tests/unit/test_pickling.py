"""State: what is to blame when an object cannot be pickled, what is large, and what a pickle refers to."""

from __future__ import annotations

import functools
import pickle
import sys
import threading
import tracemalloc
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmbus.errors import PackagingError
from rmbus.shipping import pickling


def script(text: str, name: str = "__main__", file: str = "/home/me/script.py") -> dict[str, Any]:
    """Run a text as the script of a process is run: its classes travel by value."""
    names: dict[str, Any] = {"__name__": name, "__file__": file, "__package__": None}
    exec(compile(text, file, "exec"), names)
    return names


CLASSES = script(
    """
import threading
LOCK = threading.Lock()
TABLE = list(range(400_000))

class Camera:
    pass

class Node:
    pass

class UsesGlobal:
    def process(self):
        return LOCK

class Indirect:
    def process(self):
        return helper()

def helper():
    return [LOCK for _ in range(3)]

class HoldsLock:
    lock = LOCK

class BigGlobal:
    def process(self):
        return TABLE

class BadState:
    def __getstate__(self):
        raise KeyError("no state")

class Slots:
    __slots__ = ("handle",)

class BadList(list):
    pass

class WithProperty:
    @property
    def now(self):
        return LOCK
    @staticmethod
    def later():
        return LOCK

def make():
    lock = threading.Lock()
    def inner():
        return lock
    return inner

def defaults(value=threading.Lock()):
    return value
"""
)


def obj(name: str, **values: Any) -> Any:
    made = CLASSES[name]()
    for key, value in values.items():
        setattr(made, key, value)
    return made


def back_reference() -> Any:
    camera = obj("Camera")
    node = obj("Node", camera=camera, handle=threading.Lock())
    camera.owner = node
    return node


def own_list() -> Any:
    return CLASSES["BadList"]([1, threading.Lock()])


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (lambda: obj("Node", camera=obj("Camera", handle=threading.Lock())), "self.camera.handle (_thread.lock)"),
        (lambda: obj("Node", parts=[1, {"k": (threading.Lock(),)}]), "self.parts[1]['k'][0] (_thread.lock)"),
        (lambda: obj("Node", call=CLASSES["make"]()), "self.call: closure variable lock (_thread.lock)"),
        (lambda: obj("Node", call=functools.partial(print, threading.Lock())), "self.call.args[0] (_thread.lock)"),
        (lambda: obj("Node", call=obj("Camera", h=threading.Lock()).__init__), None),
        (lambda: obj("UsesGlobal"), "UsesGlobal.process: global LOCK (_thread.lock)"),
        (lambda: obj("Indirect"), "Indirect.process: global helper: global LOCK (_thread.lock)"),
        (lambda: CLASSES["HoldsLock"], "HoldsLock.lock (_thread.lock)"),
        (lambda: CLASSES["defaults"], "defaults: default values[0] (_thread.lock)"),
        (lambda: obj("WithProperty"), "WithProperty.now: global LOCK (_thread.lock)"),
        (lambda: obj("BadState"), "self (__main__.BadState) cannot be pickled: 'no state'"),
        (lambda: obj("Node", inner=obj("BadState")), "self.inner (__main__.BadState)"),
        (lambda: obj("Slots", handle=threading.Lock()), "self.handle (_thread.lock)"),
        (own_list, "self[1] (_thread.lock)"),
        (back_reference, "self.handle (_thread.lock)"),
        (lambda: obj("Node", items=iter([threading.Lock()])), "self.items: constructor argument[0] (_thread.lock)"),
        (lambda: obj("Node", out=(number for number in [1])), "self.out (generator)"),
        (lambda: obj("Node", file=open("/dev/zero", "rb")), "self.file (_io.BufferedReader)"),  # noqa: SIM115
    ],
)
def test_culprit_is_named_by_its_path(bad: Any, path: str | None) -> None:
    """The message names the innermost attribute, variable or global that cannot be pickled, with its type."""
    value = bad()
    with pytest.raises(PackagingError) as caught:
        pickling.dumps(value)
    if path is not None:
        assert f"cannot be shipped: {path}" in str(caught.value)
    assert "initialize()" in str(caught.value)
    getattr(getattr(value, "file", None), "close", bool)()


def test_deep_structure() -> None:
    """A structure that is too deep is an error of its own, and the search for a culprit ends."""
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(PackagingError, match="recursion"):
        pickling.dumps(obj("Node", nested=nested))


def test_heavy_attributes_are_named() -> None:
    """Attributes over 1 MB are reported by path and size, the largest first, each once, and with what to do."""
    camera = obj("Camera", table=np.zeros(500_000), small=np.zeros(10))
    node = obj("Node", camera=camera, same=camera, weights={"a": np.zeros(250_000)}, text="x" * 2_000_000)
    state = pickling.dump(node)
    assert [(heavy.path, heavy.type_name) for heavy in state.heavy] == [
        ("self.camera.table", "numpy.ndarray"),
        ("self.weights['a']", "numpy.ndarray"),
        ("self.text", "str"),
    ]
    advice = "self.camera.table (numpy.ndarray) takes 4.0 MB on every start; load it in initialize()"
    assert advice in str(state.heavy[0])
    assert pickling.dump(obj("Node", small=1)).heavy == ()


def test_heavy_global_is_named() -> None:
    """A large global that a script's function uses travels with it, and is named."""
    assert [heavy.path for heavy in pickling.dump(obj("BigGlobal")).heavy] == ["BigGlobal.process: global TABLE"]


def test_trace_says_what_is_referred_to() -> None:
    """Modules that a load imports, and code that travels by value, are told apart."""
    text = "import json\nfrom pathlib import Path\ndef g():\n    pass\n"
    text += "class A:\n    def f(self):\n        return json, Path, g()"
    found = pickling.trace(script(text)["A"]())
    assert {"json", "pathlib"} <= found.modules
    assert "__main__" not in found.modules
    assert {item.__qualname__ for item in found.by_value} == {"A", "A.f", "g"}


def test_trace_copies_no_array() -> None:
    """Tracing or measuring an object does not copy its arrays."""
    node = obj("Node", a=np.zeros(10**6))
    tracemalloc.start()
    assert "numpy" in {name.partition(".")[0] for name in pickling.trace(node).modules}
    assert pickling.size_of(node) > 8 * 10**6
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6


def test_round_trip_and_moved_script(tmp_path: Path) -> None:
    """A by-value function is told that its script lies in the package's folder, whether it names the file or not."""
    text = (
        "class A:\n    def f(self):\n        return __file__\n    def g(self):\n        return self.f()\nw = lambda: 3"
    )
    names = script(text)
    data = pickling.dumps([names["A"](), names["w"]])
    loaded, function = pickling.loads(data, tmp_path)
    assert loaded.g() == str(tmp_path / "script.py")
    assert function.__globals__["__file__"] == str(tmp_path / "script.py")
    assert function() == 3
    alone = script("def f():\n    return __file__")["f"]
    assert pickling.loads(pickling.dumps(alone), tmp_path)() == str(tmp_path / "script.py")
    assert pickling.loads(pickling.dumps(alone))() == "/home/me/script.py"
    names = script(text)
    names["__package__"] = "pkg.sub"
    assert pickling.loads(pickling.dumps(names["A"]()), tmp_path).f() == str(tmp_path / "pkg/sub/script.py")


def test_load_names_the_missing_module() -> None:
    """A state that refers to a module which is not here says so; damaged bytes are called that."""
    module = types.ModuleType("module_of_the_client")
    exec("class A:\n    pass", module.__dict__)
    sys.modules[module.__name__] = module
    data = pickling.dumps(module.A())
    del sys.modules[module.__name__]
    with pytest.raises(PackagingError, match="'module_of_the_client'"):
        pickling.loads(data)
    with pytest.raises(PackagingError, match="damaged"):
        pickling.loads(data[:-5])
    with pytest.raises(PackagingError, match="damaged"):
        pickling.loads(b"")


def test_errors_of_shipped_code_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module raises when it is imported arrives as it is."""
    (tmp_path / "raises_on_import.py").write_text("raise ValueError('my own')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="my own"):
        pickling.loads(b"craises_on_import\nA\n.")


def test_standard_pickle_reads_it() -> None:
    """The form is the ordinary one: any unpickler with cloudpickle at hand reads it."""
    assert pickle.loads(pickling.dumps(obj("Node", k=3))).k == 3


def test_a_pair_that_holds_code() -> None:
    """It is an attribute's value, and no arguments."""
    data, buffers = pickling.dump_arguments(({lambda: 7: 1}, {}))
    (function,) = pickling.load_arguments(data, buffers)[0]
    assert function() == 7
    data, buffers = pickling.dump_arguments(((), {lambda: 7: 1}))
    (function,) = pickling.load_arguments(data, buffers)[1]
    assert function() == 7


class Named(np.ndarray[Any, Any]):
    """An array of the user's own class."""


@pytest.mark.parametrize(
    "given",
    [
        None,
        ((), {}),
        ((1, 2.5, 3j, "a", b"b", None, True), {"k": 1 << 80}),
        (([1, {"a": (2,)}], {3}), {}),
        (),
        (5,),
        (640, 480),
        (1, 2, 3),
        ((1, 2), (3, 4)),
        ({"k": 1}, None),
        ((1,), {(2, 3): 4}),
        ((len, lambda x: x + 1), {}),
    ],
)
def test_arguments_arrive_as_they_were_given(given: Any) -> None:
    data, buffers = pickling.dump_arguments(given)
    found = pickling.load_arguments(data, buffers)
    if given is not None and len(given) == 2 and type(given[0]) is tuple and given[0][:1] == (len,):
        assert (found[0][0], found[0][1](2)) == (len, 3)
    else:
        assert found == given
    assert not buffers


@pytest.mark.parametrize(
    ("array", "beside"),
    [
        (np.arange(8), 0),
        (np.arange(8)[::2], 0),
        (np.arange(10_000), 1),
        (np.asfortranarray(np.arange(10_000).reshape(100, 100)), 1),
        (np.arange(20_000)[::2], 1),
        (np.array([1, "x", None], object), 0),
        (np.arange(8).view(Named), 0),
    ],
)
def test_arrays_that_are_given(array: Any, beside: int) -> None:
    """They come back as they were, of their own class; large ones lie beside the pickle, also those with gaps."""
    for given in [((array,), {}), ((), {"a": array}), (([array],), {})]:
        data, buffers = pickling.dump_arguments(given)
        assert len(buffers) == beside
        assert len(data) < 1000
        args, named = pickling.load_arguments(data, buffers)
        found = named["a"] if named else args[0][0] if type(args[0]) is list else args[0]
        assert type(found) is type(array)
        assert (found == array).all()
        assert found.dtype == array.dtype
