"""The utility nodes and the executors over a real host, confined: answers, original errors, and bombs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from watch import Ground, family

from rmbus.host.levels import Level
from rmbus.host.probing import probe

pytestmark = pytest.mark.timeout(120)  # a host, and a script with several runs on it

SCRIPT = """
import base64, json, sys, time
import cloudpickle
from rmbus import NodeError, Pipeline
from rmbus.nodes import Calculator, CodeExecutor, SerializedClassExecutor, TextProcessor

address = sys.argv[1]

def tell(**facts):
    print(json.dumps(facts), flush=True)

def answers(node, *values):
    return [frame.value for frame in Pipeline([node]).process(values, on=address)]

def failure(node, value):
    try:
        answers(node, value)
    except NodeError as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"kinds": kinds, "message": error.message, "traceback": error.traceback_text}
    return None

class Tally:
    def __init__(self):
        self.count = 0
    def add(self, n):
        import os
        self.pid = os.getpid()
        self.count += n
        return self.count
    def fail(self):
        raise LookupError("told by the method")
    def snoop(self, path):
        return open(path).read()
"""

UTILITIES = """
till, words = Calculator(), TextProcessor()
tell(sum=answers(till, {"operation": "add", "args": [10, 20]})[0],
     words=answers(words, {"text": "Hello World", "operations": ["reverse", "shout"]})[0],
     zero=failure(Calculator(), {"operation": "divide", "args": [1, 0]}),
     none=failure(TextProcessor(), 5))
"""

OBJECTS = """
def asked(obj, method, *args):
    text = obj if isinstance(obj, str) else base64.b64encode(cloudpickle.dumps(obj)).decode()
    return {"serialized_object": text, "method_name": method, "method_args": list(args)}

first = answers(SerializedClassExecutor(), asked(Tally(), "add", 3))[0]
second = answers(SerializedClassExecutor(), asked(first["updated_serialized_object"], "add", 4))[0]
tally = cloudpickle.loads(base64.b64decode(second["updated_serialized_object"]))
import os
tell(results=[first["result"], second["result"]], count=tally.count, type=type(tally).__name__,
     pid=tally.pid, here=os.getpid(),
     failed=failure(SerializedClassExecutor(), asked(Tally(), "fail")),
     missing=failure(SerializedClassExecutor(), asked(Tally(), "nothing")),
     broken=failure(SerializedClassExecutor(), {"serialized_object": "xxxx", "method_name": "add"}),
     snooped=failure(SerializedClassExecutor(), asked(Tally(), "snoop", sys.argv[2])))
"""

CODES = {
    "recursion": ("def fact(n): return 1 if n < 2 else n * fact(n - 1)\nresult = fact(15)", 1307674368000),
    "helpers": (
        "def double(x): return x * 2\ndef both(x): return double(x) + 1\nresult = [both(n) for n in input_data]",
        [3, 5, 7],
    ),
    "classes": (
        "class Stack:\n    def __init__(self): self._items = []\n"
        "    def push(self, x):\n        self._items.append(x)\n        return self\n"
        "    def __len__(self): return len(self._items)\nresult = len(Stack().push(1).push(2))",
        2,
    ),
    "try": ("try:\n    int('x')\nexcept ValueError as error:\n    result = type(error).__name__", "ValueError"),
    "imports": ("from collections import Counter\nresult = dict(Counter('abca'))", {"a": 2, "b": 1, "c": 1}),
    "printing": ("print('told')\nresult = 1", 1),
}

BOMBS = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1e6)",
    "10 GB": "result = len(bytearray(10 << 30))",
    "fork": "os = getattr(getattr(print, '__se' + 'lf__'), '__imp' + 'ort__')('os')\nwhile True: os.fork()",
    "deaf fork": "os = getattr(getattr(print, '__se' + 'lf__'), '__imp' + 'ort__')('os')\nwhile True:\n"
    "    try: os.fork()\n    except OSError: pass",
    "secret": "builtins = getattr(print, '__se' + 'lf__')\nresult = getattr(builtins, 'op' + 'en')(SECRET).read()",
}

EXECUTE = """
codes, bombs = json.loads(sys.argv[3]), json.loads(sys.argv[4])
tell(answers=answers(CodeExecutor(), *({"code": code, "input": [1, 2, 3]} for code in codes)))

requests = [each for code in bombs for each in ({"code": code}, {"code": "result = 'next'"})]
results = iter(Pipeline([CodeExecutor(time_s=1.5)]).process([{"code": ""}, *requests], on=address))
next(results)  # with this all has been started
told = []
began = time.monotonic()
for frame in results:
    told.append([frame.value.get("error"), frame.value.get("result"), time.monotonic() - began])
    began = time.monotonic()
tell(bombs=told)

from rmbus import Node
class Take(Node):
    def process(self, frame):
        pass
class Give(Node):
    def process(self):
        yield {"code": "result = 1"}
report = (Give() >> CodeExecutor().options(on=address) >> Take()).run()
tell(level=report.node("codeexecutor").level)
"""


@pytest.fixture(params=[Level.CONFINED, Level.JAIL], ids=lambda level: level.word)
def ground(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """A host of each level: it takes the highest that it finds, so for `confined` it must not find bubblewrap."""
    level: Level = request.param
    found = probe()
    if level in found.reasons:
        pytest.skip(f"no {level.word} here: {found.reasons[level]}")
    if level is Level.CONFINED:
        monkeypatch.setenv("PATH", "/nowhere")
    made = Ground(tmp_path, level.word)
    yield made
    made.end_host()
    assert made.remains(3.0) == ""


def run(ground: Ground, source: str, *arguments: str) -> dict[str, Any]:
    """Run a script on the host; return what it tells."""
    path = ground.folder / "main.py"
    path.write_text(SCRIPT + source)
    done = subprocess.run(
        [sys.executable, str(path), ground.address, *arguments],
        env=ground.env,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        told |= json.loads(line)
    return told


def test_the_utility_nodes(ground: Ground) -> None:
    """Their answers, and their errors as the original type with the exact text."""
    told = run(ground, UTILITIES)
    assert told["sum"] == {"operation": "add", "args": [10, 20], "result": 30, "processed_by": "calculator"}
    assert told["words"]["results"] == {"reverse": "dlroW olleH", "shout": "Unknown operation: shout"}
    assert "ValueError" in told["zero"]["kinds"]
    assert told["zero"]["message"] == "Division by zero"
    assert "ValueError" in told["none"]["kinds"]
    assert told["none"]["message"] == "Input must be a dictionary"


def test_serialized_objects(ground: Ground, tmp_path: Path) -> None:
    """A class of the script: state over two calls, errors of the original type, and the walls of the process."""
    secret = tmp_path / "secret"
    secret.write_text("word")
    told = run(ground, OBJECTS, str(secret))
    assert (told["results"], told["count"], told["type"]) == ([3, 7], 7, "Tally")
    assert told["pid"] != told["here"]
    assert "LookupError" in told["failed"]["kinds"]
    assert told["failed"]["message"] == "told by the method"
    assert "in fail" in told["failed"]["traceback"]
    assert "AttributeError" in told["missing"]["kinds"]
    assert told["missing"]["message"] == "Tally has no method 'nothing'"
    assert "ValueError" in told["broken"]["kinds"]
    assert told["broken"]["message"].startswith("Cannot deserialize the object")
    assert {"PermissionError", "FileNotFoundError"} & set(told["snooped"]["kinds"])


def test_executed_code(ground: Ground, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Ordinary Python works; bombs are stopped, and each time the next call is answered at once; secrets stay."""
    secret = tmp_path / "secret"
    secret.write_text("word")
    bombs = {name: code.replace("SECRET", repr(str(secret))) for name, code in BOMBS.items()}
    told = run(
        ground,
        EXECUTE,
        str(secret),
        json.dumps([code for code, _ in CODES.values()]),
        json.dumps(list(bombs.values())),
    )
    assert [answer.get("result", answer.get("error")) for answer in told["answers"]] == [
        result for _, result in CODES.values()
    ]
    assert told["answers"][-1]["output"] == "told\n"
    errors = dict(zip(bombs, told["bombs"][::2], strict=True))
    for name in ("loop", "sleep", "deaf fork"):
        assert errors[name][0] == "TimeoutError: the code was stopped after 1.5 s"
        assert errors[name][2] < 10
    assert errors["10 GB"][0].startswith("MemoryError")
    assert errors["fork"][0].startswith("PermissionError")
    assert errors["secret"][0].startswith(("PermissionError", "FileNotFoundError"))
    for error, result, seconds in told["bombs"][1::2]:
        assert (error, result) == (None, "next")
        assert seconds < 8  # at once; it gets ready beside others on these cores
    assert told["level"] == request.node.callspec.params["ground"].word


def test_nothing_of_executed_code_outlives_its_host(ground: Ground) -> None:
    """A script that is killed in the middle of an endless loop leaves neither code, nor what waits for some."""
    path = ground.folder / "main.py"
    path.write_text(
        SCRIPT + 'answers(CodeExecutor(time_s=60.0), {"code": "import time\\nwhile True: time.sleep(0.1)"})'
    )
    with subprocess.Popen([sys.executable, str(path), ground.address], env=ground.env) as process:
        deadline = time.monotonic() + 20
        while not (running := executing(ground, sealed=True)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        while executing(ground) & running:
            assert time.monotonic() < deadline, "the code runs on"
            time.sleep(0.05)


def executing(ground: Ground, *, sealed: bool = False) -> set[int]:
    """Return the processes below the host that execute code or wait for some; or the former alone."""
    found: set[int] = set()
    for pid in family(ground.host.pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        filters = int(status.partition("Seccomp_filters:")[2].split()[0])  # the node has one
        if "rmbus.nodes.executed" in command and (filters > 1 or not sealed):
            found.add(pid)
    return found
