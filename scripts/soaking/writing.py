"""The report of the long runs: a page with a section for each kind of run, of which the latest is kept."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import attrs
import numpy
import zmq

import rmbus

HEAD = """# Reliability

What long runs have shown. Each section is written by the command that it names, and tells of the last such run.

What a round of kills looks at, and at which points a node is killed, is told by `tests/support/rounds.py` and
`tests/support/breaking.py`; a shorter course of the same rounds is a part of the tests (`tests/faults/test_memory.py`).
"""
SECTIONS = {"kills": "Kills", "traffic": "Mixed traffic"}


@attrs.frozen
class Result:
    """How a run went.

    Attributes:
        text: for people, in markdown. holds: whether all held that must. seconds: how long it took.
        is_whole: whether it was not interrupted, and may be written down.
    """

    text: str
    holds: bool
    seconds: float
    is_whole: bool = True


def write(path: Path, kind: str, text: str) -> None:
    """Put a section into the report, where the last of its kind was."""
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    sections = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", found, re.DOTALL))
    sections[kind] = f"## {SECTIONS[kind]}\n\n{text}"
    parts = [f"<!-- {name} -->\n{sections[name]}\n<!-- end -->" for name in SECTIONS if name in sections]
    path.write_text("\n\n".join([HEAD.rstrip(), *parts]) + "\n", encoding="utf-8")


def circumstances(command: str, seconds: float) -> str:
    """Say when, where and by what a run was made."""
    versions = (
        f"rmbus {rmbus.__version__}, Python {platform.python_version()}, Linux {platform.release()}, "
        f"libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}, numpy {numpy.__version__}, "
        f"msgpack {version('msgpack')}"
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return table(
        ("", ""),
        [
            ("command", f"`{command}`"),
            ("date", f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"),
            ("took", f"{seconds / 60:.1f} min"),
            ("machine", f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"),
            ("versions", versions),
        ],
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in markdown."""
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
