"""The host's part in shared memory: who gets which segment, when, and who does not."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Generator, Iterator

import pytest
from hosting import FakeReactor, Process, edge_between, open_descriptors

from rmbus.host import memory as host_memory
from rmbus.host.edges import HostedEdge
from rmbus.host.endpoints import End
from rmbus.host.memory import PATIENCE_S, Memory
from rmbus.protocol import messages
from rmbus.protocol.messages import Attach, Detach, Grow, Mapped, Retire, Segment, Share, Usable
from rmbus.transport.memory import PAGE_BYTES, Mapping


class Hosted:
    """A host's memory, with the processes and edges that a test gives it."""

    def __init__(self, quota_bytes: int = 1 << 20) -> None:
        self.reactor = FakeReactor()
        self.edges: list[HostedEdge] = []
        self.processes: list[Process] = []
        self.memory = Memory(self.reactor.real, self.readers, quota_bytes=quota_bytes)

    def readers(self, endpoint: End, port: str) -> Iterator[HostedEdge]:
        return (edge for edge in self.edges if edge.producer is endpoint and edge.link.out == port)

    def process(self, session: str = "s") -> Process:
        self.processes.append(Process(session))
        return self.processes[-1]

    def join(self, producer: Process, consumer: Process, out: str = "out", **link: object) -> HostedEdge:
        edge = edge_between(producer, consumer, len(self.edges), out, **link)
        self.edges.append(edge)
        self.memory.joined(edge)
        return edge

    def says(self, process: Process, message: messages.Message) -> None:
        assert self.memory.heard(process.endpoint, message)

    def grow(self, process: Process, slots: int = 4, slot_bytes: int = PAGE_BYTES, port: str = "out") -> Segment:
        self.says(process, Grow(port, slots, slot_bytes))
        return process.told(Segment)[-1]

    def grown(self, process: Process) -> int:
        """Let a process ask for memory and map it."""
        number = self.grow(process).segment
        self.says(process, Mapped(number))
        return number

    def close(self) -> None:
        self.memory.close()
        for process in self.processes:
            process.worker.close()
        for edge in self.edges:
            edge.close()


@pytest.fixture
def hosted() -> Generator[Hosted]:
    before = open_descriptors()
    made = Hosted()
    yield made
    made.close()
    assert open_descriptors() == before


def test_a_segment_is_made_for_whoever_asks(hosted: Hosted) -> None:
    """It is as large as was asked for, all of it is there, and its producer can write to it."""
    producer = hosted.process()
    answer = hosted.grow(producer, 3, PAGE_BYTES)
    assert (answer.port, answer.slots, answer.slot_bytes, answer.descriptor) == ("out", 3, PAGE_BYTES, 0)
    mapping = Mapping(answer.segment, 3 * PAGE_BYTES, producer.given(Segment)[0], writable=True)
    mapping.view[-1] = 1
    for size in (0, 4 * PAGE_BYTES):  # a reader would die of the one, and nobody have counted the other
        with pytest.raises(PermissionError):
            os.ftruncate(producer.given(Segment)[0], size)
    assert hosted.memory.size_bytes == 3 * PAGE_BYTES
    assert hosted.grow(producer).segment != answer.segment


def test_readers_get_a_segment_when_its_producer_has_it_and_nobody_else_can_write(hosted: Hosted) -> None:
    """First the producer maps it, then it is sealed, then it is handed out: in any other order a reader could write."""
    producer, reader = hosted.process(), hosted.process()
    hosted.join(producer, reader)
    answer = hosted.grow(producer)
    assert reader.told(Attach) == []
    mine = Mapping(answer.segment, 4 * PAGE_BYTES, producer.given(Segment)[0], writable=True)
    hosted.says(producer, Mapped(answer.segment))
    assert reader.told(Attach) == [Attach(answer.segment, 4 * PAGE_BYTES)]
    for descriptor in (reader.given(Attach)[0], producer.given(Segment)[0]):
        with pytest.raises(OSError, match="not permitted"):
            Mapping(answer.segment, 4 * PAGE_BYTES, descriptor, writable=True)
    theirs = Mapping(answer.segment, 4 * PAGE_BYTES, reader.given(Attach)[0], writable=False)
    mine.view[0] = 9
    assert theirs.view[0] == 9


def test_a_segment_is_usable_when_all_its_readers_have_it(hosted: Hosted) -> None:
    """The producer is told which edges may carry it, and no frame can come before its segment."""
    producer, readers = hosted.process(), [hosted.process() for _ in range(2)]
    for reader in readers:
        hosted.join(producer, reader)
    number = hosted.grown(producer)
    assert producer.told(Usable) == []
    hosted.says(readers[1], Mapped(number))
    assert producer.told(Usable) == []
    hosted.says(readers[0], Mapped(number))
    assert producer.told(Usable) == [Usable("out", number, [0, 1])]


def test_an_output_without_readers_may_use_its_memory_at_once(hosted: Hosted) -> None:
    """A topic that nobody has subscribed to yet keeps its last frame."""
    producer = hosted.process()
    number = hosted.grown(producer)
    assert producer.told(Usable) == [Usable("out", number, [])]


def test_two_edges_to_one_reader_are_one_attachment(hosted: Hosted) -> None:
    """A process maps a segment once, however many of its inputs read it."""
    producer, reader = hosted.process(), hosted.process()
    hosted.join(producer, reader)
    hosted.join(producer, reader)
    number = hosted.grown(producer)
    assert len(reader.told(Attach)) == 1
    hosted.says(reader, Mapped(number))
    assert producer.told(Usable) == [Usable("out", number, [0, 1])]


def test_only_the_readers_of_that_output_get_it(hosted: Hosted) -> None:
    """Neither those of another output of the process, nor those that want nothing shared."""
    producer, of_another, unwilling = (hosted.process() for _ in range(3))
    hosted.join(producer, of_another, "other")
    hosted.join(producer, unwilling, shared=False)
    number = hosted.grown(producer)
    assert of_another.told(Attach) == unwilling.told(Attach) == []
    assert producer.told(Usable) == [Usable("out", number, [])]


def test_a_reader_that_joins_later_gets_what_is_there(hosted: Hosted) -> None:
    """Also a segment that is not mapped by its producer yet, once it is."""
    producer, late = hosted.process(), hosted.process()
    number, next_number = hosted.grown(producer), hosted.grow(producer).segment
    hosted.join(producer, late)
    assert [attach.segment for attach in late.told(Attach)] == [number]
    hosted.says(late, Mapped(number))
    assert producer.told(Usable)[-1] == Usable("out", number, [0])
    hosted.says(producer, Mapped(next_number))
    assert [attach.segment for attach in late.told(Attach)] == [number, next_number]


# --- readers that do not do their part --------------------------------------------------------------------------------


def test_a_reader_that_cannot_map_gets_its_frames_otherwise(hosted: Hosted) -> None:
    """The account of the edge says why, and the others are not held up."""
    producer, able, unable = (hosted.process() for _ in range(3))
    good, bad = hosted.join(producer, able), hosted.join(producer, unable)
    number = hosted.grown(producer)
    hosted.says(able, Mapped(number))
    hosted.says(unable, Mapped(number, "no memory"))
    assert producer.told(Usable) == [Usable("out", number, [0])]
    assert bad.standing == "fast, inline (its consumer cannot map memory: no memory)"
    assert good.standing == "fast, shared memory"
    hosted.grown(producer)
    assert len(unable.told(Attach)) == 1


def test_a_reader_that_is_silent_holds_nobody_up(hosted: Hosted) -> None:
    """After a while the producer goes on without it; when it has mapped after all, with it."""
    producer, able, stopped = (hosted.process() for _ in range(3))
    hosted.join(producer, able)
    edge = hosted.join(producer, stopped)
    number = hosted.grown(producer)
    hosted.says(able, Mapped(number))
    hosted.reactor.passes(PATIENCE_S - 0.1)
    assert producer.told(Usable) == []
    hosted.reactor.passes(0.2)
    assert producer.told(Usable) == [Usable("out", number, [0])]
    assert "did not map memory in time" in edge.standing
    hosted.join(producer, stopped)
    assert len(stopped.told(Attach)) == 1  # it has it, and need only map it
    hosted.says(stopped, Mapped(number))
    assert producer.told(Usable)[-1] == Usable("out", number, [0, 1, 2])
    assert edge.standing == "fast, shared memory"


def test_a_producer_that_cannot_map_has_no_segment(hosted: Hosted) -> None:
    """It is given back at once, and its readers never hear of it."""
    producer, reader = hosted.process(), hosted.process()
    hosted.join(producer, reader)
    hosted.says(producer, Mapped(hosted.grow(producer).segment, "no memory"))
    assert hosted.memory.size_bytes == 0
    assert not reader.told(Attach)
    assert not producer.told(Usable)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_process_has_its_quota_and_no_more(hosted: Hosted) -> None:
    """The refusal says how much it has and wants; what it gives back it can have again; others have their own."""
    producer, other = hosted.process(), hosted.process()
    first = hosted.grow(producer, 1, 1 << 20)
    refused = hosted.grow(producer, 1, PAGE_BYTES)
    assert (refused.segment, refused.descriptor) == (0, -1)
    assert refused.reason == "1 MiB of shared memory and 0 more are over the process's 1 MiB"
    assert hosted.grow(other, 1, 1 << 20).segment
    hosted.says(producer, Retire(first.segment))
    assert hosted.grow(producer, 1, PAGE_BYTES).segment


def test_what_the_machine_does_not_have_is_refused(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a segment is there when it is made, or it is not made: a node must not die for writing to it."""

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    answer = hosted.grow(hosted.process())
    assert (answer.segment, answer.descriptor) == (0, -1)
    assert "No space left on device" in answer.reason
    assert hosted.memory.size_bytes == 0


def test_small_segments_are_counted_too(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a descriptor of the host's, and those end before the quota does."""
    monkeypatch.setattr(host_memory, "MAX_SEGMENTS", 3)
    producer = hosted.process()
    assert all(hosted.grow(producer, 1, 1).segment for _ in range(3))
    refused = hosted.grow(producer, 1, 1)
    assert (refused.segment, refused.reason) == (
        0,
        "the process has 3 segments of shared memory, and may have no more",
    )


# --- frames that go on ------------------------------------------------------------------------------------------------


def chain(hosted: Hosted, *sessions: str) -> tuple[list[Process], int]:
    """Join processes in a line, of these sessions; return them, and a segment of the first that the second has."""
    line = [hosted.process(session) for session in sessions]
    for producer, consumer in itertools.pairwise(line):
        hosted.join(producer, consumer)
    number = hosted.grown(line[0])
    hosted.says(line[1], Mapped(number))
    return line, number


def test_what_was_received_may_be_sent_on_within_a_session(hosted: Hosted) -> None:
    """The readers of the second get the memory of the first; the second is told when they have it."""
    (_, second, third), number = chain(hosted, "s", "s", "s")
    assert third.told(Attach) == []
    hosted.says(second, Share("out", number))
    assert [attach.segment for attach in third.told(Attach)] == [number]
    assert second.told(Usable) == []
    hosted.says(third, Mapped(number))
    assert second.told(Usable) == [Usable("out", number, [1])]
    late = hosted.process("s")
    hosted.join(second, late)
    assert [attach.segment for attach in late.told(Attach)] == [number]


@pytest.mark.parametrize("sessions", [("s", "s", "t"), ("s", "s", ""), ("", "", ""), ("s", "t", "t"), ("s", "", "s")])
def test_memory_does_not_leave_its_session_by_a_third(hosted: Hosted, sessions: tuple[str, ...]) -> None:
    """A topic's subscriber sees its publisher's memory, and hands it on to nobody; nor does anybody hand it to him."""
    (_, second, third), number = chain(hosted, *sessions)
    hosted.says(second, Share("out", number))
    assert third.told(Attach) == []
    assert second.told(Usable)[-1] == Usable("out", number, [])


def test_nobody_hands_on_what_he_was_not_given(hosted: Hosted) -> None:
    """A process that says that it has mapped a segment, although no edge joins it to its owner, is not believed."""
    (_, _), number = chain(hosted, "s", "s")
    liar, accomplice = hosted.process("s"), hosted.process("s")
    hosted.join(liar, accomplice)
    hosted.says(liar, Mapped(number))
    hosted.says(liar, Share("out", number))
    assert accomplice.told(Attach) == liar.told(Attach) == []
    assert liar.told(Usable) == [Usable("out", number, [])]


def test_nothing_is_shared_by_an_output_that_nobody_reads(hosted: Hosted) -> None:
    """What a node makes up about its outputs is not remembered."""
    (_, second), number = chain(hosted, "s", "s")
    for name in range(10):
        hosted.says(second, Share(f"made up {name}", number))
    assert second.told(Usable) == [Usable(f"made up {name}", number, []) for name in range(10)]
    late = hosted.process("s")
    hosted.join(second, late, "made up 3")
    assert late.told(Attach) == []


def test_an_unknown_segment_is_nobodys(hosted: Hosted) -> None:
    """Late words about what is gone do no harm."""
    (first, second), number = chain(hosted, "s", "s")
    hosted.says(first, Retire(number))
    for word in (Mapped(number), Share("out", number), Retire(number), Mapped(99), Retire(99)):
        hosted.says(second, word)
    assert second.told(Usable) == [Usable("out", number, [])]


# --- ends -------------------------------------------------------------------------------------------------------------


def test_what_is_given_back_is_unmapped_by_its_readers(hosted: Hosted) -> None:
    """By all who were handed it, also where they have not said so yet; only its owner gives it back."""
    producer, reader, slow = (hosted.process() for _ in range(3))
    hosted.join(producer, reader)
    hosted.join(producer, slow)
    number = hosted.grown(producer)
    hosted.says(reader, Mapped(number))
    hosted.reactor.passes(PATIENCE_S + 0.1)
    hosted.says(reader, Retire(number))
    assert hosted.memory.size_bytes
    hosted.says(producer, Retire(number))
    assert hosted.memory.size_bytes == 0
    assert reader.told(Detach) == slow.told(Detach) == [Detach(number)]
    assert producer.told(Detach) == []


def test_a_reader_that_ends_is_waited_for_no_longer(hosted: Hosted) -> None:
    """And is told nothing more."""
    producer, able, dying = (hosted.process() for _ in range(3))
    hosted.join(producer, able)
    hosted.join(producer, dying)
    number = hosted.grown(producer)
    hosted.says(able, Mapped(number))
    hosted.memory.ended(dying.endpoint)
    assert producer.told(Usable) == [Usable("out", number, [0])]
    hosted.says(producer, Retire(number))
    assert dying.told(Detach) == []


def test_a_process_that_ends_leaves_its_memory_to_those_who_look_at_it(hosted: Hosted) -> None:
    """The host gives its own part back; what is mapped stays, and nothing goes on by way of it."""
    (first, second, third), number = chain(hosted, "s", "s", "s")
    theirs = Mapping(number, 4 * PAGE_BYTES, second.given(Attach)[0], writable=False)
    hosted.memory.ended(first.endpoint)
    assert hosted.memory.size_bytes == 0
    assert second.told(Detach) == [Detach(number)]
    assert not any(theirs.view)
    hosted.says(second, Share("out", number))
    assert third.told(Attach) == []


def test_whoever_sent_on_and_ended_is_no_way_any_more(hosted: Hosted) -> None:
    """Its readers keep what they have."""
    (_, second, third), number = chain(hosted, "s", "s", "s")
    hosted.says(second, Share("out", number))
    hosted.memory.ended(second.endpoint)
    hosted.join(second, hosted.process("s"))
    assert hosted.processes[-1].told(Attach) == []
    assert third.told(Detach) == []


def test_other_messages_are_not_its_own(hosted: Hosted) -> None:
    """The host asks it first, and goes on with what it does not take."""
    assert not hosted.memory.heard(hosted.process().endpoint, messages.Ping())
