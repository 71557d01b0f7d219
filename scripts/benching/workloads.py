"""What is measured: sizes, rates and shapes, as data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import attrs

SIZES: Final = {
    "64B": 64,
    "1.9KB": 1920,
    "64KB": 65_536,
    "0.92MB": 640 * 480 * 3,
    "1MiB": 1 << 20,
    "6.2MB": 1920 * 1080 * 3,
    "24.9MB": 3840 * 2160 * 3,
}
"""Names of sizes: a small picture, 480 samples of float32, a grey picture of 256x256, three of rgb24; and an array."""

GROUPS: Final = ("latency", "throughput", "fanout", "chain", "ship", "call", "stream")

CALLING: Final = ("ship", "call", "stream")
"""Those where a client ships an object and calls it."""

RELAYS: Final = 4

SLEEP_S: Final = 0.1
"""What the slow reader sleeps after each frame: three frames' time at 30 Hz."""


@attrs.frozen
class Case:
    """One shape at one size and rate.

    Attributes:
        workload: what rows call it.
        size: bytes of a message. rate_hz: messages a second; 0: as many as go.
        readers, relays, sleep_s: as in a task.
    """

    workload: str
    size: int
    rate_hz: int = 0
    readers: int = 1
    relays: int = 0
    sleep_s: float = 0.0

    @property
    def group(self) -> str:
        """The one of `GROUPS` that it belongs to."""
        return next(group for group in GROUPS if self.workload.startswith(group))

    @property
    def has_latency(self) -> bool:
        """Whether the time of a message says something: none waits in a full queue."""
        return self.rate_hz > 0 or self.group in ("ship", "call")

    def __str__(self) -> str:
        rate = f" {self.rate_hz} Hz" if self.rate_hz else ""
        return f"{self.workload} {size_name(self.size)}{rate}"


@attrs.frozen
class Effort:
    """How long one run of a case is.

    Attributes:
        warmup_s: left out at the beginning.
        window_s: measured, where no pace counts the messages. by_rate: messages measured, by rate.
        ships: objects shipped one by one; a burst is made half as often.
    """

    warmup_s: float
    window_s: float
    by_rate: dict[int, int]
    ships: int = 4


FULL: Final = Effort(warmup_s=0.5, window_s=1.5, by_rate={30: 60, 1000: 900})
"""Seven rounds of 900 are more than 5000 samples, which a 99th percentile wants."""

QUICK: Final = Effort(warmup_s=0.4, window_s=0.5, by_rate={30: 20, 1000: 300}, ships=2)


def size_name(size: int) -> str:
    """Return a size as people name it."""
    return next((name for name, value in SIZES.items() if value == size), f"{size}B")


def full_cases() -> tuple[Case, ...]:
    """Return everything."""
    size = SIZES
    latency = [Case("latency", each, 30) for name, each in size.items() if name != "1MiB"]
    latency += [Case("latency", size[each], 1000) for each in ("64B", "1.9KB", "0.92MB")]
    throughput = [Case("throughput", size[each]) for each in ("64B", "1.9KB", "0.92MB", "6.2MB")]
    fanout = [Case(f"fanout{readers}", size["6.2MB"], 30, readers) for readers in (4, 16)]
    fanout += [Case("fanout4-slow", size["6.2MB"], 30, 4, sleep_s=SLEEP_S)]
    chain = [Case("chain", size[each], 30, relays=RELAYS) for each in ("64B", "6.2MB")]
    ships = ("ship-new", "ship-cached", "ship-edited", "ship-new-burst", "ship-cached-burst")
    ship = [Case(each, size["64B"]) for each in ships]
    call = [Case("call", size[each]) for each in ("64B", "1MiB", "24.9MB")]
    return (*latency, *throughput, *fanout, *chain, *ship, *call, Case("stream", size["64B"]))


def quick_cases() -> tuple[Case, ...]:
    """Return what tells most in little time."""
    wanted = {("latency", "64B", 30), ("latency", "6.2MB", 30), ("latency", "64B", 1000), ("throughput", "1.9KB", 0)}
    wanted |= {("throughput", "6.2MB", 0), ("fanout4", "6.2MB", 30), ("chain", "64B", 30), ("chain", "6.2MB", 30)}
    wanted |= {("ship-cached", "64B", 0), ("call", "64B", 0)}
    return tuple(case for case in full_cases() if (case.workload, size_name(case.size), case.rate_hz) in wanted)


def chosen(cases: Sequence[Case], only: Collection[str], sizes: Collection[str]) -> tuple[Case, ...]:
    """Return the cases of those groups and sizes; an empty collection chooses all.

    Raises:
        ValueError: there is no such group, or no such size.
    """
    for what, given, known in (("group", only, GROUPS), ("size", sizes, tuple(SIZES))):
        for each in given:
            if each not in known:
                raise ValueError(f"there is no {what} {each!r}; there are {', '.join(known)}")
    return tuple(
        case for case in cases if (not only or case.group in only) and (not sizes or size_name(case.size) in sizes)
    )
