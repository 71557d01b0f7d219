"""Shared memory: what keeps it as it is, who gets it back, and that nothing is written again while anybody looks."""

from __future__ import annotations

import fcntl
import gc
import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rmbus.protocol.frames import Place
from rmbus.protocol.limits import TICKETS
from rmbus.transport import counters, memory
from rmbus.transport.counters import TICKET_WORDS, Edge, Page
from rmbus.transport.memory import NEVER, PAGE_BYTES, Bytes, Held, Lease, Ledger, Lending, Mapping, Pool, Slot

NAME = "rmbus-test-segment"
SEAL_FUTURE_WRITE = 0x0010
NUMBER = 1 << 40 | 7
"""What a frame at place 7 of the first epoch is given back by."""


@contextmanager
def segment(size: int = 4 * PAGE_BYTES) -> Generator[int]:
    """Give the descriptor of a segment as a host makes it."""
    descriptor = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(descriptor, 0, size)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def both(size: int = 4 * PAGE_BYTES, number: int = 1) -> tuple[Mapping, Mapping]:
    """Return a segment as its producer and as a consumer has it."""
    with segment(size) as descriptor:
        return Mapping(number, size, descriptor, writable=True), Mapping(number, size, descriptor, writable=False)


@pytest.fixture
def page() -> Page:
    descriptor = counters.create()
    made = Page(descriptor)
    os.close(descriptor)
    return made


def maps() -> int:
    """Count the segments that this process has mapped."""
    gc.collect()
    return sum(NAME in line for line in Path("/proc/self/maps").read_text().splitlines())


def in_thread(call: Callable[[], object]) -> None:
    """Make a call in another thread, and wait for it."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


# --- a segment in a process -------------------------------------------------------------------------------------------


def test_what_its_producer_writes_its_readers_see() -> None:
    """One memory, mapped twice: from the same offset on, and no further."""
    mine, theirs = both()
    slot = Slot(mine, Place(1, PAGE_BYTES, 5), 1, [])
    slot.write(b"hello")
    seen = Held(theirs, slot.place, writable=False).view()
    assert seen.tobytes() == b"hello"
    assert (seen.shape, seen.dtype) == ((5,), np.dtype(np.uint8))
    assert bytes(theirs.view[PAGE_BYTES - 1 : PAGE_BYTES + 6]) == b"\0hello\0"
    assert mine.address != theirs.address


def test_a_payload_has_the_size_of_its_slot() -> None:
    """One that is longer or shorter is refused, and the neighbour is not written to."""
    mine, theirs = both()
    slot = Slot(mine, Place(1, 0, 5), 0, [])
    for payload in (b"hell", b"hello!"):
        with pytest.raises(ValueError, match="memoryview"):
            slot.write(payload)
    assert not any(theirs.view)


def test_nobody_writes_to_what_is_lent_to_him() -> None:
    """Neither by the array nor behind its back: the memory itself is read-only."""
    _, theirs = both()
    seen = Held(theirs, Place(1, 0, 10), writable=False).view()
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        seen.setflags(write=True)
    assert theirs.view.readonly


def test_a_sealed_segment_cannot_be_mapped_for_writing() -> None:
    """After its producer has it, nobody else can; the producer still writes."""
    with segment() as descriptor:
        mine = Mapping(1, PAGE_BYTES, descriptor, writable=True)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
        with pytest.raises(OSError, match="not permitted"):
            Mapping(1, PAGE_BYTES, descriptor, writable=True)
        theirs = Mapping(1, PAGE_BYTES, descriptor, writable=False)
        mine.view[0] = 7
        assert theirs.view[0] == 7


def test_a_segment_is_unmapped_with_its_last_view() -> None:
    """Whatever is made of it keeps it: slices, casts, copies of references. The descriptor does not matter."""
    before = maps()
    mine, theirs = both()
    assert maps() == before + 2
    del mine
    view = Held(theirs, Place(1, 0, 64), writable=False).view()
    picture = view.reshape(8, 8)[::2].view(np.uint16)
    text = view.data[3:5]
    del theirs, view
    assert maps() == before + 1
    del picture
    assert maps() == before + 1
    del text
    assert maps() == before


# --- what a consumer holds --------------------------------------------------------------------------------------------


def lease(ledger: Ledger, mapping: Mapping, ticket: int = 3, number: int = NUMBER) -> Bytes:
    taken = ledger.take(mapping, Place(1, 0, 16), ticket, number)
    assert isinstance(taken, np.ndarray)
    return taken


def test_a_lease_is_given_back_with_the_last_view(page: Page) -> None:
    """By the frame's number, in the word of its ticket, and not before."""
    _, theirs = both()
    ledger = Ledger(page, 4)
    seen = lease(ledger, theirs)
    part = seen[4:8]
    kept: list[object] = [part.data]
    assert ledger.held == {3}
    del seen, part
    assert page.words[TICKET_WORDS + 3] == 0
    kept.clear()
    assert page.words[TICKET_WORDS + 3] == NUMBER
    assert ledger.held == set()
    assert sum(page.words) == NUMBER


def test_any_thread_may_let_go_last(page: Page) -> None:
    """The user's own threads look at frames too."""
    _, theirs = both()
    ledger = Ledger(page, 4)
    kept = [lease(ledger, theirs)]
    in_thread(kept.clear)
    assert page.words[TICKET_WORDS + 3] == NUMBER
    assert ledger.held == set()


def test_what_is_lent_on_to_one_who_died_is_never_written_again(page: Page) -> None:
    """It is given back all the same, so that its producer need not wait; but with a mark."""
    _, theirs = both()
    ledger = Ledger(page, 4)
    seen = lease(ledger, theirs)
    base: object = seen.base
    assert isinstance(base, Lease)
    base.never()
    del seen, base
    assert page.words[TICKET_WORDS + 3] == NUMBER | NEVER


def test_who_holds_too_much_gets_copies(page: Page) -> None:
    """Beyond the quota a frame is copied, counted, and given back at once; below it lies where it was."""
    mine, theirs = both()
    Slot(mine, Place(1, 0, 16), 0, []).write(bytes(range(16)))
    ledger = Ledger(page, 2)
    held = [lease(ledger, theirs, ticket) for ticket in (1, 2)]
    copy = ledger.take(theirs, Place(1, 0, 16), 3, NUMBER)
    assert isinstance(copy, bytes)
    assert copy == bytes(range(16))
    assert page.words[Edge.PINNED] == 1
    assert [page.words[TICKET_WORDS + ticket] for ticket in (1, 2, 3)] == [0, 0, NUMBER]
    held.pop()
    assert lease(ledger, theirs, 4).tobytes() == copy
    assert page.words[Edge.PINNED] == 1


def test_what_is_held_beyond_its_epoch_is_not_given_back_to_another(page: Page) -> None:
    """The tickets are another producer's by then; what is read stays as it is."""
    mine, theirs = both()
    Slot(mine, Place(1, 0, 16), 0, []).write(b"x" * 16)
    ledger = Ledger(page, 4)
    late = lease(ledger, theirs)
    ledger.end()
    after = Ledger(page, 4)
    fresh = lease(after, theirs, 3, 2 << 40 | 1)
    assert late.tobytes() == b"x" * 16
    del late
    assert page.words[TICKET_WORDS + 3] == 0
    del fresh
    assert page.words[TICKET_WORDS + 3] == 2 << 40 | 1


# --- what a producer has lent -----------------------------------------------------------------------------------------


def held(number: int = 0) -> Held:
    mine, _ = both()
    return Held(mine, Place(1, number, 1), writable=True)


def test_each_ticket_is_out_once(page: Page) -> None:
    """As many as there are, from 1 up, all different; then 0: nothing more can be lent."""
    lending, one = Lending(page), held()
    tickets = [lending.lend(one, NUMBER + place) for place in range(TICKETS)]
    assert sorted(tickets) == list(range(1, TICKETS + 1))
    assert (lending.lend(one, 1), lending.lent) == (0, TICKETS)
    page.words[TICKET_WORDS + tickets[5]] = NUMBER + 5
    assert lending.lend(one, NUMBER + TICKETS) == tickets[5]
    assert lending.lend(one, 1) == 0


def test_only_the_right_number_gives_back(page: Page) -> None:
    """Neither what was given back by that ticket before, nor that of another epoch, nor anything a peer makes up."""
    lending, one = Lending(page), held()
    ticket = lending.lend(one, NUMBER)
    for word in (0, NUMBER - 1, NUMBER + 1, 2 << 40 | 7, NEVER, 2**64 - 1):
        page.words[TICKET_WORDS + ticket] = word
        assert lending.reclaim() == []
        assert lending.lent == 1
    page.words[TICKET_WORDS + ticket] = NUMBER
    assert (lending.reclaim(), lending.lent) == ([], 0)
    assert lending.lend(one, NUMBER + 1) == ticket
    assert (lending.reclaim(), lending.lent) == ([], 1)  # the old number is still there


def test_lending_keeps_what_is_lent(page: Page) -> None:
    """A slot is free again when it was given back, and not when its producer has forgotten it."""
    mine, _ = both()
    freed: list[int] = []
    lending = Lending(page)
    ticket = lending.lend(Slot(mine, Place(1, 0, 1), 9, freed), NUMBER)
    assert freed == []
    page.words[TICKET_WORDS + ticket] = NUMBER
    lending.reclaim()
    assert freed == [9]


def test_what_must_not_be_written_again_is_told(page: Page) -> None:
    """A mark of the consumer's, or its death: both give back what its producer then leaves alone."""
    lending, spoilt, fine, lost = Lending(page), held(0), held(1), held(2)
    for one, number in ((spoilt, 1), (fine, 2), (lost, 3)):
        lending.lend(one, number)
    page.words[TICKET_WORDS + 1] = 1 | NEVER
    page.words[TICKET_WORDS + 2] = 2
    assert lending.reclaim() == [spoilt]
    assert lending.reclaim() == []
    assert lending.take_all() == [lost]
    assert (lending.take_all(), lending.lent) == ([], 0)


def test_what_a_dead_consumer_gave_back_is_not_spoilt(page: Page) -> None:
    """Only what it still held may be with somebody else."""
    lending, back, kept = Lending(page), held(0), held(1)
    lending.lend(back, 1)
    lending.lend(kept, 2)
    page.words[TICKET_WORDS + 1] = 1
    assert lending.take_all() == [kept]


# --- the slots of an output -------------------------------------------------------------------------------------------


class Host:
    """Gives memory when it is asked, as a host does, but in the same call; and has a clock that it moves itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.given_back: list[int] = []
        self.reclaims = 0
        self.reason = ""
        self.is_silent = False
        self.now = 100.0
        self.reclaim: Callable[[], object] = lambda: None
        self.readers: dict[int, Mapping] = {}
        self.pool = Pool(self.ask, self.reclaimed, self.given_back.append)
        if monkeypatch is not None:
            monkeypatch.setattr(memory, "time", self)

    def monotonic(self) -> float:
        return self.now

    def reclaimed(self) -> None:
        self.reclaims += 1
        self.reclaim()

    def ask(self, slots: int, slot_bytes: int) -> None:
        self.asked.append((slots, slot_bytes))
        if not self.is_silent:
            self.answer()

    def answer(self) -> None:
        if self.reason:
            self.pool.refused(self.reason)
            return
        slots, slot_bytes = self.asked[-1]
        number = len(self.asked)
        mine, self.readers[number] = both(slots * slot_bytes, number)
        self.pool.grown(mine, slots, slot_bytes)
        self.pool.usable(number)

    def slots(self, count: int, size: int = 100) -> list[Slot]:
        taken = [self.pool.acquire(size) for _ in range(count)]
        assert all(slot is not None for slot in taken)
        return [slot for slot in taken if slot is not None]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_memory_is_asked_for_when_there_is_none(host: Host) -> None:
    """In whole pages; few slots where they are large, more where they are small."""
    (small,) = host.slots(1, 100)
    (large,) = host.slots(1, (1 << 20) + 1)
    assert host.asked == [(8, PAGE_BYTES), (4, (1 << 20) + PAGE_BYTES)]
    assert (small.place, large.place) == (Place(1, 0, 100), Place(2, 0, (1 << 20) + 1))
    assert small.view().nbytes == 100


def test_the_lowest_slot_is_taken_first(host: Host) -> None:
    """What was used last is still in the cache, and what is never used costs nothing."""
    slots = host.slots(4)
    assert [slot.place.offset // PAGE_BYTES for slot in slots] == [0, 1, 2, 3]
    del slots[2], slots[0]
    assert [slot.place.offset // PAGE_BYTES for slot in host.slots(3)] == [0, 2, 4]


def test_what_consumers_let_go_of_is_taken_back_before_more_is_taken(host: Host) -> None:
    """So the slot that was used last is used again; and the pool grows only when nothing has come back."""
    held = host.slots(8)
    assert host.reclaims == 8
    host.reclaim = lambda: held.pop(0) if held else None
    (again,) = host.slots(1)
    assert again.place.offset == 0
    host.reclaim = lambda: None
    held += host.slots(1)
    assert again.place.segment == 1
    assert held[-1].place.segment == 2
    assert len(host.asked) == 2


def test_a_slot_serves_whatever_fits(host: Host) -> None:
    """A larger slot is taken before memory is asked for; a smaller one never is."""
    (large,) = host.slots(1, 5 * PAGE_BYTES)
    (small,) = host.slots(1, 10)
    assert (large.place.segment, small.place) == (1, Place(1, 5 * PAGE_BYTES, 10))
    (larger,) = host.slots(1, 6 * PAGE_BYTES)
    assert larger.place.segment == 2


def test_a_slot_that_another_thread_lets_go_of_is_free_again(host: Host) -> None:
    """The last view of it may be anywhere."""
    kept: list[Any] = [slot.view()[3:] for slot in host.slots(8)]
    in_thread(kept.clear)
    assert [slot.place for slot in host.slots(8)] == [Place(1, place * PAGE_BYTES, 100) for place in range(8)]
    assert len(host.asked) == 1


def test_a_host_that_refuses_is_not_asked_for_a_while(host: Host) -> None:
    """Frames travel apart then, and none of them waits; memory that comes later is used."""
    host.reason = "the quota is used up"
    assert host.pool.acquire(100) is None
    assert host.pool.acquire(100) is None
    assert (len(host.asked), host.pool.reason) == (1, "the quota is used up")
    host.now += 1.1
    assert host.pool.acquire(100) is None
    assert len(host.asked) == 2
    host.now += 1.1
    host.reason = ""
    assert host.slots(1)[0].place.segment == 3
    assert host.pool.reason == ""


def test_a_host_that_is_silent_holds_nobody_up_for_ever(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is bounded, and not repeated for each frame; what comes late is used."""
    monkeypatch.setattr(memory, "GROW_S", 0.0)
    host.is_silent = True
    assert host.pool.acquire(100) is None
    assert host.pool.acquire(100) is None
    assert (len(host.asked), host.pool.reason) == (1, "the host did not answer in time")
    host.answer()
    assert host.slots(1)[0].place.segment == 1
    assert len(host.asked) == 1


def test_it_waits_for_the_answer_of_another_thread(host: Host) -> None:
    """The umbilical has a thread of its own: a producer gets its memory in the middle of the user's code."""
    host.is_silent = True
    asked = threading.Event()

    def answer_when_asked() -> None:
        asked.wait()
        host.answer()

    answers = threading.Thread(target=answer_when_asked)
    answers.start()
    host.reclaim = asked.set
    (slot,) = host.slots(1)
    answers.join()
    assert slot.place.segment == 1


def test_a_segment_is_not_used_before_its_readers_have_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame in memory that nobody has mapped could not be read."""
    monkeypatch.setattr(memory, "GROW_S", 0.0)
    host.is_silent = True
    assert host.pool.acquire(100) is None
    mine, _ = both(8 * PAGE_BYTES)
    host.pool.grown(mine, 8, PAGE_BYTES)
    assert host.pool.acquire(100) is None
    host.pool.usable(2)  # of another
    assert host.pool.acquire(100) is None
    host.pool.usable(1)
    assert host.slots(1)


def test_a_retired_segment_is_never_written_again(host: Host) -> None:
    """It is given back when the last that is under way has gone, and not before."""
    first, second = host.slots(2)
    host.pool.retire(1)
    host.pool.retire(1)
    host.pool.retire(7)
    assert host.slots(1)[0].place.segment == 2
    view = first.view()
    del first, second
    host.pool.trim()
    assert host.given_back == []
    del view
    host.pool.trim()
    host.pool.trim()
    assert host.given_back == [1]
    assert host.slots(1)[0].place.segment == 2


def test_what_is_idle_is_given_back_but_for_the_last(host: Host) -> None:
    """A burst takes memory for as long as it lasts and a little longer."""
    slots = host.slots(20)
    assert len(host.asked) == 3
    del slots[8:]  # nothing is left of the third segment, and half of the second
    host.pool.trim()
    for _ in range(2):
        host.now += 1.5
        host.pool.trim()
    assert host.given_back == [2, 3]
    slots.clear()
    for _ in range(4):
        host.now += 1.5
        host.pool.trim()
    assert host.given_back == [2, 3]
    assert host.slots(1)[0].place.segment == 1


def test_what_is_used_now_and_then_is_kept(host: Host) -> None:
    """Idle is what was not used at all for a while; a slot that was back before anybody looked counts as used."""
    del host.slots(16)[:]
    for _ in range(5):
        host.now += 1.5
        host.pool.trim()
        del host.slots(9)[:]
    host.pool.trim()
    assert host.given_back == []


def test_a_pool_that_is_forgotten_leaves_nothing_mapped() -> None:
    """With the pool and the last view goes the memory."""
    before = maps()
    host = Host()
    (slot,) = host.slots(1)
    view = slot.view()
    del host, slot
    assert maps() == before + 1
    del view
    assert maps() == before


# --- all of it together -----------------------------------------------------------------------------------------------


def choose(data: st.DataObject, items: Sequence[object]) -> int:
    """Draw a place among items: whoever drew one of them would keep it alive."""
    return data.draw(st.integers(0, len(items) - 1))


class Sharing(RuleBasedStateMachine):
    """A producer and two consumers; whatever anybody does, what is looked at stays as it was written."""

    SIZES = (1, 100, PAGE_BYTES, PAGE_BYTES + 1)

    @initialize(quota=st.integers(0, 4))
    def begin(self, quota: int) -> None:
        self.host = Host()
        self.host.reclaim = self.reclaims
        self.patch = mock.patch.object(memory, "time", self.host)
        self.patch.start()
        self.pages = [self.page() for _ in range(2)]
        self.lendings = [Lending(page) for page in self.pages]
        self.ledgers = [Ledger(page, quota) for page in self.pages]
        self.quota = quota
        self.written = 0
        self.place = 0
        self.mine: list[tuple[int, Slot]] = []  # what the producer still has of its own, with what was written to it
        self.seen: list[tuple[int, Any]] = []  # what anybody looks at
        self.alive = [True, True]

    def page(self) -> Page:
        descriptor = counters.create()
        page = Page(descriptor)
        os.close(descriptor)
        return page

    def reclaims(self) -> None:
        for lending in self.lendings:
            self.spoil(lending.reclaim())

    def spoil(self, spoilt: list[Held]) -> None:
        for held in spoilt:
            self.host.pool.retire(held.place.segment)

    @rule(size=st.sampled_from(SIZES))
    def writes(self, size: int) -> None:
        slot = self.host.pool.acquire(size)
        assert slot is not None
        self.written = self.written % 250 + 1
        slot.write(bytes([self.written]) * size)
        self.mine.append((self.written, slot))

    @precondition(lambda self: self.mine)
    @rule(data=st.data(), consumer=st.integers(0, 1))
    def lends(self, data: st.DataObject, consumer: int) -> None:
        self.lend(*self.mine[choose(data, self.mine)], consumer)

    @rule(size=st.sampled_from(SIZES), to=st.sets(st.integers(0, 1)))
    def sends(self, size: int, to: set[int]) -> None:
        """As most frames go: written, lent, and forgotten by their producer."""
        self.writes(size)
        for consumer in to:
            self.lend(*self.mine[-1], consumer)
        self.mine.pop()

    def lend(self, value: int, slot: Slot, consumer: int) -> None:
        if not self.alive[consumer]:
            return
        self.place += 1
        number = 1 << 40 | self.place
        ticket = self.lendings[consumer].lend(slot, number)
        assert ticket
        mapping, ledger = self.host.readers[slot.place.segment], self.ledgers[consumer]
        has_room = len(ledger.held) < self.quota
        taken = ledger.take(mapping, slot.place, ticket, number)
        assert isinstance(taken, np.ndarray) is has_room
        self.seen.append((value, taken))

    @precondition(lambda self: self.mine)
    @rule(data=st.data())
    def forgets(self, data: st.DataObject) -> None:
        self.mine.pop(choose(data, self.mine))

    @precondition(lambda self: self.mine)
    @rule(data=st.data())
    def looks_itself(self, data: st.DataObject) -> None:
        value, slot = self.mine[choose(data, self.mine)]
        self.seen.append((value, slot.view()))

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def looks_at_a_part(self, data: st.DataObject) -> None:
        value, view = self.seen[choose(data, self.seen)]
        self.seen.append((value, view[len(view) // 2 :]))

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), elsewhere=st.booleans())
    def looks_away(self, data: st.DataObject, elsewhere: bool) -> None:
        gone = [self.seen.pop(choose(data, self.seen))]
        if elsewhere:
            in_thread(gone.clear)

    @rule(consumer=st.integers(0, 1))
    def dies(self, consumer: int) -> None:
        """What it had lent on is still looked at; it gives nothing back."""
        if self.alive[consumer]:
            self.alive[consumer] = False
            self.ledgers[consumer].end()
            self.spoil(self.lendings[consumer].take_all())

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.host.now += seconds
        self.reclaims()
        self.host.pool.trim()

    @invariant()
    def nothing_that_is_looked_at_changes(self) -> None:
        if hasattr(self, "host"):
            for value, view in self.seen:
                assert set(bytes(view)) <= {value}
            for value, slot in self.mine:
                assert set(slot.view().tobytes()) == {value}

    @invariant()
    def no_slot_is_two_frames(self) -> None:
        if hasattr(self, "host"):
            places = [slot.place[:2] for _, slot in self.mine]
            assert len(set(places)) == len(places)

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        self.patch.stop()
        self.mine.clear()
        self.seen.clear()
        self.reclaims()
        assert [lending.lent for lending in self.lendings] == [0, 0]
        assert all(not ledger.held for ledger in self.ledgers)


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
