"""What holds for every test: who may skip it, and that it leaves no process behind."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from accounting import audit
from hypothesis import settings
from sshd import SSHD

# Machines that share their cores make deadlines lie; continuous integration has to see the same examples every time.
settings.register_profile("rmbus", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("rmbus")

# A shell that starts its jobs in the background has them ignore SIGINT, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

_MARK = "RMBUS_TEST"
_GRACE_S = 2.0
_PURE = {"unit", "typing", "packaging"}  # these folders' tests start nothing that outlives a call
_SLOW = {"contract", "faults", "integration"}  # and these folders' start hosts and nodes, each in a second or more


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder what is too slow for every commit, before anything is chosen by mark."""
    for item in items:
        if item.path.parent.name in _SLOW:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need what is not there; but fail them where continuous integration would lose them so."""
    missing = [
        what
        for mark, what, is_there in (
            ("root", "root", os.geteuid() == 0),
            ("sshd", "sshd (openssh-server)", SSHD.exists()),
        )
        if item.get_closest_marker(mark) is not None and not is_there
    ]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"this test needs {' and '.join(missing)}, and CI=true allows no test to be skipped for that")
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")


@pytest.fixture(autouse=True)
def _leaves_no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process of its own behind: a child, or any process that inherited its environment."""
    if request.path.parent.name in _PURE:
        yield
        return
    mark = f"{os.getpid()}.{time.monotonic_ns()}"
    os.environ[_MARK] = mark
    before = _children(os.getpid())
    yield
    del os.environ[_MARK]
    left = {pid for pid in _marked(mark) | (_children(os.getpid()) - before) if _outlives(pid, _GRACE_S)}
    if left:
        lines = "\n".join(f"  {pid} {_command_line(pid)}" for pid in sorted(left))
        for pid in left:
            _kill(pid)
        pytest.fail(f"the test has left processes behind (killed now):\n{lines}")


@pytest.fixture(autouse=True)
def _accounts_close(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which a session's account does not close: frames that nobody knows of, or more than came in."""
    if request.path.parent.name in _PURE:
        yield
        return
    with audit() as wrong:
        yield
    if wrong:
        pytest.fail("accounts do not close:\n" + "\n".join(wrong))


def _children(pid: int) -> set[int]:
    return {int(child) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for child in tasks.read_text().split()}


def _marked(mark: str) -> set[int]:
    """Find the processes that inherited the mark, however far down, and whoever is their parent now."""
    wanted = f"{_MARK}={mark}".encode()
    found: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:  # it has ended, or belongs to somebody else
            continue
    return found - {os.getpid()}


def _outlives(pid: int, grace_s: float) -> bool:
    if "multiprocessing.resource_tracker" in _command_line(pid):  # one for the whole run, by the standard library
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        ended, _, _ = select.select([handle], [], [], grace_s)
        return not ended
    finally:
        os.close(handle)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:  # it has just ended by itself
        return
