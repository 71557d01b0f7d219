"""Implementation, minor version and protocol are compared before anything is loaded, and both ends are told."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from command import Command, finish
from talking import Talk

import rmbus
from rmbus.errors import UnsupportedVersion
from rmbus.protocol import messages
from rmbus.shipping.content import pack_content
from rmbus.shipping.package import build_files

pytestmark = pytest.mark.slow

OURS = "cpython-{}.{}".format(*sys.version_info[:2])
NEXT = (sys.version_info[0], sys.version_info[1] + 1)
THEIRS = "cpython-{}.{}".format(*NEXT)
DEADLY = b"cos\nabort\n(tR."
"""A pickle: whoever loads it dies."""


class Host:
    """A host of this user, and what it has said in the end."""

    def __init__(self, command: Command) -> None:
        self._process = command.start(
            "host", "--listen", "tcp://127.0.0.1:0", "--level", "confined", "--name", "garage"
        )
        assert self._process.stdout is not None
        self.address = next(word for word in self._process.stdout.readline().split() if word.startswith("tcp://"))

    def log(self) -> str:
        """End it, and return what it has told its owner."""
        self._process.send_signal(signal.SIGTERM)
        return finish(self._process).stderr


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with Command(tmp_path) as command:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(command.run_folder))
        yield Host(command)


def package(folder: Path, tag: str) -> tuple[str, bytes]:
    """Return the address and the archive of a package that was made by another Python."""
    (folder / "far.py").write_text("raise SystemExit('it was imported')\n")
    manifest = attrs.evolve(build_files([folder / "far.py"]).manifest, python=tag)
    return manifest.address, pack_content(manifest, {"far.py": (folder / "far.py").read_bytes()})


def test_protocol(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that speaks later versions only is told both, and who speaks which; so is the host's owner."""
    monkeypatch.setattr("rmbus.client.VERSIONS", (7, 9))
    monkeypatch.setattr("rmbus.__version__", "9.9\n<forged>")
    with pytest.raises(UnsupportedVersion) as caught:
        Talk(host.address).__enter__()
    told = str(caught.value)
    assert "the host garage (rmbus " in told
    assert "speaks protocol versions 1 to 1, the client (rmbus 9.9\n<forged>) 7 to 9: upgrade the older" in told
    log = host.log()
    assert "rmbus host: a client was refused: the host garage" in log
    assert "1 to 1, the client (rmbus 9.9 <forged>) 7 to 9" in log


def test_minor_version_and_implementation(host: Host, tmp_path: Path) -> None:
    """Code of the next minor version, or of another implementation, is refused before it has a process."""
    address, data = package(tmp_path, THEIRS)
    with Talk(host.address) as talk:
        talk.put(address, data)
        with pytest.raises(UnsupportedVersion, match=f"made by {THEIRS}, and the host garage offers {OURS}"):
            talk.start(address, DEADLY, python=NEXT)
        with pytest.raises(UnsupportedVersion, match=r"made by pypy-.*, and the host garage offers cpython"):
            talk.start(address, DEADLY, implementation="pypy")
    log = host.log()
    assert f"a client was refused: the code was made by {THEIRS}, and the host garage offers {OURS}" in log
    assert "a client was refused: the code was made by pypy-" in log
    assert "it was imported" not in log


def test_the_tag_of_the_package_counts(host: Host, tmp_path: Path) -> None:
    """What a client says of the version is not believed: the process reads the package's tag before it loads any."""
    address, data = package(tmp_path, THEIRS)
    with Talk(host.address) as talk:
        talk.put(address, data)
        talk.start(address, DEADLY)
        event = talk.said(messages.NodeEvent)
        assert isinstance(event, messages.NodeEvent)
        assert (event.state, event.type_name) == ("failed", "rmbus.errors.UnsupportedVersion")
        assert f"packaged by {THEIRS}; this host runs {OURS}" in event.message
        talk.drop()
    log = host.log()
    assert "rmbus host: node far was refused: " in log
    assert f"packaged by {THEIRS}; this host runs {OURS}" in log


def test_whoever_attaches_to_an_object(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What he gives to a call is pickled: he runs on the version that it was shipped by, or is refused."""
    (tmp_path / "attachable.py").write_text("class Tool:\n    def double(self, n):\n        return 2 * n\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tool = importlib.import_module("attachable").Tool()
    with rmbus.connect(host.address) as bus:
        shipped = bus.ship(tool)
        id = bus.nodes()[0]["id"]
        with Talk(host.address) as talk:
            assert talk.attach(id).id == id
        with monkeypatch.context() as patch:
            patch.setattr(sys, "version_info", (*NEXT, 0, "final", 0))
            later = Talk(host.address)
        with later, pytest.raises(UnsupportedVersion) as caught:
            later.attach(id)
        said = f"object {id} (attachable:Tool) was shipped by {OURS}, this client runs on {THEIRS}"
        assert said in str(caught.value)
        assert shipped.double(4) == 8
    assert f"a client was refused: {said}" in host.log()
