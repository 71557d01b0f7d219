"""The reactor: one thread that waits for sockets, descriptors, timers and calls from other threads."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import suppress

import pytest
import zmq

from rmbus.transport import reactor as reactors
from rmbus.transport.reactor import Reactor


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Epoll:
    """Stands for the module `select`: an epoll that sees what it is told, and notes for how long it was to wait."""

    EPOLLIN, EPOLLOUT = select.EPOLLIN, select.EPOLLOUT

    def __init__(self) -> None:
        self.waits: list[float | None] = []
        self.sources: dict[int, int] = {}
        self.ready: list[tuple[int, int]] = []
        self.closed = False

    def epoll(self) -> Epoll:
        return self

    def register(self, source: int, events: int) -> None:
        assert source not in self.sources
        self.sources[source] = events

    def modify(self, source: int, events: int) -> None:
        assert source in self.sources
        self.sources[source] = events

    def unregister(self, source: int) -> None:
        del self.sources[source]

    def poll(self, timeout_s: float | None) -> list[tuple[int, int]]:
        self.waits.append(timeout_s)
        ready, self.ready = self.ready, []
        return ready

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def epoll(monkeypatch: pytest.MonkeyPatch) -> Epoll:
    made = Epoll()
    monkeypatch.setattr(reactors, "select", made)
    return made


@pytest.fixture
def reactor() -> Generator[Reactor]:
    made = Reactor()
    yield made
    made.close()


@pytest.fixture
def pipe() -> Generator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:  # the test has closed it
            continue


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(reactors, "time", made)
    return made


def _rounds(reactor: Reactor, count: int) -> None:
    for _ in range(count):
        reactor.serve_once(wait=False)


def test_a_descriptor_calls_as_long_as_it_is_readable(reactor: Reactor, pipe: tuple[int, int]) -> None:
    """What a callback leaves unread calls it again: an event is never missed."""
    reader, writer = pipe
    heard: list[bytes] = []
    reactor.add(reader, lambda: heard.append(os.read(reader, 1)))
    _rounds(reactor, 1)
    os.write(writer, b"abc")
    _rounds(reactor, 5)
    assert heard == [b"a", b"b", b"c"]


def test_a_socket_calls_as_long_as_it_is_readable(reactor: Reactor) -> None:
    """ZeroMQ's edge-triggered descriptor is not seen: one message a round empties a socket."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        one.bind("inproc://here")
        other.connect("inproc://here")
        heard: list[bytes] = []
        reactor.add(one, lambda: heard.append(one.recv(zmq.DONTWAIT)))
        for number in range(3):
            other.send(b"%d" % number)
        _rounds(reactor, 5)
        assert heard == [b"0", b"1", b"2"]
        reactor.remove(one)
    finally:
        context.destroy(linger=0)


def test_the_end_of_a_pipe_calls(reactor: Reactor, pipe: tuple[int, int]) -> None:
    """A writer that is gone makes the reader readable, without a byte."""
    reader, writer = pipe
    heard: list[bytes] = []
    reactor.add(reader, lambda: heard.append(os.read(reader, 1)))
    os.close(writer)
    _rounds(reactor, 1)
    assert heard == [b""]


def test_who_is_removed_in_a_round_is_not_called_in_it(reactor: Reactor) -> None:
    """A callback may take another's source away, and close it, although both are readable already."""
    ends = [os.eventfd(1) for _ in range(2)]
    called: list[int] = []

    def first_come(end: int) -> Callable[[], None]:
        def callback() -> None:
            called.append(end)
            for each in ends:
                reactor.remove(each)

        return callback

    for end in ends:
        reactor.add(end, first_come(end))
    _rounds(reactor, 2)
    assert len(called) == 1
    assert not any(reactor.watches(end) for end in ends)
    for end in ends:
        reactor.remove(end)  # harmless
        os.close(end)


def test_a_source_has_one_callback(reactor: Reactor, pipe: tuple[int, int]) -> None:
    """Who adds a source again gives it another callback."""
    reader, writer = pipe
    called: list[str] = []
    reactor.add(reader, lambda: called.append("old"))
    reactor.add(reader, lambda: called.append("new"))
    assert reactor.watches(reader)
    os.write(writer, b"x")
    _rounds(reactor, 1)
    assert called == ["new"]


def test_who_is_removed_does_not_wake_it(epoll: Epoll) -> None:
    """A source that nobody watches, and that stays readable, must not turn each wait into a busy one."""
    reactor = Reactor()
    own = set(epoll.sources)
    reactor.add(0, lambda: None)
    assert set(epoll.sources) == {0, *own}
    reactor.remove(0)
    reactor.remove(0)
    assert set(epoll.sources) == own
    reactor.close()
    assert not epoll.sources
    assert epoll.closed


def test_calls_of_other_threads_wake_it_and_keep_their_order(reactor: Reactor) -> None:
    """`call_soon` ends a wait without a limit; calls run in the reactor's thread, in their order."""
    order: list[int] = []
    threads: set[int] = set()

    def call(number: int) -> None:
        order.append(number)
        threads.add(threading.get_ident())

    def talk() -> None:
        for number in range(100):
            reactor.call_soon(lambda number=number: call(number))  # type: ignore[misc]  # bound at once
        reactor.call_soon(reactor.stop)

    talker = threading.Thread(target=talk)
    talker.start()
    reactor.run()
    talker.join()
    assert order == list(range(100))
    assert threads == {threading.get_ident()}


def test_a_call_may_make_a_call(reactor: Reactor) -> None:
    """What a call puts off is not forgotten."""
    called: list[str] = []
    reactor.call_soon(lambda: reactor.call_soon(lambda: called.append("second")))
    _rounds(reactor, 2)
    assert called == ["second"]


def test_a_closed_reactor_takes_calls_and_makes_none() -> None:
    """A thread that is late does no harm, and writes into nobody else's descriptor."""
    reactor = Reactor()
    reactor.close()
    end = os.eventfd(0, os.EFD_NONBLOCK)  # it gets the number that has just become free
    try:
        reactor.call_soon(lambda: pytest.fail("called after the end"))
        with pytest.raises(BlockingIOError):
            os.eventfd_read(end)
    finally:
        os.close(end)


def test_an_error_of_a_callback_comes_out(reactor: Reactor) -> None:
    """Nothing is swallowed: who runs the reactor gets the error, and may go on."""
    called: list[str] = []

    def fail() -> None:
        raise RuntimeError("of a callback")

    reactor.call_soon(fail)
    with pytest.raises(RuntimeError, match="of a callback"):
        reactor.run()
    reactor.call_soon(lambda: called.append("later"))
    _rounds(reactor, 1)
    assert called == ["later"]


def test_timers_run_in_the_order_of_their_times(reactor: Reactor, clock: Clock) -> None:
    """Not before their time, each once, those of one time in the order they were set."""
    called: list[str] = []
    for delay, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (0.0, "now")):
        reactor.call_later(delay, lambda name=name: called.append(name))  # type: ignore[misc]  # bound at once
    _rounds(reactor, 2)
    assert called == ["now"]
    clock.now += 0.999
    _rounds(reactor, 2)
    assert called == ["now"]
    clock.now += 0.002
    _rounds(reactor, 2)
    assert called == ["now", "a", "b"]
    clock.now += 10
    _rounds(reactor, 2)
    assert called == ["now", "a", "b", "c"]


def test_a_cancelled_timer_is_not_called(reactor: Reactor, clock: Clock) -> None:
    """Also one that another timer of the same round takes back."""
    called: list[str] = []
    later = reactor.call_later(1.0, lambda: called.append("taken back"))
    reactor.call_later(0.5, later.cancel)
    early = reactor.call_later(0.1, lambda: called.append("kept"))
    clock.now += 5
    _rounds(reactor, 2)
    early.cancel()  # harmless
    assert called == ["kept"]


def test_a_timer_may_set_a_timer(reactor: Reactor, clock: Clock) -> None:
    """A call that repeats itself runs once in its time, not for ever in one round."""
    called: list[float] = []

    def tick() -> None:
        called.append(clock.now)
        reactor.call_later(1.0, tick)

    reactor.call_later(1.0, tick)
    for _ in range(3):
        clock.now += 1.001
        _rounds(reactor, 2)
    assert len(called) == 3


def test_a_round_says_whether_it_served_anything(reactor: Reactor, pipe: tuple[int, int], clock: Clock) -> None:
    """A descriptor, a call from elsewhere, a timer; not one that is cancelled, and not nothing."""
    reader, writer = pipe
    reactor.add(reader, lambda: os.read(reader, 1))
    assert not reactor.serve_once(wait=False)
    os.write(writer, b"x")
    assert reactor.serve_once(wait=False)
    reactor.call_soon(lambda: None)
    assert reactor.serve_once(wait=False)
    reactor.call_later(1.0, lambda: None)
    reactor.call_later(1.0, lambda: None).cancel()
    assert not reactor.serve_once(wait=False)
    clock.now += 1.001
    assert reactor.serve_once(wait=False)
    reactor.call_later(0.0, lambda: None).cancel()
    assert not reactor.serve_once(wait=False)


def test_how_long_it_waits(epoll: Epoll, clock: Clock) -> None:
    """For ever without timers; else to the next that is not cancelled, and never short of it: that were a busy wait."""
    reactor = Reactor()
    reactor.serve_once(wait=True)
    first = reactor.call_later(0.0101, lambda: None)
    reactor.call_later(3.0, lambda: None)
    reactor.serve_once(wait=True)
    first.cancel()
    reactor.serve_once(wait=True)
    reactor.serve_once(wait=False)
    clock.now += 100
    reactor.serve_once(wait=True)
    reactor.serve_once(wait=True)
    reactor.close()
    without, short, long, at_once, overdue, after = epoll.waits
    assert (without, at_once, overdue, after) == (None, 0, 0, None)
    assert short == pytest.approx(0.0101)
    assert long == pytest.approx(3.0)


# --- writers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Generator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def _fill(end: socket.socket) -> None:
    with suppress(BlockingIOError):
        while True:
            end.send(bytes(10_000))


def test_a_writer_is_called_once_when_there_is_room(
    reactor: Reactor, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Not while the other end does not read; then once, and not again for that there is room still."""
    ours, theirs = ends
    called: list[str] = []
    reactor.add(ours.fileno(), lambda: called.append("reader"))
    _fill(ours)
    reactor.add_writer(ours.fileno(), lambda: called.append("writer"))
    _rounds(reactor, 3)
    assert called == []
    while select.select([theirs], [], [], 0)[0]:
        theirs.recv(10_000)
    _rounds(reactor, 3)
    assert called == ["writer"]


def test_room_is_asked_for_only_while_somebody_waits_for_it(epoll: Epoll) -> None:
    """There is nearly always room: whoever asked for it all the time would never sleep."""
    reactor = Reactor()
    called: list[str] = []
    reactor.add(0, lambda: called.append("reader"))
    reactor.add_writer(0, lambda: called.append("writer"))
    asked = [epoll.sources[0]]
    epoll.ready = [(0, select.EPOLLOUT)]
    reactor.serve_once(wait=True)
    asked.append(epoll.sources[0])
    assert asked == [select.EPOLLIN | select.EPOLLOUT, select.EPOLLIN]
    assert called == ["writer"]
    reactor.close()


def test_a_writer_may_ask_to_be_called_again(reactor: Reactor, ends: tuple[socket.socket, socket.socket]) -> None:
    """What is still not sent waits for the next room."""
    ours, _ = ends
    called: list[int] = []

    def write() -> None:
        called.append(len(called))
        if len(called) < 3:
            reactor.add_writer(ours.fileno(), write)

    reactor.add(ours.fileno(), lambda: None)
    reactor.add_writer(ours.fileno(), write)
    _rounds(reactor, 5)
    assert called == [0, 1, 2]


def test_a_writer_that_is_removed_is_not_called(reactor: Reactor, ends: tuple[socket.socket, socket.socket]) -> None:
    """Not by its own reader's hand in the same round either."""
    ours, theirs = ends
    called: list[str] = []
    reactor.add(ours.fileno(), lambda: called.append("reader"))
    reactor.add_writer(ours.fileno(), lambda: called.append("writer"))
    reactor.remove(ours.fileno())
    reactor.add(ours.fileno(), lambda: called.append("new reader"))
    theirs.send(b"x")
    _rounds(reactor, 2)
    assert set(called) == {"new reader"}


def test_the_end_of_the_other_side_calls_the_reader(
    reactor: Reactor, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Also while a writer waits: a lane that is cut is seen, and not only by the next send."""
    ours, theirs = ends
    called: list[str] = []
    reactor.add(ours.fileno(), lambda: called.append("reader"))
    _fill(ours)
    reactor.add_writer(ours.fileno(), lambda: called.append("writer"))
    theirs.close()
    _rounds(reactor, 1)
    assert "reader" in called


# --- what is closed and opened again ----------------------------------------------------------------------------------


def test_a_number_that_is_given_again_does_not_hear_of_its_predecessor(reactor: Reactor) -> None:
    """A descriptor that is opened in a round, under a number that was closed in it, has no event of its own yet."""
    ends = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(2)]
    fresh: list[int] = []
    heard: list[int] = []

    def close_both_and_open_another(_: int) -> None:
        for end in ends:
            reactor.remove(end)
            os.close(end)
        for _ in ends:
            fresh.append(os.eventfd(0, os.EFD_NONBLOCK))
            reactor.add(fresh[-1], lambda end=fresh[-1]: heard.append(end))  # type: ignore[misc]  # bound at once

    for end in ends:
        reactor.add(end, lambda end=end: close_both_and_open_another(end))  # type: ignore[misc]  # bound at once
    _rounds(reactor, 3)
    assert set(fresh) == set(ends)
    assert heard == []
    for end in fresh:
        reactor.remove(end)
        os.close(end)


def test_what_a_socket_got_while_nobody_looked_is_not_missed(reactor: Reactor) -> None:
    """ZeroMQ tells of a change once; whoever receives by himself in between has not made the reactor deaf."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        one.bind("inproc://here")
        other.connect("inproc://here")
        heard: list[bytes] = []
        reactor.add(one, lambda: heard.append(one.recv(zmq.DONTWAIT)))
        other.send(b"0")
        other.send(b"1")
        assert one.recv() == b"0"  # which takes the notice with it
        _rounds(reactor, 2)
        other.send(b"2")
        _rounds(reactor, 2)
        assert heard == [b"1", b"2"]
        reactor.remove(one)
    finally:
        context.destroy(linger=0)
