"""How a control message is written: msgpack `[tag, id, fields]`; and the strict reading of what a peer wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar, cast, dataclass_transform, get_args, get_origin

import attrs
import cattrs

from rmbus.errors import MalformedFrame, ProtocolError, TooLarge
from rmbus.protocol.codec import pack, unpack
from rmbus.protocol.limits import MAX_CONTROL_BYTES, MAX_ID

_SHOWN: Final = 200
"""Characters of a peer's own words that an error repeats."""


@attrs.frozen
class Message:
    """Any control message."""

    tag: ClassVar[str] = ""


_M = TypeVar("_M", bound=Message)
_by_tag: dict[str, type[Message]] = {}


class UnknownTag(MalformedFrame):
    """A message of a kind that this side does not know; a later version may.

    Attributes:
        unknown: the tag. number: the message's id.
    """

    def __init__(self, unknown: str, number: int) -> None:
        super().__init__(f"unknown message {unknown[:_SHOWN]!r}")
        self.unknown, self.number = unknown, number


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def message(tag: str) -> Callable[[type[_M]], type[_M]]:
    """Make a class of fields the message of that tag."""

    def register(cls: type[_M]) -> type[_M]:
        defined = attrs.frozen(cls)
        defined.tag = tag
        _by_tag[tag] = defined
        return defined

    return register


def tags() -> Mapping[str, type[Message]]:
    """Return every message of this version by its tag."""
    return MappingProxyType(_by_tag)


def encode(message: Message, number: int = 0) -> bytes:
    """Return a message as msgpack.

    Args:
        message: what to say.
        number: the id: of the request, in a request and its reply; 0 in an event.

    Raises:
        TooLarge: nobody would take a message of that size. MalformedFrame: a value in it cannot be written.
    """
    data = pack([message.tag, number, _converter.unstructure(message)])
    if len(data) > MAX_CONTROL_BYTES:
        raise TooLarge(f"the {message.tag!r} message", len(data), MAX_CONTROL_BYTES)
    return data


def decode(data: bytes | memoryview) -> tuple[int, Message]:
    """Return the id and the message that the bytes hold.

    Raises:
        UnknownTag: a well-formed message of a kind that is not known here.
        MalformedFrame: they hold none. TooLarge: over the limit.
    """
    value: object = unpack(data, limit=MAX_CONTROL_BYTES, what="a control message")
    parts = cast("list[object]", value) if isinstance(value, list) else []
    if len(parts) < 3:
        raise MalformedFrame("a control message is [tag, id, fields]")
    tag, number, fields = parts[:3]
    if not isinstance(tag, str) or type(number) is not int or not 0 <= number <= MAX_ID:
        raise MalformedFrame("a control message begins with a text and a whole number from 0 up")
    cls = _by_tag.get(tag)
    if cls is None:
        raise UnknownTag(tag, number)
    try:
        return number, _converter.structure(fields, cls)
    except (cattrs.BaseValidationError, ProtocolError) as error:
        raise MalformedFrame(f"a {tag!r} message is not as specified: {_reasons(error)}") from error


def prepare(*kinds: type[Message]) -> None:
    """Make what writes and reads messages of these kinds: it is made once, else when the first of them is due.

    A process that is kept ready does so before it is asked for; it takes some milliseconds for each kind.
    """
    for kind in kinds:
        _converter.get_structure_hook(kind)
        _converter.get_unstructure_hook(kind)


# --- nothing is converted: a field has the type that the specification says, or the message is refused ---------------

_converter = cattrs.Converter(forbid_extra_keys=False, prefer_attrib_converters=True)


def _exactly(kind: type[Any]) -> Callable[[object, object], object]:
    def structure(value: object, _: object) -> object:
        if type(value) is not kind:
            raise MalformedFrame(f"{type(value).__name__} where {kind.__name__} is due")
        return value

    return structure


def _items(wanted: Any, converter: cattrs.Converter) -> Callable[[object, object], object]:
    origin, args = cast("type[Any]", get_origin(wanted)), get_args(wanted)
    inner = [(arg, _any if arg is Any else converter.get_structure_hook(arg)) for arg in args if arg is not ...]

    def structure(value: object, _: object) -> object:
        if origin is dict:
            (key_type, key), (item_type, item) = inner
            given = cast("dict[object, object]", _exactly(dict)(value, dict))
            return {key(name, key_type): item(each, item_type) for name, each in given.items()}
        items = cast("list[object]", _exactly(list)(value, list))
        if origin is list:
            ((item_type, item),) = inner
            return [item(each, item_type) for each in items]
        if len(items) != len(inner):
            raise MalformedFrame(f"{len(items)} elements where {len(inner)} are due")
        return tuple(item(each, item_type) for each, (item_type, item) in zip(items, inner, strict=False))

    return structure


def _any(value: object, _: object) -> object:
    return value


def _is_container(wanted: Any) -> bool:
    return get_origin(wanted) in (list, tuple, dict)


for _kind in (bool, int, float, str, bytes):
    _converter.register_structure_hook(_kind, _exactly(_kind))
_converter.register_structure_hook_factory(_is_container, _items)


def _nested(wanted: Any, converter: cattrs.Converter) -> Callable[[object, object], object]:
    inner = cattrs.gen.make_dict_structure_fn(wanted, converter)

    def structure(value: object, _: object) -> object:
        return inner(cast("Mapping[str, Any]", _exactly(dict)(value, dict)), wanted)

    return structure


_converter.register_structure_hook_factory(
    lambda wanted: isinstance(wanted, type) and issubclass(wanted, Message), _nested
)


def _reasons(error: Exception) -> str:
    if not isinstance(error, cattrs.BaseValidationError):
        return str(error)
    return "; ".join(cattrs.transform_error(error, format_exception=_reason))


def _reason(error: BaseException, _: object) -> str:
    return f"the field {error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
