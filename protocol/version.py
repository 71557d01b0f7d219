"""The version of the wire, apart from that of the package. A version talks to itself and to the one before."""

from __future__ import annotations

from typing import Final

from rmbus.errors import UnsupportedVersion

VERSIONS: Final = (1, 1)
"""The lowest and the highest version that this side speaks."""


def negotiate(theirs: tuple[int, int], ours: tuple[int, int] = VERSIONS) -> int:
    """Return the highest version that both sides speak.

    Raises:
        UnsupportedVersion: there is none.
    """
    version = min(theirs[1], ours[1])
    if version < max(theirs[0], ours[0]):
        raise UnsupportedVersion(
            f"this side speaks protocol versions {ours[0]} to {ours[1]}, the other {theirs[0]} to {theirs[1]}: "
            "upgrade the older of the two"
        )
    return version
