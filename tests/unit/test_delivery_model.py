"""Delivery as a whole against a simple oracle, in any order of events; and what that has found, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from delivering import Delivering, delivering
from hypothesis import Phase, settings
from reading import check_content, fill_of

from rmbus.delivery import drop_oldest
from rmbus.media import Data
from rmbus.stamps import memory_of
from rmbus.transport.memory import Held

TestDelivering = Delivering.TestCase
TestDelivering.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, phases=[Phase.explicit, Phase.generate, Phase.shrink]
)


def test_what_a_dead_relay_had_sent_on_is_never_written_again() -> None:
    """Its reader still looks at the source's memory, by leases that nobody gives back any more."""
    with delivering() as machine:
        machine.flows(["large"] * 4, is_lent=True, keep=True)
        (sink,) = machine.sent_on.readers
        assert any(memory_of(frame) is not None for frame in sink.kept)
        for reader in machine.source.readers:
            reader.kept.clear()
        machine.the_relay_dies(0)
        machine.flows(["large"] * 20, is_lent=True, keep=False)
        machine.nothing_that_somebody_sees_changes()


def test_what_a_dead_reader_may_have_lent_on_is_never_written_again() -> None:
    """Its producer, who had it from a source himself, tells that source so when he gives it back."""
    with delivering() as machine:
        machine.flows(["large"] * 4, is_lent=True, keep=True)
        (sink,) = machine.sent_on.readers
        machine.sent_on.lose(sink, "consumer_died")
        machine.somebody_died = True
        for reader in machine.source.readers:
            reader.kept.clear()
        machine.flows(["large"] * 20, is_lent=True, keep=False)
        assert any(memory_of(frame) is not None for frame in sink.kept)
        for frame in sink.kept:
            check_content(frame)


@pytest.mark.parametrize("then", ["delta", "large", "small"])
def test_the_last_frame_comes_in_its_own_format(then: str) -> None:
    """Whatever format is in force by now."""
    with delivering(keeps_last=True) as machine:
        machine.flows(["small", then], is_lent=False, keep=False)
        machine.somebody_subscribes(drop_oldest(4), shares=True, last=True)
        late = machine.source.readers[-1]
        machine.flows(["key"], is_lent=False, keep=False)
        machine.run()
        assert late.seen == [0 if then == "delta" else 1, 2]


def test_what_was_interrupted_is_nobodys_last_frame() -> None:
    """A new turn makes void what was kept for those who come later."""
    with delivering(keeps_last=True) as machine:
        machine.flows(["small"], is_lent=False, keep=False)
        machine.source.interrupt()
        machine.somebody_subscribes(drop_oldest(4), shares=True, last=True)
        machine.run()
        assert machine.source.readers[-1].seen == []


@pytest.mark.parametrize(("last", "wanted"), [(False, [4, 5]), (True, [0, 4, 5])])
def test_who_comes_in_mid_stream_is_given_nothing_that_cannot_be_decoded(last: bool, wanted: list[int]) -> None:
    """Packets of video come from the next key on; the last key before comes too, where the last frame is asked for."""
    with delivering(keeps_last=True) as machine:
        machine.flows(["key", "delta"], is_lent=False, keep=False)
        machine.somebody_subscribes(drop_oldest(4), shares=True, last=last)
        late = machine.source.readers[-1]
        machine.flows(["delta", "delta", "key", "delta"], is_lent=False, keep=False)
        machine.run()
        assert late.seen == wanted
        assert late.edge.page.dropped() == {"awaiting_key": 2}


def test_who_comes_right_behind_a_key_can_go_on_from_it() -> None:
    """Where the key is the last frame, and is asked for, what follows can be decoded."""
    with delivering(keeps_last=True) as machine:
        machine.flows(["key", "delta", "key"], is_lent=False, keep=False)
        machine.somebody_subscribes(drop_oldest(4), shares=True, last=True)
        machine.flows(["delta"], is_lent=False, keep=False)
        machine.run()
        assert machine.source.readers[-1].seen == [2, 3]


@pytest.mark.parametrize(
    ("change", "wanted"), [("nothing", [0, fill_of(0)]), ("number", [9, fill_of(0)]), ("array", [0, 9])]
)
def test_a_value_that_was_changed_is_sent_on_as_it_is_now(change: str, wanted: list[int]) -> None:
    """What has not been changed goes on in the memory that it came in; what has, is written anew."""
    with delivering() as machine:
        machine.sends(["value"], is_lent=False)
        machine.run_lanes()
        send_on_changed(machine, change)
        machine.run_lanes()
        got, segment = take_value(machine)
        assert got == wanted
        assert (segment == 1) == (change == "nothing")  # the source's


def send_on_changed(machine: Delivering, change: str) -> None:
    """Let the relay send on what it was given, changed or not."""
    assert machine.into_relay.begin({}) is None  # the format
    frame = machine.into_relay.begin({})
    assert isinstance(frame, Data)
    if change == "array":
        frame.value["array"] = np.full(300, 9, np.uint8)
    elif change == "number":
        frame.value["number"] = 9
    machine.sent_on.send(frame)
    machine.into_relay.finish(keep=False)


def take_value(machine: Delivering) -> tuple[list[int], int]:
    """Return what has reached the last reader, and in which segment; then let it be what the end expects."""
    (sink,) = machine.sent_on.readers
    (frame,) = [arrival.frame for arrival in sink.inbox if arrival.frame is not None]
    assert isinstance(frame, Data)
    got = [frame.value["number"], int(frame.value["array"][0])]
    frame.value["number"], frame.value["array"] = 0, np.full(300, fill_of(0), np.uint8)
    held = memory_of(frame)
    assert isinstance(held, Held)
    return got, held.place.segment
