"""The version of the wire, apart from that of the package. A version talks to itself and to the one before."""

from __future__ import annotations

from typing import Final

from rmbus.errors import UnsupportedVersion

VERSIONS: Final = (1, 1)
"""The lowest and the highest version that this side speaks."""


def negotiate(
    theirs: tuple[int, int],
    ours: tuple[int, int] = VERSIONS,
    *,
    them: str = "the other side",
    us: str = "this side",
) -> int:
    """Return the highest version that both sides speak.

    Args:
        theirs, ours: the lowest and the highest version of each. them, us: who they are, for the error.

    Raises:
        UnsupportedVersion: there is none.
    """
    version = min(theirs[1], ours[1])
    if version < max(theirs[0], ours[0]):
        raise UnsupportedVersion(
            f"{us} speaks protocol versions {ours[0]} to {ours[1]}, {them} {theirs[0]} to {theirs[1]}: "
            "upgrade the older of the two"
        )
    return version
