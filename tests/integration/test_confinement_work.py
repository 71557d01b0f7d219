"""Confinement, tried on real processes: under every level a node can do its work, and it ends as it should."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rmbus.host.jail import Command, Level, died_of, spawn_command
from rmbus.host.probing import Probe, probe


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
