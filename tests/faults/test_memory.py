"""No kill harms the data plane: survivors see whole pictures and keep their views, and nothing is left over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rounds import CASES, Watchers, campaign, theatre
from stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]  # dozens of processes each

ROUNDS = 12
"""For each who may be killed at a point: two for most points, so that each point has 24 rounds."""


@pytest.fixture(scope="module")
def playing() -> Iterator[tuple[Stage, Watchers]]:
    with theatre() as both:
        yield both


@pytest.mark.parametrize(("victim", "point"), CASES)
def test_no_kill_harms_the_others(playing: tuple[Stage, Watchers], victim: str, point: str) -> None:
    """At whatever point: no torn picture, no view lost, no frame unaccounted for, nothing left in host or survivors."""
    wrong = "".join(campaign(*playing, victim, point, range(ROUNDS)))
    assert not wrong, wrong
