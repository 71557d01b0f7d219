"""Graphs as values: joining, looking, checking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rmbus.delivery import DEFAULT, LIVE, drop_oldest, latest, reliable
from rmbus.errors import PipelineError
from rmbus.formats import Audio, Encoded, Video
from rmbus.node import Input, Node, Output
from rmbus.pipeline import Edge, Pipeline, join


class Reader(Node):
    video = Output(Video("rgb24", width=640))
    audio = Output(Audio())
    packets = Output(Encoded("h264"))

    def process(self) -> Any:
        yield None


class Camera(Node):
    video = Output(Video("rgb24"), live=True)

    def process(self) -> Any:
        yield None


class Edges(Node):
    def process(self, frame: Any) -> Any:
        return frame


class Writer(Node):
    video = Input(Video())
    audio = Input(Audio(), optional=True)

    def process(self, frame: Any, port: str) -> Any: ...


class Mixer(Node):
    sounds = Input(many=True)
    out = Output()

    def process(self, frame: Any) -> Any:
        return frame


class Sink(Node):
    frames = Input()

    def process(self, frame: Any) -> Any: ...


class Peer(Node):
    independent = True
    microphone = Output(Audio(), live=True)
    speaker = Input(Audio())

    def process(self, frame: Any) -> Any: ...


def labels(pipeline: Pipeline) -> list[str]:
    return [pipeline.label(edge) for edge in pipeline.edges]


# --- joining --------------------------------------------------------------------------------------------------------


def test_line_of_nodes() -> None:
    """`a >> b >> c` is a line."""
    assert labels(Camera() >> Edges() >> Sink()) == ["camera.video -> edges.in", "edges.out -> sink.frames"]


def test_line_through_ports() -> None:
    """`src.video >> b >> dst.video` goes through the named ports."""
    reader, writer = Reader(), Writer()
    line = reader.video >> Edges() >> writer.video
    assert labels(line) == ["reader.video -> edges.in", "edges.out -> writer.video"]


def test_both_binds_less_than_line() -> None:
    """`p | q` is both, without parentheses; a node that is in both stays one."""
    reader, writer = Reader(), Writer()
    both = reader.video >> Edges() >> writer.video | reader.audio >> writer.audio
    assert labels(both) == ["reader.video -> edges.in", "edges.out -> writer.video", "reader.audio -> writer.audio"]
    assert len(both) == 3


def test_both_of_nodes() -> None:
    """Two nodes side by side make a pipeline without edges."""
    both = Edges() | Sink()
    assert (len(both), both.edges) == (2, ())


def test_operands_stay_as_they_were() -> None:
    """Joining makes a new pipeline."""
    first, second = Camera() >> Edges(), Edges() >> Sink()
    joined = first >> second
    assert (len(first), len(second), len(joined)) == (2, 2, 4)
    assert (len(first.edges), len(second.edges), len(joined.edges)) == (1, 1, 3)
    _ = first | second
    assert len(first) == 2


def test_lines_of_lines() -> None:
    """A pipeline remembers its ends, so that `x >> p >> y` goes on."""
    middle = Edges() >> Edges()
    line = Camera() >> middle >> Sink()
    assert labels(line) == ["camera.video -> edges.in", "edges.out -> edges-2.in", "edges-2.out -> sink.frames"]


def test_list_is_a_line() -> None:
    """A list of nodes is a line; ports and pipelines may stand in it, and are flattened."""
    reader, edges, writer = Reader(), Edges(), Writer()
    assert Pipeline([reader.video, edges, writer.video]) == (reader.video >> edges >> writer.video)
    nested = Pipeline([Camera(), Pipeline([Edges(), Edges()]), Sink()])
    assert len(nested) == 4
    assert len(nested.edges) == 3


def test_fan_out_and_fan_in() -> None:
    """One output may feed several inputs, and several outputs one input that is declared for many."""
    camera, one, two, mixer = Camera(), Edges(), Edges(), Mixer()
    graph = camera >> one >> mixer | camera >> two >> mixer
    graph.validate()
    assert len(graph.edges) == 4
    assert len(graph) == 4


def test_both_ends_of_a_diamond() -> None:
    """What is on both sides of `|` is not doubled, edges included."""
    base = Camera() >> Edges()
    both = base >> Sink() | base >> Sink()
    assert labels(both) == ["camera.video -> edges.in", "edges.out -> sink.frames", "edges.out -> sink-2.frames"]


def test_to_with_all_that_an_edge_has() -> None:
    """`port.to` sets delivery, deadline and conversion of one edge."""
    camera, sink = Camera(), Sink()
    (edge,) = camera.video.to(sink, delivery=reliable(3), deadline_ms=40, convert="auto").edges
    assert edge == Edge(camera, "video", sink, "frames", reliable(3), 40, "auto")
    assert edge.output_port == camera.video
    assert edge.input_port == sink.frames


def test_to_from_an_undeclared_port() -> None:
    """`node["out"].to(...)` works as for a declared one."""
    assert labels(Edges()["out"].to(Sink()["frames"])) == ["edges.out -> sink.frames"]


def test_default_deliveries() -> None:
    """An edge is reliable(8) unless told otherwise, drop_oldest(8) where its output is live."""
    for source, expected in ((Edges()["out"], DEFAULT), (Camera()["video"], LIVE)):
        (edge,) = source.to(Sink()).edges
        assert edge.delivery is None
        assert edge.resolved_delivery() == expected
    (edge,) = Camera().video.to(Sink(), delivery=latest).edges
    assert edge.resolved_delivery() == latest


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Reader() >> Sink(),
            r"which output of reader .* It has 3: reader\.video, reader\.audio, reader\.packets",
        ),
        (lambda: Edges() >> Writer(), r"which input of writer .* It has 2: writer\.video, writer\.audio"),
        (lambda: Sink() >> Edges(), "sink has no output"),
        (lambda: Edges() >> Camera(), "camera has no input"),
        (lambda: Camera() >> Camera().video, r"camera\.video is an output, and frames arrive by an input"),
        (lambda: Sink().frames >> Edges(), r"sink\.frames is an input, and frames leave by an output"),
        (lambda: Edges() >> (Sink() | Sink()), r"which input of the pipeline .* It has 2: sink\.frames, sink\.frames"),
        (lambda: (Edges() | Edges()) >> Sink(), "which output of the pipeline .* It has 2"),
        (lambda: Camera.video >> Sink(), "is the port of a class"),
        (lambda: Pipeline([Reader(), Sink()]), "which output of reader"),
    ],
)
def test_joins_that_are_not_clear(make: Callable[[], object], words: str) -> None:
    """Exactly one port on each side, else the ports are listed: no sound is lost silently."""
    with pytest.raises(PipelineError, match=words):
        make()


def test_all_declared_ports_count() -> None:
    """A port that is joined already still counts: `reader >> …` stays an error after `reader.video >> …`."""
    reader, writer = Reader(), Writer()
    with pytest.raises(PipelineError, match="which input of writer"):
        _ = reader.video >> writer.video | reader.audio >> writer


def test_open_ports_of_both_count() -> None:
    """Of `p | q` the open ports count, as of a node."""
    camera, sink = Camera(), Sink()
    graph = (camera >> sink | Edges()) >> Edges()
    assert labels(graph) == ["camera.video -> sink.frames", "edges.out -> edges-2.in"]


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (3, "3 is not a Node"),
        (Edges, r"Edges is a class, not a Node: build one, `Edges\(...\)`"),
        (print, r"is not a Node: a function becomes one by nodes.Map\(function\)"),
        (None, "None is not a Node"),
    ],
)
def test_things_that_are_no_nodes(thing: Any, words: str) -> None:
    """A class, a function or anything else in place of a node is refused with what to write."""
    for make in (
        lambda: Pipeline([thing]),
        lambda: Edges() >> thing,
        lambda: Edges() | thing,
        lambda: Pipeline().add_node(thing),
    ):
        with pytest.raises(PipelineError, match=words):
            make()


def test_a_node_is_no_list() -> None:
    """Pipeline(node) says to write a list."""
    with pytest.raises(PipelineError, match=r"write Pipeline\(\[node\]\)"):
        Pipeline(Edges())  # type: ignore[arg-type]  # this is the point


def test_two_edges_into_one_input() -> None:
    """An input takes one output, unless it is declared for many."""
    sink = Sink()
    with pytest.raises(
        PipelineError, match=r"edges-2.out -> sink.frames: the input is taken: edges.out -> sink.frames"
    ):
        _ = Edges() >> sink | Edges() >> sink
    mixer = Mixer()
    assert len((Edges() >> mixer | Edges() >> mixer).edges) == 2


def test_one_edge_with_two_deliveries() -> None:
    """The same output and input cannot be joined twice, not even for many."""
    edges, mixer = Edges(), Mixer()
    with pytest.raises(PipelineError, match="joined to the same output already, with another delivery"):
        _ = edges["out"].to(mixer, delivery=latest) | edges["out"].to(mixer, delivery=reliable(2))


def test_deadline_is_a_time() -> None:
    """A deadline of nothing is refused."""
    with pytest.raises(ValueError, match="deadline_ms is a time above 0"):
        Camera().video.to(Sink(), deadline_ms=0)


# --- the form of a list ---------------------------------------------------------------------------------------------


def test_add_node() -> None:
    """`add_node` goes on with the line and returns the pipeline."""
    pipeline = Pipeline(name="line")
    assert pipeline.add_node(Camera()).add_node(Edges()).add_node(Sink()) is pipeline
    assert labels(pipeline) == ["camera.video -> edges.in", "edges.out -> sink.frames"]
    assert pipeline.name == "line"


def test_remove_node() -> None:
    """`remove_node` says whether it was there, and closes the gap in a line."""
    camera, edges, sink = Camera(), Edges(), Sink()
    pipeline = Pipeline([camera, edges, sink])
    assert pipeline.remove_node(edges)
    assert not pipeline.remove_node(edges)
    assert not pipeline.remove_node("edges")
    assert labels(pipeline) == ["camera.video -> sink.frames"]
    assert pipeline.remove_node("sink")
    assert labels(pipeline.add_node(Edges())) == ["camera.video -> edges.in"]


def test_get_node_len_and_iteration() -> None:
    """A pipeline is a collection of its nodes, by name too."""
    camera, edges = Camera(), Edges()
    pipeline = camera >> edges
    assert pipeline.get_node("edges") is edges
    assert pipeline.get_node("nobody") is None
    assert len(pipeline) == 2
    assert list(pipeline) == [camera, edges]
    assert edges in pipeline
    assert Edges() not in pipeline
    assert pipeline


def test_names_are_unique() -> None:
    """Nodes of one class are numbered; names that were given come first."""
    one, two, three = Edges(), Edges(), Edges().options(name="edges-2")
    assert list((one >> two >> three).names().values()) == ["edges", "edges-3", "edges-2"]
    first, second = Edges().options(name="a"), Edges().options(name="a")
    assert list((first >> second).names().values()) == ["a", "a-2"]


def test_get_config() -> None:
    """The graph as plain data: names, types, places, edges with their delivery."""
    pipeline = Pipeline([Camera(), Edges().options(on="tcp://host:7700", requirements=["numpy"])], name="demo")
    assert pipeline.get_config() == {
        "name": "demo",
        "convert": None,
        "nodes": [
            {"name": "camera", "type": f"{__name__}:Camera"},
            {"name": "edges", "type": f"{__name__}:Edges", "on": "tcp://host:7700", "requirements": ("numpy",)},
        ],
        "edges": [{"edge": "camera.video -> edges.in", "delivery": "drop_oldest(8)"}],
    }


def test_open_ports() -> None:
    """What is not joined is open, and is reached by name."""
    reader, writer = Reader(), Writer()
    pipeline = reader.video >> writer.video
    assert pipeline.open_inputs == (writer.audio,)
    assert pipeline.open_outputs == (reader.audio, reader.packets)
    assert pipeline["packets"] == reader.packets
    assert pipeline["writer.audio"] == writer.audio
    with pytest.raises(PipelineError, match=r"more than one open port is called 'audio'; open are: writer\.audio, "):
        pipeline["audio"]
    with pytest.raises(PipelineError, match="no open port is called 'video'"):
        pipeline["video"]


def test_pipeline_as_a_node() -> None:
    """A pipeline's open port can be joined like a node's."""
    reader, writer = Reader(), Writer()
    pipeline = reader.video >> writer.video
    whole = pipeline["reader.audio"].to(pipeline["writer.audio"]) | pipeline
    assert len(whole.edges) == 2
    assert len(whole) == 2


def test_equality() -> None:
    """Pipelines are equal that have the same nodes, edges and name."""
    camera, edges = Camera(), Edges()
    assert camera >> edges == Pipeline([camera, edges])
    assert camera >> edges != camera >> Edges()
    assert camera >> edges != (camera | edges)
    assert camera >> edges != camera["video"].to(edges, delivery=latest)
    assert Pipeline([camera], name="a") != Pipeline([camera], name="b")
    assert Pipeline([camera]) != 3


def test_text() -> None:
    """`print` shows every edge with its delivery, what is open, and where nodes run; `repr` is one line."""
    camera, reader, writer = Camera(), Reader(), Writer().options(on="tcp://host:7700")
    pipeline = reader.video.to(writer.video, deadline_ms=40) | camera | reader.packets.to(Sink(), convert="auto")
    assert str(pipeline).splitlines() == [
        "pipeline: 4 nodes, 2 edges",
        "  reader.video -> writer.video   reliable(8), deadline 40 ms",
        "  reader.packets -> sink.frames  reliable(8), convert",
        "  reader.audio -> nobody         open output",
        "  camera.video -> nobody         open output",
        "  nobody -> writer.audio         open input, optional",
        "  writer on tcp://host:7700",
    ]
    assert repr(pipeline) == "<Pipeline 'pipeline': reader, writer, camera, sink>"
    assert repr(Pipeline()) == "<Pipeline 'pipeline': empty>"


def test_names_of_pipelines() -> None:
    """A name that was given goes on into what is made of the pipeline."""
    named = Pipeline([Camera()], name="demo")
    assert (named >> Edges()).name == "demo"
    assert (Edges() | named).name == "demo"
    assert (Camera() >> Edges()).name == "pipeline"


# --- checking -------------------------------------------------------------------------------------------------------


def test_valid_graphs() -> None:
    """Outputs and optional inputs may stay open."""
    (Reader().video >> Writer().video).validate()
    (Edges() >> Edges()).validate(allow_open=True)


def test_empty_pipeline() -> None:
    """An empty pipeline is refused."""
    with pytest.raises(PipelineError, match="the pipeline is empty"):
        Pipeline().validate()


def test_dangling_inputs() -> None:
    """Inputs that nothing feeds are named, all of them."""
    writer = Writer()
    with pytest.raises(PipelineError, match=r"nothing feeds edges\.in, writer\.video: join an output to it"):
        (Edges() >> Sink() | Camera() | writer).validate()


def test_cycles() -> None:
    """A cycle is refused, and named in order."""
    one, two, three = (Edges().options(name=name) for name in ("one", "two", "three"))
    mixer = Mixer().options(name="mixer")
    graph = Camera() >> mixer >> one >> two >> three | join(three, mixer)
    with pytest.raises(PipelineError, match="has a cycle: mixer -> one -> two -> three -> mixer"):
        graph.validate()
    itself = Edges()
    with pytest.raises(PipelineError, match="has a cycle: edges -> edges"):
        (itself >> itself).validate()


def test_cycle_through_an_independent_node() -> None:
    """A cycle through a node whose outputs don't wait for its inputs is fine; another cycle beside it is not."""
    peer = Peer()
    graph = peer.microphone >> Edges() >> peer.speaker
    graph.validate()
    one, two = Edges(), Edges()
    with pytest.raises(PipelineError, match=r"has a cycle: edges-2 -> edges-3 -> edges-2"):
        (graph | one >> two | two >> one).validate()


def test_long_line_is_no_cycle() -> None:
    """The search for cycles is not limited by the depth of the graph, and a diamond is none."""
    nodes = [Edges() for _ in range(300)]
    pipeline = Pipeline([Camera(), *nodes])
    pipeline.validate()


def test_formats_that_do_not_fit() -> None:
    """A misfit names both ends and the field."""
    reader, writer = Reader(), Writer()
    with pytest.raises(
        PipelineError,
        match=r"reader\.audio -> writer\.video: the kind differs: audio is offered, video is wanted "
        r"\(the output gives Audio\(\), the input takes Video\(\)\)",
    ):
        (reader.audio >> writer.video).validate()


def test_latest_on_encoded_video() -> None:
    """`latest` is refused where packets depend on others."""
    reader = Reader()
    with pytest.raises(PipelineError, match=r"reader\.packets -> sink\.frames: `latest` would leave out packets"):
        reader.packets.to(Sink(), delivery=latest).validate()
    reader.packets.to(Sink(), delivery=drop_oldest(8)).validate()
    reader.video.to(Sink(), delivery=latest).validate()


@pytest.mark.parametrize(
    ("offered", "wanted", "fine"),
    [
        (Encoded("h264", "mjpeg"), Encoded("mjpeg"), True),
        (Encoded("h264", "mjpeg"), Encoded("mjpeg", "hevc", "h264"), False),
        (Encoded(), Encoded("mjpeg"), True),
        (Encoded("mjpeg"), Any, True),
        (Any, Encoded("vp9"), False),
        (Any, Any, True),
        (Encoded(), Any, False),
        (Encoded(), Encoded(layout="stereo"), True),
    ],
)
def test_latest_on_what_packets_there_may_be(offered: object, wanted: object, fine: bool) -> None:
    """What both ends name decides; what neither names shows when it comes."""

    class From(Node):
        out = Output(offered)

        def process(self) -> None: ...

    class To(Node):
        frames = Input(wanted)

        def process(self, frame: object) -> None: ...

    pipeline = From().out.to(To(), delivery=latest)
    if fine:
        pipeline.validate()
    else:
        with pytest.raises(PipelineError, match="would leave out packets"):
            pipeline.validate()
