"""The command line: what it does, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import RATE, Command, finish, make_film
from typer.testing import CliRunner, Result

import rmbus
from rmbus.cli.main import app
from rmbus.nodes import MediaReader
from rmbus.transport.security import make_pair

pytestmark = pytest.mark.timeout(90)  # several runs of a command each, on machines that share their cores

NODES = """
    import time
    from rmbus import Audio, Input, Node, Output, Pipeline, Video
    from rmbus.nodes import MediaWriter, TestPattern

    class Invert(Node):
        video = Input(Video("rgb24"))
        inverted = Output(Video("rgb24"))

        def initialize(self):
            print("inverting")

        def process(self, frame):
            return frame.with_array(255 - frame.array)

    class Fails(Invert):
        def process(self, frame):
            raise ValueError("no picture is good enough")

    class Slow(Invert):
        def process(self, frame):
            time.sleep(0.2)
            return frame

    class Quieter(Node):
        sound = Input(Audio("fltp"))
        quiet = Output(Audio("fltp"))

        def process(self, frame):
            return frame.with_array(frame.array / 2)

    class Needy(Node):
        def __init__(self, something):
            self.something = something

        def process(self, frame):
            return frame

    class Camera(TestPattern):
        def __init__(self):
            super().__init__(64, 48, 25, frames=50, realtime=True)

    class Recorder(MediaWriter):
        def __init__(self):
            super().__init__("recorded.mp4")

    def pattern():
        return TestPattern(64, 48, frames=12) >> Invert() >> MediaWriter("pattern.mkv").video

    def endless():
        return TestPattern(64, 48, realtime=True) >> MediaWriter("endless.mkv").video

    pipeline = Pipeline([Invert()], name="inverter")
    number = 42
"""


@pytest.fixture
def rmbus_(tmp_path: Path) -> Iterator[Command]:
    (tmp_path / "some_nodes.py").write_text("\n".join(line[4:] for line in NODES.splitlines()))
    with Command(tmp_path) as command:
        yield command


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return make_film(tmp_path / "in.mp4", 20)


def said(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


# --- usage ----------------------------------------------------------------------------------------------------------


def test_tells_its_version() -> None:
    """`rmbus --version` prints the package's version."""
    assert said("--version").output.strip() == f"rmbus {rmbus.__version__}"


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        (["run", "nowhere.py"], "there is no file 'nowhere.py'"),
        (["run", "film.mp4"], "is no Python file"),
        (["host", "--listen", "tcp://0.0.0.0:7700"], "give --client KEY"),
        (["host", "--listen", "tcp://192.168.1.5:7700"], "open to other machines"),
        (["host", "--listen", "tcp://localhost"], "write tcp://HOST:PORT"),
        (["host", "--listen", "127.0.0.1:7700"], "write tcp://HOST:PORT"),
        (["host", "--client", "short"], "is no public key"),
        (["host", "--level", "cellar"], "there are trusted, confined, jail"),
        (["nodes", "Nothing"], "no node is called 'Nothing'"),
        (["nodes", "no_such_module:Nothing"], "there is no module 'no_such_module'"),
        (["nodes", "rmbus.nodes.flow:Nothing"], "rmbus.nodes.flow:Nothing is nothing, and no subclass of rmbus.Node"),
        (["nodes", "rmbus.node:Needs", "--json"], "and no subclass of rmbus.Node"),
        (["fly"], "No such command"),
        (["run"], "Missing argument"),
    ],
)
def test_misuse_is_told_and_ends_with_2(arguments: list[str], telling: str) -> None:
    """What cannot be meant is told in a line, with what to do."""
    result = said(*arguments)
    assert result.exit_code == 2
    assert telling in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("target", "options", "telling"),
    [
        ("some_nodes.py:Nothing", [], "some_nodes.py:Invert"),
        ("some_nodes.py:number", [], "is a int, not a Pipeline"),
        ("some_nodes.py:Needy", ["-i", "in.mp4", "-o", "out.mp4"], "needs arguments (missing a required argument"),
        ("some_nodes.py:Invert", [], "nothing feeds invert.video: give -i FILM"),
        ("some_nodes.py:pattern", ["-i", "in.mp4"], "-i fills one open input, and pipeline has 2: mediawriter.audio"),
        ("some_nodes.py:Invert", ["-i", "in.mp4", "-o", "in.mp4"], "give -o another name"),
        ("some_nodes.py:Invert", ["-i", "in.mp4", "--out", "a/b"], "give one pair or the other"),
        ("some_nodes.py:Invert", ["--in", "sound=a/b"], "has no such port (inputs: video; outputs: inverted)"),
        ("some_nodes.py:pattern", ["--on", "garage"], "--on garage: a host's address is tcp://HOST:PORT"),
        ("some_nodes.py:number", ["--in", "a/b"], "is no Node class"),
    ],
)
def test_misuse_of_a_file_is_told(
    monkeypatch: pytest.MonkeyPatch, rmbus_: Command, film: Path, target: str, options: list[str], telling: str
) -> None:
    """What a file does not have, or its nodes do not take, is told with what they have."""
    monkeypatch.chdir(rmbus_.folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "some_nodes", raising=False)
    result = said("run", target, *options)
    monkeypatch.delitem(sys.modules, "some_nodes", raising=False)
    assert (result.exit_code, result.stdout) == (2, "")
    assert telling in result.stderr


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("def f(:", "invalid syntax"),
        ("import not_to_be_had", "No module named 'not_to_be_had'"),
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_its_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, telling: str
) -> None:
    """The error names the file and the line at fault; `--debug`, anywhere, shows the traceback as well."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = tmp_path / "not_good.py"
    file.write_text(text)
    result = said("run", str(file))
    assert result.exit_code == 1
    assert telling in result.stderr
    assert f"{file}:{len(text.splitlines())}" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in said("run", str(file), "--debug").stderr


def test_a_file_that_hides_behind_another_module_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file called like a module that is imported already would silently not be run."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "json.py").write_text("pipeline = None")
    result = said("run", str(tmp_path / "json.py"))
    assert result.exit_code == 2
    assert "give it another name" in result.stderr


# --- looking --------------------------------------------------------------------------------------------------------


def test_lists_the_nodes() -> None:
    """`rmbus nodes` shows each class once, with its ports."""
    result = said("nodes")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line for line in lines if line.startswith("MediaReader")]
    assert not [line for line in lines if line.startswith("MediaReaderNode")]
    assert "packets: Encoded()" in result.output


def test_describes_a_node() -> None:
    """`rmbus nodes NAME` tells ports, parameters and the other names; an alias means its class."""
    result = said("nodes", "MediaWriterNode")
    assert result.exit_code == 0
    assert "MediaWriter (also MediaWriterNode)" in result.output
    assert "> audio" in result.output
    assert "optional" in result.output
    assert "video_codec" in result.output


def test_tells_what_a_constructor_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Name, type, default and meaning; of a registered name, of a module's class and of a file's."""
    result = said("nodes", "CodeExecutor")
    (line,) = [line for line in result.output.splitlines() if line.startswith("memory_mb")]
    assert line.split()[:3] == ["memory_mb", "int", "512"]
    assert "MiB of address space" in line
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "told_of.py").write_text(
        "import rmbus\nclass Two(rmbus.Node):\n"
        "    def __init__(self, low: int): ...\n    def process(self, frame): ...\n"
    )
    for name in ("told_of:Two", "told_of.py:Two"):
        result = said("nodes", name)
        assert result.exit_code == 0
        assert result.output.splitlines()[-1].split() == ["low", "int", "required"]
    assert "built without parameters" in said("nodes", "Calculator").output


def test_tells_what_a_constructor_takes_as_json_schema() -> None:
    """Of one, and of all by their names."""
    schema = json.loads(said("nodes", "BufferNode", "--json").output)
    assert (schema["title"], schema["properties"]["buffer_size"]["default"]) == ("Buffer", 4)
    assert json.loads(said("nodes", "--json").output)["Buffer"] == schema


def test_doctor_tries_what_rmbus_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`rmbus doctor` names each level with what is in force or why not, and nothing essential is missing here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = said("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = {each["name"]: each for each in json.loads(result.stdout)}
    assert {"Python", "level trusted", "level confined", "level jail", "sealed memory", "H.264 encoder"} <= set(found)
    assert all(found[level]["detail"] for level in ("level confined", "level jail"))
    assert str(tmp_path) in found["package store"]["detail"]


# --- running --------------------------------------------------------------------------------------------------------


def test_puts_reader_and_writer_around_a_node(rmbus_: Command, film: Path) -> None:
    """Pictures go through the node, the sound straight to the film; standard output is JSON and nothing else."""
    done = rmbus_("run", "some_nodes.py:Invert", "-i", "in.mp4", "-o", "out.mp4", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    nodes = {node["name"]: node for node in report["nodes"]}
    assert (nodes["invert"]["frames_in"], nodes["invert"]["frames_out"], report["dropped"]) == (20, 20, {})
    assert len({node["pid"] for node in nodes.values()}) == 3
    assert "invert@local | inverting" in done.stderr.splitlines()
    about, before = MediaReader.probe(rmbus_.folder / "out.mp4"), MediaReader.probe(film)
    assert (about.frames, about.audio_codec) == (20, "aac")
    assert about.duration_s == pytest.approx(before.duration_s, abs=1 / RATE)


def test_a_film_without_sound_gives_one_without(rmbus_: Command) -> None:
    """The report is tables where JSON is not asked for; `pipeline` is the name where none is given."""
    make_film(rmbus_.folder / "silent.mp4", 5, sound=False)
    done = rmbus_("run", "some_nodes.py", "-i", "silent.mp4", "-o", "out.mkv")
    assert done.returncode == 0, done.stderr
    assert "reader.video -> invert.video" in done.stdout
    about = MediaReader.probe(rmbus_.folder / "out.mkv")
    assert (about.frames, about.audio_codec) == (5, None)


def test_sound_goes_through_a_node_of_sound(rmbus_: Command, film: Path) -> None:
    """A film keeps its pictures as they are, without coding them again; a sound file has none."""
    done = rmbus_("run", "some_nodes.py:Quieter", "-i", "in.mp4", "-o", "quiet.mp4", "--json")
    assert done.returncode == 0, done.stderr
    assert "reader.packets -> writer.packets" in {edge["name"] for edge in json.loads(done.stdout)["edges"]}
    about = MediaReader.probe(rmbus_.folder / "quiet.mp4")
    assert (about.video_codec, about.frames, about.audio_codec) == ("h264", 20, "aac")
    done = rmbus_("run", "some_nodes.py:Quieter", "-i", "in.mp4", "-o", "quiet.wav")
    assert done.returncode == 0, done.stderr
    assert MediaReader.probe(rmbus_.folder / "quiet.wav").video_codec is None


def test_runs_what_a_function_returns(rmbus_: Command) -> None:
    """`FILE:name` may be a function that builds the pipeline."""
    done = rmbus_("run", "some_nodes.py:pattern", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 12
    assert MediaReader.probe(rmbus_.folder / "pattern.mkv").frames == 12


def test_a_failing_node_ends_with_1_and_its_traceback(rmbus_: Command, film: Path) -> None:
    """The user's error is told with node, frame and the line at fault; the report is printed all the same."""
    done = rmbus_("run", "some_nodes.py:Fails", "-i", "in.mp4", "-o", "out.mp4", "--json")
    assert done.returncode == 1
    assert "ValueError" in json.loads(done.stdout)["error"]
    assert "rmbus: ValueError: no picture is good enough (node 'fails' on local, frame 0)" in done.stderr
    assert 'raise ValueError("no picture is good enough")' in done.stderr
    assert "session.py" not in done.stderr
    assert not (rmbus_.folder / "out.mp4").exists()


def test_a_failing_reader_shows_no_traceback(rmbus_: Command, film: Path) -> None:
    """What goes wrong in a node of ours is told by its message."""
    done = rmbus_("run", "some_nodes.py:Invert", "-i", "in.mp4", "-o", "no/such/folder/out.mp4")
    assert done.returncode == 1
    assert "no/such/folder/out.mp4" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_host_at_the_address_ends_with_3(rmbus_: Command, film: Path) -> None:
    """The error says how to start one."""
    done = rmbus_("run", "some_nodes.py:Invert", "-i", "in.mp4", "-o", "out.mp4", "--on", "tcp://127.0.0.1:7")
    assert done.returncode == 3
    assert "start it with `rmbus host --listen tcp://127.0.0.1:7`" in done.stderr
    done = rmbus_("run", "some_nodes.py:Invert", "--in", "a/b", "--out", "c/d")
    assert done.returncode == 3
    assert "start one with `rmbus host`" in done.stderr


def test_ctrl_c_ends_a_film_with_130(rmbus_: Command, film: Path) -> None:
    """Nothing of the run is left, and no film that looks whole."""
    process = rmbus_.start("run", "some_nodes.py:Slow", "-i", "in.mp4", "-o", "out.mp4")
    wait_for(process, "inverting")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130
    assert "rmbus: interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (rmbus_.folder / "out.mp4").exists()


def test_ctrl_c_finishes_the_film_of_an_endless_source(rmbus_: Command) -> None:
    """What has no end of its own is drained: the film is whole."""
    process = rmbus_.start("run", "some_nodes.py:endless")
    wait_for(process, "frames")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130, done.stderr
    assert (MediaReader.probe(rmbus_.folder / "endless.mkv").duration_s or 0) > 0.1


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    """Read standard error up to a line with the word."""
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return
    raise AssertionError(f"it has ended and never said {word!r}")


# --- hosts ----------------------------------------------------------------------------------------------------------


def test_a_host_tells_where_it_listens_and_ends_on_sigterm(rmbus_: Command) -> None:
    """One line: name, address, level, connection file. With a key it may listen for other machines."""
    key = make_pair()[0].decode()
    process = rmbus_.start("host", "--listen", "tcp://*:0", "--client", key, "--name", "garage", "--spares", "1")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("rmbus host garage listening on tcp://")
    file = Path(line.split("connection file ")[1].strip())
    assert file.stat().st_mode & 0o777 == 0o600
    process.send_signal(signal.SIGTERM)
    assert finish(process).returncode == 0
    assert not file.exists()


def test_a_host_refuses_to_confine_less_than_it_must(rmbus_: Command) -> None:
    """Without bubblewrap there is no jail, and nothing less is given silently."""
    rmbus_.env["PATH"] = str(rmbus_.folder)
    done = rmbus_("host", "--level", "jail")
    assert done.returncode == 1
    assert "must confine nodes at `jail` at least" in done.stderr
    assert "bubblewrap is not installed" in done.stderr


def test_two_hosts_cannot_listen_at_one_address(rmbus_: Command) -> None:
    """The second says so, and ends with 1: it is no host that could not be reached."""
    first = rmbus_.start("host", "--listen", "tcp://127.0.0.1:0", "--spares", "0")
    assert first.stdout is not None
    address = first.stdout.readline().split("listening on ")[1].split()[0]
    second = rmbus_("host", "--listen", address, "--spares", "0")
    assert second.returncode == 1
    assert f"cannot listen on {address}" in second.stderr
    first.terminate()
    finish(first)


def test_a_host_ends_with_the_parent_that_it_was_given(rmbus_: Command) -> None:
    """Also where that is killed and can do nothing more."""
    command = [sys.executable, "-m", "rmbus.cli.main", "host", "--spares", "1", "--parent-pid"]
    program = f"import os, subprocess; subprocess.Popen({command!r} + [str(os.getpid())]).wait()"
    parent = subprocess.Popen([sys.executable, "-c", program], env=rmbus_.env, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert "listening on ipc://" in parent.stdout.readline()
    host = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
    handle = os.pidfd_open(host)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    ended, _, _ = select.select([handle], [], [], 5)
    os.close(handle)
    assert ended, "the host goes on without its parent"


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_nodes_are_started_one_by_one_on_a_running_bus(rmbus_: Command) -> None:
    """Each by a command of its own, joined by topics; each ends with 0 at the end of its stream."""
    host = rmbus_.start("host", "--spares", "0")
    assert host.stdout is not None
    host.stdout.readline()
    recorder = rmbus_.start("run", "some_nodes.py:Recorder", "--in", "video=edges/video")
    edges = rmbus_.start("run", "some_nodes.py:Invert", "--in", "camera/video", "--out", "edges/video")
    camera = rmbus_.start("run", "some_nodes.py:Camera", "--out", "camera/video")
    for process in (camera, edges, recorder):
        done = finish(process)
        assert done.returncode == 0, done.stderr
    frames = MediaReader.probe(rmbus_.folder / "recorded.mp4").frames or 0
    assert 10 < frames <= 50  # a topic keeps nothing for those who come late
    host.terminate()
    assert finish(host).returncode == 0


def test_a_failing_node_on_a_bus_ends_with_1(rmbus_: Command) -> None:
    """It is told as that of a pipeline; the camera goes on to its end."""
    host = rmbus_.start("host", "--spares", "0")
    assert host.stdout is not None
    host.stdout.readline()
    fails = rmbus_.start("run", "some_nodes.py:Fails", "--in", "camera/video", "--out", "edges/video")
    camera = rmbus_.start("run", "some_nodes.py:Camera", "--out", "camera/video")
    done = finish(fails)
    assert done.returncode == 1
    assert "rmbus: ValueError: no picture is good enough (node 'fails' on this machine)" in done.stderr
    assert 'raise ValueError("no picture is good enough")' in done.stderr
    assert finish(camera).returncode == 0


@pytest.mark.slow
def test_ctrl_c_ends_a_node_on_a_bus_with_130(rmbus_: Command) -> None:
    """A node that was started by hand ends, and the host goes on."""
    host = rmbus_.start("host", "--spares", "0")
    assert host.stdout is not None
    host.stdout.readline()
    node = rmbus_.start("run", "some_nodes.py:Invert", "--in", "camera/video", "--out", "edges/video")
    assert node.stdout is not None
    assert node.stdout.readline() == "inverting\n"
    node.send_signal(signal.SIGINT)
    assert finish(node).returncode == 130
    assert host.poll() is None
    host.terminate()
    finish(host)
