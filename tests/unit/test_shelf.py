"""The folder of environments: built aside, taken by lock, removed when nobody needs them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from rmbus.errors import HostError
from rmbus.host.shelf import Shelf, make_read_only, remove_tree

A, B, C = ("a" * 40, "b" * 40, "c" * 40)


def build(shelf: Shelf, key: str, size: int = 10) -> None:
    with shelf.building(key) as part:
        assert part is not None
        (part / "lib").mkdir()
        (part / "lib" / "module.py").write_bytes(bytes(size))
        make_read_only(part)


def taken(shelf: Shelf, key: str) -> bool:
    """Whether an environment is there to be taken."""
    handle = shelf.take(key)
    if handle is not None:
        os.close(handle)
    return handle is not None


def used(shelf: Shelf, key: str, ago_s: float) -> None:
    then = time.time() - ago_s
    os.utime(shelf.path(key).with_name(f"{key}.lock"), (then, then))


def test_built_once(tmp_path: Path) -> None:
    """It is there when it is finished, not before, and is not built again."""
    shelf = Shelf(tmp_path / "shelf")
    assert not taken(shelf, A)
    with shelf.building(A) as part:
        assert part is not None
        assert not taken(shelf, A)
        assert not shelf.path(A).exists()
    assert taken(shelf, A)
    with shelf.building(A) as part:
        assert part is None


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """A building that fails takes along what it had, and the next one begins afresh."""
    shelf = Shelf(tmp_path)

    def fail() -> None:
        with shelf.building(A) as part:
            assert part is not None
            (part / "half").mkdir()
            make_read_only(part)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    build(shelf, A)
    assert taken(shelf, A)


def test_two_builders(tmp_path: Path) -> None:
    """The second waits for the first, and then has nothing to do."""
    shelf, order = Shelf(tmp_path), list[str]()
    begun = threading.Event()

    def second() -> None:
        begun.wait(5)
        with Shelf(tmp_path).building(A) as part:
            order.append("second: there" if part is None else "second: builds")

    other = threading.Thread(target=second)
    other.start()
    with shelf.building(A) as part:
        assert part is not None
        begun.set()
        other.join(0.1)
        order.append("first")
    other.join(5)
    assert order == ["first", "second: there"]


def test_what_a_killed_builder_left(tmp_path: Path) -> None:
    """Half an environment that nobody builds any more goes, with its lock; one that is being built stays."""
    shelf = Shelf(tmp_path)
    (tmp_path / f"{A}.0123.part" / "lib").mkdir(parents=True)
    (tmp_path / f"{A}.lock").touch()
    with shelf.building(B) as part:
        assert part is not None
        assert shelf.collect() == []
        assert part.is_dir()
    assert not list(tmp_path.glob(f"{A}*"))
    assert taken(shelf, B)


def test_long_unused(tmp_path: Path) -> None:
    """What nobody has used for long goes; to take it is to use it."""
    shelf = Shelf(tmp_path)
    for key in (A, B):
        build(shelf, key)
        used(shelf, key, 1000.0)
    assert taken(shelf, A)
    assert shelf.collect(unused_s=500.0) == [B]
    assert taken(shelf, A)
    assert not list(tmp_path.glob(f"{B}*"))


def test_the_quota(tmp_path: Path) -> None:
    """Over the quota the longest unused go, until it fits."""
    shelf = Shelf(tmp_path)
    for number, key in enumerate((A, B, C)):
        build(shelf, key, 100)
        used(shelf, key, 100.0 - number)
    assert shelf.collect(quota_bytes=300) == []
    assert shelf.collect(quota_bytes=150) == [A, B]
    assert taken(shelf, C)


def test_what_runs_stays(tmp_path: Path) -> None:
    """Whoever runs on an environment keeps it, however old and large it is; afterwards it goes."""
    shelf = Shelf(tmp_path)
    build(shelf, A)
    handle = shelf.take(A)
    assert handle is not None
    used(shelf, A, 1e7)
    assert Shelf(tmp_path).collect(quota_bytes=0) == []
    os.close(handle)
    used(shelf, A, 1e7)
    assert Shelf(tmp_path).collect() == [A]
    build(shelf, A)


def test_a_lock_that_was_taken_away(tmp_path: Path) -> None:
    """Somebody who tidies by hand takes no environment out of use."""
    shelf = Shelf(tmp_path)
    build(shelf, A)
    (tmp_path / f"{A}.lock").unlink()
    assert shelf.collect() == [A]
    build(shelf, A)
    assert taken(shelf, A)


def test_keys(tmp_path: Path) -> None:
    """A key is no path."""
    with pytest.raises(HostError):
        Shelf(tmp_path).path("../" + A)


def test_read_only_and_removed_all_the_same(tmp_path: Path) -> None:
    """Folders take nothing more once they are read-only, and can be removed by their owner."""
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").touch()
    make_read_only(tree)
    assert not (tree / "a" / "b").stat().st_mode & 0o222
    remove_tree(tree)
    assert not tree.exists()
