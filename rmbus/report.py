"""The report of a run: what each node and each edge did, to the frame."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from rmbus.transport.counters import percentile

Histogram = Mapping[int, int]


def _seconds(histogram: Histogram, share: float) -> float | None:
    size = max(histogram, default=0) + 1
    return percentile([histogram.get(place, 0) for place in range(size)], share)


@attrs.frozen
class EdgeReport:
    """The account of one edge.

    Attributes:
        name: `producer.port -> consumer.port`.
        delivery: its policy. lane: what moved it, and why.
        published: frames that the producer offered. delivered: frames handed to the consumer's `process`.
        dropped: frames that were not, by reason. in_flight: frames on their way; 0 at rest.
        bytes: payload bytes that the producer offered.
        latency_p50_s, latency_p99_s: from capture to delivery; None where nothing was delivered.
        shared: frames that went by reference. pinned: of those, copied by a consumer that held too many.
        duplicates: frames that were delivered once more, since a consumer had died with them.
    """

    name: str
    delivery: str
    lane: str
    published: int
    delivered: int
    dropped: Mapping[str, int]
    bytes: int
    latency_p50_s: float | None
    latency_p99_s: float | None
    shared: int = 0
    pinned: int = 0
    duplicates: int = 0

    @property
    def in_flight(self) -> int:
        """Frames that are neither delivered nor dropped."""
        return self.published + self.duplicates - self.delivered - sum(self.dropped.values())


@attrs.frozen
class NodeReport:
    """Where and how one node ran.

    Attributes:
        name: in the pipeline. host: the host's name. pid: its process there.
        level: its confinement. in_force: the measures of it. warm: whether a spare process took it; reason: why not.
        state: `ready`, `ended`, `failed`, `lost`.
        frames_in, frames_out: frames given to `process`, frames that it sent.
        copied_bytes: of large payloads, copied on their way out; 0 where frames were rendered in place, or sent on.
        package: content address of its code, "" where the user's own files were read. code_bytes: sent for it.
    """

    name: str
    host: str
    pid: int
    level: str
    warm: bool
    reason: str
    state: str
    frames_in: int
    frames_out: int
    package: str = ""
    code_bytes: int = 0
    copied_bytes: int = 0
    in_force: Mapping[str, str] = attrs.field(factory=dict[str, str])


@attrs.frozen
class Report:
    """What a run did; `str()` is the table.

    Attributes:
        frames: frames that reached the ends of the pipeline.
        dropped: frames that did not reach their consumer, by reason; empty where none was lost.
        nodes, edges: their own accounts.
        seconds: how long it ran. error: why it ended early, or "".
        latency_p50_s, latency_p99_s: from capture to delivery at the ends of the pipeline.
    """

    nodes: tuple[NodeReport, ...]
    edges: tuple[EdgeReport, ...]
    seconds: float
    frames: int
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    error: str = ""

    @property
    def dropped(self) -> dict[str, int]:
        """Frames that were dropped on any edge, by reason."""
        return sum_reasons(edge.dropped for edge in self.edges)

    @property
    def fps(self) -> float:
        """Frames a second that reached the ends of the pipeline."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def node(self, name: str) -> NodeReport:
        """Return the account of a node.

        Raises:
            KeyError: there is none of that name.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node is named {name!r}; there are {', '.join(node.name for node in self.nodes)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the fields, and what is derived from them."""
        value = attrs.asdict(self)
        for row, edge in zip(value["edges"], self.edges, strict=True):
            row["in_flight"] = edge.in_flight
        return value | {"dropped": self.dropped, "fps": self.fps}

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=120, color_system=None)
        for part in self.__rich__():
            console.print(part)
        file = console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue().rstrip()

    def __rich__(self) -> list[Any]:
        """Return the tables, for a terminal."""
        from rich.table import Column, Table
        from rich.text import Text

        nodes = Table("node", "on", "pid", "level", "start", "in", "out", "code sent", "state", title="nodes")
        for node in self.nodes:
            start = "warm" if node.warm else f"cold: {node.reason}" if node.reason else "cold"
            sent = f"{node.code_bytes:,} B" if node.package else "your files"
            counts = (f"{node.frames_in:,}", f"{node.frames_out:,}")
            nodes.add_row(node.name, node.host, str(node.pid), node.level, start, *counts, sent, node.state)
        edges = Table(
            Column("edge", no_wrap=True),
            "delivery",
            "lane",
            "published",
            "delivered",
            "dropped",
            "p50",
            "p99",
            title="edges",
        )
        for edge in self.edges:
            dropped = ", ".join(f"{count} {reason}" for reason, count in edge.dropped.items()) or "0"
            latencies = (_ms(edge.latency_p50_s), _ms(edge.latency_p99_s))
            counts = (f"{edge.published:,}", f"{edge.delivered:,}")
            edges.add_row(edge.name, edge.delivery, edge.lane, *counts, dropped, *latencies)
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "0"
        line = (
            f"{self.frames:,} frames in {self.seconds:.2f} s ({self.fps:.1f} fps), dropped {lost}, "
            f"latency p50 {_ms(self.latency_p50_s)}, p99 {_ms(self.latency_p99_s)}"
        )
        return [nodes, edges, Text(line + (f"\nfailed: {self.error}" if self.error else ""))]


def sum_reasons(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums by reason."""
    total: dict[str, int] = {}
    for dropped in counts:
        for reason, count in dropped.items():
            total[reason] = total.get(reason, 0) + count
    return total


def latencies(histograms: Iterable[Histogram]) -> tuple[float | None, float | None]:
    """Return the median and the 99th percentile, in seconds, over several histograms."""
    merged: dict[int, int] = {}
    for histogram in histograms:
        for place, count in histogram.items():
            merged[place] = merged.get(place, 0) + count
    return _seconds(merged, 0.5), _seconds(merged, 0.99)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f} ms"
