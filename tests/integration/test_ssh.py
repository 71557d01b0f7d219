"""Hosts that are reached by ssh: by a real sshd, whose logins have a run folder and a cache of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
from census import settles
from command import finish
from scripting import Scripts
from sshd import Sshd

pytestmark = [pytest.mark.slow, pytest.mark.sshd, pytest.mark.timeout(90)]  # real processes, real logins

COUNTING = """
import os, time
import numpy as np
import rmbus
from rmbus import *

class Counter:
    def __init__(self, start=0):
        self.count = start

    def add(self, number):
        from deeper import one
        self.count += number * one()
        return self.count

    def turned(self, array):
        return array[::-1]

    def upto(self, n):
        for number in range(n):
            yield np.full(30_000, number)

    def folder(self):
        return os.environ.get("XDG_RUNTIME_DIR", ""), os.getppid()

    def endless(self):
        print("it runs", flush=True)
        while True:
            time.sleep(0.01)

class Numbers(Node):
    def process(self):
        for number in range(200):
            yield np.full(20_000, number)

class Double(Node):
    def process(self, frame):
        return frame.value * 2

class Sums(Node):
    numbers = Input()

    def initialize(self):
        self.sums = []

    def process(self, frame):
        self.sums.append(int(frame.value.sum()))

    def flush(self):
        print(len(self.sums), sum(self.sums), flush=True)
"""


SUM = sum(2 * 20_000 * number for number in range(200))


@attrs.frozen
class Away:
    """Scripts here, and a box that they reach by ssh."""

    scripts: Scripts
    box: Sshd

    def settled(self) -> None:
        """Wait until no login runs anything any more."""
        assert settles(lambda: str(self.box.sessions() or ""), 15.0) == ""


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Away]:
    (tmp_path / "counting.py").write_text(COUNTING)
    (tmp_path / "deeper.py").write_text("def one():\n    return 1\n")
    (tmp_path / "box").mkdir()
    with Sshd(tmp_path / "box") as box, Scripts(tmp_path, host=False) as scripts:
        scripts.command.env["RMBUS_SSH"] = box.command
        yield Away(scripts, box)


@contextmanager
def host_there(away: Away) -> Generator[subprocess.Popen[str]]:
    """Run a host on the box, as its user does by hand; it must end well when it is told to."""
    box, env = away.box, away.scripts.command.env
    env = env | {"XDG_RUNTIME_DIR": str(box.run_folder), "XDG_CACHE_HOME": str(box.folder / "cache")}
    command = [sys.executable, "-m", "rmbus.cli.main", "host", "--spares", "0", "--name", "standing"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        yield process
    finally:
        process.terminate()
        done = finish(process)
    assert done.returncode == 0, done.stderr


def lent(pid: int) -> bool:
    """Whether a process has lent the host that ran already to a login."""
    try:
        return b"--for-ssh" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return False


def test_objects_and_topics(away: Away) -> None:
    """A host is started there and used as one here is; with the script all of it ends, at both ends."""
    said = away.scripts.start("""
        import counting
        with rmbus.connect("ssh://box") as bus:
            counter = bus.ship(counting.Counter(5))
            say([counter.add(1), counter.add(2), counter.count])
            about, = bus.nodes()
            say([about["entry"], about["level"]])
            for size in (8, 100_000, 3_000_000):
                array = np.arange(size, dtype=np.int64)
                assert (counter.turned(array) == array[::-1]).all()
            say(all((item == number).all() for number, item in enumerate(counter.upto(100))))
            say(counter.folder()[0] != os.environ["XDG_RUNTIME_DIR"])
            try:
                counter.add("x")
            except TypeError as error:
                say([isinstance(error, NodeError), "unsupported operand" in str(error)])
                say("in add" in error.traceback_text)
            say(bus.fetch(counter).count)
            reader = bus.subscribe("there/*")
            with bus.publish("there/pictures") as writer:
                for number in range(5):
                    writer.send(np.full((480, 640, 3), number, np.uint8))
                    message = next(reader)
                    assert (message.value == number).all() and message.topic == "there/pictures"
            say("read")
    """).said(60)
    assert said == [[6, 8, 8], ["counting:Counter", "jail"], True, True, [True, True], True, 8, "read"]
    assert away.box.logins() == 1
    away.settled()


def test_the_host_that_runs_there_is_used_and_goes_on(away: Away) -> None:
    """An object outlives the login that has shipped it, as long as somebody holds it."""
    with host_there(away) as host:
        holder = away.scripts.start("""
            import counting
            with rmbus.connect("ssh://box") as bus:
                say([bus.status()["host"], bus.ship(counting.Counter(1)).add(1), bus.nodes()[0]["id"]])
                hear()
        """)
        name, count, number = holder.heard()
        assert (name, count) == ("standing", 2)
        said = away.scripts.start(f"""
            with rmbus.connect("ssh://box") as bus:
                say(bus.attach({number!r}).add(10))
        """).said()
        assert said == [12]
        holder.tell()
        assert holder.said() == []
        assert away.scripts.start('with rmbus.connect("ssh://box") as bus: say(bus.nodes())').said() == [[]]
        assert settles(lambda: str([pid for pid in away.box.sessions() if lent(pid)] or ""), 10.0) == ""
        assert host.poll() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_script_that_is_ended(away: Away, number: signal.Signals) -> None:
    """By kill -9 in the middle of a call, too: nothing is left here, nor there."""
    script = away.scripts.start("""
        import counting
        with rmbus.connect("ssh://box") as bus:
            counter = bus.ship(counting.Counter())
            say("shipped")
            counter.endless()
    """)
    assert script.heard() == "shipped"
    assert script.process.stderr is not None
    assert "it runs" in script.process.stderr.readline()
    script.kill(number)
    script.end()
    away.settled()
    assert settles(lambda: str(list((away.scripts.command.run_folder / "rmbus").glob("*")) or ""), 10.0) == ""


def test_the_connection_dies_in_a_call(away: Away) -> None:
    """The caller is told, by an error that says what was lost; what ran there has ended."""
    script = away.scripts.start("""
        import counting
        with rmbus.connect("ssh://box") as bus:
            counter = bus.ship(counting.Counter())
            say([pid for pid in map(int, open(f"/proc/self/task/{os.getpid()}/children").read().split())
                 if open(f"/proc/{pid}/comm").read() == "ssh\\n"])
            try:
                counter.endless()
            except rmbus.errors.HostError as error:
                say(str(error))
    """)
    (ssh,) = script.heard()
    assert script.process.stderr is not None
    assert "it runs" in script.process.stderr.readline()
    os.kill(ssh, signal.SIGKILL)
    (text,) = script.said()
    assert "lost" in text or "ended" in text
    away.settled()


def test_a_pipeline_there(away: Away) -> None:
    """Source and sink here, the work there: every frame comes back, and the account closes."""
    status, said, err = away.scripts.start("""
        import counting
        report = (counting.Numbers() >> counting.Double().options(on="ssh://box") >> counting.Sums()).run()
        say([report.node("double").level, [edge.in_flight for edge in report.edges]])
    """).end(60)
    assert (status, said) == (0, [["jail", [0, 0]]])
    assert err == f"sums@local | 200 {SUM}\n"
    assert away.box.logins() == 1
    away.settled()


def test_two_boxes(away: Away) -> None:
    """Nodes on two machines that ssh reaches may not be joined to each other, by way of this machine they may."""
    text = away.box.config.read_text()
    away.box.config.write_text(text + text.replace("Host box", "Host den").split("\n\n")[0])
    status, said, err = away.scripts.start("""
        import counting
        far = counting.Double().options(on="ssh://den")
        try:
            (counting.Numbers().options(on="ssh://box") >> far >> counting.Sums()).run()
        except RmbusError as error:
            say(str(error))
        near, last = counting.Double(), counting.Double().options(on="ssh://box", name="last")
        report = (counting.Numbers() >> far >> near >> last >> counting.Sums()).run()
        say(report.node("last").frames_in)
    """).end(60)
    assert status == 0, err
    assert "neither ssh://box nor ssh://den can be reached by the other: put a node on 'local' between" in said[0]
    assert said[1] == 200
    away.settled()


def test_the_command(away: Away) -> None:
    """`rmbus run --on ssh://…` runs the node of a file there."""
    (away.scripts.folder / "piece.py").write_text(
        "from counting import Double, Numbers, Sums\npipeline = Numbers() >> Double() >> Sums()\n"
    )
    done = away.scripts.command("run", "piece.py", "--on", "ssh://box")
    assert done.returncode == 0, done.stderr
    assert f"200 {SUM}" in done.stdout + done.stderr
    assert away.box.logins() == 1
    away.settled()


def test_a_node_of_this_process_joins_there(away: Away) -> None:
    """`rmbus.run(node, bus=…)`, beside a publisher that came by a login of its own."""
    with host_there(away):
        node = away.scripts.start("""
            import counting
            class Heard(counting.Sums):
                def initialize(self):
                    super().initialize()
                    say("up")
                def flush(self):
                    print(len(self.sums), sum(self.sums), file=sys.stderr)
            from rmbus.joined import run
            run(Heard(), inputs={"numbers": "there/numbers"}, outputs={}, bus="ssh://box")
        """)
        assert node.heard() == "up"
        said = away.scripts.start("""
            with rmbus.connect("ssh://box") as bus, bus.publish("there/numbers") as writer:
                for number in range(5):
                    writer.send(np.full(10, number))
        """).said(60)
        assert said == []
        status, _, err = node.end()
        assert status == 0
        assert "5 100" in err


def test_state_goes_on_there(away: Away) -> None:
    """Shipped to the host here, fetched home, shipped to the box: it counts on."""
    with Scripts(away.scripts.folder / "box") as here:
        here.command.env["RMBUS_SSH"] = away.box.command
        here.command.env["PYTHONPATH"] = str(away.scripts.folder)
        said = here.start("""
            import counting
            with rmbus.connect() as near, rmbus.connect("ssh://box") as far:
                first = near.ship(counting.Counter(1))
                first.add(1)
                second = far.ship(counting.Counter(0))
                far.restore(second, near.state(first))
                say([second.add(1), first.add(5)])
                say(far.ship(near.fetch(first)).add(1))
        """).said(60)
        assert said == [[3, 7], 8]
    away.settled()


def test_events(away: Away) -> None:
    """The host there tells of its sessions, as one here does; when it has ended, whoever listens is told."""
    with host_there(away):
        listener = away.scripts.start("""
            with rmbus.connect("ssh://box") as bus:
                told = bus.subscribe("rmbus/events")
                say("up")
                for event in told:
                    if event.value["event"] == "node":
                        say([event.value["name"], event.value["state"]])
                    if event.value["event"] == "session":
                        break
                say("ended")
                try:
                    next(told)
                except rmbus.errors.HostError as error:
                    say(str(error))
        """)
        assert listener.heard() == "up"
        session = away.scripts.start("""
            import counting
            (counting.Numbers() >> counting.Double().options(on="ssh://box") >> counting.Sums()).run()
        """)
        assert session.end(60)[0] == 0
        assert listener.heard() == ["double", "ready"]
        assert listener.heard() == ["double", "ended"]
        assert listener.heard() == "ended"
    (text,) = listener.end(30)[1]
    assert "the events have ended" in text


def test_what_ssh_says_is_told(away: Away) -> None:
    """An unknown machine, a key that is refused, rmbus not there, a far side that fails: each by its own words."""
    said = away.scripts.start("""
        def told(address):
            try:
                rmbus.connect(address)
            except rmbus.errors.ConnectFailed as error:
                return str(error)
        say([told("ssh://nowhere.invalid"), told("ssh://box/opt/nowhere/rmbus"), told("ssh://box/bin/false")])
        say([told("ssh://"), told("ssh://user:secret@box"), told("ssh://-oProxyCommand=x"), told("ssh://box:99999")])
        os.environ["RMBUS_SSH"] = "no-such-program"
        say(told("ssh://box"))
    """).said(60)
    (unknown, missing, failing), wrong, absent = said
    assert "cannot reach ssh://nowhere.invalid: ssh failed" in unknown
    assert "nowhere.invalid" in unknown.split("ssh failed")[1]
    assert "/opt/nowhere/rmbus is not there at box: install rmbus there" in missing
    assert "rmbus there ended with exit status 1" in failing
    assert all("is no address" in text for text in wrong)
    assert "no-such-program is not installed here" in absent
    (away.box.folder / "authorized").write_text("")
    (refused,) = away.scripts.start("""
        try:
            rmbus.connect("ssh://box")
        except rmbus.errors.ConnectFailed as error:
            say(str(error))
    """).said()
    assert "ssh failed" in refused
    assert "Permission denied" in refused
    away.settled()


def test_forwarding_that_is_forbidden_there(away: Away) -> None:
    """The setting to change is named; the host that was started for this ends."""
    folder = away.scripts.folder / "strict"
    folder.mkdir()
    with Sshd(folder, more="AllowStreamLocalForwarding no\n") as box:
        away.scripts.command.env["RMBUS_SSH"] = box.command
        (text,) = away.scripts.start("""
            try:
                with rmbus.connect("ssh://box") as bus:
                    say(bus.status())
            except RmbusError as error:
                say(str(error))
        """).said(60)
    assert "AllowStreamLocalForwarding" in text
