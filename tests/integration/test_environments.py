"""Environments of shipped code: made once from what is locked, seen by the node that asked, and by nobody else."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from uv import find_uv_bin
from watch import family
from wheels import make_wheel, only_from

from rmbus.errors import PackagingError, RmbusError
from rmbus.host.environments import Environment, Environments, Waiter
from rmbus.host.shelf import Shelf
from rmbus.protocol import messages
from rmbus.protocol.lock import Locked, encode_lock
from rmbus.shipping.package import build_files, with_lock
from rmbus.transport.reactor import Reactor
from rmbus.transport.runfolder import RunFolder

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SCRIPT = """
    import json, sys
    from rmbus import Node

    class Numbers(Node):
        def process(self):
            yield 1

    class Fruit(Node):
        def process(self, frame):
            try:
                import fruit
            except ImportError:
                return {"fruit": None}
            return {"fruit": fruit.version, "kernel": fruit.kernel(), "file": fruit.__file__}

    class Print(Node):
        def process(self, frame):
            print("RESULT " + json.dumps(frame.value))

    def show(pipeline, *names):
        report = pipeline.run()
        nodes = {name: report.node(name) for name in names}
        print(json.dumps({name: [node.warm, node.reason, node.level] for name, node in nodes.items()}))
"""


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with two versions of a fruit, and the kernel that it requires."""
    folder = tmp_path / "wheels"
    for version in ("1.0", "2.0"):
        text = f"version = {version!r}\ndef kernel():\n    import fruit_kernel\n    return fruit_kernel.size\n"
        make_wheel(folder, "fruit", version, {"fruit/__init__.py": text}, ("fruit-kernel>=1", "rmbus"))
    make_wheel(folder, "fruit-kernel", "1.5", {"fruit_kernel.py": "size = 7\n"})
    return folder


def write(folder: Path, text: str, head: str = "") -> Path:
    project = folder / "project"
    project.mkdir(exist_ok=True)
    script = project / "main.py"
    script.write_text(head + textwrap.dedent(SCRIPT) + textwrap.dedent(text))
    return script


def results(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line.split("RESULT ", 1)[1]) for line in done.stderr.splitlines() if "RESULT " in line]


def environments(folder: Path) -> list[Path]:
    """Return what lies where environments are kept, but for the locks."""
    shelf = folder / "cache" / "rmbus" / "environments"
    return sorted(path for path in shelf.glob("*") if path.suffix != ".lock")


def settled(folder: Path) -> list[Path]:
    """Return the same, once nothing is being built or removed any more."""
    deadline = time.monotonic() + 10
    while any(path.suffix == ".part" for path in environments(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return environments(folder)


TWO = """
    source = Numbers()
    first = Fruit().options(name="first", on=sys.argv[1], requirements=["fruit==1.0"])
    second = Fruit().options(name="second", on=sys.argv[1], requirements=["fruit>1"])
    third = Fruit().options(name="third", on=sys.argv[1])
    prints = [Print().options(name=f"print{number}") for number in range(3)]
    show((source >> first >> prints[0]) | (source >> second >> prints[1]) | (source >> third >> prints[2]),
         "first", "second", "third")
"""


@pytest.mark.parametrize("level", ["jail", "confined"])
def test_each_node_sees_its_own_version(tmp_path: Path, wheels: Path, level: str) -> None:
    """Two nodes of one host have two versions of a distribution, with what it requires; the next one has none."""
    script = write(tmp_path, TWO)
    with Daemon(tmp_path, level=level, env=only_from(wheels)) as host:
        done = host.script(script)
        told = json.loads(done.stdout) if done.returncode == 0 else {}
        assert sorted((each["fruit"], each.get("kernel")) for each in results(done) if each["fruit"]) == [
            ("1.0", 7),
            ("2.0", 7),
        ]
        assert [each for each in results(done) if each["fruit"] is None] == [{"fruit": None}]
        assert {name: level_ for name, (_, _, level_) in told.items()} == dict.fromkeys(told, level)
        assert told["first"][:2] == [False, "its environment was built for this start"]
        assert "environment: installing 2 distributions" in done.stderr
        again = host.script(script)
        assert "environment: installing" not in again.stderr
        assert json.loads(again.stdout)["second"][:2] == [False, "its environment starts cold"]
        assert len(settled(tmp_path)) == 2


@pytest.mark.parametrize("level", ["jail", "confined"])
def test_an_environment_is_read_only(tmp_path: Path, wheels: Path, level: str) -> None:
    """What runs in an environment cannot change it."""
    text = """
        class Spoil(Node):
            def process(self, frame):
                import fruit, os
                said = []
                for path in (fruit.__file__, os.path.dirname(fruit.__file__) + "/new.py"):
                    try:
                        open(path, "a").close()
                    except OSError as error:
                        said.append(type(error).__name__)
                return said

        show(Numbers() >> Spoil().options(on=sys.argv[1], requirements=["fruit"]) >> Print(), "spoil")
    """
    with Daemon(tmp_path, level=level, env=only_from(wheels)) as host:
        (said,) = results(host.script(write(tmp_path, text)))
        assert len(said) == 2


def test_on_the_users_own_host(tmp_path: Path, wheels: Path) -> None:
    """A node of the script's own host has its requirements too; what nobody asked for stays as it is."""
    text = """
        (Numbers() >> Fruit().options(requirements=["fruit==1.0"]) >> Print()).run()
        (Numbers() >> Fruit() >> Print()).run()
    """
    env = {**only_from(wheels), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, str(write(tmp_path, text))], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert [each["fruit"] for each in results(done)] == ["1.0", None]


def test_what_is_not_in_the_list_is_not_there(tmp_path: Path, wheels: Path) -> None:
    """What the host has beyond rmbus and its requirements is not in an environment; the proof says so before."""
    text = """
        class Other(Node):
            def process(self, frame):
                import hypothesis
                return hypothesis.__version__

        show(Numbers() >> Other().options(on=sys.argv[1], requirements=["fruit"]) >> Print(), "other")
    """
    with Daemon(tmp_path, env=only_from(wheels)) as host:
        done = host.script(write(tmp_path, text))
    assert done.returncode == 1
    assert "module 'hypothesis' is missing" in done.stderr
    assert "add it to the requirements" in done.stderr


def test_what_cannot_be_met(tmp_path: Path, wheels: Path) -> None:
    """A requirement that does not exist fails where the caller is, in the installer's words, before anything runs."""
    text = 'show(Numbers() >> Fruit().options(on=sys.argv[1], requirements=["no-such-fruit==9"]) >> Print(), "fruit")\n'
    with Daemon(tmp_path, env=only_from(wheels)) as host:
        done = host.script(write(tmp_path, textwrap.indent(text, "    ")))
    assert done.returncode == 1
    assert "rmbus.errors.PackagingError" in done.stderr
    assert "no-such-fruit was not found" in done.stderr
    assert environments(tmp_path) == []


def test_what_rmbus_could_not_run_with(tmp_path: Path, wheels: Path) -> None:
    """Requirements that exclude what rmbus itself needs are refused as such, not found out by a process that dies."""
    make_wheel(wheels, "attrs", "22.1.0", {"attr/__init__.py": ""})
    text = 'show(Numbers() >> Fruit().options(on=sys.argv[1], requirements=["attrs==22.1.0"]) >> Print(), "fruit")\n'
    with Daemon(tmp_path, env=only_from(wheels)) as host:
        done = host.script(write(tmp_path, textwrap.indent(text, "    ")))
    assert done.returncode == 1
    assert "attrs==22.1.0" in done.stderr
    assert "attrs>=24.2" in done.stderr


def test_what_the_host_cannot_install(tmp_path: Path, wheels: Path) -> None:
    """What the host's installer says is in the caller's exception, and nothing half stays."""
    client = only_from(wheels)
    with Daemon(tmp_path, env=only_from(tmp_path / "empty")) as host:
        host.env = {**client, "XDG_RUNTIME_DIR": str(host.run), "XDG_CACHE_HOME": str(tmp_path / "client")}
        text = '    show(Numbers() >> Fruit().options(on=sys.argv[1], requirements=["fruit"]) >> Print(), "fruit")\n'
        done = host.script(write(tmp_path, text))
        assert done.returncode == 1
        assert "rmbus.errors.PackagingError: the environment cannot be made on the host" in done.stderr
        assert "the installer says" in done.stderr
        assert "fruit" in done.stderr.partition("the installer says")[2]
        assert settled(tmp_path) == []


MANY = """
    source = Numbers()
    pipeline = None
    for number in range(10):
        place = sys.argv[1 + number % 2]
        fruit = Fruit().options(name=f"f{number}", on=place, requirements=["fruit==1.0"])
        line = source >> fruit >> Print().options(name=f"p{number}")
        pipeline = line if pipeline is None else pipeline | line
    pipeline.run()
"""


def test_ten_at_once_on_two_hosts(tmp_path: Path, wheels: Path) -> None:
    """Ten nodes on two hosts of one user build one environment, once."""
    with (
        Daemon(tmp_path, "--name", "one", env=only_from(wheels)) as one,
        Daemon(tmp_path, "--name", "two", env=only_from(wheels), run=one.run) as two,
    ):
        done = one.script(write(tmp_path, MANY), two.address)
        assert [each["fruit"] for each in results(done)] == ["1.0"] * 10
        built = {line.partition("@")[2].partition(" ")[0] for line in done.stderr.splitlines() if "installing" in line}
        assert len(built) == 1, done.stderr
        assert len(settled(tmp_path)) == 1


def test_a_builder_that_is_killed(tmp_path: Path, wheels: Path) -> None:
    """kill -9 in the middle leaves nothing half, the caller is told, and the next start builds."""
    text = '    show(Numbers() >> Fruit().options(on=sys.argv[1], requirements=["fruit"]) >> Print(), "fruit")\n'
    script = write(tmp_path, text)
    with Daemon(tmp_path, env=only_from(wheels)) as host:
        seen = threading.Event()

        def kill() -> None:
            while not seen.is_set():
                if any(path.suffix == ".part" for path in environments(tmp_path)):
                    for pid in family(host.process.pid):
                        if b"rmbus.host.building" in Path(f"/proc/{pid}/cmdline").read_bytes():
                            os.kill(pid, signal.SIGKILL)
                            seen.set()

        killer = threading.Thread(target=kill)
        killer.start()
        done = host.script(script)
        seen.set()
        killer.join()
        assert done.returncode == 1
        assert "the builder was killed by signal 9" in done.stderr
        assert settled(tmp_path) == []
        assert [each["fruit"] for each in results(host.script(script))] == ["2.0"]
        assert len(settled(tmp_path)) == 1


def test_a_host_that_is_killed_while_it_builds(tmp_path: Path, wheels: Path) -> None:
    """The builder ends with its host, and what it left is removed by the next."""
    text = '    show(Numbers() >> Fruit().options(on=sys.argv[1], requirements=["fruit"]) >> Print(), "fruit")\n'
    script = write(tmp_path, text)
    with Daemon(tmp_path, env=only_from(wheels)) as host:
        running = subprocess.Popen(
            [sys.executable, str(script), host.address],
            env=host.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not any(path.suffix == ".part" for path in environments(tmp_path)):
            assert running.poll() is None
        host.process.kill()
        assert running.wait(30) == 1
        host.process.wait()
    with Daemon(tmp_path, env=only_from(wheels)) as host:
        assert [each["fruit"] for each in results(host.script(script))] == ["2.0"]
        assert len(settled(tmp_path)) == 1


SPY = "import os; open({path!r}, 'a').write('ran by %d at %s' % (os.getpid(), os.environ.get('USER')))"


@pytest.mark.parametrize("level", ["jail", "confined"])
def test_nothing_of_a_distribution_runs_outside(tmp_path: Path, wheels: Path, level: str) -> None:
    """What a distribution would have an interpreter do at its start is done within the walls of the node alone."""
    mark, inside = tmp_path / "mark", "import os; os.environ['FRUIT'] = 'seen'"
    files = {"fruit_spy.pth": f"{SPY.format(path=str(mark))}\n", "fruit_tell.pth": f"{inside}\n", "fruit_spy.py": ""}
    make_wheel(wheels, "fruit-spy", "1.0", files)
    text = """
        class Spied(Node):
            def process(self, frame):
                import os
                return os.environ.get("FRUIT")

        show(Numbers() >> Spied().options(on=sys.argv[1], requirements=["fruit-spy"]) >> Print(), "spied")
    """
    with Daemon(tmp_path, level=level, env=only_from(wheels)) as host:
        done = host.script(write(tmp_path, text))
        assert [str(each) for each in results(done)] == ["seen"]
        assert not mark.exists(), mark.read_text()


def test_a_forged_lock(tmp_path: Path, wheels: Path) -> None:
    """A builder takes no list with another hash than the file has, and none that is no list; nothing stays."""
    (tmp_path / "code.py").write_text("x = 1\n")
    made = build_files([tmp_path / "code.py"])
    for lock, why in (
        (encode_lock([Locked("fruit", "1.0", ("0" * 64,))]), "hash"),
        (b"--find-links=/\nfruit==1.0\n", "no locked requirement"),
    ):
        package = with_lock(made, ["fruit"], lock)
        done = run_builder(tmp_path, package.data, package.manifest.lock, only_from(wheels))
        assert done.returncode == 3, done.stdout
        assert why in done.stdout.lower()
    done = run_builder(tmp_path, package.data, "0" * 64, only_from(wheels))
    assert "not those that were named" in done.stdout
    assert environments(tmp_path) == []


def run_builder(
    folder: Path, package: bytes, lock: str, env: Mapping[str, str], **changes: Any
) -> subprocess.CompletedProcess[str]:
    (folder / "package.zip").write_bytes(package)
    root = str(folder / "cache" / "rmbus" / "environments")
    version = ".".join(map(str, sys.version_info[:3]))
    base = os.path.realpath(sys.executable)
    task: dict[str, Any] = {"key": "a" * 40, "lock": lock, "python": base, "version": version, **changes}
    given = json.dumps({"root": root, "parent": os.getpid(), **task})
    with (folder / "package.zip").open("rb") as file:
        return subprocess.run(
            [sys.executable, "-I", "-m", "rmbus.host.building", given],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            text=True,
            timeout=60,
            check=False,
        )


PREPARED = """
    show(Numbers() >> Fruit().options(on=sys.argv[1], env="orchard") >> Print(), "fruit")
"""


@pytest.mark.parametrize("level", ["jail", "confined"])
def test_a_prepared_environment(tmp_path: Path, level: str) -> None:
    """A node that names an environment of the host's owner runs in it, as it is."""
    place = tmp_path / "orchard"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (modules,) = place.glob("lib/python*/site-packages")
    (modules / "fruit.py").write_text("version = 'ripe'\ndef kernel():\n    return 0\n")
    before = sorted(place.rglob("*"))
    with Daemon(tmp_path, "--env", f"orchard={place}", level=level) as host:
        done = host.script(write(tmp_path, PREPARED))
        assert [each["fruit"] for each in results(done)] == ["ripe"]
        assert json.loads(done.stdout)["fruit"] == [False, "the prepared environment orchard", level]
        unknown = host.script(write(tmp_path, PREPARED.replace("orchard", "meadow")))
        assert "has no environment 'meadow' (prepared are: orchard)" in unknown.stderr
    assert sorted(place.rglob("*")) == before


def test_a_block_of_the_script(tmp_path: Path, wheels: Path) -> None:
    """On a host in another environment the script's block is met, with nothing stated in the code."""
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(other)], check=True)
    (modules,) = other.glob("lib/python*/site-packages")
    (modules / "host.pth").write_text(f"import site; site.addsitedir({str(Path(sys.prefix, *modules.parts[-3:]))!r})\n")
    head = "# /// script\n# dependencies = ['rmbus', 'fruit==1.0']\n# ///\n"
    text = '    show(Numbers() >> Fruit().options(on=sys.argv[1]) >> Print(), "fruit")\n'
    script = write(tmp_path, text, head)
    with Daemon(tmp_path, env=only_from(wheels), python=str(other / "bin" / "python")) as host:
        assert [each["fruit"] for each in results(host.script(script))] == ["1.0"]
    with Daemon(tmp_path, env=only_from(wheels)) as host:
        assert [each["fruit"] for each in results(host.script(script))] == [None]


def test_no_interpreter_fits(tmp_path: Path) -> None:
    """Code of another version is refused before it is loaded; the versions of both sides are named."""
    text = """
        import types
        from rmbus import runs
        runs.sys = types.SimpleNamespace(**{**vars(sys), "version_info": (3, 5, 1)})
        show(Numbers() >> Fruit().options(on=sys.argv[1]) >> Print(), "fruit")
    """
    with Daemon(tmp_path) as host:
        done = host.script(write(tmp_path, text))
    ours = f"cpython-{sys.version_info.major}.{sys.version_info.minor}"
    assert "rmbus.errors.UnsupportedVersion" in done.stderr
    assert "cpython-3.5" in done.stderr
    assert f"offers {ours}" in done.stderr


def test_interpreters_that_are_none(tmp_path: Path) -> None:
    """A host that is to offer what is no interpreter, or one without rmbus, says so and does not start."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    for options, why in (
        (["--python", str(bare / "bin" / "python")], "has no working rmbus"),
        (["--python", "/bin/false"], "has no working rmbus"),
        (["--python", "/nowhere"], "cannot be run"),
        (["--env", f"a={tmp_path}"], "has no working interpreter"),
        (["--env", "a"], "write NAME=PATH"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "rmbus.cli.main", "host", *options],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode != 0
        assert why in done.stderr, done.stderr


@pytest.mark.net
def test_a_version_from_the_index(tmp_path: Path) -> None:
    """With the real index: a version of what rmbus itself uses that is not the host's, seen by the one node alone."""
    text = """
        class Attrs(Node):
            def process(self, frame):
                import attr, idna
                from importlib.metadata import version
                return {"fruit": [attr.__version__, version("idna"), frame.value]}

        class Own(Node):
            def process(self, frame):
                import attr
                return {"fruit": attr.__version__}

        source = Numbers()
        far = Attrs().options(name="far", on=sys.argv[1], requirements=["attrs==24.2.0", "idna==2.10"])
        own = Own().options(name="own", on=sys.argv[1])
        show((source >> far >> Print()) | (source >> own >> Print().options(name="print2")), "far", "own")
    """
    with Daemon(tmp_path) as host:
        done = host.script(write(tmp_path, text), timeout_s=110)
        seen = {json.dumps(each["fruit"]) for each in results(done)}
    import attr

    assert attr.__version__ != "24.2.0"
    assert seen == {json.dumps(["24.2.0", "2.10", 1]), json.dumps(attr.__version__)}


def test_a_quota_that_is_too_small(tmp_path: Path, wheels: Path) -> None:
    """An environment that is larger than all may be is refused, and is not kept."""
    (tmp_path / "code.py").write_text("x = 1\n")
    hashes = (sha256(next(wheels.glob("fruit_kernel*"))),)
    made = with_lock(
        build_files([tmp_path / "code.py"]), ["fruit-kernel"], encode_lock([Locked("fruit-kernel", "1.5", hashes)])
    )
    done = run_builder(tmp_path, made.data, made.manifest.lock, only_from(wheels), quota_bytes=100)
    assert done.returncode == 3
    assert "and all environments of this host may have 100" in done.stdout
    assert environments(tmp_path) == []
    done = run_builder(tmp_path, made.data, made.manifest.lock, only_from(wheels))
    assert done.returncode == 0, done.stdout
    shelf = Shelf(tmp_path / "cache" / "rmbus" / "environments")
    assert list((shelf.path("a" * 40)).rglob("*.pyc")), "compiled beforehand"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


VERSIONS = """
    class Version(Node):
        def process(self, frame):
            import numpy
            try:
                import fruit
            except ImportError:
                return {"fruit": None, "python": list(sys.version_info[:2])}
            return {"fruit": fruit.version, "python": list(sys.version_info[:2])}

    source = Numbers()
    plain = Version().options(name="plain", on=sys.argv[1])
    fruit = Version().options(name="fruit", on=sys.argv[1], requirements=["fruit==1.0"])
    show((source >> plain >> Print()) | (source >> fruit >> Print().options(name="print2")), "plain", "fruit")
"""


@pytest.mark.net
@pytest.mark.timeout(300)
def test_another_interpreter(tmp_path: Path, wheels: Path) -> None:
    """Code of another version of Python runs on the interpreter of that version, and in an environment of that."""
    found = [path for minor in (11, 12, 13) if minor != sys.version_info.minor and (path := works(f"python3.{minor}"))]
    if not found:
        pytest.skip("no other version of Python is installed")
    other = tmp_path / "other" / "bin" / "python"
    uv = find_uv_bin()
    subprocess.run([uv, "venv", "-q", "--python", found[0], str(tmp_path / "other")], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", str(other), "-e", str(ROOT)], check=True)
    with Daemon(tmp_path, "--python", str(other), env=only_from(wheels)) as host:
        done = host.script(write(tmp_path, VERSIONS), python=str(other))
        seen = sorted((str(each["fruit"]), *each["python"]) for each in results(done))
        assert [each[0] for each in seen] == ["1.0", "None"]
        assert len({each[1:] for each in seen} - {sys.version_info[:2]}) == 1
        told = json.loads(done.stdout)
        assert told["plain"][:2] == [False, f"cpython-{seen[0][1]}.{seen[0][2]}, as {other}"]
        again = host.script(write(tmp_path, VERSIONS))
        assert {tuple(each["python"]) for each in results(again)} == {sys.version_info[:2]}


def works(*names: str) -> str | None:
    """Return the real path of the first of these interpreters that runs."""
    for name in names:
        try:
            done = subprocess.run(
                [name, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return done.stdout.strip()
    return None


REVIVED = """
    import contextlib, os, signal
    from rmbus import Session

    class Many(Node):
        deterministic = True
        def process(self):
            yield from range(20_000)

    class Seen(Node):
        def process(self, frame):
            import fruit
            return {"fruit": fruit.version, "pid": os.getpid()}

    class New(Node):
        pids = ()
        def process(self, frame):
            if frame.value["pid"] not in self.pids:
                self.pids = (*self.pids, frame.value["pid"])
                print("RESULT " + json.dumps(frame.value))

    pipeline = Many() >> Seen().options(requirements=["fruit==1.0"]) >> New()
    with Session(pipeline, revives=True) as session:
        def node():
            return session.report().node("seen")
        while node().frames_out < 10:
            with contextlib.suppress(TimeoutError):
                session.wait(0.01)
        os.kill(node().pid, signal.SIGKILL)
        while node().state != "lost":
            with contextlib.suppress(TimeoutError):
                session.wait(0.01)
        session.revive_node("seen")
        session.wait(60)
"""


def test_a_node_that_is_started_anew(tmp_path: Path, wheels: Path) -> None:
    """A node whose process has died comes back in its environment."""
    env = {**only_from(wheels), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    script = write(tmp_path, REVIVED)
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=90, check=False
    )
    seen = results(done)
    assert [each["fruit"] for each in seen] == ["1.0", "1.0"]
    assert len({each["pid"] for each in seen}) == 2


class Asked:
    """A host's environments without the host: what is asked for is built, and the answer is waited for."""

    def __init__(self, folder: Path, wheels: Path, **limits: Any) -> None:
        hashes = (sha256(next(wheels.glob("fruit_kernel*"))),)
        lock = encode_lock([Locked("fruit-kernel", "1.5", hashes)])
        (folder / "code.py").write_text("x = 1\n")
        self.package = with_lock(build_files([folder / "code.py"]), ["fruit-kernel"], lock)
        (folder / "package.zip").write_bytes(self.package.data)
        self.file = folder / "package.zip"
        self.reactor = Reactor()
        self.run = RunFolder()
        self.shelf = Shelf(folder / "environments")
        self.environments = Environments(self.reactor, self.run, self.shelf.root, host="here", **limits)

    def answer(self) -> Environment | RmbusError | None:
        found: list[Environment | RmbusError | None] = []
        start = messages.Start(
            *("s", 0, "node", "m:C"),
            lock=self.package.manifest.lock,
            implementation=sys.implementation.name,
            python=sys.version_info[:2],
        )
        waiter = Waiter(found.append, found.append, lambda lines, suppressed: None)
        self.environments.obtain(start, lambda: os.open(self.file, os.O_RDONLY), waiter)
        while not found:
            self.reactor.serve_once(wait=True)
        return found[0]

    def close(self) -> None:
        self.environments.close()
        self.reactor.close()
        self.run.remove()


def test_a_builder_that_takes_too_long(tmp_path: Path, wheels: Path) -> None:
    """It is ended at its limit, and whoever waits is told."""
    asked = Asked(tmp_path, wheels, build_s=0.05)
    try:
        answer = asked.answer()
        assert isinstance(answer, PackagingError)
        assert "was not built within 0.05 s" in str(answer)
    finally:
        asked.close()


def test_what_a_node_runs_on_is_kept(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a process runs on an environment, nothing collects it, whatever the quota; then it goes."""
    for name, value in only_from(wheels).items():
        monkeypatch.setenv(name, value)
    asked = Asked(tmp_path, wheels)
    try:
        first, second = asked.answer(), asked.answer()
        assert isinstance(first, Environment)
        assert isinstance(second, Environment)
        assert first.python == second.python
        first.release()
        first.release()
        assert asked.shelf.collect(quota_bytes=0) == []
        second.release()
        assert len(asked.shelf.collect(quota_bytes=0)) == 1
        assert not Path(first.python).exists()
    finally:
        asked.close()


def test_a_script_that_is_killed_while_it_locks(tmp_path: Path) -> None:
    """The installer ends with it, though the index never answers."""
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(30)
        address = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        script = subprocess.Popen(
            [sys.executable, "-c", "from rmbus.shipping.locking import lock\nlock(['something'])"],
            env={**os.environ, "UV_DEFAULT_INDEX": address, "XDG_CACHE_HOME": str(tmp_path)},
        )
        asked, _ = index.accept()
        with asked:
            asked.settimeout(10)
            assert asked.recv(1)
            script.kill()
            script.wait()
            while asked.recv(65_536):
                continue
