"""Values held against the type hints of parameters, and type hints told to people and as JSON Schema. Pure."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Final, Literal, NewType, TypeVar, Union, get_args, get_origin

import attrs


@attrs.frozen
class Misfit:
    """A value that does not fit its hint.

    Attributes:
        path: where it is: `options['crf']`.
        text: what is wrong with it.
    """

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


_FUNCTION: Final[Any] = collections.abc.Callable


def fit(value: Any, hint: Any, path: str, misfits: list[Misfit]) -> Any:
    """Return a value as its hint wants it, and add to the list what does not fit.

    What JSON cannot hold may be given as what it can: the text of a path, the value of an enumeration's member, a list
    for a tuple or a set. Nothing else is converted.
    """
    hint = plain(hint)
    origin = get_origin(hint)
    if _says_nothing(hint):
        return value
    if origin in (Union, types.UnionType):
        return _fit_union(value, hint, path, misfits)
    if origin is Literal:
        if not any(type(value) is type(each) and value == each for each in get_args(hint)):
            misfits.append(Misfit(path, f"{_told(value)} where {show(hint)} is expected"))
        return value
    if typing.is_typeddict(hint):
        return _fit_fields(value, hint, path, misfits)
    kind = _class_of(hint)
    if kind is None:
        return value
    if issubclass(kind, type):
        return _fit_class(value, hint, path, misfits)
    value = _from_json(value, kind)
    if not _is_of(value, kind):
        misfits.append(Misfit(path, _wrong(value, hint)))
        return value
    return _fit_items(value, kind, get_args(hint), path, misfits)


def plain(hint: Any) -> Any:
    """Return a hint without what only says more of it: `Annotated`, `Final`, `NewType`, names of types."""
    while True:
        if hint is None:
            return type(None)
        if isinstance(hint, NewType):
            hint = hint.__supertype__
        elif get_origin(hint) in (Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired):
            hint = get_args(hint)[0]
        elif type(hint).__name__ == "TypeAliasType":  # `type Rate = ...` of Python 3.12
            hint = hint.__value__
        elif isinstance(hint, TypeVar) and hint.__bound__ is not None:
            hint = hint.__bound__
        else:
            return hint


def show(hint: Any) -> str:
    """Return a hint as people write it."""
    hint = plain(hint)
    origin, args = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    if hint is Any:
        return "any"
    if origin in (Union, types.UnionType):
        return " | ".join(show(each) for each in args)
    if origin is Literal:
        return " | ".join(repr(each) for each in args)
    if _FUNCTION in (origin, hint):
        return "function"
    kind = _class_of(hint)
    if kind is None:
        return repr(hint).replace("typing.", "")
    name = kind.__qualname__.rpartition("<locals>.")[2]
    if issubclass(kind, enum.Enum):
        return f"{name} ({', '.join(each.name for each in kind)})"
    return f"{name}[{', '.join(show(each) for each in args)}]" if args else name


def _class_of(hint: Any) -> type[Any] | None:
    found: Any = get_origin(hint) or hint
    return found if inspect.isclass(found) else None


def _required(fields: Any) -> frozenset[str]:
    found: frozenset[str] = fields.__required_keys__
    return found


# --- values ---------------------------------------------------------------------------------------------------------


def _says_nothing(hint: Any) -> bool:
    nothing = (Any, object, inspect.Parameter.empty)
    return any(hint is each for each in nothing) or isinstance(hint, TypeVar | str | typing.ForwardRef)


def _fit_union(value: Any, hint: Any, path: str, misfits: list[Misfit]) -> Any:
    inner: list[Misfit] = []
    for each in get_args(hint):
        found: list[Misfit] = []
        fitted = fit(value, each, path, found)
        if not found:
            return fitted
        if all(misfit.path != path for misfit in found):  # the right kind, with something wrong in it
            inner = inner or found
    misfits.extend(inner or [Misfit(path, _wrong(value, hint))])
    return value


def _fit_fields(value: Any, hint: Any, path: str, misfits: list[Misfit]) -> Any:
    if not is_instance(value, dict):
        misfits.append(Misfit(path, _wrong(value, hint)))
        return value
    hints = typing.get_type_hints(hint)
    misfits.extend(Misfit(f"{path}[{name!r}]", "is missing") for name in sorted(_required(hint) - value.keys()))
    misfits.extend(Misfit(f"{path}[{name!r}]", "there is none of that name") for name in value if name not in hints)
    return {
        name: fit(each, hints[name], f"{path}[{name!r}]", misfits) if name in hints else each
        for name, each in value.items()
    }


def _fit_class(value: Any, hint: Any, path: str, misfits: list[Misfit]) -> Any:
    wanted = next(iter(get_args(hint)), object)
    fits = isinstance(value, type) and (not isinstance(wanted, type) or issubclass(value, wanted))
    if not fits:
        misfits.append(Misfit(path, f"{_told(value)} where {show(hint)} is expected"))
    return value


def _from_json(value: Any, kind: type[Any]) -> Any:
    if isinstance(value, str) and kind in (Path, PurePath):
        return kind(value)
    if is_instance(value, list) and kind in _FROM_LISTS:
        try:
            return kind(value)
        except TypeError:  # what cannot be in a set
            return value
    if issubclass(kind, enum.Enum) and not isinstance(value, kind):
        return next((each for each in kind if type(each.value) is type(value) and each.value == value), value)
    return value


def _is_of(value: Any, kind: type[Any]) -> bool:
    if isinstance(value, bool):
        return kind is bool or (not issubclass(kind, int | float | complex) and is_instance(value, kind))
    if kind is float:
        return isinstance(value, float | int)
    if kind is complex:
        return isinstance(value, complex | float | int)
    if isinstance(value, str | bytes | bytearray) and kind in _SEVERAL:
        return False  # a single text where several are expected would be taken apart into letters
    return is_instance(value, kind)


def is_instance(value: Any, kind: type[Any] | types.UnionType) -> bool:
    """Whether a value is of a class; of a protocol that cannot be asked every value is."""
    try:
        return isinstance(value, kind)
    except TypeError:
        return True


def _fit_items(value: Any, kind: type[Any], args: tuple[Any, ...], path: str, misfits: list[Misfit]) -> Any:
    if not args or is_instance(value, str | bytes):
        return value
    if is_instance(value, Mapping):
        return _fit_mapping(value, args, path, misfits)
    if not is_instance(value, list | tuple | set | frozenset):
        return value
    items = list(value)
    is_exact = kind is tuple and args[-1] is not Ellipsis
    hints = args if is_exact else (args[0],) * len(items)
    if len(hints) != len(items):
        misfits.append(Misfit(path, f"{len(items)} items where {', '.join(map(show, args))} are expected"))
        return value
    fitted = [fit(each, hint, f"{path}[{n}]", misfits) for n, (each, hint) in enumerate(zip(items, hints, strict=True))]
    same = all(new is old for new, old in zip(fitted, items, strict=True))
    return value if same else _again(value, fitted)


def _fit_mapping(value: Mapping[Any, Any], args: tuple[Any, ...], path: str, misfits: list[Misfit]) -> Any:
    if len(args) != 2:  # a class of the user's own with parameters of its own
        return value
    fitted: dict[Any, Any] = {}
    for key, each in value.items():
        place, wrong = f"{path}[{key!r}]", list[Misfit]()
        fitted_key = fit(key, args[0], place, wrong)
        misfits.extend(Misfit(place, f"the key is {misfit.text}") for misfit in wrong)
        fitted[fitted_key] = fit(each, args[1], place, misfits)
    same = all(fitted.get(key, _NONE) is each for key, each in value.items())
    return value if same else _again(value, fitted)


def _again(value: Any, content: Any) -> Any:
    return type(value)(content) if type(value) in (list, tuple, set, frozenset, dict) else value


def _wrong(value: Any, hint: Any) -> str:
    kind = plain(hint)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"{_told(value)} where {show(hint)} is expected"
    # Of other values the type alone is told: one may be a password.
    return f"{type(value).__qualname__} where {show(hint)} is expected"


def _told(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | type) or value is None else ""
    return type(value).__qualname__ if not text or len(text) > 60 else f"{text} ({type(value).__qualname__})"


_NONE: Final = object()
_FROM_LISTS: Final[tuple[type[Any], ...]] = (tuple, set, frozenset)
_SEVERAL: Final[tuple[type, ...]] = (
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
    collections.abc.Reversible,
    collections.abc.Container,
)


# --- JSON Schema ----------------------------------------------------------------------------------------------------

_SIMPLE: Final[Mapping[Any, Mapping[str, Any]]] = {
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}


def json_schema(hint: Any) -> dict[str, Any]:
    """Return what JSON a hint takes; what JSON cannot hold is told as a comment."""
    hint = plain(hint)
    origin, args = get_origin(hint), get_args(hint)
    if _says_nothing(hint):
        return {}
    if isinstance(hint, type) and hint in _SIMPLE:
        return dict(_SIMPLE[hint])
    if origin in (Union, types.UnionType):
        return _any_of(args)
    if origin is Literal:
        return {"enum": list(args)} if all(is_json(each) for each in args) else _comment(hint)
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint)
        return {
            "type": "object",
            "properties": {name: json_schema(each) for name, each in hints.items()},
            "required": sorted(_required(hint)),
            "additionalProperties": False,
        }
    kind = _class_of(hint)
    return _comment(hint) if kind is None else _of_class(kind, args, hint)


def is_json(value: Any) -> bool:
    """Whether JSON holds the value as it is."""
    if isinstance(value, float):
        return math.isfinite(value)
    if is_instance(value, list):
        return all(is_json(each) for each in value)
    if is_instance(value, dict):
        return all(isinstance(key, str) and is_json(each) for key, each in value.items())
    return value is None or type(value) in (bool, int, str)


def _any_of(hints: tuple[Any, ...]) -> dict[str, Any]:
    found = [json_schema(each) for each in hints]
    usable = [each for each in found if set(each) != {"$comment"}]
    if len(usable) < len(found) and usable:
        comments = [each["$comment"] for each in found if set(each) == {"$comment"}]
        found = usable
        extra = {"$comment": "; ".join(comments)}
    else:
        extra = {}
    return {**(found[0] if len(found) == 1 else {"anyOf": found}), **extra}


def _of_class(kind: type[Any], args: tuple[Any, ...], hint: Any) -> dict[str, Any]:
    if issubclass(kind, enum.Enum):
        values = [each.value for each in kind]
        return {"enum": values} if all(is_json(each) for each in values) else _comment(hint)
    if kind in (Path, PurePath):
        return {"type": "string"}
    if kind is tuple and args and args[-1] is not Ellipsis:
        items = [json_schema(each) for each in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if issubclass(kind, tuple | list | set | frozenset) or kind in _SEVERAL:
        of_items = {"items": json_schema(args[0])} if args else {}
        return {"type": "array", **of_items, **({"uniqueItems": True} if issubclass(kind, set | frozenset) else {})}
    if issubclass(kind, dict) or kind in (collections.abc.Mapping, collections.abc.MutableMapping):
        return {"type": "object", **({"additionalProperties": json_schema(args[1])} if len(args) == 2 else {})}
    return _comment(hint)


def _comment(hint: Any) -> dict[str, Any]:
    return {"$comment": f"Python: {show(hint)}"}
