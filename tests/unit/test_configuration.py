"""A constructor read as a schema, and configurations held against it."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional, Protocol, TypedDict

import attrs
import jsonschema  # type: ignore[import-untyped]
import pytest

from rmbus import Node
from rmbus.annotations import Misfit, fit, json_schema, show
from rmbus.configuration import Schema, schema_of, show_default
from rmbus.errors import ConfigurationError, PipelineError
from rmbus.runtime.applying import check_config

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Box(TypedDict):
    left: int
    label: str


class Silent(Protocol):
    def be_silent(self) -> None: ...


Pixels = NewType("Pixels", int)


class Detector(Node):
    """Finds things in pictures.

    Args:
        model, fallback: the weights;
            of the large model by default.
        threshold (float): how sure it must be: 0 to 1.
        colour: of the boxes.
    """

    def __init__(  # type: ignore[no-untyped-def]
        self,
        model: Path,
        threshold: float = 0.5,
        *,
        fallback: Path | None = None,
        colour: Colour = Colour.RED,
        sizes: Sequence[int] = (1, 2),
        odd: OnlyForCheckers | None = None,
        untyped=3,
    ) -> None:
        self.given = (model, threshold, fallback, colour, sizes, odd, untyped)


def misfits(value: object, hint: Any) -> list[str]:
    found: list[Misfit] = []
    fit(value, hint, "it", found)
    return [str(each) for each in found]


def faults(schema: Schema, **config: object) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        schema.fit(config)
    return list(caught.value.faults)


# --- the schema -----------------------------------------------------------------------------------------------------


def test_a_constructor_is_read() -> None:
    """Names, types, defaults and meanings; a name that only type checkers know is any type."""
    schema = schema_of(Detector, "Detector")
    told = [(each.name, show(each.hint), show_default(each), each.meaning) for each in schema.parameters]
    assert schema.meaning == "Finds things in pictures."
    assert told == [
        ("model", "Path", "", "the weights; of the large model by default."),
        ("threshold", "float", "0.5", "how sure it must be: 0 to 1."),
        ("fallback", "Path | None", "None", "the weights; of the large model by default."),
        ("colour", "Colour (RED, BLUE)", "RED", "of the boxes."),
        ("sizes", "Sequence[int]", "(1, 2)", ""),
        ("odd", "any", "None", ""),
        ("untyped", "any", "3", ""),
    ]
    assert [each.name for each in schema.parameters if each.is_required] == ["model"]


def test_constructors_of_other_kinds_are_read() -> None:
    """None of its own, a base's, those that dataclasses and attrs write, and one with further keywords."""

    class Plain(Node):
        pass

    class Heir(Detector):
        """Finds more."""

    @dataclass(eq=False)
    class Data(Node):
        """One.

        Attributes:
            size: how large.
        """

        size: int = 3

    @attrs.define(eq=False, slots=False)
    class Attrs(Node):
        size: int
        colours: list[Colour] = attrs.field(factory=list)

    class Open(Node):
        def __init__(self, a: int, *rest: int, **options: int) -> None: ...

    class Nameless(Node):
        def __init__(self, a: int, /) -> None: ...

    assert schema_of(Plain).parameters == ()
    assert [each.meaning for each in schema_of(Heir).parameters][:2] == [
        "the weights; of the large model by default.",
        "how sure it must be: 0 to 1.",
    ]
    assert [(each.name, each.hint, each.default, each.meaning) for each in schema_of(Data).parameters] == [
        ("size", int, 3, "how large.")
    ]
    assert [(each.name, show(each.hint)) for each in schema_of(Attrs).parameters] == [
        ("size", "int"),
        ("colours", "list[Colour (RED, BLUE)]"),
    ]
    assert schema_of(Open).fit({"a": 1, "b": 2}) == {"a": 1, "b": 2}
    assert faults(schema_of(Open), a=1, b="2") == ["b: str where int is expected"]
    assert faults(schema_of(Nameless))[0].startswith("a: has no default, and cannot be given by name")


# --- configurations -------------------------------------------------------------------------------------------------


def test_everything_wrong_is_told_at_once() -> None:
    """Unknown names with those that are near, what is missing, and what has the wrong type, with both types."""
    with pytest.raises(PipelineError) as caught:
        schema_of(Detector, "Detector").fit({"treshold": 1, "colour": "green", "sizes": [1, "2"], "fallback": 5})
    assert str(caught.value).splitlines() == [
        "Detector cannot be built so:",
        "  treshold: there is no such parameter; did you mean threshold?",
        "  colour: 'green' (str) where Colour (RED, BLUE) is expected",
        "  sizes[1]: str where int is expected",
        "  fallback: int where Path | None is expected",
        "  model: is missing: Path, the weights; of the large model by default.",
        "`rmbus nodes Detector` shows what it takes",
    ]


def test_what_fits_is_given_as_it_is_wanted() -> None:
    """Text becomes a path, a member's value the member; the default passes whatever its hint says; the rest stays."""
    sizes = [1, 2]
    fitted = schema_of(Detector).fit(
        {"model": "a.onnx", "colour": "blue", "sizes": sizes, "odd": object, "untyped": {}}
    )
    assert fitted["model"] == Path("a.onnx")
    assert fitted["colour"] is Colour.BLUE
    assert fitted["sizes"] is sizes
    assert Detector(**fitted).given[0] == Path("a.onnx")

    class Loose(Node):
        def __init__(self, size: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013 - written by many

    assert schema_of(Loose).fit({"size": None}) == {"size": None}


def test_values_are_not_told() -> None:
    """An error names types: what was given by mistake may be a password."""
    assert "hunter2" not in faults(schema_of(Detector), model=["hunter2"])[0]


def test_a_node_that_is_built_takes_no_configuration() -> None:
    """Nor is it left out in silence."""
    with pytest.raises(ConfigurationError, match=r"size: the node is built already"):
        check_config(Detector(Path("a")), {"size": 1})
    check_config(Detector(Path("a")), None)
    check_config("of another host", {"size": 1})
    with pytest.raises(ConfigurationError, match="did you mean buffer_size"):
        check_config("BufferNode", {"bufer_size": 1})


# --- types ----------------------------------------------------------------------------------------------------------

FITS: list[tuple[Any, Any]] = [
    (int, 3),
    (bool, True),
    (float, 3),
    (float, 3.5),
    (complex, 1),
    (str, "a"),
    (bytes, b"a"),
    (None, None),
    (Any, object()),
    (object, 3),
    ("nowhere to be found", 3),
    (Optional[int], None),  # noqa: UP045 - both forms are written
    (int | str, "a"),
    (int | list[str], ["a"]),
    (Literal["a", 1], 1),
    (Colour, Colour.RED),
    (Path, Path("a")),
    (str | os.PathLike[str], Path("a")),
    (list[int], [1, 2]),
    (list[list[int]], [[1], []]),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[int, str], (1, "a")),
    (set[int], {1}),
    (dict[str, int], {"a": 1}),
    (Mapping[str, Sequence[int]], {"a": (1,)}),
    (Iterable[int], iter([1])),
    (Callable[[Any], Any], print),
    (type[Node], Detector),
    (Annotated[int, "pixels"], 3),
    (Pixels, 3),
    (Box, {"left": 1, "label": "a"}),
    (Silent, 3),
]


@pytest.mark.parametrize(("hint", "value"), FITS)
def test_fits(hint: Any, value: object) -> None:
    """What is of the type passes, as the very object that was given."""
    found: list[Misfit] = []
    assert fit(value, hint, "it", found) is value or hint is Box
    assert found == []


MISFITS: list[tuple[Any, Any, list[str]]] = [
    (int, True, ["it: bool where int is expected"]),
    (float, False, ["it: bool where float is expected"]),
    (int, 1.0, ["it: float where int is expected"]),
    (bool, 1, ["it: int where bool is expected"]),
    (str, None, ["it: NoneType where str is expected"]),
    (int | None, "a", ["it: str where int | None is expected"]),
    (list[int] | None, ["a"], ["it[0]: str where int is expected"]),
    (Literal["a", "b"], "c", ["it: 'c' (str) where 'a' | 'b' is expected"]),
    (Literal[1], True, ["it: True (bool) where 1 is expected"]),
    (Colour, "green", ["it: 'green' (str) where Colour (RED, BLUE) is expected"]),
    (Path, 3, ["it: int where Path is expected"]),
    (list[int], (1,), ["it: tuple where list[int] is expected"]),
    (list[int], [1, "a", None], ["it[1]: str where int is expected", "it[2]: NoneType where int is expected"]),
    (list[list[int]], [[1], [True]], ["it[1][0]: bool where int is expected"]),
    (tuple[int, str], (1,), ["it: 1 items where int, str are expected"]),
    (tuple[int, str], (1, 2), ["it[1]: int where str is expected"]),
    (Sequence[str], "abc", ["it: str where Sequence[str] is expected"]),
    (dict[str, int], {"a": "b", "c": 1}, ["it['a']: str where int is expected"]),
    (dict[str, int], {1: 1}, ["it[1]: the key is int where str is expected"]),
    (Callable[[Any], Any], 3, ["it: int where function is expected"]),
    (type[Node], int, ["it: <class 'int'> (type) where type[Node] is expected"]),
    (Annotated[int, "pixels"], "3", ["it: str where int is expected"]),
    (Pixels, "3", ["it: str where int is expected"]),
    (Box, {"left": "1", "label": "a"}, ["it['left']: str where int is expected"]),
    (Box, {"left": 1, "lebel": "a"}, ["it['label']: is missing", "it['lebel']: there is none of that name"]),
]


@pytest.mark.parametrize(("hint", "value", "told"), MISFITS)
def test_misfits(hint: Any, value: object, told: list[str]) -> None:
    """What is not of the type is told with its path, its type and the one that is expected."""
    assert misfits(value, hint) == told


@pytest.mark.parametrize(
    ("hint", "given", "wanted"),
    [
        (Path, "a/b", Path("a/b")),
        (Path | None, "a/b", Path("a/b")),
        (list[Path], ["a", "b"], [Path("a"), Path("b")]),
        (dict[str, Colour], {"a": "red"}, {"a": Colour.RED}),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[Path, Colour], ["a", "red"], (Path("a"), Colour.RED)),
        (set[str], ["a", "b"], {"a", "b"}),
    ],
)
def test_what_json_can_hold_stands_for_what_it_cannot(hint: Any, given: object, wanted: object) -> None:
    """And what was given is left as it was."""
    before = repr(given)
    found: list[Misfit] = []
    fitted = fit(given, hint, "it", found)
    assert (fitted, type(fitted), found) == (wanted, type(wanted), [])
    assert repr(given) == before


# --- JSON Schema ----------------------------------------------------------------------------------------------------


def test_json_schema_of_a_class() -> None:
    """It is valid, tells meanings and defaults, and agrees with `fit` on what JSON can say."""
    schema = schema_of(Detector, "Detector")
    told = schema.to_json()
    jsonschema.Draft202012Validator.check_schema(told)
    assert told["required"] == ["model"]
    assert told["additionalProperties"] is False
    assert told["properties"]["colour"] == {
        "enum": ["red", "blue"],
        "description": "of the boxes.",
        "default": "red",
    }
    assert told["properties"]["sizes"] == {"type": "array", "items": {"type": "integer"}, "default": [1, 2]}
    assert told["properties"]["odd"] == {"default": None}


@pytest.mark.parametrize(
    "hint",
    [int, float, bool, str, None, Colour, Path, Path | None, Literal["a", 1], list[int], tuple[int, str],
     dict[str, float], Mapping[str, list[bool]], set[str], Sequence[Path], Box, Literal["red"] | None],
)  # fmt: skip
def test_json_schema_agrees_with_what_fits(hint: Any) -> None:
    """Of each JSON value both say the same."""
    values: list[Any] = [
        None, True, 1, 1.5, "a", "red", "green", [], [1], [True], ["a"], [1, "a"], [1, "a", 2], {}, {"a": 1},
        {"a": "b"}, {"a": [True]}, {"left": 1, "label": "a"}, {"left": 1}, {"left": 1, "label": "a", "more": 1},
    ]  # fmt: skip
    validator = jsonschema.Draft202012Validator(json_schema(hint))
    by_schema = [validator.is_valid(value) for value in values]
    by_fit = [misfits(value, hint) == [] for value in values]
    assert by_schema == by_fit
    assert any(by_fit)


def test_what_json_cannot_hold_is_a_comment() -> None:
    """A function, say; beside it what JSON can hold is told."""
    assert json_schema(Callable[[int], int]) == {"$comment": "Python: function"}
    assert json_schema(str | os.PathLike[str]) == {"type": "string", "$comment": "Python: PathLike[str]"}
