"""How code is stopped that nobody waits for any more: real signals, in this process's main thread."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from rmbus.runtime.interrupts import CANCEL, LIMIT, Interrupted, Interrupts

KEY = ("calls1", 7)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    before = {number: signal.getsignal(number) for number in (CANCEL, LIMIT)}
    yield Interrupts()
    assert not signal.getitimer(signal.ITIMER_REAL)[1]  # a limit comes again and again; the test's own, once
    for number, handler in before.items():
        signal.signal(number, handler)


def endless() -> None:
    while True:
        time.sleep(0.001)


def test_what_runs_is_stopped_by_its_key(interrupts: Interrupts) -> None:
    """By another thread; a key that does not run stops nothing."""
    outcome: list[bool] = []

    def cancel() -> None:
        while interrupts.running is None:
            time.sleep(0.001)
        outcome.append(interrupts.cancel(("calls1", 8)))
        outcome.append(interrupts.cancel(KEY))

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Interrupted):
        interrupts.run(KEY, 0, endless)
    thread.join()
    assert outcome == [False, True]
    assert not interrupts.was_late
    assert interrupts.running is None


def test_its_time_is_over(interrupts: Interrupts) -> None:
    with pytest.raises(Interrupted):
        interrupts.run(KEY, 0.02, endless)
    assert interrupts.was_late


def test_code_that_goes_on_is_told_again(interrupts: Interrupts) -> None:
    """It may clean up as long as it likes once; what catches everything is stopped all the same, in the end."""
    caught: list[int] = []

    def deaf() -> None:
        while True:
            try:
                endless()
            except BaseException:
                caught.append(1)
                if len(caught) == 2:
                    raise

    with pytest.raises(Interrupted):
        interrupts.run(KEY, 0.02, deaf)
    assert len(caught) == 2


def test_a_signal_that_comes_too_late_stops_nothing(interrupts: Interrupts) -> None:
    """Neither after the call, nor a call that is not meant; and the call's own value comes back."""
    assert interrupts.run(KEY, 0, lambda: 3) == 3
    signal.raise_signal(CANCEL)
    signal.raise_signal(LIMIT)

    def another() -> str:
        signal.raise_signal(CANCEL)  # of one that has ended
        return "whole"

    assert interrupts.run(("calls1", 8), 0, another) == "whole"
    assert not interrupts.cancel(KEY)


def test_as_it_ends(interrupts: Interrupts) -> None:
    """Signals in quick succession at the end of many calls: each is either stopped, or whole, and nothing is left."""
    for number in range(300):
        with contextlib.suppress(Interrupted):
            assert interrupts.run(("calls1", number), 0.0001 + number * 1e-6, lambda: sum(range(3000))) == 4_498_500
        assert interrupts.running is None
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
