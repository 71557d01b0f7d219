"""Ray: an actor, with `runtime_env={"working_dir": folder}`, on a head that runs before the clock starts.

Ray takes a folder for a whole job only, so new and edited code begins one (`ray.init(address=…, runtime_env=…)`); code
that is known is an actor more of a job that has begun. Settings: as in `ray_actors`; streams by
`num_returns="streaming"`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from benching.measured.calling import play
from benching.measured.code import Code
from benching.measured.payload import Array
from benching.measured.task import Task


class Shipped:
    """An actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def answer(self, array: Array) -> Array:
        """Call it."""
        found: Array = ray.get(self._actor.answer.remote(array))
        return found

    def items(self, count: int) -> Iterator[Array]:
        """Have a stream."""
        return map(ray.get, self._actor.items.options(num_returns="streaming").remote(count))

    def release(self) -> None:
        """End it."""
        ray.kill(self._actor)


class Head:
    """A head of one node, and the job."""

    level = "none"

    def __init__(self) -> None:
        arguments = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 2 * 2**30}
        self._cluster = Cluster(initialize_head=True, head_node_args=arguments)
        self._job = ""

    def leave(self) -> None:
        """End the job before."""
        ray.shutdown()
        self._job = ""

    def begin(self, code: Code, *, is_known: bool) -> None:
        """Begin the job of a code."""
        if is_known and self._job == code.prefix:
            return
        self.leave()
        ray.init(
            address=self._cluster.address,
            runtime_env={"working_dir": str(code.folder)},
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        self._job = code.prefix

    def ship(self, code: Code, tool: Any) -> Shipped:
        """Start an actor."""
        actor: Any = ray.remote(num_cpus=0)(type(tool))
        return Shipped(actor.remote())

    def close(self) -> None:
        """End all."""
        ray.shutdown()
        self._cluster.shutdown()


def main() -> None:
    """Run a task."""
    play(Task.load(Path(sys.argv[1])), Head())


if __name__ == "__main__":
    main()
