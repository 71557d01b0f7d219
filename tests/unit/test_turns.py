"""New turns: each is passed on once, by however many ways it comes."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from inmemory import make_page

from rmbus.protocol.frames import Header, Kind
from rmbus.runtime.links import Arrival, InputLink
from rmbus.runtime.turns import KEPT, Turns
from rmbus.transport.counters import Edge


@pytest.fixture
def ways() -> Generator[tuple[InputLink, InputLink]]:
    pages = make_page(), make_page()
    yield InputLink(1, "left", pages[0], {}, credit=2), InputLink(2, "right", pages[1], {}, credit=2)
    for page in pages:
        page.close()


def interrupt(link: InputLink, extra: object) -> Arrival:
    return Arrival(link, Header(Kind.INTERRUPT, 0, 1, extra=extra), 1, None)


def test_a_turn_that_comes_by_two_ways_is_new_once(ways: tuple[InputLink, InputLink]) -> None:
    """The second way brings nothing new."""
    turns = Turns()
    numbers = [turns.number_of(interrupt(link, 77)) for link in ways]
    assert numbers == [77, 77]
    assert [turns.is_new(number, ways) for number in numbers] == [True, False]


def test_a_turn_of_the_nodes_own_is_known_when_it_comes_back(ways: tuple[InputLink, InputLink]) -> None:
    """In a ring it would go round for ever."""
    turns = Turns()
    assert not turns.is_new(turns.begin(), ways)


@pytest.mark.parametrize("extra", [None, "one", True, 1.5])
def test_a_turn_without_a_number_is_always_new(ways: tuple[InputLink, InputLink], extra: object) -> None:
    """A producer need not number its turns."""
    turns = Turns()
    assert all(turns.is_new(turns.number_of(interrupt(link, extra)), ways) for link in ways)


def test_an_input_lags_where_it_has_delivered_in_between(ways: tuple[InputLink, InputLink]) -> None:
    """What it has delivered after the first way had brought the turn was of an older one."""
    turns, (left, right) = Turns(), ways
    right.page.words[Edge.DELIVERED] = 3
    assert turns.is_new(77, ways)
    assert not turns.lags(77, right)
    right.page.words[Edge.DELIVERED] = 4
    assert turns.lags(77, right)
    assert not turns.lags(77, left)


def test_turns_are_forgotten_when_many_have_followed(ways: tuple[InputLink, InputLink]) -> None:
    """A node that is interrupted for ever does not grow."""
    turns = Turns()
    assert [turns.is_new(number, ways) for number in range(KEPT + 1)] == [True] * (KEPT + 1)
    assert not turns.is_new(KEPT, ways)
    assert turns.is_new(0, ways)
