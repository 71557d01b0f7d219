"""Two hosts of one user on one machine meet: an edge between them is as one within a host; else gateways join it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from large import Draw, Invert, Keep, Look, Pass
from watch import ended, family

from rmbus import Pipeline, Report, Session
from rmbus.cli.daemon import Daemon
from rmbus.errors import HostError, RmbusError
from rmbus.protocol import messages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # real processes on two hosts

BYTES = 1920 * 1080 * 3
WITHIN_S = 2.0
FAST = "fast, shared memory"


@pytest.fixture
def run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The place of all run folders; nothing may be left there."""
    folder = Path(tempfile.mkdtemp(prefix="rmbus-test-", dir="/tmp"))  # the path of a socket must be short
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield folder
    left = [str(path) for path in folder.rglob("*")]
    shutil.rmtree(folder)
    assert not left, f"files of the run are left: {left}"


@pytest.fixture
def other(run_folder: Path) -> Iterator[Daemon]:
    """Another host."""
    with Daemon("other") as daemon:
        yield daemon


def host_socket(run_folder: Path, daemon: Daemon) -> Path:
    """Return where others meet a host."""
    for file in run_folder.rglob("connection.json"):
        if json.loads(file.read_text())["address"] == daemon.address:
            return file.with_name("host.sock")
    raise AssertionError("the host has no connection file")


def run(pipeline: Pipeline, **options: Any) -> tuple[Report, list[str]]:
    """Run a pipeline; return its report, and what its nodes printed."""
    lines: list[str] = []
    session = Session(pipeline, on_log=lambda _node, _host, said, _more: lines.extend(said), **options)
    with session:
        report = session.wait(30)
    for edge in report.edges:
        assert (edge.in_flight, edge.dropped) == (0, {}), edge
        assert edge.published == edge.delivered
    return report, lines


def lanes(report: Report) -> list[str]:
    return [edge.lane for edge in report.edges]


def copied(report: Report) -> list[float]:
    """Return how many pictures each node has copied."""
    return [node.copied_bytes / BYTES for node in report.nodes]


def test_pictures_go_to_another_host_and_back_by_reference(other: Daemon) -> None:
    """What the jailed node sends on lies in the first node's memory all the way; each picture was copied once."""
    report, lines = run(Draw(30, 1920, 1080) >> Pass().options(on=other.address) >> Look())
    assert lines == ["30 as they had to be"]
    assert lanes(report) == [FAST, FAST]
    assert [edge.shared for edge in report.edges] == [30, 30]
    assert [edge.bytes for edge in report.edges] == [30 * BYTES] * 2
    assert copied(report) == [30, 0, 0]
    assert report.node("pass").host == "other"
    assert [edge.latency_p50_s is not None for edge in report.edges] == [True, True]


def test_each_host_lends_memory_of_its_own(other: Daemon) -> None:
    """What the node there makes anew lies in its own memory, and is read here."""
    report, lines = run(Draw(30, 1920, 1080) >> Invert().options(on=other.address) >> Look(inverted=True))
    assert lines == ["30 as they had to be"]
    assert lanes(report) == [FAST, FAST]
    assert copied(report) == [30, 30, 0]


def test_one_output_feeds_nodes_on_three_hosts(other: Daemon) -> None:
    """Each reader of an output has the same memory, wherever it is, two on one host among them; and so do their own."""
    with Daemon("third") as third:
        draw, middle = Draw(20, 1920, 1080), Pass().options(on=other.address)
        looks = [Look().options(on=place, name=f"look{n}") for n, place in enumerate([other.address] * 2 + ["local"])]
        pipeline = (draw >> middle >> Look().options(on=third.address, name="last")) | (draw >> looks[0])
        pipeline = pipeline | (draw >> looks[1]) | (draw >> looks[2])
        report, lines = run(pipeline)
    assert lines == ["20 as they had to be"] * 4
    assert set(lanes(report)) == {FAST}
    assert report.node("pass").copied_bytes == 0
    assert report.node("draw").copied_bytes == 20 * BYTES


def test_a_source_may_end_before_its_pictures_are_sent_on(other: Daemon) -> None:
    """Its memory stays as long as a process that lends it on, though that is at another host."""
    report, lines = run(Draw(12) >> Keep().options(on=other.address) >> Look(every_s=0.1))
    assert lines == ["12 as they had to be"]
    assert report.node("keep").copied_bytes == 0
    assert [edge.shared for edge in report.edges] == [12, 12]


@pytest.mark.parametrize(
    ("options", "lane", "shared"),
    [
        ({"fast": False}, "tcp, inline (two hosts: fast=False)", 0),
        ({"shared": False}, "fast, inline (shared=False)", 0),
    ],
)
def test_what_a_session_does_not_want(other: Daemon, options: dict[str, bool], lane: str, shared: int) -> None:
    """Without the fast lane the gateways join the hosts; without shared memory the lane is there all the same."""
    pipeline = Draw(10, 1920, 1080) >> Pass().options(on=other.address) >> Look()
    report, lines = run(pipeline, **options)
    assert lines == ["10 as they had to be"]
    assert lanes(report) == [lane, lane]
    assert [edge.shared for edge in report.edges] == [shared, shared]


# --- hosts that cannot meet ------------------------------------------------------------------------------------------


def nobody(path: Path) -> list[socket.socket]:
    """Leave a socket that nobody listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
        end.bind(str(path))
    return []


def nothing(path: Path) -> list[socket.socket]:
    """Leave nothing there."""
    return []


def another_kind(path: Path) -> list[socket.socket]:
    """Listen with another type of socket."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.bind(str(path))
    end.listen()
    return [end]


def silence(path: Path) -> list[socket.socket]:
    """Let others in, and say nothing."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.bind(str(path))
    end.listen()
    return [end]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (nobody, "host.sock of the other host cannot be reached: Connection refused"),
        (nothing, "host.sock of the other host cannot be reached: No such file or directory"),
        (another_kind, "host.sock of the other host cannot be reached: Protocol wrong type for socket"),
        (silence, "the other host has not answered within 2 s"),
    ],
)
def test_where_the_other_cannot_be_reached(
    run_folder: Path, other: Daemon, place: Callable[[Path], list[socket.socket]], why: str
) -> None:
    """The gateways carry that edge, and the report says why; the other edge goes to a host that can be reached."""
    path = host_socket(run_folder, other)
    path.unlink()
    with contextlib.ExitStack() as stack:
        for end in place(path):
            stack.enter_context(end)
        report, lines = run(Draw(10, 1920, 1080) >> Pass().options(on=other.address) >> Look())
    assert lines == ["10 as they had to be"]
    assert lanes(report) == [f"tcp, inline (two hosts: {why})", FAST]


def test_who_does_not_know_the_token_is_refused(run_folder: Path, other: Daemon) -> None:
    """That a host can reach the other's socket proves nothing: it shows the token of the connection file."""
    file = host_socket(run_folder, other).with_name("connection.json")
    known = json.loads(file.read_text())
    file.write_text(json.dumps(known | {"token": "00" * 16}))
    report, lines = run(Draw(5, 1920, 1080) >> Pass().options(on=other.address) >> Look())
    assert lines == ["5 as they had to be"]
    assert lanes(report)[0].startswith("tcp, inline (two hosts: the other host: ")
    assert "shows the token of its connection file" in lanes(report)[0]
    assert lanes(report)[1] == FAST


def test_hosts_that_do_not_listen_need_no_gateway(run_folder: Path) -> None:
    """Two hosts for their user and machine alone, neither of which another machine can reach, run one pipeline."""
    with Session(Draw(100_000, every_s=0.05) >> Look()) as first:
        assert first._embedded is not None
        address = first._embedded.connection.address
        assert address.startswith("ipc:")
        report, lines = run(Draw(10, 1920, 1080) >> Pass().options(on=address) >> Look())
        first.kill()
    assert lines == ["10 as they had to be"]
    assert lanes(report) == [FAST, FAST]


# --- several sessions ------------------------------------------------------------------------------------------------


def flowing(session: Session, frames: int = 5) -> None:
    """Wait until so many frames have come through."""
    deadline = time.monotonic() + 20
    while session.report().frames < frames:
        assert time.monotonic() < deadline, "nothing flows"
        with contextlib.suppress(TimeoutError):
            session.wait(0.02)


def test_two_sessions_at_once(other: Daemon) -> None:
    """Each has its own edges and memory over the same hosts; the end of one is nothing to the other."""
    lines: list[str] = []

    def start(n: int, every_s: float) -> Session:
        pipeline = Draw(n, 1920, 1080, every_s) >> Pass().options(on=other.address) >> Look()
        return Session(pipeline, on_log=lambda _node, _host, said, _more: lines.extend(said))

    with start(60, 0.02) as one:
        two = start(100_000, 0.02)
        flowing(one)
        flowing(two)
        killed = two.kill()
        report = one.wait(30)
    assert lines == ["60 as they had to be"]
    assert lanes(report) == lanes(killed) == [FAST, FAST]
    assert [edge.delivered for edge in report.edges] == [60, 60]
    assert all(edge.in_flight == 0 for edge in killed.edges), killed


# --- ends ------------------------------------------------------------------------------------------------------------


def victims(session: Session, daemon: Daemon) -> dict[str, int]:
    """Return the processes of a run by name."""
    assert session._embedded is not None
    nodes = {node.name: node.pid for node in session.report().nodes}
    return nodes | {"other": daemon.pid, "embedded": session._embedded._process.pid}


@pytest.mark.parametrize("victim", ["draw", "pass", "look", "other", "embedded"])
def test_kill_9_of_each_part(run_folder: Path, victim: str) -> None:
    """The run ends within 2 s with an error that names what was lost, and nothing is left."""
    with contextlib.suppress(ProcessLookupError), Daemon("other") as other:
        pipeline = Draw(100_000, 1920, 1080, 0.005) >> Pass().options(on=other.address) >> Look()
        session = Session(pipeline)
        flowing(session)
        pids = victims(session, other)
        mine = family(pids["embedded"])
        os.kill(pids[victim], signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(RmbusError) as caught:
            session.wait(20)
        assert time.monotonic() - began < WITHIN_S
        named = {"other": other.address, "embedded": "local"}.get(victim, victim)
        assert named in str(caught.value)
        report = session.report()
        assert lanes(report) == [FAST, FAST]
        assert all(edge.in_flight == 0 for edge in report.edges), report
        assert all(ended(pid, began + 2 * WITHIN_S) for pid in mine)


def test_what_a_dead_reader_held_is_not_written_again(other: Daemon) -> None:
    """Its neighbour at the other host still sees what it was sent, though the dead one has never given it back."""
    draw, dead = Draw(300, 1920, 1080, 0.005), Look(every_s=0.02).options(on=other.address, name="dead")
    lines: list[str] = []
    pipeline = (draw >> dead) | (draw >> Pass().options(on=other.address) >> Look(every_s=0.01))
    session = Session(pipeline, on_log=lambda _node, _host, said, _more: lines.extend(said))
    flowing(session)
    os.kill(session.report().node("dead").pid, signal.SIGKILL)
    with pytest.raises(RmbusError, match="dead"):
        session.wait(20)
    assert not any("odd" in line for line in lines)


def test_a_connection_that_was_lost_is_told_though_every_node_ends(run_folder: Path) -> None:
    """A reader whose producer's host was lost ends as if that were all; the run must not be taken for whole."""
    session = Session(Draw(3) >> Look())
    (client,) = session._clients.values()
    session._event(client, messages.PeerLost(session.id, "the host other", [0]))
    with pytest.raises(HostError, match=r"connection of local to the host other was lost, which carried draw\.out"):
        session.wait(10)


def test_a_session_that_is_drained(other: Daemon) -> None:
    """What is under way is finished, on both hosts."""
    pipeline = Draw(100_000, 1920, 1080, 0.005) >> Pass().options(on=other.address) >> Look()
    session = Session(pipeline)
    flowing(session)
    report = session.stop(10)
    assert all((edge.in_flight, edge.dropped) == (0, {}) for edge in report.edges), report
    assert lanes(report) == [FAST, FAST]
