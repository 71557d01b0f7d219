"""A picture as a pencil drawing on warm paper."""

from __future__ import annotations

import numpy as np

from effects.kernel import Plane, brightness, slope


def draw(picture: Plane, threshold: int = 32) -> Plane:
    """Return the drawing of a picture.

    Args:
        picture: uint8[height, width, 3], rgb; at least 3 x 3.
        threshold: how steep the brightness must change to leave a trace: more gives fewer lines.
    """
    paper = brightness(picture)
    steep = slope(paper)
    steep -= threshold
    np.clip(steep, 0, 255, out=steep)
    lines = steep.astype(np.uint8)
    lines -= lines >> 2
    paper >>= 2  # the light and shade of the picture, faintly
    paper += 191
    paper[1:-1, 1:-1] -= lines
    drawing = np.empty_like(picture)
    drawing[..., 0] = paper
    np.subtract(paper, paper >> 5, out=drawing[..., 1])
    np.subtract(drawing[..., 1], paper >> 4, out=drawing[..., 2])
    return drawing
