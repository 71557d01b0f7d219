"""iceoryx2: shared memory without locks, by the Python bindings.

Documented API: a publish-subscribe service of `Slice[c_uint8]` and an event service beside it, as in the project's
examples "publish_subscribe_dynamic_data" and "event": `loan_slice_uninit`, `assume_init().send()`, `notify`;
`Listener.timed_wait`, then `Subscriber.receive` until there is nothing. Settings: `initial_max_slice_len` is the size
of a message, so that nothing is allocated on the way; subscribers buffer 2048 small messages or 8 large ones; without
safe overflow and with `RetryUntilDelivered`, so that nothing is lost and the sender waits. In the run with a slow
reader: safe overflow, so that its oldest frames are lost. A listener wakes once for several notifications.

Variants: `copy`, an array of one's own that is copied into the loan; `loan`, rendered in the loan.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import iceoryx2 as iox2
import numpy as np

from benching.measured.payload import Array
from benching.measured.roles import play
from benching.measured.task import Task

SMALL = 65_536


class _Services:
    """The two services of a topic."""

    def __init__(self, task: Task, topic: str) -> None:
        iox2.set_log_level(iox2.LogLevel.Error)
        name = iox2.ServiceName.new(f"rmbus-bench/{Path(task.folder).name}/{topic}")
        overflows = task.sleep_s > 0
        self.node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        self.frames = (
            self.node.service_builder(name)
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_publishers(1)
            .max_subscribers(16)
            .max_nodes(20)
            .subscriber_max_buffer_size(2048 if task.size <= SMALL else 8)
            .enable_safe_overflow(overflows)
            .open_or_create()
        )
        self.events = self.node.service_builder(name).event().max_listeners(16).max_nodes(20).open_or_create()
        self.overflows = overflows


class Sender:
    """Publishes, and notifies."""

    def __init__(self, task: Task, topic: str, readers: int) -> None:
        self._services = _Services(task, topic)
        waits = iox2.BackpressureStrategy.DiscardData if self._services.overflows else None
        self._publisher = (
            self._services.frames.publisher_builder()
            .initial_max_slice_len(task.size)
            .backpressure_strategy(waits or iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self._notifier = self._services.events.notifier_builder().create()
        self._size = task.size
        self._lends = task.variant == "loan"
        self._own = np.zeros(task.size, np.uint8)
        self._loan: Any = None

    def _lent(self) -> Array:
        self._loan = self._publisher.loan_slice_uninit(self._size)
        return np.frombuffer(self._loan.payload().as_memory_view(), np.uint8)

    def array(self) -> Array:
        """Return the loan, or an array of one's own."""
        return self._lent() if self._lends else self._own

    def publish(self) -> None:
        """Send the loan; copy into one first, where the array was one's own."""
        if not self._lends:
            np.copyto(self._lent(), self._own)
        self._loan.assume_init().send()
        self._notifier.notify()

    def forward(self, array: Array) -> None:
        """Copy what was received into a loan of one's own, and send it."""
        np.copyto(self._lent(), array)
        self._loan.assume_init().send()
        self._notifier.notify()

    def close(self) -> None:
        """End; what subscribers have not yet received stays until they have."""
        self._loan = None


class Receiver:
    """Waits for a notification, and receives until nothing is there."""

    def __init__(self, task: Task, topic: str, number: int) -> None:
        self._services = _Services(task, topic)
        self._listener = self._services.events.listener_builder().create()
        self._subscriber = self._services.frames.subscriber_builder().create()
        self._sample: Any = None

    def receive(self, timeout_s: float) -> Array | None:
        """Wait for a sample; its array lies over the shared memory."""
        deadline = 0.0
        while (sample := self._subscriber.receive()) is None:
            deadline = deadline or time.monotonic() + timeout_s
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            self._listener.timed_wait(iox2.Duration.from_secs_f64(left_s))  # may wake for what was received already
        self._sample = sample
        return np.frombuffer(sample.payload().as_memory_view(), np.uint8)

    def release(self) -> None:
        """Give the sample back."""
        self._sample.delete()
        self._sample = None

    def close(self) -> None:
        """End."""


if __name__ == "__main__":
    play(Sender, Receiver)
