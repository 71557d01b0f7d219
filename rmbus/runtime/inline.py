"""A whole pipeline in the caller's thread: the same graph, deliveries and ends of stream, with no process, no lane."""

from __future__ import annotations

import enum
import time
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import attrs

from rmbus.delivery import reliable
from rmbus.errors import PipelineError, Stalled
from rmbus.media import Frame
from rmbus.node import Input, Interrupt, Node, Output, Ports, options_of, ports
from rmbus.pipeline import Pipeline
from rmbus.runtime.emissions import Converter
from rmbus.runtime.invoke import Invoker
from rmbus.runtime.queues import EdgeCount, Link
from rmbus.runtime.stations import NodeCount, Station

_ONE: Final = reliable(1)


class Turn(enum.Enum):
    """What an inline run answers when it has nothing to give."""

    WANTS_ITEM = enum.auto()
    ENDED = enum.auto()


@attrs.frozen
class InlineResult:
    """The account of an inline run."""

    nodes: tuple[NodeCount, ...]
    edges: tuple[EdgeCount, ...]
    seconds: float


class Inline:
    """A pipeline whose nodes are initialized in this process; `close` cleans them up. It can be run several times.

    Attributes:
        pipeline: the pipeline.

    Raises:
        PipelineError: the graph is invalid. NodeError: a node failed to initialize; those before it are cleaned up.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        pipeline.validate(allow_open=True)
        self.pipeline = pipeline
        self._invokers: dict[Node, Invoker] = {}
        self._names = pipeline.names()
        try:
            for node in pipeline.nodes:
                invoker = self._invokers[node] = Invoker(node)
                invoker.breathe()
                invoker.join(*self._joined(node))
                with self._station(node).user_code():
                    invoker.initialize()
        except BaseException as error:
            self.abandon(error)
            raise

    def begin(
        self, *, feeds: Iterable[Input] = (), collects: Iterable[Output] = (), duration_s: float | None = None
    ) -> InlineRun:
        """Return a new run.

        Args:
            feeds: the inputs that are fed from outside.
            collects: the outputs whose frames are wanted outside.
            duration_s: let the sources end after this time.
        """
        stations = {node: self._station(node) for node in self.pipeline.nodes}
        return InlineRun(self.pipeline, stations, tuple(feeds), tuple(collects), duration_s)

    def close(self) -> None:
        """Clean every node up, also where the clean-up of another fails.

        Raises:
            NodeError: a clean-up failed; the first one.
        """
        failures = self._clean_up()
        if failures:
            raise failures[0]

    def abandon(self, error: BaseException) -> None:
        """Clean up after an error, which remains the one that is told; it gets those of the clean-up as notes."""
        for failure in self._clean_up():
            error.add_note(f"then the clean-up failed too: {failure}")

    def _clean_up(self) -> list[Exception]:
        failures: list[Exception] = []
        for node, invoker in reversed(self._invokers.items()):
            try:
                with self._station(node).user_code():
                    invoker.cleanup()
            except Exception as error:  # noqa: BLE001  # the supervisor around user code; raised when all is cleaned up
                failures.append(error)
            finally:
                invoker.close()
        self._invokers = {}
        return failures

    def _joined(self, node: Node) -> tuple[Collection[str], Collection[str]]:
        """Return the ports of a node that are in use: the joined ones; on a side where none is, all."""
        inputs = {edge.input for edge in self.pipeline.edges if edge.target is node}
        outputs = {edge.output for edge in self.pipeline.edges if edge.source is node}
        found = ports(node)
        return inputs or found.inputs, outputs or found.outputs

    def _station(self, node: Node) -> Station:
        name = self._names[node]
        skips = options_of(node).on_error == "skip"
        return Station(name, f"{self.pipeline.name}/{name}", self._invokers[node], skips)


class InlineRun:
    """One run, from the first frame to the end of stream. Pulled: nothing happens but in `advance`."""

    def __init__(
        self,
        pipeline: Pipeline,
        stations: dict[Node, Station],
        feeds: tuple[Input, ...],
        collects: tuple[Output, ...],
        duration_s: float | None,
    ) -> None:
        self._stations = stations
        self._began = time.monotonic()
        self._deadline = None if duration_s is None else self._began + duration_s
        self._seconds: float | None = None
        self._edges: list[Link] = []
        self._draining = False
        for edge in pipeline.edges:
            target = stations[edge.target]
            source = stations[edge.source]
            link = Link(pipeline.label(edge), edge.resolved_delivery(), target, edge.input, source, edge.output)
            self._edges.append(link)
            target.inputs.append(link)
            source.outputs.setdefault(edge.output, []).append(link)
        self._feeds = {_key(port): self._feed(port) for port in feeds}
        self._converters = {_key(port): _converter(port) for port in feeds}
        self._collected = [self._collect(port) for port in collects]
        self._order = _downstream_first(pipeline, stations)

    def feed(self, port: Input, item: object) -> None:
        """Give a frame, an array or any other value to an input. Call it when `advance` has answered WANTS_ITEM.

        Raises:
            FormatError: the input does not take it.
        """
        emission = self._converters[_key(port)].emission(item, None)
        if emission is not None and not isinstance(emission.value, Interrupt):
            link = self._feeds[_key(port)]
            link.offer(emission.value.stamped(seq=link.published))

    def end(self, port: Input) -> None:
        """Nothing more comes for this input."""
        self._feeds[_key(port)].ended = True

    def drain(self) -> None:
        """Let the sources end; what is queued is finished. From any thread."""
        self._draining = True

    def advance(self) -> tuple[Output, Frame | Interrupt] | Turn:
        """Run until something comes out, or an item is wanted, or the end has been reached.

        Raises:
            NodeError: a node's code failed; also of the original type. Stalled: nothing can move.
        """
        while True:
            for port, link in self._collected:
                if link.queue:
                    return port, link.take()
            if self._draining or (self._deadline is not None and time.monotonic() >= self._deadline):
                self._drain_sources()
            # Downstream first: frames are worked off before the next is made, so that queues stay short.
            if any(station.step() for station in self._order):
                continue
            if any(not link.ended and not link.queue for link in self._feeds.values()):
                return Turn.WANTS_ITEM
            if all(station.ended for station in self._order):
                self._seconds = self._seconds or time.monotonic() - self._began
                return Turn.ENDED
            self._end_independent()

    def stop(self) -> None:
        """Close whatever runs."""
        for station in self._order:
            station.stop_running()

    def result(self) -> InlineResult:
        """Return the account as it stands."""
        seconds = time.monotonic() - self._began if self._seconds is None else self._seconds
        nodes = tuple(station.count() for station in self._stations.values())
        return InlineResult(nodes, tuple(link.count() for link in self._edges), seconds)

    def _feed(self, port: Input) -> Link:
        assert port.node is not None
        target = self._stations[port.node]
        link = Link(f"items -> {target.name}.{port.name}", _ONE, target, port.name)
        target.inputs.append(link)
        return link

    def _collect(self, port: Output) -> tuple[Output, Link]:
        assert port.node is not None
        source = self._stations[port.node]
        link = Link(f"{source.name}.{port.name} -> results", _ONE, None, port.name)
        source.outputs.setdefault(port.name, []).append(link)
        return port, link

    def _drain_sources(self) -> None:
        self._draining, self._deadline = False, None
        for station in self._order:
            station.drain()
        for link in self._feeds.values():
            link.ended = True

    def _end_independent(self) -> None:
        """Nothing moves, not all have ended: a cycle is left. It ends at a node that does not wait for its inputs."""
        for station in self._order:
            if station.invoker.node.independent and not station.flushed:
                station.finish()
                return
        full = [link.name for link in self._edges if not link.is_over]
        raise Stalled(full, 0.0)


def open_inline(pipeline: Pipeline) -> Inline:
    """Initialize a pipeline's nodes in this process."""
    return Inline(pipeline)


def run_inline(pipeline: Pipeline, *, duration_s: float | None = None) -> InlineResult:
    """Run a pipeline to its end in the caller's thread.

    Args:
        pipeline: it has no open input but optional ones.
        duration_s: let the sources end after this time.

    Raises:
        PipelineError: the graph is invalid. NodeError: a node failed; also of the original type.
    """
    pipeline.validate()
    inline = Inline(pipeline)
    try:
        run = inline.begin(duration_s=duration_s)
        while run.advance() is not Turn.ENDED:
            continue
        result = run.result()
    except BaseException as error:
        inline.abandon(error)
        raise
    inline.close()
    return result


def process_inline(pipeline: Pipeline, items: Iterable[object]) -> Generator[Frame]:
    """Feed the one open input, and yield what comes out of the one open output as soon as it is there.

    Raises:
        PipelineError: the graph is invalid, or has not one open input and output. NodeError: a node failed.
    """
    with _Processing(pipeline) as processing:
        given = iter(items)
        while (turn := processing.run.advance()) is not Turn.ENDED:
            if turn is Turn.WANTS_ITEM:
                processing.give(next(given, _END))
            elif not isinstance(turn[1], Interrupt):
                yield turn[1]


async def process_inline_async(
    pipeline: Pipeline, items: Iterable[object] | AsyncIterable[object]
) -> AsyncGenerator[Frame]:
    """Do as `process_inline` does, without blocking the caller's event loop: the nodes run in one other thread.

    Raises:
        PipelineError: the graph is invalid, or has not one open input and output. NodeError: a node failed.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "rmbus-inline") as pool:
        processing = await loop.run_in_executor(pool, _Processing(pipeline).__enter__)
        error: BaseException | None = None
        try:
            given = aiter(items) if isinstance(items, AsyncIterable) else _each(items)
            while (turn := await loop.run_in_executor(pool, processing.run.advance)) is not Turn.ENDED:
                if turn is Turn.WANTS_ITEM:
                    processing.give(await anext(given, _END))
                elif not isinstance(turn[1], Interrupt):
                    yield turn[1]
        except BaseException as raised:
            error = raised
            raise
        finally:
            await loop.run_in_executor(pool, processing.leave, error)


_END: Final = object()


async def _each(items: Iterable[object]) -> AsyncGenerator[object]:
    for item in items:
        yield item


class _Processing:
    """What both forms of `process` share: the pipeline's own engine, or one for the time of the run."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._port, self._output = open_ends(pipeline)
        self._pipeline = pipeline
        self._is_own = not isinstance(pipeline.engine, Inline)

    def __enter__(self) -> _Processing:
        engine = self._pipeline.engine
        self._inline = engine if isinstance(engine, Inline) else Inline(self._pipeline)
        self.run = self._inline.begin(feeds=[self._port], collects=[self._output])
        return self

    def give(self, item: object) -> None:
        """Feed an item, or the end."""
        if item is _END:
            self.run.end(self._port)
        else:
            self.run.feed(self._port, item)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.leave(error)

    def leave(self, error: BaseException | None) -> None:
        """Stop what still runs, and clean up what was initialized for this run alone."""
        try:
            self.run.stop()
        finally:
            if self._is_own and error is not None:
                self._inline.abandon(error)
            elif self._is_own:
                self._inline.close()


def open_ends(pipeline: Pipeline) -> tuple[Input, Output]:
    """Return the input that `process` feeds and the output that it reads.

    Raises:
        PipelineError: the graph is invalid, or there is not one of each; they are listed.
    """
    pipeline.validate(allow_open=True)
    names = pipeline.names()
    inputs = [port for port in pipeline.open_inputs if not port.optional] or list(pipeline.open_inputs)
    outputs = list(pipeline.open_outputs)
    for what, found in (("input", inputs), ("output", outputs)):
        if len(found) != 1:
            listed = ", ".join(f"{names[port.node]}.{port.name}" for port in found if port.node is not None) or "none"
            raise PipelineError(f"process() takes a pipeline with one open {what}; {pipeline.name!r} has: {listed}")
    return inputs[0], outputs[0]


def _converter(port: Input) -> Converter:
    """Return what makes frames of items: the input's format says what an array is."""
    feeder = _Items().options(name="items")
    output = Output(port.format)
    output.name = port.name
    return Converter(feeder, Ports({}, {port.name: output}))


class _Items(Node):
    """Stands for the caller, who gives the items."""

    def process(self) -> Iterator[object]:
        return iter(())


def _key(port: Input) -> tuple[int, str]:
    return id(port.node), port.name


def _downstream_first(pipeline: Pipeline, stations: Mapping[Node, Station]) -> list[Station]:
    """Return the stations so that each comes after those that it feeds, as far as there is no cycle."""
    order: list[Station] = []
    seen: set[int] = set()

    def visit(node: Node) -> None:
        if id(node) not in seen:
            seen.add(id(node))
            for edge in pipeline.edges:
                if edge.source is node:
                    visit(edge.target)
            order.append(stations[node])

    for node in pipeline.nodes:
        visit(node)
    return order
