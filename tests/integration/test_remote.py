"""A class shipped to a host that another process runs: it is confined, cached, and shows what is in its files."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from watch import Ground

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # real processes on two hosts

MAIN = """
    import json, sys
    import numpy as np
    from rmbus import Node
    from rmbus.nodes import Map
    import helper.first

    class Numbers(Node):
        def process(self):
            yield from range(6)

    class Far(Node):
        def __init__(self):
            self.told = 40

        def process(self, frame):
            from helper.second import add
            import os
            secret = os.path.exists(sys.argv[1]) if len(sys.argv) > 1 else None
            return {"value": add(frame.value, self.told), "sum": int(np.arange(3).sum()), "pid": os.getpid()}

    class Print(Node):
        def process(self, frame):
            print(json.dumps(frame.value))

    report = (Numbers() >> Far().options(on=sys.argv[1]) >> Print()).run()
    far = report.node("far")
    print(json.dumps({"bytes": far.code_bytes, "level": far.level, "warm": far.warm, "host": far.host}))
"""


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.end_host()
    assert made.remains(2.0) == ""


def write_project(folder: Path) -> Path:
    """Write a script with a local package of two modules, one of which it imports inside a method."""
    package = folder / "project" / "helper"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("from helper import second\n")
    (package / "second.py").write_text("def add(a, b):\n    return a + b\n")
    script = folder / "project" / "main.py"
    script.write_text(textwrap.dedent(MAIN))
    return script


def run(ground: Ground, script: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the script; return what its last node printed, and what the script says of the far one."""
    done = subprocess.run(
        [sys.executable, str(script), ground.address],
        env=ground.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values = [json.loads(line.split(" | ", 1)[1]) for line in done.stderr.splitlines() if line.startswith("print@")]
    return values, json.loads(done.stdout)


def test_ship_cache_edit(ground: Ground, tmp_path: Path) -> None:
    """The first run ships, the second sends nothing, and after an edit the third ships and shows the new behaviour."""
    script = write_project(tmp_path)
    values, first = run(ground, script)
    assert [value["value"] for value in values] == [40, 41, 42, 43, 44, 45]
    assert all(value["sum"] == 3 for value in values)
    assert first["bytes"] > 0
    assert first["level"] in ("jail", "confined")
    _, second = run(ground, script)
    assert second["bytes"] == 0
    (script.parent / "helper" / "second.py").write_text("def add(a, b):\n    return a * b\n")
    values, third = run(ground, script)
    assert [value["value"] for value in values] == [0, 40, 80, 120, 160, 200]
    assert third["bytes"] > 0


def test_a_warm_start_and_a_level_that_is_told(ground: Ground, tmp_path: Path) -> None:
    """A spare process takes the node, and the report says so."""
    script = write_project(tmp_path)
    ground.wait_for_spares()
    _, told = run(ground, script)
    assert told["warm"] is True
    assert told["host"]


def test_no_host_at_the_address(tmp_path: Path) -> None:
    """The error says what to do."""
    script = write_project(tmp_path)
    done = subprocess.run(
        [sys.executable, str(script), "tcp://127.0.0.1:9"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "no host of yours listens at tcp://127.0.0.1:9" in done.stderr
    assert "rmbus host --listen tcp://127.0.0.1:9" in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        (
            "second.py",
            "import no_such_module_anywhere\n\ndef add(a, b):\n    return a + b\n",
            "no_such_module_anywhere",
        ),
        ("second.py", "def add(a, b:\n    return a + b\n", "second.py"),
    ],
    ids=["missing module", "syntax error"],
)
def test_broken_code_is_refused_before_anything_runs(
    ground: Ground, tmp_path: Path, name: str, text: str, wanted: str
) -> None:
    """A missing module or a syntax error names module, importer, file and line; no node was started."""
    script = write_project(tmp_path)
    script.write_text(script.read_text().replace("import helper.first\n", ""))
    (script.parent / "helper" / name).write_text(text)
    done = subprocess.run(
        [sys.executable, str(script), ground.address],
        env=ground.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "PackagingError" in done.stderr
    assert wanted in done.stderr
    assert f"{name}:1" in done.stderr or f"{name}, line 1" in done.stderr
    assert "print@" not in done.stderr
