"""The run folder: one to a host, private, and swept when its owner is gone."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from rmbus.errors import ConnectFailed
from rmbus.transport import runfolder
from rmbus.transport.runfolder import LOCK, MAX_BASE_BYTES, PROCESSES, RunFolder


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """Give the tests a place of their own: nobody's running hosts are swept."""
    folder = Path(tempfile.mkdtemp(prefix="rmbus-rf-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert runfolder.base() == folder / "rmbus"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


LEADER = os.getsid(0)
"""A process that leads a session: the one that these tests are in."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Note whom the module would have killed; only the leader of this session is known to have been started, at 5."""
    found: set[int] = set()

    def kill(pid: int, number: int) -> None:
        assert number == signal.SIGKILL
        found.add(pid)

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(runfolder, "start_time", {LEADER: 5}.get)
    return found


def abandoned(name: str, processes: bytes | None = None) -> Path:
    """Make a folder as a host leaves it that was killed."""
    folder = runfolder.base() / name
    folder.mkdir(mode=0o700, parents=True)
    folder.parent.chmod(0o700)
    (folder / LOCK).touch()
    (folder / "n1").mkdir()
    (folder / "n1" / "in.sock").touch()
    if processes is not None:
        (folder / PROCESSES).write_bytes(processes)
    return folder


NOTED = f"{LEADER} 5\n".encode()


def test_a_run_folder_is_private_and_held() -> None:
    """Only its user may enter; as long as its owner lives, others see that it is held."""
    folder = RunFolder()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.path.parent.stat().st_mode) == 0o700
    assert folder.path.parent == runfolder.base()
    assert folder.identity == folder.path.name
    assert runfolder.is_held(folder.path)
    folder.remove()
    assert not runfolder.is_held(folder.path)


def test_the_last_one_out_removes_the_parent() -> None:
    """Nothing is left when no host runs; while one does, its folder stays."""
    first, second = RunFolder(), RunFolder()
    assert first.identity != second.identity
    assert list(runfolder.folders()) == sorted([first.path, second.path])
    first.remove()
    assert list(runfolder.folders()) == [second.path]
    second.remove()
    assert not runfolder.base().exists()
    assert list(runfolder.folders()) == []


def test_a_sweep_takes_what_nobody_holds_and_no_more(killed: set[int]) -> None:
    """The folder of a dead host goes, and what it had started; that of a running one stays."""
    mine = RunFolder()
    mine.note_process(LEADER)
    runfolder.sweep()
    assert killed == set()
    left = abandoned("dead", NOTED)
    runfolder.sweep()
    assert not left.exists()
    assert runfolder.is_held(mine.path)
    assert os.getpid() in killed  # a member of the session
    mine.remove()


def test_a_sweep_without_a_base_does_nothing() -> None:
    """The first host of a machine finds nothing to sweep, and makes nothing."""
    runfolder.sweep()
    assert not runfolder.base().exists()


def test_a_recycled_pid_is_not_killed(killed: set[int]) -> None:
    """A number that another process has by now is known by the time that it started; lines that are none are passed."""
    lines = [f"{LEADER} 6", f"{LEADER}", "", "one two", f"-{LEADER} 5", f"{LEADER} 5 and more", f"{LEADER} five"]
    abandoned("dead", "\n".join(lines).encode())
    runfolder.sweep()
    assert killed == set()


def test_what_was_noted_is_killed_with_what_it_has_forked(killed: set[int]) -> None:
    """All of the session that the noted process leads, and nobody of another."""
    folder = RunFolder()
    folder.note_process(LEADER)
    folder.note_process(2**22 + 1)  # there is none: nothing is noted
    assert (folder.path / PROCESSES).read_bytes() == NOTED
    runfolder.kill_noted(folder.path)
    assert os.getpid() in killed
    assert {os.getsid(pid) for pid in killed if Path(f"/proc/{pid}").exists()} == {LEADER}
    folder.remove()


def test_what_a_dead_process_has_forked_is_killed_too(killed: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader of a session may be gone; its session's number stays taken as long as there are others in it."""
    monkeypatch.setattr(runfolder, "start_time", lambda _pid: None)
    abandoned("dead", NOTED)
    runfolder.sweep()
    assert os.getpid() in killed


def test_a_folder_that_is_being_made_is_left_alone(killed: set[int]) -> None:
    """Between its making and its lock a sweeper cannot know whose it is."""
    folder = runfolder.base() / "new"
    folder.mkdir(parents=True)
    runfolder.sweep()
    assert folder.exists()
    assert not runfolder.is_held(folder)


def test_a_sweeper_that_was_quicker_costs_a_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was swept between its making and its lock is not used: another is made."""
    names = iter(["swept", "kept"])
    monkeypatch.setattr(secrets, "token_hex", lambda _size: next(names))
    lock = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        shutil.rmtree(runfolder.base() / "swept", ignore_errors=True)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = RunFolder()
    assert folder.identity == "kept"
    monkeypatch.setattr(fcntl, "flock", lock)
    assert runfolder.is_held(folder.path)
    folder.remove()


def test_a_parent_that_goes_meanwhile_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last other host may end, and take the empty parent along, just now."""
    names = iter(["first", "second"])

    def token_hex(_size: int) -> str:
        name = next(names)
        if name == "first":
            runfolder.base().rmdir()
        return name

    monkeypatch.setattr(secrets, "token_hex", token_hex)
    folder = RunFolder()
    assert folder.identity == "second"
    folder.remove()


def test_a_name_that_is_taken_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is there belongs to somebody, even one without an owner."""
    other = abandoned("same")
    names = iter(["same", "other"])
    monkeypatch.setattr(secrets, "token_hex", lambda _size: next(names))
    folder = RunFolder()
    assert folder.identity == "other"
    assert (other / "n1" / "in.sock").exists()
    folder.remove()


def test_a_parent_that_others_may_enter_is_refused() -> None:
    """A place that somebody else could have prepared is not used; the message says what to do."""
    runfolder.base().mkdir(mode=0o755)
    runfolder.base().chmod(0o755)
    with pytest.raises(ConnectFailed, match="chmod 700"):
        RunFolder()


def test_a_parent_that_is_a_link_is_refused(runtime: Path) -> None:
    """A link may lead anywhere, and be turned round later."""
    (runtime / "elsewhere").mkdir(mode=0o700)
    runfolder.base().symlink_to(runtime / "elsewhere")
    with pytest.raises(ConnectFailed, match="must be a folder of yours"):
        RunFolder()


def test_where_the_folders_are(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the runtime folder, unless it is not there or too long for the path of a socket; always in one per user."""
    fallbacks = {Path(f"/run/user/{os.getuid()}/rmbus"), Path(f"/tmp/rmbus-{os.getuid()}")}
    long = runtime / ("x" * MAX_BASE_BYTES)
    long.mkdir()
    for given in (str(runtime / "nothing"), str(long), ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
        assert runfolder.base() in fallbacks
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runfolder.base() in fallbacks


def test_when_a_process_started() -> None:
    """The time tells one process from the next of the same number; there is none for nobody."""
    mine, first = runfolder.start_time(os.getpid()), runfolder.start_time(1)
    assert mine is not None
    assert first is not None
    assert first <= mine
    assert runfolder.start_time(2**22 + 1) is None


def test_a_damaged_list_does_not_end_a_sweep(killed: set[int]) -> None:
    """What a disk or another program has spoilt must not keep every later host from starting."""
    left = abandoned("dead", b"\xff\xfe\n" + NOTED)
    runfolder.sweep()
    assert not left.exists()
    assert os.getpid() in killed


@pytest.mark.parametrize("error", [PermissionError, ProcessLookupError])
def test_a_process_that_cannot_be_killed_does_not_end_a_sweep(
    error: type[OSError], killed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended meanwhile, or has changed its user; the rest goes."""
    tried: list[int] = []

    def fail(pid: int, _number: int) -> None:
        tried.append(pid)
        raise error

    monkeypatch.setattr(os, "kill", fail)
    left = abandoned("dead", NOTED)
    runfolder.sweep()
    assert not left.exists()
    assert os.getpid() in tried
