"""An object of your own on a host: shipped, called, asked for a stream, fixed and shipped again with its state.

rmbus host &                                            (if none runs yet)
python examples/first_day/remote_object.py
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import rmbus

Picture = NDArray[np.uint8]


class Histogram:
    """Counts the grey levels of all pictures that it has seen, in four steps."""

    def __init__(self) -> None:
        self.pictures = 0
        self.counts = np.zeros(4, int)

    def add(self, picture: Picture) -> int:
        self.pictures += 1
        self.counts += np.bincount(picture.ravel() // 64, minlength=4)
        return self.pictures

    def shares(self) -> Iterator[float]:
        for count in self.counts:
            yield float(count / self.counts.sum())


class Finer(Histogram):
    """The same, told in percent."""

    def shares(self) -> Iterator[float]:
        for share in super().shares():
            yield round(100 * share, 1)


def main() -> None:
    dark, bright = np.full((120, 160), 10, np.uint8), np.full((120, 160), 200, np.uint8)
    with rmbus.connect() as bus:
        far = bus.ship(Histogram())  # runs in a process of the host's, confined; its source went along
        print("pictures:", far.add(dark), far.add(bright), far.add(bright))
        print("shares:", [round(share, 3) for share in far.shares()])
        finer = bus.replace(far, Finer())  # new code, the old state
        print("in percent:", list(finer.shares()))
        print("here again:", bus.fetch(finer).counts.tolist())


if __name__ == "__main__":
    main()
