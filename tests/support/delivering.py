"""A source with its readers, for tests of delivery as a whole: ports, mailboxes, links, leases and pools.

Nothing is stubbed but the processes: lanes are queues that fill up, and the host's part in memory is done at once. A
relay sends on what it receives, by the same memory; readers keep frames as long as they like; any of them may die.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inmemory import HostInMemory, Party
from reading import Reader, Stream, Terms, check_content, fill_of

from rmbus.delivery import Delivery, drop_oldest, latest, reliable
from rmbus.media import Data, Frame, Packet, VideoFrame
from rmbus.protocol.frames import Kind
from rmbus.runtime import links, outputs
from rmbus.stamps import remember
from rmbus.transport import mailbox, memory
from rmbus.transport.counters import Edge

DELIVERIES = st.one_of(st.just(latest), st.integers(1, 4).map(drop_oldest), st.integers(1, 4).map(reliable))
SIZES = {"small": (4, 4), "large": (32, 32), "huge": (60, 80)}
PACKETS = {"key": 40, "delta": 40, "big key": 900, "big delta": 900, "sound": 30}
VIDEO = PACKETS.keys() - {"sound"}
KINDS = st.sampled_from([*SIZES, *PACKETS, "value"])
QUOTA = 1
TICKETS = 4
INLINE = 256  # so that frames of a few hundred bytes are large
LIMITS = [
    (outputs, "INLINE_BYTES", INLINE),
    (links, "INLINE_BYTES", INLINE),
    (links, "LEASE_QUOTA", QUOTA),
    (links, "BATCH_BYTES", 700),
    (links, "BEHIND_FRAMES", 1),
    (links, "BATCH_FRAMES", 3),
    (mailbox, "MAX_MAILBOX_BYTES", 12_000),
    (memory, "TICKETS", TICKETS),
    (memory, "IDLE_S", -1.0),
]


class Delivering(RuleBasedStateMachine):
    """A source with two readers, one of which sends on to a third; more may come and go."""

    @initialize(
        deliveries=st.tuples(DELIVERIES, DELIVERIES, DELIVERIES),
        credit=st.integers(1, 4),
        room=st.integers(1, 4),
        shares=st.tuples(st.booleans(), st.booleans(), st.booleans()),
        quota=st.integers(0, 6),
        keeps_last=st.booleans(),
    )
    def begin(
        self,
        deliveries: tuple[Delivery, Delivery, Delivery],
        credit: int,
        room: int,
        shares: tuple[bool, bool, bool],
        quota: int,
        keeps_last: bool,
    ) -> None:
        self.stack = ExitStack()
        for module, name, value in LIMITS:
            self.stack.enter_context(mock.patch.object(module, name, value))
        self.host = HostInMemory(quota)
        self.stack.callback(self.host.close)
        source, self.relay, tap, sink = (Party(name, self.host) for name in ("source", "relay", "tap", "sink"))
        source.port.keeps_last = self.keeps_last = keeps_last
        self.credit, self.room = credit, room
        self.may_send_video = all(delivery.kind != "latest" for delivery in deliveries)
        self.source, self.sent_on = Stream(source), Stream(self.relay)
        terms = [Terms(credit=credit, room=room, shares=each, last=False) for each in shares]
        self.into_relay = self.source.join(self.relay, deliveries[0], **terms[0])
        self.into_relay.on_interrupt = self.sent_on.interrupt
        self.source.join(tap, deliveries[1], **terms[1])
        self.sent_on.join(sink, deliveries[2], **terms[2])
        self.number = 0
        self.is_over = self.somebody_died = False
        self.canvases = {name: np.zeros(shape, np.uint8) for name, shape in SIZES.items()}

    # --- the source ---

    @rule(kinds=st.lists(KINDS, min_size=1, max_size=6), is_lent=st.booleans())
    def sends(self, kinds: list[str], is_lent: bool) -> None:
        self._send(kinds, is_lent)

    @precondition(lambda self: not self.is_over)
    @rule()
    def interrupts(self) -> None:
        self.source.interrupt()

    @precondition(lambda self: not self.is_over and len(self.source.readers) < 4)
    @rule(delivery=DELIVERIES, shares=st.booleans(), last=st.booleans())
    def somebody_subscribes(self, delivery: Delivery, shares: bool, last: bool) -> None:
        terms = Terms(credit=self.credit, room=self.room, shares=shares, last=last and self.keeps_last, is_topic=True)
        if delivery.kind != "reliable":
            reader = self.source.join(Party("late", self.host), delivery, **terms)
            reader.turn = self.source.party.port._turn
            self.may_send_video &= delivery.kind != "latest"

    @rule()
    def trims(self) -> None:
        self.source.party.port.trim()
        self.relay.port.trim()

    # --- lanes, and readers ---

    @rule(kinds=st.lists(KINDS, min_size=1, max_size=12), is_lent=st.booleans(), keep=st.booleans())
    def flows(self, kinds: list[str], is_lent: bool, keep: bool) -> None:
        for kind in kinds:
            self._send([kind], is_lent)
            for stream, reader in self._streams():
                reader.receive()
                self._work(stream, reader, keep=keep)
                stream.serve(reader)

    @rule(which=st.integers(0, 9))
    def receives(self, which: int) -> None:
        self._chosen(which)[1].receive()

    @rule(which=st.integers(0, 9))
    def answers(self, which: int) -> None:
        stream, reader = self._chosen(which)
        reader.tell()
        stream.serve(reader)

    @rule(which=st.integers(0, 9), steps=st.integers(1, 6), keep=st.booleans())
    def works(self, which: int, steps: int, keep: bool) -> None:
        stream, reader = self._chosen(which)
        for _ in range(steps):
            reader.receive()
            self._work(stream, reader, keep=keep)
        stream.serve(reader)

    @rule(which=st.integers(0, 9), place=st.integers(0, 9))
    def lets_go(self, which: int, place: int) -> None:
        kept = self._chosen(which)[1].kept
        if kept:
            del kept[place % len(kept)]

    @precondition(lambda self: not self.is_over and len(self.source.readers) > 1)
    @rule(reason=st.sampled_from(["consumer_died", "consumer_ended"]), fate=st.integers(0, 3))
    def the_last_to_come_goes(self, reason: str, fate: int) -> None:
        if fate:
            return
        reader = self.source.readers[-1]
        self.somebody_died = self.somebody_died or reason == "consumer_died"
        if reason == "consumer_ended":
            reader.kept.clear()
            reader.inbox.clear()
            reader.current = None
        self.source.lose(reader, reason)

    @precondition(lambda self: not self.is_over and not self.into_relay.is_gone and self.number > 6)
    @rule(fate=st.integers(0, 5))
    def the_relay_dies(self, fate: int) -> None:
        if fate:
            return
        self.somebody_died = True
        self.source.lose(self.into_relay, "consumer_died")
        for reader in self.sent_on.readers:
            reader.is_ended = True  # its host says so

    # --- what always holds ---

    @invariant()
    def nothing_that_somebody_sees_changes(self) -> None:
        for _, reader in self._streams():
            for frame in reader.kept:
                check_content(frame)
            for arrival in (*reader.inbox, reader.current):
                if arrival is not None and arrival.frame is not None:
                    check_content(arrival.frame)

    @invariant()
    def the_window_is_kept(self) -> None:
        for _, reader in self._streams():
            assert 0 <= reader.under_way <= self.credit

    @invariant()
    def accounts_are_exact(self) -> None:
        for _, reader in self._streams():
            words, box = reader.edge.page.words, reader.edge.output.mailbox
            dropped = sum(reader.edge.page.dropped().values()) - reader.interrupted
            assert words[Edge.PUBLISHED] == words[Edge.SENT] + box.waiting + dropped
            assert box.waiting <= max(box.delivery.n, 1)

    @invariant()
    def what_is_settled_has_been_processed(self) -> None:
        for _, reader in self._streams():
            box = reader.edge.output.mailbox
            assert not box.is_settled or (reader.under_way == 0 and box.waiting == 0)

    @invariant()
    def nobody_holds_more_than_his_quota(self) -> None:
        for _, reader in self._streams():
            assert len(reader.edge.input._ledger.held) <= self.credit + QUOTA

    @invariant()
    def no_ticket_is_out_twice(self) -> None:
        for _, reader in self._streams():
            lending = reader.edge.output.lending
            numbers = [*lending._free, *lending._lent]
            assert sorted(numbers) == list(range(1, TICKETS + 1))

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        try:
            self.comes_to_rest()
        finally:
            self.stack.close()

    def comes_to_rest(self) -> None:
        self.is_over = True
        self.source.party.port.control(Kind.EOS)
        self.run()
        if not self.into_relay.is_gone:
            self.relay.port.control(Kind.EOS)
            self.run()
            assert self.relay.port.is_settled
        assert self.source.party.port.is_settled
        for stream, reader in self._streams():
            words, dropped = reader.edge.page.words, reader.edge.page.dropped()
            if stream.party is self.relay and self.into_relay.is_gone:
                continue
            assert reader.is_ended
            assert words[Edge.PUBLISHED] == words[Edge.DELIVERED] + sum(dropped.values())
            if reader.edge.delivery.kind == "reliable":
                assert set(dropped) <= {"interrupted"}
            reader.kept.clear()
        if not self.somebody_died:
            self._check_that_all_memory_is_back()

    # --- how ---

    def _streams(self) -> list[tuple[Stream, Reader]]:
        return [(stream, reader) for stream in (self.source, self.sent_on) for reader in stream.readers] or [
            (self.sent_on, self.sent_on.readers[0])
        ]

    def _chosen(self, which: int) -> tuple[Stream, Reader]:
        streams = self._streams()
        return streams[which % len(streams)]

    def _send(self, kinds: list[str], is_lent: bool) -> None:
        for kind in kinds:
            if kind in VIDEO and not self.may_send_video:
                continue  # which an edge with `latest` refuses
            if self.source.party.port.has_room:
                self.source.send(self._make(kind, is_lent))
                self.number += 1

    def _make(self, kind: str, is_lent: bool) -> Frame:
        number, value = self.number, fill_of(self.number)
        if kind == "value":
            return Data({"number": number, "array": np.full(300, value, np.uint8)}, pts=number)
        if kind in PACKETS:
            data = struct.pack("<I", number).ljust(PACKETS[kind], bytes([value]))
            return Packet(data, "aac" if kind == "sound" else "h264", key="delta" not in kind, pts=number)
        slot = self.source.party.port.room(self.canvases[kind].nbytes) if is_lent and kind != "small" else None
        if slot is None:  # a node may draw each picture into the same array
            self.canvases[kind][:] = value
            return VideoFrame(self.canvases[kind], pts=number)
        array = slot.view().reshape(self.canvases[kind].shape)
        array[:] = value
        array.setflags(write=False)
        return remember(VideoFrame(array, pts=number), slot)

    def _work(self, stream: Stream, reader: Reader, *, keep: bool) -> bool:
        """Do one thing as a node's loop would; whether there was one."""
        frame = None if reader.current is None else reader.current.frame
        if frame is None and reader.inbox:
            frame = reader.begin(stream.dependencies)
            if frame is None:
                return True
        if frame is None:
            return False
        if reader is self.into_relay:
            if not self.relay.port.has_room:
                return False
            self.sent_on.send(frame)
        reader.finish(keep=keep)
        return True

    def run(self) -> None:
        """Serve everybody until nothing moves."""
        moved = True
        while moved:
            moved = False
            for stream, reader in self._streams():
                moved |= reader.receive()
                while self._work(stream, reader, keep=False):
                    moved = True
                reader.tell()
                moved |= stream.serve(reader)

    def run_lanes(self) -> None:
        """Carry everything as far as the readers' inboxes."""
        while any(reader.receive() | stream.serve(reader) for stream, reader in self._streams()):
            continue

    def _check_that_all_memory_is_back(self) -> None:
        self.run()
        for stream, reader in self._streams():
            reader.current = None
            stream.serve(reader)
            assert reader.edge.output.lending.lent == 0
        if not self.keeps_last:
            pool = self.source.party.port._pool
            assert all(segment.is_idle for segment in (*pool._segments, *pool._retiring))


RELIABLE = (reliable(4), reliable(4), reliable(4))


@contextmanager
def delivering(*, keeps_last: bool = False) -> Generator[Delivering]:
    """Give a source, a relay and two readers, all of whom share memory."""
    machine = Delivering()
    machine.begin(RELIABLE, 4, 4, (True, True, True), 9, keeps_last)
    try:
        yield machine
    finally:
        machine.teardown()
