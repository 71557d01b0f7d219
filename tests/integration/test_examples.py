"""The examples: each short, and each does what it says."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from command import EXAMPLES, Command, finish, make_film
from numpy.typing import NDArray

from rmbus.nodes import MediaReader
from rmbus.testing import run_node, video

pytestmark = pytest.mark.timeout(90)  # several runs of a command each, on machines that share their cores


@pytest.fixture
def rmbus_(tmp_path: Path) -> Iterator[Command]:
    with Command(tmp_path) as command:
        yield command


def load(path: Path) -> ModuleType:
    """Import a file under a name that no other test uses."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module effects.edges, as the demo imports it."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("effects.edges")
    for name in [name for name in sys.modules if name.partition(".")[0] == "effects"]:
        del sys.modules[name]


def test_examples_are_short() -> None:
    """At most 60 lines each."""
    files = sorted(EXAMPLES.rglob("*.py"))
    assert len(files) >= 11
    assert {str(file): count for file in files if (count := len(file.read_text().splitlines())) > 60} == {}


def test_a_remote_object(rmbus_: Command) -> None:
    """It counts there, streams, goes on with new code, and its state comes home."""
    host = rmbus_.start("host", "--spares", "0")
    assert host.stdout is not None
    assert "listening" in host.stdout.readline()
    done = rmbus_.script(EXAMPLES / "first_day" / "remote_object.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "pictures: 1 2 3",
        "shares: [0.333, 0.0, 0.0, 0.667]",
        "in percent: [33.3, 0.0, 0.0, 66.7]",
        "here again: [19200, 0, 0, 38400]",
    ]
    host.terminate()
    finish(host)


NOTEBOOK = """
import json, sys
import nbformat
from nbclient import NotebookClient

book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=40, kernel_name="python3").execute()
told = [output["data"]["text/plain"] for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
print(json.dumps(told))
"""


def test_the_notebook(rmbus_: Command) -> None:
    """Its class is shipped from a cell, looked at, mended, and shipped again with its state."""
    host = rmbus_.start("host", "--spares", "0")
    assert host.stdout is not None
    assert "listening" in host.stdout.readline()
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, EXAMPLES / "first_day" / "notebook.ipynb"],
        env=rmbus_.env,
        cwd=rmbus_.folder,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown[0].startswith("<remote Edges on ")
    assert shown[1:] == ["[1, 3]", "{'threshold': 20, 'rows': 1}", "([1], 2)", "2"]
    host.terminate()
    finish(host)


def test_how_loud_a_film_is(rmbus_: Command) -> None:
    """A line for each tenth of a second."""
    make_film(rmbus_.folder / "in.mp4", 25)
    done = rmbus_.script(EXAMPLES / "loudness.py", "in.mp4")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert 10 <= len(lines) <= 12
    levels = [float(line.split()[2]) for line in lines[2:9]]
    assert all(-40 < level < 0 for level in levels), lines
    assert max(levels) - min(levels) < 1


def test_an_own_node_over_a_film(rmbus_: Command) -> None:
    """The negative has as many pictures as the film, and its sound."""
    make_film(rmbus_.folder / "in.mp4", 10)
    done = rmbus_.script(EXAMPLES / "first_day" / "own_node.py", "in.mp4", "out.mp4")
    assert done.returncode == 0, done.stderr
    about = MediaReader.probe(rmbus_.folder / "out.mp4")
    assert (about.frames, about.audio_codec) == (10, "aac")


def test_two_machines(rmbus_: Command) -> None:
    """The class of the script runs on the host at an address, which is sent its code once."""
    make_film(rmbus_.folder / "in.mp4", 10, sound=False)
    host = rmbus_.start("host", "--listen", "tcp://127.0.0.1:0", "--name", "garage", "--spares", "1")
    assert host.stdout is not None
    address = host.stdout.readline().split("listening on ")[1].split()[0]
    for _ in range(2):
        done = rmbus_.script(EXAMPLES / "first_day" / "two_machines.py", address, "in.mp4", "out.mkv")
        assert done.returncode == 0, done.stderr
        assert "10 pictures went through process" in done.stdout
        assert "of garage, in level" in done.stdout
    assert MediaReader.probe(rmbus_.folder / "out.mkv").frames == 10
    host.terminate()
    finish(host)


def test_two_scripts_on_a_bus(rmbus_: Command) -> None:
    """What one publishes the other reads, from the first frame to the end of the topic."""
    host = rmbus_.start("host", "--spares", "0")
    assert host.stdout is not None
    host.stdout.readline()
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "first_day" / "subscribe.py", "camera/test"],
        env=rmbus_.env,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading camera/test\n"
        done = rmbus_.script(EXAMPLES / "first_day" / "publish.py", "camera/test", "1")
        assert done.returncode == 0, done.stderr
        *lines, end = reader.stdout.read().splitlines()
    assert reader.returncode == 0
    assert end.startswith("the topic has ended; dropped: ")
    places = [(int(line.split()[1].rstrip(":")), int(line.split()[-1])) for line in lines]
    assert len(places) > 5
    assert all(place == 8 * number for number, place in places)
    host.terminate()
    finish(host)


def test_the_unit_test_of_a_node() -> None:
    """The tests in the example pass."""
    module = load(EXAMPLES / "first_day" / "test_a_node.py")
    tests = [test for name, test in inspect.getmembers(module, inspect.isfunction) if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_drawing_has_lines_where_the_picture_has_edges(effects: ModuleType) -> None:
    """A dark square on white: paper everywhere, a line around it, and the picture that came is unchanged."""
    picture = np.full((40, 60, 3), 255, np.uint8)
    picture[10:30, 20:40] = 30
    before = picture.copy()
    drawing: NDArray[np.uint8] = effects.draw(picture)
    assert (drawing.shape, drawing.dtype.name) == (picture.shape, "uint8")
    assert (picture == before).all()
    around = drawing[10, 20:40, 0]
    assert around.max() < 100
    assert drawing[[2, 20], [2, 30], 0].min() >= 191
    assert drawing[20, 20, 0] < 100


@pytest.mark.parametrize("shape", [(3, 3, 3), (5, 64, 3), (47, 31, 3)])
def test_any_size_can_be_drawn(effects: ModuleType, shape: tuple[int, int, int]) -> None:
    """Odd and small pictures too; the same picture always gives the same drawing."""
    picture = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    assert (effects.draw(picture) == effects.draw(picture.copy())).all()


@pytest.mark.bench
def test_drawing_is_quick_enough_for_films(effects: ModuleType) -> None:
    """25 pictures of 1280x720 in less than a second of one core."""
    picture = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), np.uint8)
    effects.draw(picture)
    began = time.process_time()
    for _ in range(5):
        effects.draw(picture)
    assert (time.process_time() - began) / 5 < 1 / 25


def test_outlines() -> None:
    """The small node of examples/edges.py: white where neighbours differ, black elsewhere."""
    frames = run_node(load(EXAMPLES / "edges.py").Edges(), video(2))
    assert len(frames) == 2
    flat = run_node(load(EXAMPLES / "edges.py").Edges(), [video(1)[0].with_array(np.full((9, 9, 3), 80, np.uint8))])
    assert flat[0].array.max() == 0


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_the_launcher_starts_the_nodes_one_by_one(rmbus_: Command) -> None:
    """Camera, edges and recorder, each by a plain command on a running bus; it ends when the film is whole."""
    host = rmbus_.start("host", "--spares", "0")
    assert host.stdout is not None
    host.stdout.readline()
    film = rmbus_.folder / "launched.mp4"
    done = subprocess.run(
        [EXAMPLES.parent / "scripts" / "launch_edges", film],
        env=rmbus_.env,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"launch_edges: {film}" in done.stderr
    about = MediaReader.probe(film)
    assert (about.width, about.height) == (320, 180)
    assert 150 < (about.frames or 0) <= 250
    host.terminate()
    finish(host)


def test_executed_code(rmbus_: Command) -> None:
    """Of seven pieces of code two do their work, and five end with an error that says why."""
    done = rmbus_.script(EXAMPLES / "executed_code.py")
    assert done.returncode == 0, done.stderr
    told = dict(line.strip().split(": ", 1) for line in done.stdout.splitlines())
    assert told["primes"] == "[2, 3, 5, 7, 11, 13, 17, 19, 23, 29]"
    assert told["mistake"] == "ZeroDivisionError: division by zero"
    assert told["endless loop"] == "TimeoutError: the code was stopped after 1 s"
    assert told["10 GB"].startswith("MemoryError")
    assert told["forbidden import"].startswith("ImportError")
    assert told["past the guard"].startswith("PermissionError")
    assert told["and on"] == "as ever"


def python_of(page: str) -> list[str]:
    """Return the blocks of Python on a page of the documentation."""
    text = (EXAMPLES.parent / page).read_text()
    return [part.split("```", 1)[0] for part in text.split("```python\n")[1:]]


def test_the_first_node_of_the_readme(rmbus_: Command) -> None:
    """Ten lines at most, run by the command that stands below them; then as the script that follows."""
    make_film(rmbus_.folder / "in.mp4", 8)
    node, script = python_of("README.md")
    assert len(node.strip().splitlines()) <= 10
    assert len((EXAMPLES.parent / "README.md").read_text().splitlines()) <= 150
    (rmbus_.folder / "negative.py").write_text(node)
    done = rmbus_("run", "negative.py:Negative", "-i", "in.mp4", "-o", "out.mp4")
    assert done.returncode == 0, done.stderr
    about = MediaReader.probe(rmbus_.folder / "out.mp4")
    assert (about.frames, about.audio_codec) == (8, "aac")
    (rmbus_.folder / "script.py").write_text(script)
    done = rmbus_.script("script.py")
    assert done.returncode == 0, done.stderr
    assert "dropped 0" in done.stdout


def test_the_guide(rmbus_: Command) -> None:
    """The Python of the guide is one script that runs."""
    make_film(rmbus_.folder / "in.mp4", 8)
    (rmbus_.folder / "guide.py").write_text("\n\n".join(python_of("docs/guide.md")))
    done = rmbus_.script("guide.py")
    assert done.returncode == 0, done.stderr
    assert "picky 1 Traceback" in done.stdout
    assert "-> posterize.picture" in done.stdout
    assert MediaReader.probe(rmbus_.folder / "posters.mp4").frames == 8
