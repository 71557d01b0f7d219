"""The host's store of packages: uploads in chunks, by several at once, hostile ones, and a disk that is full."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmbus.errors import HostError, MalformedFrame, PackagingError, ProtocolError, TooLarge
from rmbus.protocol.manifest import FileEntry, Manifest
from rmbus.shipping.content import MAX_ARCHIVE_BYTES, pack_content
from rmbus.shipping.room import IDLE_S
from rmbus.shipping.store import LOCK, Held, Store


def make(size: int = 1000, text: bytes = b"x") -> tuple[str, bytes]:
    """Return address and archive of a package with one file."""
    content = text * size
    manifest = Manifest("m:C", "cpython-3.11", (FileEntry("m.py", hashlib.sha256(content).hexdigest(), size),))
    return manifest.address, pack_content(manifest, {"m.py": content})


ADDRESS, DATA = make()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "packages")


def names(folder: Path) -> list[str]:
    """Return what is kept in a store's folder."""
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def upload(store: Store, address: str, data: bytes, chunk: int, owner: str = "") -> Held:
    held = store.have(address, owner=owner)
    while not held.complete:
        held = store.put(address, held.offset, data[held.offset : held.offset + chunk], len(data), owner=owner)
    return held


def read(store: Store, address: str) -> bytes:
    fd = store.open(address)
    try:
        return os.pread(fd, 1 << 30, 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize("chunk", [1, 7, 500, len(DATA) - 1, len(DATA), len(DATA) + 1])
def test_upload_in_chunks(store: Store, chunk: int) -> None:
    """A package arrives whole in chunks of any size, and is then there for everybody."""
    assert store.have(ADDRESS) == Held(complete=False, offset=0)
    assert upload(store, ADDRESS, DATA, chunk) == Held(complete=True, offset=len(DATA))
    assert store.have(ADDRESS, owner="other") == Held(complete=True, offset=len(DATA))
    assert read(store, ADDRESS) == DATA


def test_upload_goes_on_where_it_stopped(store: Store, tmp_path: Path) -> None:
    """A new store on the same folder knows how much is there; a chunk that came already may come again."""
    store.put(ADDRESS, 0, DATA[:300], len(DATA))
    again = Store(tmp_path / "packages")
    assert again.have(ADDRESS) == Held(complete=False, offset=300)
    assert again.put(ADDRESS, 100, DATA[100:400], len(DATA)) == Held(complete=False, offset=400)
    assert again.put(ADDRESS, 0, DATA[:10], len(DATA)) == Held(complete=False, offset=400)
    assert again.put(ADDRESS, 400, DATA[400:], len(DATA)).complete
    assert again.put(ADDRESS, 0, b"", len(DATA)).complete


def test_descriptor_is_for_reading_only(store: Store, tmp_path: Path) -> None:
    """Nobody writes to a package by the descriptor that he is given, and others cannot read the folder."""
    upload(store, ADDRESS, DATA, 500)
    fd = store.open(ADDRESS)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert (tmp_path / "packages").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / f"packages/{ADDRESS}.zip").stat().st_mode & 0o777 == 0o400


def test_absent_package(store: Store) -> None:
    """Opening what is not there says so; what was discarded is gone."""
    with pytest.raises(PackagingError, match="send it first"):
        store.open(ADDRESS)
    upload(store, ADDRESS, DATA, 500)
    store.discard(ADDRESS)
    with pytest.raises(PackagingError, match="send it first"):
        store.open(ADDRESS)


@pytest.mark.parametrize("address", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "é" * 64])
def test_only_addresses_are_addresses(store: Store, address: str) -> None:
    """What is no sha256 in hex never becomes a path."""
    for call in (store.have, store.open, store.discard, lambda name: store.put(name, 0, b"x", 10)):
        with pytest.raises(MalformedFrame, match="content address"):
            call(address)
    with pytest.raises(MalformedFrame, match="uploader"):
        store.have(ADDRESS, owner="../x")


@pytest.mark.parametrize(("offset", "size", "total"), [(-1, 1, 10), (5, 6, 10), (0, 11, 10), (3, 1, 10), (0, 0, 0)])
def test_chunks_that_cannot_be(store: Store, offset: int, size: int, total: int) -> None:
    """A chunk that leaves a gap or passes the end is refused, and so is a package of nothing."""
    with pytest.raises(MalformedFrame):
        store.put(ADDRESS, offset, b"x" * size, total)


def test_too_large(store: Store, tmp_path: Path) -> None:
    """An archive over the limit is refused before a byte of it is kept."""
    with pytest.raises(TooLarge):
        store.put(ADDRESS, 0, b"x", MAX_ARCHIVE_BYTES + 1)
    assert names(tmp_path / "packages") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_damaged_upload_is_thrown_away(store: Store, tmp_path: Path, place: int, value: int) -> None:
    """One wrong byte anywhere: refused, nothing stays behind, and the right bytes can be sent afterwards."""
    damaged = bytearray(DATA)
    damaged[place] ^= value
    store.put(ADDRESS, 0, bytes(damaged[:500]), len(DATA))
    with pytest.raises(ProtocolError):
        store.put(ADDRESS, 500, bytes(damaged[500:]), len(DATA))
    assert names(tmp_path / "packages") == []
    upload(store, ADDRESS, DATA, 700)
    store.discard(ADDRESS)


def test_package_under_another_address(store: Store) -> None:
    """A valid package that is sent under an address that is not its own is refused with both."""
    address, _ = make(text=b"y")
    with pytest.raises(MalformedFrame, match=f"{address[:12]} has the address {ADDRESS[:12]}"):
        store.put(address, 0, DATA, len(DATA))


def test_owners_do_not_disturb_each_other(store: Store) -> None:
    """What one uploader has begun, wrongly even, is neither seen nor continued by another."""
    store.put(ADDRESS, 0, b"wrong", len(DATA), owner="mallory")
    assert store.have(ADDRESS, owner="alice") == Held(complete=False, offset=0)
    assert upload(store, ADDRESS, DATA, 500, owner="alice").complete
    assert store.put(ADDRESS, 5, b"wrong", len(DATA), owner="mallory").complete
    assert read(store, ADDRESS) == DATA


def test_many_uploads_of_one_package_at_once(tmp_path: Path) -> None:
    """Any number of uploads of one package, as one uploader or several, end with it complete and right."""
    address, data = make(200_000)
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        try:
            store = Store(tmp_path / "packages")
            barrier.wait()
            for start in range(0, len(data), 9_000 + number):
                chunk = data[start : start + 9_000 + number]
                store.put(address, start, chunk, len(data), owner="ab"[number % 2])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert read(Store(tmp_path / "packages"), address) == data


def test_full_disk(store: Store, tmp_path: Path) -> None:
    """A disk that is full is named as that, with the folder; what was begun is thrown away."""
    address, data = make(100_000)
    store.put(address, 0, data[:50_000], len(data))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))  # Python ignores SIGXFSZ: a write gives EFBIG
    try:
        with pytest.raises(HostError, match=r"disk is full at .*packages"):
            store.put(address, 50_000, data[50_000:], len(data))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path / "packages") == []
    assert upload(store, address, data, 30_000).complete


@pytest.mark.parametrize(("code", "text"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "cannot keep a package")])
def test_trouble_at_the_last_step(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str
) -> None:
    """When the disk fails as the package is made lasting, it is not there as complete."""

    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(HostError, match=text):
        store.put(ADDRESS, 0, DATA, len(DATA))
    assert not store.have(ADDRESS).complete
    assert names(tmp_path / "packages") == []


def test_sweep_gives_up_old_uploads(store: Store, tmp_path: Path) -> None:
    """An upload that stood still is removed; one that is young, and what is complete, stays."""
    upload(store, ADDRESS, DATA, 500)
    for number, age in enumerate((100, 5000)):
        address, data = make(100 + number)
        store.put(address, 0, data[:50], len(data))
        part = tmp_path / f"packages/{address}..part"
        os.utime(part, (part.stat().st_atime, part.stat().st_mtime - age))
    assert store.sweep(older_than_s=1000) == 1
    assert [store.have(make(100 + number)[0]).offset for number in range(2)] == [50, 0]
    assert store.have(ADDRESS).complete


def test_links_in_the_folder_are_not_followed(store: Store, tmp_path: Path) -> None:
    """A link where an upload would be kept is an error, and its target stays as it is."""
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / f"packages/{ADDRESS}..part").symlink_to(target)
    with pytest.raises(HostError):
        store.put(ADDRESS, 0, DATA[:10], len(DATA))
    assert target.read_bytes() == b"mine"


# --- the quota ------------------------------------------------------------------------------------------------------

SIZE = 10_000
KEPT = [make(SIZE, text) for text in (b"a", b"b", b"c", b"d")]
ONE = len(KEPT[0][1])


def filled(folder: Path, count: int, quota: int) -> Store:
    """Return a store with so many packages, each used a minute after the one before, the last an hour ago."""
    store = Store(folder, quota_bytes=quota)
    for number, (address, data) in enumerate(KEPT[:count]):
        upload(store, address, data, SIZE)
        age(folder / f"{address}.zip", 3600 + 60 * (count - number))
    return store


def age(file: Path, seconds: float) -> None:
    then = file.stat().st_mtime - seconds
    os.utime(file, (then, then))


def here(store_folder: Path) -> list[int]:
    """Return the numbers of the packages that are there."""
    found = names(store_folder)
    return [number for number, (address, _) in enumerate(KEPT) if f"{address}.zip" in found]


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    """When the quota is reached, what was used longest ago goes, and no more than has to."""
    store = filled(tmp_path, 3, 3 * ONE)
    assert store.have(KEPT[0][0]).complete  # used now
    upload(store, *KEPT[3], SIZE)
    assert here(tmp_path) == [0, 2, 3]


def test_opening_for_a_start_counts_as_use(tmp_path: Path) -> None:
    """A package that is started is used, though nobody asked for it."""
    store = filled(tmp_path, 3, 3 * ONE)
    store.hold(KEPT[0][0]).close()
    upload(store, *KEPT[3], SIZE)
    assert here(tmp_path) == [0, 2, 3]


def test_what_is_held_is_never_collected(tmp_path: Path) -> None:
    """What is held stays, however long ago it was used, also when another store on the folder needs the room."""
    store = filled(tmp_path, 3, 3 * ONE)
    holds = [store.hold(KEPT[number][0]) for number in (0, 1)]
    for number in (0, 1):
        age(tmp_path / f"{KEPT[number][0]}.zip", 10_000)
    upload(Store(tmp_path, quota_bytes=3 * ONE), *KEPT[3], SIZE)
    assert here(tmp_path) == [0, 1, 3]
    for hold in holds:
        hold.close()
        hold.close()  # harmless
    upload(store, *KEPT[2], SIZE)
    assert 2 in here(tmp_path)
    assert len(here(tmp_path)) == 3


def test_package_that_cannot_fit(tmp_path: Path) -> None:
    """What does not fit beside what is held is refused with the sizes; nothing of it stays, and nothing else goes."""
    store = filled(tmp_path, 3, 3 * ONE)
    holds = [store.hold(address) for address, _ in KEPT[:3]]
    with pytest.raises(
        HostError, match=r"of 10\.\d kB does not fit .* 3\d\.\d kB, of which 3\d\.\d kB are in use.*--store-quota"
    ):
        store.put(KEPT[3][0], 0, KEPT[3][1][:100], ONE)
    holds[2].close()
    large = make(2 * SIZE, b"l")
    with pytest.raises(HostError, match="does not fit"):
        store.put(large[0], 0, large[1], len(large[1]))
    assert here(tmp_path) == [0, 1, 2]
    assert len(names(tmp_path)) == 3
    for hold in holds:
        hold.close()


def test_package_over_the_whole_quota(tmp_path: Path) -> None:
    """What is larger than the quota makes nothing go: it could not fit anyway."""
    store = filled(tmp_path, 2, 2 * ONE)
    address, data = make(1_500_000, b"l")
    with pytest.raises(HostError, match=r"a package of 1\.5 MB does not fit .* which may hold 20\.\d kB: leave out"):
        store.put(address, 0, data, len(data))
    assert here(tmp_path) == [0, 1]


def test_quota_is_kept_on_every_chunk(tmp_path: Path) -> None:
    """Two uploads that both fit when they began, and do not together: the folder never holds more than the quota."""
    store = Store(tmp_path, quota_bytes=ONE + ONE // 2)
    (first, data), (second, other) = KEPT[:2]
    refused = False
    for start in range(0, ONE, 1000):
        store.put(first, start, data[start : start + 1000], ONE)
        try:
            if not refused:
                store.put(second, start, other[start : start + 1000], ONE)
        except HostError:
            refused = True
        assert sum((tmp_path / name).stat().st_size for name in names(tmp_path)) <= ONE + ONE // 2
    assert refused
    assert here(tmp_path) == [0]
    assert len(names(tmp_path)) == 1


def test_unfinished_uploads_go_when_they_stand_still(tmp_path: Path) -> None:
    """An upload on which something comes keeps its room; one that has stood still gives it up."""
    store = Store(tmp_path, quota_bytes=ONE + 1000)
    store.put(KEPT[0][0], 0, KEPT[0][1][:5000], ONE)
    with pytest.raises(HostError, match="does not fit"):
        store.put(KEPT[1][0], 0, KEPT[1][1][:5000], ONE)
    part = tmp_path / f"{KEPT[0][0]}..part"
    age(part, IDLE_S + 1)
    assert store.have(KEPT[0][0]).offset == 5000  # who asks means to go on
    with pytest.raises(HostError, match="does not fit"):
        store.put(KEPT[1][0], 0, KEPT[1][1][:5000], ONE)
    age(part, IDLE_S + 1)
    upload(store, *KEPT[1], SIZE)
    assert here(tmp_path) == [1]
    assert len(names(tmp_path)) == 1


def test_smaller_quota_takes_effect(tmp_path: Path) -> None:
    """A store that is opened with a smaller quota comes down to it, as far as it may."""
    hold = filled(tmp_path, 4, 4 * ONE).hold(KEPT[0][0])
    age(tmp_path / f"{KEPT[0][0]}.zip", 100_000)
    assert Store(tmp_path, quota_bytes=2 * ONE).collect() == 2
    assert here(tmp_path) == [0, 3]
    assert Store(tmp_path, quota_bytes=10).collect() == 1
    assert here(tmp_path) == [0]
    hold.close()


def test_collected_package_can_be_sent_again(tmp_path: Path) -> None:
    """What was collected is absent like what was never there."""
    store = filled(tmp_path, 2, 2 * ONE)
    upload(store, *KEPT[2], SIZE)
    assert store.have(KEPT[0][0]) == Held(complete=False, offset=0)
    with pytest.raises(PackagingError, match="send it first"):
        store.hold(KEPT[0][0])
    upload(store, *KEPT[0], SIZE)
    assert here(tmp_path) == [0, 2]
    assert read(store, KEPT[0][0]) == KEPT[0][1]


def test_holding_and_collecting_at_once(tmp_path: Path) -> None:
    """Whoever gets a hold finds the package there as long as he has it, whatever others send meanwhile."""
    failures: list[BaseException] = []
    ended = threading.Event()

    def send() -> None:
        store = Store(tmp_path, quota_bytes=2 * ONE)
        for number in range(150):
            try:
                upload(store, *KEPT[number % 3], SIZE)
            except HostError:  # the other one's hold, and the upload under way
                continue
            except BaseException as error:
                failures.append(error)
        ended.set()

    def keep() -> None:
        store = Store(tmp_path, quota_bytes=2 * ONE)
        while not ended.is_set():
            for address, data in KEPT[:3]:
                try:
                    hold = store.hold(address)
                except PackagingError:
                    continue
                try:
                    assert read(store, address) == data
                except BaseException as error:
                    failures.append(error)
                finally:
                    hold.close()

    threads = [threading.Thread(target=work) for work in (send, keep)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum((tmp_path / name).stat().st_size for name in names(tmp_path)) <= 2 * ONE
