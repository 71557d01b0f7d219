"""Zenoh: peers that talk to each other directly, without a router.

Documented API: `Session.declare_publisher` and `Publisher.put`, `Session.declare_subscriber` with a channel and
`recv`. A payload is bytes or a bytearray, and arrives as a `ZBytes`, of which `to_bytes()` makes bytes: that is what
Python is given. Settings: scouting is off, the readers listen on a Unix socket of their own and the publisher
connects to them; `CongestionControl.BLOCK`, `express`, and a first-in-first-out channel of 256 small messages or 8
large ones, so that nothing is lost; in the run with a slow reader a ring channel of 8 for each, which drops the
oldest. Batching is on where there is no pace.

Variants: `default`, a plain put, which Zenoh itself moves through shared memory above 3 KB: its pool, 16 MB by
default, has room for sixteen frames; `shm`, a buffer of a `ShmProvider` of that size that the array is copied into.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import zenoh
import zenoh.shm

from benching.measured.payload import Array
from benching.measured.roles import play
from benching.measured.task import Task

SMALL = 65_536
POOL_FRAMES = 16


def _pool_bytes(task: Task) -> int:
    return max(16 * 2**20, POOL_FRAMES * task.size)


def _open(task: Task, **ends: list[str]) -> Any:
    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("scouting/gossip/enabled", "false")
    config.insert_json5("transport/shared_memory/transport_optimization/pool_size", str(_pool_bytes(task)))
    config.insert_json5("connect/retry", '{"period_init_ms": 50, "period_max_ms": 200, "period_increase_factor": 2}')
    config.insert_json5("listen/endpoints", json.dumps(ends.get("listen", [])))
    config.insert_json5("connect/endpoints", json.dumps(ends.get("connect", [])))
    return zenoh.open(config)


def _endpoint(task: Task, topic: str, number: int) -> str:
    return f"unixsock-stream/{task.folder}/{topic}-{number}"


class Sender:
    """Puts bytes under a key."""

    def __init__(self, task: Task, topic: str, readers: int) -> None:
        self._session = _open(task, connect=[_endpoint(task, topic, number) for number in range(readers)])
        self._publisher = self._session.declare_publisher(
            topic,
            congestion_control=zenoh.CongestionControl.BLOCK,
            reliability=zenoh.Reliability.RELIABLE,
            express=task.is_paced,
        )
        self._provider: Any = None
        if task.variant == "shm":
            self._provider = zenoh.shm.ShmProvider.default_backend(_pool_bytes(task))
        self._policy = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())
        self._size = task.size
        self._bytes = bytearray(task.size)
        self._array = np.frombuffer(self._bytes, np.uint8)

    def array(self) -> Array:
        """Return one's own array, over a bytearray."""
        return self._array

    def _put(self, data: bytes | bytearray) -> None:
        if self._provider is None:
            self._publisher.put(data)
            return
        buffer = self._provider.alloc(self._size, self._policy)
        buffer[:] = data
        self._publisher.put(buffer)

    def publish(self) -> None:
        """Put the array's bytes, by way of a buffer in shared memory in that variant."""
        self._put(self._bytes)

    def forward(self, array: Array) -> None:
        """Put what was received."""
        held: object = array.base
        self._put(held if isinstance(held, bytes) else array.tobytes())

    def close(self) -> None:
        """Close the session, which sends what waits."""
        self._session.close()


class Receiver:
    """Receives bytes under a key, by a channel."""

    def __init__(self, task: Task, topic: str, number: int) -> None:
        self._session = _open(task, listen=[_endpoint(task, topic, number)])
        depth = 256 if task.size <= SMALL else 8
        channel = zenoh.handlers.RingChannel(8) if task.sleep_s else zenoh.handlers.FifoChannel(depth)
        self._subscriber = self._session.declare_subscriber(topic, channel)

    def receive(self, timeout_s: float) -> Array | None:
        """Wait for a sample. `recv` knows no timeout, and needs none: the last message is never lost."""
        sample = self._subscriber.recv()
        return np.frombuffer(sample.payload.to_bytes(), np.uint8)

    def release(self) -> None:
        """Nothing is lent."""

    def close(self) -> None:
        """Close the session."""
        self._session.close()


if __name__ == "__main__":
    play(Sender, Receiver)
