"""Topics from scripts of ten lines, each a process: what is published is read, and who breaks harms himself alone."""

from __future__ import annotations

import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripting import Script, Scripts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # real processes

NUMBERS = """
    with rmbus.connect() as bus, bus.publish("numbers") as numbers:
        say("up")
        for word in iter(hear, ""):
            for number in range(int(word)):
                numbers.send(number)
"""
"""Publishes as many numbers as it is told to, time after time."""


everywhere = pytest.mark.parametrize("scripts", ["here", "far"], indirect=True)


@pytest.fixture
def scripts(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scripts]:
    """A host, and scripts on its machine; or, with `everywhere`, also some that see it as from another one."""
    with Scripts(tmp_path, far=getattr(request, "param", "here") == "far") as scripts:
        yield scripts


def up(script: Script) -> Script:
    """Wait until a script says that it is up."""
    assert script.heard() == "up"
    return script


def publish(publisher: Script, frames: int) -> None:
    """Let a script of `NUMBERS` publish, and end."""
    publisher.tell(str(frames))
    publisher.tell()


@everywhere
def test_small_frames(scripts: Scripts) -> None:
    """All of them, in order, with the topic's name and their numbers; the iteration ends with the publisher."""
    reader = up(
        scripts.start("""
            bus = rmbus.connect()
            numbers = bus.subscribe("numbers", delivery=drop_oldest(1000))
            say("up")
            say([[frame.value, frame.seq, frame.topic] for frame in numbers])
            say(numbers.dropped)
        """)
    )
    publish(up(scripts.start(NUMBERS)), 300)
    got, dropped = reader.said()
    assert got == [[number, number, "numbers"] for number in range(300)]
    assert dropped == {}


def test_large_frames_are_shared(scripts: Scripts) -> None:
    """Pictures of 6.2 MB lie in shared memory, read-only; the account says so, and the pixels are right."""
    reader = up(
        scripts.start("""
            from rmbus.transport.counters import Edge
            with rmbus.connect() as bus, bus.subscribe("cam/front", delivery=drop_oldest(50)) as pictures:
                say("up")
                for frame in pictures:
                    a = frame.array
                    say([a.nbytes, int(a[0, 0, 0]), int(a[-1, -1, -1]), a.flags.writeable, frame.pts])
                    ((link, _),) = pictures.intake._edges.values()
                    shared = link.page.words[Edge.SHARED]
                say([shared, pictures.dropped])
        """)
    )
    writer = scripts.start("""
        with rmbus.connect() as bus, bus.publish("cam/front", Video("rgb24", rate=25)) as pictures:
            picture = np.zeros((1080, 1920, 3), np.uint8)
            for number in range(20):
                picture[:] = number  # the same array: it was copied when it was sent
                pictures.send(picture)
            like = VideoFrame(picture, pts=99)
            with pictures.loan(like=like) as lent:
                lent.array[:] = 77
            try:
                with pictures.loan(like=like) as lent:
                    raise KeyError
            except KeyError:
                pass
    """)
    said = reader.said()
    writer.said()
    assert said[-1] == [21, {}]
    assert said[:-1] == [
        *([6_220_800, number, number, False, number] for number in range(20)),
        [6_220_800, 77, 77, False, 99],
    ]


@everywhere
def test_the_last_value_comes_at_once_where_it_is_wanted(scripts: Scripts) -> None:
    """Who comes late gets the last value, with its format, or waits for the next."""
    writer = up(
        scripts.start("""
            bus = rmbus.connect()
            states, pictures = bus.publish("states"), bus.publish("pictures")
            for state in ("red", "yellow", "green"):
                states.send(state)
            pictures.send(VideoFrame(np.full((600, 800, 3), 5, np.uint8)))
            say("up")
            hear()
            states.send("red")
            bus.close()
        """)
    )
    late = scripts.start("""
        bus = rmbus.connect()
        last = next(bus.subscribe("pictures", last=True))
        say([str(last.format.pixels), int(last.array.sum())])
        states = bus.subscribe("states", last=True)
        say(next(states).value)
        say([frame.value for frame in states])
    """)
    plain = up(
        scripts.start("""
            bus = rmbus.connect()
            states = bus.subscribe("states")
            say("up")
            say([frame.value for frame in states])
        """)
    )
    assert late.heard() == ["rgb24", 5 * 600 * 800 * 3]
    assert late.heard() == "green"
    writer.tell()
    assert late.said() == [["red"]]
    assert plain.said() == [["red"]]
    writer.said()


@everywhere
def test_patterns(scripts: Scripts) -> None:
    """A pattern takes in what comes and goes, and ends when it is closed; a name ends with its topic."""
    reader = up(
        scripts.start("""
            bus = rmbus.connect()
            cameras, every = bus.subscribe("cam/*"), bus.subscribe("**")
            names = threading.Thread(target=lambda: say(sorted({next(every).topic for _ in range(5)})))
            names.start()
            say("up")
            got = [next(cameras) for _ in range(3)]
            names.join()
            say([[frame.topic, frame.value] for frame in got])
            cameras.close()
            say(list(cameras))
        """)
    )
    writer = scripts.start("""
        with rmbus.connect() as bus:
            for name in ("cam/front", "cam/back/left", "microphone", "cam/back", "cam/front"):
                with bus.publish(name) as publisher:
                    publisher.send(f"of {name}")
    """)
    assert reader.said() == [
        ["cam/back", "cam/back/left", "cam/front", "microphone"],
        [["cam/front", "of cam/front"], ["cam/back", "of cam/back"], ["cam/front", "of cam/front"]],
        [],
    ]
    writer.said()


def test_a_name_is_taken_once(scripts: Scripts) -> None:
    """A second publisher is refused by name, and so is the host's own; a name that was closed is free at once."""
    said = scripts.start("""
        from rmbus.errors import HostError
        def refused(name):
            try:
                bus.publish(name)
            except HostError as error:
                return str(error)
        bus = rmbus.connect()
        first = bus.publish("cam")
        say([refused("cam"), refused("rmbus/events")])
        for _ in range(20):
            first.close()
            first = bus.publish("cam")
        say(sorted(os.listdir(os.environ["XDG_RUNTIME_DIR"] + "/rmbus/" + bus.address.split("/")[-2])))
    """).said()
    assert said[0] == [
        "the topic 'cam' is published already: choose another name, or end its publisher",
        "the topic 'rmbus/events' is the host's own: choose another name",
    ]
    folders = [name for name in said[1] if name.startswith("n")]
    assert len(folders) == 1, "what was refused or has ended has left its folder"


def test_wrong_names_and_wishes(scripts: Scripts) -> None:
    """What cannot be had is refused at once, with the reason."""
    said = scripts.start("""
        def refused(call):
            try:
                call()
            except Exception as error:
                return [type(error).__name__, str(error)]
        bus = rmbus.connect()
        say(refused(lambda: bus.publish("cam//front")))
        say(refused(lambda: bus.subscribe("cam/**/front")))
        say(refused(lambda: bus.subscribe("cam", delivery=reliable(3))))
        say(refused(lambda: bus.subscribe("rmbus/events", delivery=latest)))
        pictures = bus.publish("cam", Video("rgb24"))
        say(refused(lambda: pictures.send("a word")))
        say(refused(lambda: pictures.send(None)))
        say(refused(lambda: bus.publish("any").send({"a": object()})))
        say(refused(lambda: pictures.loan(like=Data(1)).__enter__()))
    """).said()
    kinds, texts = zip(*said, strict=True)
    assert kinds == (
        *("ProtocolError", "ProtocolError", "RmbusError", "RmbusError"),
        *("FormatError", "FormatError", "FormatError", "FormatError"),
    )
    assert "'cam//front' is no topic" in texts[0]
    assert "'cam/**/front' is no pattern over topics" in texts[1]
    assert "cannot be reliable(3): a topic waits for none of its readers" in texts[2]
    assert "its delivery cannot be chosen" in texts[3]
    assert "topic cam carries Video(rgb24): it was given a str" in texts[4]
    assert "it was given a NoneType" in texts[5]
    assert "value['a']" in texts[6]
    assert "loan() lends a video or audio frame" in texts[7]


def test_no_host(tmp_path: Path) -> None:
    """It is told what to do; so it is for addresses where none can be."""
    with Scripts(tmp_path, host=False) as scripts:
        said = scripts.start("""
            from rmbus.errors import ConnectFailed
            for how in ({}, {"address": "tcp://127.0.0.1:7700"}, {"address": "http://garage"}, {"key": "abc"}):
                try:
                    rmbus.connect(**how)
                except ConnectFailed as error:
                    say(str(error))
        """).said()
    assert said[0] == "no host of yours is running on this machine: start one with `rmbus host`, or a pipeline"
    assert "at tcp://127.0.0.1:7700" in said[1]
    assert said[2].startswith(
        "cannot connect to http://garage yet: connect() reaches this user's hosts on this machine"
    )
    assert said[3].startswith("cannot connect with a key yet")


def test_by_address(scripts: Scripts) -> None:
    """A host is reached at its own address, of either kind."""
    second = scripts.command.start("host", "--spares", "0", "--listen", "tcp://127.0.0.1:0")
    assert second.stdout is not None
    address = second.stdout.readline().split("listening on ")[1].split()[0]
    assert address.startswith("tcp://")
    said = scripts.start(f"""
        from rmbus.client import find_bus
        one = rmbus.connect("{address}").publish("here")
        same = rmbus.connect(find_bus("{address}").local)
        say(same.address)
        say([topic for topic in ("here", "there") if not same.publish(topic + "/again").close()])
        try:
            same.publish("here")
        except RmbusError as error:
            say(str(error))
    """).said()
    assert said[0] == address
    assert "'here' is published already" in said[2]


@everywhere
def test_a_slow_reader_harms_itself_alone(scripts: Scripts) -> None:
    """One that reads all gets all; one that is slow misses some, and each of its frames is given or counted."""
    quick, slow = (
        up(
            scripts.start(f"""
                bus = rmbus.connect()
                numbers = bus.subscribe("numbers", {wish})
                say("up")
                got = []
                for frame in numbers:
                    got.append(frame.value["number"])
                    time.sleep({pause_s})
                say([len(got), got == sorted(set(got)), got[-1], numbers.dropped])
            """)
        )
        for wish, pause_s in (("delivery=drop_oldest(2000)", 0), ("", 0.05))
    )
    writer = scripts.start("""
        with rmbus.connect() as bus, bus.publish("numbers") as numbers:
            for number in range(1000):
                numbers.send({"number": number, "picture": np.zeros(100_000, np.uint8)})
    """)
    writer.said()
    assert quick.said() == [[1000, True, 999, {}]]
    ((given, in_order, final, dropped),) = slow.said()
    assert in_order
    assert final == 999
    assert 1 < given < 500
    assert given + sum(dropped.values()) == 1000
    assert set(dropped) == {"overflow"}


def test_kill_9_of_a_publisher(scripts: Scripts) -> None:
    """What it had sent is read, the iteration ends, what is lost is counted, and others can take the name."""
    reader = up(
        scripts.start("""
            bus = rmbus.connect()
            cam = bus.subscribe("cam", delivery=drop_oldest(50))
            say("up")
            kept = []
            for frame in cam:
                kept.append(frame)
                if len(kept) == 1:
                    say("one")
                    hear()
            say([[int(frame.array[0, 0, 0]), int(frame.array.min()), int(frame.array.max())] for frame in kept])
            say(len(kept) + sum(cam.dropped.values()))
            say(cam.dropped)
        """)
    )
    writer = scripts.start("""
        bus = rmbus.connect()
        cam = bus.publish("cam")
        for number in range(20):
            cam.send(VideoFrame(np.full((480, 640, 3), number, np.uint8)))
        say("sent")
        hear()
    """)
    assert reader.heard() == "one"
    assert writer.heard() == "sent"
    writer.kill()
    writer.end()
    publish(up(scripts.start(NUMBERS.replace("numbers", "cam"))), 3)
    reader.tell()
    pixels, count, dropped = reader.said()
    assert pixels == [[number] * 3 for number in range(len(pixels))]
    assert len(pixels) >= 2
    assert count == 20
    assert dropped == {"producer_died": 20 - len(pixels)}


def test_kill_9_of_a_reader_that_holds_views(scripts: Scripts) -> None:
    """The publisher and the other readers go on, and no frame that they see is torn."""
    writer = up(
        scripts.start("""
            bus = rmbus.connect()
            cam = bus.publish("cam", Video("rgb24"))
            say("up")
            number = 0
            while True:
                cam.send(np.full((480, 640, 3), number % 250, np.uint8))
                number += 1
        """)
    )
    text = """
        bus = rmbus.connect()
        cam = bus.subscribe("cam")
        kept = []
        for frame in cam:
            kept.append([frame.array, int(frame.array[0, 0, 0])])
            if len(kept) == 12:
                say("up")
            if len(kept) == 200:
                break
            del kept[:-12]
    """
    holds = up(scripts.start(text.replace("del kept[:-12]", "if len(kept) == 12: hear()")))
    other = up(scripts.start(text.replace("        del", "    del").replace("== 200", "== 12_000_000")))
    holds.kill()
    holds.end()
    third = scripts.start(
        text.replace("del kept[:-12]", "pass")
        + """
        say([int(array.min()) == int(array.max()) == first for array, first in kept].count(False))
        cam.close()
        more = bus.subscribe("cam")
        say(len([next(more) for _ in range(100)]))  # the publisher writes on
        say([int(array.min()) == int(array.max()) == first for array, first in kept].count(False))
        say(len(kept))
        """
    )
    assert up(third).said() == [0, 100, 0, 200]
    assert other.process.poll() is None
    writer.kill(signal.SIGINT)
    assert writer.end()[0] != 0


def test_kill_9_of_the_host(scripts: Scripts) -> None:
    """Readers and publishers are told by an error, by name, and can be closed."""
    reader = up(
        scripts.start("""
            from rmbus.errors import HostError
            bus = rmbus.connect()
            one, every = bus.subscribe("numbers"), bus.subscribe("**")
            say("up")
            say([next(one).value, next(every).value])
            for each in (one, every, one):
                try:
                    next(each)
                except HostError as error:
                    say(str(error))
            began = time.monotonic()
            bus.close()
            bus.close()
            say([list(one), time.monotonic() - began < 1])
        """)
    )
    writer = scripts.start("""
        from rmbus.errors import HostError
        with rmbus.connect() as bus, bus.publish("numbers") as numbers:
            numbers.send(7)
            say("up")
            hear()
            try:
                while True:
                    numbers.send(8)
            except HostError as error:
                say(str(error))
    """)
    up(writer)
    assert reader.heard() == [7, 7]
    assert scripts.host is not None
    scripts.host.kill()
    scripts.host.communicate()
    first, second, third, end = reader.said()
    assert first.startswith("the subscription to numbers has ended: the host at ipc://")
    assert second.startswith("the subscription to ** has ended: the host at ipc://")
    assert third == first
    assert end == [[], True]
    writer.tell()
    (told,) = writer.said()
    assert told.startswith("the topic numbers has ended: the host at ipc://")


def test_closing_twice_and_using_after_it(scripts: Scripts) -> None:
    """Closing is harmless the second time; what is closed says so."""
    said = scripts.start("""
        from rmbus.errors import Closed
        def told(call):
            try:
                return call()
            except Closed as error:
                return str(error)
        bus = rmbus.connect()
        numbers, reader = bus.publish("numbers"), bus.subscribe("numbers")
        for each in (reader, numbers, bus) * 2:
            each.close()
        say([list(reader), *map(told, (lambda: numbers.send(1), lambda: bus.publish("a"), lambda: bus.subscribe("a")))])
        say([reader.dropped, len([each for each in threading.enumerate() if each.name.startswith("rmbus")])])
    """).said()
    assert said == [
        [[], "the publisher of numbers was closed", *["the bus was closed: connect() anew"] * 2],
        [{}, 0],
    ]


@everywhere
@pytest.mark.parametrize("end", ["", "del numbers, reader, bus", "raise SystemExit"])
def test_a_script_that_closes_nothing(scripts: Scripts, end: str) -> None:
    """What is left open ends with the script, or with the last reference, and what was sent is read."""
    other = up(
        scripts.start("""
            bus = rmbus.connect()
            numbers = bus.subscribe("numbers", delivery=drop_oldest(100))
            say("up")
            say([[time.sleep(0.02), frame.value["number"]][1] for frame in numbers])
        """)
    )
    script = scripts.start(f"""
        bus = rmbus.connect()
        reader = bus.subscribe("numbers")
        numbers = bus.publish("numbers")
        kept = None
        for number in range(30):
            numbers.send({{"number": number, "more": np.zeros(100_000)}})
            kept = kept or next(reader)
        reader.close()
        {end}
    """)
    assert script.said() == []
    assert other.said() == [list(range(30))]


@pytest.mark.parametrize("who", ["publisher", "reader", "both"])
def test_ctrl_c(scripts: Scripts, who: str) -> None:
    """It ends at once, as any script does, with the `with` blocks left in order."""
    text = {
        "publisher": """
            with rmbus.connect() as bus, bus.subscribe("numbers") as stands_still, bus.publish("numbers") as numbers:
                say("up")
                while True:
                    numbers.send(1)
                    time.sleep(0.05)
        """,
        "reader": """
            with rmbus.connect() as bus:
                say("up")
                for frame in bus.subscribe("numbers"):
                    say(frame.value)
        """,
        "both": """
            bus = rmbus.connect()
            numbers = bus.publish("numbers")
            reader = bus.subscribe("numbers")
            say("up")
            for frame in reader:
                numbers.send(1)
        """,
    }[who]
    script = up(scripts.start(text))
    script.kill(signal.SIGINT)
    status, said, err = script.end(timeout_s=5)
    assert (status, said) == (-signal.SIGINT, [])
    assert err.rstrip().endswith("KeyboardInterrupt")
    told = err.count("Traceback") - err.count(
        "During handling of the above exception"
    )  # Python's own files catch and raise
    assert told == 1, err


def test_two_subscriptions_and_a_publisher_in_one_process(scripts: Scripts) -> None:
    """Each in a thread of its own; a `close()` from another thread ends an iteration that waits."""
    said = scripts.start("""
        bus = rmbus.connect()
        one, two = (bus.subscribe("numbers", delivery=drop_oldest(500)) for _ in range(2))
        waits = bus.subscribe("silence/*")
        got = {}
        def read(name, subscription):
            got[name] = [frame.value for frame in subscription]
        threads = [threading.Thread(target=read, args=each) for each in (("1", one), ("2", two), ("3", waits))]
        for thread in threads:
            thread.start()
        with bus.publish("numbers") as numbers:
            senders = [threading.Thread(target=lambda: [numbers.send(n) for n in range(100)]) for _ in range(3)]
            for thread in senders:
                thread.start()
            for thread in senders:
                thread.join()
        waits.close()
        for thread in threads:
            thread.join()
        say([sorted(got["1"]) == sorted([*range(100)] * 3), got["1"] == got["2"], got["3"], one.dropped, two.dropped])
    """).said()
    assert said == [[True, True, [], {}, {}]]


def test_the_topics_of_a_pipeline(tmp_path: Path) -> None:
    """Any output of a running pipeline is a topic, without a host of one's own; a reader that stands still is left."""
    with Scripts(tmp_path, host=False) as scripts:
        pipeline = up(
            scripts.start(
                """
                sys.path.insert(0, SUPPORT)
                from streams import Count, Double, Take
                pipeline = Pipeline([Count(100_000, every_s=0.01), Double(), Take()], name="sums")
                with pipeline.start() as session:
                    say("up")
                    hear()
                    began = time.monotonic()
                    report = session.stop()
                    say([report.edges[1].published == report.frames, report.dropped, time.monotonic() - began])
            """
            )
        )
        text = """
            bus = rmbus.connect()
            every, doubles = bus.subscribe("sums/double/*"), bus.subscribe("sums/double/out")
            say([next(every).topic, next(doubles).value % 2])
            say({frame.value % 2 for frame in doubles} == {0})
        """
        reader, still = scripts.start(text), scripts.start(text)
        for each in (reader, still):
            assert each.heard() == ["sums/double/out", 0]
        still.kill(signal.SIGSTOP)
        pipeline.tell()
        whole, dropped, seconds = pipeline.heard()
        assert (whole, dropped) == (True, {})
        assert seconds < 10
        assert reader.said() == [True]
        still.kill(signal.SIGCONT)
        assert still.said() == [True]
        assert pipeline.end()[0] == 0


@everywhere
def test_a_node_reads_what_a_dead_publisher_has_sent(scripts: Scripts) -> None:
    """A node on the bus ends with its topic, in order, and what was on its way before is still good."""
    (scripts.folder / "reads.py").write_text(
        textwrap.dedent("""
            import sys
            from rmbus import Input, Node

            class Reads(Node):
                pictures = Input()

                def initialize(self):
                    print("up", flush=True)

                def process(self, frame):
                    print(frame.seq, frame.array.min(), frame.array.max(), flush=True)
                    if not frame.seq:
                        sys.stdin.readline()
        """)
    )
    node = scripts.command.start("run", "reads.py:Reads", "--in", "pictures", stdin=subprocess.PIPE)
    assert node.stdout is not None
    assert node.stdout.readline() == "up\n"
    writer = scripts.start("""
        pictures = rmbus.connect().publish("pictures")
        for number in iter(lambda: int(hear()), -1):
            pictures.send(VideoFrame(np.full((480, 640, 3), number, np.uint8)))
            if "RMBUS_TEST_FAR" in os.environ and number == 1:
                far.wait_until_taken(2 * 480 * 640 * 3)
            say(number)
    """)
    for number in range(3):
        writer.tell(str(number))
        assert writer.heard() == number
    assert node.stdout.readline() == "0 0 0\n"
    writer.kill()
    writer.end()
    publish(up(scripts.start(NUMBERS)), 1)  # the host has told the node by now
    out, err = node.communicate("go on\n", timeout=30)
    assert node.returncode == 0, err
    assert out.splitlines()[:1] == ["1 1 1"], err
    assert err == "rmbus: topic pictures has ended: its publisher is gone\n"


@everywhere
def test_encoded_video_waits_by_itself(scripts: Scripts) -> None:
    """Eight frames of it wait where nothing else is asked for; what is dropped, is dropped up to a key frame."""
    reader = up(
        scripts.start("""
            bus = rmbus.connect()
            film = bus.subscribe("film")
            say("up")
            first = next(film)
            say("begun")
            hear()
            say([first.pts, [frame.pts for frame in film], film.dropped, str(first.format.codecs)])
        """)
    )
    writer = scripts.start("""
        with rmbus.connect() as bus, bus.publish("film") as film:
            for number in range(36):
                film.send(Packet(b"x" * 100, "h264", key=number % 10 == 0, pts=number))
                if not number:
                    say("up")
                    hear()
            say("sent")
    """)
    up(writer)
    assert reader.heard() == "begun"  # so the edge is up
    writer.tell()
    assert writer.heard() == "sent"
    reader.tell()
    # One more is in the window. In the mailbox 2 to 9 wait, and go for 10; so do 10 to 17 for 18, and what follows.
    assert reader.said() == [[0, [1, *range(30, 36)], {"awaiting_key": 28}, "('h264',)"]]
    writer.said()


AIO = """
    import asyncio

    async def main():
        async with rmbus.aio.connect() as bus:
            numbers = bus.subscribe("numbers", delivery=drop_oldest(500))
            async def read():
                return [frame.value if isinstance(frame, Data) else frame.array.shape async for frame in numbers]
            async with numbers, asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(read())
                async with bus.publish("numbers") as publisher:
                    for number in range(100):
                        await publisher.send(number)
                    picture = VideoFrame(np.zeros((480, 640, 3), np.uint8))
                    await publisher.send(picture)
                    async with publisher.loan(like=picture) as lent:
                        lent.array[:] = 1
            got = reading.result()
            say([got[:100] == [*range(100)], got[100:], numbers.dropped])

            states = await bus.publish("states")
            await states.send("on")
            last = bus.subscribe("states", last=True)
            say((await anext(last)).value)
            try:
                async with asyncio.timeout(0.2):
                    await anext(last)
            except TimeoutError:
                say("cancelled")
            await states.send("off")
            say((await anext(last)).value)  # nothing was lost with what was cancelled

            async def wait_for_more():
                async for _ in last:
                    pass
                say("ended")
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(wait_for_more())
                await asyncio.sleep(0)
                await last.close()
            await states.close()
            await states.close()
            try:
                await bus.publish("cam//a")
            except RmbusError as error:
                say(type(error).__name__)
            say(len(asyncio.all_tasks()))
"""


@everywhere
@pytest.mark.parametrize("run", ["asyncio.run(main(), debug=True)", "import uvloop; uvloop.run(main())"])
def test_the_awaitable_twins(scripts: Scripts, run: str) -> None:
    """The same in event loops of both kinds, cancelled and closed, and no task is left."""
    assert scripts.start(f"{AIO}\n    {run}").said() == [
        [True, [[480, 640, 3]] * 2, {}],
        *("on", "cancelled", "off", "ended", "ProtocolError", 1),
    ]


def test_blocking_names_in_an_event_loop(scripts: Scripts) -> None:
    """As in a notebook: a loop runs in the thread, and the plain names work nevertheless."""
    said = scripts.start("""
        import asyncio
        async def cell():
            with rmbus.connect() as bus, bus.subscribe("numbers") as numbers, bus.publish("numbers") as publisher:
                publisher.send(5)
                say(next(numbers).value)
        asyncio.run(cell())
    """).said()
    assert said == [5]


def test_cancelled_while_it_opens(scripts: Scripts) -> None:
    """A host that stands still holds no task, and nothing of what was asked for is left when it goes on."""
    script = up(
        scripts.start("""
            import asyncio
            async def main():
                async with rmbus.aio.connect(timeout_s=20) as bus:
                    say("up")
                    hear()
                    began = time.monotonic()
                    for opening in (bus.publish("numbers"), anext(bus.subscribe("numbers"))):
                        try:
                            async with asyncio.timeout(0.2):
                                await opening
                        except TimeoutError:
                            say("cancelled")
                    say(time.monotonic() - began < 5)
                    hear()
                    async with asyncio.timeout(20):
                        while True:
                            try:
                                publisher = await bus.publish("numbers")
                                break
                            except RmbusError:
                                await asyncio.sleep(0.05)
                    say("published")
            asyncio.run(main())
        """)
    )
    assert scripts.host is not None
    scripts.host.send_signal(signal.SIGSTOP)
    script.tell()
    assert [script.heard() for _ in range(3)] == ["cancelled", "cancelled", True]
    scripts.host.send_signal(signal.SIGCONT)
    script.tell()
    assert script.said() == ["published"]


def test_events(scripts: Scripts) -> None:
    """A host tells of its sessions once a second and at every change, like a topic; a session of itself."""
    listener = up(
        scripts.start("""
            bus = rmbus.connect()
            told = bus.subscribe("rmbus/events")
            say("up")
            for event in told:
                value = event.value
                say(value)
                if value["event"] == "session":
                    break
            say([event.topic, told.dropped])
        """)
    )
    session = scripts.start(
        """
        sys.path.insert(0, SUPPORT)
        from streams import Count, Double, Take
        from rmbus.client import find_bus
        pipeline = Pipeline([Count(200, every_s=0.01), Double(), Take()], name="sums")
        with pipeline.start(on=find_bus(None).address) as session:
            events = [dict(event) for event in session.events()]
            kinds = [event["event"] for event in events]
            say([session.id, {event["session"] for event in events} == {session.id}, sorted(set(kinds))])
            say([[event["name"], event["state"]] for event in events if event["event"] == "node"])
        say(list(session.events()))
    """
    )
    identity, only_own, kinds = session.heard()
    assert (only_own, kinds) == (True, ["account", "node"])
    assert sorted(session.heard()) == [["count", "ended"], ["double", "ended"], ["take", "ended"]]
    assert session.heard() == []
    assert session.end()[0] == 0
    *events, (topic, dropped) = listener.said()
    assert (topic, dropped) == ("rmbus/events", {})
    assert {event["session"] for event in events} == {identity}
    assert events[-1] == {"event": "session", "host": events[0]["host"], "session": identity, "state": "ended"}
    links = [[event["producer"], event["out"], event["consumer"], event["into"]] for event in events if "into" in event]
    assert sorted(links) == [["count", "out", "double", "in"], ["double", "out", "take", "in"]]
    states = [(event["name"], event["state"]) for event in events if event["event"] == "node"]
    assert sorted(states) == [(name, state) for name in ("count", "double", "take") for state in ("ended", "ready")]
    accounts = [event for event in events if event["event"] == "account" and event["edges"]]
    assert len(accounts) >= 2
    for account in accounts:
        for edge in account["edges"]:
            assert edge["published"] == edge["delivered"] + edge["in_flight"] + sum(edge["dropped"].values())
            assert edge["lane"].startswith("fast")
    assert accounts[-1]["edges"][0]["published"] > accounts[0]["edges"][0]["published"]
    assert {node["name"] for node in accounts[-1]["nodes"]} == {"count", "double", "take"}
    assert accounts[-1]["edges"][1]["latency_p50_s"] > 0


def test_events_end_with_their_host(scripts: Scripts) -> None:
    """Whoever listens is told by an error; a stranger without the keys hears nothing."""
    script = scripts.start("""
        import zmq
        from zmq.utils.monitor import recv_monitor_message
        from rmbus.errors import HostError
        bus = rmbus.connect()
        folder = bus.address.removeprefix("ipc://").rpartition("/")[0]
        stranger = zmq.Context().socket(zmq.SUB)
        stranger.setsockopt(zmq.SUBSCRIBE, b"")
        changes = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        stranger.connect(f"ipc://{folder}/events.sock")
        say(changes.poll(5000) and recv_monitor_message(changes)["event"] == zmq.EVENT_DISCONNECTED)
        stranger.disable_monitor()
        stranger.close(linger=0)
        with bus.subscribe("rmbus/events") as events:
            say("up")
            try:
                next(events)
            except HostError as error:
                say(str(error))
    """)
    assert script.heard() is True
    up(script)
    assert scripts.host is not None
    scripts.host.kill()
    scripts.host.communicate()
    (told,) = script.said()
    assert told.startswith("the events have ended: the host at ipc://")


def test_a_fork(scripts: Scripts) -> None:
    """A child can use nothing that was opened before, is told so, and harms nothing by its end; its parent goes on."""
    reader = up(
        scripts.start("""
            bus = rmbus.connect()
            numbers = bus.subscribe("numbers", delivery=drop_oldest(50))
            say("up")
            say([frame.value for frame in numbers])
        """)
    )
    said = scripts.start("""
        from rmbus.errors import Closed
        bus = rmbus.connect()
        own, numbers = bus.subscribe("numbers", delivery=drop_oldest(50)), bus.publish("numbers")
        events = bus.subscribe("rmbus/events")
        numbers.send(1)
        kept = next(own)
        past = bus.publish("past"), bus.subscribe("past")
        for each in past:
            each.close()
        if not os.fork():
            for use in (lambda: numbers.send(2), lambda: next(own), lambda: next(events)):
                try:
                    use()
                except Closed as error:
                    say(str(error))
            for each in (numbers, own, bus):
                each.close()
            sys.exit()
        os.wait()
        for number in (3, 4):
            numbers.send(number)
        say([next(own).value, next(own).value, own.dropped])
    """).said()
    assert [text.split(":")[0] for text in said[:3]] == [
        "the publisher of numbers is another process's",
        "the subscription to numbers is another process's",
        "these events are another process's",
    ]
    assert said[3:] == [[3, 4, {}]]
    assert reader.said() == [[1, 3, 4]]
