"""A run on the terminal: a bar or lines while it goes on, what the nodes print above it, and the report."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import attrs
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from rmbus import formats
from rmbus.cli.failures import leave
from rmbus.errors import NodeError, RmbusError
from rmbus.node import Node
from rmbus.pipeline import Pipeline
from rmbus.report import Report
from rmbus.session import Session

INTERVAL_S: Final = 0.25
_FIRST_LINE_S, _LAST_LINE_S = 1.0, 30.0
"""Where standard error is no terminal, there is a line now and then: at first, and when it has gone on for long."""
_DRAIN_S: Final = 1.5


@attrs.frozen
class Gauge:
    """Which edges tell how far a run has come, and how far it has to go.

    Attributes:
        edges: names of edges, as the report has them. total: frames, if that is known.
    """

    edges: frozenset[str]
    total: int | None = None

    @classmethod
    def of(cls, pipeline: Pipeline, *, total: int | None = None, reader: Node | None = None) -> Gauge:
        """Choose the edges: pictures that leave the reader, else pictures that reach an end, else all that does."""
        ends = {id(node) for node in pipeline} - {id(edge.source) for edge in pipeline.edges}
        read = [edge for edge in pipeline.edges if edge.source is reader]
        last = [edge for edge in pipeline.edges if id(edge.target) in ends]
        for edges in (read, last):
            shown = [each for each in edges if formats.kind(each.output_port.format) == "video"]
            shown = shown or [each for each in edges if formats.kind(each.input_port.format) == "video"]
            if shown:
                return cls(frozenset(pipeline.label(each) for each in shown), total)
        return cls(frozenset(pipeline.label(each) for each in last))

    def frames(self, report: Report) -> int:
        """Return how many frames have come by."""
        return min((edge.delivered for edge in report.edges if edge.name in self.edges), default=0)


class Screen:
    """What a person sees of a run, on standard error. A context manager."""

    def __init__(self, gauge: Gauge, title: str) -> None:
        self._gauge = gauge
        self._title = title
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._recent: list[tuple[float, int]] = []
        self._told, self._pause_s = time.monotonic(), _FIRST_LINE_S

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            told = TextColumn("{task.fields[told]}")
            self._bar = Progress(*columns, told, TimeRemainingColumn(), console=self._console, transient=True)
            self._task = self._bar.add_task(self._title, total=self._gauge.total, told="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def log(self, node: str, host: str, lines: Sequence[str], suppressed: int) -> None:
        """Show what a node has printed."""
        more = [f"… {suppressed} lines suppressed (it prints too fast)"] if suppressed else []
        for line in [*lines, *more]:
            self.say(f"{node}@{host} | {line}")

    def say(self, line: str) -> None:
        """Show a line, above the bar where there is one."""
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(Text(line))

    def show(self, report: Report) -> None:
        """Show how far it has come."""
        now, done = time.monotonic(), self._gauge.frames(report)
        dropped = sum(report.dropped.values())
        told = f"{self._rate(now, done):.1f} fps, {dropped} dropped"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, told=told)
        elif now - self._told >= self._pause_s:
            self._told, self._pause_s = now, min(1.2 * self._pause_s, _LAST_LINE_S)
            of = f" of {self._gauge.total}" if self._gauge.total else ""
            print(f"rmbus: {self._title}: {done}{of} frames, {told}", file=sys.stderr, flush=True)

    def _rate(self, now: float, done: int) -> float:
        """Return the frames a second of the last two seconds."""
        self._recent = [(then, count) for then, count in self._recent if now - then <= 2.0] + [(now, done)]
        began, first = self._recent[0]
        return (done - first) / (now - began) if now > began else 0.0


class Interrupts:
    """The first Ctrl-C, or SIGTERM, asks for the end; the second raises KeyboardInterrupt. A context manager."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # what was started to go on in the background goes on
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def attend(session: Session, screen: Screen, *, endless: bool) -> Report:
    """Wait for the end of a run and show how it goes on. Ctrl-C ends it; where it has no end of its own, it is drained.

    Raises:
        NodeError, HostError, Stalled: as `Session.wait`. KeyboardInterrupt: the run was interrupted.
    """
    with Interrupts() as interrupts:
        while not interrupts.asked:
            try:
                return session.wait(INTERVAL_S)
            except TimeoutError as error:
                if isinstance(error, NodeError):  # a node raised a TimeoutError of its own
                    raise
            screen.show(session.report())
        if endless:
            screen.say("rmbus: finishing what is under way (Ctrl-C again: end at once)")
            with contextlib.suppress(TimeoutError):
                session.stop(_DRAIN_S)
    raise KeyboardInterrupt


def run(
    pipeline: Pipeline,
    gauge: Gauge,
    *,
    on: str,
    as_json: bool = False,
    debug: bool = False,
    title: str = "",
) -> Report:
    """Run a pipeline in sight of a person, and print its report, also that of a failure.

    Raises:
        typer.Exit: it failed, or was interrupted; the error has been told.
    """
    session: Session | None = None
    try:
        with Screen(gauge, title or pipeline.name) as screen:
            session = Session(pipeline, on=on, on_log=screen.log)
            with session:
                report = attend(session, screen, endless=gauge.total is None)
    except (KeyboardInterrupt, RmbusError, OSError) as error:
        if session is not None:
            print_report(session.report(), as_json=as_json)
        leave(error, debug=debug)
    print_report(report, as_json=as_json)
    return report


def print_report(report: Report, *, as_json: bool) -> None:
    """Print a report on standard output: tables, or JSON and nothing else."""
    if as_json:
        print(report.to_json(), flush=True)
        return
    console = Console()
    if console.is_terminal:
        parts: list[Any] = report.__rich__()
        console.print(Group(*parts))
    else:
        print(report, flush=True)
