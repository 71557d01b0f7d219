"""Events: what a host says, as long as somebody listens, and how whoever listens takes it in."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import zmq

from rmbus.errors import HostError, RmbusError
from rmbus.host.events import Events
from rmbus.host.hosted import HostedSession
from rmbus.media import Data
from rmbus.protocol import messages
from rmbus.protocol.codec import pack
from rmbus.protocol.frames import Header, Kind, encode_frame
from rmbus.protocol.published import EVENTS, encode_published
from rmbus.runtime.events import EventIntake, SessionEvents
from rmbus.transport.reactor import Reactor
from rmbus.transport.security import Connection, KeyGuard, make_pair
from rmbus.transport.sockets import Curve, Socket, open_socket


@pytest.fixture
def folder() -> Generator[Path]:
    made = Path(tempfile.mkdtemp(prefix="rmbus-test-", dir="/tmp"))  # the path of a socket must be short
    yield made
    shutil.rmtree(made)


@pytest.fixture
def context() -> Generator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    made.destroy(linger=0)


class Published:
    """A socket on which a test publishes as a host does, without keys; it waits for whoever listens."""

    def __init__(self, context: zmq.Context[Socket], folder: Path) -> None:
        self.socket = open_socket(context, zmq.XPUB)
        self.socket.bind(f"ipc://{folder}/events.sock")
        self.connection = Connection("ipc://there", "", os.getpid(), local=f"ipc://{folder}/client.sock")

    def wait_for_listener(self) -> None:
        assert self.socket.poll(5000)
        assert self.socket.recv() == b"\1" + EVENTS.encode() + b"\0"

    def say(self, seq: int, session: str = "s") -> None:
        header = Header(Kind.DATA, seq, captured_ns=1)
        self.socket.send(encode_published(EVENTS, encode_frame(header, pack({"session": session, "n": seq}))))


@pytest.fixture
def host(context: zmq.Context[Socket], folder: Path) -> Generator[Published]:
    made = Published(context, folder)
    yield made
    made.socket.close(linger=0)


def test_what_was_missed_is_counted(host: Published) -> None:
    """By the numbers: what was before the first is not missed. They are frames like those of any topic."""
    intake = EventIntake([host.connection])
    host.wait_for_listener()
    for seq in (5, 6, 9, 10, 20):
        host.say(seq)
    got = [intake.take(wait=True) for _ in range(5)]
    assert all(isinstance(frame, Data) and frame.topic == EVENTS and frame.captured_ns == 1 for frame in got)
    assert [frame.value["n"] for frame in got if isinstance(frame, Data)] == [5, 6, 9, 10, 20]
    assert intake.dropped == {"overflow": 11}
    assert intake.take(wait=False) is None
    intake.wake()
    assert intake.take(wait=True) is None
    intake.close()
    intake.close()


def test_a_session_has_its_own_events(host: Published) -> None:
    """Those of others are left out; what had been said when it was over is given."""
    over = False
    events = SessionEvents("mine", EventIntake([host.connection], lambda: over))
    host.wait_for_listener()
    host.say(1, "mine")
    host.say(2, "another's")
    host.say(3, "mine")
    assert [next(events)["n"], next(events)["n"]] == [1, 3]
    host.say(4, "mine")
    over = True
    assert [event["n"] for event in events] == [4]
    assert list(events) == []


async def test_a_session_s_events_can_be_awaited(host: Published) -> None:
    """The same object, in an event loop."""
    over = False
    events = SessionEvents("mine", EventIntake([host.connection], lambda: over))
    host.wait_for_listener()
    host.say(1, "mine")
    host.say(2, "another's")
    assert (await anext(events))["n"] == 1
    over = True
    assert [event async for event in events] == []


def test_no_hosts() -> None:
    """Of a session that is over, there is nothing to tell."""
    assert list(SessionEvents("mine", EventIntake([], lambda: True))) == []


def test_hosts_that_cannot_be_heard(folder: Path) -> None:
    """One on another machine, one that is gone: each is an error."""
    with pytest.raises(HostError, match="is on another machine"):
        EventIntake([Connection("tcp://far:7700", "", 1)])
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(HostError, match="is gone"):
        EventIntake([Connection("ipc://there", "", ended.pid, local=f"ipc://{folder}/client.sock")])


def test_bytes_that_are_no_event(host: Published) -> None:
    """They are an error, and not passed over."""
    intake = EventIntake([host.connection])
    host.wait_for_listener()
    host.socket.send(EVENTS.encode() + b"\0nonsense")
    with pytest.raises(RmbusError):
        intake.take(wait=True)
    intake.close()


# --- the host's side --------------------------------------------------------------------------------------------------


class Host:
    """Events as a host publishes them, with a session that has no nodes."""

    def __init__(self, context: zmq.Context[Socket], folder: Path) -> None:
        self.reactor = Reactor()
        self.told: list[messages.Message] = []
        self.sessions: dict[str, HostedSession] = {}
        public, secret = make_pair()
        client_public, client_secret = make_pair()
        self.guard = KeyGuard(context, frozenset({client_public}))
        self.events = Events(self.reactor, context, "garage", self.sessions)
        self.events.listen(folder / "events.sock", Curve(public, secret))
        self.connection = Connection(
            "ipc://there",
            "",
            os.getpid(),
            local=f"ipc://{folder}/client.sock",
            server=public.decode(),
            public=client_public.decode(),
            secret=client_secret.decode(),
        )
        tell = self.events.overhearing("s", self.told.append)
        wiring: Any = None
        self.sessions["s"] = HostedSession("s", tell, wiring)

    def close(self) -> None:
        self.events.close()
        self.events.close()
        self.guard.close()
        self.reactor.close()


def heard(host: Host, intake: EventIntake) -> dict[str, Any]:
    """Serve the host until whoever listens has an event."""
    while True:
        frame = intake.take(wait=False)
        if isinstance(frame, Data):
            event: dict[str, Any] = frame.value
            return event
        host.reactor.serve_once(wait=False)


def test_only_while_somebody_listens(context: zmq.Context[Socket], folder: Path) -> None:
    """At once for the first, then at every change, with numbers that count what was said alone."""
    host = Host(context, folder)
    session = host.sessions["s"]
    change = messages.NodeEvent("s", 0, "failed", type_name="ValueError", message="too dark")
    session.tell(change)  # nobody listens yet
    assert host.told == [change]
    intake = EventIntake([host.connection])
    account = {"event": "account", "host": "garage", "session": "s", "nodes": [], "edges": []}
    assert heard(host, intake) == account
    session.tell(change)
    told = {"node": 0, "name": "", "state": "failed", "type_name": "ValueError", "message": "too dark"}
    assert heard(host, intake) == {"event": "node", "host": "garage", "session": "s"} | told
    session.tell(messages.Log("s", 0, ["a line"]))  # is for its client
    host.events.ended("s")
    assert heard(host, intake) == {"event": "session", "host": "garage", "session": "s", "state": "ended"}
    assert heard(host, intake) == account  # a second later
    assert intake.dropped == {}
    assert len(host.told) == 3
    intake.close()
    host.close()


def test_many_nodes_in_several_events(context: zmq.Context[Socket], folder: Path) -> None:
    """No event is larger than a message may be, however large the session is."""
    host = Host(context, folder)

    def report() -> dict[str, list[dict[str, Any]]]:
        nodes = [{"node": number, "state": "ready", "in_force": {"a": "b" * 1000}} for number in range(250)]
        return {"nodes": nodes, "edges": []}

    host.sessions["s"].report = report  # type: ignore[method-assign]
    intake = EventIntake([host.connection])
    events = [heard(host, intake) for _ in range(3)]
    assert [len(event["nodes"]) for event in events] == [100, 100, 50]
    assert events[2]["nodes"][-1] == {"node": 249, "state": "ready", "name": ""}
    intake.close()
    host.close()
