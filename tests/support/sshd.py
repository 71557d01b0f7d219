"""A real sshd on loopback, whose logins land on "another machine": with a run folder and a cache of their own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

SSHD = Path("/usr/sbin/sshd")
PRIVILEGE_SEPARATION = Path("/run/sshd")


class Sshd:
    """Serves logins of this user, by a key of its own, on a free port.

    A context manager; at its end no login, no process and no file may be left.

    Attributes:
        command: for `$RMBUS_SSH`: there the machine is called `box`. run_folder: the runtime folder of the logins.
        config: the client's configuration, to add to.
    """

    def __init__(self, folder: Path, *, more: str = "") -> None:
        """Prepare it; `more` goes to its configuration."""
        self.folder = folder
        self.run_folder = Path(tempfile.mkdtemp(prefix="rmbus-box-", dir="/tmp"))  # the path of a socket must be short
        self.config = folder / "ssh_config"
        self.command = f"ssh -F {self.config}"
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder / 'host_key'}\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder / 'authorized'}\nUsePAM no\nPasswordAuthentication no\nLogLevel VERBOSE\n"
            f"SetEnv PATH={path} XDG_RUNTIME_DIR={self.run_folder} XDG_CACHE_HOME={folder / 'cache'}\n{more}"
        )
        self.config.write_text(
            f"Host box\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {folder / 'user_key'}\n  IdentitiesOnly yes\n  BatchMode yes\n"
            f"  UserKnownHostsFile {folder / 'known'}\n  StrictHostKeyChecking accept-new\n"
        )

    def __enter__(self) -> Self:
        self._made_folder = os.getuid() == 0 and not PRIVILEGE_SEPARATION.exists()
        if self._made_folder:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755)
        self._log = (self.folder / "sshd.log").open("w")
        self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=self._log)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(f"sshd did not come up: {(self.folder / 'sshd.log').read_text()}") from None
                time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()
        if self._made_folder:
            PRIVILEGE_SEPARATION.rmdir()
        left = [path.name for path in self.run_folder.rglob("*")]
        shutil.rmtree(self.run_folder)
        if kind is None:
            assert not left, f"a login has left {left}"

    def logins(self) -> int:
        """Return how many logins there have been."""
        return (self.folder / "sshd.log").read_text().count("Accepted publickey")

    def sessions(self) -> list[int]:
        """Return the processes that logins of this server run now."""
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"XDG_RUNTIME_DIR={self.run_folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
        return found
