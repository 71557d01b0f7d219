"""dora: a dataflow of nodes, each a process, run by its daemon.

Documented API: a dataflow file, `dora run`, `Node.send_output` with an Arrow array over the numpy array, or
`Node.send_output_raw`, whose buffer the node writes to; `for event in node` and `event["value"].to_numpy()`.
Settings: `shared_memory_pool_size` has room for 16 frames, since a frame that finds none goes another, slow way.
Queues hold 2048 small or 16 large messages; with a pace they have the policy `drop_oldest`, the default, since with
`backpressure` nothing goes through shared memory; without one they have `backpressure`, the only one that is meant to
lose nothing (dora loses messages all the same when ten times the queue is full, and says so; they are counted). In
the run with a slow reader that one has a queue of 4.

Variants: `copy`, by `send_output`; `loan`, rendered in the buffer of `send_output_raw`, which sends at the end of
`with`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dora
import numpy as np
import pyarrow as pa

from benching.measured.payload import PROBE, STOP, Array, number_of
from benching.measured.records import PROBE_EVERY_S, Reader, Source
from benching.measured.task import Task

SMALL = 65_536
POOL_FRAMES = 16
MINIMUM_POOL_BYTES = 64 * 2**20
MODULE = "benching.systems.dora_flow"


def dataflow(task: Task) -> dict[str, Any]:
    """Return the description of the flow; JSON is YAML."""
    task_path = os.environ["RMBUS_BENCH_TASK"]

    def node(name: str, role: str, number: int, origin: str | None) -> dict[str, Any]:
        made: dict[str, Any] = {"id": name, "path": sys.executable, "args": f"-m {MODULE} {task_path} {role} {number}"}
        if origin is not None:
            sleeps = role == "reader" and task.sleeps(number)
            made["inputs"] = {
                "frame": {
                    "source": f"{origin}/frame",
                    "queue_size": 4 if sleeps else 2048 if task.size <= SMALL else 16,
                    "queue_policy": "drop_oldest" if task.is_paced else "backpressure",
                }
            }
        if role != "reader":
            made["outputs"] = ["frame"]
            made["shared_memory_pool_size"] = max(MINIMUM_POOL_BYTES, POOL_FRAMES * task.size)
        return made

    nodes, last = [node("source", "source", 0, None)], "source"
    for number in range(task.relays):
        nodes.append(node(f"relay{number}", "relay", number, last))
        last = f"relay{number}"
    nodes += [node(f"reader{number}", "reader", number, last) for number in range(task.readers)]
    return {"nodes": nodes}


def _be_source(task: Task, node: Any) -> None:
    source, own = Source(task), np.zeros(task.size, np.uint8)

    def send(fill: Callable[[Array, int], None], number: int) -> None:
        if task.variant == "loan":
            with node.send_output_raw("frame", task.size) as buffer:
                fill(np.frombuffer(buffer, np.uint8), number)
        else:
            fill(own, number)
            node.send_output("frame", pa.array(own))

    while source.probes():
        send(source.payload.render, PROBE)
        time.sleep(PROBE_EVERY_S)
    for number in source.pace().numbers():
        send(source.prepare, number)
    send(source.payload.render, STOP)
    source.close()


def _frames(node: Any) -> Any:
    for event in node:
        if event["type"] == "INPUT":
            yield event["value"]


def _be_relay(node: Any) -> None:
    for value in _frames(node):
        node.send_output("frame", value)
        if number_of(value.to_numpy()) == STOP:
            return


def _be_reader(task: Task, number: int, node: Any) -> None:
    reader = Reader(task, number)
    for value in _frames(node):
        if not reader.take(value.to_numpy()):
            break
    reader.close()


def main() -> None:
    """Run the flow, or be the node that the command line names."""
    task = Task.load(Path(sys.argv[1]))
    if len(sys.argv) == 2:
        flow = Path(task.folder) / "dataflow.yml"
        flow.write_text(json.dumps(dataflow(task)), encoding="utf-8")
        os.chdir(task.folder)
        os.execv(Path(sys.executable).with_name("dora"), ["dora", "run", str(flow)])
    role, number, node = sys.argv[2], int(sys.argv[3]), dora.Node()
    if role == "source":
        _be_source(task, node)
    elif role == "relay":
        _be_relay(node)
    else:
        _be_reader(task, number, node)


if __name__ == "__main__":
    main()
