"""Sums, asked for by name."""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Callable
from typing import Any, Final, cast

from rmbus.media import Frame
from rmbus.node import Node
from rmbus.nodes.asking import asked

_MAX_BITS: Final = 65_536
"""A power of whole numbers that would have more bits is refused: it could keep the node busy for ever."""


class Calculator(Node):
    """Takes `{"operation": ..., "args": [...]}` and gives `{"operation", "args", "result", "processed_by"}`.

    The operations are `add`, `subtract`, `multiply`, `divide`, `power` and `modulo`. They go from left to right over
    two or more numbers: `subtract` of 10, 1 and 2 is 7. `processed_by` is the name of the node.

    What cannot be calculated is a ValueError, raised as such also where the node runs elsewhere: "Input must be a
    dictionary", "Input must contain 'operation' and 'args' keys", "Unknown operation: ...", "Operation '...' requires
    at least 2 arguments", "Division by zero", "Modulo by zero", and others that name the operation.
    """

    deterministic = True

    def process(self, frame: Frame) -> dict[str, Any]:
        """Return the result, with what was asked."""
        request = asked(frame, ("operation", "args"))
        operation, args = request["operation"], request["args"]
        return {
            "operation": operation,
            "args": args,
            "result": _calculate(operation, args),
            "processed_by": self.name,
        }


def _calculate(operation: object, args: object) -> Any:
    step = _STEPS.get(operation) if isinstance(operation, str) else None
    if step is None:
        raise ValueError(f"Unknown operation: {operation}")
    if not isinstance(args, list | tuple):
        raise ValueError(f"'args' must be a list of numbers, not {type(args).__name__}")
    values = cast("list[Any]", args)
    if len(values) < 2:
        raise ValueError(f"Operation '{operation}' requires at least 2 arguments")
    for each in values:
        if not isinstance(each, numbers.Real):
            raise ValueError(f"Operation '{operation}' takes numbers, not {type(each).__name__}")
    try:
        return functools.reduce(step, values)
    except OverflowError as error:
        raise ValueError(f"The result of '{operation}' is too large") from error


def _divide(one: Any, other: Any) -> Any:
    if other == 0:
        raise ValueError("Division by zero")
    return one / other


def _modulo(one: Any, other: Any) -> Any:
    if other == 0:
        raise ValueError("Modulo by zero")
    return one % other


def _power(one: Any, other: Any) -> Any:
    if one == 0 and other < 0:
        raise ValueError("Division by zero")
    whole = isinstance(one, numbers.Integral) and isinstance(other, numbers.Integral)
    if whole and abs(one) > 1 and other * math.log2(abs(one)) > _MAX_BITS:
        raise OverflowError
    result = one**other
    if not isinstance(result, numbers.Real):
        raise ValueError("A fractional power of a negative number is no real number")
    return result


_STEPS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": _divide,
    "power": _power,
    "modulo": _modulo,
}
