"""One run: a system is started with a task, watched, ended, and its records are joined."""

from __future__ import annotations

import json
import math
import os
import secrets
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from benching.catalogue import System
from benching.environments import ROOT
from benching.gauge import MARK, Account, GaugeServer, end_marked
from benching.measured.task import Task
from benching.workloads import CALLING, Case, Effort

START_S: Final = 45.0
START_S_PER_NODE: Final = 4.0
"""What a system may take beyond the time of its messages: to start, to drain, to end, on a busy machine."""

SHIP_S: Final = 40.0
"""The longest that shipping an object, or ten at once, is waited for."""

Times = NDArray[np.int64]


class RunFailed(Exception):
    """A run gave no figures; the message says why, in one line."""


@attrs.frozen(eq=False)
class Outcome:
    """What one run gave.

    Attributes:
        latency_ns: of each message of the window that every awake reader got: to the last of them.
        per_s: messages a second at the slowest awake reader, in the window.
        cpu_s: processor time of all processes in the window; window_s: how long that was.
        rss_bytes: memory of all processes, shared pages counted once.
        lost: messages that were sent and did not reach an awake reader.
        copies: places in memory that one message was found in between source and sink; None where nobody looked.
        drops_exact: whether the report's drops to the sleeper are those that are missing there; None without a sleeper.
        lane: what the report says moved the frames, "" where there is none.
        level: the confinement of objects that were shipped, "" where none were.
    """

    latency_ns: Times
    per_s: float
    cpu_s: float
    window_s: float
    rss_bytes: int
    lost: int
    copies: int | None = None
    drops_exact: bool | None = None
    lane: str = ""
    level: str = ""

    @property
    def messages(self) -> int:
        """How many messages of the window every awake reader got."""
        return len(self.latency_ns)


def task_of(system: System, case: Case, effort: Effort, folder: Path) -> Task:
    """Return the task of a run."""
    return Task(
        system=system.family,
        variant=system.variant,
        workload=case.workload,
        size=case.size,
        rate_hz=case.rate_hz,
        warmup=1 if case.group == "ship" else max(5, int(effort.warmup_s * case.rate_hz)),
        warmup_s=effort.warmup_s,
        count=_count(case, effort),
        seconds=effort.window_s,
        readers=case.readers,
        relays=case.relays,
        sleep_s=case.sleep_s,
        folder=str(folder),
        gauge=str(folder / "gauge"),
    )


def _count(case: Case, effort: Effort) -> int:
    if case.group == "ship":
        return effort.ships // 2 if case.workload.endswith("burst") else effort.ships
    return effort.by_rate.get(case.rate_hz, 0)


def run(system: System, python: Path, case: Case, effort: Effort, within_s: float = math.inf) -> Outcome:
    """Run a system once.

    Args:
        system, case, effort: what is run. python: the interpreter of its environment.
        within_s: when it is ended, if that is earlier than what such a run may take at most.

    Raises:
        RunFailed: it did not start, failed, took too long, or delivered what was not sent.
    """
    folder = Path(tempfile.mkdtemp(prefix="rmbus-bench-", dir="/tmp"))  # paths of sockets must be short
    mark = secrets.token_hex(8)
    task = task_of(system, case, effort, folder)
    task.save(folder / "task.json")
    environment = os.environ | {
        MARK: mark,
        "PYTHONPATH": str(ROOT / "scripts"),
        "RMBUS_BENCH_TASK": str(folder / "task.json"),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [str(python), "-m", f"benching.systems.{system.module}", str(folder / "task.json")]
    try:
        account = Account(mark, task.readers)
        with GaugeServer(folder / "gauge", account, samples=case.rate_hz <= 100 and case.group not in CALLING):
            try:
                _play(
                    [[*command, *role] for role in system.roles(case)],
                    environment,
                    folder,
                    min(_time_s(task), within_s),
                )
            finally:
                end_marked(mark)
        return joined(task, account.cpu_s, account.window_s, account.rss_bytes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _time_s(task: Task) -> float:
    messages_s = (task.warmup + task.count) / task.rate_hz if task.is_paced else task.warmup_s + task.seconds
    start_s = START_S + START_S_PER_NODE * (task.relays + task.readers)
    if task.workload.startswith("ship"):
        messages_s = (task.warmup + task.count) * SHIP_S
    return start_s + messages_s + task.count * task.sleep_s


def _play(commands: Sequence[Sequence[str]], environment: Mapping[str, str], folder: Path, time_s: float) -> None:
    """Start the processes and wait for their end."""
    deadline = time.monotonic() + time_s
    said = folder / "said"
    started: dict[int, subprocess.Popen[bytes]] = {}
    try:
        with said.open("wb") as out:
            for command in commands:
                process = subprocess.Popen(
                    command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )
                started[os.pidfd_open(process.pid)] = process
        poll = select.poll()
        for handle in started:
            poll.register(handle, select.POLLIN)
        running = set(started)
        while running:
            ended = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ended:
                raise RunFailed(f"not over after {time_s:.0f} s: {_last_words(said)}")
            for handle, _ in ended:
                poll.unregister(handle)
                running.discard(handle)
                if code := started[handle].wait():
                    raise RunFailed(_last_words(said) or f"a process ended with {code}")
    finally:
        for handle, process in started.items():
            os.close(handle)
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(said: Path) -> str:
    """Return the line that tells most of what a failed process printed: the last one that names an error."""
    lines = [line.strip() for line in said.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "exception" in line.lower()]
    return (telling or lines or [""])[-1][:200]


# --- joining --------------------------------------------------------------------------------------------------------


def joined(task: Task, cpu_s: float, window_s: float, rss_bytes: int) -> Outcome:
    """Join the times of source and readers by the numbers of the messages.

    Raises:
        RunFailed: a record is missing, nothing arrived, or what arrived was not what was sent.
    """
    folder = Path(task.folder)
    try:
        sent: Times = np.load(folder / "sent.npy")
        arrived: list[Times] = [np.load(folder / f"arrived-{number}.npy") for number in range(task.readers)]
        torn = sum(_noted(folder / f"reader-{number}.json")["torn"] for number in range(task.readers))
        source = _noted(folder / "source.json")
        first: int = source["first"]
    except FileNotFoundError as error:
        raise RunFailed(f"no record was left: {Path(error.filename).name}") from error
    if torn:
        raise RunFailed(f"{torn} messages did not arrive as they were sent")
    awake = [times for number, times in enumerate(arrived) if not task.sleeps(number)]
    told = folder / "report.json"
    report: dict[str, Any] | None = _noted(told) if told.exists() else None
    latency_ns, per_s, lost = figures(sent, awake, first)
    if "level" in source:
        per_s = busy_rate(sent[first:], arrived[0][first:])
    return Outcome(
        latency_ns=latency_ns,
        per_s=per_s,
        cpu_s=cpu_s,
        window_s=window_s,
        rss_bytes=rss_bytes,
        lost=lost,
        copies=_places(folder) if task.relays else None,
        drops_exact=None if report is None or not task.sleep_s else _are_drops_exact(report, task, sent, arrived[-1]),
        lane=", ".join(sorted({edge["lane"] for edge in report["edges"]})) if report else "",
        level=source.get("level", ""),
    )


def figures(sent: Times, awake: Sequence[Times], first: int) -> tuple[Times, float, int]:
    """Return the latencies in the window, the rate of the slowest reader there, and how many messages were lost.

    Raises:
        RunFailed: nothing arrived in the window.
    """
    was_sent = sent > 0
    lost = sum(int(np.count_nonzero(was_sent & (times == 0))) for times in awake)
    whole = was_sent & np.logical_and.reduce([times > 0 for times in awake])
    whole[:first] = False
    if np.count_nonzero(whole) < 2:
        raise RunFailed("nothing arrived in the window")
    latency_ns: Times = np.maximum.reduce([times[whole] for times in awake]) - sent[whole]
    rates = [_rate(times[first:]) for times in awake]
    return latency_ns, min(rates), lost


def busy_rate(sent: Times, arrived: Times) -> float:
    """Return the results a second of the time in which one was waited for; several may have been asked for at once."""
    busy_ns = sum(int(arrived[sent == began].max() - began) for began in np.unique(sent))
    return len(sent) * 1e9 / busy_ns


def _rate(times: Times) -> float:
    there = times[times > 0]
    span_ns = int(there.max() - there.min())
    return (len(there) - 1) * 1e9 / span_ns if span_ns else 0.0


def _places(folder: Path) -> int | None:
    """Return in how many places the nodes of a chain have found one message: so often it was copied on its way."""
    places = {_noted(path)["place"] for path in folder.glob("place-*.json")}
    return len(places) or None


def _are_drops_exact(report: Mapping[str, Any], task: Task, sent: Times, arrived: Times) -> bool:
    edge = next(edge for edge in report["edges"] if f"sink-{task.readers - 1}." in edge["name"])
    missing = int(np.count_nonzero(sent > 0) - np.count_nonzero(arrived > 0))
    dropped: int = sum(edge["dropped"].values())
    return dropped == missing


def _noted(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
