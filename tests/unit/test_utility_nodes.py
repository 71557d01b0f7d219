"""The calculator and the text node: every operation, every error text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rmbus import Data, NodeError
from rmbus.nodes import Calculator, CalculatorNode, TextProcessor, TextProcessorNode
from rmbus.nodes.names import find
from rmbus.testing import run_node, video

NO_DICTIONARY = [None, 5, "add", [1, 2]]


def calculate(operation: Any, *args: Any) -> Any:
    (frame,) = run_node(Calculator(), [{"operation": operation, "args": list(args)}])
    return frame.value


def process(text: Any, *operations: Any) -> Any:
    (frame,) = run_node(TextProcessor(), [{"text": text, "operations": list(operations)}])
    return frame.value


@pytest.mark.parametrize(
    ("operation", "args", "result"),
    [
        ("add", [10, 20], 30),
        ("add", [1, 2, 3, 4.5], 10.5),
        ("subtract", [10, 4], 6),
        ("subtract", [10, 1, 2], 7),
        ("multiply", [6, 7], 42),
        ("multiply", [2, 3, 4], 24),
        ("divide", [20, 4], 5.0),
        ("divide", [1, 4], 0.25),
        ("power", [2, 10], 1024),
        ("power", [2, -1], 0.5),
        ("power", [2, 3, 2], 64),
        ("power", [1, 10**30], 1),
        ("power", [-1, 10**30], 1),
        ("modulo", [17, 5], 2),
        ("modulo", [-7, 3], 2),
        ("modulo", [7.5, 2], 1.5),
    ],
)
def test_every_operation(operation: str, args: list[float], result: float) -> None:
    """The answer has what was asked, the result, and the name of the node."""
    assert calculate(operation, *args) == {
        "operation": operation,
        "args": args,
        "result": result,
        "processed_by": "calculator",
    }


@pytest.mark.parametrize(
    ("operation", "args", "text"),
    [
        ("divide", [1, 0], "Division by zero"),
        ("divide", [1, 2, 0.0], "Division by zero"),
        ("power", [0, -1], "Division by zero"),
        ("modulo", [1, 0], "Modulo by zero"),
        ("sqrt", [4, 2], "Unknown operation: sqrt"),
        ("sqrt", [], "Unknown operation: sqrt"),
        (["add"], [1, 2], "Unknown operation: ['add']"),
        ("add", [], "Operation 'add' requires at least 2 arguments"),
        ("multiply", [1], "Operation 'multiply' requires at least 2 arguments"),
        ("add", ["a", "b"], "Operation 'add' takes numbers, not str"),
        ("power", [10**6, 10**6], "The result of 'power' is too large"),
        ("power", [2, 10**400], "The result of 'power' is too large"),
        ("power", [2.5, 10**4], "The result of 'power' is too large"),
        ("power", [-8, 0.5], "A fractional power of a negative number is no real number"),
    ],
)
def test_what_cannot_be_calculated(operation: Any, args: list[Any], text: str) -> None:
    """Each has its text, and arrives as a ValueError."""
    with pytest.raises(NodeError) as caught:
        calculate(operation, *args)
    assert isinstance(caught.value, ValueError)
    assert caught.value.message == text


@pytest.mark.parametrize("node", [Calculator, TextProcessor])
@pytest.mark.parametrize("value", NO_DICTIONARY)
def test_input_that_is_no_dictionary(node: type[Any], value: object) -> None:
    """Other values are refused by the same text."""
    with pytest.raises(ValueError, match="Input must be a dictionary"):
        run_node(node(), [Data(value)])


def test_a_picture_is_no_dictionary() -> None:
    """Frames of other kinds are refused, too."""
    with pytest.raises(ValueError, match="Input must be a dictionary"):
        run_node(Calculator(), video(1))


@pytest.mark.parametrize("value", [{}, {"operation": "add"}, {"args": [1, 2]}])
def test_the_calculator_needs_both_keys(value: dict[str, object]) -> None:
    """What is missing is told with what is needed."""
    with pytest.raises(ValueError, match="Input must contain 'operation' and 'args' keys"):
        run_node(Calculator(), [value])


def test_args_are_a_list() -> None:
    """A number alone is none."""
    with pytest.raises(ValueError, match="'args' must be a list of numbers, not int"):
        run_node(Calculator(), [{"operation": "add", "args": 3}])


def test_a_nan_goes_through() -> None:
    """What Python calculates with floats is left as it is."""
    assert math.isnan(calculate("add", math.nan, 1)["result"])


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ("uppercase", "HELLO BIG WORLD"),
        ("lowercase", "hello big world"),
        ("reverse", "dlroW giB olleH"),
        ("word_count", 3),
        ("char_count", 15),
        ("title_case", "Hello Big World"),
        ("remove_spaces", "HelloBigWorld"),
        ("first_word", "Hello"),
        ("last_word", "World"),
        ("shout", "Unknown operation: shout"),
    ],
)
def test_every_text_operation(operation: str, result: object) -> None:
    """Each is in the results by its name; an unknown one is named there."""
    assert process("Hello Big World", operation)["results"] == {operation: result}


def test_text_operations_do_not_follow_each_other() -> None:
    """Each is applied to the text as it came, and the answer has what was asked."""
    assert process("ab cd", "uppercase", "reverse") == {
        "text": "ab cd",
        "operations": ["uppercase", "reverse"],
        "results": {"uppercase": "AB CD", "reverse": "dc ba"},
        "processed_by": "textprocessor",
    }


@pytest.mark.parametrize("text", ["", "  \t"])
def test_text_without_words(text: str) -> None:
    """It has no words, and so its first and its last are empty."""
    results = process(text, "word_count", "first_word", "last_word", "reverse")["results"]
    assert results == {"word_count": 0, "first_word": "", "last_word": "", "reverse": text[::-1]}


def test_no_operation_gives_no_result() -> None:
    """An empty list is answered."""
    assert process("a")["results"] == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"text": "a"}, "Input must contain 'text' and 'operations' keys"),
        ({"operations": []}, "Input must contain 'text' and 'operations' keys"),
        ({"text": 5, "operations": []}, "'text' must be a string"),
        ({"text": "a", "operations": "reverse"}, "'operations' must be a list of names"),
        ({"text": "a", "operations": [1]}, "'operations' must be a list of names"),
    ],
)
def test_text_input_that_is_none(value: dict[str, object], text: str) -> None:
    """What is wrong is told by a ValueError."""
    with pytest.raises(ValueError, match=text):
        run_node(TextProcessor(), [value])


def test_processed_by_is_the_name_that_a_node_was_given() -> None:
    """So two calculators can be told apart."""
    (frame,) = run_node(Calculator().options(name="till"), [{"operation": "add", "args": [1, 2]}])
    assert frame.value["processed_by"] == "till"


def test_the_earlier_names() -> None:
    """They are the same classes, by import and by name."""
    assert CalculatorNode is Calculator is find("CalculatorNode") is find("Calculator")
    assert TextProcessorNode is TextProcessor is find("TextProcessorNode") is find("TextProcessor")
