"""The node that is sent pickled objects: what it answers, and each of its errors."""

from __future__ import annotations

import base64
import math
from typing import Any

import pytest

from rmbus import NodeError
from rmbus.nodes import SerializedClassExecutor, SerializedClassExecutorNode
from rmbus.nodes.names import find
from rmbus.shipping import pickling
from rmbus.testing import run_node


class Tally:
    """Counts, and fails when it is told to."""

    limit = 10

    def __init__(self) -> None:
        self.count = 0

    def add(self, number: int, *, twice: bool = False) -> int:
        self.count += number * (2 if twice else 1)
        return self.count

    async def add_later(self, number: int) -> int:
        return self.add(number)

    def fail(self) -> None:
        raise KeyError("what the method says")

    def hold_a_lock(self) -> None:
        import threading

        self.lock = threading.Lock()

    @property
    def broken(self) -> int:
        raise AttributeError("of the property's own")


class Explosive:
    """Raises as it is loaded."""

    def __reduce__(self) -> Any:
        return math.sqrt, (-1,)


def text_of(obj: object) -> str:
    return base64.b64encode(pickling.dumps(obj)).decode()


def call(obj: object, method: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    request = {
        "serialized_object": obj if isinstance(obj, str) else text_of(obj),
        "method_name": method,
        "method_args": list(args),
        "method_kwargs": kwargs,
    }
    (frame,) = run_node(SerializedClassExecutor(), [request])
    answer: dict[str, Any] = frame.value
    return answer


def test_the_result_and_the_object_as_it_is_then() -> None:
    """State goes on from call to call by the text that comes back."""
    first = call(Tally(), "add", 3)
    assert first.keys() == {"result", "updated_serialized_object", "processed_by"}
    assert (first["result"], first["processed_by"]) == (3, "serializedclassexecutor")
    second = call(first["updated_serialized_object"], "add", 4, twice=True)
    assert second["result"] == 11
    again = pickling.loads(base64.b64decode(second["updated_serialized_object"]))
    assert again.count == 11


def test_a_method_without_arguments_needs_none() -> None:
    """The two lists may be left out, or be None."""
    request = {"serialized_object": text_of({"a": 1}), "method_name": "copy", "method_args": None}
    (frame,) = run_node(SerializedClassExecutor(), [request])
    assert frame.value["result"] == {"a": 1}


def test_an_async_method_is_awaited() -> None:
    """Its result is what it returns, not a coroutine."""
    assert call(Tally(), "add_later", 5)["result"] == 5


@pytest.mark.parametrize("missing", ["serialized_object", "method_name"])
def test_a_missing_key(missing: str) -> None:
    """It is a ValueError that names both."""
    request = {"serialized_object": text_of(Tally()), "method_name": "add"}
    del request[missing]
    with pytest.raises(ValueError, match="Input must contain 'serialized_object' and 'method_name' keys"):
        run_node(SerializedClassExecutor(), [request])


def test_input_that_is_no_dictionary() -> None:
    """The text is that of the other nodes."""
    with pytest.raises(ValueError, match="Input must be a dictionary"):
        run_node(SerializedClassExecutor(), ["add"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (5, "it must be base64 text, not int"),
        ("no base64!", "it is no base64"),
        (base64.b64encode(b"no pickle").decode(), "cannot be loaded|Error"),
        ("", "cut off"),
        (text_of(Tally())[:-8], "cut off|no base64"),
        (text_of(Explosive()), "ValueError: math domain error"),
    ],
)
def test_what_cannot_be_deserialized(text: Any, why: str) -> None:
    """It is a ValueError that says why."""
    with pytest.raises(ValueError, match=f"Cannot deserialize the object: .*({why})"):
        run_node(SerializedClassExecutor(), [{"serialized_object": text, "method_name": "add"}])


def test_a_method_that_there_is_not() -> None:
    """It is an AttributeError that names class and method."""
    with pytest.raises(AttributeError, match="Tally has no method 'multiply'"):
        call(Tally(), "multiply", 2)


def test_what_is_no_method() -> None:
    """It is a TypeError that says what it is."""
    with pytest.raises(TypeError, match="'limit' of Tally is not callable: it is a int"):
        call(Tally(), "limit")


def test_a_property_that_fails() -> None:
    """Its own AttributeError is told, not that it is missing."""
    with pytest.raises(AttributeError, match="of the property's own"):
        call(Tally(), "broken")


def test_what_the_method_raises_comes_as_it_is() -> None:
    """Its type, its message, and a traceback with the line that raised."""
    with pytest.raises(KeyError) as caught:
        call(Tally(), "fail")
    error = caught.value
    assert isinstance(error, NodeError)
    assert error.type_name == "KeyError"
    assert "what the method says" in error.message
    assert "in fail" in error.traceback_text
    assert 'raise KeyError("what the method says")' in error.traceback_text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("method_args", 5, "'method_args' must be a list, not int"),
        ("method_kwargs", [1], "'method_kwargs' must be a dictionary whose keys are names"),
        ("method_kwargs", {1: 2}, "'method_kwargs' must be a dictionary whose keys are names"),
        ("method_name", 5, "'method_name' must be a string, not int"),
    ],
)
def test_arguments_of_the_wrong_kind(key: str, value: object, text: str) -> None:
    """What is wrong is told."""
    request = {"serialized_object": text_of(Tally()), "method_name": "add", key: value}
    with pytest.raises(ValueError, match=text):
        run_node(SerializedClassExecutor(), [request])


def test_a_changed_object_that_cannot_be_pickled() -> None:
    """The attribute that is to blame is named."""
    with pytest.raises(NodeError, match=r"lock"):
        call(Tally(), "hold_a_lock")


def test_the_earlier_name() -> None:
    """It is the same class, by import and by name."""
    assert SerializedClassExecutorNode is SerializedClassExecutor is find("SerializedClassExecutorNode")
