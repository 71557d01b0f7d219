"""What a start asks of its host, as it is said on the wire."""

from __future__ import annotations

from typing import Final

import attrs

from rmbus.protocol import fields
from rmbus.protocol.envelope import Message
from rmbus.protocol.limits import MAX_CPUS, MAX_GPUS, MAX_NUMBER

ANYWHERE: Final = "*"
"""All of the network, as an entry of `network`."""

WRITABLE: Final = ":rw"
"""The end of an entry of `files` that is to be written, too."""


@attrs.frozen
class Needs(Message):
    """What a node, or an object, must be granted; nothing by default.

    Attributes:
        gpus: how many, each for it alone.
        cpus: cores, 0 where it claims none. memory_mb: memory in MB (10⁶ bytes), 0 where it claims none.
        network: what it reaches. files: what it reads, or, with `:rw` behind, writes. devices: what it opens.
        cache: the name of a folder that outlives it, "" for none.
        labels: what the host must be called.
    """

    gpus: int = attrs.field(default=0, validator=fields.number(0, MAX_GPUS))
    cpus: float = attrs.field(default=0.0, validator=fields.amount(MAX_CPUS))
    memory_mb: int = attrs.field(default=0, validator=fields.number(0, MAX_NUMBER))
    network: list[str] = attrs.field(factory=list[str], validator=fields.needed)
    files: list[str] = attrs.field(factory=list[str], validator=fields.needed)
    devices: list[str] = attrs.field(factory=list[str], validator=fields.needed)
    cache: str = attrs.field(default="", validator=fields.cache)
    labels: list[str] = attrs.field(factory=list[str], validator=fields.needed)

    @property
    def fits_spare(self) -> bool:
        """Whether a process will do that was started before anybody asked."""
        return attrs.evolve(self, labels=[]) == Needs()
