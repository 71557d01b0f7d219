"""A camera for machines that have none: a test pattern at the speed of its own clock.

rmbus run examples/camera.py:Camera --out camera/video
"""

from __future__ import annotations

from rmbus.nodes import TestPattern


class Camera(TestPattern):
    """Ten seconds of a moving pattern, 320x180, 25 pictures in a second."""

    def __init__(self) -> None:
        super().__init__(320, 180, 25, frames=250, realtime=True)
