"""Locked requirements: the exact list of distributions that an environment is made of, and its one canonical form.

A line for each distribution, sorted by name: `NAME==VERSION --hash=sha256:HEX …`. An installer reads it as a list of
requirements; and since nothing else may stand in it, no option, address or path of whoever sent it reaches that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from rmbus.errors import MalformedFrame, TooLarge

LOCK_PATH: Final = ".rmbus/requirements.lock"
"""Where a package holds the locked requirements, if it has any."""

MAX_LOCK_BYTES: Final = 4 * 1024 * 1024

MAX_LOCKED: Final = 1000
"""Distributions of one environment."""

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_OPTION: Final = "--hash=sha256:"


@frozen(order=True)
class Locked:
    """A distribution of one version.

    Attributes:
        name: in its normal form: lower case, words joined by `-`.
        version: its version.
        hashes: sha256 of each file that may be installed for it, in hex, sorted.
    """

    name: str
    version: str
    hashes: tuple[str, ...]

    def __attrs_post_init__(self) -> None:
        if len(self.name) > 128 or not _NAME.fullmatch(self.name):
            raise MalformedFrame(f"{self.name[:80]!a} is no distribution's name in its normal form")
        if not _VERSION.fullmatch(self.version):
            raise MalformedFrame(f"{self.version[:80]!a} is no version of {self.name}")
        if not self.hashes or list(self.hashes) != sorted(set(self.hashes)):
            raise MalformedFrame(f"the hashes of {self.name} are not sorted, or not different, or there is none")
        if not all(_HASH.fullmatch(each) for each in self.hashes):
            raise MalformedFrame(f"a hash of {self.name} is no sha256 in hex")


def encode_lock(distributions: Iterable[Locked]) -> bytes:
    """Return the canonical form.

    Raises:
        MalformedFrame: one of them is there twice. TooLarge: a limit is passed.
    """
    items = sorted(distributions)
    if len(items) > MAX_LOCKED:
        raise TooLarge("the list of locked distributions", len(items), MAX_LOCKED)
    if len({item.name for item in items}) != len(items):
        raise MalformedFrame("a distribution is locked twice")
    data = "".join(f"{' '.join((f'{item.name}=={item.version}', *_options(item)))}\n" for item in items).encode()
    if len(data) > MAX_LOCK_BYTES:
        raise TooLarge("the text of locked requirements", len(data), MAX_LOCK_BYTES)
    return data


def decode_lock(data: bytes) -> tuple[Locked, ...]:
    """Return the distributions whose canonical form the bytes are.

    Raises:
        MalformedFrame: they are not in canonical form. TooLarge: a limit is passed.
    """
    if len(data) > MAX_LOCK_BYTES:
        raise TooLarge("the text of locked requirements", len(data), MAX_LOCK_BYTES)
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise MalformedFrame("locked requirements are not ASCII") from error
    items = tuple(_line(line) for line in lines)
    if not items or encode_lock(items) != data:
        raise MalformedFrame("locked requirements are not in their canonical form, or there are none")
    return items


def _options(item: Locked) -> Iterable[str]:
    return (f"{_OPTION}{each}" for each in item.hashes)


def _line(line: str) -> Locked:
    pinned, *options = line.split(" ")
    name, equals, version = pinned.partition("==")
    if not equals or not all(option.startswith(_OPTION) for option in options):
        raise MalformedFrame(f"{line[:120]!a} is no locked requirement: NAME==VERSION --hash=sha256:HEX")
    return Locked(name, version, tuple(option.removeprefix(_OPTION) for option in options))
