"""A remote failure, rebuilt from names and text."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import Any

import pytest

from rmbus import errors
from rmbus.errors import NodeError, RmbusError, node_error
from rmbus.runtime.failures import type_name


class Astray(LookupError):
    """One that wants more than a text."""

    def __init__(self, place: str, depth: int) -> None:
        super().__init__(place, depth)
        self.place = place

    def __reduce__(self) -> Any:
        raise AssertionError("nothing is pickled")


class Camera:
    class Lost(Exception):
        """The error of a class, kept within it."""


class Sealed(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no further class may be made")


def rebuilt(error: Exception) -> NodeError:
    """Return an error as it arrives."""
    return node_error("text", node="edges", host="garage", type_name=type_name(error), traceback_text="File far.py")


@pytest.mark.parametrize(
    "error",
    [ValueError(), FileNotFoundError(), UnicodeDecodeError("utf-8", b"", 0, 1, ""), Astray("a", 1), Camera.Lost(),
     errors.Stalled([], 1.0), errors.ConfigurationError("A", [], "")],
)  # fmt: skip
def test_both_types(error: Exception) -> None:
    """A builtin one, one of the user's that is imported here, one within a class: each is caught by its own name."""
    found = rebuilt(error)
    assert isinstance(found, NodeError)
    assert isinstance(found, type(error))
    assert isinstance(found, RmbusError)
    assert type(found).__name__ == type(error).__name__
    assert found.type_name == type_name(error)
    assert str(found).endswith("text (node 'edges' on garage)\n\nremote traceback:\nFile far.py")


def test_a_type_that_is_not_known_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name tells; and its module is not imported for it."""
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    found = node_error("text", node="a", host="b", type_name="wave.Error")
    assert type(found) is NodeError
    assert "wave.Error: text" in str(found)
    assert "wave" not in sys.modules


@pytest.mark.parametrize(
    "name", ["SystemExit", "KeyboardInterrupt", "StopIteration", "print", "sys.path", "", ".", "a..b"]
)
def test_names_that_mean_no_error(name: str) -> None:
    """What would end the caller, and what is no error, is not made."""
    assert type(node_error("text", node="a", host="b", type_name=name)) is NodeError


def test_a_class_that_cannot_be_mixed() -> None:
    """One that refuses heirs is told by its name."""
    found = rebuilt(Sealed())
    assert type(found) is NodeError
    assert found.type_name.endswith("Sealed")


def test_nothing_is_run_to_find_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's `__getattr__`, a property, a pickle: the far end's words reach none of them."""

    def run(*_: object) -> Any:
        raise AssertionError("it was run")

    lazy = ModuleType("lazy")
    lazy.__dict__["__getattr__"] = run

    class Meta(type):
        def __getattr__(cls, name: str) -> Any:
            run()

    class Outer(metaclass=Meta):
        pass

    lazy.__dict__["Outer"] = Outer
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    monkeypatch.setattr(pickle, "loads", run)
    for name in ("lazy.Error", "lazy.Outer.Error", "lazy.Outer.__class__"):
        assert type(node_error("text", node="a", host="b", type_name=name)) is NodeError
