"""Code to be shipped: a class in a module that needs three others, written anew into a folder of its own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PARTS = ("words", "steps", "names")

_FILLING = "".join(
    f'def step_{n}(value):\n    """One of many."""\n    return value * {n} + {n % 7}\n\n\n' for n in range(30)
)

_TOOL = '''"""An object that is called."""

import numpy as np
from {prefix}_names import NAME
from {prefix}_steps import SALT
from {prefix}_words import check, stamp


class Tool:
    """Answers arrays with arrays of the same size, of its own."""

    def __init__(self):
        self.name = NAME
        self.own = None

    def answer(self, array):
        """Return an array that holds the number of the one that is given."""
        number = check(array)
        if self.own is None or self.own.size != array.size:
            self.own = np.arange(array.size, dtype=np.uint64)
        stamp(self.own, number, SALT)
        return self.own

    def items(self, count):
        """Yield small arrays."""
        for number in range(count):
            own = np.arange(8, dtype=np.uint64)
            stamp(own, number, SALT)
            yield own
'''

_WORDS = '''"""What arrays hold: a number first and last."""


def check(array):
    """Return the number of an array that is whole."""
    if array[0] != array[-1]:
        raise ValueError("an argument did not arrive as it was sent")
    return int(array[0])


def stamp(array, number, salt):
    """Write a number first and last, and a salt behind the first."""
    array[0] = array[-1] = number
    array[1] = salt
'''


class Code:
    """The modules of one object, in a folder; an edit gives them another salt.

    Attributes:
        salt: what answers of the present code hold. modules: as they are imported here.
    """

    def __init__(self, folder: Path, prefix: str, salt: int) -> None:
        self.folder, self.prefix, self.salt = folder, prefix, salt
        self.modules: list[ModuleType] = []
        folder.mkdir()
        self._write("tool", _TOOL.format(prefix=prefix))
        self._write("words", _WORDS)
        self._write("names", f'"""Names."""\n\nNAME = "{prefix}"\n\n\n{_FILLING}')
        self.edit(salt)
        sys.path.insert(0, str(folder))

    def edit(self, salt: int) -> None:
        """Edit one of the modules, and forget what was imported."""
        self.salt = salt
        self._write("steps", f'"""Steps."""\n\nSALT = {salt}\n\n\n{_FILLING}')
        for name in ("tool", *PARTS):
            sys.modules.pop(f"{self.prefix}_{name}", None)

    def tool(self) -> Any:
        """Import what is not imported, and return a new object."""
        importlib.invalidate_caches()
        found = importlib.import_module(f"{self.prefix}_tool")
        self.modules = [sys.modules[f"{self.prefix}_{name}"] for name in ("tool", *PARTS)]
        return found.Tool()

    def _write(self, name: str, text: str) -> None:
        (self.folder / f"{self.prefix}_{name}.py").write_text(text, encoding="utf-8")
