"""Remote objects: shipped by a script to a confined process of the host, called, watched, replaced and ended."""

from __future__ import annotations

import signal
import socket
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from census import settles
from scripting import Script, Scripts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # real processes

COUNTING = '''
"""A class with members of every kind, which imports the rest of its package lazily."""
import asyncio, dataclasses, os, threading, time

@dataclasses.dataclass
class Sum:
    total: int
    parts: list

class Counter:
    kind = "counter"

    def __init__(self, start=0):
        self.count = start
        self.name = "first"

    def add(self, number, *, times=1):
        """Add a number, so many times."""
        from helping.deeper import multiply
        self.count += multiply(number, times)
        return self.count

    @property
    def double(self):
        return 2 * self.count

    @staticmethod
    def pid():
        return os.getpid()

    def parts(self, *numbers):
        return Sum(sum(numbers), list(numbers))

    def upto(self, n):
        for number in range(n):
            yield number

    async def later(self, seconds, value):
        await asyncio.sleep(seconds)
        return value

    async def each(self, n):
        for number in range(n):
            await asyncio.sleep(0)
            yield number

    def fail(self, text):
        raise LookupError(text)

    def endless(self, *words):
        print(*words, end="\\n" if words else "", flush=True)
        try:
            while True:
                time.sleep(0.01)
        finally:
            self.name = "was stopped"

    def turned(self, array):
        return array[::-1]

    def sneak(self):
        import tempfile
        return tempfile.TemporaryDirectory()

    def locked(self):
        return {"inner": threading.Lock()}

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        return (self.name, key)

    def _private(self):
        return "private"

    def slow(self, seconds):
        time.sleep(seconds)
        self.count += 1

    def bad(self):
        class Bad:
            def __getstate__(self):
                raise RuntimeError("no state")
        return Bad()

    async def bad_later(self):
        return self.bad()

    def bads(self):
        yield 1
        yield self.bad()

    def opened(self):
        return open(os.devnull)
'''


everywhere = pytest.mark.parametrize("scripts", ["here", "far"], indirect=True)


@pytest.fixture
def scripts(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scripts]:
    """A host, and scripts on its machine; or, with `everywhere`, also some that see it as from another one."""
    (tmp_path / "counting.py").write_text(textwrap.dedent(COUNTING))
    package = tmp_path / "helping"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deeper.py").write_text(
        "from helping.deepest import one\ndef multiply(a, b):\n    return a * b * one()\n"
    )
    (package / "deepest.py").write_text("from . import base\ndef one():\n    return base.ONE\n")
    (package / "base.py").write_text("ONE = 1\n")
    with Scripts(tmp_path, far=getattr(request, "param", "here") == "far") as scripts:
        yield scripts


def more(scripts: Scripts, text: str) -> None:
    """Add classes to the module of Counter."""
    file = scripts.folder / "counting.py"
    file.write_text(file.read_text() + textwrap.dedent(text))


def hears_that_it_runs(script: Script) -> bool:
    """Wait until a script hears its object print that `endless` runs."""
    assert script.process.stderr is not None
    return "runs" in script.process.stderr.readline()


def processes(scripts: Scripts) -> set[str]:
    """Return the folders of the host's processes, spares among them."""
    return {each.name for each in scripts.run_folder().iterdir() if each.name.startswith("w")}


def run(scripts: Scripts, text: str) -> list[Any]:
    """Run a script that has shipped a Counter as `counter`, and return what it says."""
    begin = "import counting\nwith rmbus.connect() as bus:\n    counter = bus.ship(counting.Counter(5))\n"
    return scripts.start(begin + textwrap.indent(textwrap.dedent(text), "    ")).said()


@everywhere
def test_methods_of_every_kind(scripts: Scripts) -> None:
    """State is kept between calls; the code it imports lazily is there; it runs in a confined process of its own."""
    said = run(
        scripts,
        """
        import asyncio
        say([counter.add(1), counter.add(2, times=3), counter.count, counter.double, counter.kind, len(counter)])
        counter.count = 40
        say([counter.add(2), counter[7], counter._private()])
        say([counter.pid() != os.getpid(), counter.pid() == counter.pid()])
        found = counter.parts(1, 2, 3)
        say([type(found) is counting.Sum, found.total, found.parts])
        say([list(counter.upto(100)) == list(range(100)), list(counter.upto(0))])
        say(asyncio.run(counter.later(0.01, "late")))
        async def collect():
            return [number async for number in counter.each(50)]
        say(asyncio.run(collect()) == list(range(50)))
        say([counter.add.__doc__, "add" in dir(counter), "__init__" in dir(counter)])
        about, = bus.nodes()
        say([about["entry"], about["level"], about["holders"], about["callers"]])
        """,
    )
    assert said == [
        [6, 12, 12, 24, "counter", 12],
        [42, ["first", 7], "private"],
        [True, True],
        [True, 6, [1, 2, 3]],
        [True, []],
        "late",
        True,
        ["Add a number, so many times.", True, False],
        ["counting:Counter", "jail", 1, 1],
    ]


def test_names_it_does_not_have(scripts: Scripts) -> None:
    said = run(
        scripts,
        """
        for bad in (lambda: counter.nothing, lambda: counter.nothing(1), lambda: counter.add(1, 2, 3)):
            try:
                bad()
            except Exception as error:
                say([isinstance(error, NodeError), isinstance(error, (AttributeError, TypeError)), error.message[:60]])
        try:
            import pickle
            pickle.dumps(counter)
        except TypeError as error:
            say("attach" in str(error))
        """,
    )
    assert said == [
        [True, True, "'Counter' object has no attribute 'nothing'"],
        [True, True, "'Counter' object has no attribute 'nothing'"],
        [True, True, "Counter.add() takes 2 positional arguments but 4 were given"],
        True,
    ]


@everywhere
def test_failures_arrive_as_they_are(scripts: Scripts) -> None:
    """Type, message, traceback with the source line, object and host; and what cannot come back is named."""
    said = run(
        scripts,
        """
        try:
            counter.fail("gone astray")
        except LookupError as error:
            say([isinstance(error, NodeError), error.message, error.node, error.type_name])
            say("raise LookupError(text)" in error.traceback_text)
        for bad in (counter.sneak, counter.locked):
            try:
                bad()
            except RmbusError as error:
                say([isinstance(error, NodeError), type(error).__name__, str(error).splitlines()[0]])
        try:
            counter.add(threading.Lock())
        except RmbusError as error:
            say([type(error).__name__, str(error)[:60]])
        say(counter.add(1))
        """,
    )
    assert said[0] == [True, "gone astray", "counter", "LookupError"]
    assert said.pop(1) is True
    assert said[1][:2] == [True, "PackagingError"]
    assert "a value of type TemporaryDirectory cannot be returned" in said[1][2]
    assert said[2][:2] == [True, "PackagingError"]
    assert "a value of type dict cannot be returned: cannot pickle '_thread.lock'" in said[2][2]
    assert said[3] == ["PackagingError", "an argument cannot be sent: cannot pickle '_thread.lock' obj"]
    assert said[4] == 6


@everywhere
def test_arrays_go_through_shared_memory(scripts: Scripts) -> None:
    """A large array arrives read-only, without a copy at the reader, and its result is right, many times."""
    said = run(
        scripts,
        """
        array = np.arange(3_000_000, dtype=np.uint8)
        for number in range(30):
            array[0] = number
            back = counter.turned(array)
            assert back[-1] == number and back.shape == array.shape and (back[::-1] == array).all(), number
        say(back.flags.writeable)
        try:
            back[0] = 1
        except ValueError as error:
            say(str(error))
        """,
    )
    assert said == [False, "assignment destination is read-only"]


@everywhere
def test_a_stream_waits_for_its_reader(scripts: Scripts) -> None:
    """A generator runs no further ahead than its window, is closed with its reader, and others are served beside it."""
    more(
        scripts,
        """
            class Source:
                def __init__(self):
                    self.made, self.closed = 0, False
                def numbers(self):
                    try:
                        while True:
                            self.made += 1
                            yield self.made
                    finally:
                        self.closed = True
        """,
    )
    said = run(
        scripts,
        """
        source = bus.ship(counting.Source())
        numbers = source.numbers()
        first = [next(numbers) for _ in range(3)]
        say([first, source.made <= 3 + 16, source.closed])
        more = [next(numbers) for _ in range(200)]
        say([more[-1], source.made <= 203 + 16])
        numbers.close()
        say([source.closed])
        """,
    )
    assert said == [[[1, 2, 3], True, False], [203, True], [True]]


@everywhere
def test_state_comes_home_and_goes_elsewhere(scripts: Scripts) -> None:
    """Fetched, it is in the object that was shipped; restored in another, that goes on; replaced, new code has it."""
    more(
        scripts,
        """
            class Better(Counter):
                def add(self, number, *, times=1):
                    self.count += 1000 * number
                    return self.count
        """,
    )
    said = run(
        scripts,
        """
        local = counting.Counter(1)
        far = bus.ship(local)
        far.add(9)
        say([local.count, bus.fetch(far) is local, local.count, bus.state(far)])
        other = bus.ship(counting.Counter())
        bus.restore(other, bus.state(far))
        say([other.add(1), far.count])
        old = {about["id"]: about["pid"] for about in bus.nodes()}
        better = bus.replace(far, counting.Better(77))
        new = {about["id"]: about["pid"] for about in bus.nodes() if about["pid"] not in old.values()}
        say([better.add(1), len(new), set(new) < set(old), better.name])
        say([far.add(1), len(bus.nodes())])
        bus.release(better)
        until = time.monotonic() + 10
        while len(bus.nodes()) > 2 and time.monotonic() < until:
            time.sleep(0.02)
        for proxy in (far, better):
            try:
                proxy.add(1)
            except RmbusError as error:
                say("released" in str(error))
        """,
    )
    assert said == [
        [1, True, 10, {"count": 10, "name": "first"}],
        [11, 10],
        [1010, 1, True, "first"],
        [2010, 3],
        True,
        True,
    ]


@everywhere
def test_attach(scripts: Scripts) -> None:
    """Another process calls the same object; it lives on when the first has let go of it, and ends with the last."""
    first = scripts.start("""
        import counting
        bus = rmbus.connect()
        counter = bus.ship(counting.Counter(1))
        say(bus.nodes()[0]["id"])
        hear()
        bus.close()
        say("left")
        hear()
        bus = rmbus.connect()
        say(bus.nodes())
    """)
    name = first.heard()
    second = scripts.start(f"""
        bus = rmbus.connect()
        counter = bus.attach({name!r})
        say([counter.add(5), repr(counter)])
        hear()
        say(counter.add(1))
        bus.close()
    """)
    assert second.heard() == [6, f"<remote Counter on {socket.gethostname()}, id {name}>"]
    first.tell()
    assert first.heard() == "left"
    second.tell()
    assert second.said() == [7]
    first.tell()
    assert first.said() == [[]]


@everywhere
def test_a_client_that_vanishes(scripts: Scripts) -> None:
    """Its object lives for its lease, and another may take it over meanwhile; then it is ended."""
    script = scripts.start("""
        import counting
        import rmbus.remote
        rmbus.remote.LEASE_S = 3.0
        bus = rmbus.connect()
        kept, lost = bus.ship(counting.Counter(1)), bus.ship(counting.Counter(2))
        say([about["id"] for about in bus.nodes()])
        hear()
    """)
    kept, _ = script.heard()
    heir = scripts.start(f"""
        bus = rmbus.connect()
        say(len(bus.nodes()))
        hear()
        counter = bus.attach({kept!r})
        say(len(bus.nodes()))
        until = time.monotonic() + 10
        while len(bus.nodes()) > 1 and time.monotonic() < until:
            time.sleep(0.05)
        say([len(bus.nodes()), counter.add(1)])
        bus.close()
    """)
    assert heir.heard() == 2
    script.kill(signal.SIGKILL)
    heir.tell()
    assert heir.said() == [2, [1, 2]]


@everywhere
def test_the_object_dies(scripts: Scripts) -> None:
    """Whoever waits is told at once how; so is whoever asks afterwards."""
    said = run(
        scripts,
        """
        import signal
        pid = bus.nodes()[0]["pid"]
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        for _ in range(2):
            try:
                counter.endless()
            except RmbusError as error:
                say([type(error).__name__, "SIGKILL" in str(error)])
        """,
    )
    assert said[0] == ["NodeError", True]
    assert said[1] == ["HostError", True]


@everywhere
def test_ctrl_c_stops_the_call(scripts: Scripts) -> None:
    """It is stopped at the far end too, which cleans up and answers the next call."""
    script = scripts.start("""
        import counting
        with rmbus.connect() as bus:
            counter = bus.ship(counting.Counter(5))
            say("up")
            try:
                counter.endless("runs")
            except KeyboardInterrupt:
                say(counter.name)
                say(counter.add(1))
    """)
    assert script.heard() == "up"
    assert hears_that_it_runs(script)
    script.kill(signal.SIGINT)
    status, said, _ = script.end()
    assert (status, said) == (0, ["was stopped", 6])


@everywhere
@pytest.mark.parametrize("method", ["OutputPort.send", "Caller.ask", "Caller.wait"])
def test_ctrl_c_at_the_worst_moment(scripts: Scripts, method: str) -> None:
    """A call that has been asked is stopped at the far end, wherever on its way the caller was interrupted."""
    said = run(
        scripts,
        f"""
        from rmbus.runtime.caller import Caller
        from rmbus.runtime.outputs import OutputPort
        counter.add(1)
        done = {method}
        def interrupted(self, *args, **named):
            {method} = done
            done(self, *args, **named)
            raise KeyboardInterrupt
        for _ in range(2):
            {method} = interrupted
            try:
                counter.{"add(1)" if method == "Caller.wait" else "endless()"}
            except KeyboardInterrupt:
                say([len(bus.nodes()), counter.pid() > 0])
        """,
    )
    assert said == [[1, True]] * 2


def test_several_threads(scripts: Scripts) -> None:
    """Each gets its own answers, whoever of them serves the edges."""
    said = run(
        scripts,
        """
        wrong = []
        def ask(first):
            for number in range(200):
                found = counter.parts(first, number)
                if found.parts != [first, number]:
                    wrong.append((first, number, found))
        threads = [threading.Thread(target=ask, args=(first,)) for first in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(wrong)
        """,
    )
    assert said == [[]]


def test_what_was_asked_before_the_release_is_answered(scripts: Scripts) -> None:
    """Calls that wait behind another are, whoever releases it; an attribute may be a tuple of any length."""
    said = run(
        scripts,
        """
        answers = [None] * 6
        def ask(number):
            answers[number] = counter.parts(number) if number else counter.slow(0.4)
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        counter.size = (640, 480)
        say(counter.size)
        threads[0].start()
        time.sleep(0.1)
        for thread in threads[1:]:
            thread.start()
        time.sleep(0.1)
        with rmbus.connect(bus.address) as another:
            another.release(another.attach(bus.nodes()[0]["id"]))
            for thread in threads:
                thread.join()
        say([each and each.parts for each in answers])
        """,
    )
    assert said == [[640, 480], [None, [1], [2], [3], [4], [5]]]


def test_code_that_fails_as_it_starts(scripts: Scripts) -> None:
    """What `initialize` raises is raised where it was shipped; `cleanup` runs at the end."""
    (scripts.folder / "starting.py").write_text(
        textwrap.dedent("""
            class Bad:
                def initialize(self):
                    raise OSError("no such device")
            class Good:
                def initialize(self):
                    self.ready = True
                def is_ready(self):
                    return self.ready
                def cleanup(self):
                    print("cleaned up", flush=True)
        """)
    )
    script: Script = scripts.start("""
        import starting
        with rmbus.connect() as bus:
            try:
                bus.ship(starting.Bad())
            except OSError as error:
                say([isinstance(error, NodeError), error.message, "initialize" in error.traceback_text])
            good = bus.ship(starting.Good())
            say(good.is_ready())
            bus.release(good)
            until = time.monotonic() + 5
            while bus.nodes() and time.monotonic() < until:
                time.sleep(0.02)
    """)
    status, said, err = script.end()
    assert (status, said) == (0, [[True, "no such device", True], True])
    assert "cleaned up" in err


@everywhere
def test_awaited(scripts: Scripts) -> None:
    """Of every kind, many at once; what is cancelled, or has run out of time, is stopped at the far end."""
    said = scripts.start("""
        import asyncio, counting
        async def main():
            async with rmbus.aio.connect() as bus:
                counter = await bus.ship(counting.Counter(5))
                say([await counter.add(1), await counter.count, await counter.double])
                say([number async for number in counter.upto(40)] == list(range(40)))
                say([number async for number in counter.each(40)] == list(range(40)))
                began = time.monotonic()
                say(await asyncio.gather(*(counter.later(0.3, number) for number in range(200))) == list(range(200)))
                say(time.monotonic() - began < 5)
                try:
                    async with asyncio.timeout(0.3):
                        await counter.endless()
                except TimeoutError:
                    say(await counter.name)
                try:
                    await counter.fail("astray")
                except LookupError as error:
                    say(error.message)
                say([await bus.state(counter), (await bus.fetch(counter)).count])
                await bus.release(counter)
        asyncio.run(main())
    """).said()
    assert said == [
        [6, 6, 12],
        True,
        True,
        True,
        True,
        "was stopped",
        "astray",
        [{"count": 6, "name": "was stopped"}, 6],
    ]


def test_nodes_are_called_by_name_and_by_value(scripts: Scripts) -> None:
    """One by one, the node being kept, or as a stream, with what it flushes; pictures go and come as frames."""
    (scripts.folder / "noding.py").write_text(
        textwrap.dedent("""
            import time
            import numpy as np
            from rmbus import Node, Input, Output
            class Sums(Node):
                def __init__(self):
                    self.sum = 0
                def process(self, frame):
                    self.sum += frame.value
                    if frame.value % 2:
                        yield self.sum
                    if frame.value == 4:
                        yield "four"
                        yield [4, 4]
                def flush(self):
                    yield "end"
            class Two(Node):
                into, low, high = Input(), Output(), Output()
                def process(self, frame):
                    yield (self.low if frame.value < 10 else self.high), frame.value
            class Inverted(Node):
                def process(self, frame):
                    return 255 - frame.array
            class Slow(Node):
                def process(self, frame):
                    time.sleep(frame.value)
                    return "done"
            class Failing(Node):
                def process(self, frame):
                    raise KeyError(frame.value)
        """)
    )
    said = scripts.start("""
        import noding
        from rmbus import testing
        with rmbus.connect() as bus:
            sums = noding.Sums()
            say([bus.call(sums, number) for number in range(6)])
            say(list(bus.stream(noding.Sums(), range(6))))
            say(list(bus.stream(noding.Two(), [1, 20])))
            say(bus.call("PassThrough", {"a": [1, (2, 3)]}))
            say(list(bus.stream("Buffer", range(10), config={"buffer_size": 4})))
            picture, = testing.video(1)
            back = bus.call(noding.Inverted(), picture)
            say([type(back).__name__, bool((back.array == 255 - picture.array).all()), back.pts == picture.pts])
            for bad in (lambda: bus.call(noding.Slow(), 30, timeout_s=0.2), lambda: bus.call(noding.Failing(), "k"),
                        lambda: bus.call("Nothing", 1), lambda: bus.call("Buffer", 1, config={"wrong": 1})):
                try:
                    bad()
                except Exception as error:
                    say([type(error).__name__, str(error)])
    """).said()
    assert said[:6] == [
        [None, 1, None, 6, ["four", [4, 4]], 15],
        [1, 6, "four", [4, 4], 15, "end"],
        [["low", 1], ["high", 20]],
        {"a": [1, [2, 3]]},
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]],
        ["VideoFrame", True, True],
    ]
    types, messages = zip(*said[6:], strict=True)
    assert types == ("TimeoutError", "KeyError", "PipelineError", "ConfigurationError")
    assert "it had not ended within 0.2 s" in messages[0]
    assert "'k' (node 'failing'" in messages[1]
    assert "no node is called 'Nothing'" in messages[2]
    assert "Buffer cannot be built so:\n  wrong: there is no such parameter" in messages[3]


def test_a_configuration_is_checked_here_and_on_arrival(scripts: Scripts) -> None:
    """Before anything is sent, and again before the constructor runs: the class there may be of another release."""
    (scripts.folder / "configured.py").write_text(
        textwrap.dedent("""
            import os
            from pathlib import Path
            from rmbus import Node
            class Scaled(Node):
                def __init__(self, factor: float, folder: Path = Path(".")):
                    if factor == 0:
                        raise ValueError("a factor is not 0")
                    self.factor, self.folder, self.built_in = factor, folder, os.getpid()
                def process(self, frame):
                    return [frame.value * self.factor, type(self.folder).__name__, self.built_in]
        """)
    )
    said = scripts.start("""
        import configured
        import rmbus.bus
        from rmbus.errors import ConfigurationError, NodeError

        def failing(call):
            try:
                call()
            except Exception as error:
                known = (ConfigurationError, NodeError, ValueError)
                kinds = [kind.__name__ for kind in known if isinstance(error, kind)]
                say([kinds, getattr(error, "node", None), str(error)])

        with rmbus.connect() as bus:
            value, folder, pid = bus.call(configured.Scaled, 2, config={"factor": 1.5, "folder": "a/b"})
            say([value, folder, pid == os.getpid()])
            say([found[0] for found in bus.stream(configured.Scaled, [1, 2], config={"factor": 2})])
            wrong = {"faktor": 2, "folder": 3}
            failing(lambda: bus.call(configured.Scaled, 2, config=wrong))
            failing(lambda: list(bus.stream("Buffer", [2], config={"buffer_size": "2"})))
            failing(lambda: bus.call(configured.Scaled(1), 2, config={"factor": 2}))
            failing(lambda: bus.call(configured.Scaled, 2, config={"factor": 0}))
            rmbus.bus.check_config = lambda node, config: None  # as a release would that knows another constructor
            failing(lambda: bus.call(configured.Scaled, 2, config=wrong))
            failing(lambda: bus.call("Buffer", 2, config={"buffer_size": "2"}))
    """).said()
    lines = "\n  faktor: there is no such parameter; did you mean factor?\n  folder: int where Path is expected"
    lines += "\n  factor: is missing: float"
    assert said[:2] == [[3.0, "PosixPath", False], [2, 4]]
    at_home, named, built, refused, on_arrival, named_there = said[2:]
    assert at_home[:2] == [["ConfigurationError"], None]
    assert at_home[2].startswith(f"configured:Scaled cannot be built so:{lines}")
    assert named[:2] == [["ConfigurationError"], None]
    assert "Buffer cannot be built so:\n  buffer_size: str where int is expected" in named[2]
    assert built[0] == ["ConfigurationError"]
    assert "factor: the node is built already" in built[2]
    assert refused[:2] == [["NodeError", "ValueError"], "scaled"]
    assert on_arrival[:2] == [["ConfigurationError", "NodeError"], "scaled"]
    assert f"configured:Scaled cannot be built so:{lines}" in on_arrival[2]
    assert named_there[:2] == [["ConfigurationError", "NodeError"], "Buffer"]


@everywhere
def test_a_caller_that_dies_in_a_call(scripts: Scripts) -> None:
    """Its call is stopped, and the object serves the others that hold it."""
    first = scripts.start("""
        import counting
        bus = rmbus.connect()
        counter = bus.ship(counting.Counter(1))
        say(bus.nodes()[0]["id"])
        hear()
        say([counter.add(1), counter.name])
        bus.close()
    """)
    name = first.heard()
    second = scripts.start(f"""
        bus = rmbus.connect()
        counter = bus.attach({name!r})
        say(counter.add(1))
        counter.endless("runs")
    """)
    assert second.heard() == 2
    assert hears_that_it_runs(second)
    second.kill(signal.SIGKILL)
    first.tell()
    status, said, _ = first.end()
    assert (status, said) == (0, [[3, "was stopped"]])


@everywhere
def test_closed_while_a_call_waits(scripts: Scripts) -> None:
    """The thread that waits is told so; a forked child is told to connect for itself."""
    script = scripts.start("""
        import counting
        bus = rmbus.connect()
        counter = bus.ship(counting.Counter(1))
        def wait():
            try:
                counter.endless("runs")
            except Closed as error:
                say("closed" in str(error))
        from rmbus.errors import Closed
        child = os.fork()
        if not child:
            try:
                bus.nodes()
            except Closed as error:
                say("after the fork" in str(error))
            os._exit(0)
        os.waitpid(child, 0)
        thread = threading.Thread(target=wait)
        thread.start()
        hear()
        bus.close()
        thread.join(5)
        say(thread.is_alive())
    """)
    assert script.heard() is True
    assert hears_that_it_runs(script)
    script.tell()
    status, said, _ = script.end()
    assert (status, said) == (0, [True, False])


def test_what_cannot_come_back_harms_nobody(scripts: Scripts) -> None:
    """From a method, an async one, or in the middle of a stream; the object goes on with its state."""
    said = run(
        scripts,
        """
        import asyncio
        counter.add(1)
        later, items = lambda: asyncio.run(counter.bad_later()), lambda: list(counter.bads())
        for bad in (counter.bad, later, items, counter.opened):
            try:
                say(bad())
            except RmbusError as error:
                say(type(error).__name__)
        say(counter.count)
        """,
    )
    assert said == ["PackagingError"] * 4 + [6]


@everywhere
def test_calls_that_are_cancelled_while_another_runs(scripts: Scripts) -> None:
    """They are not run afterwards, though they had been sent."""
    said = scripts.start("""
        import asyncio, counting
        async def main():
            async with rmbus.aio.connect() as bus:
                counter = await bus.ship(counting.Counter(0))
                first = asyncio.create_task(counter.slow(1))
                await asyncio.sleep(0.2)
                others = [asyncio.create_task(counter.slow(0.1)) for _ in range(5)]
                await asyncio.sleep(0.2)
                for other in others:
                    other.cancel()
                await first
                say(await counter.count)
        asyncio.run(main())
    """).said()
    assert said == [1]


@everywhere
def test_stand_ins_and_streams_that_are_forgotten(scripts: Scripts) -> None:
    """They take no room at the object, nor descriptors here."""
    said = run(
        scripts,
        """
        import gc
        name = bus.nodes()[0]["id"]
        for _ in range(300):
            counter.upto(100)
        counter.add(1)
        def files():
            gc.collect()
            return len(os.listdir("/proc/self/fd"))
        def settled(limit):
            until = time.monotonic() + 20
            while files() > limit and time.monotonic() < until:
                time.sleep(0.1)
            return files() <= limit
        before = files()
        for _ in range(70):
            attached = bus.attach(name)
            attached.count
            del attached
            assert settled(before + 40)
        say([list(counter.upto(3)), settled(before + 20)])
        """,
    )
    assert said == [[[0, 1, 2], True]]


def test_a_slow_cleanup_at_the_end_of_the_bus(scripts: Scripts) -> None:
    (scripts.folder / "leaving.py").write_text(
        textwrap.dedent("""
            import time
            class Leaving:
                def __init__(self, topic):
                    self.topic = topic
                def cleanup(self):
                    time.sleep(1)
                    print("left in peace", flush=True)
                def what(self):
                    return self.topic
        """)
    )
    script = scripts.start("""
        import leaving
        listener = rmbus.connect()
        with rmbus.connect() as bus:
            far = bus.ship(leaving.Leaving("t"))
            kept = listener.attach(bus.nodes()[0]["id"])
            say(far.what())
            bus.release(far)
        until = time.monotonic() + 10
        while listener.nodes() and time.monotonic() < until:
            time.sleep(0.05)
    """)
    status, said, err = script.end()
    assert (status, said) == (0, ["t"])
    assert "left in peace" in err


def test_ctrl_c_while_it_is_shipped(scripts: Scripts) -> None:
    """An object that nobody waits for any more is given up, though its `initialize` would never end."""
    (scripts.folder / "starting.py").write_text(
        "import time\nclass Endless:\n    def initialize(self):\n        print('runs', flush=True)\n"
        "        while True:\n            time.sleep(0.01)\n"
    )
    script = scripts.start("""
        import starting
        bus = rmbus.connect()
        try:
            bus.ship(starting.Endless())
        except KeyboardInterrupt:
            say("interrupted")
        hear()
    """)
    assert hears_that_it_runs(script)
    before = processes(scripts)
    script.kill(signal.SIGINT)
    assert script.heard() == "interrupted"
    assert settles(lambda: "" if len(processes(scripts)) < len(before) else str(processes(scripts)), 5.0) == ""


def test_an_event_loop_that_has_ended(scripts: Scripts) -> None:
    """What was awaited in it is stopped, at once; its late answer harms no later call, of a script without one."""
    said = run(
        scripts,
        """
        import asyncio
        async def impatient():
            try:
                async with asyncio.timeout(0.2):
                    await counter.later(30, "late")
            except TimeoutError:
                return "over"
        for _ in range(3):
            began = time.monotonic()
            say([asyncio.run(impatient()), counter.add(1), time.monotonic() - began < 10])
        """,
    )
    assert said == [["over", 6, True], ["over", 7, True], ["over", 8, True]]
