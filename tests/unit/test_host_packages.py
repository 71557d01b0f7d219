"""What a host keeps for its clients between the question for a package and the start of its node."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hosting import FakeReactor, open_descriptors

from rmbus.errors import HostError, PackagingError
from rmbus.host import packages as leasing
from rmbus.host.packages import LEASE_S, Packages
from rmbus.protocol.manifest import FileEntry, Manifest
from rmbus.shipping.content import pack_content
from rmbus.shipping.store import Store


def make(text: bytes) -> tuple[str, bytes]:
    content = text * 1000
    manifest = Manifest("m:C", "cpython-3.11", (FileEntry("m.py", hashlib.sha256(content).hexdigest(), 1000),))
    return manifest.address, pack_content(manifest, {"m.py": content})


FIRST, SECOND, THIRD = make(b"1"), make(b"2"), make(b"3")
ONE = len(FIRST[1])


class Ground:
    """Packages in a folder where two have room, and another host's store on the same folder."""

    def __init__(self, folder: Path) -> None:
        self.reactor = FakeReactor()
        self.packages = Packages(Store(folder, quota_bytes=2 * ONE), self.reactor.real)
        self.other = Store(folder, quota_bytes=2 * ONE)

    def put(self, client: str, package: tuple[str, bytes]) -> bool:
        return self.packages.put(client, package[0], 0, package[1], ONE).complete

    def fits(self, package: tuple[str, bytes]) -> bool:
        """Whether the other host can take a package."""
        try:
            return self.other.put(package[0], 0, package[1], ONE).complete
        except HostError:
            return False


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def test_what_was_asked_for_is_there_at_the_start(ground: Ground) -> None:
    """Whoever is told that a package is complete finds it when he starts a node, though others need the room."""
    ground.other.put(FIRST[0], 0, FIRST[1], ONE)
    assert ground.packages.have("a", FIRST[0]).complete
    ground.other.put(SECOND[0], 0, SECOND[1], ONE)
    held = ground.other.hold(SECOND[0])
    assert not ground.fits(THIRD)
    package, hold = ground.packages.start("a", FIRST[0])
    assert os.pread(package, ONE, 0) == FIRST[1]
    os.close(package)
    assert not ground.fits(THIRD)  # now because it runs
    hold.close()
    assert ground.fits(THIRD)
    held.close()


def test_what_was_sent_is_there_at_the_start(ground: Ground) -> None:
    """A package that was sent is kept like one that was asked for."""
    assert ground.put("a", FIRST)
    assert ground.put("a", SECOND)
    assert not ground.fits(THIRD)
    for address in (FIRST[0], SECOND[0]):
        package, hold = ground.packages.start("a", address)
        os.close(package)
        hold.close()
    assert ground.fits(THIRD)


def test_start_of_one_client_is_not_that_of_another(ground: Ground) -> None:
    """Each client's lease is its own: it ends with its own start, or its own end."""
    ground.put("a", FIRST)
    ground.put("a", SECOND)
    assert ground.packages.have("b", FIRST[0]).complete
    assert ground.packages.have("b", SECOND[0]).complete
    for address in (FIRST[0], SECOND[0]):
        package, hold = ground.packages.start("b", address)
        os.close(package)
        hold.close()
    assert not ground.fits(THIRD)
    ground.packages.lost("a")
    assert ground.fits(THIRD)


def test_lease_is_over_in_time(ground: Ground) -> None:
    """A client that goes silent loses its leases within twice the time; one that goes on asking keeps them all."""
    ground.put("a", FIRST)
    ground.put("a", SECOND)
    for _ in range(5):
        ground.reactor.passes(LEASE_S)
        assert ground.packages.have("a", FIRST[0]).complete
    assert not ground.fits(THIRD)
    ground.reactor.passes(LEASE_S)
    ground.reactor.passes(LEASE_S)
    assert ground.fits(THIRD)
    ground.reactor.passes(LEASE_S)
    assert ground.reactor.timers == []


def test_a_client_that_came_again_has_its_own_time(ground: Ground) -> None:
    """The clock of leases that were let go does not end those of the same client that came after."""
    ground.put("a", FIRST)
    ground.reactor.passes(LEASE_S - 1)
    ground.packages.lost("a")
    ground.put("a", FIRST)
    ground.put("a", SECOND)
    ground.reactor.passes(1)
    ground.reactor.passes(LEASE_S - 1)
    assert not ground.fits(THIRD)


def test_package_that_is_not_there(ground: Ground) -> None:
    """The start of what was never sent says so, and keeps nothing."""
    before = open_descriptors()
    with pytest.raises(PackagingError, match="send it first"):
        ground.packages.start("a", FIRST[0])
    assert open_descriptors() == before


def test_only_so_many_leases(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leases of all clients together are limited, since each takes a descriptor; starts make room again."""
    monkeypatch.setattr(leasing, "MAX_LEASES", 1)
    ground.put("a", FIRST)
    assert ground.packages.have("a", FIRST[0]).complete  # the same one again
    with pytest.raises(HostError, match="start them first"):
        ground.packages.have("b", FIRST[0])
    package, hold = ground.packages.start("a", FIRST[0])
    assert ground.packages.have("b", FIRST[0]).complete
    os.close(package)
    hold.close()


def test_nothing_stays_open(ground: Ground) -> None:
    """At the end of the host, and at that of each client, all descriptors are given back."""
    before = open_descriptors()
    for client in ("a", "b", "c"):
        ground.put(client, FIRST)
        ground.packages.have(client, SECOND[0])
    assert open_descriptors() != before
    ground.packages.lost("a")
    ground.packages.lost("nobody")
    ground.packages.close()
    assert open_descriptors() == before
