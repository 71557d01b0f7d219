"""Names that a pickle of plain values refers to: types, and functions that make a value of what they are given.

None makes much out of little, as `range` and `bytes` would.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_CORES: Final = ("numpy._core", "numpy.core")  # of numpy 2, and before

PLAIN: Final[Mapping[str, tuple[str, ...]]] = {
    "builtins": ("complex", "dict", "float", "frozenset", "int", "list", "set", "slice", "str", "tuple"),
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "uuid": ("UUID",),
    "numpy": ("dtype", "ndarray"),
    **{f"{core}.multiarray": ("_reconstruct", "scalar") for core in _CORES},
    **{f"{core}.numeric": ("_frombuffer",) for core in _CORES},
}
"""By module."""
