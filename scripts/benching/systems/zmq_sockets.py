"""pyzmq over `ipc`: what one writes who takes ZeroMQ as it is.

Documented API: `Socket.send(data, copy=...)` and `Socket.recv(copy=...)`, PUSH and PULL where there is one reader,
which lose nothing and make the sender wait at the high-water mark; XPUB and SUB where there are several, since that
is what fans out. A message is one part. Settings: the high-water mark is 1000 for messages up to 64 KB and 32 for
larger ones, on both sides (of XPUB and SUB 4 in the run with a slow reader, which is to lose old frames and not to
store them). Blocking sockets, `RCVTIMEO` for the end, `LINGER` so that nothing is cut off.

Variants: `copy`; `zerocopy`, with `copy=False` on both sides and, since ZeroMQ then reads from an array later, a
`MessageTracker` that tells when it is free again (below 64 KB pyzmq copies all the same); `batch`, many small
messages packed into one of 64 KB, which is for throughput alone.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import zmq

from benching.measured.payload import STOP, Array, number_of
from benching.measured.roles import play
from benching.measured.task import Task

SMALL = 65_536
BATCH_BYTES = 65_536


def high_water(task: Task) -> int:
    """Return how many messages may wait on each side."""
    if task.sleep_s:
        return 4
    return 1000 if task.size <= SMALL else 32


def address(task: Task, topic: str) -> str:
    """Return where a topic is."""
    return f"ipc://{task.folder}/{topic}"


class Sender:
    """Sends arrays one by one."""

    def __init__(self, task: Task, topic: str, readers: int) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: Any = self._context.socket(zmq.PUSH if readers == 1 else zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, high_water(task))
        self._socket.setsockopt(zmq.LINGER, 10_000)
        if readers > 1:
            self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of every subscription, also of the same to the same
        self._socket.bind(address(task, topic))
        self._copies = task.variant != "zerocopy"
        self._tracks = not self._copies and task.size > zmq.COPY_THRESHOLD
        self._array = np.zeros(task.size, np.uint8)
        self._sent: deque[tuple[Array, Any]] = deque()
        if readers > 1:
            for _ in range(readers):
                self._socket.recv()  # a subscription each

    def array(self) -> Array:
        """Return an array that nobody reads from: the one that was sent longest ago, or a new one."""
        if self._tracks:
            if self._sent and self._sent[0][1].done:
                self._array, _ = self._sent.popleft()
            else:
                self._array = np.zeros_like(self._array)
        return self._array

    def publish(self) -> None:
        """Send the array."""
        if self._tracks:
            self._sent.append((self._array, self._socket.send(self._array, copy=False, track=True)))
        else:
            self._socket.send(self._array, copy=self._copies)

    def forward(self, array: Array) -> None:
        """Send what was received."""
        self._socket.send(array, copy=self._copies)

    def close(self) -> None:
        """Let everything be sent."""
        self._socket.close()
        self._context.term()


class Receiver:
    """Receives arrays one by one."""

    def __init__(self, task: Task, topic: str, number: int) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        one = task.readers == 1 or topic != f"hop{task.relays}"
        self._socket: Any = self._context.socket(zmq.PULL if one else zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, high_water(task))
        if not one:
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(address(task, topic))
        self._copies = task.variant != "zerocopy"
        self._timeout_s = 0.0

    def receive(self, timeout_s: float) -> Array | None:
        """Wait for a message; its array lies over what ZeroMQ has received."""
        if timeout_s != self._timeout_s:
            self._timeout_s = timeout_s
            self._socket.setsockopt(zmq.RCVTIMEO, int(timeout_s * 1000))
        try:
            data = self._socket.recv(copy=self._copies)
        except zmq.Again:
            return None
        return np.frombuffer(data, np.uint8)

    def release(self) -> None:
        """Nothing is lent."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(0)
        self._context.term()


class BatchSender(Sender):
    """Packs messages into one of 64 KB."""

    def __init__(self, task: Task, topic: str, readers: int) -> None:
        super().__init__(task, topic, readers)
        self._room = max(1, BATCH_BYTES // task.size)
        self._block = np.zeros((self._room, task.size), np.uint8)
        self._filled = 0

    def publish(self) -> None:
        """Put the array to the others, and send them when there are enough, or it is a probe or the end."""
        array = self._array
        self._block[self._filled] = array
        self._filled += 1
        if self._filled == self._room or number_of(array) >= STOP:
            self._socket.send(self._block[: self._filled])
            self._filled = 0


class BatchReceiver(Receiver):
    """Unpacks messages into an array each."""

    def __init__(self, task: Task, topic: str, number: int) -> None:
        super().__init__(task, topic, number)
        self._size = task.size
        self._waiting: deque[Array] = deque()

    def receive(self, timeout_s: float) -> Array | None:
        """Return the next message of the block, of the next block where there is none left."""
        if not self._waiting:
            block = super().receive(timeout_s)
            if block is None:
                return None
            self._waiting.extend(block.reshape(-1, self._size))
        return self._waiting.popleft()


def _make_sender(task: Task, topic: str, readers: int) -> Sender:
    return (BatchSender if task.variant == "batch" else Sender)(task, topic, readers)


def _make_receiver(task: Task, topic: str, number: int) -> Receiver:
    return (BatchReceiver if task.variant == "batch" else Receiver)(task, topic, number)


if __name__ == "__main__":
    play(_make_sender, _make_receiver)
