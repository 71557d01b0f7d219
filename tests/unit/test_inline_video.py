"""Encoded video in an inline run: dropped, asked for and refused as between processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rmbus.delivery import drop_oldest, latest, reliable
from rmbus.errors import FormatError, NodeError
from rmbus.formats import Encoded
from rmbus.media import Packet
from rmbus.node import Input, Node, Output
from rmbus.runtime.inline import run_inline
from rmbus.runtime.invoke import Invoker
from rmbus.runtime.queues import Link
from rmbus.runtime.stations import Station


def packets(keys: str) -> list[Packet]:
    """Return packets of video, `k` for a key and `d` for one that depends on those before it; `s` is sound."""
    return [Packet(b"", "aac" if each == "s" else "h264", key=each != "d", pts=pts) for pts, each in enumerate(keys)]


@pytest.mark.parametrize(
    ("keys", "wanted", "dropped"),
    [
        ("kdd", [0, 1, 2], {}),
        ("kddd", [], {"awaiting_key": 4}),
        ("kdddkd", [4, 5], {"awaiting_key": 4}),
        ("kddk", [3], {"awaiting_key": 3}),
        ("sssd", [1, 2, 3], {"overflow": 1}),
        ("kdds", [3], {"overflow": 1, "awaiting_key": 2}),
        ("kdks", [2, 3], {"overflow": 1, "awaiting_key": 1}),
        ("ssss", [1, 2, 3], {"overflow": 1}),
    ],
)
def test_packets_are_dropped_with_all_that_depend_on_them(
    keys: str, wanted: list[int], dropped: dict[str, int]
) -> None:
    """As in processes: what is delivered can be decoded."""
    link = Link("a -> b", drop_oldest(3), None, "b")
    for packet in packets(keys):
        link.offer(packet)
    assert [each.pts for _, each in link.queue if isinstance(each, Packet)] == wanted
    assert link.count().dropped == dropped


class Encoder(Node):
    """A source of packets that notes what it was asked for."""

    out = Output(Encoded("h264"))

    def __init__(self, keys: str) -> None:
        self.keys = keys
        self.asked: list[str] = []

    def process(self) -> Iterator[Packet]:
        yield from packets(self.keys)

    def key_wanted(self, port: str) -> None:
        self.asked.append(port)


class PassOn(Node):
    frames = Input(Encoded())
    out = Output(Encoded())

    def process(self, frame: Any) -> Any:
        return frame


def test_who_encodes_is_asked_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of a node that only sends packets on; again after a second, as long as none has come."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    node = Encoder("kddddk")
    encoder, between = (Station(name, f"p/{name}", Invoker(of), False) for name, of in (("e", node), ("p", PassOn())))
    link = Link("e -> p", reliable(1), between, "frames", encoder, "out")
    end = Link("p -> nobody", drop_oldest(1), None, "out", between, "out")
    encoder.outputs["out"], between.inputs, between.outputs["out"] = [link], [link], [end]
    while not encoder.ended:
        encoder.step()
        while between.step():
            now[0] += 0.22
    assert node.asked == ["out", "out"]
    assert end.count().dropped == {"awaiting_key": 5}


def test_single_packets_are_not_left_out() -> None:
    """`latest` is refused when the first packet of video comes, with what to use instead."""

    class Anything(Node):
        def process(self) -> Iterator[Packet]:
            yield from packets("k")

    class Sink(Node):
        frames = Input()

        def process(self, frame: Any) -> None: ...

    with pytest.raises(NodeError, match=r"output 'out' sends Encoded\(h264\).*drop_oldest\(n\)") as caught:
        run_inline(Anything()["out"].to(Sink(), delivery=latest))
    assert isinstance(caught.value, FormatError)
