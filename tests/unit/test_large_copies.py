"""How processes that move frames copy what is large: the C library is told, where it is one that listens."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmbus import values
from rmbus.copying import LARGE_BYTES, address, copy_into, is_behind, roomy
from rmbus.host.jail import LARGE_COPIES, spawn_command
from rmbus.host.levels import Level

LOADER = Path("/lib64/ld-linux-x86-64.so.2")
(NAME, SAID), *_ = LARGE_COPIES.items()


def given(level: Level, folder: Path, name: str) -> str | None:
    """Return a variable of a process that is started under a level."""
    code = f"import os; print(os.environ.get({name!r}))"
    command = spawn_command(level, [sys.executable, "-c", code], node_dir=folder, work_dir=folder)
    process = command.start(stdout=subprocess.PIPE, stderr=None)
    printed = process.communicate()[0].decode().strip()
    assert process.returncode == 0
    return printed


@pytest.mark.parametrize("level", [Level.TRUSTED, Level.CONFINED])
def test_every_node_is_told(level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert given(level, tmp_path, NAME) == SAID


def test_what_the_owner_of_the_host_says_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "glibc.malloc.arena_max=2")
    assert given(Level.TRUSTED, tmp_path, NAME) == "glibc.malloc.arena_max=2"


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc", reason="another processor, or C library"
)
def test_the_c_library_of_this_machine_knows_the_name() -> None:
    def threshold(**variables: str) -> str:
        listed = subprocess.run(
            [LOADER, "--list-tunables"], env=os.environ | variables, capture_output=True, text=True, check=True
        )
        return next(line for line in listed.stdout.splitlines() if "x86_non_temporal_threshold" in line).split()[1]

    assert int(threshold(**LARGE_COPIES), 16) == LARGE_BYTES
    assert threshold(**{NAME: ""}) != threshold(**LARGE_COPIES)


@pytest.mark.parametrize("size", [0, 100, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 3_000_001])
@pytest.mark.parametrize("ahead", [0, 1, 64, 512, 513, 4095])
def test_all_is_copied_wherever_it_lies(size: int, ahead: int) -> None:
    data = np.random.default_rng(1).integers(0, 256, size + 8192, np.uint8)[:size]
    large = np.zeros(size + 3 * 4096, np.uint8)
    begin = (address(data) - address(large)) % 4096 + ahead
    copy_into(large[begin : begin + size].data, data.data)
    assert (large[begin : begin + size] == data).all()
    assert not large[:begin].any()
    assert not large[begin + size :].any()


def test_room_that_is_no_room() -> None:
    for size in (10, LARGE_BYTES):
        with pytest.raises(ValueError, match="different structures"):
            copy_into(memoryview(bytearray(size)), bytes(size + 1))


def test_what_lies_a_little_behind() -> None:
    assert [at for at in range(3000, 3000 + 4096) if is_behind(at + 7 * 4096, 3000)] == [*range(3001, 3513)]
    assert not is_behind(3000, 3001)
    assert is_behind(3, 4095)


@pytest.mark.parametrize("place", [0, 64, 2048, 2112, 4096, 1 << 30])
def test_the_middle_of_the_next_page(place: int) -> None:
    found = roomy(place)
    assert place <= found < place + 4096
    assert found % 4096 == 2048


def test_a_large_array_in_data_lies_well() -> None:
    """It is far from where allocators begin arrays in their pages, behind a short head at least; and it comes back."""
    array = np.arange(LARGE_BYTES // 8 + 5)
    length, draft = values.dump(["head", array, 7, array[:3]])
    room = np.zeros(len(draft) + 4096, np.uint8)
    begin = -address(room) % 4096  # as a slot
    room = room[begin : begin + len(draft)]
    assert isinstance(draft, values.Draft)
    draft.write(room.data)
    loaded: Any = values.load(length, room.data)
    head, first, seven, second = loaded
    assert (head, seven) == ("head", 7)
    assert (first == array).all()
    assert (second == array[:3]).all()
    assert 2048 <= address(first) % 4096 < 2048 + 512
