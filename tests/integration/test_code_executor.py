"""Executed code in real processes: it is bounded and kept in, also where it passes the guard; the next is answered."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watch import ended, family

from rmbus.errors import ConfinementError, FormatError
from rmbus.nodes import CodeExecutor
from rmbus.nodes.executing import Executor
from rmbus.testing import run_node

pytestmark = pytest.mark.timeout(60)

REACH = 'reach = getattr(getattr(print, "__se" + "lf__"), "__imp" + "ort__")\n'
"""What passes the guard and has all modules."""


def run(*codes: str, value: object = None, **parameters: Any) -> list[dict[str, Any]]:
    """Execute codes one after the other in one node; return its answers."""
    parameters.setdefault("time_s", 5.0)
    node = CodeExecutor(**parameters)
    requests = [{"code": textwrap.dedent(code), "input": value} for code in codes]
    return [frame.value for frame in run_node(node, requests)]


def error_of(code: str, **parameters: Any) -> str:
    """Return the error of a code; the node must answer the next call after it."""
    failed, following = run(code, "result = 'next'", **parameters)
    assert following["result"] == "next"
    error: str = failed["error"]
    assert "result" not in failed
    return error


# --- answers --------------------------------------------------------------------------------------------------------


def test_the_answer() -> None:
    """What was asked, the result, what was printed, and who answers."""
    (answer,) = run("print('hello', input_data)\nresult = [input_data, 'é']", value={"a": 1})
    assert answer == {
        "executed_code": "print('hello', input_data)\nresult = [input_data, 'é']",
        "input": {"a": 1},
        "result": [{"a": 1}, "é"],
        "output": "hello {'a': 1}\n",
        "processed_by": "codeexecutor",
    }


def test_the_answer_of_code_that_fails() -> None:
    """Error and traceback instead of a result, and what it had printed before."""
    (answer,) = run("print('so far')\nresult = 1\nx = 1 / 0")
    assert answer.keys() == {"executed_code", "input", "error", "traceback", "output", "processed_by"}
    assert answer["error"] == "ZeroDivisionError: division by zero"
    assert 'File "<code>", line 3' in answer["traceback"]
    assert answer["output"] == "so far\n"


def test_calls_know_nothing_of_each_other() -> None:
    """What one leaves behind the next does not see."""
    first, second, third = run("x = 1\nmath.pi = 3", "result = math.pi > 3.1", "result = x")
    assert "result" in first
    assert second["result"] is True
    assert third["error"] == "NameError: name 'x' is not defined"


def test_arrays_go_both_ways() -> None:
    """numpy is there where it was allowed, and arrays without it."""
    array = np.arange(6.0).reshape(2, 3)
    (answer,) = run("import numpy as np\nresult = np.cumsum(input_data, axis=1)", value=array, modules=["numpy"])
    assert (answer["result"] == array.cumsum(axis=1)).all()
    (answer,) = run("result = {'twice': input_data * 2}", value=array)
    assert (answer["result"]["twice"] == array * 2).all()


def test_large_values_go_both_ways() -> None:
    """More than a socket holds."""
    (answer,) = run("result = input_data[::-1]", value="ab" * 3_000_000)
    assert answer["result"] == "ba" * 3_000_000


def test_the_permissive_profile() -> None:
    """It has pickle and cloudpickle, classes of the code among what they take; the safe one has neither."""
    code = """
        import pickle as again
        class Point:
            def __init__(self, x): self.x = x
        result = pickle.loads(cloudpickle.dumps(Point(4))).x
    """
    (answer,) = run(code, profile="permissive")
    assert answer["result"] == 4
    assert "may not import pickle" in error_of(code)


def test_a_result_that_cannot_travel() -> None:
    """The error says where in it."""
    assert "value['a'][0]: a value of type set cannot travel" in error_of("result = {'a': [{1}]}")
    assert "a whole number over 64 bits cannot travel" in error_of("result = 2 ** 64 * 3")


def test_an_input_that_cannot_travel() -> None:
    """It is the caller's error, and not the code's."""
    with pytest.raises(FormatError, match="value: a value of type set cannot travel"):
        run("result = 1", value={1, 2})


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ("1 + 1", "Input must be a dictionary"),
        ({"input": 1}, "Input must contain 'code' key"),
        ({"code": 5}, "'code' must be a string"),
    ],
)
def test_requests_that_are_none(request_: object, text: str) -> None:
    """Each is a ValueError that says what is wrong."""
    with pytest.raises(ValueError, match=text):
        run_node(CodeExecutor(), [request_])


# --- limits ---------------------------------------------------------------------------------------------------------

BOMBS = {
    "endless loop": ("print('begun')\nwhile True: pass", "TimeoutError: the code was stopped after 1 s"),
    "endless sleep": ("import time\ntime.sleep(1e6)", "TimeoutError: the code was stopped after 1 s"),
    "deaf loop": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "TimeoutError: the code was stopped after 1 s",
    ),
    "10 GB": ("result = len(bytearray(10 << 30))", "MemoryError: more is needed than the 512 MiB that there are"),
    "10 GB bit by bit": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError"),
    "10 GB of shared memory": (
        REACH + "x = reach('mmap').mmap(-1, 10 << 30)",
        "OSError: [Errno 12] Cannot allocate memory",
    ),
    "fork bomb": (REACH + "os = reach('os')\nwhile True: os.fork()", "PermissionError: [Errno 1]"),
    "deaf fork bomb": (
        REACH + "os = reach('os')\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "TimeoutError: the code was stopped after 1 s",
    ),
    "thread bomb": (
        REACH + "t = reach('threading')\nwhile True: t.Thread(target=t.Event().wait).start()",
        "RuntimeError: can't start new thread",
    ),
    "endless recursion": ("def f(): return f()\nf()", "RecursionError"),
    "endless result": ("result = 'x' * (20 << 20)", "ValueError: the result takes"),
    "endless error": ("raise ValueError('x' * (100 << 20))", "ValueError: xxx"),
    "endless error that fills the memory": ("raise ValueError('x' * (400 << 20))", "ValueError: xxx"),
    "full disk": (REACH + "reach('builtins').open('/tmp/rmbus-bomb', 'wb').write(b'x' * 100)", "PermissionError"),
    "its own end": (REACH + "reach('os')._exit(7)", "the code has ended its process: exit status 7"),
    "a crash": (REACH + "reach('ctypes').string_at(0)", "the code has ended its process: killed by SIGSEGV"),
    "leaving": ("raise SystemExit(3)", "SystemExit: 3"),
}


@pytest.mark.parametrize(("code", "error"), BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_stopped_and_the_next_call_is_answered(code: str, error: str) -> None:
    """Within the time of the limit, with an error that says what was hit; nothing else of the machine feels it."""
    began = time.monotonic()
    assert error in error_of(code, time_s=1.0 if error.startswith("TimeoutError") else 10.0)
    assert time.monotonic() - began < 20


def test_a_fork_bomb_that_was_allowed_its_module() -> None:
    """No grant of a module brings processes; nor do they come by other ways."""
    assert error_of("import os\nwhile True: os.fork()", modules=["os"]).startswith("PermissionError")
    assert "Error" in error_of("import subprocess\nsubprocess.run(['/bin/true'])", modules=["subprocess"])
    code = "import multiprocessing\nmultiprocessing.Process(target=print).start()"
    assert "Error" in error_of(code, modules=["multiprocessing"])


def test_what_is_printed_is_bounded() -> None:
    """So much is kept; how much more there was is told, and what was printed before the end of the time is there."""
    (answer, _) = run("while True: print('x' * 99)", "", time_s=1.0, output_bytes=1000)
    assert answer["error"].startswith("TimeoutError")
    text, _, more = answer["output"].rpartition("\n... and ")
    assert text == (("x" * 99 + "\n") * 10)
    assert int(more.removesuffix(" bytes more")) > 100_000


def test_memory_can_be_given() -> None:
    """More than the default, where the parameter says so."""
    code = "result = len(bytearray(200 << 20))"
    assert error_of(code, memory_mb=160, time_s=20.0).startswith("MemoryError")
    (answer,) = run(code, memory_mb=320, time_s=20.0)
    assert answer["result"] == 200 << 20


def test_an_answer_that_is_forged() -> None:
    """What is no answer is an error of the code; a size over the limit is not waited for, let alone stored."""
    send = REACH + "s = reach('socket').socket(fileno=int(reach('sys').argv[1]))\n"
    assert "cannot be taken" in error_of(send + "s.sendall(b'\\xff' * 100)\nreach('time').sleep(60)")
    assert "cannot be taken" in error_of(
        send + "s.sendall(b'\\0\\0\\0\\1' + b'\\0' * 8 + b'\\xc1')\nreach('time').sleep(60)"
    )
    huge = "s.sendall(b'\\0\\0\\0\\1' + b'\\x7f' * 9)\nreach('time').sleep(60)"
    assert "cannot be taken: the result of the code has size" in error_of(send + huge)
    closed = send + "s.close()\nreach('time').sleep(60)"
    assert "ended its process: killed by SIGKILL" in error_of(closed)


# --- escapes --------------------------------------------------------------------------------------------------------

ROUTES = {
    "the module of print": REACH,
    "subclasses": """if True:
        found = [c for c in getattr(getattr(getattr((), "__cla" + "ss__"), "__ba" + "se__"), "__subcla" + "sses__")()
                 if c.__name__ == "_ModuleLock"]
        reach = getattr(found[0].__init__, "__glo" + "bals__")["__buil" + "tins__"]["__imp" + "ort__"]
    """,
    "frames": """if True:
        def climb():
            frame = getattr(generator, "gi_fr" + "ame")
            while frame:
                names = getattr(frame, "f_glo" + "bals")
                if "importlib" in names:
                    yield names["importlib"].import_module
                frame = getattr(frame, "f_ba" + "ck")
        generator = climb()
        reach = next(generator)
    """,
}

ATTACKS = {
    "read a secret": "open_(target['secret']).read()",
    "list a folder": "os.listdir(target['folder'])",
    "write outside": "open_(target['folder'] + '/new', 'w')",
    "write to /tmp": "open_('/tmp/rmbus-escape', 'w').close(); os.unlink('/tmp/rmbus-escape')",
    "change modes": "os.chmod(target['secret'], 0o600)",
    "start a program": "assert os.spawnv(os.P_WAIT, '/bin/true', ['true']) == 0",
    "fork": "reach('sys').stdout.flush(); pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)",
    "make a thread": "reach('threading').Thread(target=print).start()",
    "reach the network": "reach('socket').create_connection(('127.0.0.1', target['port']), 2)",
    "reach a unix socket": "reach('socket').socket(reach('socket').AF_UNIX).connect(target['unix'])",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "read its parent": "open_(f'/proc/{os.getppid()}/environ').read()",
    "read its parent's memory": "open_(f'/proc/{os.getppid()}/mem', 'rb')",
    "outlive its parent": "assert libc.prctl(1, 0, 0, 0, 0) == 0",
    "leave its session": "os.fork() == 0 or os._exit(0); os.setsid()",
    "make memory without limit": "os.memfd_create('m')",
    "trace": "assert libc.ptrace(0, 0, 0, 0) == 0",
    "make a namespace": "assert libc.unshare(0x10000000) == 0",
}

ATTEMPT = """
os, open_ = reach("os"), reach("builtins").open
libc = reach("ctypes").CDLL(None)
try:
    {attack}
    result = "hit"
except (OSError, RuntimeError, AssertionError) as error:
    result = f"stopped: {{error!r}}"
"""


@pytest.fixture
def target(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A secret, and servers to reach."""
    (tmp_path / "secret").write_text("word")
    unix = f"/tmp/rmbus-test-{os.getpid()}.sock"  # the path of a socket must be short
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as server:
        server.bind(unix)
        server.listen()
        yield {
            "secret": str(tmp_path / "secret"),
            "folder": str(tmp_path),
            "port": tcp.getsockname()[1],
            "unix": unix,
        }
        os.unlink(unix)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_what_passes_the_guard_gains_nothing(attack: str, target: dict[str, Any]) -> None:
    """What works in a plain process is stopped by confinement in that of the code."""
    source = REACH + ATTEMPT.format(attack=attack)
    plain = f"target = {target!r}\n{source}\nprint(result)"
    done = subprocess.run([sys.executable, "-I", "-c", plain], capture_output=True, text=True, timeout=10, check=False)
    assert done.stdout.split() == ["hit"], done.stdout + done.stderr
    (answer,) = run("target = input_data\n" + source, value=target)
    assert str(answer.get("result")).startswith("stopped"), answer


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
def test_every_route_past_the_guard_ends_at_the_wall(route: str, target: dict[str, Any]) -> None:
    """By each there is all of Python; and files, programs and the machine are as far as before."""
    for attack in ("read a secret", "start a program", "signal its parent"):
        (answer,) = run(
            "target = input_data\n" + textwrap.dedent(route) + ATTEMPT.format(attack=ATTACKS[attack]), value=target
        )
        assert str(answer.get("result")).startswith("stopped"), answer


def test_a_format_string_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes the guard, and there is nothing of the node's in the process that it could show."""
    monkeypatch.setenv("RMBUS_TEST_SECRET", "a-word-nobody-may-read")
    code = (
        REACH
        + """
        shown = "{0.environ} {1.modules} {2.__init__.__globals__}".format(reach("os"), reach("sys"), type("A", (), {
            "__init__": lambda self: None}))
        result = shown
    """.replace("\n        ", "\n")
    )
    (answer,) = run(code)
    assert "OPENBLAS_NUM_THREADS" in answer["result"]
    assert "a-word-nobody-may-read" not in answer["result"]


def test_the_timer_cannot_be_undone() -> None:
    """Where the node may not signal its child, and the code would undo the kernel's timer, it ends in time."""
    code = (
        REACH
        + """
        libc = reach("ctypes").CDLL(None)
        result = [libc.syscall(226, 0), libc.syscall(223, 0, 0, bytes(32), None)]
    """.replace("\n        ", "\n")
    )
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers of these calls are those of x86_64")
    (answer,) = run(code)
    assert answer["result"] == [-1, -1]


# --- ends -----------------------------------------------------------------------------------------------------------

PARENT = """
import os, sys
{before}
from rmbus.nodes import CodeExecutor
from rmbus.testing import run_node
requests = [{{"code": code}} for code in sys.argv[1:]]
for frame in run_node(CodeExecutor(time_s=3.0), requests):
    print(frame.value.get("result", frame.value.get("error")), flush=True)
"""


def script(*codes: str, before: str = "") -> subprocess.Popen[str]:
    source = PARENT.format(before=textwrap.dedent(before))
    return subprocess.Popen([sys.executable, "-c", source, *codes], stdout=subprocess.PIPE, text=True)


OLD_LANDLOCK = """
    import tempfile
    from rmbus.runtime import confine, landlock
    newest, landlock.version = landlock.version, lambda: 3
    confine.apply("confined", writable=[tempfile.gettempdir()])
    try:
        child = os.spawnv(os.P_NOWAIT, "/bin/sleep", ["sleep", "0"])
        os.kill(child, 0)
        print("it may signal its children")
    except PermissionError:
        print("it may signal nobody")
"""


def test_code_ends_in_time_where_the_node_may_not_signal_it() -> None:
    """Before Landlock 6 a confined process cannot kill its children: the kernel does it, a second later."""
    with script("while True: pass", "result = 'next'", before=OLD_LANDLOCK) as process:
        out, _ = process.communicate(timeout=30)
    assert out.splitlines() == ["it may signal nobody", "TimeoutError: the code was stopped after 3 s", "next"]


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(60)"], ids=["loop", "sleep"])
def test_code_ends_with_its_node(code: str) -> None:
    """After kill -9 of the node's process nothing of it runs on."""
    with script(f"print('x')\n{code}") as process:
        deadline = time.monotonic() + 20
        while len(family(process.pid)) < 2 or not _is_running(process.pid):
            assert time.monotonic() < deadline
            select.select([], [], [], 0.05)
        children = family(process.pid) - {process.pid}
        process.kill()
        process.wait()
        assert all(ended(child, time.monotonic() + 2) for child in children)


def _is_running(pid: int) -> bool:
    """Whether a child of the process is sealed: it has two filters then, or one, and the process none."""
    for child in family(pid) - {pid}:
        try:
            status = Path(f"/proc/{child}/status").read_text()
        except OSError:
            continue
        if "\nSeccomp:\t2" in status:
            return True
    return False


def test_a_process_that_waits_ends_with_its_node() -> None:
    """It holds nothing but a socket whose other end the node has."""
    executor = Executor(CodeExecutor()._limits())
    assert executor.prepare()
    pid = executor._process.pid
    executor._socket.close()
    assert ended(pid, time.monotonic() + 2)
    executor.close()


def test_a_process_that_ended_while_it_waited_is_replaced() -> None:
    """The call that finds it dead has another at once."""
    node = CodeExecutor()
    node.initialize()
    assert node._executor is not None
    os.kill(node._executor._process.pid, signal.SIGKILL)
    assert ended(node._executor._process.pid, time.monotonic() + 2)
    outcome = node._execute("result = 5", None)
    assert outcome.result == 5
    node.cleanup()


def test_the_next_process_gets_ready_while_the_answer_is_under_way() -> None:
    """So the next call does not wait for an interpreter to start."""
    node = CodeExecutor()
    node.initialize()
    first = node._executor
    assert node._execute("result = 5", None).result == 5
    second = node._executor
    assert second is not None
    assert second is not first
    assert second.prepare()
    node.cleanup()
    assert second._process.poll() is not None


def test_without_landlock_no_code_is_executed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The node fails as it starts, and says what is missing."""
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable} -I\n"
        "import runpy, sys\n"
        "from rmbus.runtime import landlock\n"
        "landlock.version = lambda: 0\n"
        "sys.argv[:] = sys.argv[4:]\n"
        "runpy.run_module('rmbus.nodes.executed', run_name='__main__', alter_sys=True)\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(ConfinementError, match="no Landlock"):
        run("result = 1")


def test_two_nodes_execute_at_once() -> None:
    """Each has processes of its own, also in threads of one process."""
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(run(f"result = {n}")[0]["result"])) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [0, 1, 2]
