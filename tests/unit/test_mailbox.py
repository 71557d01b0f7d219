"""The mailbox: the one engine of delivery, held against a model of its contract."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rmbus.delivery import Delivery, drop_oldest, latest, reliable
from rmbus.protocol.frames import Header, Kind, decode_frames, encode_frame, join_frames
from rmbus.transport import counters, keeping
from rmbus.transport import mailbox as mailboxes
from rmbus.transport.counters import Edge, Page
from rmbus.transport.keeping import KeepingMailbox
from rmbus.transport.mailbox import Item, Mailbox

BYTES = 1000
"""What a mailbox may hold in these tests, so that its bound is met."""

DELIVERIES = st.one_of(
    st.just(latest), st.integers(1, 5).map(drop_oldest), st.integers(1, 5).map(reliable), st.just(drop_oldest(50))
)


class Sent(NamedTuple):
    """A frame that was taken out of a mailbox, and its place on the edge."""

    place: int
    header: Header


def make(delivery: Delivery, *, resends: bool = False) -> tuple[Mailbox, Page]:
    descriptor = counters.create()
    page = Page(descriptor)
    os.close(descriptor)
    return KeepingMailbox(delivery, page, resends=True) if resends else Mailbox(delivery, page), page


def data(
    seq: int, *, turn: int = 0, size: int = 10, key: bool | None = None, origin: Callable[[], None] | None = None
) -> Item:
    kind = Kind.VIDEO if key is None else Kind.PACKET
    return Item(kind, encode_frame(Header(kind, seq, turn)), size, key=key, origin=origin)


def control(kind: Kind, seq: int = 0, turn: int = 0, extra: Any = None) -> Item:
    return Item(kind, encode_frame(Header(kind, seq, turn, extra=extra)))


def take_all(box: Mailbox) -> list[Sent]:
    taken: list[Sent] = []
    while (item := box.take()) is not None:
        ((_, header, _),) = decode_frames(join_frames([item.frame]))
        assert header.kind == item.kind
        taken.append(Sent(box.place, header))
    return taken


def headers(taken: list[Sent]) -> list[Header]:
    return [each.header for each in taken]


def seqs(taken: list[Sent]) -> list[int]:
    return [header.seq for header in headers(taken) if header.kind < 16]


@contextmanager
def box_of(delivery: Delivery, *, granted: int = 0, resends: bool = False) -> Generator[tuple[Mailbox, Page]]:
    box, page = make(delivery, resends=resends)
    box.grant(granted)
    try:
        yield box, page
    finally:
        page.close()


class Edges(RuleBasedStateMachine):
    """A producer, a lane and a consumer, in any order of events; what must hold is asked after each."""

    @initialize(delivery=DELIVERIES, credit=st.integers(1, 4), encoded=st.booleans())
    def begin(self, delivery: Delivery, credit: int, encoded: bool) -> None:
        self.patch = mock.patch.object(mailboxes, "MAX_MAILBOX_BYTES", BYTES)
        self.patch.start()
        self.box, self.page = make(delivery)
        self.credit, self.encoded = credit, encoded
        self.seq = self.turn = self.format = 0
        self.interrupted = 0
        self.lane: deque[Sent] = deque()
        self.place = self.delivered = self.gap = self.on_lane = 0
        self.next_seq = 0  # of the data frame that the consumer expects, gaps told
        self.seen_format = self.seen_turn = 0
        self.formats: dict[int, int] = {}  # seq to the format that was in force
        self.keys: dict[int, bool] = {}
        self.bytes = 0
        self.last_seq = -1
        self.up = self.over = False

    # --- the producer ---

    @precondition(lambda self: not self.over and self.box.has_room)
    @rule(size=st.sampled_from([0, 10, 400, 1200]), key=st.booleans())
    def offers(self, size: int, key: bool) -> None:
        self.formats[self.seq] = self.format
        self.keys[self.seq] = key
        self.bytes += size
        self.box.offer(data(self.seq, turn=self.turn, size=size, key=key if self.encoded else None))
        self.seq += 1

    @precondition(lambda self: not self.over)
    @rule()
    def tells_a_format(self) -> None:
        self.format += 1
        self.box.offer(control(Kind.FORMAT, self.seq, self.turn, self.format))

    @precondition(lambda self: not self.over)
    @rule()
    def interrupts(self) -> None:
        before = self.page.dropped().get("interrupted", 0)
        waiting = self.box.waiting
        self.turn += 1
        self.box.interrupt(control(Kind.INTERRUPT, self.seq, self.turn))
        assert self.page.dropped().get("interrupted", 0) - before == waiting
        self.interrupted += waiting
        self.sends()

    @rule()
    def sends(self) -> None:
        for sent in take_all(self.box):
            self.place += 1
            assert sent.place == self.place
            self.on_lane += sent.header.kind < 16
            self.lane.append(sent)
        assert self.on_lane - self.delivered <= (self.credit if self.up else 0)

    # --- the consumer ---

    @precondition(lambda self: not self.up)
    @rule()
    def links(self) -> None:
        self.up = True
        self.box.grant(self.delivered + self.credit)

    @precondition(lambda self: self.lane and self.up)
    @rule()
    def processes(self) -> None:
        place, header = self.lane.popleft()
        if header.kind == Kind.FORMAT:
            self.seen_format = header.extra
        elif header.kind == Kind.GAP:
            assert header.extra[0] > 0
            self.next_seq += header.extra[0]
        elif header.kind == Kind.INTERRUPT:
            assert header.turn == self.seen_turn + 1
            self.seen_turn, self.next_seq, self.last_seq = header.turn, header.seq, header.seq - 1
        elif header.kind < 16:
            self.receives(header)
        self.box.acknowledge(place, self.delivered + self.credit)

    def receives(self, header: Header) -> None:
        assert header.turn == self.seen_turn
        assert header.seq == self.next_seq  # every number that is missing was told by a gap
        assert self.seen_format == self.formats[header.seq]
        if self.encoded and not self.keys[header.seq]:
            assert header.seq == self.last_seq + 1  # it can be decoded
        self.last_seq = header.seq
        self.next_seq = header.seq + 1
        self.delivered += 1

    # --- what always holds ---

    @invariant()
    def the_account_is_exact(self) -> None:
        words, dropped = self.page.words, sum(self.page.dropped().values())
        assert words[Edge.PUBLISHED] == self.seq
        assert words[Edge.BYTES] == self.bytes
        assert words[Edge.SENT] == self.on_lane
        assert words[Edge.PUBLISHED] == self.on_lane + self.box.waiting + dropped

    @invariant()
    def what_waits_is_bounded(self) -> None:
        limit = 1 if self.box.delivery.kind == "latest" else self.box.delivery.n
        assert self.box.waiting <= limit

    @invariant()
    def reliable_drops_nothing(self) -> None:
        if self.box.delivery.kind == "reliable":
            assert sum(self.page.dropped().values()) == self.interrupted

    @invariant()
    def a_dropping_mailbox_never_makes_anybody_wait(self) -> None:
        assert self.box.has_room or self.box.delivery.kind == "reliable"

    def teardown(self) -> None:
        if not hasattr(self, "box"):
            return
        try:
            self.comes_to_rest()
        finally:
            self.page.close()
            self.patch.stop()

    def comes_to_rest(self) -> None:
        self.links()
        self.sends()
        while self.lane:
            self.processes()
            self.sends()
        assert self.box.is_settled
        assert self.page.words[Edge.PUBLISHED] == self.delivered + sum(self.page.dropped().values())


TestEdges = Edges.TestCase
TestEdges.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, phases=[Phase.explicit, Phase.generate, Phase.shrink]
)


def test_nothing_is_sent_before_the_link_is_up() -> None:
    """Data waits for credit, however long; a control frame that nothing precedes does not."""
    with box_of(reliable(2)) as (box, _):
        box.offer(control(Kind.FORMAT))
        box.offer(data(0))
        assert [header.kind for header in headers(take_all(box))] == [Kind.FORMAT]
        box.grant(1)
        assert seqs(take_all(box)) == [0]


def test_a_control_frame_never_overtakes_data() -> None:
    """End of stream waits behind the frames before it, although it needs no credit itself."""
    with box_of(reliable(3), granted=1) as (box, page):
        for seq in range(2):
            box.offer(data(seq))
        box.offer(control(Kind.EOS, 2))
        assert seqs(take_all(box)) == [0]
        assert page.words[Edge.ENDED] == 0
        box.acknowledge(1, 2)
        assert [header.kind for header in headers(take_all(box))] == [Kind.VIDEO, Kind.EOS]
        assert page.words[Edge.ENDED] == 1


def test_latest_keeps_the_newest_and_tells_of_the_others() -> None:
    """Of what came while the window was closed, the newest is sent, behind a gap that counts the rest."""
    with box_of(latest, granted=1) as (box, page):
        for seq in range(5):
            box.offer(data(seq))
            if seq == 0:
                assert seqs(take_all(box)) == [0]
        box.acknowledge(1, 2)
        gap, frame = headers(take_all(box))
        assert (gap.kind, gap.extra) == (Kind.GAP, [3, "overflow"])
        assert frame.seq == 4
        assert page.dropped() == {"overflow": 3}


def test_reliable_has_room_for_n_and_no_more() -> None:
    """A reliable mailbox is full with n frames, and has room again when one was sent."""
    with box_of(reliable(2)) as (box, _):
        rooms = [box.has_room]
        box.offer(data(0))
        box.offer(data(1))
        rooms.append(box.has_room)
        box.grant(1)
        assert seqs(take_all(box)) == [0]
        rooms.append(box.has_room)
        assert rooms == [True, False, True]


def test_a_mailbox_is_full_of_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames may be few and large: reliable waits, drop_oldest drops."""
    monkeypatch.setattr(mailboxes, "MAX_MAILBOX_BYTES", 100)
    with box_of(reliable(8)) as (box, _):
        box.offer(data(0, size=100))
        assert not box.has_room
    with box_of(drop_oldest(8), granted=9) as (box, page):
        for seq in range(4):
            box.offer(data(seq, size=60))
        assert seqs(take_all(box)) == [2, 3]  # a frame is taken while no more than the bound waits
        assert page.dropped() == {"overflow": 2}


def test_encoded_video_is_dropped_up_to_the_next_key() -> None:
    """A packet that cannot be decoded is never sent: on overflow all that wait go, and those up to a key."""
    with box_of(drop_oldest(2)) as (box, page):
        for seq, key in enumerate([True, False, False, False, True, False]):
            box.offer(data(seq, key=key))
            assert box.waiting == [1, 2, 0, 0, 1, 2][seq]
        assert page.dropped() == {"awaiting_key": 4}
        box.grant(9)
        taken = take_all(box)
        assert headers(taken)[0].extra[0] == 4
        assert seqs(taken) == [4, 5]


def test_what_depends_on_a_dropped_packet_goes_with_it() -> None:
    """Also where a frame of another kind has pushed it out; what is no packet of video stays."""
    with box_of(drop_oldest(4)) as (box, page):
        for seq, key in enumerate([True, None, False, False, None, True]):
            box.offer(data(seq, key=key))
        assert page.dropped() == {"overflow": 1, "awaiting_key": 2}
        box.grant(9)
        assert seqs(take_all(box)) == [1, 4, 5]


def test_a_packet_pushes_out_what_is_no_packet_first() -> None:
    """Sound that waits on the same edge is dropped alone, and the video behind it stays whole."""
    with box_of(drop_oldest(2), granted=1) as (box, page):
        box.offer(data(0, key=True))
        assert seqs(take_all(box)) == [0]
        for seq, key in enumerate([None, None, False], start=1):
            box.offer(data(seq, key=key))
        assert page.dropped() == {"overflow": 1}
        box.grant(9)
        assert seqs(take_all(box)) == [2, 3]


def test_what_depends_on_an_interrupted_packet_is_not_sent() -> None:
    """The new turn begins with a key, or later."""
    with box_of(drop_oldest(4)) as (box, page):
        box.offer(data(0, key=True))
        box.interrupt(control(Kind.INTERRUPT, 1, 1))
        assert box.is_awaiting_key
        for seq, key in enumerate([False, True, False], start=1):
            box.offer(data(seq, turn=1, key=key))
        assert page.dropped() == {"interrupted": 1, "awaiting_key": 1}
        box.grant(9)
        assert seqs(take_all(box)) == [2, 3]


def test_who_takes_over_is_sent_nothing_that_depends_on_what_its_predecessor_had() -> None:
    """Packets wait, and are dropped up to the next key; where none waits, it is awaited."""
    with box_of(drop_oldest(8), granted=1) as (box, page):
        for seq, key in enumerate([True, False, False, True, False]):
            box.offer(data(seq, key=key))
        assert seqs(take_all(box)) == [0]
        page.words[Edge.DELIVERED] = 1
        box.begin_epoch(None)
        assert page.dropped() == {"awaiting_key": 2}
        assert not box.is_awaiting_key
        box.grant(9)
        assert seqs(take_all(box)) == [3, 4]
        page.words[Edge.DELIVERED] = 3
        box.begin_epoch(None)
        assert box.is_awaiting_key


def test_a_consumer_that_went_leaves_an_account() -> None:
    """What waits or is under way is dropped for the reason given, what comes later as ended; nobody waits."""
    with box_of(reliable(4), granted=1) as (box, page):
        for seq in range(3):
            box.offer(data(seq))
        assert seqs(take_all(box)) == [0]
        box.close("consumer_died")
        box.offer(data(3))
        assert page.dropped() == {"consumer_died": 3, "consumer_ended": 1}
        assert box.has_room
        assert box.is_settled
        assert take_all(box) == []


def test_acknowledgements_never_go_back_nor_beyond() -> None:
    """Neither a late credit nor one for places that were never sent settles or unsettles anything."""
    with box_of(reliable(4), granted=2) as (box, _):
        for seq in range(3):
            box.offer(data(seq))
        assert seqs(take_all(box)) == [0, 1]
        box.acknowledge(2**64 - 1, 2)
        settled = [box.is_settled]  # one still waits
        box.acknowledge(1, 3)
        assert seqs(take_all(box)) == [2]
        box.acknowledge(1, 1)
        settled.append(box.is_settled)
        box.acknowledge(3, 5)
        box.acknowledge(2, 3)
        settled.append(box.is_settled)
        assert settled == [False, False, True]
        box.offer(data(3))
        assert seqs(take_all(box)) == [3]  # the grant of 5 is still in force


def test_a_gap_at_the_end_is_told() -> None:
    """Frames that were dropped last are told before the end of the stream, since no frame follows that could."""
    with box_of(drop_oldest(2), granted=9) as (box, page):
        for seq, key in enumerate([True, False, False, False]):
            box.offer(data(seq, key=key))
        box.offer(control(Kind.EOS, 4))
        assert page.dropped() == {"awaiting_key": 4}
        gap, end = headers(take_all(box))
        assert (gap.kind, gap.extra[0], end.kind) == (Kind.GAP, 4, Kind.EOS)


def test_formats_of_dropped_frames_go_with_them() -> None:
    """A format that changes with each frame does not fill a dropping mailbox while its window is closed."""
    with box_of(latest) as (box, _):
        for seq in range(1000):
            box.offer(control(Kind.FORMAT, seq, extra=seq))
            box.offer(data(seq))
        box.grant(1)
        kinds = [header.kind for header in headers(take_all(box))]
        assert len(kinds) < 5
        assert kinds[-1] == Kind.VIDEO


def test_formats_of_what_is_dropped_at_once_do_not_pile_up() -> None:
    """Packets that await a key are dropped as they come, behind a frame that waits; their formats go too."""
    with box_of(drop_oldest(1)) as (box, _):
        box.await_key()
        box.offer(data(0))
        for seq in range(1, 1000):
            box.offer(control(Kind.FORMAT, seq, extra=seq))
            box.offer(data(seq, key=False))
        box.grant(1)
        kinds = [header.kind for header in headers(take_all(box))]
        assert kinds == [Kind.GAP, Kind.VIDEO, Kind.FORMAT]


def test_interruptions_are_sent_in_their_order() -> None:
    """Turns go up, whatever waits."""
    with box_of(reliable(2)) as (box, _):
        box.interrupt(control(Kind.INTERRUPT, 0, 1))
        box.interrupt(control(Kind.INTERRUPT, 0, 2))
        turns = [header.turn for header in headers(take_all(box))]
        assert turns == sorted(turns)


def test_nothing_is_kept_for_a_consumer_that_went() -> None:
    """After `close` neither data nor control frames wait."""
    with box_of(reliable(2)) as (box, _):
        box.close("consumer_died")
        box.offer(control(Kind.FORMAT))
        box.interrupt(control(Kind.INTERRUPT, 0, 1))
        assert take_all(box) == []


# --- what was under way when a consumer went --------------------------------------------------------------------------


def test_what_a_consumer_had_begun_with_is_not_lost_with_it() -> None:
    """Of what was sent, only what it had neither begun nor dropped itself is lost; closing twice loses nothing more."""
    with box_of(reliable(4), granted=4) as (box, page):
        for seq in range(4):
            box.offer(data(seq))
        assert seqs(take_all(box)) == [0, 1, 2, 3]
        page.words[Edge.DELIVERED] = 1
        page.drop("interrupted", by_consumer=True)
        box.close("consumer_died")
        box.close("stopped")
        assert page.dropped() == {"interrupted": 1, "consumer_died": 2}


def test_the_next_consumer_is_sent_again_what_its_predecessor_owed() -> None:
    """In order, behind the format, with places from 1 on; what the first had begun with is counted as a duplicate."""
    with box_of(reliable(4), granted=3, resends=True) as (box, page):
        box.offer(control(Kind.FORMAT))
        for seq in range(4):
            box.offer(data(seq))
        assert seqs(take_all(box)) == [0, 1, 2]
        page.words[Edge.DELIVERED] = 2
        box.acknowledge(2, 3)  # the format and the first frame
        box.begin_epoch(control(Kind.FORMAT))
        assert (page.words[Edge.SENT], page.words[Edge.DUPLICATES], box.waiting) == (1, 1, 3)
        assert [header.kind for header in headers(take_all(box))] == [Kind.FORMAT]  # no grant yet
        box.grant(9)
        again = take_all(box)
        assert [(sent.place, sent.header.seq) for sent in again] == [(2, 1), (3, 2), (4, 3)]
        assert page.words[Edge.SENT] == 4
        box.acknowledge(4, 13)
        assert box.is_settled


def test_without_resends_the_next_consumer_begins_behind_what_was_lost() -> None:
    """What was under way is lost with the first consumer, once, however many follow."""
    with box_of(reliable(4), granted=2) as (box, page):
        for seq in range(3):
            box.offer(data(seq))
        assert seqs(take_all(box)) == [0, 1]
        for _ in range(3):
            box.begin_epoch(control(Kind.FORMAT))
        assert page.dropped() == {"consumer_died": 2}
        box.grant(1)
        assert seqs(take_all(box)) == [2]
        page.words[Edge.DELIVERED] = 1
        box.close("consumer_ended")
        assert page.dropped() == {"consumer_died": 2}


def test_the_format_is_told_once_where_it_is_sent_again_itself() -> None:
    """The introduction is for those whose format was acknowledged long ago."""
    with box_of(reliable(4), granted=1, resends=True) as (box, _):
        box.offer(control(Kind.FORMAT, extra="its own"))
        box.offer(data(0))
        assert len(take_all(box)) == 2
        box.begin_epoch(control(Kind.FORMAT, extra="the introduction"))
        box.grant(1)
        assert [header.extra for header in headers(take_all(box))] == ["its own", None]


@pytest.mark.parametrize(("resends", "wanted"), [(True, ["one", 0, "two", 1, 2]), (False, ["two", 2])])
def test_what_is_sent_to_the_next_consumer_comes_behind_its_own_format(resends: bool, wanted: list[object]) -> None:
    """Formats may have changed since; each frame has the one in front that it was offered behind."""
    with box_of(reliable(4), granted=2, resends=resends) as (box, _):
        box.offer(control(Kind.FORMAT, extra="one"))
        box.offer(data(0))
        box.offer(control(Kind.FORMAT, extra="two"))
        for seq in (1, 2):
            box.offer(data(seq))
        assert len(take_all(box)) == 4
        box.acknowledge(1, 2)
        box.begin_epoch(control(Kind.FORMAT, extra="three"))
        box.grant(9)
        assert [header.extra or header.seq for header in headers(take_all(box))] == wanted


def test_whoever_waits_for_a_frame_is_told_when_it_is_processed_or_given_up() -> None:
    """Acknowledged, dropped by the policy, interrupted, or left behind by a consumer that went: each once."""
    told: list[int] = []

    def offer(box: Mailbox, seq: int) -> None:
        box.offer(data(seq, origin=lambda: told.append(seq)))

    with box_of(reliable(4), granted=2, resends=True) as (box, _):
        for seq in range(4):
            offer(box, seq)
        take_all(box)
        assert told == []
        box.acknowledge(1, 2)
        assert told == [0]
        box.interrupt(control(Kind.INTERRUPT, 4, 1))
        assert told == [0, 2, 3]
        box.close("consumer_died")
        offer(box, 4)
        box.close("stopped")
        assert told == [0, 2, 3, 1, 4]
    told.clear()
    with box_of(drop_oldest(1)) as (box, _):
        for seq in range(3):
            offer(box, seq)
        assert told == [0, 1]


class Successors(RuleBasedStateMachine):
    """An edge whose consumer dies again and again, and is followed by another; no frame is lost to the account."""

    @initialize(
        delivery=st.sampled_from([latest, drop_oldest(3), reliable(1), reliable(4)]),
        resends=st.booleans(),
        credit=st.integers(1, 4),
    )
    def begin(self, delivery: Delivery, resends: bool, credit: int) -> None:
        self.box, self.page = make(delivery, resends=resends)
        self.keeps = resends and delivery.kind == "reliable"
        self.credit = credit
        self.seq = self.turn = 0
        self.begun: Counter[int] = Counter()
        self.settled: Counter[int] = Counter()
        self.lane: deque[Sent] = deque()
        self.box.offer(control(Kind.FORMAT))
        self.meets_the_next()

    def meets_the_next(self) -> None:
        self.lane.clear()
        self.last_place = self.finished = self.done = 0
        self.has_format = False
        self.before = -1
        self.box.grant(self.credit)
        self.sends()

    # --- the producer ---

    @precondition(lambda self: self.box.has_room)
    @rule()
    def offers(self) -> None:
        seq = self.seq
        self.seq += 1
        self.box.offer(data(seq, turn=self.turn, origin=lambda: self.settled.update([seq])))
        self.sends()

    @rule()
    def interrupts(self) -> None:
        self.turn += 1
        self.box.interrupt(control(Kind.INTERRUPT, self.seq, self.turn))
        self.sends()

    def sends(self) -> None:
        self.lane.extend(take_all(self.box))

    # --- the consumer ---

    @precondition(lambda self: self.lane)
    @rule()
    def takes_one(self) -> None:
        """It begins with a frame; where an interruption has come, it drops what waits in front of that."""
        turns = [sent.header.turn for sent in self.lane if sent.header.kind == Kind.INTERRUPT]
        place, header = self.lane.popleft()
        assert place == self.last_place + 1
        self.last_place = place
        if header.kind == Kind.FORMAT:
            self.has_format = True
        elif header.kind < 16:
            assert self.has_format  # whoever follows is told the format first
            assert header.seq > self.before
            self.before = header.seq
            self.done += 1
            if turns and header.turn < max(turns):
                self.page.drop("interrupted", by_consumer=True)
            else:
                self.page.words[Edge.DELIVERED] += 1
            self.begun[header.seq] += 1
        self.finished = place

    @rule()
    def tells(self) -> None:
        """Credit is told for many frames at once, and later than they are done."""
        self.box.acknowledge(self.finished, self.done + self.credit)
        self.sends()

    @rule()
    def dies_and_is_followed(self) -> None:
        self.box.begin_epoch(control(Kind.FORMAT))
        self.meets_the_next()

    # --- what always holds ---

    @invariant()
    def the_account_is_exact(self) -> None:
        words = self.page.words
        under_way = sum(sent.header.kind < 16 for sent in self.lane)
        told = words[Edge.PUBLISHED] + words[Edge.DUPLICATES]
        assert told == words[Edge.DELIVERED] + sum(self.page.dropped().values()) + under_way + self.box.waiting

    @invariant()
    def only_what_was_begun_twice_is_a_duplicate(self) -> None:
        assert self.page.words[Edge.DUPLICATES] >= sum(count - 1 for count in self.begun.values() if count > 1)
        assert self.keeps or not self.page.words[Edge.DUPLICATES]

    @invariant()
    def nothing_is_settled_twice(self) -> None:
        assert set(self.settled.values()) <= {1}

    def teardown(self) -> None:
        if not hasattr(self, "box"):
            return
        try:
            self.comes_to_rest()
        finally:
            self.page.close()

    def comes_to_rest(self) -> None:
        self.tells()
        while self.lane:
            self.takes_one()
            self.tells()
        self.the_account_is_exact()
        assert self.box.is_settled
        if self.keeps:
            assert self.page.words[Edge.DUPLICATES] == sum(count - 1 for count in self.begun.values() if count > 1)
            assert sum(self.page.dropped().values()) == self.page.dropped().get("interrupted", 0)
            assert set(self.settled) == set(range(self.seq))


TestSuccessors = Successors.TestCase
TestSuccessors.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, phases=[Phase.explicit, Phase.generate, Phase.shrink]
)


def test_the_next_consumer_is_told_the_format_of_what_it_is_sent_first() -> None:
    """And not the one that is in force by now."""
    with box_of(reliable(4), granted=4, resends=True) as (box, _):
        box.offer(control(Kind.FORMAT, extra="first"))
        box.offer(data(0))
        box.offer(control(Kind.FORMAT, 1, extra="second"))
        box.offer(data(1))
        take_all(box)
        box.acknowledge(1, 4)
        box.begin_epoch(control(Kind.FORMAT, 1, extra="second"))
        box.grant(4)
        assert [(each.kind, each.extra) for each in headers(take_all(box)) if each.kind == Kind.FORMAT] == [
            (Kind.FORMAT, "first"),
            (Kind.FORMAT, "second"),
        ]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that takes frames and acknowledges none is sent no more than the bound, whatever it grants."""
    monkeypatch.setattr(keeping, "MAX_KEPT", 3)
    with box_of(reliable(9), granted=9, resends=True) as (box, _):
        for seq in range(5):
            box.offer(data(seq))
        assert seqs(take_all(box)) == [0, 1, 2]
        box.acknowledge(1, 9)
        assert seqs(take_all(box)) == [3]
    monkeypatch.setattr(keeping, "MAX_MAILBOX_BYTES", 100)
    with box_of(reliable(9), granted=9, resends=True) as (box, _):
        box.offer(data(0, size=100))
        assert seqs(take_all(box)) == [0]
        box.offer(data(1))
        assert seqs(take_all(box)) == []


def succeeded(page: Page, base: int | None, *, reliably: bool = True) -> dict[str, int]:
    """Return the account of an edge after a producer was started anew: 6 published before, of which 4 had come."""
    page.words[Edge.PUBLISHED], page.words[Edge.SENT], page.words[Edge.RECEIVED] = 6, 5, 4
    box = KeepingMailbox(reliable(4) if reliably else drop_oldest(4), page, resends=True)
    box.offer(data(6))
    box.take_over(base)
    words = page.words
    return {"published": words[Edge.PUBLISHED], "duplicates": words[Edge.DUPLICATES], "sent": words[Edge.SENT]} | (
        page.dropped()
    )


def test_the_account_of_a_producer_that_was_started_anew() -> None:
    """What is made again was not published before, and is a duplicate where it had come; else it is lost."""
    with box_of(reliable(4)) as (_, page):
        assert succeeded(page, 3) == {"published": 4, "duplicates": 1, "sent": 3}
    with box_of(reliable(4)) as (_, page):
        assert succeeded(page, None) == {"published": 7, "duplicates": 0, "sent": 4, "producer_died": 2}
    with box_of(drop_oldest(4)) as (_, page):
        assert succeeded(page, 3, reliably=False) == {
            "published": 7,
            "duplicates": 0,
            "sent": 4,
            "producer_died": 2,
        }
