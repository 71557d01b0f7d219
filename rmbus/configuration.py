"""A node's constructor is its schema: its parameters, and configurations held against them. Pure.

A configuration is a dict of the constructor's keywords. It is checked where a pipeline is built, and once more where
the node is: the class there may be of another release. The two need not agree, so each tells what itself takes.
"""

from __future__ import annotations

import difflib
import enum
import inspect
import re
import sys
import typing
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, Final

import attrs

from rmbus.annotations import Misfit, fit, is_instance, is_json, json_schema, show
from rmbus.errors import ConfigurationError

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REQUIRED: Final = inspect.Parameter.empty
"""The default of a parameter that has none."""

_BY_KEYWORD: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_SECTION: Final = re.compile(r"^(Args|Arguments|Attributes):\s*$")
_ENTRY: Final = re.compile(r"^(\*{0,2}\w+(?:,\s*\*{0,2}\w+)*)\s*(?:\([^)]*\))?:\s+(.*)$")


@attrs.frozen
class Parameter:
    """One keyword that a class is built with.

    Attributes:
        hint: its type; `typing.Any` where there is none, or none that can be resolved.
        default: `REQUIRED` where it has none.
        meaning: what the docstring says of it, or "".
    """

    name: str
    hint: Any
    default: Any
    meaning: str

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is REQUIRED


@attrs.frozen
class Schema:
    """What a class is built with.

    Attributes:
        name: the class, as it is named by whoever builds it.
        meaning: the first paragraph of its docstring.
        parameters: in the order of the constructor.
        others: the type of further keywords, where it takes any (`**options`); else None.
        unnamed: parameters without a default that no keyword reaches.
    """

    name: str
    meaning: str
    parameters: tuple[Parameter, ...]
    others: Any | None
    unnamed: tuple[str, ...]

    def fit(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration as the constructor wants it: a path for its text, say; see `rmbus.annotations.fit`.

        Raises:
            ConfigurationError: it does not take this; all that is wrong is told at once.
        """
        known = {each.name: each for each in self.parameters}
        misfits = [
            Misfit(each, "has no default, and cannot be given by name: the class needs a constructor that takes names")
            for each in self.unnamed
        ]
        fitted: dict[str, Any] = {}
        for name, value in config.items():
            if name not in known:
                if self.others is None:
                    misfits.append(Misfit(str(name), f"there is no such parameter{self._near(name, config)}"))
                else:
                    fitted[name] = fit(value, self.others, name, misfits)
            elif value is known[name].default:
                fitted[name] = value
            else:
                fitted[name] = fit(value, known[name].hint, name, misfits)
        misfits.extend(_missing(each) for each in self.parameters if each.is_required and each.name not in config)
        if misfits:
            raise ConfigurationError(self.name, [str(each) for each in misfits], self._remedy())
        return fitted

    def to_json(self) -> dict[str, Any]:
        """Return the schema as a JSON Schema (2020-12)."""
        properties = {each.name: _property(each) for each in self.parameters}
        return {
            "$schema": DIALECT,
            "title": self.name,
            **({"description": self.meaning} if self.meaning else {}),
            "type": "object",
            "properties": properties,
            "required": [each.name for each in self.parameters if each.is_required],
            "additionalProperties": False if self.others is None else json_schema(self.others),
        }

    def _remedy(self) -> str:
        if "<locals>" not in self.name and not self.name.startswith("__main__:"):
            return f"`rmbus nodes {self.name}` shows what it takes"
        return f"it takes {', '.join(each.name for each in self.parameters) or 'nothing'}"

    def _near(self, name: str, config: Mapping[str, Any]) -> str:
        names = [each.name for each in self.parameters if each.name not in config]
        close = difflib.get_close_matches(str(name), names, n=3)
        return f"; did you mean {' or '.join(close)}?" if close else ""


def schema_of(cls: type[Any], name: str | None = None) -> Schema:
    """Read the schema of a class from its constructor.

    Args:
        cls: the class. name: what it is called, by default `Class`, in `module:Class` where that is importable.
    """
    meaning = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
    told = _meanings(cls)
    parameters: list[Parameter] = []
    others: Any | None = None
    unnamed: list[str] = []
    for each in _signature(cls):
        hint = _resolved(each.annotation, cls)
        if each.kind in _BY_KEYWORD:
            parameters.append(Parameter(each.name, hint, each.default, told.get(each.name, "")))
        elif each.kind is each.VAR_KEYWORD:
            others = hint
        elif each.kind is each.POSITIONAL_ONLY and each.default is REQUIRED:
            unnamed.append(each.name)
    return Schema(name or f"{cls.__module__}:{cls.__qualname__}", meaning, tuple(parameters), others, tuple(unnamed))


def show_default(parameter: Parameter) -> str:
    """Return the default as it is written, or "" where there is none."""
    if parameter.is_required:
        return ""
    default = parameter.default
    if isinstance(default, enum.Enum):
        return default.name
    text = repr(default)
    return text if len(text) <= 60 and " at 0x" not in text else type(default).__qualname__


# --- the constructor ------------------------------------------------------------------------------------------------


def _signature(cls: type[Any]) -> list[inspect.Parameter]:
    if not any({"__init__", "__new__"} & vars(each).keys() for each in cls.__mro__[:-1]):
        return []
    try:
        return list(inspect.signature(cls).parameters.values())
    except (ValueError, TypeError):  # it is written in C, and tells nothing: whatever it is given goes to it
        return [inspect.Parameter("config", inspect.Parameter.VAR_KEYWORD)]


def _resolved(annotation: Any, cls: type[Any]) -> Any:
    """Return a hint with its names looked up where the constructor was written; `Any` where they are not found."""
    if annotation is inspect.Parameter.empty:
        return Any
    own = next((each for each in cls.__mro__ if "__init__" in vars(each)), cls)
    function = inspect.unwrap(vars(own).get("__init__", object.__init__))
    module = sys.modules.get(own.__module__)
    names = {**(vars(module) if module is not None else {}), **getattr(function, "__globals__", {})}
    try:
        stated = SimpleNamespace(__annotations__={"it": annotation})
        return typing.get_type_hints(stated, names, dict(vars(own)), include_extras=True)["it"]
    except Exception:  # noqa: BLE001 - the user's own annotation, such as a name for type checkers only: not checked
        return Any


def _missing(parameter: Parameter) -> Misfit:
    what = "" if parameter.hint is Any else f": {show(parameter.hint)}"
    return Misfit(parameter.name, f"is missing{what}{', ' if parameter.meaning else ''}{parameter.meaning}")


def _property(parameter: Parameter) -> dict[str, Any]:
    found = json_schema(parameter.hint)
    if parameter.meaning:
        found["description"] = parameter.meaning
    if not parameter.is_required:
        default = _as_json(parameter.default)
        if is_json(default):
            found["default"] = default
    return found


def _as_json(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    return list(value) if is_instance(value, tuple) else value


# --- its docstring --------------------------------------------------------------------------------------------------


def _meanings(cls: type[Any]) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of parameters; the class comes before its bases."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__[:-1]):
        for documented in (vars(each).get("__doc__"), getattr(vars(each).get("__init__"), "__doc__", None)):
            if isinstance(documented, str):
                found.update(_entries(inspect.cleandoc(documented).splitlines()))
    return found


def _entries(lines: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    indent: int | None = None
    within = False
    for line in lines:
        text, depth = line.strip(), len(line) - len(line.lstrip())
        if not text or depth == 0:
            within, indent, names = (bool(_SECTION.match(line)) if text else within), None if text else indent, []
            continue
        if not within:
            continue
        indent = depth if indent is None else indent
        entry = _ENTRY.match(text) if depth == indent else None
        if entry is not None:
            names = [each.strip(" *") for each in entry[1].split(",")]
            found.update(dict.fromkeys(names, entry[2]))
        else:
            found.update({name: f"{found[name]} {text}" for name in names})
    return found
