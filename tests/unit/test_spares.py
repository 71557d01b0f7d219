"""Spare processes: taken at once, replaced a little later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hosting import FakeReactor

from rmbus.host.endpoints import REFILL_S, Endpoint, Pool


class FakeSpare:
    """A spare process that does nothing; it is its own worker."""

    def __init__(self) -> None:
        self.is_ready = self.is_removed = self.is_killed = False
        self.on_exit: Callable[[str], None] = lambda status: None

    @property
    def worker(self) -> FakeSpare:
        return self

    def kill(self) -> None:
        self.is_killed = True

    def remove(self) -> None:
        self.is_removed = True


class Ground:
    """A pool over a clock that is told the time, and what it has started."""

    def __init__(self, size: int, *, refill: bool = True) -> None:
        self.clock = FakeReactor()
        self.started: list[FakeSpare] = []
        self.problem: OSError | None = None
        self.pool: Any = Pool(self.clock.real, cast("Callable[[], Endpoint]", self._spawn), size, refill=refill)

    def _spawn(self) -> FakeSpare:
        if self.problem is not None:
            raise self.problem
        self.started.append(FakeSpare())
        return self.started[-1]


def test_one_that_is_ready_goes_first_and_is_replaced_later() -> None:
    """Nothing is started while somebody waits for a process that is there; several are replaced at once."""
    ground = Ground(2)
    first, second = ground.started
    second.is_ready = True
    assert ground.pool.take() == (second, True)
    assert ground.pool.take() == (first, False)
    assert len(ground.started) == 2
    ground.clock.passes(REFILL_S)
    assert len(ground.started) == 4
    ground.clock.passes(REFILL_S)
    assert len(ground.started) == 4


def test_without_a_spare_one_is_started_at_once() -> None:
    """So it is for the rest of a burst; the pool is full again afterwards."""
    ground = Ground(1)
    taken = [ground.pool.take()[0] for _ in range(3)]
    assert taken == ground.started
    ground.clock.passes(REFILL_S)
    assert len(ground.started) == 4


@pytest.mark.parametrize("was_ready", [True, False])
def test_one_that_has_ended(was_ready: bool) -> None:
    """It is replaced, unless it could not even start."""
    ground = Ground(1)
    (spare,) = ground.started
    spare.is_ready = was_ready
    spare.on_exit("killed")
    assert spare.is_removed
    ground.clock.passes(REFILL_S)
    assert len(ground.started) == 1 + was_ready


def test_a_machine_that_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    """It is told, and tried again with the next that is taken; the host goes on."""
    ground = Ground(1)
    ground.pool.take()
    ground.problem = OSError(11, "no more processes")
    ground.clock.passes(REFILL_S)
    assert "no more processes" in capsys.readouterr().err
    ground.problem = None
    ground.pool.take()
    ground.clock.passes(REFILL_S)
    assert len(ground.started) == 3


def test_not_refilled_and_closed() -> None:
    """A pool for one run is not filled again, nor one that was closed."""
    ground = Ground(1, refill=False)
    ground.pool.take()
    ground.clock.passes(REFILL_S)
    assert len(ground.started) == 1
    ground = Ground(2)
    ground.pool.take()
    ground.pool.close()
    ground.clock.passes(REFILL_S)
    assert [spare.is_killed for spare in ground.started] == [False, True]
