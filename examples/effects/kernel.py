"""Plain arithmetic on pictures, in whole numbers: the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]

_ONE, _TWO = np.uint8(1), np.uint8(2)


def brightness(picture: Plane) -> Plane:
    """Return `uint8[height, width]`, a quarter of red, half of green and a quarter of blue.

    Args:
        picture: uint8[height, width, 3], rgb.
    """
    grey = picture[..., 1] >> _ONE
    grey += picture[..., 0] >> _TWO
    grey += picture[..., 2] >> _TWO
    return grey


def slope(grey: Plane) -> NDArray[np.int16]:
    """Return how steeply the brightness changes, by Sobel's masks: `int16[height - 2, width - 2]`, from 0 up."""
    wide = grey.astype(np.int16)
    down = wide[:-2] + wide[2:]
    down += wide[1:-1]
    down += wide[1:-1]
    across = wide[:, :-2] + wide[:, 2:]
    across += wide[:, 1:-1]
    across += wide[:, 1:-1]
    steep = np.abs(down[:, 2:] - down[:, :-2])
    steep += np.abs(across[2:] - across[:-2])
    return steep
