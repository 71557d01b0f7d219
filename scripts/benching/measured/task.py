"""One run of one system, as its processes are told of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

MOST_MESSAGES = 4_000_000
"""What a run without a pace may send: the records have room for so many."""


@dataclass(frozen=True)
class Task:
    """What to send, how often, to whom, and where to leave the records.

    Attributes:
        system: the system under test. variant: which of its ways is used, "" where it has one.
        workload: `latency`, `throughput`, `fanout` or `chain`.
        size: bytes of a message.
        rate_hz: messages a second; 0: as many as the system takes.
        warmup: messages before the window; warmup_s: time before it, where there is no pace.
        count: messages in the window; seconds: its time, where there is no pace.
        readers: consumers of the one source. relays: nodes between source and reader that pass messages on.
        sleep_s: what the last reader sleeps after each message.
        folder: where the records are saved. gauge: the socket of the process that measures.
    """

    system: str
    variant: str
    workload: str
    size: int
    rate_hz: int
    warmup: int
    warmup_s: float
    count: int
    seconds: float
    readers: int
    relays: int
    sleep_s: float
    folder: str
    gauge: str

    @property
    def is_paced(self) -> bool:
        """Whether the source sends at a rate, and not as fast as it can."""
        return self.rate_hz > 0

    @property
    def capacity(self) -> int:
        """The most messages that are sent."""
        if self.is_paced:
            return self.warmup + self.count
        # 2 GB/s of large frames and a million small messages a second are more than any of the systems takes.
        return min(MOST_MESSAGES, int((self.warmup_s + self.seconds) * max(1_000_000, 2**31 // self.size)))

    def sleeps(self, reader: int) -> bool:
        """Whether that reader is the one that sleeps."""
        return self.sleep_s > 0 and reader == self.readers - 1

    def save(self, path: Path) -> None:
        """Write the task for the processes that it is for."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read a task."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
