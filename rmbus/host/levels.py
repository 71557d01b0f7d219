"""The levels of confinement, in order."""

from __future__ import annotations

import enum

from rmbus.errors import ConfinementError


class Level(enum.IntEnum):
    """How far a node process is kept from the rest of its machine; a greater level keeps it further."""

    TRUSTED = 0
    CONFINED = 1
    JAIL = 2

    @classmethod
    def parse(cls, name: str) -> Level:
        """Return the level of that name.

        Raises:
            ConfinementError: there is none; the message lists those that there are.
        """
        for level in cls:
            if level.word == name.strip().lower():
                return level
        known = ", ".join(level.word for level in cls)
        raise ConfinementError(f"no level of confinement is named {name!r}; there are {known}")

    @property
    def word(self) -> str:
        """The name as it is written everywhere: `trusted`, `confined`, `jail`."""
        return self.name.lower()
