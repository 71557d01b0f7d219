"""Topics from scripts of ten lines, each a process: what is published is read, and who breaks harms himself alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripting import Script, Scripts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # real processes

NUMBERS = """
    with rmbus.connect() as bus, bus.publish("numbers") as numbers:
        say("up")
        for word in iter(hear, ""):
            for number in range(int(word)):
                numbers.send(number)
"""
"""Publishes as many numbers as it is told to, time after time."""


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    with Scripts(tmp_path) as scripts:
        yield scripts


def up(script: Script) -> Script:
    """Wait until a script says that it is up."""
    assert script.heard() == "up"
    return script


def publish(publisher: Script, frames: int) -> None:
    """Let a script of `NUMBERS` publish, and end."""
    publisher.tell(str(frames))
    publisher.tell()


def test_small_frames(scripts: Scripts) -> None:
    """All of them, in order, with the topic's name and their numbers; the iteration ends with the publisher."""
    reader = up(
        scripts.start("""
            bus = rmbus.connect()
            numbers = bus.subscribe("numbers", delivery=drop_oldest(1000))
            say("up")
            say([[frame.value, frame.seq, frame.topic] for frame in numbers])
            say(numbers.dropped)
        """)
    )
    publish(up(scripts.start(NUMBERS)), 300)
    got, dropped = reader.said()
    assert got == [[number, number, "numbers"] for number in range(300)]
    assert dropped == {}


def test_large_frames_are_shared(scripts: Scripts) -> None:
    """Pictures of 6.2 MB lie in shared memory, read-only; the account says so, and the pixels are right."""
    reader = up(
        scripts.start("""
            from rmbus.transport.counters import Edge
            with rmbus.connect() as bus, bus.subscribe("cam/front", delivery=drop_oldest(50)) as pictures:
                say("up")
                for frame in pictures:
                    a = frame.array
                    say([a.nbytes, int(a[0, 0, 0]), int(a[-1, -1, -1]), a.flags.writeable, frame.pts])
                    ((link, _),) = pictures.intake._edges.values()
                    shared = link.page.words[Edge.SHARED]
                say([shared, pictures.dropped])
        """)
    )
    writer = scripts.start("""
        with rmbus.connect() as bus, bus.publish("cam/front", Video("rgb24", rate=25)) as pictures:
            picture = np.zeros((1080, 1920, 3), np.uint8)
            for number in range(20):
                picture[:] = number  # the same array: it was copied when it was sent
                pictures.send(picture)
            like = VideoFrame(picture, pts=99)
            with pictures.loan(like=like) as lent:
                lent.array[:] = 77
            try:
                with pictures.loan(like=like) as lent:
                    raise KeyError
            except KeyError:
                pass
    """)
    said = reader.said()
    writer.said()
    assert said[-1] == [21, {}]
    assert said[:-1] == [
        *([6_220_800, number, number, False, number] for number in range(20)),
        [6_220_800, 77, 77, False, 99],
    ]


def test_the_last_value_comes_at_once_where_it_is_wanted(scripts: Scripts) -> None:
    """Who comes late gets the last value, with its format, or waits for the next."""
    writer = up(
        scripts.start("""
            bus = rmbus.connect()
            states, pictures = bus.publish("states"), bus.publish("pictures")
            for state in ("red", "yellow", "green"):
                states.send(state)
            pictures.send(VideoFrame(np.full((600, 800, 3), 5, np.uint8)))
            say("up")
            hear()
            states.send("red")
            bus.close()
        """)
    )
    late = scripts.start("""
        bus = rmbus.connect()
        last = next(bus.subscribe("pictures", last=True))
        say([str(last.format.pixels), int(last.array.sum())])
        states = bus.subscribe("states", last=True)
        say(next(states).value)
        say([frame.value for frame in states])
    """)
    plain = up(
        scripts.start("""
            bus = rmbus.connect()
            states = bus.subscribe("states")
            say("up")
            say([frame.value for frame in states])
        """)
    )
    assert late.heard() == ["rgb24", 5 * 600 * 800 * 3]
    assert late.heard() == "green"
    writer.tell()
    assert late.said() == [["red"]]
    assert plain.said() == [["red"]]
    writer.said()


def test_patterns(scripts: Scripts) -> None:
    """A pattern takes in what comes and goes, and ends when it is closed; a name ends with its topic."""
    reader = up(
        scripts.start("""
            bus = rmbus.connect()
            cameras, every = bus.subscribe("cam/*"), bus.subscribe("**")
            names = threading.Thread(target=lambda: say(sorted({next(every).topic for _ in range(5)})))
            names.start()
            say("up")
            got = [next(cameras) for _ in range(3)]
            names.join()
            say([[frame.topic, frame.value] for frame in got])
            cameras.close()
            say(list(cameras))
        """)
    )
    writer = scripts.start("""
        with rmbus.connect() as bus:
            for name in ("cam/front", "cam/back/left", "microphone", "cam/back", "cam/front"):
                with bus.publish(name) as publisher:
                    publisher.send(f"of {name}")
    """)
    assert reader.said() == [
        ["cam/back", "cam/back/left", "cam/front", "microphone"],
        [["cam/front", "of cam/front"], ["cam/back", "of cam/back"], ["cam/front", "of cam/front"]],
        [],
    ]
    writer.said()
