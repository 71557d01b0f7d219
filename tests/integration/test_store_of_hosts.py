"""Hosts that share a store of packages: what one of them runs, or was asked for, no other takes away."""

from __future__ import annotations

import importlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Command, finish
from talking import Talk

from rmbus.errors import HostError
from rmbus.protocol import messages
from rmbus.shipping import pickling
from rmbus.shipping.package import Package, build

pytestmark = pytest.mark.timeout(90)  # real hosts, on machines that share their cores

BLOB = 400_000
"""Of such packages, two fit into a store of 1 MB."""


class Ground:
    """Hosts that share a store of 1 MB, and classes to ship to them."""

    def __init__(self, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        self.command = command
        self.store = command.folder / "store"
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(command.run_folder))
        monkeypatch.syspath_prepend(str(command.folder))

    def host(self) -> tuple[subprocess.Popen[str], str]:
        """Start a host, and return it with its address."""
        listen = ("--listen", "tcp://127.0.0.1:0", "--spares", "1")
        host = self.command.start("host", *listen, "--store", self.store, "--store-quota", 1)
        assert host.stdout is not None
        line = host.stdout.readline()
        return host, next(word for word in line.split() if word.startswith("tcp://"))

    def package(self, number: int) -> tuple[Package, bytes]:
        """Return the package of a class of a module of its own, and the state of one of it."""
        name = f"store_of_hosts_{number}"
        text = "from rmbus import Node\nclass Far(Node):\n    def process(self, frame):\n        return frame\n"
        (self.command.folder / f"{name}.py").write_text(text)
        blob = self.command.folder / f"{name}.bin"
        blob.write_bytes(os.urandom(BLOB))
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
        far: Any = importlib.import_module(name).Far()
        return build(far, files=[blob]), pickling.dumps(far)

    def kept(self) -> set[str]:
        """Return the addresses of what is in the store."""
        return {path.stem for path in self.store.glob("*.zip")}


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    with Command(tmp_path) as command:
        yield Ground(command, monkeypatch)


def test_what_runs_is_never_collected(ground: Ground) -> None:
    """A package whose node runs on one host stays, whatever is sent to another; when that host is killed, it may go."""
    first, one = ground.host()
    _, other = ground.host()
    running, state = ground.package(0)
    with Talk(one) as owner, Talk(other) as guest:
        owner.put(running.address, running.data)
        assert owner.start(running.address, state).pid > 0
        for number in range(1, 5):
            package, state = ground.package(number)
            guest.put(package.address, package.data)
            guest.start(package.address, state)
            guest.drop()
            assert ground.kept() == {running.address, package.address}
        first.send_signal(signal.SIGKILL)
        finish(first)
        for number in (5, 6):
            package, _ = ground.package(number)
            guest.put(package.address, package.data)
        assert running.address not in ground.kept()


def test_what_was_asked_for_is_there_at_the_start(ground: Ground) -> None:
    """Between `have` and `start` a package stays, also if it is another host's client that needs the room."""
    _, one = ground.host()
    _, other = ground.host()
    wanted, state = ground.package(0)
    with Talk(one) as owner, Talk(other) as guest:
        guest.put(wanted.address, wanted.data)
        guest.start(wanted.address, state)
        guest.drop()
        assert owner.have(wanted.address)
        package, theirs = ground.package(1)
        guest.put(package.address, package.data)
        third, _ = ground.package(2)
        with pytest.raises(HostError, match=r"\d kB does not fit .* 1\.0 MB, of which 80\d\.\d kB"):
            guest.put(third.address, third.data)
        guest.start(package.address, theirs)
        guest.drop()
        guest.put(third.address, third.data)
        assert ground.kept() == {wanted.address, third.address}
        assert owner.start(wanted.address, state).pid > 0


def test_lease_ends_with_its_client(ground: Ground) -> None:
    """What was kept for a client that has gone is kept no longer."""
    host, address = ground.host()
    with Talk(address) as stays:
        with Talk(address) as leaves:
            for number in range(2):
                package, _ = ground.package(number)
                leaves.put(package.address, package.data)
        third, state = ground.package(2)
        _until(lambda: _is_taken(stays, third), host)
        assert stays.start(third.address, state).pid > 0
        assert isinstance(stays.said(messages.NodeEvent), messages.NodeEvent)


def _is_taken(talk: Talk, package: Package) -> bool:
    try:
        talk.put(package.address, package.data)
    except HostError:
        return False
    return True


def _until(holds: Any, host: subprocess.Popen[str]) -> None:
    for _ in range(100):
        if holds():
            return
        assert host.poll() is None
        select.select([], [], [], 0.05)
    raise AssertionError("it never came to hold")
