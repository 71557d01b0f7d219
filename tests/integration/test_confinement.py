"""Confinement, tried on real processes: what hostile code reaches under each level, and what binds it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import pytest

from rmbus.errors import ConfinementError
from rmbus.host.jail import Command, Grants, Level, spawn_command
from rmbus.host.probing import Probe, probe

_FAULTS = Path(__file__).parents[1] / "faults"
_ATTACKS = (_FAULTS / "attacks.py").read_text()
_NAMES = [line[4 : line.index("(")] for line in _ATTACKS.splitlines() if line.startswith("def ") and line[4] != "_"]

# file modes alone decide who may connect to a socket by its path: Landlock has no say, and a jail does not see it
_CONFINED_REACHES = {"a_neighbours_unix_socket"}
# what this machine may stop a plain process from, too
_MAYBE_OFF = {
    *("io_uring", "page_faults_in_hand", "trace_a_neighbour", "memory_of_a_neighbour", "settings_of_the_kernel"),
    *("user_namespace_by_unshare", "user_namespace_by_clone", "user_namespace_by_clone3", "write_among_the_libraries"),
}

_VICTIM = """
import ctypes, os, signal, sys
signal.signal(signal.SIGURG, signal.SIG_IGN)
kept = ctypes.create_string_buffer(16)
print(ctypes.addressof(kept), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def found() -> Probe:
    return probe()


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """A folder of sockets and a work folder, with paths short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="rc-") as folder:
        for name in ("node", "work"):
            Path(folder, name).mkdir(mode=0o700)
        yield Path(folder, "node"), Path(folder, "work")


def _needs(found: Probe, level: Level) -> None:
    if level in found.reasons:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have {level.word}: {found.reasons[level]}")
        pytest.skip(f"no {level.word} here: {found.reasons[level]}")


def _python(level: Level, source: str, *arguments: str, folders: tuple[Path, Path], **options: Any) -> Command:
    argv = [sys.executable, "-I", "-c", source, *arguments]
    return spawn_command(level, argv, node_dir=folders[0], work_dir=folders[1], **options)


def _output(command: Command, timeout_s: float = 15) -> str:
    with command.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err.decode()
    return out.decode()


# --- attacks --------------------------------------------------------------------------------------------------------


@contextmanager
def _targets() -> Generator[dict[str, Any]]:
    """Everything there is to attack: a secret file, servers of each kind, and a neighbour of the same user."""
    word = "a-word-nobody-may-read"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rc-", dir="/var/tmp")))
        secret = folder / "secret"
        secret.write_text(word)
        secret.chmod(0o600)
        memory = shared_memory.SharedMemory(create=True, size=len(word))
        stack.callback(memory.unlink)
        stack.callback(memory.close)
        assert memory.buf is not None
        memory.buf[:] = word.encode()
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        echo = threading.Thread(target=_answer, args=(udp,), daemon=True)
        echo.start()
        stack.callback(_stop, udp, echo)
        unix, abstract = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        unix.bind(str(folder / "s"))
        abstract.bind(f"\0rmbus-attack-{os.getpid()}")
        for server in (unix, abstract):
            server.listen(8)
        victim = stack.enter_context(_victim(word))
        assert victim.stdout is not None
        yield {
            "secret": str(secret),
            "word": word,
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": str(folder / "s"),
            "abstract": abstract.getsockname()[1:].decode(),
            "pid": victim.pid,
            "address": int(victim.stdout.readline()),
            "shm": memory.name,
        }


@contextmanager
def _victim(word: str) -> Generator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-I", "-S", "-c", _VICTIM]
    with subprocess.Popen(argv, env={"WORD": word}, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        yield victim
        assert victim.poll() is None, "an attack ended its victim"


def _answer(udp: socket.socket) -> None:
    while True:
        data, sender = udp.recvfrom(16)
        if data == b"stop":
            return
        udp.sendto(b"y", sender)


def _stop(udp: socket.socket, echo: threading.Thread) -> None:
    udp.sendto(b"stop", udp.getsockname())
    echo.join()


@pytest.fixture(scope="module")
def outcomes(found: Probe) -> Mapping[Level, Mapping[str, str]]:
    """Run all attacks once under each level that this machine has."""
    return {level: _attack(level) for level in found.details}


def _attack(level: Level, **more: Any) -> dict[str, str]:
    with _targets() as target, tempfile.TemporaryDirectory(prefix="rc-") as folder:
        arguments = level.word, json.dumps({**target, **more})
        return dict(json.loads(_output(_python(level, _ATTACKS, *arguments, folders=(Path(folder), Path(folder))))))


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("level", [Level.JAIL, Level.CONFINED], ids=lambda level: level.word)
def test_attack_is_stopped(level: Level, name: str, found: Probe, outcomes: Mapping[Level, Mapping[str, str]]) -> None:
    """An attack that succeeds in a plain process fails under the level, with an error and not with a signal."""
    _needs(found, level)
    plain = outcomes[Level.TRUSTED][name]
    if plain != "hit" and name in _MAYBE_OFF and not plain.startswith("broken"):
        pytest.skip(f"this machine stops a plain process, too: {plain}")
    assert plain == "hit"
    got = outcomes[level][name]
    if level is Level.CONFINED and name in _CONFINED_REACHES:
        assert got == "hit", "confined is better than its documentation says: tell it there"
    else:
        assert got != "hit"
        assert got != "killed"
        assert not got.startswith("broken")


@pytest.mark.parametrize("version", [1, 3, 4, 5])
def test_an_older_landlock_leaves_only_abstract_sockets_open(version: int, found: Probe) -> None:
    """Where Landlock keeps no signals or ports in, the filter does; abstract sockets it cannot tell from others."""
    _needs(found, Level.CONFINED)
    said = _attack(Level.CONFINED, landlock=version)
    hits = {name for name, outcome in said.items() if outcome == "hit"}
    assert hits == _CONFINED_REACHES | {"a_neighbours_abstract_socket"}
    assert not [outcome for outcome in said.values() if outcome.startswith(("broken", "killed"))]


def test_without_landlock_there_is_no_confined_level(folders: tuple[Path, Path]) -> None:
    """A filter of system calls alone is not called confined: the process is refused, with the reason."""
    source = """if True:
        from rmbus.errors import ConfinementError
        from rmbus.runtime import confine, landlock
        landlock.version = lambda: 0
        try:
            confine.apply("confined")
        except ConfinementError as error:
            print(error)
    """
    assert "no Landlock" in _output(_python(Level.CONFINED, source, folders=folders))


@pytest.mark.parametrize("level", [Level.JAIL, Level.CONFINED], ids=lambda level: level.word)
def test_a_granted_network_is_there(level: Level, found: Probe, folders: tuple[Path, Path]) -> None:
    """A process that was granted the network reaches the machine's own, and says so."""
    _needs(found, level)
    source = """if True:
        import socket, sys
        from rmbus.runtime import confine
        print(confine.apply(sys.argv[1], network=True)["network"])
        socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=2).close()
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = level.word, str(server.getsockname()[1])
        assert _output(_python(level, source, *arguments, folders=folders, grants=Grants(network=True))) == "granted\n"


def test_a_grant_of_nothing_is_refused(folders: tuple[Path, Path]) -> None:
    """A granted path that doesn't exist is named before anything starts."""
    with pytest.raises(ConfinementError, match="/nowhere/film"):
        _python(Level.JAIL, "", folders=folders, grants=Grants(readable=("/nowhere/film.mp4",)))


def test_every_attack_is_known_by_name(outcomes: Mapping[Level, Mapping[str, str]]) -> None:
    """The list of attacks that is tested is the list that was run."""
    assert sorted(outcomes[Level.TRUSTED]) == sorted(_NAMES)
    assert len(_NAMES) >= 20


# --- what is in force -----------------------------------------------------------------------------------------------

_ENVIRONMENT = """
import json, os, sys
from rmbus.runtime import confine
said = confine.apply("jail")
for folder in sys.argv[1], "/", "/usr", "/dev", "/proc/self":
    try:
        open(folder + "/new", "w")
    except OSError:
        continue
    sys.exit(folder + " can be written to")
print(json.dumps([dict(os.environ), sorted(os.listdir("/proc/self/fd")), os.getcwd(), said, os.statvfs("/tmp").f_blocks
    * os.statvfs("/tmp").f_frsize, sorted(os.listdir("/dev"))]))
"""


def test_a_jail_shows_nothing_of_the_host(
    found: Probe, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment, descriptors and devices are an exact list, and /tmp has the size that it was given."""
    _needs(found, Level.JAIL)
    monkeypatch.setenv("AWS_SECRET", "hush")
    command = _python(Level.JAIL, _ENVIRONMENT, str(folders[0]), folders=folders, env={"GIVEN": "1"}, tmp_bytes=8 << 20)
    environment, descriptors, folder, said, size, devices = json.loads(_output(command))
    expected = {"PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "LANG", "GLIBC_TUNABLES", "GIVEN", "PWD", "LC_CTYPE"}
    assert set(environment) <= expected
    assert descriptors == ["0", "1", "2", "3"]  # the last is the listing's own
    assert folder == "/tmp"
    assert size == 8 << 20
    assert not {"mem", "kmsg", "fuse", "kvm", "net"} & set(devices)
    assert said["seccomp"] == "allow-list"
    assert said["network"].startswith("none")


_LIMITS = """
import os, resource, signal, sys
from rmbus.runtime import confine
said = confine.apply(sys.argv[1], writable=[os.getcwd()] if sys.argv[1] == "confined" else [],
    limits=confine.Limits(open_files=64, file_bytes=1 << 20, memory_bytes=200 << 20, processes=8))
assert resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)
def refused(what, error):
    try:
        what()
    except error as caught:
        return
    raise AssertionError(what)
def write():
    with open("large", "wb") as file:
        file.write(bytes(2 << 20))
refused(write, OSError)
refused(lambda: bytes(400 << 20), MemoryError)
refused(lambda: [os.open("/dev/null", os.O_RDONLY) for _ in range(64)], OSError)
refused(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (65, 65)), ValueError)
def fork():
    for _ in range(10):
        if os.fork() == 0:
            signal.pause()
if said["processes"] == "8":
    refused(fork, BlockingIOError)
else:
    assert sys.argv[1] == "confined" or "root" in said["user"], said
"""


@pytest.mark.parametrize("level", [Level.JAIL, Level.CONFINED], ids=lambda level: level.word)
def test_limits_bind(level: Level, found: Probe, folders: tuple[Path, Path]) -> None:
    """Files, memory and descriptors end at their limits, and limits cannot be raised again."""
    _needs(found, level)
    _output(_python(level, _LIMITS, level.word, folders=folders))


def test_an_interpreter_called_by_a_roundabout_path_is_found(found: Probe, folders: tuple[Path, Path]) -> None:
    """A host that was started as `../.venv/bin/python` gives jails whose interpreter starts."""
    _needs(found, Level.JAIL)
    around = os.path.join(str(folders[1]), os.path.relpath(sys.executable, str(folders[1])))
    argv = [around, "-I", "-c", "import rmbus; print('up')"]
    command = spawn_command(Level.JAIL, argv, node_dir=folders[0], work_dir=folders[1])
    assert ".." in around
    assert _output(command) == "up\n"


def test_a_full_tmp_is_an_error(found: Probe, folders: tuple[Path, Path]) -> None:
    """A jail that fills its /tmp gets an error, and takes no more of the machine's memory."""
    _needs(found, Level.JAIL)
    fill = (
        "import errno\ntry: open('x', 'wb').write(bytes(9 << 20))\nexcept OSError as e: print(e.errno == errno.ENOSPC)"
    )
    assert _output(_python(Level.JAIL, fill, folders=folders, tmp_bytes=8 << 20)).strip() == "True"


def test_grants_are_the_only_way_out(found: Probe, folders: tuple[Path, Path]) -> None:
    """What is granted can be read or written at its own path, and nothing beside it."""
    _needs(found, Level.JAIL)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # not below the jail's own /tmp
        _try_grants(Path(name), folders)


def _try_grants(root: Path, folders: tuple[Path, Path]) -> None:
    for name in ("in", "out", "other"):
        (root / name).mkdir()
    (root / "in" / "film").write_text("pictures")
    grants = Grants(readable=(str(root / "in"),), writable=(str(root / "out"),))
    source = """if True:
        import os, sys
        root = sys.argv[1]
        open(root + "/out/copy", "w").write(open(root + "/in/film").read())
        for path in ("/in/film", "/other/x", "/x"):
            try:
                open(root + path, "w")
            except OSError:
                continue
            raise SystemExit(path)
        print(sorted(os.listdir(root)))
    """
    said = _output(_python(Level.JAIL, source, str(root), folders=folders, grants=grants))
    assert said.strip() == "['in', 'out']"
    assert (root / "out" / "copy").read_text() == "pictures"


# --- refusals -------------------------------------------------------------------------------------------------------


def test_confined_refuses_a_process_with_threads(found: Probe, folders: tuple[Path, Path]) -> None:
    """Landlock binds one thread: a process that has more is refused, and not left half confined."""
    _needs(found, Level.CONFINED)
    source = """if True:
        import threading
        from rmbus.errors import ConfinementError
        from rmbus.runtime import confine
        stop = threading.Event()
        threading.Thread(target=stop.wait, daemon=True).start()
        try:
            confine.apply("confined")
        except ConfinementError as error:
            print(error)
    """
    assert "2 threads" in _output(_python(Level.CONFINED, source, folders=folders))


_TIGHT = """
import os, re, resource, sys
from rmbus.runtime import confine
writable = [os.getcwd()] if sys.argv[1] == "confined" else []
used = int(re.search("VmData:\\s+([0-9]+) kB", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (512 << 10),) * 2)
confine.apply(sys.argv[1], writable=writable)
print("confined itself")
"""


@pytest.mark.parametrize("level", [Level.JAIL, Level.CONFINED], ids=lambda level: level.word)
def test_half_a_megabyte_is_memory_enough(level: Level, found: Probe, folders: tuple[Path, Path]) -> None:
    """A process confines itself where hardly any memory is left."""
    _needs(found, level)
    command = _python(level, _TIGHT, level.word, folders=folders)
    assert _output(command) == "confined itself\n"


def test_a_jail_that_is_none_is_found_out(folders: tuple[Path, Path]) -> None:
    """A process that was told it is jailed, and is not, ends with an error."""
    source = "from rmbus.runtime import confine; confine.apply('jail')"
    with _python(Level.TRUSTED, source, folders=folders).start(stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=10)
    assert process.returncode == 1
    assert b"its root file system is writable" in said or b"not confined as it should be" in said
