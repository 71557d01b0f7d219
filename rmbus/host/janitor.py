"""The janitor: a small process that outlives the owner of a run folder by a moment.

Its standard input is a pipe whose other end only the owner holds. At its end of file the owner is gone, by whatever
way: the janitor kills what remains of the run and removes the folder. It imports nothing that starts slowly, and
lives in a process group of its own, so that a Ctrl-C in the terminal is not its end.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from rmbus.transport.runfolder import RunFolder, kill_noted, remove


def start(folder: RunFolder) -> subprocess.Popen[bytes]:
    """Start the janitor of a run folder; closing its standard input, or dying, lets it work."""
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "rmbus.host.janitor", str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def main() -> None:
    """Wait for the end of the owner, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    while sys.stdin.buffer.read(4096):
        pass
    kill_noted(folder)
    remove(folder)


if __name__ == "__main__":
    main()
