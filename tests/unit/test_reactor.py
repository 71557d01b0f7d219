"""The reactor: one thread that waits for sockets, descriptors, timers and calls from other threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator

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


class Poller:
    """Never sees an event, and notes for how long it was to wait."""

    def __init__(self) -> None:
        self.waits: list[int | None] = []
        self.sources: set[object] = set()

    def register(self, source: object, _events: int) -> None:
        self.sources.add(source)

    def unregister(self, source: object) -> None:
        self.sources.remove(source)

    def poll(self, timeout_ms: int | None) -> list[tuple[object, int]]:
        self.waits.append(timeout_ms)
        return []


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


def test_who_is_removed_does_not_wake_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that nobody watches, and that stays readable, must not turn each wait into a busy one."""
    poller = Poller()
    monkeypatch.setattr(zmq, "Poller", lambda: poller)
    reactor = Reactor()
    own = set(poller.sources)
    reactor.add(0, lambda: None)
    assert poller.sources == {0, *own}
    reactor.remove(0)
    reactor.remove(0)
    assert poller.sources == own
    reactor.close()
    assert not poller.sources


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


def test_how_long_it_waits(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """For ever without timers; else to the next that is not cancelled, and never short of it: that were a busy wait."""
    poller = Poller()
    monkeypatch.setattr(zmq, "Poller", lambda: poller)
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
    without, short, long, at_once, overdue, after = poller.waits
    assert (without, at_once, overdue, after) == (None, 0, 0, None)
    assert short is not None
    assert 10.1 <= short <= 12
    assert long is not None
    assert 3000 <= long <= 3002
