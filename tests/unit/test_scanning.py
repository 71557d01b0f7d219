"""What is imported is read from the source, by as many threads as ship something."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rmbus.shipping import source


@pytest.fixture
def interrupted() -> Iterator[None]:
    """Have threads take turns in the middle of whatever allocates."""

    def pause(*_: object) -> None:
        time.sleep(0)

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    gc.callbacks.append(pause)
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    yield
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)
    gc.callbacks.remove(pause)


@pytest.mark.usefixtures("interrupted")
def test_several_threads_at_once() -> None:
    """Each reads the same as one alone."""
    files = sorted(Path(source.__file__).parent.glob("*.py"))[:12]
    alone = [source.scan(file.read_bytes(), str(file)).imports for file in files]

    def read(_: int) -> bool:
        return [source.scan(file.read_bytes(), str(file)).imports for file in files] == alone

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(16)))
