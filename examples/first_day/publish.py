"""A plain script that publishes: a white bar moves over a picture, 25 times a second.

rmbus host &                                            (a bus, if none runs yet)
python examples/first_day/publish.py [TOPIC [SECONDS]]

Whoever reads the topic, or nobody, makes no difference to this script: a topic waits for none of its readers.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import rmbus
from rmbus import Video

RATE = 25


def main(topic: str = "camera/bar", seconds: str = "10") -> None:
    picture = np.zeros((360, 640, 3), np.uint8)
    began = time.monotonic()
    with rmbus.connect() as bus, bus.publish(topic, Video("rgb24", rate=RATE)) as pictures:
        for number in range(int(float(seconds) * RATE)):
            picture[:] = 0
            picture[:, number * 8 % 640 :][:, :8] = 255
            pictures.send(picture)  # it is copied once, into memory that the readers see: draw on
            time.sleep(max(0, began + number / RATE - time.monotonic()))


if __name__ == "__main__":
    main(*sys.argv[1:])
