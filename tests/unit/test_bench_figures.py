"""The arithmetic of scripts/bench: pace, contents, joining, ratios, rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from benching.campaign import Results
from benching.catalogue import RIVALS, chosen_systems
from benching.gauge import Account
from benching.measured.code import Code
from benching.measured.pacing import Pace
from benching.measured.payload import Payload, number_of
from benching.measured.task import Task
from benching.ratios import holds_above, holds_below, per_round, pooled_summary, summary
from benching.rows import Row, cpu_s_per_gb, row_of, rows_of, write_json
from benching.runs import Outcome, RunFailed, busy_rate, figures
from benching.systems.rmbus_nodes import make_frame, place_of
from benching.tables import case_cells, ratio_cells
from benching.workloads import FULL, SIZES, Case, chosen, full_cases, quick_cases

SMALL = Case("latency", 64, 30)


def make_task(**changes: Any) -> Task:
    base = Task(
        system="rmbus",
        variant="copy",
        workload="latency",
        size=64,
        rate_hz=0,
        warmup=3,
        warmup_s=1.0,
        count=5,
        seconds=2.0,
        readers=1,
        relays=0,
        sleep_s=0.0,
        folder="/tmp",
        gauge="/tmp/gauge",
    )
    return Task(**(base.__dict__ | changes))


def make_outcome(latency_us: Sequence[float] = (100.0, 200.0, 300.0), **changes: Any) -> Outcome:
    times = np.asarray(latency_us, np.float64) * 1000
    given: dict[str, Any] = {"per_s": 30.0, "cpu_s": 0.5, "window_s": 1.0, "rss_bytes": 1000, "lost": 0}
    return Outcome(latency_ns=times.astype(np.int64), **given | changes)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


# --- pace -----------------------------------------------------------------------------------------------------------


def test_a_late_message_does_not_delay_the_next() -> None:
    """Deadlines are absolute: after a delay the wait is shorter, and none is negative."""
    clock = Clock()
    pace = Pace(make_task(rate_hz=10, warmup=100), lambda: None, clock)
    assert pace.wait_s(1) == pytest.approx(0.1)
    clock.pass_s(0.15)
    assert pace.wait_s(1) == 0
    assert pace.wait_s(2) == pytest.approx(0.05)


def test_the_window_opens_once_and_counts_its_deadlines_anew() -> None:
    """What opening takes does not make the first messages of the window late."""
    clock, opened = Clock(), []

    def begin() -> None:
        opened.append(clock.now_ns)
        clock.pass_s(5)

    pace = Pace(make_task(rate_hz=10, warmup=3, count=5), begin, clock)
    assert [pace.wait_s(number) for number in range(3)] == pytest.approx([0, 0.1, 0.2])
    assert opened == []
    assert pace.wait_s(3) == 0
    assert pace.wait_s(4) == pytest.approx(0.1)
    assert pace.wait_s(8) is None
    assert (len(opened), pace.first) == (1, 3)


def test_without_a_pace_time_ends_the_warm_up_and_the_window() -> None:
    """Nothing waits; the window begins after `warmup_s`, and is over after `seconds` more."""
    clock, opened = Clock(), []
    pace = Pace(make_task(warmup_s=1.0, seconds=2.0), lambda: opened.append(1), clock)
    assert pace.wait_s(0) == 0
    clock.pass_s(1.1)
    assert pace.wait_s(700) == 0
    assert (opened, pace.first) == ([1], 700)
    clock.pass_s(1.9)
    assert pace.wait_s(701) == 0
    clock.pass_s(0.2)
    assert pace.wait_s(702) is None


def test_records_have_room_for_every_message() -> None:
    """Without a pace sending ends when the records are full."""
    task = make_task(warmup_s=1.0, seconds=100.0)
    pace = Pace(task, lambda: None, Clock())
    assert task.capacity == 4_000_000
    pace.wait_s(0)
    clock = Clock()
    pace = Pace(make_task(warmup_s=0.0, seconds=100.0), lambda: None, clock)
    pace.wait_s(0)
    assert pace.wait_s(task.capacity - 1) == 0
    assert pace.wait_s(task.capacity) is None


# --- contents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_a_payload_is_whole_only_as_it_was_sent(size: int) -> None:
    """The number, a word in the middle and the last bytes are looked at."""
    payload, array = Payload(size), make_frame(size).editable()
    payload.render(array, 77)
    assert (array.nbytes, number_of(array)) == (size, 77)
    assert payload.is_whole(array, 77)
    assert not payload.is_whole(array, 78)
    flat = array.reshape(-1).view(np.uint8)
    for place in (0, 8, size // 16 * 8, size - 1):
        flat[place] ^= 1
        assert not payload.is_whole(array, 77)
        flat[place] ^= 1
    assert not payload.is_whole(array[:-1] if size != 1920 else array[:, :-2], 77)


def test_a_stamp_alone_marks_both_ends() -> None:
    """Without a pace only the first and the last word are written, and looked at."""
    payload, array = Payload(64), np.zeros(64, np.uint8)
    payload.stamp(array, 5)
    assert payload.is_whole(array, 5, rendered=False)
    assert not payload.is_whole(array, 5)
    array[-1] ^= 1
    assert not payload.is_whole(array, 5, rendered=False)


def test_no_payload_is_too_small_for_its_words() -> None:
    """Sizes are multiples of eight from 64 up."""
    for size in (56, 65):
        with pytest.raises(ValueError, match="multiple of 8"):
            Payload(size)


# --- joining --------------------------------------------------------------------------------------------------------


def times(*values: int) -> Any:
    return np.asarray(values, np.int64)


def test_latency_is_joined_by_number_in_the_window() -> None:
    """Warm-up is left out; the last of several readers counts; a message that one misses is lost."""
    sent = times(10, 20, 30, 40, 0)
    fast, slow = times(11, 25, 33, 44, 0), times(12, 29, 0, 49, 0)
    latency_ns, per_s, lost = figures(sent, [fast, slow], first=1)
    assert latency_ns.tolist() == [9, 9]
    assert per_s == pytest.approx(1e9 / 20)  # of the slow one: 2 messages, 20 ns apart
    assert lost == 1


def test_a_run_without_arrivals_fails() -> None:
    """No figure is made of nothing."""
    with pytest.raises(RunFailed, match="nothing arrived"):
        figures(times(10, 20, 30), [times(11, 0, 0)], first=1)


def test_a_place_in_shared_memory_is_told_by_file_and_offset() -> None:
    """Two mappings of one file at different addresses are the same place; private memory is its process's own."""
    maps = "7f00-7fff r--s 00001000 00:01 42 /memfd:pool (deleted)\n8000-8fff rw-p 00000000 00:00 0\n"
    elsewhere = "9000-9fff rw-s 00001000 00:01 42 /memfd:pool (deleted)\n"
    assert place_of(0x7F10, maps) == place_of(0x9010, elsewhere) == "00:01 42 0x1010"
    assert place_of(0x7F10, maps) != place_of(0x7F11, maps)
    assert place_of(0x8010, maps).startswith("process ")


# --- ratios ---------------------------------------------------------------------------------------------------------


def test_ratios_are_of_the_same_round() -> None:
    """A round that one of the two has missed gives none."""
    assert per_round({0: 2.0, 1: 9.0, 2: 6.0}, {0: 1.0, 2: 2.0, 3: 1.0}) == [2.0, 3.0]


def test_the_interval_is_seeded_and_holds_the_median() -> None:
    """The same ratios always give the same interval; one odd round does not move the median."""
    ratios = [1 + np.sin(number * number) / 10 for number in range(40)]
    found = summary(ratios)
    assert {summary(ratios) for _ in range(5)} == {found}
    assert 0.9 <= found.low < found.median < found.high <= 1.1
    assert found.rounds == 40
    assert summary([1.0] * 6 + [9.0]).median == 1.0
    with pytest.raises(ValueError, match="no round"):
        summary([])


def test_percentiles_are_over_all_rounds() -> None:
    """The ratio of two 99th percentiles is of the pooled samples, not of the rounds' percentiles."""
    ours = {0: [1.0] * 99 + [100.0], 1: [1.0] * 100}
    theirs = {0: [1.0] * 100, 1: [1.0] * 100, 2: [7.0]}
    found = pooled_summary(ours, theirs, 99)
    assert found.median == 1.0
    assert found.rounds == 2
    assert found.low <= found.median <= found.high


def test_a_bar_asks_for_the_interval_and_for_the_median() -> None:
    """The better end is within the bar, and the median within 1.05 of it."""
    near = summary([1.04, 0.99, 1.04, 1.2, 1.04, 0.98, 1.1])
    far = summary([1.06, 0.99, 1.06, 1.2, 1.06, 0.98, 1.1])
    sure = summary([1.04] * 7)
    assert holds_below(near, 1.0)
    assert not holds_below(far, 1.0)
    assert not holds_below(sure, 1.0)
    assert holds_above(summary([0.96, 1.01, 0.96, 0.8, 0.96, 1.02, 0.9]), 1.0)
    assert not holds_above(summary([0.94, 1.01, 0.94, 0.8, 0.94, 1.02, 0.9]), 1.0)
    assert not holds_above(summary([0.96] * 7), 1.0)


# --- rows -----------------------------------------------------------------------------------------------------------


def test_a_row_has_these_keys(tmp_path: Path) -> None:
    """Programs read them: a name that changes breaks those."""
    results = Results({SMALL: ("a", "b")}, {("a", SMALL): {0: make_outcome()}}, {("b", SMALL): "is broken"})
    write_json(tmp_path / "rows.json", rows_of(results))
    rows = json.loads((tmp_path / "rows.json").read_text())
    keys = ["system", "workload", "size_bytes", "rate_hz", "p50_us", "p99_us", "per_s", "cpu_s", "rss_bytes", "lost"]
    assert [list(row) for row in rows] == [keys, keys]
    assert rows[1] == dict.fromkeys(keys) | {"system": "b", "workload": "latency", "size_bytes": 64, "rate_hz": 30}


def test_rows_are_medians_over_rounds_and_sums_of_what_was_lost() -> None:
    """A lost message is not hidden by six rounds that lost none."""
    rounds = {
        0: make_outcome([100, 100, 100], per_s=29.0, cpu_s=1.0, rss_bytes=10),
        1: make_outcome([200, 200, 200], per_s=30.0, cpu_s=2.0, rss_bytes=20, lost=3),
        2: make_outcome([900, 900, 900], per_s=31.0, cpu_s=9.0, rss_bytes=90),
    }
    row = row_of(Results({SMALL: ("a",)}, {("a", SMALL): rounds}), "a", SMALL)
    assert attrs.evolve(row, p99_us=0.0) == Row("a", "latency", 64, 30, 200.0, 0.0, 30.0, 2.0, 20, 3)
    assert row.p99_us == 900.0


def test_throughput_has_no_latency() -> None:
    """What waits in queues that are kept full says nothing."""
    case = Case("throughput", 64)
    row = row_of(Results({case: ("a",)}, {("a", case): {0: make_outcome(per_s=5e5)}}), "a", case)
    assert (row.p50_us, row.p99_us, row.per_s) == (None, None, 5e5)


def test_processor_time_is_for_each_gigabyte_that_a_reader_got() -> None:
    """Four readers of one frame have got four frames."""
    case = Case("fanout4", 10**9, 30, readers=4)
    outcome = make_outcome([1, 1], cpu_s=16.0)
    assert cpu_s_per_gb(Results({case: ("a",)}, {("a", case): {0: outcome}}), "a", case) == 2.0


# --- what is measured -----------------------------------------------------------------------------------------------


def test_a_full_run_has_samples_for_a_99th_percentile() -> None:
    """Seven rounds at 1 kHz are at least 5000 messages."""
    assert 7 * FULL.by_rate[1000] >= 5000


def test_cases_are_chosen_by_group_and_size() -> None:
    """What is not there is refused, with what is."""
    assert {case.workload for case in chosen(full_cases(), ["fanout"], [])} == {"fanout4", "fanout16", "fanout4-slow"}
    assert [str(case) for case in chosen(full_cases(), ["chain"], ["64B"])] == ["chain 64B 30 Hz"]
    assert set(quick_cases()) < set(full_cases())
    assert {case.group for case in quick_cases()} == {"latency", "throughput", "fanout", "chain", "ship", "call"}
    with pytest.raises(ValueError, match=r"no group 'speed'; there are latency"):
        chosen(full_cases(), ["speed"], [])


def test_systems_are_chosen_by_family_and_name() -> None:
    """rmbus is always there, rivals where they are asked for."""
    assert {system.family for system in chosen_systems([], [])} == {"rmbus"}
    assert {system.family for system in chosen_systems(["all"], [])} == {"rmbus", *RIVALS}
    assert [system.name for system in chosen_systems(["zenoh"], ["zenoh-shm", "rmbus-copy"])] == [
        "rmbus-copy",
        "zenoh-shm",
    ]
    with pytest.raises(ValueError, match="no rival 'zmq'"):
        chosen_systems(["zmq"], [])
    with pytest.raises(ValueError, match="no system 'dora'"):
        chosen_systems(["zenoh"], ["dora"])


def test_processor_time_is_that_between_the_two_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start-up is left out; a process that came later counts whole, one that has ended with what it had."""
    clocks = {1: 10.0, 2: 5.0}
    monkeypatch.setattr("benching.gauge.marked", lambda mark: set(clocks))
    monkeypatch.setattr("benching.gauge.processor_s", lambda pid: clocks.get(pid))
    monkeypatch.setattr("benching.gauge.memory_bytes", lambda pids: 100 * len(list(pids)))
    account = Account("mark", 2)
    assert account.answer("flows?") == "no"
    assert [account.answer("flows"), account.answer("flows")] == ["ok", "ok"]
    assert account.answer("flows?") == "yes"
    account.answer("begin")
    clocks |= {1: 11.0, 3: 0.5}
    account.answer("end source")
    del clocks[1]
    clocks[2] = 7.0
    account.answer("end reader 0")
    assert account.answer("over?") == "no"
    account.answer("end reader 1")
    assert account.answer("over?") == "yes"
    assert account.cpu_s == pytest.approx(1.0 + 2.0 + 0.5)
    assert account.rss_bytes == 300


# --- shipping and calling -------------------------------------------------------------------------------------------


def test_results_of_a_burst_share_the_time_that_they_were_waited_for() -> None:
    """Two at once, the last after 2 s, and one alone for 1 s; what lies between does not count."""
    sent, arrived = np.array([0, 0, 10]) * 10**9, np.array([1, 2, 11]) * 10**9
    assert busy_rate(sent, arrived) == 1.0


def test_an_edit_of_one_module_changes_what_the_object_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The salt of the edited module comes back, so old code would be seen."""
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    code = Code(tmp_path / "code", "edited_code", 5)
    array = np.full(8, 3, np.uint64)
    assert code.tool().answer(array).tolist() == [3, 5, 2, 3, 4, 5, 6, 3]
    code.edit(6)
    assert code.tool().answer(array)[1] == 6
    array[-1] = 4
    with pytest.raises(ValueError, match="did not arrive as it was sent"):
        code.tool().answer(array)
    code.edit(7)  # nothing of it stays imported


def test_the_processor_time_so_far_tells_whether_a_run_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of all its processes; one that has ended counts no more."""
    clocks = {1: 10.0, 2: 5.5}
    monkeypatch.setattr("benching.gauge.marked", lambda mark: {1, 2, 3})
    monkeypatch.setattr("benching.gauge.processor_s", lambda pid: clocks.get(pid))
    assert Account("mark", 1).answer("used?") == "15.5"


def test_small_ratios_are_told_with_what_matters_of_them() -> None:
    """A thirtieth is no 0.03."""
    assert str(summary([1 / 30])) == "0.033 [0.033, 0.033]"
    assert str(summary([1.5])) == "1.50 [1.50, 1.50]"


def test_objects_are_compared_with_each_of_the_others_round_by_round() -> None:
    """Calls by their time, streams by their rate; the level stands behind the name."""
    call, stream = Case("call", 64), Case("stream", 64)
    names = ("rmbus-object", "ray-actor")
    found = Results({call: names, stream: names, Case("chain", 64, 30, relays=4): names})
    for number in range(3):
        for name, p50, per_s in zip(names, (200, 1000 * (number + 1)), (30.0, 10.0), strict=True):
            made = Outcome(np.full(4, p50), per_s, 1.0, 1.0, 1, 0, level="jail" if name == "rmbus-object" else "none")
            for case in found.planned:
                found.outcomes.setdefault((name, case), {})[number] = made
    assert ratio_cells(found) == [
        ("call 64B", "rmbus-object", "ray-actor", "p50", "0.10 [0.067, 0.20]", "3"),
        ("stream 64B", "rmbus-object", "ray-actor", "per_s", "3.00 [3.00, 3.00]", "3"),
    ]
    assert [cells[0] for cells in case_cells(found, call)] == ["rmbus-object (jail)", "ray-actor (none)"]
