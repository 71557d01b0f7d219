"""Confinement, tried on real processes: what hostile code reaches under each level, and what nodes must still do."""

from __future__ import annotations

import json
import os
import signal
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

from rmbus.host.jail import Command, Grants, Level, died_of, spawn_command
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
    results: dict[Level, Mapping[str, str]] = {}
    for level in found.details:
        with _targets() as target, tempfile.TemporaryDirectory(prefix="rc-") as folder:
            both = Path(folder), Path(folder)
            results[level] = json.loads(_output(_python(level, _ATTACKS, level.word, json.dumps(target), folders=both)))
    return results


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


def test_every_attack_is_known_by_name(outcomes: Mapping[Level, Mapping[str, str]]) -> None:
    """The list of attacks that is tested is the list that was run."""
    assert sorted(outcomes[Level.TRUSTED]) == sorted(_NAMES)
    assert len(_NAMES) >= 20


# --- the work of nodes ----------------------------------------------------------------------------------------------

_WORK = """
import array, json, mmap, os, socket, sys
from rmbus.runtime import confine
level, node_dir, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
in_force = confine.apply(level, writable=[os.getcwd()] if level == "confined" else [])
umbilical = socket.socket(fileno=number)

import asyncio, concurrent.futures, tempfile
import av, numpy as np, uvloop, zmq

square = np.ones((700, 700))
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert all(float((each @ each)[0, 0]) == 700.0 for each in pool.map(lambda _: square, range(4)))

async def later():
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)
    there.send(b"line\\n")
    line = await reader.readline()
    process = await asyncio.create_subprocess_exec("/bin/echo", "child", stdout=-1)
    said, _ = await process.communicate()
    there.close(); writer.close()
    return line + said
assert uvloop.run(later()) == b"line\\nchild\\n"

path = os.path.join(tempfile.mkdtemp(), "film.mkv")
with av.open(path, "w") as out:
    stream = out.add_stream("libx264", rate=25, width=320, height=240, pix_fmt="yuv420p")
    stream.thread_count = 4
    for n in range(30):
        picture = np.full((240, 320, 3), n * 8, np.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
    out.mux(stream.encode(None))
with av.open(path) as film:
    film.streams.video[0].thread_type = "AUTO"
    frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
assert len(frames) == 30 and abs(int(frames[20].mean()) - 160) < 6

umbilical.send(b"ready")
data, descriptors, flags, _ = socket.recv_fds(umbilical, 100, 8)
segment, listening = descriptors
view = np.frombuffer(mmap.mmap(segment, 4096, prot=mmap.PROT_READ), np.uint8)
assert bytes(view[:6]) == b"memory"

context = zmq.Context()
pull = context.socket(zmq.PULL); pull.setsockopt(zmq.LINGER, 0); pull.setsockopt(zmq.USE_FD, listening)
pull.bind(f"ipc://{node_dir}/own"); pull.setsockopt(zmq.RCVTIMEO, 5000)
push = context.socket(zmq.PUSH); push.setsockopt(zmq.LINGER, 2000); push.setsockopt(zmq.SNDTIMEO, 5000)
push.connect(f"ipc://{node_dir}/linked")
push.send(b"out " + pull.recv())
push.close(); pull.close(); context.term()
umbilical.send(json.dumps({**in_force, "data": data.decode()}).encode())
"""


def _exchange(umbilical: socket.socket, folder: Path, node_dir: Path) -> dict[str, str]:
    """Play the host for `_WORK`: hand descriptors over, link a socket in, and exchange a message each way."""
    import zmq

    umbilical.settimeout(10)
    assert umbilical.recv(100) == b"ready"
    with ExitStack() as stack:
        segment = os.memfd_create("segment", os.MFD_ALLOW_SEALING)
        stack.callback(os.close, segment)
        os.write(segment, b"memory".ljust(4096))
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(node_dir / "own"))
        listening.listen(8)
        context = stack.enter_context(zmq.Context())
        pull = stack.enter_context(context.socket(zmq.PULL))
        push = stack.enter_context(context.socket(zmq.PUSH))
        pull.linger = push.linger = 0
        pull.rcvtimeo = push.sndtimeo = 8000
        pull.bind(f"ipc://{folder}/neighbour")
        os.link(folder / "neighbour", node_dir / "linked")  # while the process is running
        push.connect(f"ipc://{node_dir}/own")
        push.send(b"and in")
        socket.send_fds(umbilical, [b"two"], [segment, listening.fileno()])
        assert pull.recv() == b"out and in"
        return dict(json.loads(umbilical.recv(4000)))


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.word)
def test_a_node_can_do_its_work(level: Level, found: Probe, folders: tuple[Path, Path]) -> None:
    """Threads, uvloop, a codec, descriptors, mapped memory and ZeroMQ over linked and inherited sockets all work."""
    _needs(found, level)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        number = there.fileno()
        command = _python(level, _WORK, level.word, str(folders[0]), str(number), folders=folders, fds=[number])
        with command.start(stderr=subprocess.PIPE) as process:
            there.close()
            try:
                said = _exchange(here, folders[0].parent, folders[0])
            finally:
                _, errors = process.communicate(timeout=10)
                assert process.returncode == 0, errors.decode()
    assert said["level"] == level.word
    assert said["data"] == "two"


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
    assert set(environment) <= {"PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "LANG", "GIVEN", "PWD", "LC_CTYPE"}
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


# --- ends -----------------------------------------------------------------------------------------------------------

_SPEAK = "import sys, time; print('up', flush=True); time.sleep(60)"


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.word)
def test_the_signal_that_ended_a_process_is_told(level: Level, found: Probe, folders: tuple[Path, Path]) -> None:
    """A process that dies by a signal is told apart from one that exits, in a jail too."""
    _needs(found, level)
    with _python(level, "import os; os.kill(os.getpid(), 9)", folders=folders).start() as process:
        assert died_of(level, process.wait(10)) is signal.SIGKILL
    with _python(level, "import sys; sys.exit(3)", folders=folders).start() as process:
        assert died_of(level, process.wait(10)) is None
        assert process.returncode == 3


_PARENT = """
import os, sys, time
from pathlib import Path
from rmbus.host.jail import Level, spawn_command
level, folder = Level.parse(sys.argv[1]), Path(sys.argv[2])
source = sys.argv[3] if level is Level.JAIL else (
    "from rmbus.runtime import confine; confine.die_with_parent(%d)\\n" % os.getpid() + sys.argv[3])
command = spawn_command(level, [sys.executable, "-I", "-c", source], node_dir=folder, work_dir=folder)
command.start(stdout=1)
time.sleep(60)
"""


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.word)
def test_a_process_dies_with_its_host(level: Level, found: Probe, folders: tuple[Path, Path]) -> None:
    """After kill -9 of the host nothing is left: the pipe that all of them hold open reads as ended."""
    _needs(found, level)
    argv = [sys.executable, "-I", "-c", _PARENT, level.word, str(folders[0]), _SPEAK]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"up\n"
        host.kill()
        assert host.stdout.read() == b""


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
import os, re, resource, sys, time
from rmbus.runtime import confine
writable = [os.getcwd()] if sys.argv[1] == "confined" else []
used = int(re.search("VmData:\\s+([0-9]+) kB", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (512 << 10),) * 2)
before = time.perf_counter()
confine.apply(sys.argv[1], writable=writable)
print(time.perf_counter() - before)
"""


@pytest.mark.parametrize("level", [Level.JAIL, Level.CONFINED], ids=lambda level: level.word)
def test_half_a_megabyte_is_memory_enough(level: Level, found: Probe, folders: tuple[Path, Path]) -> None:
    """A process confines itself where hardly any memory is left, and quickly (on a busy machine: the best of five)."""
    _needs(found, level)
    command = _python(level, _TIGHT, level.word, folders=folders)
    assert min(float(_output(command)) for _ in range(5)) < 0.005


def test_a_jail_that_is_none_is_found_out(folders: tuple[Path, Path]) -> None:
    """A process that was told it is jailed, and is not, ends with an error."""
    source = "from rmbus.runtime import confine; confine.apply('jail')"
    with _python(Level.TRUSTED, source, folders=folders).start(stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=10)
    assert process.returncode == 1
    assert b"its root file system is writable" in said or b"not confined as it should be" in said
