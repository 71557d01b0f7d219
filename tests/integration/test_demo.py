"""The demo: a class of its own file, sent to a host that it starts, draws a film; and it ends cleanly on every path."""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from command import EXAMPLES, RATE, Command, finish, make_film
from numpy.typing import NDArray

from rmbus.cli.daemon import Daemon
from rmbus.cli.demo import default_film
from rmbus.host.probing import probe
from rmbus.nodes import MediaReader, MediaWriter

pytestmark = pytest.mark.timeout(90)  # several runs of a command each, on machines that share their cores

LEVEL = probe().level.word


@pytest.fixture
def rmbus_(tmp_path: Path) -> Iterator[Command]:
    with Command(tmp_path) as command:
        yield command


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The demo's own file, as a module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("demo")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("demo", "effects")]:
        del sys.modules[name]


def pictures(path: Path) -> list[NDArray[np.uint8]]:
    """Decode a film to rgb24, by PyAV alone."""
    with av.open(str(path)) as film:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in film.decode(video=0)]


def check_report(report: dict[str, Any], frames: int) -> dict[str, Any]:
    """Check what every run of the demo has to show; return what it says of the class that was sent."""
    nodes = {node["name"]: node for node in report["nodes"]}
    edges = nodes["edges"]
    assert (edges["frames_in"], edges["frames_out"], report["dropped"]) == (frames, frames, {})
    assert edges["level"] == LEVEL
    assert edges["level"] in ("jail", "confined")
    assert edges["package"]
    assert edges["host"] != nodes["reader"]["host"]
    assert len({node["pid"] for node in nodes.values()}) == 3
    assert all(nodes[name]["level"] == "trusted" for name in ("reader", "writer"))
    crossing = [edge["lane"] for edge in report["edges"] if "edges." in edge["name"]]
    assert len(crossing) == 2
    assert all(lane.startswith("fast, ") for lane in crossing), crossing  # the two hosts have met
    assert report["latency_p50_s"] > 0
    assert report["error"] == ""
    return dict(edges)


def test_draws_a_film_and_reports(rmbus_: Command) -> None:
    """As many pictures as came, the same length, the sound; what was sent the first time isn't sent the second."""
    film = make_film(rmbus_.folder / "in.mp4", 20)
    first = rmbus_("demo", "in.mp4", "drawn.mp4", "--json")
    assert first.returncode == 0, first.stderr
    assert check_report(json.loads(first.stdout), 20)["code_bytes"] > 1000
    about, before = MediaReader.probe(rmbus_.folder / "drawn.mp4"), MediaReader.probe(film)
    assert (about.frames, about.audio_codec) == (20, "aac")
    assert about.duration_s == pytest.approx(before.duration_s, abs=1 / RATE)
    second = rmbus_("demo", "in.mp4", "drawn.mp4", "--json")
    assert check_report(json.loads(second.stdout), 20)["code_bytes"] == 0


def test_a_film_without_sound(rmbus_: Command) -> None:
    """The graph has no edge for it; out/demo.mp4 is the default, and the tables say where each node ran."""
    make_film(rmbus_.folder / "in.mp4", 5, sound=False)
    done = rmbus_("demo", "in.mp4")
    assert done.returncode == 0, done.stderr
    about = MediaReader.probe(rmbus_.folder / "out" / "demo.mp4")
    assert (about.frames, about.audio_codec) == (5, None)
    assert f"level {LEVEL}" in done.stdout
    assert "bytes of code sent" in done.stdout
    assert str(rmbus_.folder / "out" / "demo.mp4") in done.stdout


def test_on_a_host_that_runs_already(rmbus_: Command) -> None:
    """With --on the demo starts no host, and ends none."""
    make_film(rmbus_.folder / "in.mp4", 5)
    host = rmbus_.start("host", "--listen", "tcp://127.0.0.1:0", "--name", "other", "--spares", "1")
    assert host.stdout is not None
    address = host.stdout.readline().split("listening on ")[1].split()[0]
    done = rmbus_("demo", "in.mp4", "drawn.mp4", "--on", address, "--json")
    assert done.returncode == 0, done.stderr
    assert check_report(json.loads(done.stdout), 5)["host"] == "other"
    assert host.poll() is None
    host.terminate()
    assert finish(host).returncode == 0


def test_sound_alone_is_refused(rmbus_: Command) -> None:
    """There is nothing to draw, and nothing is started for it."""
    make_film(rmbus_.folder / "in.mp4", 5)
    with av.open(str(rmbus_.folder / "in.mp4")) as film, av.open(str(rmbus_.folder / "tone.mka"), "w") as tone:
        stream = tone.add_stream_from_template(film.streams.audio[0])
        for packet in film.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                tone.mux(packet)
    done = rmbus_("demo", "tone.mka", "drawn.mp4")
    assert done.returncode == 2
    assert "tone.mka has no pictures" in done.stderr


def test_pixels_are_those_that_the_class_makes(monkeypatch: pytest.MonkeyPatch, rmbus_: Command, demo: Any) -> None:
    """With a lossless codec the film has, bit by bit, what the class makes when it is called directly."""
    film = make_film(rmbus_.folder / "in.mp4", 8)
    for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, rmbus_.env[name])
    out = rmbus_.folder / "out.mkv"
    reader, writer = MediaReader(film), MediaWriter(out, video_codec="ffv1")
    with Daemon("exact") as host:
        report = (reader.video >> demo.Edges().options(on=host.address) >> writer.video).run()
    assert report.node("edges").host == "exact"
    edges = importlib.import_module("effects.edges")
    expected = [edges.draw(picture, demo.Edges().threshold) for picture in pictures(film)]
    written = pictures(out)
    assert len(written) == len(expected) == 8
    assert all((one == other).all() for one, other in zip(written, expected, strict=True))


def test_what_is_edited_is_sent_again(rmbus_: Command) -> None:
    """A class goes to the host once; after an edit of its local package once more, and the film shows it."""
    make_film(rmbus_.folder / "in.mp4", 5)
    examples = shutil.copytree(EXAMPLES, rmbus_.folder / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    host = rmbus_.start("host", "--listen", "tcp://127.0.0.1:0", "--spares", "1")
    assert host.stdout is not None
    address = host.stdout.readline().split("listening on ")[1].split()[0]

    def draw(out: str) -> tuple[int, str]:
        done = rmbus_("run", "mine/demo.py:Edges", "-i", "in.mp4", "-o", out, "--on", address, "--json")
        assert done.returncode == 0, done.stderr
        edges = check_report(json.loads(done.stdout), 5)
        return int(edges["code_bytes"]), str(edges["package"])

    first, again = draw("first.mp4"), draw("again.mp4")
    kernel = examples / "effects" / "kernel.py"
    kernel.write_text(kernel.read_text().replace("return steep", "return steep * 0"))
    edited = draw("edited.mp4")
    assert (first[0] > 0, again[0], edited[0] > 0) == (True, 0, True)
    assert first[1] == again[1] != edited[1]
    assert np.ptp(pictures(rmbus_.folder / "first.mp4")[2][..., 1]) > 100
    assert np.ptp(pictures(rmbus_.folder / "edited.mp4")[2][..., 1]) < 100  # no lines, only light and shade
    host.terminate()
    finish(host)


def test_where_user_namespaces_are_forbidden(rmbus_: Command) -> None:
    """As in most containers: the class runs confined, and the host says why it has no jail."""
    make_film(rmbus_.folder / "in.mp4", 5)
    no_userns = Path(__file__).parents[1] / "faults" / "no_userns.py"
    done = rmbus_.script(no_userns, sys.executable, "-m", "rmbus.cli.main", "demo", "in.mp4", "drawn.mp4", "--json")
    assert done.returncode == 0, done.stderr
    nodes = {node["name"]: node for node in json.loads(done.stdout)["nodes"]}
    assert nodes["edges"]["level"] == "confined"
    assert "(level confined; no jail: " in done.stderr


@pytest.mark.slow
@pytest.mark.media
@pytest.mark.timeout(180)
def test_the_clip_of_132_frames(rmbus_: Command, demo: Any) -> None:
    """Without arguments: H.264 and AAC in, the same out, and at least 35 dB against what the class makes."""
    done = rmbus_("demo", "--json", timeout_s=170)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    check_report(report, 132)
    crossing = {edge["name"]: edge["lane"] for edge in report["edges"] if "edges." in edge["name"]}
    assert set(crossing.values()) == {"fast, shared memory"}, crossing
    out = rmbus_.folder / "out" / "demo.mp4"
    about, before = MediaReader.probe(out), MediaReader.probe(default_film())
    assert (about.video_codec, about.audio_codec, about.frames) == ("h264", "aac", 132)
    assert about.duration_s == pytest.approx(before.duration_s, abs=1 / RATE)
    edges = importlib.import_module("effects.edges")
    errors: list[float] = []
    for drawn, picture in zip(pictures(out), pictures(default_film()), strict=True):
        expected = edges.draw(picture, demo.Edges().threshold)
        errors.append(float(np.square(drawn.astype(np.float32) - expected).mean()))
    assert 10 * np.log10(255**2 / np.mean(errors)) >= 35


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_demo_is_ended(rmbus_: Command, number: signal.Signals) -> None:
    """Its host, its nodes and their folders end with it, also where it is killed and can do nothing more."""
    make_film(rmbus_.folder / "in.mp4", 2000, sound=False)
    process = rmbus_.start("demo", "in.mp4", "drawn.mp4")
    assert process.stderr is not None
    line = next(line for line in process.stderr if "frames" in line and " 0 of" not in line)
    assert "of 2000 frames" in line
    mine = [os.pidfd_open(pid) for pid in family(process.pid)]
    assert len(mine) > 6
    os.kill(process.pid, number)
    done = finish(process)
    assert done.returncode == (-9 if number == signal.SIGKILL else 130), done.stderr
    for handle in mine:
        ended, _, _ = select.select([handle], [], [], 4)
        os.close(handle)
        assert ended, "a process of the demo goes on"
    assert not (rmbus_.folder / "drawn.mp4").exists()


def family(pid: int) -> set[int]:
    """Return a process and all that came of it."""
    found = {pid}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found |= family(int(child))
    return found
