"""Nodes that do what they are told step by step, and wait for each other by files, so that no test depends on time."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from kinds import flaw, make

from rmbus import AudioFrame, Input, Interrupt, Node, Output, VideoFrame
from rmbus.media import Frame

PATIENCE_S: Final = 30.0


def wait_for(mark: Path) -> None:
    """Wait until somebody has made a mark; the node does nothing else meanwhile."""
    for _ in waiting_for(mark):
        continue


def waiting_for(mark: Path) -> Iterator[None]:
    """Wait until somebody has made a mark; the node has time for its lanes meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while not mark.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody has made the mark {mark.name} within {PATIENCE_S:g} s")
        time.sleep(0.002)
        yield None


class Steps(Node):
    """A source that carries out steps.

    Args:
        steps: each is `(kind, number)`, a frame; `"interrupt"`; `("wait", mark)` or `("mark", mark)`.
        every_s: how long it rests after each frame.
    """

    def __init__(self, steps: Sequence[Any], every_s: float = 0.0) -> None:
        self.steps = list(steps)
        self.every_s = every_s

    def process(self) -> Iterator[Any]:
        for step in self.steps:
            if step == "interrupt":
                yield Interrupt()
            elif step[0] == "wait":
                yield from waiting_for(step[1])
            elif step[0] == "mark":
                step[1].touch()
            else:
                yield make(*step)
                time.sleep(self.every_s)


class Relay(Node):
    """Sends on what it is given: as it is, as a copy, restamped, or drawn into a frame that is lent; by turns.

    Args:
        ways: of these, those that are used. last: the number of a frame of its own at the end, or none.
        marks: by the number of a frame, a mark that it makes when it has sent that on.
    """

    def __init__(
        self, ways: Sequence[str] = ("forward",), last: int | None = None, marks: dict[int, Path] | None = None
    ) -> None:
        self.ways = list(ways)
        self.last = last
        self.marks = marks or {}

    def initialize(self) -> None:
        self.turns = itertools.cycle(self.ways)

    def process(self, frame: Frame) -> Iterator[Any]:
        way = next(self.turns)
        if way == "forward" or not isinstance(frame, VideoFrame | AudioFrame):
            yield frame
        elif way == "copy":
            yield frame.editable()
        elif way == "stamp":
            yield frame.stamped(captured_ns=1)
        else:
            with self["out"].loan() as lent:  # type: ignore[attr-defined]
                lent.array[:] = frame.array
        yield None  # what was lent goes out
        if frame.pts in self.marks:
            self.marks[frame.pts].touch()

    def flush(self) -> Any:
        return None if self.last is None else make("small", self.last)


class Awaits(Node):
    """Sends on what it is given, from an event loop of its own."""

    async def process(self, frame: Frame) -> Frame:
        await asyncio.sleep(0)
        return frame


class Late(Node):
    """Sends frames on with 1000 added to their numbers; with the first, which it keeps, it stands still.

    Args:
        tells: the mark that it makes then. waits: the mark that it waits for.
    """

    def __init__(self, *, tells: Path, waits: Path) -> None:
        self.tells, self.waits = tells, waits

    def process(self, frame: Frame) -> Frame | None:
        assert frame.pts is not None
        if frame.pts:
            return make("small", 1000 + frame.pts)
        self.tells.touch()
        wait_for(self.waits)
        return None


class Take(Node):
    """A sink that checks what it is given, and writes down at the end what that was.

    Args:
        note: the file that it writes to. kinds: kind of the frame of each number, by turns.
        every_s: how long it takes for each. keeps: whether it keeps all of them to the end.
        waits, marks: by the number of a frame, a mark that it waits for when it has been given that, or makes then.
    """

    frames = Input(many=True)

    def __init__(
        self,
        note: Path,
        kinds: Sequence[str] = ("small",),
        *,
        every_s: float = 0.0,
        waits: dict[int, Path] | None = None,
        marks: dict[int, Path] | None = None,
        keeps: bool = False,
    ) -> None:
        self.note, self.kinds, self.every_s = note, list(kinds), every_s
        self.waits, self.marks, self.keeps = waits or {}, marks or {}, keeps

    def initialize(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.flaws: list[str] = []
        self.kept: list[Frame] = []
        self.told: list[str] = []

    def process(self, frame: Frame) -> None:
        assert frame.pts is not None
        self.seen.append((frame.pts, frame.seq))
        self.flaws += filter(None, [flaw(frame, self.kinds[frame.pts % len(self.kinds)])])
        if self.keeps:
            self.kept.append(frame)
        if frame.pts in self.marks:
            self.marks[frame.pts].touch()
        if frame.pts in self.waits:
            wait_for(self.waits[frame.pts])
        time.sleep(self.every_s)

    def interrupted(self) -> None:
        self.told.append("interrupted")

    def ended(self, port: str) -> None:
        self.told.append(f"{port} ended")

    def flush(self) -> None:
        changed = [flaw(frame, self.kinds[(frame.pts or 0) % len(self.kinds)]) for frame in self.kept]
        written = {"seen": self.seen, "flaws": self.flaws + [f"later: {each}" for each in changed if each]}
        self.note.write_text(json.dumps(written | {"told": [*self.told, "flush"]}))


class Join(Node):
    """Two inputs, one output: sends on whatever comes, with what `Take` can do beside."""

    left = Input()
    right = Input()
    out = Output()

    def __init__(self, *, waits: dict[int, Path] | None = None, marks: dict[int, Path] | None = None) -> None:
        self.waits, self.marks = waits or {}, marks or {}

    def process(self, frame: Frame, port: str) -> Iterator[Frame]:
        assert frame.pts is not None
        if frame.pts in self.waits:
            wait_for(self.waits[frame.pts])
        yield frame
        if frame.pts in self.marks:
            self.marks[frame.pts].touch()


class Few(Node):
    """Sends on one frame of so many."""

    def __init__(self, of: int) -> None:
        self.of = of

    def process(self, frame: Frame) -> Frame | None:
        assert frame.pts is not None
        return frame if frame.pts % self.of == 0 else None


class Pairs(Node):
    """Waits for both: sends a frame of the left on when one of the same number has come by the right, or the reverse.

    What has no partner yet it holds back, and at the end it forgets it.
    """

    left = Input()
    right = Input()
    out = Output()

    def initialize(self) -> None:
        self.held: dict[str, dict[int, Frame]] = {"left": {}, "right": {}}

    def process(self, frame: Frame, port: str) -> Frame | None:
        assert frame.pts is not None
        other = self.held["right" if port == "left" else "left"]
        if frame.pts in other:
            return other.pop(frame.pts)
        self.held[port][frame.pts] = frame
        return None


class Slowly(Node):
    """Sends everything on, and takes its time for each frame, or for the first alone."""

    def __init__(self, each_s: float = 0.0, first_s: float = 0.0) -> None:
        self.each_s, self.first_s = each_s, first_s

    def process(self, frame: Frame) -> Frame:
        time.sleep(self.each_s + (0 if frame.seq else self.first_s))
        return frame
