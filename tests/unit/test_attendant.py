"""The thread that sends what waits while a node's own code runs."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from rmbus.runtime.attendant import PATIENCE_S, Attendant

LONG_S = 10.0


class Outputs:
    """What is attended to: a number of frames that wait, of which one goes at each look."""

    def __init__(self) -> None:
        self.waiting = 0
        self.done = 0
        self.looked = threading.Semaphore(0)
        self.owner_was_away: list[bool] = []
        self.is_away = True
        self.failure: BaseException | None = None
        self.failed = threading.Event()
        self.attendant = Attendant(self.attend, lambda: self.done, self.broke)

    def attend(self) -> bool:
        self.owner_was_away.append(self.is_away)
        self.looked.release()
        if self.failure is not None:
            raise self.failure
        self.waiting -= 1
        return self.waiting > 0

    def broke(self, error: BaseException) -> None:
        assert error is self.failure
        self.failed.set()


@pytest.fixture
def outputs() -> Generator[Outputs]:
    made = Outputs()
    made.attendant.start()
    yield made
    made.attendant.end()


def test_it_looks_until_nothing_waits(outputs: Outputs) -> None:
    """And again when something waits again."""
    for count in (3, 2):
        with outputs.attendant.lock:
            outputs.waiting = count
            outputs.attendant.need()
        for _ in range(count):
            assert outputs.looked.acquire(timeout=LONG_S)
        with outputs.attendant.lock:
            assert not outputs.attendant.is_needed
        assert not outputs.looked.acquire(timeout=4 * PATIENCE_S)


def test_it_waits_until_the_owner_of_the_lock_is_in_the_users_code(outputs: Outputs) -> None:
    """Never are both at work."""
    with outputs.attendant.lock:
        outputs.is_away = False
        outputs.waiting = 1
        outputs.attendant.need()
        assert not outputs.looked.acquire(timeout=5 * PATIENCE_S)
        outputs.is_away = True
    assert outputs.looked.acquire(timeout=LONG_S)
    assert outputs.owner_was_away == [True]


def test_it_leaves_alone_what_gets_on_by_itself() -> None:
    """A source that yields one frame after the other sends them itself."""
    looks: list[int] = []
    steps = iter(range(5))
    stood_still = threading.Event()

    def progress() -> int:
        step = next(steps, None)
        if step is None:
            stood_still.set()
            return 5
        return step

    def look() -> bool:
        looks.append(1)
        return False

    attendant = Attendant(look, progress, lambda error: None)
    attendant.start()
    attendant.need()
    assert stood_still.wait(LONG_S)
    attendant.end()
    assert len(looks) <= 1  # and none before


def test_what_goes_wrong_is_told(outputs: Outputs) -> None:
    """The data thread raises it."""
    outputs.failure = ValueError("a lane is broken")
    outputs.attendant.need()
    assert outputs.failed.wait(LONG_S)


def test_its_thread_ends_with_it() -> None:
    """And one that has never begun is ended without harm."""
    before = threading.active_count()
    attendant = Outputs().attendant
    attendant.end()
    attendant = Outputs().attendant
    attendant.start()
    assert threading.active_count() == before + 1
    attendant.end()
    assert threading.active_count() == before
