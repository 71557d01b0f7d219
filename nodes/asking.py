"""What nodes have in common that are asked by dictionaries and answer with dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from rmbus.media import Data, Frame


def asked(frame: Frame, needed: Sequence[str]) -> dict[str, Any]:
    """Return the dictionary that a frame holds.

    Args:
        frame: the frame.
        needed: the keys that it must have.

    Raises:
        ValueError: it holds none, or a key is missing.
    """
    value = frame.value if isinstance(frame, Data) else None
    if not isinstance(value, dict):
        raise ValueError("Input must be a dictionary")
    if not all(key in value for key in needed):
        names = " and ".join(map(repr, needed))
        raise ValueError(f"Input must contain {names} key{'s' if len(needed) > 1 else ''}")
    return cast("dict[str, Any]", value)
