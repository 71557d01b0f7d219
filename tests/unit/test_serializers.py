"""The serializers: what they hold comes back, what they do not is a SerializationError."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import math
import pickle
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbus.errors import RmbusError
from rmbus.serializers import JsonSerializer, MsgpackSerializer, PickleSerializer, SerializationError, Serializer

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)
EVERY = [JsonSerializer(), MsgpackSerializer(), PickleSerializer()]


@attrs.frozen
class Box:
    left: int
    name: str


class Bomb:
    def __reduce__(self) -> Any:
        return threading.Event, ()


@pytest.mark.parametrize("serializer", EVERY, ids=lambda each: type(each).__name__)
@given(value=JSON)
def test_plain_values_come_back(serializer: Serializer, value: object) -> None:
    """All three hold what JSON holds."""
    assert serializer.deserialize(serializer.serialize(value)) == value


@pytest.mark.parametrize("serializer", EVERY, ids=lambda each: type(each).__name__)
@given(data=st.binary(max_size=200))
def test_bytes_of_anything(serializer: Serializer, data: bytes) -> None:
    """They give a value or a SerializationError, and nothing else."""
    with contextlib.suppress(SerializationError):
        serializer.deserialize(data)


@pytest.mark.parametrize("serializer", EVERY, ids=lambda each: type(each).__name__)
def test_what_cannot_be_serialized(serializer: Serializer) -> None:
    """A lock is refused by each, and the error is one of ours."""
    with pytest.raises(SerializationError) as caught:
        serializer.serialize({"held": [1, threading.Lock()]})
    assert isinstance(caught.value, RmbusError)
    assert "lock" in str(caught.value)


@pytest.mark.parametrize("serializer", [MsgpackSerializer, PickleSerializer, JsonSerializer])
def test_the_limit_holds_both_ways(serializer: type[Serializer]) -> None:
    """What is over it is neither made nor read."""
    small, large = serializer(limit_bytes=100), serializer()
    data = large.serialize("x" * 200)
    with pytest.raises(SerializationError, match="over the limit of 100"):
        small.deserialize(data)
    with pytest.raises(SerializationError, match="over the limit of 100"):
        small.serialize("x" * 200)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": {1, 2}}, b"bytes", "\ud800"])
def test_what_json_cannot_hold(value: object) -> None:
    """Where other libraries write what no parser reads, this one refuses."""
    with pytest.raises(SerializationError, match="cannot be JSON"):
        JsonSerializer().serialize(value)


@pytest.mark.parametrize("text", ["", "{", "NaN", "-Infinity", "[1,]", "[" * 100_000])
def test_what_is_no_json(text: str) -> None:
    """It is refused, NaN and great depth too."""
    with pytest.raises(SerializationError, match="no JSON"):
        JsonSerializer().deserialize(text.encode())


@pytest.mark.parametrize("serializer", [MsgpackSerializer(), PickleSerializer()], ids=["msgpack", "pickle"])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.zeros((0, 3)),
        np.array(7),
        np.arange(6).reshape(2, 3).T,
        np.array(["a", "bc"]),
    ],
    ids=["matrix", "empty", "scalar", "transposed", "text"],
)
def test_arrays_come_back(serializer: Serializer, array: np.ndarray[Any, Any]) -> None:
    """With type, shape and content."""
    found = serializer.deserialize(serializer.serialize({"deep": [array]}))["deep"][0]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert (found == array).all()


def test_msgpack_makes_dictionaries_of_classes() -> None:
    """As `Data` does."""
    serializer = MsgpackSerializer()
    assert serializer.deserialize(serializer.serialize([Box(1, "b"), (1, b"x")])) == [
        {"left": 1, "name": "b"},
        [1, b"x"],
    ]


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset("ab"),
        (1, 2j),
        bytearray(b"x"),
        OrderedDict(a=1),
        Counter("aab"),
        defaultdict(list, a=[1]),
        deque([1, 2], 5),
        datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC),
        datetime.timedelta(3),
        decimal.Decimal("1.5"),
        np.float32(2.5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pickles_of_plain_values_are_loaded(value: object) -> None:
    """Without leave."""
    serializer = PickleSerializer()
    found = serializer.deserialize(serializer.serialize(value))
    assert found == value
    assert type(found) is type(value)


def test_other_pickles_need_leave() -> None:
    """The error names the class and the leave; with it, or trusted, the object comes back."""
    data = PickleSerializer().serialize(Box(1, "b"))
    name = f"{Box.__module__}.Box"
    with pytest.raises(SerializationError, match=rf"refers to {name}.*allow=\['{name}'\]"):
        PickleSerializer().deserialize(data)
    assert PickleSerializer(allow=[Box]).deserialize(data) == Box(1, "b")
    assert PickleSerializer(allow=[name]).deserialize(data) == Box(1, "b")
    assert PickleSerializer(trusted=True).deserialize(data) == Box(1, "b")


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Bomb()),
        pickle.dumps(print),
        pickle.dumps(range(10**9)),
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x08builtins\x94\x8c\x15object.__subclasses__\x94\x93\x94.",
    ],
    ids=["threads", "print", "range", "system", "dotted"],
)
def test_pickles_that_do_something_are_refused(data: bytes) -> None:
    """Before anything is called."""
    with pytest.raises(SerializationError, match="refers to"):
        PickleSerializer().deserialize(data)


def test_functions_of_a_script_travel_in_trusted_pickles() -> None:
    """By value, as cloudpickle does it."""
    serializer, offset = PickleSerializer(trusted=True), 3
    assert serializer.deserialize(serializer.serialize(lambda n: n + offset))(4) == 7
