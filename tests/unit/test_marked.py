"""The processes of a node are known by the mark that they bear."""

from __future__ import annotations

import os
import subprocess
import sys

from rmbus.host import workers


def test_whoever_bears_a_mark_is_waited_for() -> None:
    """It, and nobody whose mark only begins so; its descriptor tells when it has ended."""
    said = "import sys; print(flush=True); sys.stdin.read()"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", said],
            env={workers.MARK: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for mark in ("/run/n1", "/run/n12")
    ]
    for each in running:
        assert each.stdout is not None
        each.stdout.readline()
    (found,) = list(workers._bearing("/run/n1"))
    try:
        assert not workers._is_readable(found)
        running[0].communicate()
        assert workers._is_readable(found)
        assert list(workers._bearing("/run/n1")) == []
    finally:
        os.close(found)
        running[1].communicate()
