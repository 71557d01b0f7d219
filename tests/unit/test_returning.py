"""What comes back from a node's process: plain data and the user's own classes, and nothing that is run."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import pickle
import tempfile
import uuid
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest

from rmbus.errors import MalformedFrame, PackagingError
from rmbus.shipping import returning

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
        bytearray(b"ab"),
        slice(1, 2),
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
    ],
)
def test_arrays(array: Any) -> None:
    found = back(array)
    assert (found == array).all()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


def test_a_large_array_lies_beside_the_pickle() -> None:
    """It is a view of the buffer that came, without a copy."""
    array = np.arange(100_000, dtype=np.uint8)
    data, buffers = returning.dump({"array": array})
    assert len(data) < 300
    (buffer,) = buffers
    came = np.frombuffer(bytes(buffer), np.uint8)
    assert np.shares_memory(returning.load(data, [came])["array"], came)


def test_an_object_is_made_of_its_state_alone() -> None:
    """Its `__init__` is not run; its attributes, slots and shared references are there."""
    obj = Slotted()
    obj.a, obj.b = 5, [1]  # type: ignore[attr-defined]  # into its dictionary
    obj.again = obj.b  # type: ignore[attr-defined]  # likewise
    named = Named([1, 2])
    named.name = "n"
    ran.clear()
    found, other = back((obj, named))
    assert ran == []
    assert (found.a, found.b, found.again is found.b) == (5, [1], True)
    assert (list(other), other.name, type(other)) == ([1, 2], "n", Named)


def test_its_own_word_for_its_state_is_taken() -> None:
    found = back(Staged())
    assert (found.value, found.cache) == (1, None)


@pytest.mark.parametrize(
    ("value", "about"),
    [
        (print, "is code"),
        (lambda: 1, "is code"),
        (tempfile, "is code"),
        (Colour, "is code"),
        (Reducing(), "is code"),
        (tempfile.TemporaryDirectory, "is code"),
    ],
)
def test_code_does_not_go_back(value: object, about: str) -> None:
    with pytest.raises(PackagingError, match=about):
        returning.dump({"inner": value})


def hostile(reduced: Any) -> bytes:
    """Return a pickle that somebody hostile has made."""

    class Hostile:
        def __reduce__(self) -> Any:
            return reduced

    return pickle.dumps(Hostile(), protocol=5)


@pytest.mark.parametrize(
    "reduced",
    [
        (ran.append, ("called",)),
        (eval, ("ran.append('evaluated')",)),
        (getattr, (ran, "append")),
        (Slotted, ()),
        (returning.dump, (1,)),
        (bytes, (1 << 40,)),
        (range, (1 << 40,)),
        (returning._class, ("builtins", "eval")),
        (returning._empty, ("subprocess", "Popen")),
        (returning._empty, (__name__, "Dying")),
        (returning._empty, (__name__, "Reducing")),
        (returning._empty, (__name__, "ran")),
        (returning._empty, (__name__, "nothing.at.all")),
        (returning._empty, ("not.imported", "Thing")),
        (returning._member, (__name__, "Colour", "__class__")),
        (returning._member, (__name__, "Point", "x")),
    ],
)
def test_nothing_hostile_is_run(reduced: Any) -> None:
    """No function is looked up, nothing is imported, no constructor and no finalizer is run."""
    ran.clear()
    with pytest.raises((PackagingError, MalformedFrame)):
        returning.load(hostile(reduced))
    assert ran == []


@pytest.mark.parametrize("data", [b"", b"garbage", pickle.dumps([1, 2])[:-3], b"\x80\x05."])
def test_what_is_no_pickle(data: bytes) -> None:
    with pytest.raises(MalformedFrame):
        returning.load(data)
