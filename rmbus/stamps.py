"""The header that every frame has, and how immutable frames are made of it quickly."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack

import attrs

SECOND = Fraction(1)


class Stamp(TypedDict, total=False):
    """The header fields of a frame, as keywords; each may be left out.

    Attributes:
        pts: presentation time in units of `time_base`, or None.
        time_base: seconds in one unit of `pts`.
        captured_ns: when it was captured: UTC nanoseconds since 1970, 0 if unknown.
        seq: its number on its output port, counted from 0.
        topic: where it came from: `pipeline/node/port`.
    """

    pts: int | None
    time_base: Fraction
    captured_ns: int
    seq: int
    topic: str


UNSTAMPED = Stamp(pts=None, time_base=SECOND, captured_ns=0, seq=0, topic="")


@attrs.frozen(eq=False, repr=False)
class Stamped:
    """What every frame has."""

    pts: int | None
    time_base: Fraction
    captured_ns: int
    seq: int
    topic: str
    _memory: object  # what keeps the content as it is, where that lies in shared memory; else None

    @property
    def time_s(self) -> float | None:
        """The presentation time in seconds, None where `pts` is."""
        return None if self.pts is None else float(self.pts * self.time_base)

    def stamped(self, **changes: Unpack[Stamp]) -> Self:
        """Return a frame with other header fields and the same content, which is not copied."""
        fields = {name: getattr(self, name) for name in _fields(type(self))}
        return remember(build(type(self), fields, changes), self._memory)

    def __repr__(self) -> str:
        at = "" if self.time_s is None else f" at {self.time_s:.3f} s"
        return f"<{type(self).__name__} {self._about()}, number {self.seq}{at}>"

    def __reduce__(self) -> tuple[Callable[..., Stamped], tuple[object, ...]]:
        return build, (type(self), {name: getattr(self, name) for name in _fields(type(self))}, {})

    def _about(self) -> str:
        raise NotImplementedError


_F = TypeVar("_F", bound=Stamped)
put = object.__setattr__


def setter(cls: type[Stamped], name: str) -> Callable[[Any, Any], None]:
    """Return what sets a field of frames that are being made, at half the cost of `put`."""
    descriptor: Any = vars(cls)[name]
    found: Callable[[Any, Any], None] = descriptor.__set__
    return found


set_pts = setter(Stamped, "pts")
set_time_base = setter(Stamped, "time_base")
set_captured_ns = setter(Stamped, "captured_ns")
set_seq = setter(Stamped, "seq")
set_topic = setter(Stamped, "topic")
set_memory = setter(Stamped, "_memory")


_known: dict[type[object], tuple[str, ...]] = {}


def _fields(cls: type[Stamped]) -> tuple[str, ...]:
    names = _known.get(cls)
    if names is None:
        names = tuple(field.name for field in attrs.fields(cls) if not field.name.startswith("_"))
        _known[cls] = names
    return names


def build(cls: type[_F], fields: dict[str, Any], stamp: Stamp) -> _F:
    """Return a new frame: `fields` are all its fields, `stamp` changes some of the header's."""
    new = object.__new__(cls)
    fill(new, fields, stamp)
    return new


def fill(new: Stamped, fields: dict[str, Any], stamp: Stamp) -> None:
    """Set the fields of a frame that is being made."""
    put(new, "_memory", None)
    for name, value in fields.items():
        put(new, name, value)
    for name, value in stamp.items():
        if name not in UNSTAMPED:
            raise TypeError(f"a frame's header has no field {name!r}, only {', '.join(UNSTAMPED)}")
        put(new, name, value)


def stamp_of(frame: Stamped) -> dict[str, Any]:
    """Return the header fields of a frame."""
    return {name: getattr(frame, name) for name in UNSTAMPED}


def stamp_from(pts: int | None, time_base: Fraction | None, stamp: Stamp) -> Stamp:
    """Return a stamp with the times of one of PyAV's frames, where the stamp has none of its own."""
    own = Stamp(pts=pts)
    if time_base:
        own["time_base"] = time_base
    return {**own, **stamp}


def remember(frame: _F, memory: object) -> _F:
    """Note what keeps the content of a frame as it is, where that lies in shared memory; return the frame."""
    set_memory(frame, memory)
    return frame


memory_of: Final[Callable[[Stamped], object]] = operator.attrgetter("_memory")
"""Return what keeps the content of a frame in shared memory, None where it lies elsewhere."""
