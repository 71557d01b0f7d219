"""A plain script that reads a topic, here where the bar of publish.py is.

python examples/first_day/subscribe.py [TOPIC]

It may be started first: then it waits. It ends with the topic, and says what it has missed.
"""

from __future__ import annotations

import sys

import rmbus
from rmbus import VideoFrame


def main(topic: str = "camera/bar") -> None:
    with rmbus.connect() as bus, bus.subscribe(topic) as pictures:
        print(f"reading {topic}", flush=True)
        for frame in pictures:
            if isinstance(frame, VideoFrame):  # whoever publishes there may send anything
                place = int(frame.array[0, :, 0].argmax())
                print(f"{frame.topic} {frame.seq}: the bar is at {place}", flush=True)
        print(f"the topic has ended; dropped: {pictures.dropped or 'nothing'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
