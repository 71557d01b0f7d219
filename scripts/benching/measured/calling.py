"""A client that ships objects and calls them; it notes when it began, and when it had each result."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benching.measured.code import Code
from benching.measured.payload import Array
from benching.measured.records import Gauge, note
from benching.measured.task import Task

BURST = 10
SETTLE_S = 1.0
LONGEST_SETTLE_S = 6.0
LOOK_S = 0.25
RESTING = 0.3
"""Before the clock starts, processes that are kept ready become so: until all of the run's processes together use less
than this share of a processor. Some have daemons that never rest, so it is waited for no longer than that."""

STREAMED = 2000


class Remote(Protocol):
    """An object that was shipped."""

    def answer(self, array: Array) -> Array:
        """Call it."""
        ...

    def items(self, count: int) -> Iterator[Array]:
        """Have a stream of it."""
        ...

    def release(self) -> None:
        """End it."""
        ...


class Shipper(Protocol):
    """A way to ship."""

    level: str

    def leave(self) -> None:
        """Put away what other code needed, before the clock starts."""
        ...

    def begin(self, code: Code, *, is_known: bool) -> None:
        """Get ready for a code; one that is not known is got ready while the clock runs."""
        ...

    def ship(self, code: Code, tool: Any) -> Remote:
        """Ship an object; any thread may."""
        ...

    def close(self) -> None:
        """End everything."""
        ...


class Client:
    """Runs a task."""

    def __init__(self, task: Task, shipper: Shipper) -> None:
        self.task, self.shipper = task, shipper
        self.gauge = Gauge(task.gauge)
        self.sent: list[int] = []
        self.arrived: list[int] = []
        self.torn = 0
        self.first = 0

    def run(self) -> None:
        """Run it, and save the times."""
        if self.task.workload.startswith("ship"):
            self._ship()
        else:
            self._call()
        self.gauge.say("end reader 0")
        folder = Path(self.task.folder)
        np.save(folder / "sent.npy", np.asarray(self.sent, np.int64))
        np.save(folder / "arrived-0.npy", np.asarray(self.arrived, np.int64))
        note(folder / "source.json", {"first": self.first, "level": self.shipper.level})
        note(folder / "reader-0.json", {"torn": self.torn})
        self.shipper.close()
        self.gauge.close()

    def _code(self, number: int) -> Code:
        return Code(Path(self.task.folder) / f"code{number}", f"bench{number}", 1000 + number)

    def _begin(self) -> None:
        self.gauge.say("begin")
        self.first = len(self.sent)

    def _ship(self) -> None:
        kind = self.task.workload
        count = BURST if kind.endswith("burst") else 1
        code = self._code(0)
        for trip in range(self.task.warmup + self.task.count):
            if trip == self.task.warmup:
                self._begin()
            is_known = "cached" in kind and trip > 0
            if "new" in kind and trip:
                code = self._code(trip)
            elif "edited" in kind and trip:
                code.edit(1000 + trip)
            if is_known:
                self.shipper.begin(code, is_known=True)
            else:
                self.shipper.leave()
            if "edited" not in kind:
                code.tool()  # what a script has imported
            self._settle()
            self._trip(code, trip, count, is_known=is_known)

    def _settle(self) -> None:
        time.sleep(SETTLE_S)
        until = time.monotonic() + LONGEST_SETTLE_S - SETTLE_S
        while time.monotonic() < until:
            before_s = float(self.gauge.say("used?"))
            time.sleep(LOOK_S)
            if abs(float(self.gauge.say("used?")) - before_s) < RESTING * LOOK_S:
                return

    def _trip(self, code: Code, number: int, count: int, *, is_known: bool) -> None:
        array = _argument(64, number)
        began = time.monotonic_ns()
        if not is_known:
            self.shipper.begin(code, is_known=False)
        tools = [code.tool() for _ in range(count)]

        def one(tool: Any) -> tuple[Remote, Array, int]:
            remote = self.shipper.ship(code, tool)
            result = remote.answer(array)
            return remote, result, time.monotonic_ns()

        if count == 1:
            done = [one(tools[0])]
        else:
            with ThreadPoolExecutor(count) as pool:
                done = list(pool.map(one, tools))
        for remote, result, arrived in done:
            self._note(began, arrived, result, number, code.salt)
            remote.release()

    def _call(self) -> None:
        code = self._code(0)
        self.shipper.begin(code, is_known=False)
        remote = self.shipper.ship(code, code.tool())
        array, number = _argument(self.task.size, 0), 0
        for seconds in (self.task.warmup_s, self.task.seconds):
            if number:
                self._begin()
            until = time.monotonic() + seconds
            least = number + 3
            while time.monotonic() < until or number < least:
                number += 1
                array[0] = array[-1] = number
                began = time.monotonic_ns()
                if self.task.workload == "stream":
                    items = [(time.monotonic_ns(), item) for item in remote.items(STREAMED)]
                    for place, (arrived, item) in enumerate(items):
                        self._note(began, arrived, item, place, code.salt)
                else:
                    result = remote.answer(array)
                    result.item(0)
                    result.item(-1)
                    self._note(began, time.monotonic_ns(), result, number, code.salt)
                    del result
        remote.release()

    def _note(self, began: int, arrived: int, result: Array, number: int, salt: int) -> None:
        self.sent.append(began)
        self.arrived.append(arrived)
        middle = result.size // 2
        is_whole = result[0] == number and result[-1] == number and result[1] == salt and result[middle] == middle
        self.torn += not is_whole


def _argument(size: int, number: int) -> Array:
    array = np.arange(size // 8, dtype=np.uint64)
    array[0] = array[-1] = number
    return array


def play(task: Task, shipper: Shipper) -> None:
    """Be the client of a task."""
    sys.dont_write_bytecode = True  # two edits within a second are two
    Client(task, shipper).run()
