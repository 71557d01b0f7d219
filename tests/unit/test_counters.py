"""Pages of counters: the account of an edge and of a node."""

from __future__ import annotations

import fcntl
import math
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbus.protocol.limits import TICKETS
from rmbus.transport import counters
from rmbus.transport.counters import PAGE_BYTES, REASONS, TICKET_WORDS, Edge, Node, Page, percentile


@contextmanager
def pages(count: int = 1) -> Generator[list[Page]]:
    """Give that many maps of one page, as its producer, its consumer and its host have them."""
    descriptor = counters.create()
    made = [Page(descriptor) for _ in range(count)]
    os.close(descriptor)
    try:
        yield made
    finally:
        for page in made:
            page.close()


def test_a_page_begins_at_zero_and_is_shared() -> None:
    """What one process writes, the others read; the descriptor is not needed any more."""
    with pages(2) as (one, other):
        assert not any(other.words)
        one.words[Edge.PUBLISHED] = 7
        one.words[Edge.BEGAN] = 2**64 - 1
        assert (other.words[Edge.PUBLISHED], other.words[Edge.BEGAN]) == (7, 2**64 - 1)


def test_the_account_survives_its_writers() -> None:
    """A page that a process has closed, as its end does, keeps what was written."""
    with pages(2) as (one, other):
        one.drop("overflow")
        one.close()
        assert other.dropped() == {"overflow": 1}


def test_nobody_changes_the_size_of_a_page() -> None:
    """A peer that shrinks the file would kill the host with SIGBUS: the seals forbid it, and each further seal."""
    descriptor = counters.create()
    try:
        for size in (0, PAGE_BYTES - 1, PAGE_BYTES + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert os.fstat(descriptor).st_size == PAGE_BYTES
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_both_sides_count_what_they_drop() -> None:
    """Producer and consumer have words of their own for each reason; the host reads the sums."""
    with pages(3) as (producer, consumer, host):
        for number, reason in enumerate(REASONS):
            producer.drop(reason, number)
            producer.drop(reason)
            consumer.drop(reason, 100, by_consumer=True)
        assert host.dropped() == {reason: number + 101 for number, reason in enumerate(REASONS)}


def test_what_the_consumer_has_dropped_is_told_apart() -> None:
    """Whoever asks what a consumer has dealt with must not count what never reached it."""
    with pages(2) as (producer, consumer):
        producer.drop("overflow", 5)
        consumer.drop("interrupted", 2, by_consumer=True)
        consumer.drop(REASONS[-1], by_consumer=True)
        assert producer.dropped_by_consumer() == 3


def test_the_pages_are_those_of_the_specification() -> None:
    """The specification gives each word its number, and the reasons their order; others read the pages by that."""
    text = (Path(__file__).parents[2] / "protocol" / "README.md").read_text(encoding="utf-8")
    section = text[text.index("\n## 11. ") : text.index("\n## 12. ")]
    edge, node = section.split("| word of a node's page |")
    for table, words in ((edge, Edge), (node, Node)):
        rows = {row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ")}
        numbers = {int(number) for row in rows for number in re.findall(r"\d+", row)}
        assert {int(word) for word in words} <= numbers
    assert ", ".join(f"`{reason}`" for reason in REASONS) in " ".join(section.split())
    assert f"{PAGE_BYTES} bytes, {PAGE_BYTES // 8} words" in section
    assert f"{TICKET_WORDS} + t" in section


def test_a_reason_that_is_none_is_refused() -> None:
    """A misspelt reason is an error, and counts nowhere."""
    with pages() as (page,):
        with pytest.raises(ValueError, match="not in tuple"):
            page.drop("late!")
        assert not any(page.words)


def test_no_two_words_are_the_same() -> None:
    """Every word of an edge's page, of both sides, of the histogram and of the tickets, is one of its own."""
    with pages() as (page,):
        written = 0
        for word in Edge:
            page.words[word] += 1
            written += 1
        for reason in REASONS:
            page.drop(reason)
            page.drop(reason, by_consumer=True)
            written += 2
        for bucket in range(len(page.histogram())):
            octave, fraction = divmod(bucket, 16)
            page.latency((1 << (octave + 10)) + (fraction << (octave + 6)))
            written += 1
        assert page.histogram() == [1] * len(page.histogram())
        for ticket in range(TICKETS + 1):  # 0 is no ticket, and has no word that matters
            page.words[TICKET_WORDS + ticket] += 1
            written += 1
        assert sum(word == 1 for word in page.words) == written
        assert sum(page.words) == written
    assert len(set(Node)) == len(list(Node))


@given(st.lists(st.integers(2**10, 2**37), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_percentile_is_within_a_thirtieth(nanoseconds: list[int], share: float) -> None:
    """The answer is that of sorted values, within half a bucket."""
    with pages() as (page,):
        for each in nanoseconds:
            page.latency(each)
        answer = percentile(page.histogram(), share)
    true = sorted(nanoseconds)[max(1, math.ceil(share * len(nanoseconds))) - 1] / 1e9
    assert answer == pytest.approx(true, rel=0.032)


@pytest.mark.parametrize("nanoseconds", [-(10**9), -1, 0, 1, 1023])
def test_what_is_too_short_to_tell_counts_in_the_first_bucket(nanoseconds: int) -> None:
    """A frame of the future, by another machine's clock, is counted like one that took no time."""
    with pages() as (page,):
        page.latency(nanoseconds)
        assert page.histogram()[0] == 1


def test_what_is_too_long_counts_in_the_last_bucket() -> None:
    """A capture time of 1970 neither fails nor spoils another word."""
    with pages() as (page,):
        page.latency(2**63)
        page.latency(10**19)
        assert page.histogram()[-1] == 2
        assert sum(page.words) == 2


def test_nothing_counted_has_no_percentile() -> None:
    """Of no frames there is no latency to tell."""
    with pages() as (page,):
        assert percentile(page.histogram(), 0.5) is None


def test_a_closed_page_is_not_written_to() -> None:
    """After `close` a late writer gets an error, not another mapping's memory; nothing stays mapped."""
    with pages() as (page,):
        page.close()
        with pytest.raises(ValueError, match="released"):
            page.drop("late")
        assert "rmbus-counters" not in Path("/proc/self/maps").read_text()


def test_a_descriptor_that_is_no_page_is_refused() -> None:
    """A file that is too short for a page cannot be taken for one: reading it would be the reader's end."""
    descriptor = os.memfd_create("short")
    os.ftruncate(descriptor, PAGE_BYTES // 2)
    try:
        with pytest.raises((ValueError, OSError)):
            Page(descriptor)
    finally:
        os.close(descriptor)
