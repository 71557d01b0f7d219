"""Nodes, their ports and their options, with nothing running."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import attrs
import pytest

from rmbus.errors import FormatError, PipelineError
from rmbus.formats import Audio, Video
from rmbus.node import Input, Interrupt, Needs, Node, Output, call_of, node_name, options_of, ports


class Plain(Node):
    def process(self, frame: Any) -> Any:
        return frame


class Source(Node):
    def process(self) -> Any:
        yield 1


class Detector(Node):
    video = Input(Video("rgb24"))
    boxes = Output(list[int])
    shown = Output(Video(), live=True)

    def process(self, frame: Any) -> Any:
        yield self.boxes, [1]


class Mixer(Node):
    sounds = Input(Audio(), many=True)
    talk = Input(Audio(), optional=True)
    out = Output(Audio())

    def process(self, frame: Any, port: str) -> Any:
        return frame


def test_ports_that_are_not_declared() -> None:
    """A class that declares none has one input `in` and one output `out`; a source has no input."""
    assert list(ports(Plain).inputs) == ["in"]
    assert list(ports(Plain()).outputs) == ["out"]
    assert list(ports(Source).inputs) == []
    assert list(ports(Source).outputs) == ["out"]
    assert ports(Plain).inputs["in"].format is Any


def test_ports_that_are_declared() -> None:
    """A class that declares any has exactly those, with what was said of them."""
    assert list(ports(Detector).inputs) == ["video"]
    assert list(ports(Detector).outputs) == ["boxes", "shown"]
    assert ports(Detector).outputs["shown"].live
    assert not ports(Detector).outputs["boxes"].live
    found = ports(Mixer).inputs
    assert (found["sounds"].many, found["sounds"].optional) == (True, False)
    assert (found["talk"].many, found["talk"].optional) == (False, True)


def test_ports_are_inherited() -> None:
    """A subclass has the ports of its bases first, may replace one, and may drop one by None."""

    class Counting(Detector):
        count = Output(int)
        shown = None  # type: ignore[assignment]  # dropped
        video = Input(Video("gray"))

    assert list(ports(Counting).outputs) == ["boxes", "count"]
    assert ports(Counting).inputs["video"].format == Video("gray")


def test_port_of_a_node() -> None:
    """`node.video` and `node["video"]` are the port of that node, equal by node and name."""
    node, other = Detector(), Detector()
    assert node.video.node is node
    assert node.video.name == "video"
    assert node.video == node["video"]
    assert hash(node.video) == hash(node["video"])
    assert node.video != other.video
    assert node.boxes != node.video
    assert isinstance(node.video, Input)
    assert Detector.video.node is None
    assert Detector.video is Detector.video
    assert repr(node.video) == "<Input detector.video: Video(rgb24)>"
    assert node["boxes"].format == list[int]


def test_a_port_named_by_a_word_of_pythons() -> None:
    """It is declared with an underscore behind it; other names keep theirs."""

    class Halves(Node):
        in_ = Input(Video())
        out_ = Output(Video())

        def process(self, frame: Any) -> Any:
            return frame

    class More(Halves):
        in_ = Input(Audio())

    assert (list(ports(Halves).inputs), list(ports(Halves).outputs)) == (["in"], ["out_"])
    node = More()
    assert node["in"] == node.in_
    assert node.in_.format == Audio()
    assert str(Source() >> node >> Plain()).count("more.in ") == 1


def test_undeclared_ports_by_name() -> None:
    """Ports that are there by default are reached by their names."""
    node = Plain()
    assert node["in"] == ports(node).inputs["in"]
    with pytest.raises(PipelineError, match=r"plain has no port 'video': inputs: in; outputs: out"):
        node["video"]


def test_setting_a_port() -> None:
    """An attribute of a port's name is refused instead of hiding the port."""
    node = Detector()
    with pytest.raises(AttributeError, match="'video' is a port of Detector and cannot be set"):
        node.video = 3


def _declared_outputs_only() -> type[Node]:
    class OutputsOnly(Node):
        boxes = Output()

        def process(self, frame: Any) -> Any: ...

    return OutputsOnly


def _input_of_a_source() -> type[Node]:
    class InputOfSource(Node):
        frames = Input()

        def process(self) -> Any: ...

    return InputOfSource


def _two_inputs_in_one() -> type[Node]:
    class TwoInOne(Node):
        a = Input()
        b = Input()

        def process(self, frame: Any) -> Any: ...

    return TwoInOne


def _no_process() -> type[Node]:
    class NoProcess(Node):
        pass

    return NoProcess


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_declared_outputs_only, "OutputsOnly declares outputs only, and its process\\(\\) takes a frame"),
        (_input_of_a_source, "declares the input 'frames', but its process\\(\\) takes no frame"),
        (_two_inputs_in_one, "has the inputs a, b: write `def process\\(self, frame, port\\)`"),
        (_no_process, "NoProcess has no process\\(\\)"),
    ],
)
def test_ports_and_process_that_disagree(make: Callable[[], type[Node]], words: str) -> None:
    """A `process` that does not suit the declared ports is an error that says what to write."""
    with pytest.raises(PipelineError, match=words):
        ports(make())


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


def test_how_process_is_called() -> None:
    """Whether `process` takes a frame and the port's name is read from its signature, through decorators too."""

    class Keyword(Node):
        def process(self, frame: Any, *, port: str) -> Any: ...

    class Option(Node):
        def process(self, frame: Any, threshold: float = 0.5) -> Any: ...

    class Static(Node):
        @staticmethod
        def process(frame: Any) -> Any: ...

    class Wrapped(Node):
        @decorated
        def process(self, frame: Any) -> Any: ...

    class Rest(Node):
        def process(self, *arguments: Any) -> Any: ...

    assert call_of(Mixer).port == "second"
    assert call_of(Keyword).port == "keyword"
    assert call_of(Option).port == "no"
    assert call_of(Static).frame
    assert call_of(Wrapped).frame
    assert call_of(Rest).port == "rest"
    assert not call_of(Source).frame


def test_format_that_is_none() -> None:
    """What is no format is refused where the port is declared."""
    with pytest.raises(FormatError, match="'rgb24' is no format"):
        Input("rgb24")


def test_default_name() -> None:
    """A node is called like its class in lower case, or as its options say, whatever attributes it has."""

    class Named(Node):
        def __init__(self, name: str) -> None:
            self.name = name

        def process(self, frame: Any) -> Any: ...

    assert node_name(Plain()) == Plain().name == "plain"
    assert Plain().options(name="edges").name == "edges"
    assert Named("mine").name == "mine"
    assert node_name(Named("mine")) == "named"


def test_options() -> None:
    """`options` sets, keeps what it is not given, returns the node, and falls back to the class."""

    class Model(Node):
        needs = Needs(gpus=1)
        requirements = ("torch",)

        def process(self, frame: Any) -> Any: ...

    node = Model()
    assert node.options(on="tcp://host:7700", restart="on-failure") is node
    node.options(on_error="skip", env="cuda")
    options = options_of(node)
    assert (options.name, options.on, options.restart, options.on_error) == (
        "model", "tcp://host:7700", "on-failure", "skip",
    )  # fmt: skip
    assert options.needs == Needs(gpus=1)
    assert options.requirements == ("torch",)
    assert options.env == "cuda"
    node.options(needs=Needs(), requirements=["numpy"])
    assert options_of(node).needs == Needs()
    assert options_of(node).requirements == ("numpy",)
    assert options_of(Model()).needs == Needs(gpus=1)


def test_options_of_a_fresh_node() -> None:
    """What nobody has set has its default."""
    options = options_of(Plain())
    assert (options.on, options.restart, options.on_error, options.env) == (None, "never", "stop", None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"restart": "sometimes"}, "restart is 'never', 'on-failure', 'always', not 'sometimes'"),
        ({"on_error": "ignore"}, "on_error is"),
        ({"name": "a/b"}, "a node's name is a word"),
        ({"name": "a.b"}, "a node's name is a word"),
        ({"name": ""}, "a node's name is a word"),
    ],
)
def test_options_that_cannot_be_meant(given: dict[str, Any], words: str) -> None:
    """A value that is none is refused with those that are."""
    with pytest.raises(ValueError, match=words):
        Plain().options(**given)


def test_needs() -> None:
    """Needs are values; one path is not taken apart into letters; negative numbers are refused."""
    assert Needs(files="/data").files == ("/data",)
    assert Needs(network=["a:1", "b:2"]).network == ("a:1", "b:2")
    assert Needs(labels=("gpu",)) == Needs(labels=["gpu"])
    with pytest.raises(ValueError, match=r"Needs\.gpus is a whole number, 0 or more, not -1"):
        Needs(gpus=-1)


def test_state() -> None:
    """The state is the attributes, without options and ports; it can be set on another instance."""

    class Counter(Node):
        def __init__(self) -> None:
            self.count = 3

        def process(self, frame: Any) -> Any: ...

    node = Counter().options(name="one")
    assert node.get_state() == {"count": 3}
    fresh = Counter.__new__(Counter)
    fresh.set_state({"count": 7})
    assert fresh.count == 7
    assert fresh.name == "counter"


@dataclass
class Written(Node):
    path: str
    frames = Input()

    def process(self, frame: Any) -> Any: ...


@attrs.define
class Defined(Node):
    path: str
    frames = Input()

    def process(self, frame: Any) -> Any: ...


@attrs.frozen
class Frozen(Node):
    path: str

    def process(self, frame: Any) -> Any: ...


@pytest.mark.parametrize("cls", [Written, Defined, Frozen])
def test_dataclasses_as_nodes(cls: Any) -> None:
    """A dataclass or attrs class is a node by identity, has state and options, and travels as class and state."""
    node = cls("a")
    assert node != cls("a")
    assert {node: 1}[node] == 1
    assert node.options(name="file").name == "file"
    assert node.get_state() == {"path": "a"}
    fresh = cls.__new__(cls)
    fresh.set_state({"path": "b"})
    assert fresh.path == "b"


def test_own_equality_keeps_identity() -> None:
    """A node whose class defines `==` can still be told from others in a graph."""

    class Equal(Node):
        def __eq__(self, other: object) -> bool:
            return True

        def process(self, frame: Any) -> Any: ...

    one, other = Equal(), Equal()
    assert one == other
    nodes: list[Node] = [one, other]
    assert len(set(nodes)) == 2


def test_copies_have_options_of_their_own() -> None:
    """Options set on a copy leave the original alone."""
    node = Plain().options(name="one")
    twin = copy.copy(node).options(name="two")
    assert (node.name, twin.name) == ("one", "two")


def test_loan_outside_of_process() -> None:
    """A loan needs a node that runs."""
    with pytest.raises(PipelineError, match="only while its node runs"):
        Detector().shown.loan()


def test_interrupts_are_equal() -> None:
    """An interrupt has no content."""
    assert Interrupt() == Interrupt()
