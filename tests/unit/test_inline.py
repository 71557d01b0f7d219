"""Whole pipelines in the caller's thread, and `rmbus.testing`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rmbus.delivery import Delivery, drop_oldest, latest, reliable
from rmbus.errors import FormatError, NodeError, PipelineError
from rmbus.formats import Audio, Video
from rmbus.media import AudioFrame, Data, VideoFrame
from rmbus.node import Input, Interrupt, Node, Output
from rmbus.pipeline import Pipeline
from rmbus.runtime.inline import Inline, InlineResult, Turn, process_inline, process_inline_async, run_inline
from rmbus.runtime.invoke import Invoker
from rmbus.runtime.queues import Link
from rmbus.runtime.stations import Station
from rmbus.testing import audio, run_node, video


class Count(Node):
    def __init__(self, n: int) -> None:
        self.n = n

    def process(self) -> Any:
        yield from range(self.n)


class Add(Node):
    def __init__(self, number: int = 1) -> None:
        self.number = number

    def process(self, frame: Any) -> Any:
        return frame.value + self.number


class Keep(Node):
    """Keeps what it is given."""

    frames = Input()

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def process(self, frame: Any) -> None:
        self.kept.append(frame.value)


class Pairs(Node):
    def __init__(self) -> None:
        self.held: list[Any] = []

    def process(self, frame: Any) -> Any:
        self.held.append(frame.value)
        if len(self.held) == 2:
            held, self.held = self.held, []
            return held
        return None

    def flush(self) -> Any:
        return self.held or None


class Fail(Node):
    def __init__(self, on: int) -> None:
        self.on = on

    def process(self, frame: Any) -> Any:
        if frame.value == self.on:
            raise ValueError(f"not {self.on}")
        return frame


class Lives(Node):
    """Notes its life in a list that is given."""

    def __init__(self, notes: list[str], name: str) -> None:
        self.notes, self.called = notes, name

    def initialize(self) -> None:
        self.notes.append(f"initialize {self.called}")

    def process(self, frame: Any) -> Any:
        return frame

    def flush(self) -> None:
        self.notes.append(f"flush {self.called}")

    def cleanup(self) -> None:
        self.notes.append(f"cleanup {self.called}")


def accounts(result: InlineResult) -> dict[str, tuple[int, int, dict[str, int]]]:
    return {edge.name: (edge.published, edge.delivered, dict(edge.dropped)) for edge in result.edges}


# --- run ------------------------------------------------------------------------------------------------------------


def test_run_of_a_line() -> None:
    """Every frame arrives, in order, and is counted on every node and edge."""
    keep = Keep()
    result = run_inline(Count(5) >> Add() >> keep)
    assert keep.kept == [1, 2, 3, 4, 5]
    assert [(node.name, node.frames_in, node.frames_out) for node in result.nodes] == [
        ("count", 0, 5),
        ("add", 5, 5),
        ("keep", 5, 0),
    ]
    assert accounts(result) == {"count.out -> add.in": (5, 5, {}), "add.out -> keep.frames": (5, 5, {})}
    assert result.seconds > 0


def test_life_of_nodes() -> None:
    """Nodes are initialized in order, flushed from the source on, and cleaned up in reverse."""
    notes: list[str] = []
    run_inline(Count(2) >> Lives(notes, "a") >> Lives(notes, "b"))
    assert notes == ["initialize a", "initialize b", "flush a", "flush b", "cleanup b", "cleanup a"]


def test_end_of_stream_flushes() -> None:
    """What a node holds is emitted when its inputs have ended, and reaches the nodes behind it."""
    keep = Keep()
    run_inline(Count(5) >> Pairs() >> keep)
    assert keep.kept == [[0, 1], [2, 3], [4]]


def test_fan_out_and_fan_in() -> None:
    """Each reader gets every frame; an input for many ends when all that feed it have."""

    class Join(Node):
        frames = Input(many=True)
        out = Output()

        def process(self, frame: Any) -> Any:
            return frame

    count, join, keep = Count(4), Join(), Keep()
    run_inline(count >> Add(10) >> join | count >> Add(20) >> join | join >> keep)
    assert sorted(keep.kept) == [10, 11, 12, 13, 20, 21, 22, 23]


def test_an_input_for_many_has_ended_when_all_have() -> None:
    """The node is told of its end once, after the last frame of the longest."""

    class Join(Node):
        frames = Input(many=True)
        told: list[Any]

        def initialize(self) -> None:
            self.told = []

        def process(self, frame: Any) -> None:
            self.told.append(frame.value)

        def ended(self, port: str) -> None:
            self.told.append(port)

    join = Join()
    run_inline(Count(1) >> join | Count(3) >> join)
    assert sorted(join.told[:-1]) == [0, 0, 1, 2]
    assert join.told[-1] == "frames"


def test_frames_are_numbered_and_named() -> None:
    """Frames are numbered for each output, and carry the topic that they come from."""

    class See(Node):
        frames = Input()

        def process(self, frame: Any) -> None:
            seen.append((frame.seq, frame.topic))

    seen: list[tuple[int, str]] = []
    run_inline(Pipeline([Count(2), See()], name="demo"))
    assert seen == [(0, "demo/count/out"), (1, "demo/count/out")]


def test_sound_far_ahead_of_pictures() -> None:
    """A source that emits all of one output before the other does not block, nor does it lose anything."""

    class Film(Node):
        video = Output()
        audio = Output()

        def process(self) -> Any:
            for number in range(100):
                yield self.audio, number
            for number in range(100):
                yield self.video, number

    class Write(Node):
        video = Input()
        audio = Input()

        def __init__(self) -> None:
            self.kept: dict[str, list[int]] = {"video": [], "audio": []}

        def process(self, frame: Any, port: str) -> None:
            self.kept[port].append(frame.value)

    film, write = Film(), Write()
    run_inline(film.video >> Add(0) >> write.video | film.audio >> write.audio)
    assert write.kept == {"video": list(range(100)), "audio": list(range(100))}


def test_output_that_nobody_joined() -> None:
    """Frames for an open output go nowhere, and hold nobody up."""
    result = run_inline(Count(50) >> Add())
    assert result.nodes[1].frames_out == 0


def test_duration() -> None:
    """After `duration_s` the sources end, what they hold is flushed, and the rest ends as always."""

    class Forever(Node):
        def process(self) -> Any:
            try:
                while True:
                    yield 1
            finally:
                notes.append("closed")

        def flush(self) -> Any:
            return 2

    notes: list[str] = []
    keep = Keep()
    result = run_inline(Forever() >> keep, duration_s=0.05)
    assert keep.kept[-1] == 2
    assert notes == ["closed"]
    assert accounts(result)["forever.out -> keep.frames"][:2] == (len(keep.kept), len(keep.kept))


def test_invalid_graph() -> None:
    """An invalid graph is refused before anything is initialized."""
    notes: list[str] = []
    with pytest.raises(PipelineError, match=r"nothing feeds lives\.in"):
        run_inline(Pipeline([Lives(notes, "a")]))
    assert notes == []


def test_cycle_through_an_independent_node() -> None:
    """A cycle through an independent node runs, and ends when nothing moves any more."""

    class Phone(Node):
        independent = True
        heard = Input()
        said = Output()

        def __init__(self) -> None:
            self.times = 0

        def initialize(self) -> None:
            self.times = 0

        def process(self, frame: Any) -> Any:
            self.times += 1
            return (self.said, frame.value) if self.times < 5 else None

    phone, echo, keep = Phone(), Add(), Keep()
    first = Count(1)

    class Join(Node):
        frames = Input(many=True)
        out = Output()

        def process(self, frame: Any) -> Any:
            return frame

    join = Join()
    run_inline(first >> join | join >> echo >> phone.heard | phone.said >> join | echo >> keep)
    assert keep.kept == [1, 2, 3, 4, 5]


# --- delivery -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delivery", "kept", "room"),
    [(latest, [9], True), (drop_oldest(3), [7, 8, 9], True), (reliable(10), list(range(10)), False)],
)
def test_queue_of_an_edge(delivery: Delivery, kept: list[int], room: bool) -> None:
    """`latest` and `drop_oldest` drop the oldest and count it, `reliable` says when it is full."""
    link = Link("a -> b", delivery, None, "b")
    for number in range(10):
        assert link.has_room
        link.offer(Data(number))
    assert link.has_room == room
    taken = [link.take() for _ in range(len(link.queue))]
    assert [each.value for each in taken if isinstance(each, Data)] == kept
    count = link.count()
    assert count.published == 10 == count.delivered + sum(count.dropped.values())
    assert dict(count.dropped) == ({"overflow": 10 - len(kept)} if len(kept) < 10 else {})


@pytest.mark.parametrize("delivery", [latest, drop_oldest(2), reliable(1)])
def test_inline_loses_nothing(delivery: Delivery) -> None:
    """Readers run before the next frame is made, so that even `latest` drops nothing."""
    keep = Keep()
    result = run_inline(Count(20)["out"].to(keep, delivery=delivery))
    assert keep.kept == list(range(20))
    assert accounts(result) == {"count.out -> keep.frames": (20, 20, {})}


class Splits(Node):
    """Makes ten frames of each, more than the next edge holds."""

    def process(self, frame: Any) -> Any:
        for number in range(10):
            yield frame.value * 10 + number


def test_bounded_queues() -> None:
    """A generator waits while the edge behind it is full; nothing is made ahead."""
    made: list[int] = []

    class Makes(Node):
        def process(self) -> Any:
            for number in range(1000):
                made.append(number)
                yield number

    results = process_inline(Add() >> Splits(), iter([0]))
    assert next(results).value == 10  # type: ignore[union-attr]  # it is Data
    results.close()
    inline = Inline(Makes() >> Splits())
    run = inline.begin(collects=inline.pipeline.open_outputs)
    for _ in range(5):
        run.advance()
    assert len(made) == 1
    run.stop()
    inline.close()


def test_full_edge_holds_its_writer() -> None:
    """What an edge has no room for is held, and nothing more is made, until there is room."""
    full = Link("a -> b", reliable(1), None, "out")
    station = Station("a", "p/a", Invoker(Count(3)), False, outputs={"out": [full]})
    while station.step():
        continue
    assert (full.published, station.frames_out, station.held is not None) == (1, 1, True)
    full.take()
    assert station.step()
    assert (full.published, station.held) == (2, None)


# --- errors ---------------------------------------------------------------------------------------------------------


def test_error_of_a_node() -> None:
    """An error is a NodeError and of its own type, tells node and frame, and comes from the original."""
    fail = Fail(3).options(name="fails")
    with pytest.raises(ValueError, match="not 3") as caught:
        run_inline(Count(9) >> fail)
    error = caught.value
    assert isinstance(error, NodeError)
    assert (error.node, error.frame, error.type_name) == ("fails", 3, "ValueError")
    assert "in process" in error.traceback_text
    assert type(error.__cause__) is ValueError


def test_error_of_a_type_defined_here() -> None:
    """A user's own exception class can be caught too."""

    class Mine(Node):
        def process(self, frame: Any) -> Any:
            raise OwnError("own")

    with pytest.raises(OwnError) as caught:
        run_node(Mine(), [1])
    assert isinstance(caught.value, NodeError)


class OwnError(Exception):
    pass


def test_clean_up_after_an_error() -> None:
    """After an error every node is cleaned up; an error of that is a note on the first."""

    class Dirty(Lives):
        def cleanup(self) -> None:
            raise OSError("still dirty")

    notes: list[str] = []
    with pytest.raises(ValueError, match="not 0") as caught:
        run_inline(Count(1) >> Lives(notes, "a") >> Dirty(notes, "b") >> Fail(0))
    assert notes == ["initialize a", "initialize b", "cleanup a"]
    assert any("still dirty" in note for note in caught.value.__notes__)


def test_error_of_initialize() -> None:
    """What fails to initialize fails the run; those before it are cleaned up."""

    class Broken(Node):
        def initialize(self) -> None:
            raise FileNotFoundError("no model")

        def process(self, frame: Any) -> Any: ...

    notes: list[str] = []
    with pytest.raises(FileNotFoundError, match="no model") as caught:
        run_inline(Count(1) >> Lives(notes, "a") >> Broken())
    assert isinstance(caught.value, NodeError)
    assert caught.value.node == "broken"
    assert notes == ["initialize a", "cleanup a"]


def test_error_of_cleanup() -> None:
    """An error of `cleanup` alone is an error of the run."""

    class Dirty(Node):
        def process(self, frame: Any) -> Any: ...

        def cleanup(self) -> None:
            raise OSError("still dirty")

    with pytest.raises(OSError, match="still dirty"):
        run_inline(Count(1) >> Dirty())


def test_skipping_errors() -> None:
    """`on_error="skip"` leaves the frame out, and counts it."""
    keep = Keep()
    result = run_inline(Count(5) >> Fail(3).options(on_error="skip") >> keep)
    assert keep.kept == [0, 1, 2, 4]
    assert [(node.name, node.skipped) for node in result.nodes if node.skipped] == [("fail", 1)]


# --- interrupts -----------------------------------------------------------------------------------------------------


class Talks(Node):
    def process(self, frame: Any) -> Any:
        yield "old"
        yield Interrupt()
        yield "new"


def test_interrupt() -> None:
    """An interrupt reaches every node downstream, between the frames of the old turn and those of the new one."""
    notes: list[str] = []

    class Hears(Node):
        def process(self, frame: Any) -> Any:
            notes.append(frame.value)
            return frame

        def interrupted(self) -> None:
            notes.append("!")

    assert [getattr(each, "value", each) for each in run_node(Talks(), [0])] == ["old", Interrupt(), "new"]
    run_inline(Count(1) >> Talks() >> Hears() >> Hears())
    assert notes == ["old", "old", "!", "!", "new", "new"]


def test_interrupt_of_what_waits_and_runs() -> None:
    """What waits on the edges behind is dropped and counted, what runs there is closed; nothing beside is touched."""
    notes: list[str] = []

    class Spells(Node):
        def process(self, frame: Any) -> Any:
            try:
                yield from "abc"
            finally:
                notes.append("closed")

    beside = Link("a.other -> c", reliable(8), None, "other")
    behind = Link("b -> c", reliable(8), None, "out")
    spells = Station("b", "p/b", Invoker(Spells()), False, outputs={"out": [behind]})
    into = Link("a.out -> b", reliable(8), spells, "in")
    spells.inputs.append(into)
    source = Station("a", "p/a", Invoker(Add()), False, outputs={"out": [into], "other": [beside]})
    for number in range(3):
        into.offer(Data(number))
        beside.offer(Data(number))
    spells.step()
    spells.step()
    assert (len(into.queue), len(behind.queue), notes) == (2, 1, [])
    source.interrupt("out", set())
    assert dict(into.count().dropped) == {"interrupted": 2}
    assert dict(behind.count().dropped) == {"interrupted": 1}
    assert isinstance(behind.take(), Interrupt)
    assert len(beside.queue) == 3
    assert notes == ["closed"]


# --- process --------------------------------------------------------------------------------------------------------


def results_of(pipeline: Pipeline, items: Any) -> list[Any]:
    return [frame.value for frame in process_inline(pipeline, items) if isinstance(frame, Data)]


def test_process() -> None:
    """Items go in at the one open input, and frames come out of the one open output, flushed ones too."""
    assert results_of(Add() >> Pairs(), [1, 2, 3]) == [[2, 3], [4]]
    assert results_of(Pipeline([Add()]), []) == []


def test_process_is_lazy() -> None:
    """Items are taken as results are asked for, one by one."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = process_inline(Add() >> Add(), items())
    assert taken == []
    next(results)
    next(results)
    assert taken == [0, 1]
    results.close()


def test_leaving_early_cleans_up() -> None:
    """Closing the results closes what runs and cleans the nodes up."""
    notes: list[str] = []
    results = process_inline(Pipeline([Lives(notes, "a")]), range(10))
    next(results)
    results.close()
    assert notes == ["initialize a", "cleanup a"]


def test_leaving_early_closes_what_runs() -> None:
    """Closing the results closes the generator that a node is in the middle of, before the node is cleaned up."""
    notes: list[str] = []

    class Spells(Lives):
        def process(self, frame: Any) -> Any:
            try:
                yield from "abc"
            finally:
                notes.append("closed")

    node = Spells(notes, "a")
    results = process_inline(Pipeline([node]), range(10))
    next(results)
    results.close()
    assert notes[1:] == ["closed", "cleanup a"]


def test_process_of_what_cannot_be() -> None:
    """A pipeline without exactly one open input and output is refused, with those that it has."""

    class Two(Node):
        a = Input()
        b = Input()
        x = Output()

        def process(self, frame: Any, port: str) -> Any: ...

    with pytest.raises(PipelineError, match=r"one open input; 'pipeline' has: two\.a, two\.b"):
        next(process_inline(Pipeline([Two()]), []))
    with pytest.raises(PipelineError, match="one open input; 'pipeline' has: none"):
        next(process_inline(Pipeline([Count(1)]), []))
    with pytest.raises(PipelineError, match="one open output; 'pipeline' has: none"):
        next(process_inline(Pipeline([Keep()]), []))
    with pytest.raises(PipelineError, match="the pipeline is empty"):
        next(process_inline(Pipeline(), []))


def test_process_with_an_optional_input() -> None:
    """An optional input is left open where another is not."""

    class Optional(Node):
        frames = Input()
        more = Input(optional=True)
        out = Output()

        def process(self, frame: Any, port: str) -> Any:
            return port

    assert results_of(Pipeline([Optional()]), [1]) == ["frames"]


def test_arrays_as_items() -> None:
    """An array is what the open input's format says, and data where it says nothing."""

    class Pictures(Node):
        frames = Input(Video("rgb24", rate=25))
        out = Output()

        def process(self, frame: Any) -> Any:
            return frame

    picture = np.zeros((4, 6, 3), np.uint8)
    first, second = process_inline(Pipeline([Pictures()]), [picture, picture])
    assert isinstance(second, VideoFrame)
    assert (first.pts, second.pts, second.time_base) == (0, 1, Fraction(1, 25))
    (frame,) = run_node(PassOn(), [picture])
    assert isinstance(frame, Data)


class PassOn(Node):
    def process(self, frame: Any) -> Any:
        return frame


def test_items_that_the_input_does_not_take() -> None:
    """An item of another kind than the input's format is refused."""

    class Sounds(Node):
        frames = Input(Audio())
        out = Output()

        def process(self, frame: Any) -> Any: ...

    with pytest.raises(FormatError, match=r"'frames' .* carries Audio\(\): it was given a int"):
        run_node(Sounds(), [1])


async def test_process_in_an_event_loop() -> None:
    """The async form takes plain and async items, and does not block the loop."""

    async def items() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    class Slow(Node):
        async def process(self, frame: Any) -> Any:
            await asyncio.sleep(0.01)
            return frame

    ticks: list[int] = []

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(tick())
        for given in (items(), range(3)):
            got = [frame async for frame in process_inline_async(Add() >> Slow(), given)]
            assert [frame.value for frame in got if isinstance(frame, Data)] == [1, 2, 3]
        ticking.cancel()
    assert len(ticks) > 10


async def test_leaving_early_in_an_event_loop() -> None:
    """Closing the async results cleans up; an error comes out as from the other form."""
    notes: list[str] = []
    results = process_inline_async(Pipeline([Lives(notes, "a")]), range(10))
    await anext(results)
    await results.aclose()
    assert notes == ["initialize a", "cleanup a"]
    with pytest.raises(ValueError, match="not 1"):
        [frame async for frame in process_inline_async(Pipeline([Fail(1)]), range(3))]


def test_engine_is_used_again() -> None:
    """A pipeline that is initialized keeps its nodes from one stream to the next, until it is cleaned up."""
    notes: list[str] = []
    pipeline = Pipeline([Lives(notes, "a")])
    pipeline.engine = Inline(pipeline)
    assert results_of(pipeline, [1, 2]) == [1, 2]
    assert results_of(pipeline, [3]) == [3]
    pipeline.cleanup()
    assert notes == ["initialize a", "flush a", "flush a", "cleanup a"]


def test_pipeline_methods() -> None:
    """`run(on="inline")` and `process` of a Pipeline lead here."""
    report = (Count(3) >> Add() >> Keep()).run(on="inline")
    assert [(node.name, node.frames_in, node.frames_out) for node in report.nodes] == [
        ("count", 0, 3),
        ("add", 3, 3),
        ("keep", 3, 0),
    ]
    assert report.dropped == {}
    assert [frame.value for frame in (Add() >> Add()).process([1, 2]) if isinstance(frame, Data)] == [3, 4]


async def test_pipeline_process_in_an_event_loop() -> None:
    """`async for` over `process` works as `for` does."""
    got = [frame async for frame in (Add() >> Add()).process([1, 2])]
    assert [frame.value for frame in got if isinstance(frame, Data)] == [3, 4]


# --- the form with initialize and cleanup ---------------------------------------------------------------------------


def test_context_manager() -> None:
    """In a `with` the nodes are initialized once, serve several streams, and are cleaned up at the end."""
    notes: list[str] = []
    with Pipeline([Lives(notes, "a")]) as pipeline:
        assert notes == ["initialize a"]
        for stream in ([1], [2, 3]):
            got = [frame.value for frame in pipeline.process(stream) if isinstance(frame, Data)]
            assert got == stream
    assert notes == ["initialize a", "flush a", "flush a", "cleanup a"]


def test_empty_pipeline() -> None:
    """An empty pipeline cannot be initialized."""
    with pytest.raises(PipelineError, match="the pipeline is empty"):
        Pipeline().initialize()


def test_cleanup_of_what_is_not_initialized() -> None:
    """`cleanup` before `initialize` is an error that says what to do."""
    with pytest.raises(PipelineError, match=r"'pipeline' is not initialized: call initialize\(\) first"):
        Pipeline([Add()]).cleanup()


def test_changes_while_initialized() -> None:
    """A pipeline that is initialized cannot be changed, nor initialized twice."""
    pipeline = Pipeline([Add()])
    pipeline.engine = Inline(pipeline)
    with pytest.raises(PipelineError, match="cannot add a node to 'pipeline' while it is initialized"):
        pipeline.add_node(Add())
    with pytest.raises(PipelineError, match="cannot remove a node from 'pipeline' while it is initialized"):
        pipeline.remove_node("add")
    with pytest.raises(PipelineError, match="cannot initialize 'pipeline' while it is initialized"):
        pipeline.initialize()
    pipeline.cleanup()
    assert pipeline.remove_node("add")


# --- rmbus.testing --------------------------------------------------------------------------------------------------


class Both(Node):
    a = Input()
    b = Input(optional=True)
    sums = Output()
    rest = Output()

    def process(self, frame: Any, port: str) -> Any:
        yield self.sums, (port, frame.value)

    def flush(self) -> Any:
        yield self.rest, "end"


def test_run_node() -> None:
    """One input and one output: a list for a list; plain values are fine."""
    assert [frame.value for frame in run_node(Pairs(), [1, 2, 3])] == [[1, 2], [3]]
    assert [frame.value for frame in run_node(Count(3))] == [0, 1, 2]
    keep = Keep()
    assert run_node(keep, [1]) == []
    assert keep.kept == [1]


def test_run_node_with_several_ports() -> None:
    """Several inputs are given in turns by name; several outputs come as lists by name."""
    out = run_node(Both(), {"a": [1, 2], "b": [3]})
    assert [frame.value for frame in out["sums"]] == [("a", 1), ("b", 3), ("a", 2)]
    assert [frame.value for frame in out["rest"]] == ["end"]
    assert [frame.value for frame in run_node(Both(), {"a": [1]})["sums"]] == [("a", 1)]


def test_run_node_shows_interrupts() -> None:
    """An interrupt is in the list where it was emitted."""

    class Turns(Node):
        def process(self, frame: Any) -> Any:
            yield frame
            yield Interrupt()
            yield frame

    first, second, third = run_node(Turns(), [1])
    assert (first.value, second, third.value) == (1, Interrupt(), 1)


@pytest.mark.parametrize(
    ("node", "frames", "words"),
    [
        (Both(), [1], r"give the frames as \{port: frames\}; inputs: a, b"),
        (Both(), {"c": [1]}, "there is no input 'c'; inputs: a, b"),
        (Count(1), [1], "inputs: none"),
    ],
)
def test_run_node_on_ports_that_are_not_there(node: Node, frames: Any, words: str) -> None:
    """Frames for no input are an error that lists the inputs."""
    with pytest.raises(PipelineError, match=words):
        run_node(node, frames)


def test_video() -> None:
    """`video(n)` makes n different pictures, in time."""
    frames = video(3, width=32, height=16, rate=30)
    assert [(frame.pts, frame.time_base, frame.seq) for frame in frames] == [
        (number, Fraction(1, 30), number) for number in range(3)
    ]
    assert frames[0].array.shape == (16, 32, 3)
    assert frames[0].format == Video("rgb24", width=32, height=16, rate=30)
    assert len({frame.array.tobytes() for frame in frames}) == 3
    assert [frame.array[0, 0, 2] for frame in frames] == [0, 1, 2]


def test_audio() -> None:
    """`audio(n)` makes n frames of a tone that goes on without a break."""
    frames = audio(3, samples=480, rate=48_000, channels=2)
    assert [frame.pts for frame in frames] == [0, 480, 960]
    whole = np.concatenate([frame.array for frame in frames], axis=1)
    assert whole.shape == (2, 1440)
    assert whole.dtype == np.float32
    assert np.abs(whole).max() == pytest.approx(0.5, abs=1e-3)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(1440) / 48_000)
    assert whole[0] == pytest.approx(expected, abs=1e-5)
    assert isinstance(frames[0], AudioFrame)
    assert frames[0].layout == "stereo"


def test_a_source_that_waits_can_be_stopped() -> None:
    """It yields None meanwhile, and so gives time for others, and for the end of the run."""

    class Polls(Node):
        def process(self) -> Iterator[None]:
            while True:
                yield None

    run = Inline(Polls() >> Keep()).begin(duration_s=0.02)
    while run.advance() is not Turn.ENDED:
        continue
