"""How loud a film is, ten times a second.

python examples/loudness.py in.mp4
"""

from __future__ import annotations

import sys

from rmbus import Data
from rmbus.nodes import LevelMeter, Map, MediaReader


def show(reading: Data) -> None:
    """Print the level of the loudest channel, from -60 dB on as a bar."""
    level = max(reading.value["rms_db"])
    print(f"{reading.time_s:7.1f} s {level:7.1f} dB  {'#' * round((max(level, -60) + 60) / 2)}")


if __name__ == "__main__":
    (MediaReader(sys.argv[1]).audio >> LevelMeter(0.1) >> Map(show)).run(on="inline")
