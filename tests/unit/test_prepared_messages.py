"""What a process that is kept ready has made before the first message comes, lest that waits for it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import linecache
from rmbus.protocol import messages
from rmbus.runtime.process import SPOKEN

def made():
    return sum("cattrs generated" in name for name in linecache.cache)

if {prepares}:
    messages.prepare(*SPOKEN)
before = made()
start = messages.Start(session="a" * 16, node=0, name="tool", entry="tools:Tool", address="")
for message in (
    messages.Job(start, "far", "jail", "/work", page=0),
    messages.Offers({{"answer": "method"}}),
    messages.NodeEvent("a" * 16, 0, "ready"),
    messages.Gone(1, "producer_died"),
):
    assert messages.decode(messages.encode(message, 1)) == (1, message)
print(made() - before)
"""


def made(*, prepares: bool) -> int:
    """Return how many functions are made for the first messages of a process."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(prepares=prepares)], capture_output=True, text=True, check=True
    )
    return int(ran.stdout)


def test_nothing_is_made_for_the_first_messages() -> None:
    assert made(prepares=True) == 0
    assert made(prepares=False) > 0
