"""What comes back from a node's process: plain data and the user's own classes, and nothing that is run."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import pickle
import tempfile
import threading
import uuid
from typing import Any, NamedTuple

import attrs
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbus.errors import MalformedFrame, PackagingError
from rmbus.shipping import returning
from rmbus.shipping.pickling import OUTSIDE_BYTES

ran: list[object] = []


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: list[int]


@attrs.frozen
class Box:
    left: int
    name: str = "box"


class Pair(NamedTuple):
    a: int
    b: object


class Slotted:
    __slots__ = ("__dict__", "a")

    def __init__(self) -> None:
        ran.append("init")
        self.a = 1


class Named(list[int]):
    name = ""


class Whole(int):
    pass


class Raw(bytes):
    pass


class Staged:
    def __init__(self) -> None:
        self.value = 1
        self.cache = object()

    def __getstate__(self) -> Any:
        return {"value": self.value}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state, cache=None)


class Reducing:
    def __reduce__(self) -> Any:
        return ran.append, ("reduced",)


class Dying:
    def __del__(self) -> None:
        ran.append("deleted")


def back(value: Any) -> Any:
    data, buffers = returning.dump(value)
    return returning.load(data, buffers)


@pytest.mark.parametrize(
    "value",
    [
        None,
        2**100,
        {"a": [1, (2.5, b"x")], 3: {4}},
        frozenset({1}),
        complex(1, 2),
        slice(1, 2),
        range(3),
        ...,
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        datetime.timedelta(seconds=3),
        decimal.Decimal("1.20"),
        fractions.Fraction(1, 3),
        uuid.UUID(int=5),
        pathlib.PurePosixPath("/a/b"),
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        collections.Counter("aab"),
        collections.deque([1, 2], 3),
        Colour.BLUE,
        Point(1, [2]),
        Box(3),
        Pair(1, Pair(2, Colour.RED)),
        Whole(7),
        np.float32(1.5),
        np.datetime64("2026-01-01"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values(value: Any) -> None:
    """Each comes back equal, and of its own type."""
    found = back(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5),
        np.arange(12_000, dtype=np.float32).reshape(3, 40, 100),
        np.asfortranarray(np.arange(12_000).reshape(100, 120)),
        np.arange(20_000)[::2],
        np.array(["a", "bc"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array([1, "x", None], dtype=object),
        np.zeros((0, 3)),
        np.array(3.5),
        np.array([True, False]),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.arange(6).astype(complex).reshape(3, 2).T,
        np.array(["2026-01-01"], "datetime64[D]"),
    ],
)
def test_arrays(array: Any) -> None:
    found = back(array)
    assert (found == array).all()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.flags.writeable or array.nbytes >= OUTSIDE_BYTES  # what lies beside is as those have it who hold it
    assert returning.dump([array])[0] == b"\x91" + returning.dump(array)[0]  # told alone as it is among others


def test_a_large_array_lies_beside() -> None:
    """It is a view of the buffer that came, without a copy."""
    array = np.arange(100_000, dtype=np.uint8)
    data, buffers = returning.dump({"array": array})
    assert len(data) < 300
    (buffer,) = buffers
    came = np.frombuffer(bytes(buffer), np.uint8)
    assert np.shares_memory(returning.load(data, [came])["array"], came)


def test_an_object_is_made_of_its_state_alone() -> None:
    """Its `__init__` is not run; its attributes and slots are there."""
    obj = Slotted()
    obj.a, obj.b = 5, [1]  # type: ignore[attr-defined]  # into its dictionary
    named = Named([1, 2])
    named.name = "n"
    ran.clear()
    found, other = back((obj, named))
    assert ran == []
    assert (found.a, found.b) == (5, [1])
    assert (list(other), other.name, type(other)) == ([1, 2], "n", Named)


def test_its_own_word_for_its_state_is_taken() -> None:
    found = back(Staged())
    assert (found.value, found.cache) == (1, None)


@pytest.mark.parametrize(
    "value", [print, lambda: 1, tempfile, Colour, Reducing(), tempfile.TemporaryDirectory, threading.Lock(), iter([])]
)
def test_code_does_not_go_back(value: object) -> None:
    """Nor does what is held by more than its attributes; the error names it."""
    with pytest.raises(PackagingError, match="cannot be returned"):
        returning.dump({"inner": value})


def test_whatever_its_state_raises_is_told() -> None:
    class Bad:
        def __getstate__(self) -> Any:
            raise RuntimeError("not now")

    with pytest.raises(PackagingError, match="not now"):
        returning.dump([Bad()])


def hostile(word: str, told: Any) -> bytes:
    """Return what somebody hostile has made."""
    inner = msgpack.packb([word, told], default=lambda value: msgpack.ExtType(0, value))
    data: bytes = msgpack.packb([msgpack.ExtType(0, inner)])
    return data


def told(module: str, name: str, attributes: Any = None, *, base: str = "", content: Any = None) -> list[Any]:
    return [module, name, base, content, attributes, None, None]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nothing", 1),
        ("object", told("builtins", "eval")),
        ("object", told("subprocess", "Popen", {})),
        ("object", told("tempfile", "TemporaryDirectory", {})),
        ("object", told(__name__, "Dying", {})),
        ("object", told(__name__, "ran", {})),
        ("object", told(__name__, "nothing.at.all", {})),
        ("object", told("not.imported", "Thing", {})),
        ("object", told(__name__, "Colour", {})),
        ("object", told(__name__, "Slotted", [1])),
        ("object", [__name__, "Slotted", "", None, None, {"__init__": 1}, None]),
        ("object", [__name__, "Slotted", "", None, None, {"__class__": 1}, None]),
        ("object", told(__name__, "Raw", base="bytes", content=1 << 31)),
        ("object", told(__name__, "Whole", {})),
        ("member", [__name__, "Colour", "__class__"]),
        ("member", [__name__, "Point", "x"]),
        ("exception", ["eval", ["ran.append(1)"]]),
        ("exception", ["SystemExit", []]),
        ("path", ["eval", "1"]),
        ("fraction", ["1e999999999", 1]),
        ("decimal", 1),
        ("int", "9" * (1 << 20)),
        ("frame", ["VideoFrame", {}]),
        ("scalar", ["O", bytes(8)]),
        ("scalar", ["V8", bytes(8)]),
        ("array", ["O8", [1], "C", bytes(8)]),
        ("array", ["<f8", [1 << 40], "C", bytes(8)]),
        ("array", ["<f8", [1], "C", 0]),
        ("array", [[["a", "O"]], [1], "C", bytes(8)]),
        ("array", [[["a", "<i4", 1000]], [1], "C", bytes(4)]),
        ("array", ["i4,O", [1], "C", bytes(12)]),
        ("defaultdict", ["eval", {}]),
    ],
)
def test_nothing_hostile_is_run(word: str, said: Any) -> None:
    """No function is looked up, nothing is imported, no constructor and no finalizer is run, no memory is made up."""
    ran.clear()
    with pytest.raises((PackagingError, MalformedFrame)):
        returning.load(hostile(word, said))
    assert ran == []


@pytest.mark.parametrize("data", [b"", b"\xc1", returning.dump([1, "abc"])[0][:-1], pickle.dumps(Whole(1))])
def test_what_is_no_value(data: bytes) -> None:
    with pytest.raises(MalformedFrame):
        returning.load(data)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """They make a value, or one of two errors."""
    with contextlib.suppress(MalformedFrame, PackagingError):
        returning.load(data)


@pytest.mark.parametrize("value", ["\udc80", ["\udc80"]])
def test_text_that_is_none(value: Any) -> None:
    """A name of a file that is no UTF-8, say, is refused like anything else that cannot go back."""
    with pytest.raises(PackagingError, match="cannot be returned"):
        returning.dump(value)
