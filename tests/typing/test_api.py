"""What the types of the public names promise to whoever writes nodes. Read by mypy and pyright, and run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, assert_type

from rmbus import (
    Audio,
    AudioFrame,
    Bus,
    Data,
    Encoded,
    Input,
    Interrupt,
    Needs,
    Node,
    Output,
    Packet,
    Pipeline,
    Session,
    Video,
    VideoFrame,
    aio,
    connect,
    drop_oldest,
    latest,
    reliable,
    testing,
)
from rmbus.delivery import Delivery
from rmbus.graph import Edge
from rmbus.media import Frame
from rmbus.node import Port, ports
from rmbus.topics import Publisher, Subscription


class Plain(Node):
    def process(self, frame: VideoFrame) -> VideoFrame | None:
        return frame


class Generated(Node):
    def process(self, frame: Data) -> Iterator[Data | Interrupt]:
        yield frame
        yield Interrupt()


class Awaited(Node):
    async def initialize(self) -> None: ...

    async def process(self, frame: AudioFrame) -> AudioFrame:
        return frame

    async def cleanup(self) -> None: ...


class AsyncGenerated(Node):
    async def process(self, frame: Packet) -> AsyncIterator[Packet]:
        yield frame

    async def flush(self) -> AsyncIterator[Packet]:
        yield Packet(b"", "opus", key=True)


class Source(Node):
    requirements = ["numpy"]  # noqa: RUF012  # as users write it
    needs = Needs(files=["/data"], memory_mb=100)
    independent = True
    live = Output(Video("rgb24", rate=25), live=True)

    def __init__(self, name: str) -> None:
        self.name = name

    def process(self) -> Iterator[VideoFrame]:
        return iter(())

    def get_state(self) -> dict[str, str]:
        return {"name": self.name}

    def set_state(self, state: dict[str, str]) -> None:
        self.name = state["name"]


@dataclass
class Several(Node):
    threshold: float
    a = Input(Video(), many=True)
    b = Input(Audio("fltp", rate=48_000, layout="mono"), optional=True)
    boxes = Output(list[float])
    packets = Output(Encoded("h264", "hevc"))

    def process(self, frame: Frame, port: str) -> Iterator[tuple[Output, object]]:
        yield self.boxes, [self.threshold]


def test_every_shape_of_process() -> None:
    """A subclass may write `process` and the rest in any shape, and its own attributes keep their types."""
    assert_type(Source("a").name, str)
    assert_type(Several(0.5).threshold, float)
    nodes: Sequence[Node] = [Plain(), Generated(), Awaited(), AsyncGenerated(), Source("b"), Several(0.5)]
    assert len({id(node) for node in nodes}) == 6


def test_options_return_the_node() -> None:
    """`options` gives the class that it was called on, with every option."""
    node = Several(0.5).options(
        name="several",
        on="tcp://host:7700",
        needs=Needs(gpus=1, network=("a:1",)),
        requirements=["torch"],
        env="cuda",
        restart="always",
        on_error="skip",
    )
    assert_type(node, Several)
    assert node.name == "several"


def test_ports() -> None:
    """Ports are inputs and outputs, of the class and of the node; by name they are ports."""
    node = Several(0.5)
    assert_type(node.a, Input)
    assert_type(Several.boxes, Output)
    assert_type(node["boxes"], Port)
    assert_type(node.a.optional, bool)
    assert_type(node.boxes.live, bool)
    assert_type(ports(node).inputs["a"], Input)
    assert node.boxes == node["boxes"]


def test_graphs() -> None:
    """Whatever stands around `>>` and `|`, a Pipeline comes of it, and what it tells is typed."""
    source, several = Source("a"), Several(0.5)
    assert_type(source >> Plain() >> several.a, Pipeline)
    assert_type(source.live >> several.a, Pipeline)
    assert_type(source["live"] >> several["a"], Pipeline)
    assert_type(Plain() | Plain(), Pipeline)
    assert_type(Plain() >> Plain() | source, Pipeline)
    pipeline = source.live.to(several.a, delivery=latest, deadline_ms=40, convert="auto")
    assert_type(pipeline, Pipeline)
    assert_type(Pipeline([source, Plain()], name="demo", convert="auto").add_node(Plain()), Pipeline)
    assert_type(pipeline.edges, tuple[Edge, ...])
    assert_type(pipeline.nodes, tuple[Node, ...])
    assert_type(pipeline.names(), dict[Node, str])
    assert_type(pipeline.remove_node(several), bool)
    assert_type(pipeline.open_outputs, tuple[Output, ...])
    assert_type(pipeline.get_config(), dict[str, Any])
    assert_type(len(pipeline), int)


def test_values() -> None:
    """Formats and deliveries are values with typed fields."""
    assert_type(Video("rgb24", rate=29.97).rate, Fraction | None)
    assert_type(Audio().layout, str | None)
    assert_type(Encoded("h264").codecs, tuple[str, ...])
    assert_type(latest, Delivery)
    assert_type(drop_oldest(8), Delivery)
    assert_type(reliable(8).n, int)
    assert latest.n == 1


def test_running_a_node() -> None:
    """What a test of a node uses; the frames that come out are of any kind, as the node pleases."""
    frames = testing.video(2)
    assert_type(frames, list[VideoFrame])
    assert_type(testing.audio(1), list[AudioFrame])
    out = testing.run_node(Plain(), frames)
    assert out[1].array.shape == frames[1].array.shape


def processing(pipeline: Pipeline) -> None:
    """Say the types of what runs; it is read by the checkers, and never called."""
    for frame in pipeline.process([1, 2]):
        assert_type(frame, Frame)
    with pipeline as initialized:
        assert_type(initialized, Pipeline)
    pipeline.initialize()
    pipeline.cleanup()


def on_a_bus(picture: VideoFrame) -> None:
    """Topics from a script; never called, likewise."""
    with connect(timeout_s=1) as bus:
        assert_type(bus, Bus)
        with bus.publish("cam/front", Video("rgb24")) as publisher:
            assert_type(publisher, Publisher)
            publisher.send(picture.array)
            with publisher.loan(like=picture) as lent:
                lent.array[:] = 0
        for frame in bus.subscribe("cam/*", delivery=drop_oldest(3), last=True):
            assert_type(frame, Frame)
        subscription = bus.subscribe("cam/front", delivery=latest)
        assert_type(subscription, Subscription)
        assert_type(subscription.dropped, dict[str, int])
    connect("tcp://127.0.0.1:7700", key="…").close()


async def on_a_bus_async(session: Session) -> None:
    """The same names, awaitable."""
    async with aio.connect() as bus:
        assert_type(bus, aio.Bus)
        publisher = await bus.publish("cam/front")
        assert_type(publisher, aio.Publisher)
        await publisher.send({"a": 1})
        async with bus.publish("cam/back") as other:
            assert_type(other, aio.Publisher)
        async for frame in bus.subscribe("cam/*", last=True):
            assert_type(frame, Frame)
    bus = await aio.connect("ipc:///run/there", timeout_s=1)
    await bus.close()
    async for event in session.events():
        assert_type(event, Mapping[str, Any])
    for event in session.events():
        assert_type(event, Mapping[str, Any])


async def processing_async(pipeline: Pipeline, items: AsyncIterator[int]) -> None:
    """As above, in an event loop."""
    async for frame in pipeline.process(items, on="tcp://host:7700"):
        assert_type(frame, Frame)
