"""Whatever is killed, and however: the run ends with an error that says what happened, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from watch import Ground

from rmbus.protocol import messages

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


def test_a_gateway_that_dies_is_replaced(ground: Ground) -> None:
    """The run that it carried ends with an error; the next run on the same host works."""
    ground.start("gateways")
    os.kill(ground.find("rmbus.brokers.gateway"), signal.SIGKILL)
    status, told, _, _ = ground.outcome(WITHIN_S)
    assert status == 1
    assert "gateway" in str(told["text"])
    ground.start("raise")
    status, told, _, _ = ground.outcome(WITHIN_S)
    assert (status, told["error"]) == (1, "ValueError")


def test_bytes_of_strangers_harm_nobody(ground: Ground) -> None:
    """Garbage on every socket that a neighbour could reach: the host, its gateway and the run go on."""
    ground.start()
    for path in ground.sockets():
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            with socket.socket(socket.AF_UNIX, kind) as stranger:
                try:
                    stranger.connect(str(path))
                    stranger.sendall(b"\x01\x00\x05\x00ping" + bytes(range(256)))
                except OSError:
                    continue  # of the other kind, or cut off already
    with zmq.Context() as context:
        for path in ground.sockets():
            with context.socket(zmq.DEALER) as stranger:
                stranger.linger = 200
                stranger.sndtimeo = 200
                stranger.connect(f"ipc://{path}")
                for parts in ([b"x"], [b"", b""], [b"\x03" * 40], [b"\x03\x00\x00\x00" + bytes(8), b"payload"]):
                    with contextlib.suppress(zmq.Again):  # it has been turned away already: nobody is left to send to
                        stranger.send_multipart(parts)
    os.kill(ground.script.pid if ground.script else 0, signal.SIGINT)
    status, _, err, _ = ground.outcome(WITHIN_S)
    assert status == 130
    assert "Traceback" not in err
    assert ground.host.poll() is None
    ground.start("raise")
    status, told, _, _ = ground.outcome(WITHIN_S)
    assert (status, told["error"]) == (1, "ValueError")


def test_a_stranger_cannot_become_a_client_or_a_node(ground: Ground) -> None:
    """Without the keys and the token of the connection file nobody is heard, though he be of the same user."""
    ground.start()
    (folder,) = [path for path in ground.folders() if "client.sock" in os.listdir(path) and ground.is_hosts(path)]
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        stranger.sndtimeo = 200
        stranger.connect(f"ipc://{folder}/client.sock")
        with contextlib.suppress(zmq.Again):  # the handshake fails, and then there is nobody to send to
            stranger.send(messages.encode(messages.Hello((1, 1), "0", "cpython", (3, 11)), 1))
        assert stranger.poll(500) == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
        end.connect(f"{folder}/host.sock")
        end.sendall(messages.encode(messages.Join("stranger", token="00ff")))
        _, answer = messages.decode(end.recv(65536))
    assert isinstance(answer, messages.Refused)
    assert "token" in answer.message
    assert ground.script is not None
    ground.script.kill()
    ground.script.communicate()
