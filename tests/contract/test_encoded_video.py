"""A real stream of H.264 over edges that drop: what arrives can be decoded, and a key frame comes when it is wanted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from coding import Decode, Decoder, Encode, PassOn
from contract import LANES, LaneCase, edge_of, own_run_folder, run
from steps import Steps, Take

import rmbus
from rmbus import NodeError, Packet, Session, drop_oldest, latest
from rmbus.cli.daemon import Daemon
from rmbus.errors import FormatError

pytestmark = pytest.mark.timeout(120)  # real processes

TOPIC = "pipeline/encode/out"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    with own_run_folder(monkeypatch, tmp_path):
        yield tmp_path


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def check_stream(folder: Path) -> None:
    """What was seen could be decoded: the beginning, and what came from a key on that was asked for."""
    encoded, decoded = read(folder / "encoded"), read(folder / "decoded")
    key = encoded["keys"][1]
    assert decoded["flaws"] == []
    assert key in decoded["seen"]
    before = [number for number in decoded["seen"] if number < key]
    assert before == [*range(len(before))]
    assert len(before) < key


@pytest.mark.parametrize("lane", [LANES[0], LANES[3]], ids=str)
def test_what_is_left_of_a_stream_can_be_decoded(lane: LaneCase, tmp_path: Path) -> None:
    """A reader stands still, packets are dropped, and the encoder is asked for a key, until it gives one."""
    asked = tmp_path / "asked"
    encode = Encode(tmp_path / "encoded", asked=asked, deaf=1)
    report = run(encode["out"].to(Decode(tmp_path / "decoded", asked), delivery=drop_oldest(4)), lane)
    check_stream(tmp_path)
    assert set(report.dropped) == {"awaiting_key"}
    wishes = read(tmp_path / "encoded")["wishes"]
    assert len(wishes) >= 2
    assert all(later - earlier > 0.9 for earlier, later in pairwise(wishes))


@pytest.mark.parametrize("where", ["local", "another host"])
def test_the_wish_goes_through_nodes_that_send_packets_on(folder: Path, where: str) -> None:
    """Though they know nothing of keys; also over the network."""
    asked = folder / "asked"
    encode, decode = Encode(folder / "encoded", asked=asked), Decode(folder / "decoded", asked)
    one, two = PassOn().options(name="one"), PassOn().options(name="two")
    pipeline = encode >> one >> two | two["out"].to(decode, delivery=drop_oldest(4))
    if where == "local":
        report = run(pipeline, LANES[0])
    else:
        with Daemon("other") as other:
            two.options(on=other.address)
            report = run(pipeline, LANES[3])
            assert edge_of(report, "two.out -> decode.packets").lane.startswith("tcp")
    check_stream(folder)
    assert edge_of(report, "two.out -> decode.packets").dropped.keys() == {"awaiting_key"}


@pytest.mark.parametrize("last", [False, True])
def test_who_comes_in_mid_stream_gets_a_key(folder: Path, last: bool) -> None:
    """A reader of a topic is given what it can decode, from a key on that the encoder was asked for."""
    done, decoder = folder / "done", Decoder()
    end = Decode(folder / "decoded", folder)
    pipeline = Encode(folder / "encoded", asked=folder / "asked", until=done) >> end
    with Session(pipeline) as session:
        while session.report().frames < 20:
            session.check()
        with rmbus.connect() as bus, bus.subscribe(TOPIC, delivery=drop_oldest(8), last=last) as packets:
            for _ in range(20):
                packet = next(packets)
                assert isinstance(packet, Packet)
                decoder.take(packet)
        done.touch()
        session.wait(20)
    encoded = read(folder / "encoded")
    assert decoder.flaws == []
    assert len(encoded["keys"]) >= 2
    assert decoder.seen[0] == (0 if last else encoded["keys"][1])
    assert decoder.seen[1] == (encoded["keys"][1] if last else decoder.seen[0] + 1)


def test_single_packets_are_not_left_out(tmp_path: Path) -> None:
    """Where the formats of the ports leave it open, `latest` is refused when the first packet of video is sent."""
    pipeline = Steps([("small", 0), ("packet", 1)])["out"].to(Take(tmp_path / "note"), delivery=latest)
    with pytest.raises(NodeError, match=r"output 'out' sends Encoded\(h264\).*use drop_oldest\(n\)") as caught:
        run(pipeline, LANES[0])
    assert isinstance(caught.value, FormatError)
    assert caught.value.node == "steps"


def test_nor_where_a_topic_is_read(folder: Path) -> None:
    """Whoever subscribes so is told; the publisher, and others who read the topic, are not harmed."""
    done, end = folder / "done", Decode(folder / "decoded", folder)
    with Session(Encode(folder / "encoded", asked=folder / "asked", until=done) >> end) as session:
        with (
            rmbus.connect() as bus,
            bus.subscribe(TOPIC, delivery=latest) as packets,
            pytest.raises(FormatError, match=r"pipeline/encode/out carries encoded video.*drop_oldest\(n\)"),
        ):
            next(packets)
        done.touch()
        assert session.wait(20).dropped == {}
    assert read(folder / "decoded")["flaws"] == []


def test_a_script_that_encodes_is_asked_too(folder: Path) -> None:
    """Its publisher says whether a key is wanted, until one has been sent."""
    with Daemon("bus"), rmbus.connect() as bus, bus.publish("video") as video:
        for key in (True, False):
            video.send(Packet(b"bytes", "h264", key=key))
        wanted = [video.key_wanted]
        with bus.subscribe("video", delivery=drop_oldest(2)) as packets:
            while not video.key_wanted:
                time.sleep(0.002)
            video.send(Packet(b"bytes", "h264", key=False))
            wanted.append(video.key_wanted)
            video.send(Packet(b"bytes", "h264", key=True, pts=7))
            wanted.append(video.key_wanted)
            assert next(packets).pts == 7
    assert wanted == [False, True, False]
