"""What happens to an edge's frames while its consumer is busy: three policies, as plain values."""

from __future__ import annotations

import re
from typing import Final, Literal

import attrs

DeliveryKind = Literal["latest", "drop_oldest", "reliable"]

_TEXT = re.compile(r"(latest)|(drop_oldest|reliable)\((\d+)\)")


@attrs.frozen
class Delivery:
    """The policy of one edge.

    Attributes:
        kind: `latest` keeps the newest frame, `drop_oldest` the newest n, `reliable` loses none and holds the producer.
        n: how many frames may wait; 1 for `latest`.
    """

    kind: DeliveryKind
    n: int = 1

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.kind not in ("latest", "drop_oldest", "reliable"):
            raise ValueError(f"a delivery is latest, drop_oldest(n) or reliable(n), not {self.kind!r}")
        if type(self.n) is not int or self.n < 1:
            raise ValueError(f"{self.kind}(n) takes a whole number of frames from 1 up, not {self.n!r}")

    def __str__(self) -> str:
        return self.kind if self.kind == "latest" else f"{self.kind}({self.n})"


latest: Final = Delivery("latest")
"""Only the newest frame waits; those that it replaces are dropped and counted."""


def drop_oldest(n: int) -> Delivery:
    """Let n frames wait; a further one drops the oldest, which is counted."""
    return Delivery("drop_oldest", n)


def reliable(n: int) -> Delivery:
    """Let n frames wait; then the producer waits. Nothing is dropped."""
    return Delivery("reliable", n)


def parse(text: str) -> Delivery:
    """Return the delivery that `str()` wrote.

    Raises:
        ValueError: the text names no delivery.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"a delivery is latest, drop_oldest(n) or reliable(n), not {text!r}")
    if found[1]:
        return latest
    return drop_oldest(int(found[3])) if found[2] == "drop_oldest" else reliable(int(found[3]))


DEFAULT: Final = reliable(8)
"""Of an edge that names none."""

LIVE: Final = drop_oldest(8)
"""Of an edge that names none and leaves an output declared live."""
