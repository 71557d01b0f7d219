"""What a node or an object asks of its host: found where it is declared, and said as the wire has it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from rmbus.protocol import messages
from rmbus.protocol.limits import MAX_CPUS, MAX_GPUS, MAX_NEEDED, MAX_NEEDED_BYTES, MAX_NUMBER


def texts(value: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return one or several texts or paths as a tuple: a single one is not taken apart into letters."""
    if isinstance(value, str | os.PathLike):
        return (os.fspath(value),)
    return tuple(os.fspath(each) for each in value)


_ADDRESS: Final = re.compile(r"\*|[^\s\0]+:\d{1,5}")
_ABSOLUTE: Final = re.compile(r"/[^\0]+")
_WORD: Final = re.compile(r"[^\s\0]+")
_CACHE: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


def _whole(smallest: int, most: int) -> Any:
    def check(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and attribute.default is None:
            return
        if type(value) is not int or not smallest <= value <= most:
            raise ValueError(f"Needs.{attribute.name} is a whole number, {smallest} or more, not {value!r}")

    return check


def _cores(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (type(value) not in (int, float) or not 0 <= value <= MAX_CPUS):
        raise ValueError(f"Needs.cpus is a number, 0 or more, not {value!r}")


def _few(form: re.Pattern[str], words: str) -> Any:
    def check(_instance: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
        if len(value) > MAX_NEEDED:
            raise ValueError(f"Needs.{attribute.name} names {len(value)} things, and may name {MAX_NEEDED}")
        for each in value:
            if not form.fullmatch(each) or len(os.fsencode(each)) > MAX_NEEDED_BYTES:
                raise ValueError(
                    f"Needs.{attribute.name} {each[:80]!r}: write {words}, in {MAX_NEEDED_BYTES} bytes at most"
                )

    return check


def _cache(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not (isinstance(value, str) and _CACHE.fullmatch(value)):
        raise ValueError(
            f"Needs.cache {value!r}: write a name of letters, digits, _, - and ., a letter or digit first, 64 at most"
        )


@attrs.frozen
class Needs:
    """What a node asks of the host that runs it; the host's policy grants it, or the start is refused.

    Attributes:
        gpus: how many, each for it alone.
        cpus: cores, fractions allowed; None: no claim.
        memory_mb: memory in MB; None: no claim.
        network: `"*"`, all of the host's network; or addresses as `host:port`, which no host can keep to yet.
        files: absolute paths that it reads; with `:rw` after it, writes.
        devices: device files such as `/dev/video0`.
        cache: name of a folder that outlives the node, shared by the nodes that name it; RMBUS_CACHE tells where it is.
        labels: labels that the host must have.
    """

    gpus: int = attrs.field(default=0, validator=_whole(0, MAX_GPUS))
    cpus: float | None = attrs.field(default=None, validator=_cores)
    memory_mb: int | None = attrs.field(default=None, validator=_whole(1, MAX_NUMBER))
    network: Sequence[str] = attrs.field(default=(), converter=texts, validator=_few(_ADDRESS, "'*' or HOST:PORT"))
    files: Sequence[str | os.PathLike[str]] = attrs.field(
        default=(), converter=texts, validator=_few(_ABSOLUTE, "an absolute path, with :rw behind it if it is written")
    )
    devices: Sequence[str] = attrs.field(
        default=(), converter=texts, validator=_few(_ABSOLUTE, "an absolute path, such as /dev/video0")
    )
    cache: str | None = attrs.field(default=None, validator=_cache)
    labels: Sequence[str] = attrs.field(default=(), converter=texts, validator=_few(_WORD, "a word"))


def declared_needs(obj: object) -> Needs | None:
    """Return what the class of an object declares as its `needs`, if it is a `Needs`."""
    found = getattr(type(obj), "needs", None)
    return found if isinstance(found, Needs) else None


def on_the_wire(needs: Needs | None) -> messages.Needs:
    """Return needs as a `start` says them.

    Raises:
        MalformedFrame: they are more than can be said.
    """
    if needs is None:
        return messages.Needs()
    return messages.Needs(
        gpus=needs.gpus,
        cpus=float(needs.cpus or 0),
        memory_mb=needs.memory_mb or 0,
        network=list(needs.network),
        files=[str(each) for each in needs.files],
        devices=list(needs.devices),
        cache=needs.cache or "",
        labels=list(needs.labels),
    )
