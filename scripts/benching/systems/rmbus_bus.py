"""rmbus, by its public names: `Node`, `Pipeline`, a `Session` and its report.

Every node is a process of its own. Settings: `reliable(8)`, the default; without a pace `reliable(256)` for messages
up to 64 KB; in the run with a slow reader `latest` to that reader.

Variants: `copy`, arrays that the source yields, and keeps writing to; `loan`, frames that are rendered in place; each
by the fast lane, and with `-ipc` by sockets.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benching.lanes import lane_options
from benching.measured.task import Task
from benching.systems.rmbus_nodes import Relay, Sink, source_of
from rmbus import Pipeline, Session, latest, reliable

SMALL = 65_536


def build(task: Task) -> Pipeline:
    """Return the pipeline of a task."""
    source = source_of(task)
    pipeline, end = Pipeline([source]), source.out
    patient = reliable(256 if task.size <= SMALL and not task.is_paced else 8)
    for number in range(task.relays):
        relay = Relay(task, number).options(name=f"relay-{number}")
        pipeline = pipeline | end.to(relay.frames, delivery=patient)
        end = relay.out
    for number in range(task.readers):
        sink = Sink(task, number).options(name=f"sink-{number}")
        delivery = latest if task.sleeps(number) else patient
        pipeline = pipeline | end.to(sink.frames, delivery=delivery)
    return pipeline


def main() -> None:
    """Run a task, and leave its report."""
    task = Task.load(Path(sys.argv[1]))
    with Session(build(task), **lane_options(task.variant)) as session:
        report = session.wait()
    (Path(task.folder) / "report.json").write_text(report.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
