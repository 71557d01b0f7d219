"""A node's part in shared memory: what it does with what the host says of it, in the umbilical's own thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from hosting import open_descriptors

from rmbus.protocol import messages
from rmbus.protocol.messages import Attach, Detach, Grow, Mapped, Retire, Segment, Share, Usable
from rmbus.runtime import memory as node_memory
from rmbus.runtime.memory import NodeMemory
from rmbus.transport.memory import PAGE_BYTES


@pytest.fixture
def said() -> list[messages.Message]:
    return []


@pytest.fixture
def memory(said: list[messages.Message]) -> Generator[NodeMemory]:
    before = len(open_descriptors()) - mapped()
    yield NodeMemory(said.append)
    assert len(open_descriptors()) - mapped() == before  # what was handed to it is closed, whatever became of it


def mapped() -> int:
    """Count the files that are mapped: Python keeps a descriptor of its own for each."""
    return sum("rmbus-test-file" in line for line in Path("/proc/self/maps").read_text().splitlines())


def file(size: int = 4 * PAGE_BYTES) -> int:
    descriptor = os.memfd_create("rmbus-test-file", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return descriptor


def answer_in_thread(memory: NodeMemory, *answers: tuple[messages.Message, list[int]]) -> threading.Thread:
    """Let the umbilical's thread take these messages."""
    thread = threading.Thread(target=lambda: [memory.take(message, given) for message, given in answers])
    thread.start()
    return thread


def test_a_pool_gets_what_it_asks_the_host_for(memory: NodeMemory, said: list[messages.Message]) -> None:
    """Asked in the middle of the user's code, answered by the umbilical's thread, mapped, and said so."""
    threads: list[threading.Thread] = []

    def host(message: messages.Message) -> None:
        said.append(message)
        if isinstance(message, Grow):
            threads.append(
                answer_in_thread(
                    memory,
                    (Segment("out", 7, message.slots, message.slot_bytes, 0), [file(message.slots * PAGE_BYTES)]),
                    (Usable("out", 7, [3]), []),
                )
            )

    memory._say = host
    slot = memory.pool("out", lambda: None).acquire(100)
    threads[0].join()
    assert slot is not None
    assert slot.place == (7, 0, 100)
    assert said == [Grow("out", 8, PAGE_BYTES), Mapped(7)]
    assert memory.readers(3) == {7}
    assert memory.readers(4) == set()


def test_each_output_has_a_pool_of_its_own(memory: NodeMemory, said: list[messages.Message]) -> None:
    """Words about the one are not taken for the other's."""
    one, other = memory.pool("one", lambda: None), memory.pool("other", lambda: None)
    memory.take(Segment("one", 1, 4, PAGE_BYTES, 0), [file()])
    memory.take(Segment("other", 2, 4, PAGE_BYTES, 0), [file()])
    memory.take(Usable("one", 1, []), [])
    memory.take(Usable("other", 2, []), [])
    for pool, number in ((one, 1), (other, 2)):
        slot = pool.acquire(10)
        assert slot is not None
        assert slot.place.segment == number


def test_a_refusal_reaches_its_pool(memory: NodeMemory, said: list[messages.Message]) -> None:
    """The host has no memory, or this process cannot map it: both are told, and the node goes on without."""
    pool = memory.pool("out", lambda: None)
    memory.take(Segment("out", 0, reason="over the quota"), [])
    assert pool.reason == "over the quota"
    other = memory.pool("other", lambda: None)
    reader, writer = os.pipe()
    os.close(writer)
    memory.take(Segment("other", 2, 4, PAGE_BYTES, 0), [reader])  # nothing that can be mapped
    (problem,) = said
    assert isinstance(problem, Mapped)
    assert (problem.segment, problem.problem) == (2, other.reason)
    assert "Errno" in other.reason


def test_memory_of_others_is_mapped_for_reading(memory: NodeMemory, said: list[messages.Message]) -> None:
    """It is there by its number until the host takes it back."""
    assert memory.take(Attach(5, 4 * PAGE_BYTES, 0), [file()])
    assert said == [Mapped(5)]
    assert memory.segments[5].view.readonly
    assert memory.segments[5].size == 4 * PAGE_BYTES
    assert memory.take(Detach(5), [])
    assert memory.take(Detach(5), [])
    assert memory.segments == {}


def test_memory_that_cannot_be_mapped_is_told(memory: NodeMemory, said: list[messages.Message]) -> None:
    """Its producer then sends what would lie there otherwise."""
    reader, writer = os.pipe()
    os.close(writer)
    memory.take(Attach(5, PAGE_BYTES, 0), [reader])
    (problem,) = said
    assert isinstance(problem, Mapped)
    assert "Errno" in problem.problem
    assert memory.segments == {}


def test_what_a_consumer_has_mapped_is_known_to_its_edge(memory: NodeMemory) -> None:
    """The set that a link was given grows as readers say that they have it."""
    readers = memory.readers(0)
    memory.take(Usable("out", 1, [0, 2]), [])
    memory.take(Usable("out", 2, [2]), [])
    memory.take(Usable("out", 3, [0]), [])
    assert readers == {1, 3}
    assert memory.readers(2) == {1, 2}


def test_other_messages_are_not_its_own(memory: NodeMemory) -> None:
    """They go to the data thread."""
    assert not memory.take(messages.Go("s"), [])


def test_what_is_not_used_any_more_goes_back(
    memory: NodeMemory, said: list[messages.Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host hears which segment it is."""
    pool = memory.pool("out", lambda: None)
    memory.take(Segment("out", 1, 4, PAGE_BYTES, 0), [file()])
    memory.take(Usable("out", 1, []), [])
    pool.retire(1)
    pool.trim()
    assert said == [Mapped(1), Retire(1)]


def test_sharing_waits_for_the_hosts_word(memory: NodeMemory, said: list[messages.Message]) -> None:
    """Of that output and that segment: the word about another does not count."""
    threads: list[threading.Thread] = []

    def host(message: messages.Message) -> None:
        said.append(message)
        words = [Usable("other", 9, []), Usable("out", 8, []), Usable("out", 9, [4])]
        threads.append(answer_in_thread(memory, *((word, []) for word in words)))

    memory._say = host
    assert memory.share("out", 9)
    threads[0].join()
    assert said == [Share("out", 9)]
    assert memory.readers(4) == {9}


def test_sharing_does_not_wait_for_ever(memory: NodeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that does not answer costs a bounded time; what it says about other questions is not its answer."""
    monkeypatch.setattr(node_memory, "SHARE_S", 0.01)

    def host(message: messages.Message) -> None:
        memory.take(Usable("other", 9, []), [])
        memory.take(Usable("out", 8, []), [])

    memory._say = host
    memory.take(Usable("out", 9, []), [])  # of a question that was asked before
    assert not memory.share("out", 9)
