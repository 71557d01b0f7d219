"""Folders that outlive nodes: taken, measured, removed within a quota, and never while anybody uses them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rmbus.host import caches
from rmbus.host.caches import Caches, size_on_disk
from rmbus.transport.reactor import Reactor


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    made = Reactor()
    yield made
    made.close()


def serve_until(reactor: Reactor, is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < end
        reactor.serve_once(wait=True)


def fill(path: str, mb: int, name: str = "file") -> None:
    Path(path, name).write_bytes(os.urandom(mb * 1_000_000))


def looked(reactor: Reactor, kept: Caches) -> None:
    """Have all folders measured once more, and what comes of it done."""
    seen: list[bool] = []
    serve_until(reactor, lambda: not kept._is_looking)
    kept.look()
    reactor.call_soon(lambda: seen.append(True))
    serve_until(reactor, lambda: bool(seen) and not kept._is_looking)


def test_the_longest_unused_go_first_and_what_is_used_stays(reactor: Reactor, tmp_path: Path) -> None:
    """By the time of their last use, as many as needed; also where another host of the user's has it."""
    kept, another = Caches(reactor, tmp_path, 7), Caches(reactor, tmp_path, 1000)
    for age, name in enumerate(("new", "old", "oldest", "used", "elsewhere")):
        use = kept.take(name)
        fill(use.path, 2)
        kept.give_back(use)
        then = time.time() - 100 * age
        os.utime(tmp_path / name / "lock", (then, then))
    # those in use are the longest unused by their times
    used, elsewhere = kept.take("used"), another.take("elsewhere")
    for name in ("used", "elsewhere"):
        os.utime(tmp_path / name / "lock", (1, 1))
    serve_until(reactor, lambda: not (tmp_path / "old").exists() and not (tmp_path / "oldest").exists())
    assert sorted(path.name for path in tmp_path.glob("[a-z]*")) == ["elsewhere", "new", "used"]
    serve_until(reactor, lambda: not list(tmp_path.glob(".gone-*")))
    another.give_back(elsewhere)
    kept.give_back(used)


def test_whoever_fills_the_rest_is_told(reactor: Reactor, tmp_path: Path) -> None:
    """All who have the folder that has grown most, and nobody else; when the last has ended, it is removed."""
    kept = Caches(reactor, tmp_path, 5)
    told: list[str] = []
    quiet = kept.take("quiet")
    fill(quiet.path, 3)
    looked(reactor, kept)
    kept.give_back(quiet)
    quiet = kept.take("quiet")
    uses = [kept.take("loud"), kept.take("loud")]
    quiet.on_breach = lambda why: told.append("quiet")
    for use in uses:
        use.on_breach = told.append
    fill(uses[0].path, 2, "a")
    fill(uses[0].path, 1, "b")
    serve_until(reactor, lambda: len(told) >= 2)
    assert told[0] == told[1]
    assert "its cache 'loud' has grown to 3 MB, in 5 files" in told[0]
    assert "5 MB" in told[0]
    assert "--cache-mb" in told[0]
    assert "quiet" not in told
    kept.give_back(uses[0])
    assert (tmp_path / "loud").exists()
    kept.give_back(uses[1])
    assert not (tmp_path / "loud").exists()
    assert (tmp_path / "quiet" / "data" / "file").exists()
    kept.give_back(quiet)


def test_what_a_folder_takes_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, not lengths; each file once; links lead nowhere; what cannot be looked into counts as too much."""
    folder, outside = tmp_path / "cache", tmp_path / "outside"
    (folder / "data").mkdir(parents=True)
    outside.mkdir()
    fill(str(outside), 9)
    fill(str(folder / "data"), 2)
    os.link(folder / "data/file", folder / "data/again")
    (folder / "data/link").symlink_to(outside)
    with (folder / "data/sparse").open("wb") as file:
        file.truncate(1 << 30)
    size = size_on_disk(folder)
    assert size is not None
    assert 2_000_000 <= size.bytes < 2_200_000
    assert size.files == 5
    monkeypatch.setattr(caches, "MAX_DEPTH", 3)
    (folder / "data/1/2/3/4").mkdir(parents=True)
    deep = size_on_disk(folder)
    assert deep is not None
    assert deep.files > caches.MAX_FILES
    assert size_on_disk(tmp_path / "none") is None
