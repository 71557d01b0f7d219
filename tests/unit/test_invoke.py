"""How a user's code is called, and what becomes of what it gives."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rmbus.errors import FormatError, PipelineError
from rmbus.formats import Audio, Video
from rmbus.media import AudioFrame, Data, Frame, Packet, VideoFrame
from rmbus.node import Input, Interrupt, Node, Output, Port
from rmbus.protocol.frames import Place
from rmbus.runtime.invoke import Emission, Invoker
from rmbus.stamps import memory_of, remember
from rmbus.transport.memory import PAGE_BYTES, Mapping, Slot

PICTURE = np.zeros((4, 6, 3), np.uint8)
FRAME = Data(3, pts=7, time_base=Fraction(1, 10), captured_ns=99)


class Caller(Invoker):
    """An invoker as a context manager."""

    def __enter__(self) -> Caller:
        self.initialize()
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup()
        self.close()


def given(node: Node, frame: Frame = FRAME, port: str = "in") -> list[Emission]:
    with Caller(node) as caller:
        return list(caller.process(frame, port))


def values(emissions: Iterable[Emission]) -> list[Any]:
    return [each.value.value if isinstance(each.value, Data) else each.value for each in emissions]


# --- kinds of functions ---------------------------------------------------------------------------------------------


class Plain(Node):
    def process(self, frame: Any) -> Any:
        return frame.value + 1


class Generated(Node):
    def process(self, frame: Any) -> Any:
        yield frame.value
        yield None
        yield frame.value + 1


class Awaited(Node):
    async def process(self, frame: Any) -> Any:
        await asyncio.sleep(0)
        return frame.value + 1


class AsyncGenerated(Node):
    async def process(self, frame: Any) -> Any:
        yield frame.value
        await asyncio.sleep(0)
        yield None
        yield frame.value + 1


class ReturnsGenerator(Node):
    def process(self, frame: Any) -> Any:
        return (frame.value + each for each in range(2))


class AwaitsGenerator(Node):
    async def process(self, frame: Any) -> Any:
        return map(str, (frame.value, frame.value + 1))


class Silent(Node):
    def process(self, frame: Any) -> Any:
        return None


class YieldsAndReturns(Node):
    def process(self, frame: Any) -> Any:
        yield 1
        return 2


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Plain, [4]),
        (Generated, [3, 4]),
        (Awaited, [4]),
        (AsyncGenerated, [3, 4]),
        (ReturnsGenerator, [3, 4]),
        (AwaitsGenerator, ["3", "4"]),
        (Silent, []),
        (YieldsAndReturns, [1, 2]),
    ],
)
def test_kinds_of_process(cls: type[Node], expected: list[object]) -> None:
    """A function, generator, coroutine or async generator may be `process`; None is nothing, a return value counts."""
    assert values(given(cls())) == expected


class Takes(Node):
    pictures = Input(Video("rgb24"))
    sound = Input(Audio(rate=48_000))
    numbers = Input(int)
    whatever = Input()
    out = Output()

    def process(self, frame: Frame, port: str) -> Any:
        return port


def sound(rate: int) -> AudioFrame:
    return AudioFrame(np.zeros((1, 4), np.float32), rate)


@pytest.mark.parametrize(
    ("frame", "port", "words"),
    [
        (VideoFrame(PICTURE), "sound", "takes Audio(rate=48000): the kind differs: video is offered, audio is wanted"),
        (VideoFrame(PICTURE), "numbers", "takes int: the kind differs: video is offered, data is wanted"),
        (VideoFrame(PICTURE, "bgr24"), "pictures", "takes Video(rgb24): pixels differs: bgr24 is offered, rgb24 is"),
        (sound(44_100), "sound", "takes Audio(rate=48000): rate differs: 44100 is offered, 48000 is wanted"),
        (Packet(b"1", "h264", key=True), "pictures", "the kind differs: encoded is offered, video is wanted"),
        (Data([1]), "pictures", "takes Video(rgb24): a list came"),
    ],
)
def test_an_input_refuses_what_it_does_not_take(frame: Frame, port: str, words: str) -> None:
    """Also in mid-stream, when a frame of another format comes after good ones."""
    with Caller(Takes()) as caller:
        for good, its_port in ((VideoFrame(PICTURE), "pictures"), (sound(48_000), "sound"), (Data(1), "numbers")):
            assert [each.value.value for each in caller.process(good, its_port)] == [its_port]  # type: ignore[union-attr]
        with pytest.raises(FormatError) as caught:
            caller.process(frame, port)
        assert str(caught.value).startswith(f"input {port!r} of takes takes ")
        assert words in str(caught.value)
        assert caller.process(frame, "whatever")


def test_plain_function_runs_at_the_call() -> None:
    """A plain function has run when `process` returns; a generator runs as it is pulled, value by value."""
    seen: list[str] = []

    class Watched(Node):
        def process(self, frame: Any) -> Any:
            if frame.value == 1:
                seen.append("plain")
                return frame
            return self.steps()

        def steps(self) -> Iterator[int]:
            for each in range(3):
                seen.append(f"step {each}")
                yield each

    with Caller(Watched()) as caller:
        caller.process(Data(1), "in")
        assert seen == ["plain"]
        emissions = iter(caller.process(Data(2), "in"))
        assert seen == ["plain"]
        assert next(emissions).value.value == 0  # type: ignore[union-attr]  # it is Data
        assert seen == ["plain", "step 0"]


@pytest.mark.parametrize("is_async", [False, True])
def test_closing_closes_the_generator(is_async: bool) -> None:
    """Closing the iterator runs the `finally` of the user's generator, sync or async."""
    seen: list[str] = []

    class Sync(Node):
        def process(self, frame: Any) -> Any:
            try:
                yield 1
                yield 2
            finally:
                seen.append("closed")

    class Async(Node):
        async def process(self, frame: Any) -> Any:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                seen.append("closed")

    with Caller(Async() if is_async else Sync()) as caller:
        emissions: Any = iter(caller.process(FRAME, "in"))
        next(emissions)
        emissions.close()
        assert seen == ["closed"]


def test_all_methods_may_be_async() -> None:
    """`initialize`, `process`, `flush`, `interrupted` and `cleanup` share one loop in one thread of their own."""
    loops: list[tuple[str, int, str]] = []

    class Async(Node):
        async def note(self, what: str) -> None:
            await asyncio.sleep(0)
            loops.append((what, id(asyncio.get_running_loop()), threading.current_thread().name))

        async def initialize(self) -> None:
            await self.note("initialize")

        async def process(self, frame: Any) -> Any:
            await self.note("process")
            return frame

        async def flush(self) -> Any:
            await self.note("flush")
            yield "last"

        async def interrupted(self) -> None:
            await self.note("interrupted")

        async def cleanup(self) -> None:
            await self.note("cleanup")

    with Caller(Async()) as caller:
        caller.process(FRAME, "in")
        caller.interrupted()
        assert values(caller.flush()) == ["last"]
    assert [what for what, _, _ in loops] == ["initialize", "process", "interrupted", "flush", "cleanup"]
    assert len({(loop, thread) for _, loop, thread in loops}) == 1
    assert loops[0][2] == "rmbus-async"


def test_no_loop_without_async_code() -> None:
    """A node whose code is not async gets no thread."""
    before = threading.active_count()
    with Caller(Generated()) as caller:
        list(caller.process(FRAME, "in"))
        assert threading.active_count() == before


def test_close_ends_the_thread() -> None:
    """`close` ends the loop's thread, with what the user's code has left in it."""

    class Leaves(Node):
        async def initialize(self) -> None:
            self.task = asyncio.get_running_loop().create_task(asyncio.sleep(1000))

        async def process(self, frame: Any) -> Any:
            yield 1
            yield 2

    before = threading.active_count()
    node = Leaves()
    with Caller(node) as caller:
        next(iter(caller.process(FRAME, "in")))
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert node.task.cancelled()


def test_contexts_that_span_yields() -> None:
    """An async generator runs in one task, so that a timeout or a task group may span its yields."""

    class Spanning(Node):
        async def process(self, frame: Any) -> Any:
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                task = group.create_task(asyncio.sleep(0, "done"))
                yield 1
                yield await task

    assert values(given(Spanning())) == [1, "done"]


@pytest.mark.parametrize("shape", ["plain", "generator", "coroutine", "async generator"])
def test_errors_come_out_as_they_are(shape: str) -> None:
    """What the user's code raises is raised, the same object, with the user's line in its traceback."""
    error = ValueError("mine")

    class Fails(Node):
        def process(self, frame: Any) -> Any:
            return {"plain": self.fail, "generator": self.steps, "coroutine": self.wait}.get(shape, self.flow)()

        def fail(self) -> Any:
            raise error

        def steps(self) -> Iterator[int]:
            yield self.fail()

        async def wait(self) -> None:
            self.fail()

        async def flow(self) -> AsyncIterator[int]:
            yield self.fail()

    with pytest.raises(ValueError, match="mine") as caught:
        given(Fails())
    assert caught.value is error
    assert caught.traceback[-1].name == "fail"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exits_in_async_code(kind: type[BaseException]) -> None:
    """SystemExit and the like come out of async code too, and the loop outlives them."""

    class Exits(Node):
        async def process(self, frame: Any) -> Any:
            if frame.value:
                raise kind
            return frame

    with Caller(Exits()) as caller:
        with pytest.raises(kind):
            caller.process(Data(1), "in")
        assert len(list(caller.process(Data(0), "in"))) == 1


@pytest.mark.parametrize("is_generator", [False, True])
def test_cancel_from_another_thread(is_generator: bool) -> None:
    """`cancel` ends the async step that runs, after its clean-up; its emissions end, the next frame is processed."""
    started, seen = threading.Event(), list[str]()

    class Slow(Node):
        async def process(self, frame: Any) -> Any:
            return self.steps(frame) if is_generator else await self.wait(frame)

        async def steps(self, frame: Any) -> AsyncIterator[Any]:
            yield await self.wait(frame)

        async def wait(self, frame: Any) -> Any:
            if not frame.value:
                return frame
            try:
                started.set()
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(0)
                seen.append("cleaned")

    with Caller(Slow()) as caller:

        def cancel() -> None:
            started.wait()
            caller.cancel()

        other = threading.Thread(target=cancel)
        other.start()
        assert list(caller.process(Data(1), "in")) == []
        other.join()
        assert seen == ["cleaned"]
        assert len(list(caller.process(Data(0), "in"))) == 1


def test_cancelled_by_itself() -> None:
    """A CancelledError that nobody asked for is an error like any other."""

    class Cancels(Node):
        async def process(self, frame: Any) -> Any:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        given(Cancels())


# --- how process is called ------------------------------------------------------------------------------------------


def test_port_is_given_where_it_is_wanted() -> None:
    """With several inputs `process` gets the port's name; with one, where its signature takes `port`."""

    class Several(Node):
        a = Input()
        b = Input()
        out = Output()

        def process(self, frame: Any, port: str) -> Any:
            return port

    class Keyword(Node):
        def process(self, frame: Any, *, port: str) -> Any:
            return port

    class Rest(Several):
        def process(self, *arguments: Any, **keywords: Any) -> Any:
            return len(arguments)

    class RestOfOne(Node):
        def process(self, *arguments: Any) -> Any:
            return len(arguments)

    assert values(given(Several(), port="b")) == ["b"]
    assert values(given(RestOfOne())) == [1]
    assert values(given(Keyword())) == ["in"]
    assert values(given(Rest(), port="b")) == [2]


def test_sources() -> None:
    """A source's values go out one by one, however they are given."""

    class Generator(Node):
        def process(self) -> Any:
            yield from (1, 2)

    class Async(Node):
        async def process(self) -> Any:
            yield 1
            yield 2

    class Iterable(Node):
        def process(self) -> Any:
            return iter([1, 2])

    class Once(Node):
        async def process(self) -> Any:
            return 1

    for cls in (Generator, Async, Iterable):
        with Caller(cls()) as caller:
            assert caller.is_source
            assert values(caller.source()) == [1, 2]
    with Caller(Once()) as caller:
        assert values(caller.source()) == [1]
    assert not Invoker(Plain()).is_source


# --- which output ---------------------------------------------------------------------------------------------------


class Two(Node):
    frames = Input()
    boxes = Output()
    shown = Output()

    def __init__(self, value: Value) -> None:
        self.value = value

    def process(self, frame: Any) -> Any:
        return self.value(self)


Value = Callable[[Two], object]

NAMED: list[Callable[[Two], Port]] = [lambda node: node.boxes, lambda node: node["boxes"], lambda _: Two.boxes]

UNCLEAR: list[tuple[Value, str]] = [
    (
        lambda _: 1,
        r"two emitted a int without naming the output; it has boxes, shown: .*`yield self\.boxes, value`",
    ),
    (lambda _: Interrupt(), "two emitted a Interrupt without naming the output"),
    (lambda node: node.boxes, r"two emitted the port 'boxes' with no value: write `yield self\.boxes, value`"),
    (lambda node: (node.frames, 1), "<Input two.frames: Any> is no output of two, which has inputs: frames"),
    (lambda _: (Two(str).boxes, 1), "is no output of two"),
    (lambda _: (Plain()["out"], 1), "is no output of two, which has inputs: frames; outputs: boxes, shown"),
]


@pytest.mark.parametrize("output", NAMED)
def test_named_outputs(output: Callable[[Two], Port]) -> None:
    """`(self.boxes, value)` goes to that output; the class's own port and `self["boxes"]` name it too."""
    (emission,) = given(Two(lambda node: (output(node), 1)), port="frames")
    assert emission.port == "boxes"


@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_gives_time_for_other_things(is_async: bool) -> None:
    """Each None that a generator yields comes out, where whoever pulls wants that, and belongs to no output."""

    class Polls(Node):
        def process(self) -> Any:
            yield from [None, 1, None]

    class PollsAsync(Node):
        async def process(self) -> Any:
            for value in (None, 1, None):
                yield value

    with Caller(PollsAsync() if is_async else Polls()) as invoker:
        invoker.breathe()
        assert [emission.port for emission in invoker.source()] == ["", "out", "", ""]  # the last is what it returned


def test_named_interrupt_and_nothing() -> None:
    """An interrupt may be for a named output; None is nothing there too."""
    (emission,) = given(Two(lambda node: (node.shown, Interrupt())), port="frames")
    assert emission == Emission("shown", Interrupt())
    assert given(Two(lambda node: (node.shown, None)), port="frames") == []


@pytest.mark.parametrize(("value", "words"), UNCLEAR)
def test_outputs_that_are_not_clear(value: Value, words: str) -> None:
    """A value for no output, or for none of this node, is an error that lists the ports."""
    with pytest.raises(PipelineError, match=words):
        given(Two(value), port="frames")


def test_no_output() -> None:
    """A sink that returns a value is told so."""

    class Sink(Node):
        frames = Input()

        def process(self, frame: Any) -> Any:
            return 1

    with pytest.raises(PipelineError, match="sink has no output, and emitted a int"):
        given(Sink(), port="frames")


def test_pairs_are_values() -> None:
    """A tuple of two is a value like any other unless it begins with an output."""

    class Pair(Node):
        def process(self, frame: Any) -> Any:
            return ("a", 1)

    assert values(given(Pair())) == [("a", 1)]


# --- from values to frames ------------------------------------------------------------------------------------------


class Returns(Node):
    def __init__(self, value: Any) -> None:
        self.value = value

    def process(self, frame: Any) -> Any:
        return self.value


class Source(Node):
    out = Output()

    def __init__(self, *values: Any) -> None:
        self.values = values

    def process(self) -> Any:
        yield from self.values


def source(cls: type[Source], *values: Any) -> list[Any]:
    with Caller(cls(*values)) as caller:
        return [each.value for each in caller.source()]


def test_frames_go_as_they_are() -> None:
    """A frame that is returned is the one that is emitted."""
    (emission,) = given(Returns(FRAME))
    assert emission.value is FRAME


def test_values_become_data() -> None:
    """Any other value becomes Data with the input frame's time."""
    (emission,) = given(Returns({"a": 1}))
    data = emission.value
    assert isinstance(data, Data)
    assert (data.value, data.pts, data.time_base, data.captured_ns) == ({"a": 1}, 7, Fraction(1, 10), 99)


def test_arrays_take_the_header() -> None:
    """An array takes the header of a video or audio frame, and may have another size."""
    video = VideoFrame(PICTURE, rate=25, pts=5, captured_ns=99)
    (emission,) = given(Returns(np.ones((2, 2, 3), np.uint8)), video)
    picture = emission.value
    assert isinstance(picture, VideoFrame)
    assert (picture.pts, picture.time_base, picture.captured_ns) == (5, Fraction(1, 25), 99)
    assert (picture.format.width, picture.format.rate) == (2, Fraction(25))
    audio = AudioFrame(np.zeros((2, 100), np.float32), 48_000, pts=480)
    (emission,) = given(Returns(np.zeros((2, 50), np.float32)), audio)
    sound = emission.value
    assert isinstance(sound, AudioFrame)
    assert (sound.pts, sound.rate, sound.array.shape) == (480, 48_000, (2, 50))


def test_arrays_of_another_kind() -> None:
    """An array made from data is data, or what the output declares, with the time of the frame it was made from."""

    class Draws(Returns):
        frames = Input()
        out = Output(Video("rgb24"))

    class Embeds(Returns):
        frames = Input(Video())
        out = Output(np.ndarray)

    (emission,) = given(Returns(PICTURE))
    assert isinstance(emission.value, Data)
    (emission,) = given(Draws(PICTURE), port="frames")
    assert isinstance(emission.value, VideoFrame)
    assert (emission.value.pts, emission.value.time_base) == (7, Fraction(1, 10))
    (emission,) = given(Embeds(np.zeros(8)), VideoFrame(PICTURE, pts=3), "frames")
    assert isinstance(emission.value, Data)
    assert emission.value.pts == 3


def test_pixels_that_the_output_declares() -> None:
    """An array for an output of other pixels than the input's is taken for those of the output."""

    class Grays(Returns):
        frames = Input(Video("rgb24"))
        out = Output(Video("gray"))

    (emission,) = given(Grays(np.zeros((4, 6), np.uint8)), VideoFrame(PICTURE, pts=1), "frames")
    assert isinstance(emission.value, VideoFrame)
    assert emission.value.format.pixels == "gray"


def test_pictures_of_a_source() -> None:
    """A source's arrays are counted in the time of the rate that its output declares."""

    class Pictures(Source):
        out = Output(Video("rgb24", rate=25))

    first, second = source(Pictures, PICTURE, PICTURE)
    assert (first.pts, second.pts, second.time_base) == (0, 1, Fraction(1, 25))
    assert second.format.rate == 25


def test_pictures_of_a_source_without_rate() -> None:
    """Without a rate a picture is of the moment in which it came."""

    class Pictures(Source):
        out = Output(Video("rgb24"))

    first, second = source(Pictures, PICTURE, PICTURE)
    assert first.pts == 0
    assert second.pts >= first.pts
    assert second.time_base == Fraction(1, 1_000_000)


def test_sound_of_a_source() -> None:
    """A source's sound is counted in samples; without a rate that is an error."""

    class Sounds(Source):
        out = Output(Audio("fltp", rate=16_000))

    class Rateless(Source):
        out = Output(Audio())

    sound = np.zeros((1, 160), np.float32)
    first, second = source(Sounds, sound, sound)
    assert (first.pts, second.pts, second.time_base) == (0, 160, Fraction(1, 16_000))
    assert second.layout == "mono"
    with pytest.raises(FormatError, match="output 'out' of rateless gives no rate"):
        source(Rateless, sound)


def test_arrays_of_a_source_without_format() -> None:
    """An array out of an output that declares nothing is data."""
    (frame,) = source(Source, PICTURE)
    assert isinstance(frame, Data)


def test_capture_time() -> None:
    """A source's frames are of now unless they say otherwise; what is made of them keeps that."""
    now = time.time_ns()
    first, second = source(Source, 1, Data(2, captured_ns=5))
    assert now <= first.captured_ns <= time.time_ns()
    assert second.captured_ns == 5
    (emission,) = given(Returns(Data(1)))
    assert isinstance(emission.value, Data)
    assert emission.value.captured_ns == 99


def test_data_carries_the_declared_type() -> None:
    """The format of Data is the type that the output declares."""

    class Numbers(Source):
        out = Output(list[int])

    (frame,) = source(Numbers, [1])
    assert frame.format == list[int]


@pytest.mark.parametrize(
    ("declared", "value", "words"),
    [
        (Video("rgb24"), {"a": 1}, r"output 'out' of wrong carries Video\(rgb24\): it was given a dict"),
        (
            Video("gray"),
            VideoFrame(PICTURE),
            r"carries Video\(gray\): pixels differs: rgb24 is offered, gray is wanted",
        ),
        (Audio(), VideoFrame(PICTURE), r"carries Audio\(\): the kind differs: video is offered, audio is wanted"),
        (Video(), Packet(b"x", "h264", key=True), "the kind differs: encoded is offered"),
        (list[int], VideoFrame(PICTURE), r"carries list\[int\]: the kind differs"),
    ],
)
def test_frames_that_the_output_does_not_carry(declared: object, value: Any, words: str) -> None:
    """A frame of another kind or format than the output declares is refused, with the field that differs."""

    class Wrong(Source):
        out = Output(declared)

    with pytest.raises(FormatError, match=words):
        source(Wrong, value)


def test_format_is_checked_again_when_it_changes() -> None:
    """Each new format of an output is looked at, not only the first."""

    class Pictures(Source):
        out = Output(Video("rgb24"))

    with pytest.raises(FormatError, match="pixels differs: gray is offered"):
        source(Pictures, VideoFrame(PICTURE), VideoFrame(PICTURE), VideoFrame(np.zeros((4, 6), np.uint8)))


def test_flush_takes_the_last_header() -> None:
    """What `flush` emits has the time of the last frame that came."""

    class Holds(Node):
        def process(self, frame: Any) -> None:
            self.held = frame.array + 1

        def flush(self) -> Any:
            yield self.held

    with Caller(Holds()) as caller:
        list(caller.process(VideoFrame(PICTURE, pts=4), "in"))
        (emission,) = caller.flush()
    assert isinstance(emission.value, VideoFrame)
    assert emission.value.pts == 4
    assert emission.value.array.max() == 1


# --- loans ----------------------------------------------------------------------------------------------------------


def test_loan() -> None:
    """A lent frame is written in place, sent at exit before what is returned, and read-only afterwards."""

    class Lends(Node):
        frames = Input(Video())
        shown = Output(Video())
        boxes = Output()

        def process(self, frame: Any) -> Any:
            with self.shown.loan(like=frame) as new:
                new.array[:] = 7
            return self.boxes, 1

    shown, boxes = given(Lends(), VideoFrame(PICTURE, pts=2), "frames")
    assert (shown.port, boxes.port) == ("shown", "boxes")
    assert isinstance(shown.value, VideoFrame)
    assert shown.value.pts == 2
    assert shown.value.array.max() == 7
    with pytest.raises(ValueError, match="read-only"):
        shown.value.array[0] = 1


def test_loan_that_fails_is_not_sent() -> None:
    """A loan whose context ends by an error is not emitted."""

    class Lends(Node):
        frames = Input(Video())
        shown = Output(Video())

        def process(self, frame: Any) -> Any:
            try:
                with self.shown.loan(like=frame):
                    raise KeyError
            except KeyError:
                return None

    assert given(Lends(), VideoFrame(PICTURE), "frames") == []


class Paints(Node):
    """Lends a picture like the one it gets, and paints it; fails on the value 13, inside the loan."""

    frames = Input(Video())
    shown = Output(Video())

    def process(self, frame: Any) -> Any:
        with self.shown.loan(like=frame) as new:
            new.array[:] = 7
            if frame.array.max() == 13:
                raise KeyError(13)


class Room:
    """Shared memory of one slot at a time, as an output has it; notes what was asked for, and what came back."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.freed: list[int] = []
        self.is_there = True

    def __call__(self, port: str, size: int) -> Slot | None:
        self.asked.append((port, size))
        if not self.is_there:
            return None
        length = -(-size // PAGE_BYTES) * PAGE_BYTES
        descriptor = os.memfd_create("rmbus-test-room", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, length)
        mapping = Mapping(1, length, descriptor, writable=True)
        os.close(descriptor)
        return Slot(mapping, Place(1, 0, size), len(self.asked), self.freed)


def large(value: int = 0, dtype: Any = np.uint8) -> VideoFrame:
    return VideoFrame(np.full((300, 400), value, dtype), "gray" if dtype is np.uint8 else "gray16le", pts=4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_loan_is_rendered_in_shared_memory(dtype: Any) -> None:
    """What is sent lies where it was painted, and is known to; it goes back when the frame has gone."""
    room = Room()
    with Caller(Paints()) as caller:
        caller.lend_from(room)
        (emission,) = caller.process(large(dtype=dtype), "frames")
        frame = emission.value
        assert isinstance(frame, VideoFrame)
        assert room.asked == [("shown", frame.array.nbytes)]
        held = memory_of(frame)
        assert isinstance(held, Slot)
        assert np.shares_memory(frame.array, held.view())
        assert (frame.array == 7).all()
        assert (frame.array.dtype, frame.pts, frame.array.flags.writeable) == (dtype, 4, False)
        del held, emission
        assert room.freed == []
        del frame
        assert room.freed == [1]


def test_a_small_loan_is_of_the_heap() -> None:
    """It rides in the message, so no memory is asked for."""
    room = Room()
    with Caller(Paints()) as caller:
        caller.lend_from(room)
        (emission,) = caller.process(VideoFrame(PICTURE), "frames")
    assert room.asked == []
    assert memory_of(emission.value) is None  # type: ignore[arg-type]  # it is a frame


def test_a_loan_without_shared_memory_is_of_the_heap() -> None:
    """Where the host gives none, nothing changes for the node."""
    room = Room()
    room.is_there = False
    with Caller(Paints()) as caller:
        caller.lend_from(room)
        (emission,) = caller.process(large(), "frames")
    assert isinstance(emission.value, VideoFrame)
    assert (emission.value.array == 7).all()
    assert memory_of(emission.value) is None


def test_a_loan_that_fails_goes_back() -> None:
    """Nothing keeps the memory of a frame that was never sent."""
    room = Room()
    with Caller(Paints()) as caller:
        caller.lend_from(room)
        with pytest.raises(KeyError):
            caller.process(large(13), "frames")
    assert room.freed == [1]


def test_the_content_of_the_last_frame_is_let_go_of() -> None:
    """While a node waits it holds nothing of its producer's memory; `flush` still knows the frame's header."""

    class Late(Node):
        def process(self, frame: Any) -> Any:
            return None

        def flush(self) -> Any:
            return "last"

    room = Room()
    slot = room("in", 120_000)
    assert slot is not None
    array = slot.view().reshape(300, 400)
    array.setflags(write=False)
    frame = remember(VideoFrame(array, pts=8), slot)
    del slot, array
    with Caller(Late()) as caller:
        assert list(caller.process(frame, "in")) == []
        del frame
        assert room.freed == []
        caller.forget()
        assert room.freed == [1]
        (emission,) = caller.flush()
        assert isinstance(emission.value, Data)
        assert (emission.value.value, emission.value.pts) == ("last", 8)


def test_a_frame_of_the_heap_is_kept_as_it_is() -> None:
    """There is nobody to give it back to, and a node may lend like it."""
    frame = large(3)
    with Caller(Plain()) as caller:
        caller.process(Data(1), "in")
        caller._origin = frame
        caller.forget()
        assert caller._origin is frame
