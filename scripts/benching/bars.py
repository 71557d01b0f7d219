"""What the project wants to reach, as data: a bar compares a figure of rmbus with one measured in the same rounds."""

from __future__ import annotations

from typing import Final, Literal

import attrs

from benching.workloads import RELAYS, SIZES, SLEEP_S, Case

Measure = Literal["p50", "p50_ms", "p99", "per_s", "cpu", "drops", "copies", "hops"]
"""What is compared. `drops` and `copies` are counts; `hops` is what a chain takes, without the one copy, over what the
same chain takes with small messages."""


@attrs.frozen
class Side:
    """A figure: of one system, or of the best of several, in a case.

    Attributes:
        systems: the best of them in that case counts. case: where.
    """

    systems: tuple[str, ...]
    case: Case


@attrs.frozen
class Bar:
    """One thing to reach.

    Attributes:
        name: in words.
        measure: what is compared.
        ours: of rmbus. theirs: what it is divided by; None: the limit itself is in the measure's unit.
        limit: the ratio. above: it must reach the limit, and else must not exceed it.
    """

    name: str
    measure: Measure
    ours: Side
    theirs: Side | None
    limit: float
    above: bool = False


COPY, LOAN = "rmbus-copy", "rmbus-loan"
PYZMQ = ("pyzmq-copy", "pyzmq-zerocopy")
BATCHED = ("pyzmq-batch",)
ZENOH, DORA, ICEORYX2 = ("zenoh-default", "zenoh-shm"), ("dora-copy", "dora-loan"), ("iceoryx2-copy", "iceoryx2-loan")
HIGHER_UP = (("dora", DORA), ("ezmsg", ("ezmsg",)), ("zenoh", ZENOH))
EVERY_RIVAL = (*PYZMQ, "mpshm", "ezmsg", *ZENOH, *ICEORYX2, *DORA, "grpc", "ray")
SLOWER_AT_SOUND = ("mpshm", "ezmsg", *DORA, "grpc", "ray")
"""Every rival but pyzmq, which has a bar of its own, Zenoh and iceoryx2."""

MANY_SAMPLES: Final = 5000
"""So many make a 99th percentile."""

ENOUGH_ROUNDS: Final = 7

COMPARED: Final = ("64B", "1.9KB", "0.92MB", "6.2MB", "24.9MB")


def hop(size: str, rate_hz: int = 30) -> Case:
    """Return the case of one hop."""
    return Case("latency", SIZES[size], rate_hz)


def flow(size: str) -> Case:
    """Return the case of throughput."""
    return Case("throughput", SIZES[size])


FOUR: Final = Case("fanout4", SIZES["6.2MB"], 30, 4)
SLOW: Final = Case("fanout4-slow", SIZES["6.2MB"], 30, 4, sleep_s=SLEEP_S)
SMALL_CHAIN: Final = Case("chain", SIZES["64B"], 30, relays=RELAYS)
LARGE_CHAIN: Final = Case("chain", SIZES["6.2MB"], 30, relays=RELAYS)


def _versus(
    measure: Measure, case: Case, ours: str, name: str, theirs: tuple[str, ...], limit: float, *, above: bool = False
) -> Bar:
    short = ours.removeprefix("rmbus-")
    return Bar(f"{short} against {name}", measure, Side((ours,), case), Side(theirs, case), limit, above)


def _latency() -> tuple[Bar, ...]:
    bars: list[Bar] = []
    for size in COMPARED:
        case = hop(size)
        bars.append(_versus("p50", case, COPY, "iceoryx2, copied in", ("iceoryx2-copy",), 1.0))
        bars.append(_versus("p50", case, LOAN, "iceoryx2, loan", ("iceoryx2-loan",), 1.2))
        bars.append(_versus("p50", case, COPY, "multiprocessing shm", ("mpshm",), 1.0))
        for name, systems in HIGHER_UP:
            bars.append(_versus("p50", case, COPY, name, systems, 2 / 3))
            bars.append(_versus("p50", case, LOAN, name, systems, 1 / 2))
    bars.append(_versus("p50", hop("64B"), COPY, "the best pyzmq", PYZMQ, 1.0))
    bars.append(_versus("p50", hop("6.2MB"), COPY, "the best pyzmq", PYZMQ, 1 / 3))
    for size in ("64B", "1.9KB", "0.92MB"):
        bars.append(_versus("p99", hop(size, 1000), COPY, "the best rival", EVERY_RIVAL, 1.2))
    flat = Bar("loan, 24.9 MB against 64 KB", "p50", Side((LOAN,), hop("24.9MB")), Side((LOAN,), hop("64KB")), 2.0)
    return (*bars, flat)


def _throughput() -> tuple[Bar, ...]:
    small, sound = flow("64B"), flow("1.9KB")
    bars = [
        _versus("per_s", small, COPY, "pyzmq, batched", BATCHED, 0.15, above=True),
        _versus("per_s", small, COPY, "pyzmq, one by one", PYZMQ, 0.5, above=True),
        _versus("per_s", sound, COPY, "pyzmq", PYZMQ, 0.5, above=True),
    ]
    bars += [_versus("per_s", sound, COPY, each, (each,), 1.0, above=True) for each in SLOWER_AT_SOUND]
    for size in ("0.92MB", "6.2MB"):
        bars.append(_versus("per_s", flow(size), COPY, "iceoryx2, copied in", ("iceoryx2-copy",), 0.8, above=True))
        bars.append(_versus("per_s", flow(size), LOAN, "iceoryx2, copied in", ("iceoryx2-copy",), 1.0, above=True))
    return tuple(bars)


def _shapes() -> tuple[Bar, ...]:
    return (
        Bar("the fourth reader against a single one", "p50", Side((COPY,), FOUR), Side((COPY,), hop("6.2MB")), 1.5),
        _versus("cpu", FOUR, COPY, "iceoryx2, copied in", ("iceoryx2-copy",), 1.3),
        _versus("cpu", FOUR, LOAN, "iceoryx2, loan", ("iceoryx2-loan",), 1.3),
        Bar(
            "the others' rate beside a sleeper, at 30 Hz",
            "per_s",
            Side((COPY,), SLOW),
            None,
            0.99 * 30,
            above=True,
        ),
        Bar("the sleeper's drops, counted exactly", "drops", Side((COPY,), SLOW), None, 1.0, above=True),
        Bar("copies of a frame along the chain", "copies", Side((COPY,), LARGE_CHAIN), None, 1.0),
        Bar(
            "less one copy, against small messages",
            "hops",
            Side((COPY,), LARGE_CHAIN),
            Side((COPY,), SMALL_CHAIN),
            1.15,
        ),
    )


def _objects() -> tuple[Bar, ...]:
    def call(size: str) -> Case:
        return Case("call", SIZES[size])

    cached, new, ours = Case("ship-cached", 64), Case("ship-new", 64), "rmbus-object"
    grpc, ray = ("grpc-cloudpickle",), ("ray-actor",)
    return (
        Bar("cached code to first result, ms", "p50_ms", Side((ours,), cached), None, 25.0),
        Bar("new code to first result, ms", "p50_ms", Side((ours,), new), None, 60.0),
        _versus("p50", cached, ours, "ray", ray, 1 / 30),
        _versus("p50", call("64B"), ours, "grpc", grpc, 1 / 2),
        _versus("p50", call("64B"), ours, "ray", ray, 1 / 5),
        _versus("p50", call("1MiB"), ours, "grpc", grpc, 1 / 5),
        _versus("p50", call("24.9MB"), ours, "ray", ray, 1 / 4),
    )


BARS: Final = (*_latency(), *_throughput(), *_shapes(), *_objects())
