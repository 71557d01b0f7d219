"""Locked requirements: one form, in which nothing stands that could lead an installer elsewhere."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbus.errors import MalformedFrame, ProtocolError, TooLarge
from rmbus.protocol.lock import LOCK_PATH, MAX_LOCKED, Locked, decode_lock, encode_lock
from rmbus.protocol.manifest import FileEntry, Manifest

A, B = "a" * 64, "b" * 64


def test_there_and_back() -> None:
    """Any order of distributions gives the same bytes, and they are read as what they were."""
    items = [Locked("idna", "2.10", (A, B)), Locked("attrs", "24.2.0+local", (B,))]
    data = encode_lock(items)
    assert data == encode_lock(reversed(items))
    assert data.decode() == (f"attrs==24.2.0+local --hash=sha256:{B}\nidna==2.10 --hash=sha256:{A} --hash=sha256:{B}\n")
    assert decode_lock(data) == tuple(sorted(items))


@pytest.mark.parametrize(
    "line",
    [
        "--index-url=http://127.0.0.1/ --hash=sha256:" + A,
        "-r /etc/passwd",
        "-e . --hash=sha256:" + A,
        "idna @ http://127.0.0.1/idna.whl --hash=sha256:" + A,
        "idna==2.10",
        "idna==2.10 --hash=sha256:" + A + " --find-links=/tmp",
        "idna==2.10 --hash=md5:" + A[:32],
        "idna==2.10 --hash=sha256:" + A[:63],
        "idna==2.10 --hash=sha256:" + B + " --hash=sha256:" + A,
        "idna>=2.10 --hash=sha256:" + A,
        "idna==2.10; python_version<'4' --hash=sha256:" + A,
        "Idna==2.10 --hash=sha256:" + A,
        "./idna==2.10 --hash=sha256:" + A,
        "idna==../2.10 --hash=sha256:" + A,
        "idna==2.10  --hash=sha256:" + A,
        "# a comment",
        "",
    ],
)
def test_nothing_else_is_taken(line: str) -> None:
    """An option, an address, a path, a range, a marker, no hash or another form is refused."""
    with pytest.raises(MalformedFrame):
        decode_lock(f"{line}\n".encode())


def test_twice_unsorted_or_too_many() -> None:
    """A distribution is there once, in order, and there are not too many."""
    idna, six = (f"{name}==1 --hash=sha256:{A}\n".encode() for name in ("idna", "six"))
    assert len(decode_lock(idna + six)) == 2
    for data in (six + idna, idna + idna, idna[:-1], b""):
        with pytest.raises(MalformedFrame):
            decode_lock(data)
    with pytest.raises(TooLarge):
        encode_lock(Locked(f"d{number}", "1", (A,)) for number in range(MAX_LOCKED + 1))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Whatever comes is read, or refused as the protocol's own error."""
    try:
        assert encode_lock(decode_lock(data)) == data
    except ProtocolError:
        return


def test_a_manifest_and_its_lock_belong_together() -> None:
    """A lock is the hash of the file with the locked requirements, and neither is there without the other."""
    data = encode_lock([Locked("idna", "2.10", (A,))])
    digest = hashlib.sha256(data).hexdigest()
    entry = FileEntry(LOCK_PATH, digest, len(data))
    assert Manifest("a:B", "cpython-3.11", (entry,), lock=digest).lock == digest
    for files, lock in (((), digest), ((entry,), ""), ((entry,), A)):
        with pytest.raises(MalformedFrame, match="not the sha256"):
            Manifest("a:B", "cpython-3.11", files, lock=lock)
