"""What the types of the errors promise. Read by mypy and pyright; as tests they say the same at run time."""

from __future__ import annotations

from typing import assert_type

import rmbus
from rmbus.errors import NodeError, RmbusError, node_error


def test_node_error_fields() -> None:
    """A NodeError's facts have plain types, and the class is the one that the package exports."""
    error = node_error("broken", node="edges", host="here", type_name="ValueError", frame=40)
    assert_type(error, NodeError)
    assert_type(error.frame, int | None)
    assert_type(error.output, tuple[str, ...])
    assert isinstance(error, ValueError)
    assert rmbus.NodeError is NodeError


def test_package_is_typed() -> None:
    """Names that are imported late have their own types, not object or Any."""
    assert_type(rmbus.RmbusError, type[RmbusError])
    assert_type(rmbus.__version__, str)
    assert rmbus.RmbusError is RmbusError
