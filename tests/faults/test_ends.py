"""Whatever is killed, and however: the run ends with an error that says what happened, and nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from watch import Ground

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # real processes on two hosts

WITHIN_S = 2.0


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.end_host()
    assert made.remains(WITHIN_S) == ""


def test_kill_9_of_the_node(ground: Ground) -> None:
    """The error names the node, the host and the signal, within 2 s."""
    nodes = ground.start()
    os.kill(nodes["invert"], signal.SIGKILL)
    status, told, _, seconds = ground.outcome(WITHIN_S)
    assert (status, told["node"]) == (1, "invert")
    assert "SIGKILL" in str(told["text"])
    assert str(told["host"]) in str(told["text"])
    assert seconds < WITHIN_S
    assert ground.remains(WITHIN_S) == ""


def test_kill_9_of_one_of_the_users_own_nodes(ground: Ground) -> None:
    """A node of the embedded host is reported in the same way."""
    nodes = ground.start()
    os.kill(nodes["sink"], signal.SIGKILL)
    status, told, _, seconds = ground.outcome(WITHIN_S)
    assert (status, told["node"], told["host"]) == (1, "sink", "local")
    assert "SIGKILL" in str(told["text"])
    assert seconds < WITHIN_S
    assert ground.remains(WITHIN_S) == ""


def test_ctrl_c(ground: Ground) -> None:
    """The script ends as interrupted, and takes its nodes along, on both hosts."""
    ground.start()
    assert ground.script is not None
    ground.script.send_signal(signal.SIGINT)
    status, _, _, seconds = ground.outcome(WITHIN_S)
    assert status == 130
    assert seconds < WITHIN_S
    assert ground.remains(WITHIN_S) == ""


def test_sigterm_to_the_host(ground: Ground) -> None:
    """The run ends with an error that names node, host and signal; the host is gone."""
    ground.start()
    ground.host.send_signal(signal.SIGTERM)
    status, told, _, seconds = ground.outcome(WITHIN_S)
    assert status == 1
    assert "invert" in str(told["text"])
    assert "SIGTERM" in str(told["text"])
    assert seconds < WITHIN_S
    ground.host.communicate(timeout=WITHIN_S)
    assert ground.remains(WITHIN_S) == ""


def test_kill_9_of_the_host(ground: Ground) -> None:
    """The run ends with an error that names the host and its nodes."""
    ground.start()
    ground.host.kill()
    status, told, _, seconds = ground.outcome(WITHIN_S)
    assert status == 1
    assert ground.address in str(told["text"])
    assert "invert" in str(told["text"])
    assert seconds < WITHIN_S
    ground.host.communicate()
    assert ground.remains(WITHIN_S) == ""


def test_kill_9_of_the_script(ground: Ground) -> None:
    """Its own nodes, the embedded host and what it had on the other host are gone 2 s later."""
    ground.start()
    assert ground.script is not None
    ground.script.kill()
    ground.script.communicate()
    assert ground.remains(WITHIN_S) == ""


def test_a_class_that_raises(ground: Ground) -> None:
    """Type, message, remote traceback, node, host, frame, and what it printed before; caught by either type."""
    ground.start("raise")
    status, told, err, _ = ground.outcome(WITHIN_S)
    assert (status, told["error"], told["is_value_error"]) == (1, "ValueError", True), told
    assert (told["node"], told["frame"]) == ("invert", 40)
    text = str(told["text"])
    assert "forty is too many" in text
    assert "running.py" in text
    assert "in process" in text
    assert told["output"] == [f"line {number}" for number in range(21, 41)]
    assert [line for line in err.splitlines() if line.startswith("invert@")] == [
        f"invert@{told['host']} | line {number}" for number in range(20, 41)
    ]
    assert ground.remains(WITHIN_S) == ""
