"""What nodes ask of their host: granted and kept to, counted until they have ended, or refused with what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # real hosts

SCRIPT = """
    import glob, json, os, signal, sys, time
    import rmbus
    from rmbus import Needs

    class Seen:
        def gpus(self):
            return os.environ.get("CUDA_VISIBLE_DEVICES")
        def nvidia(self):
            return sorted(glob.glob("/dev/nvidia*"))
        def cpus(self):
            return [len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS")]
        def widen(self):
            os.sched_setaffinity(0, range(os.cpu_count()))
        def fill(self, mb):
            return len(bytearray(mb * 10**6))
        def read(self, path):
            with open(path) as file:
                return file.read()
        def write(self, path, text):
            with open(path, "w") as file:
                return file.write(text)
        def connect(self, port):
            import socket
            socket.create_connection(("127.0.0.1", port), 5).close()
            return True
        def pid(self):
            return os.getpid()
        def die(self):
            os.kill(os.getpid(), signal.SIGKILL)

    class Model(Seen):
        needs = Needs(gpus=1)

    def tried(call, *given):
        try:
            return call(*given)
        except BaseException as error:
            return f"{getattr(error, 'type_name', '') or type(error).__name__}: {error}"

    def say(value):
        print("RESULT " + json.dumps(value), flush=True)

    bus = rmbus.connect(sys.argv[1])
"""


def machine(folder: Path, count: int) -> Path:
    """Make what a machine with GPUs shows of them; its device files are plain ones."""
    root = folder / "machine"
    (root / "dev").mkdir(parents=True)
    (root / "dev" / "nvidiactl").write_text("control")
    for number in range(count):
        (root / "dev" / f"nvidia{number}").write_text(f"gpu {number}")
        facts = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0"
        facts.mkdir(parents=True)
        (facts / "information").write_text(
            f"Model: \t\t Fake\nIRQ:   \t\t 1\nGPU UUID: \t GPU-{number}{number}\nDevice Minor: \t {number}\n"
        )
    return root


def run(host: Daemon, folder: Path, *texts: str) -> list[Any]:
    script = folder / "main.py"
    script.write_text("".join(map(textwrap.dedent, (SCRIPT, *texts))))
    done = host.script(script)
    assert done.returncode == 0, done.stderr
    return results(done)


def results(done: subprocess.CompletedProcess[str]) -> list[Any]:
    lines = (done.stdout + done.stderr).splitlines()
    return [json.loads(line.split("RESULT ", 1)[1]) for line in lines if "RESULT " in line]


@pytest.mark.parametrize("level", ["jail", "confined"])
def test_a_gpu_is_one_process_s_alone(tmp_path: Path, level: str) -> None:
    """Each has its own; a third is told who has them; one that asks for none sees none; kill -9 gives one back."""
    text = """
        plain = bus.ship(Seen())
        first, second = bus.ship(Model()), bus.ship(Seen(), needs=Needs(gpus=1))
        say([plain.gpus(), sorted([first.gpus(), second.gpus()]), bus.status()["free"]["gpus"]])
        say([plain.nvidia(), first.nvidia()])
        say(tried(bus.ship, Model()))
        tried(first.die)
        while bus.status()["free"]["gpus"] == 0:
            time.sleep(0.01)
        say(bus.ship(Model()).gpus())
    """
    options = ["--machine", str(machine(tmp_path, 2)), "--spares", "0"]
    with Daemon(tmp_path, *options, level=level) as host:
        seen, files, refused, again = run(host, tmp_path, text)
    assert seen == ["", ["GPU-00", "GPU-11"], 0]
    assert "cannot give model what it needs: 1 GPU (0 of 2 are free: model (" in refused
    assert "has GPU-00" in refused
    assert "has GPU-11" in refused
    assert again == "GPU-00"
    if level == "jail":
        assert files == [[], ["/dev/nvidia0", "/dev/nvidiactl"]]


def test_only_granted_device_files_can_be_opened(tmp_path: Path) -> None:
    """Where device files are in sight, as in `confined`, those of others cannot be opened."""
    root = machine(tmp_path, 2)
    text = f"""
        first, second = bus.ship(Model()), bus.ship(Seen())
        files = [{str(root)!r} + f"/dev/nvidia{{number}}" for number in (0, 1)]
        say([tried(each.read, file) for each in (first, second) for file in files])
    """
    with Daemon(tmp_path, "--machine", str(root), level="confined") as host:
        ((own, other, *none),) = run(host, tmp_path, text)
    assert own == "gpu 0"
    assert all("PermissionError" in each for each in (other, *none))


@pytest.mark.parametrize("level", ["jail", "confined"])
def test_cpus_and_memory_are_kept_to(tmp_path: Path, level: str) -> None:
    """A node runs on as many CPUs as it claimed, and cannot change that; memory beyond what it claimed is refused."""
    text = """
        one = bus.ship(Seen(), needs=Needs(cpus=1, memory_mb=100))
        say([one.cpus(), tried(one.widen).split(":")[0], one.fill(50), tried(one.fill, 300).split(":")[0]])
        say(bus.ship(Seen()).fill(300))
        for needs in (Needs(cpus=4000), Needs(memory_mb=10**9), Needs(labels=["fast", "none"])):
            say(tried(lambda: bus.ship(Seen(), needs=needs)))
        say(bus.ship(Seen(), needs=Needs(labels=["fast"])).cpus())
    """
    with Daemon(tmp_path, "--label", "fast", level=level) as host:
        kept, free, cpus, memory, labels, labelled = run(host, tmp_path, text)
    assert kept == [[1, "1"], "PermissionError", 50_000_000, "MemoryError"]
    assert free == 300_000_000
    there = len(os.sched_getaffinity(0))
    assert f"4000 CPUs ({there - 1} of {there}" in cpus
    assert "seen (" in cpus
    assert "1000000000 MB of memory" in memory
    assert "the label 'none' (it has 'fast')" in labels
    assert "label 'fast' (" not in labels
    assert labelled == [there, None]


@pytest.mark.parametrize("level", ["jail", "confined"])
def test_files_are_those_that_the_owner_allows(tmp_path: Path, level: str) -> None:
    """A file is read, a folder is written to, where the owner has allowed it; links and `..` lead to nothing else."""
    for name in ("films", "out", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    (tmp_path / "films" / "link").symlink_to(tmp_path / "secret")
    text = f"""
        base = {str(tmp_path)!r}
        one = bus.ship(Seen(), needs=Needs(files=[base + "/films/a.txt", base + "/out:rw"]))
        say([one.read(base + "/films/a.txt"), one.write(base + "/out/b.txt", "new")])
        say([tried(one.write, base + "/films/a.txt", "x"), tried(one.read, base + "/secret/a.txt")])
        for path in ("/secret", "/films:rw", "/films/link", "/films/../secret", "/filmsx", "/films/none"):
            say(tried(lambda: bus.ship(Seen(), needs=Needs(files=base + path))))
        say(tried(lambda: bus.ship(Seen(), needs=Needs(devices="/dev/fuse", network=["*", "a:1"]))))
    """
    options = ["--allow-file", f"{tmp_path}/films", "--allow-file", f"{tmp_path}/out:rw"]
    with Daemon(tmp_path, *options, level=level) as host:
        good, bad, *refused, others = run(host, tmp_path, text)
    assert good == ["films", 3]
    assert (tmp_path / "out" / "b.txt").read_text() == "new"
    assert all(each.split(":")[0] in ("OSError", "PermissionError", "FileNotFoundError") for each in bad)
    assert [("its owner allows" in each, "it is not there" in each) for each in refused] == [
        *[(True, False)] * 5,
        (False, True),
    ]
    for words in ("'/dev/fuse' (its owner allows none", "by --allow-network", "'a:1' alone"):
        assert words in others


@pytest.mark.parametrize("level", ["jail", "confined"])
def test_the_network_is_granted_whole(tmp_path: Path, level: str) -> None:
    """A node that has the network reaches a port of the machine; one that has not does not."""
    text = """
        port = int(sys.argv[1].rpartition(":")[2])
        say(bus.ship(Seen(), needs=Needs(network="*")).connect(port))
        say(tried(bus.ship(Seen()).connect, port).split(":")[0])
    """
    with Daemon(tmp_path, "--allow-network", level=level) as host:
        reached, refused = run(host, tmp_path, text)
    assert reached is True
    assert refused in ("OSError", "PermissionError")


def test_nodes_of_a_pipeline_have_needs_too(tmp_path: Path) -> None:
    """By `options`, by their class; here and on a host; what a spare cannot have is started cold, and given back."""
    text = """
        from rmbus import Node

        class Source(Node):
            def process(self):
                yield 1

        class Shows(Node):
            needs = Needs(cpus=1)
            def process(self, frame):
                print("RESULT " + json.dumps([len(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES")]))

        for on in (sys.argv[1], "local"):
            report = (Source().options(on="local") >> Shows().options(on=on)).run()
            say([report.node("shows").warm, report.node("shows").reason])
        say(tried((Source() >> Shows().options(needs=Needs(gpus=3), on=sys.argv[1])).run))
        say((Source() >> Shows().options(needs=Needs(gpus=2, files=["/x"]))).run(on="inline") is not None)
        os.environ["CUDA_VISIBLE_DEVICES"] = "mine"
        (Source() >> Shows()).run()
        while bus.status()["free"]["cpus"] != bus.status()["offers"]["cpus"]:
            time.sleep(0.01)
    """
    with Daemon(tmp_path, "--machine", str(machine(tmp_path, 2))) as host:
        told = run(host, tmp_path, text)
    assert told.count([False, "no spare process has what it needs: cpus"]) == 2
    assert told.count([1, ""]) == 1  # on a host; on the user's own, the script's
    assert told.count([1, "mine"]) == 1
    assert any("cannot give shows what it needs: 3 GPUs (2 of 2 are free)" in str(each) for each in told)


CACHES = """
    class Keeps(Seen):
        needs = Needs(cache="weights")

        def path(self, name=""):
            return os.path.join(os.environ["RMBUS_CACHE"], name)
        def put(self, name, mb):
            with open(self.path(name), "wb") as file:
                return sum(file.write(os.urandom(10**6)) for _ in range(mb))
        def names(self):
            return sorted(os.listdir(self.path()))

    class Others(Keeps):
        needs = Needs(cache="others")

    def until(true):
        while not true():
            time.sleep(0.02)

    def caches():
        return {name: each["mb"] for name, each in bus.status()["caches"].items()}
"""


@pytest.mark.parametrize("level", ["jail", "confined"])
def test_a_cache_outlives_the_node(tmp_path: Path, level: str) -> None:
    """Two nodes have a folder at once, later ones too, of other hosts as well; nobody else sees it, nor they more."""
    text = """
        plain = bus.ship(Seen())
        first, second = bus.ship(Keeps()), bus.ship(Keeps())
        path = first.path("a")
        say([first.write(path, "old"), second.path("a") == path, second.read(path)])
        say([tried(each.read, path) for each in (plain, bus.ship(Others()))])
        for name in ("lock", "x", "../.lock", "../x"):  # a jail below /tmp lets it be written there, in its own /tmp
            tried(first.write, first.path("../" + name), "x")
        bus.release(first)
        bus.release(second)
        say(bus.ship(Keeps()).names())
    """
    with Daemon(tmp_path, level=level) as host:
        shared, others, later = run(host, tmp_path, CACHES, text)
    assert shared == [3, True, "old"]
    assert {each.split(":")[0] for each in others} <= {"FileNotFoundError", "PermissionError"}
    assert later == ["a"]
    place = tmp_path / "cache/rmbus/caches"
    assert sorted(path.relative_to(place).as_posix() for path in place.rglob("*")) == [
        *(".lock", "others", "others/data", "others/lock"),
        *("weights", "weights/data", "weights/data/a", "weights/lock"),
    ]
    assert (place / ".lock").read_text() == (place / "weights/lock").read_text() == ""
    with Daemon(tmp_path, level=level) as host:
        assert run(host, tmp_path, CACHES, "say(bus.ship(Keeps()).names())\n") == [["a"]]


def test_caches_keep_within_their_quota(tmp_path: Path) -> None:
    """What nobody uses goes, what somebody uses stays; whoever fills the rest is ended, and told why."""
    text = """
        first = bus.ship(Keeps())
        say(first.put("a", 20))
        until(lambda: caches().get("weights") == 20)
        bus.release(first)
        other = bus.ship(Others())
        say(other.put("b", 20))
        until(lambda: "weights" not in caches())
        say([caches(), other.names()])
        third = bus.ship(Keeps())
        say([third.names(), third.put("c", 5)])
        told = tried(third.put, "d", 20)  # it may have ended before it has answered
        until(lambda: "weights" not in caches())
        say(tried(third.names) if told == 20_000_000 else told)
        say([other.names(), bus.ship(Keeps()).names()])
    """
    with Daemon(tmp_path, "--cache-mb", "30") as host:
        wrote, _, unused, third, told, after = run(host, tmp_path, CACHES, text)
    assert wrote == 20_000_000
    assert unused == [{"others": 20}, ["b"]]
    assert third == [[], 5_000_000]
    assert "its cache 'weights' has grown to" in told
    assert "may have 30 MB" in told
    assert "--cache-mb" in told
    assert after == [["b"], []]
    with Daemon(tmp_path, "--cache-mb", "0") as host:
        (refused,) = run(host, tmp_path, CACHES, "say(tried(bus.ship, Keeps()))\n")
    assert "the cache 'weights' (its owner keeps none; --cache-mb" in refused


def test_a_node_s_cache_is_there_on_the_user_s_own_host(tmp_path: Path) -> None:
    """A pipeline's node has one, by `options`, on its script's own host as on any; two nodes share it."""
    text = """
        from rmbus import Node

        class Source(Node):
            def process(self):
                yield 1

        class Writes(Node):
            def process(self, frame):
                with open(os.path.join(os.environ["RMBUS_CACHE"], "w"), "w") as file:
                    file.write("written")

        class Reads(Node):
            def process(self, frame):
                with open(os.path.join(os.environ["RMBUS_CACHE"], "w")) as file:
                    print("RESULT " + json.dumps(file.read()))

        for on in ("local", sys.argv[1]):
            for kind in (Writes, Reads):
                (Source() >> kind().options(needs=Needs(cache=on[:3]), on=on)).run()
    """
    with Daemon(tmp_path) as host:
        assert run(host, tmp_path, text) == ["written", "written"]
    assert sorted(path.name for path in (tmp_path / "cache/rmbus/caches").glob("[a-z]*")) == ["loc", "tcp"]


def test_what_needs_nothing_has_a_spare(tmp_path: Path) -> None:
    """A process that was started before it was asked for is taken where nothing is granted, labels or not."""
    text = """
        class Started:
            def at(self):
                with open("/proc/self/stat") as file:
                    return int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")

        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        for given in ({}, {"needs": Needs()}, {"needs": Needs(labels="fast")}, {"needs": Needs(memory_mb=500)}):
            say(bus.ship(Started(), **given).at() < before)
    """
    with Daemon(tmp_path, "--spares", "3", "--label", "fast") as host:
        assert run(host, tmp_path, text) == [True, True, True, False]


def test_a_gpu_is_given_back_when_all_that_the_node_has_started_has_ended(tmp_path: Path) -> None:
    """What a node forks has its GPUs too, also in a session of its own, and goes before they are another's."""
    text = """
        class Forks(Model):
            def fork(self, beat):
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        while True:
                            with open(beat, "w") as file:
                                file.write(str(time.monotonic()))
                    os._exit(0)
                while not os.path.exists(beat):
                    time.sleep(0.01)

        first = bus.ship(Forks(), needs=Needs(gpus=1, files=sys.argv[2] + ":rw"))
        first.fork(sys.argv[2] + "/beat")
        tried(first.die)
        while bus.status()["free"]["gpus"] == 0:
            pass
        with open(sys.argv[2] + "/beat") as file:
            before = file.read()
        time.sleep(0.3)
        with open(sys.argv[2] + "/beat") as file:
            say(before == file.read())
    """
    out = tmp_path / "out"
    out.mkdir()
    script = tmp_path / "main.py"
    script.write_text("".join(map(textwrap.dedent, (SCRIPT, text))))
    for level in ("jail", "confined"):
        options = ["--machine", str(machine(tmp_path / level, 1)), "--allow-file", f"{out}:rw"]
        with Daemon(tmp_path, *options, level=level) as host:
            done = host.script(script, str(out))
        assert results(done) == [True], done.stderr
        (out / "beat").unlink()


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    """As it stands there."""
    block = (Path(__file__).parents[2] / "docs" / "needs.md").read_text().split("```python\n")[1].split("```")[0]
    script = tmp_path / "example.py"
    script.write_text(block)
    with Daemon(tmp_path) as host:
        done = host.script(script)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "1000000"
    assert second.startswith("1000000 {'gpus': 0, 'cpus':")
