"""How acknowledgements chain: an input is dealt with when all that was made from it has been, however far down.

Pure, but for `Record`, which writes to a page. A node that may be started anew keeps one `Chain`. What it settles goes
into a record on the node's page, which outlives its process: the next one goes on from there.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rmbus.errors import Broken
from rmbus.protocol.codec import pack, unpack
from rmbus.protocol.frames import Identity, encode_identity
from rmbus.protocol.limits import MAX_DEPTH
from rmbus.transport.counters import BANK_WORDS, BANKS, Node, Page

OWN: Final = 0
"""The stream of what a source makes."""

FLUSHED: Final = zlib.crc32(b"flush")
"""The stream of what is made when all inputs have ended."""

_PAIR: Final = struct.Struct("<qq")


class Seen:
    """What has come on an edge, by identity: of each stream the last.

    Args:
        known: what had been dealt with before this process.
    """

    def __init__(self, known: Iterable[Identity] = ()) -> None:
        self._last = {stream: tuple(numbers) for stream, *numbers in known}

    def is_repeated(self, identity: Identity) -> bool:
        """Note an identity; whether it, or one behind it, has been seen before."""
        last = self._last.get(identity[0])
        if last is not None and identity[1:] <= last:
            return True
        self._last[identity[0]] = identity[1:]
        return False

    def all(self) -> list[Identity]:
        """Return the last of each stream."""
        return [(stream, *numbers) for stream, numbers in self._last.items()]


class Cause:
    """An arrival, from when it is begun with until all that was made from it is dealt with.

    Attributes:
        edge, epoch, place: where it came. identity: of its frame, None for a control frame.
    """

    __slots__ = ("_count", "_owed", "edge", "epoch", "identity", "is_closed", "made", "place")

    def __init__(self, edge: int, epoch: int, place: int, identity: Identity | None) -> None:
        self.edge, self.epoch, self.place, self.identity = edge, epoch, place, identity
        self.is_closed = False
        self.made: dict[str, int] = {}
        self._count = self._owed = 0

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is made from it, and all that was is dealt with."""
        return self.is_closed and not self._owed

    def make(self, port: str) -> int:
        """Note that a frame is made from it; return which one it is, from 0 on."""
        self.made[port] = self.made.get(port, 0) + 1
        self._count += 1
        return self._count - 1

    def owe(self) -> None:
        """What was made from it is sent on one more edge."""
        self._owed += 1

    def pay(self) -> None:
        """What was made from it has been dealt with, on one edge."""
        self._owed -= 1


class Due:
    """What a mailbox tells when a frame was acknowledged or given up, and what the frame is known again by."""

    __slots__ = ("cause", "identity")

    def __init__(self, cause: Cause | None, identity: bytes) -> None:
        self.cause, self.identity = cause, identity

    def __call__(self) -> None:
        """The frame has been dealt with."""
        if self.cause is not None:
            self.cause.pay()


class Record:
    """What a node keeps on its page, for the next process that is this node. It changes as a whole, or not at all.

    Args:
        page: of the node.
    """

    def __init__(self, page: Page) -> None:
        self._words = page.words

    def read(self) -> Any:
        """Return the value that was written last, None where there is none."""
        bank = self._words[Node.BANK]
        if not bank:
            return None
        start = BANKS[bank - 1]
        size = self._words[start]
        data = self._words[start + 1 : start + BANK_WORDS].tobytes()[:size]
        return unpack(data, limit=8 * BANK_WORDS, what="the record of a node")

    def write(self, value: object) -> None:
        """Put a value in the place of the last one.

        Raises:
            Broken: it is too long.
        """
        data = pack(value)
        size = len(data)
        data += bytes(-size % 8)
        if len(data) > 8 * (BANK_WORDS - 1):
            raise Broken(f"a node's record of its inputs takes {size} bytes: it has too many to be started anew")
        bank = 2 if self._words[Node.BANK] == 1 else 1
        start = BANKS[bank - 1]
        self._words[start] = size
        self._words[start + 1 : start + 1 + len(data) // 8] = memoryview(data).cast("B").cast("Q")
        self._words[Node.BANK] = bank


class Chain:
    """The inputs of one node that are not settled, in the order in which it began with them.

    They are settled in this order too, whatever edge they came by: so what a node has made before, and makes once more
    when it is started anew, is the end of its outputs, without a hole.

    Args:
        ports: names of its outputs. known: what `dump` returned in the process before this one, or None.
        deterministic: whether what it makes once more is the same, so that it can be known again.

    Attributes:
        first: by output, the number of the first frame that this process makes.
    """

    def __init__(self, ports: Sequence[str], known: Any = None, *, deterministic: bool) -> None:
        bases: list[int] = known[0] if known else []
        settled: list[list[int]] = known[1] if known else []
        self._ports = tuple(sorted(ports))
        self.first = dict(zip(self._ports, bases or [0] * len(self._ports), strict=True))
        self._bases = dict(self.first)
        self._settled: dict[int, Seen] = {}
        for edge, *identity in settled:
            self.settled(edge).is_repeated(tuple(identity))
        self._deterministic = deterministic
        self._causes: deque[Cause] = deque()
        self._current: Cause | None = None
        self._identity = b""

    def __len__(self) -> int:
        return len(self._causes)

    def settled(self, edge: int) -> Seen:
        """Return what is settled of an edge."""
        return self._settled.setdefault(edge, Seen())

    def open(self, edge: int, epoch: int, place: int, identity: Identity | None) -> Cause:
        """Begin with an arrival: what is made until it is closed is made from it."""
        cause = self._current = Cause(edge, epoch, place, identity)
        self._causes.append(cause)
        return cause

    def skip(self, edge: int, epoch: int, place: int, identity: Identity | None) -> None:
        """Nothing is made from an arrival."""
        cause = Cause(edge, epoch, place, identity)
        cause.is_closed = True
        self._causes.append(cause)

    def open_flush(self) -> None:
        """All inputs have ended: what is made now is made from all of them."""
        self._current = Cause(-1, 0, 0, (FLUSHED,))

    def close(self, cause: Cause) -> None:
        """Nothing more is made from an arrival."""
        cause.is_closed = True
        if self._current is cause:
            self._current = None

    def make(self, port: str, seq: int) -> None:
        """A frame is made, the one of that number on its output."""
        cause = self._current
        identity: Identity = (OWN, seq)
        if cause is not None:
            count = cause.make(port)
            identity = () if cause.identity is None else (*_derived(cause.edge, cause.identity), count)
        usable = self._deterministic and 2 <= len(identity) <= MAX_DEPTH
        self._identity = encode_identity(identity) if usable else b""

    def due(self, *, kept: bool) -> Due:
        """Return what goes with the frame that was made last on one edge; `kept`: which will say what becomes of it."""
        cause = self._current if kept else None
        if cause is not None:
            cause.owe()
        return Due(cause, self._identity)

    def advance(self) -> list[Cause]:
        """Return what is settled now, in its order."""
        settled: list[Cause] = []
        causes = self._causes
        while causes and causes[0].is_settled:
            cause = causes.popleft()
            settled.append(cause)
            for port, count in cause.made.items():
                self._bases[port] += count
            if cause.identity is not None:
                self.settled(cause.edge).is_repeated(cause.identity)
        return settled

    def dump(self) -> list[Any]:
        """Return what the next process of this node has to know."""
        known = [[edge, *identity] for edge, seen in self._settled.items() for identity in seen.all()]
        return [[self._bases[port] for port in self._ports], known]


def _derived(edge: int, identity: Identity) -> Identity:
    """Return how the identity of what is made from a frame begins: there is a stream for each way that frames go."""
    if edge < 0:
        return identity
    return (zlib.crc32(_PAIR.pack(edge, identity[0])), *identity[1:])
