"""What comes over a connection between two hosts may end that connection, and does nothing else to a host."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest
import zmq
from large import Draw, Look

from rmbus.client import HostClient
from rmbus.embedded import EmbeddedHost
from rmbus.errors import Broken, Closed, HostError
from rmbus.host import meetings
from rmbus.host.hands import MAX_SILENT, SILENT_S
from rmbus.host.peers import MAX_UNSENT
from rmbus.joined import serve_in_thread
from rmbus.node import Node
from rmbus.protocol import frames, lane, messages
from rmbus.protocol.version import VERSIONS
from rmbus.transport import counters
from rmbus.transport.lanes import FastLane, fast_pair
from rmbus.transport.reactor import Reactor
from rmbus.transport.security import Connection
from rmbus.transport.umbilical import Umbilical, close_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # a real host

SESSION = "session-of-the-test"
TOKEN = bytes(range(16))
FUTURE_WRITE = 0x10  # F_SEAL_FUTURE_WRITE

M = TypeVar("M", bound=messages.Message)


class Host:
    """A running host, its client, and one node of the test's in a session there."""

    def __init__(self) -> None:
        self._embedded = EmbeddedHost(spares=0)
        self.connection: Connection = self._embedded.connection
        self._reactor = Reactor()
        self._context: zmq.Context[Any] = zmq.Context()
        self._changed = threading.Condition()
        self.events: list[messages.Message] = []
        self.client = HostClient(self._reactor, self._context, self.connection)
        self.client.on_event = self._event
        self._thread = threading.Thread(target=self._reactor.run)
        self._thread.start()
        self._nodes: list[threading.Thread] = []
        self.client.greet(10)

    def start(self, node: Node, number: int, *, inputs: list[str], outputs: list[str]) -> None:
        """Run a node in a thread of this process."""
        start = messages.Start(
            SESSION,
            number,
            "node",
            "",
            python=sys.version_info[:2],
            implementation=sys.implementation.name,
            inputs=inputs,
            outputs=outputs,
            by_hand=True,
        )
        started = self.client.request(start)
        self._nodes.append(serve_in_thread(node, self.connection, SESSION, number, lambda error: None))
        assert isinstance(started.result(10), messages.Started)

    def link(self, **fields: Any) -> Future[messages.Message]:
        """Link an edge of the session, 0 by default."""
        ends: dict[str, Any] = {"edge": 0, "producer": -1, "consumer": -1}
        given: dict[str, Any] = ends | {"out": "out", "into": "video", "meet": True} | fields
        return self.client.request(messages.Link(SESSION, token=TOKEN, **given))

    def told(self, kind: type[M], count: int = 1) -> M:
        """Wait for the client to be told something; return the last of it."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._of(kind)) >= count, 10), self.events
            return self._of(kind)[-1]

    def lives(self) -> bool:
        """Whether the host still answers."""
        return self.client.ask(messages.Ping(), messages.Ok, timeout_s=5) == messages.Ok()

    def _of(self, kind: type[M]) -> list[M]:
        return [event for event in self.events if isinstance(event, kind)]

    def _event(self, message: messages.Message) -> None:
        with self._changed:
            self.events.append(message)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(HostError):  # no session was begun
            self.client.ask(messages.Stop(SESSION, drain=False), messages.Ok)
        self._embedded.close()
        for thread in self._nodes:
            thread.join(5)
        self._reactor.call_soon(self.client.close)
        self._reactor.call_soon(self._reactor.stop)
        self._thread.join()
        self._reactor.close()
        self._context.destroy(linger=0)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as made:
        yield made


class Visitor:
    """Speaks to a host as another host would, or worse."""

    def __init__(self, connection: Connection, *, token: str | None = None, name: str = "visitor") -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(str(connection.host_socket))
        self.umbilical = Umbilical(self.socket)
        self.say(messages.Meet(connection.token if token is None else token, name, VERSIONS), 1)

    def say(self, message: messages.Message, number: int, *descriptors: int) -> None:
        self.umbilical.send(message, descriptors, number)

    def hear(self, kind: type[M], number: int) -> tuple[M, list[int]]:
        """Return the next message and its descriptors."""
        told, message, descriptors = self.umbilical.receive()
        assert told == number
        assert isinstance(message, kind), message
        return message, descriptors

    def claim(self, number: int, edge: int = 0, token: bytes = TOKEN) -> None:
        self.say(messages.Claim(SESSION, edge, token), number)

    def is_cut_off(self) -> bool:
        """Whether the host closes the connection; what it says before is passed over."""
        while True:
            try:
                close_all(self.umbilical.receive()[2])
            except Closed:
                return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.umbilical.close()


def let_in(host: Host, name: str = "visitor") -> Visitor:
    """Meet a host; return the connection."""
    visitor = Visitor(host.connection, name=name)
    visitor.hear(messages.Ok, 1)
    return visitor


def take(host: Host, visitor: Visitor, number: int = 2) -> FastLane:
    """Let a reader begin at the host, and take its edge; return the producer's end of the lane, which is up."""
    host.start(Look(), 0, inputs=["video"], outputs=[])
    assert host.link(consumer=0).result(10) == messages.Ok()
    visitor.claim(number)
    offer, descriptors = visitor.hear(messages.Offer, number)
    visitor.say(messages.Ok(), number)
    end = socket.socket(fileno=descriptors[offer.lane])
    close_all([descriptors[offer.page]])
    end.settimeout(10)
    for part in lane.encode(lane.Message(lane.Type.MARK, 1, TOKEN)):
        end.send(part)
    assert lane.decode([memoryview(end.recv(1000))]).type == lane.Type.MARK_BACK
    return FastLane(end)


def segment(size: int = 4096, seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | FUTURE_WRITE) -> int:
    """Return a descriptor of memory."""
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def test_the_dialogue(host: Host) -> None:
    """Meet, claim, offer, ok; then memory that is lent and mapped; and the end of either process is told."""
    with let_in(host) as visitor:
        end = take(host, visitor)
        memory = segment()
        visitor.say(messages.Attach(77, 4096, descriptor=0), 2, memory)
        assert visitor.hear(messages.Mapped, 2)[0] == messages.Mapped(77)
        visitor.say(messages.Detach(77), 2)
        visitor.say(messages.Attach(77, 4096, descriptor=0), 2, memory)
        assert visitor.hear(messages.Mapped, 2)[0] == messages.Mapped(77)
        os.close(memory)
        host.client.ask(messages.Go(SESSION), messages.Ok)
        visitor.say(messages.Gone(0, "producer_died"), 2)
        assert host.told(messages.NodeEvent, 2).state == "ended"
        assert visitor.umbilical.fileno() >= 0
        end.close()
    assert host.lives()
    assert not [event for event in host.events if isinstance(event, messages.PeerLost)]


@pytest.mark.parametrize(
    ("attach", "make"),
    [
        (messages.Attach(5, 4096), lambda: segment(seals=0)),
        (messages.Attach(5, 4096), lambda: segment(seals=fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)),
        (messages.Attach(5, 8192), segment),
        (messages.Attach(5, 4096), lambda: os.open("/dev/zero", os.O_RDWR)),
        (messages.Attach(5, 4096), lambda: os.open("/", os.O_RDONLY)),
        (messages.Attach(0, 4096), segment),
    ],
    ids=["not sealed", "writable", "of another size", "a device", "a folder", "number 0"],
)
def test_memory_that_is_none(host: Host, attach: messages.Attach, make: Callable[[], int]) -> None:
    """What somebody could still change the size or the content of is handed to nobody; the edge goes on without."""
    with let_in(host) as visitor:
        end = take(host, visitor)
        descriptor = make()
        visitor.say(attach, 2, descriptor)
        os.close(descriptor)
        assert "memory that nobody can change" in visitor.hear(messages.Mapped, 2)[0].problem
        host.client.ask(messages.Go(SESSION), messages.Ok)
        eos = frames.join_frames([frames.encode_frame(frames.Header(frames.Kind.EOS, 0))])
        end.send(lane.Message(lane.Type.FRAMES, 1, eos))
        assert host.told(messages.NodeEvent, 2).state == "ended"
        end.close()
    assert host.lives()


def test_a_number_that_is_taken(host: Host) -> None:
    """Two segments of one number are not taken for one another."""
    with let_in(host) as visitor:
        end = take(host, visitor)
        one, other = segment(), segment()
        visitor.say(messages.Attach(9, 4096), 2, one)
        assert visitor.hear(messages.Mapped, 2)[0].problem == ""
        visitor.say(messages.Attach(9, 4096), 2, one)
        assert visitor.hear(messages.Mapped, 2)[0].problem == ""
        visitor.say(messages.Attach(9, 4096), 2, other)
        assert "another segment" in visitor.hear(messages.Mapped, 2)[0].problem
        close_all([one, other])
        end.close()


ODD: dict[str, Callable[[Visitor], None]] = {
    "bytes that are no message": lambda visitor: visitor.socket.sendall(b"\x93\xa4ping\x02"),
    "an unknown message": lambda visitor: visitor.socket.sendall(b"\x93\xa4what\x02\x80"),
    "memory without its descriptor": lambda visitor: visitor.say(messages.Attach(5, 4096), 2),
    "a descriptor that is nowhere": lambda visitor: visitor.say(messages.Attach(5, 4096, descriptor=-7), 2),
    "a wish for memory": lambda visitor: visitor.say(messages.Grow("out", 4, 4096), 2),
    "a word of a node's": lambda visitor: visitor.say(messages.NodeEvent(SESSION, 0, "ended"), 2),
    "an offer": lambda visitor: visitor.say(messages.Offer(0, 1), 2),
    "another ok": lambda visitor: visitor.say(messages.Ok(), 2),
    "a meeting again": lambda visitor: visitor.say(messages.Meet("", "again", VERSIONS), 1),
    "nothing": lambda visitor: visitor.umbilical.close(),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_breaks_a_connection(host: Host, odd: Callable[[Visitor], None]) -> None:
    """The connection is closed, the session is told which of its edges were lost, and the host goes on."""
    with let_in(host, "odd one") as visitor:
        end = take(host, visitor)
        host.client.ask(messages.Go(SESSION), messages.Ok)
        odd(visitor)
        assert host.told(messages.PeerLost) == messages.PeerLost(SESSION, "the host odd one", [0])
        assert host.told(messages.NodeEvent, 2).state == "ended"  # its input has ended, and it was told
        end.close()
        if visitor.umbilical.fileno() >= 0:
            assert visitor.is_cut_off()
    assert host.lives()
    with let_in(host):
        pass


def test_claims_that_are_refused(host: Host) -> None:
    """Without the edge's token, of what is not here or taken already: refused, and nothing is offered."""
    with let_in(host) as visitor:
        visitor.claim(2)
        assert "no edge 0 of session" in visitor.hear(messages.Refused, 2)[0].message
        take(host, visitor, 3).close()
        visitor.claim(4, token=bytes(16))
        assert "not with this token" in visitor.hear(messages.Refused, 4)[0].message
        visitor.claim(5)
        assert "is taken" in visitor.hear(messages.Refused, 5)[0].message
        visitor.claim(6, edge=1)
        assert "no edge 1 of session" in visitor.hear(messages.Refused, 6)[0].message
    assert host.lives()


def test_an_edge_that_nobody_takes_can_be_linked_anew(host: Host) -> None:
    """While the offer was not taken the edge waits, also for another host, and can be linked in another way."""
    host.start(Look(), 0, inputs=["video"], outputs=[])
    assert host.link(consumer=0).result(10) == messages.Ok()
    with let_in(host, "first") as first, let_in(host, "second") as second:
        first.claim(2)
        close_all(first.hear(messages.Offer, 2)[1])
        second.claim(2)
        assert "is taken" in second.hear(messages.Refused, 2)[0].message
        first.say(messages.Refused("HostError", "no"), 2)
        first.claim(3)  # and so it was heard
        close_all(first.hear(messages.Offer, 3)[1])
        assert host.link(consumer=0).result(10) == messages.Ok()
        assert first.hear(messages.Gone, 3)[0].edge == 0
        first.say(messages.Ok(), 3)  # which has crossed that, and means nothing any more
        second.claim(3)
        close_all(second.hear(messages.Offer, 3)[1])
        second.say(messages.Ok(), 3)
        first.claim(4)
        assert "is taken" in first.hear(messages.Refused, 4)[0].message
    assert host.told(messages.PeerLost).peer == "the host second"
    with pytest.raises(HostError, match="has an edge 0 already"):
        raise_refusal(host.link(consumer=0))


def raise_refusal(future: Future[messages.Message]) -> None:
    future.result(10)


def test_who_may_come(host: Host) -> None:
    """Without the token nobody; and no more than so many."""
    with Visitor(host.connection, token="00" * 16) as stranger:
        assert "token" in stranger.hear(messages.Refused, 1)[0].message
        assert stranger.is_cut_off()
    with contextlib.ExitStack() as stack:
        for _ in range(meetings.MAX_PEERS):
            stack.enter_context(let_in(host))
        with Visitor(host.connection) as late:
            assert "have come here already" in late.hear(messages.Refused, 1)[0].message
    assert host.lives()


def claim_many(visitor: Visitor, last: int) -> None:
    for number in range(2, last):
        visitor.claim(number)


def test_who_reads_late_hears_everything(host: Host) -> None:
    """More than the socket holds waits in the host."""
    with let_in(host) as visitor:
        claim_many(visitor, 1000)
        assert host.lives()
        for number in range(2, 1000):
            visitor.hear(messages.Refused, number)


def test_who_does_not_read_is_cut_off(host: Host) -> None:
    """So much waits for it, and no more."""
    with let_in(host) as visitor:
        with pytest.raises(Broken):
            claim_many(visitor, 3 * MAX_UNSENT)
        assert visitor.is_cut_off()
    assert host.lives()


def test_callers_that_say_nothing(host: Host) -> None:
    """So many wait to be heard, and whoever comes then is turned away."""
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) for _ in range(MAX_SILENT)]
        for caller in callers:
            caller.connect(str(host.connection.host_socket))  # it waits where so many have come at once
        assert host.lives()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as late:
            late.connect(str(host.connection.host_socket))
            late.settimeout(SILENT_S / 2)
            assert late.recv(1) == b""
        callers[0].settimeout(10)
        assert callers[0].recv(1) == b""  # it had its time
    with let_in(host):
        pass


# --- a consumer's host that is none ----------------------------------------------------------------------------------


class Den:
    """Listens as another host's `host.sock`."""

    def __init__(self, mode: int = 0o700, name: str = "host.sock") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rmbus-test-", dir="/tmp"))
        self.folder.chmod(mode)
        self.path = self.folder / name
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._listener.settimeout(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.path.unlink()
        self.folder.rmdir()

    def accept(self) -> Umbilical:
        """Let a host in, as far as its claim."""
        end, _ = self._listener.accept()
        end.settimeout(10)
        umbilical = Umbilical(end)
        number, message, _ = umbilical.receive()
        assert (number, message) == (1, messages.Meet("5ec4e7", "local", VERSIONS))
        umbilical.send(messages.Ok({"host": "den"}), number=1)
        number, message, _ = umbilical.receive()
        assert (number, message) == (2, messages.Claim(SESSION, 0, TOKEN))
        return umbilical


def offered(*descriptors: int) -> tuple[messages.Message, list[int]]:
    return messages.Offer(0, 1), list(descriptors)


def odd_offers() -> dict[str, Callable[[], tuple[messages.Message, list[int]]]]:
    def lane_end() -> int:
        one, other = fast_pair()
        one.close()
        return other.detach()

    def stream_end() -> int:
        one, other = socket.socketpair()
        one.close()
        return other.detach()

    return {
        "nothing with it": lambda: offered(),
        "no lane": lambda: offered(counters.create()),
        "a page that is none": lambda: offered(os.open("/dev/null", os.O_RDWR), lane_end()),
        "a page that can be cut": lambda: offered(segment(counters.PAGE_BYTES, 0), lane_end()),
        "a lane that is none": lambda: offered(counters.create(), os.open("/dev/null", os.O_RDWR)),
        "a lane of another kind": lambda: offered(counters.create(), stream_end()),
        "a refusal": lambda: (messages.Refused("HostError", "no such edge"), []),
        "its end": lambda: (messages.Gone(0, "consumer_ended"), []),
        "an answer to nothing": lambda: (messages.Mapped(5), []),
        "a claim of its own": lambda: (messages.Claim(SESSION, 0, TOKEN), []),
    }


@pytest.mark.parametrize("answer", odd_offers().values(), ids=odd_offers())
def test_offers_that_are_none(host: Host, answer: Callable[[], tuple[messages.Message, list[int]]]) -> None:
    """The client's link is refused, so that it can go another way; and the host goes on."""
    host.start(Draw(3), 0, inputs=[], outputs=["out"])
    with Den() as den:
        linked = host.link(producer=0, peer=str(den.path), secret="5ec4e7")
        umbilical = den.accept()
        message, descriptors = answer()
        umbilical.send(message, descriptors, 2)
        close_all(descriptors)
        with pytest.raises(HostError):
            raise_refusal(linked)
        umbilical.close()
    assert host.lives()


def test_a_host_that_ends_before_it_answers(host: Host) -> None:
    """The client's link is refused at once."""
    host.start(Draw(3), 0, inputs=[], outputs=["out"])
    with Den() as den:
        linked = host.link(producer=0, peer=str(den.path), secret="5ec4e7")
        den.accept().close()
        with pytest.raises(HostError, match="it has ended"):
            raise_refusal(linked)


def test_an_offer_that_comes_too_late(host: Host) -> None:
    """It is refused, and the edge stays where it is."""
    host.start(Draw(3), 0, inputs=[], outputs=["out"])
    with Den() as den:
        linked = host.link(producer=0, peer=str(den.path), secret="5ec4e7")
        umbilical = den.accept()
        with pytest.raises(HostError, match="not answered within 2 s"):
            raise_refusal(linked)
        one, other = fast_pair()
        page = counters.create()
        umbilical.send(messages.Offer(0, 1), [page, other.fileno()], 2)
        number, message, _ = umbilical.receive()
        assert (number, type(message)) == (2, messages.Refused)
        umbilical.send(messages.Refused("HostError", "also too late"), number=2)
        with pytest.raises(HostError, match="has no node 9"):
            raise_refusal(host.link(producer=9, peer=str(den.path), secret="5ec4e7"))
        again = host.link(producer=0, peer=str(den.path), secret="5ec4e7")
        assert umbilical.receive()[0] == 3  # the connection is the same
        umbilical.send(messages.Refused("HostError", "no"), number=3)
        with pytest.raises(HostError, match="no"):
            raise_refusal(again)
        close_all([page, one.detach(), other.detach()])
        umbilical.close()


@pytest.mark.parametrize(
    ("mode", "name", "why"),
    [(0o755, "host.sock", "not this user's alone"), (0o700, "in.sock", "is no path of a host.sock")],
)
def test_a_host_goes_to_no_other_socket(host: Host, mode: int, name: str, why: str) -> None:
    """A client cannot have it connect to whatever there is."""
    host.start(Draw(3), 0, inputs=[], outputs=["out"])
    with Den(mode, name) as den, pytest.raises(HostError, match=why):
        raise_refusal(host.link(producer=0, peer=str(den.path), secret="5ec4e7"))
    with pytest.raises(HostError, match=r"is no path of a host\.sock"):
        raise_refusal(host.link(producer=0, peer="/tmp/" + "x" * 120 + "/host.sock", secret="5ec4e7"))
