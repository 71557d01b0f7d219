"""Hosts that are reached by the user's own ssh: `ssh://[user@]host[:port][/path/to/rmbus]`.

One `ssh` runs `rmbus host --for-ssh` there, which finds a host of that user or starts one, and tells how to speak to
it. The sockets of that host are then forwarded over the same connection (`ssh -O forward`, see ssh(1) under
ControlMaster), so nothing listens on a port, and no key of ours has to be set up. `$RMBUS_SSH` is the command to use
instead of `ssh`, with arguments if need be.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from typing import IO, Any, Final
from urllib.parse import unquote

import attrs

from rmbus.errors import ConnectFailed
from rmbus.host import janitor
from rmbus.printing import plain, print_line
from rmbus.transport import runfolder
from rmbus.transport.runfolder import RunFolder
from rmbus.transport.security import Connection

SCHEME: Final = "ssh://"

LOGIN_S: Final = 120.0
"""How long ssh may take to log in, a password typed by hand included, and the host there to come up."""

FORWARD_S: Final = 10.0
END_S: Final = 3.0

MARK: Final = "rmbus-host "
"""What the line begins with in which the far side tells how to speak to its host; a login may print others."""

MAX_LINE_BYTES: Final = 64 * 1024

_ADDRESS: Final = re.compile(
    r"ssh://(?P<user>[A-Za-z0-9._+\\][A-Za-z0-9._+\\-]*@)?(?P<host>[A-Za-z0-9._][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.%a-z]+\])"
    r"(:(?P<port>[0-9]{1,5}))?(?P<path>/[^?#]*)?"
)

SOCKETS: Final = ("client.sock", "gateway.sock", "events.sock")


@attrs.frozen
class Target:
    """What an address says.

    Attributes:
        destination: `[user@]host`, as ssh takes it. port: None: what ssh's own configuration says.
        command: the program there.
    """

    destination: str
    port: int | None
    command: str

    @classmethod
    def parse(cls, address: str) -> Target:
        """Read an address.

        Raises:
            ConnectFailed: it is none.
        """
        found = _ADDRESS.fullmatch(address)
        port = int(found["port"]) if found and found["port"] else None
        if found is None or port == 0 or (port or 0) > 65535 or not unquote(found["path"] or "").isprintable():
            # It may hold a password, and is not repeated.
            raise ConnectFailed(
                "this is no address of ssh: write ssh://[user@]host[:port], and behind it where rmbus is there if it "
                "is not on the path: ssh://box/opt/venv/bin/rmbus. Passwords are ssh's own to ask for"
            )
        return cls((found["user"] or "") + found["host"].strip("[]"), port, unquote(found["path"] or "") or "rmbus")


class Tunnel:
    """A host there, as if it were here, as long as this is open.

    Attributes:
        connection: to it.
    """

    def __init__(self, address: str) -> None:
        """Log in.

        Raises:
            ConnectFailed: ssh, or rmbus there, has failed; with its own words.
        """
        self._target = Target.parse(address)
        self._address = address
        program = self._program()[0]
        if shutil.which(program) is None:
            raise ConnectFailed(f"{program} is not installed here, and {address} is reached by it (openssh-client)")
        self._words: deque[str] = deque(maxlen=20)
        self._is_up = self._is_closed = False
        self._owner = os.getpid()
        runfolder.sweep()
        self._folder = RunFolder()
        self._janitor = janitor.start(self._folder)
        try:
            self._ssh = self._login()
            self._folder.note_process(self._ssh.pid)
            self._hearing = threading.Thread(target=self._hear, name="rmbus-ssh", daemon=True)
            self._hearing.start()
            told = self._wait_for_word()
            self._forward(told)
        except BaseException:
            self.close()
            raise
        self.connection = attrs.evolve(told, address=f"ipc://{self._folder.path / SOCKETS[0]}", local="", token="")
        self._is_up = True

    def close(self) -> None:
        """Log out; a host that was started for this ends. Harmless when it is closed."""
        if self._is_closed or os.getpid() != self._owner:
            return
        self._is_closed = True
        ssh: subprocess.Popen[bytes] | None = getattr(self, "_ssh", None)
        if ssh is not None:
            self._end(ssh)
        assert self._janitor.stdin is not None
        self._janitor.stdin.close()  # it removes the folder
        self._janitor.wait()
        if self._folder.path.exists():  # the janitor was killed before
            self._folder.remove()

    def _login(self) -> subprocess.Popen[bytes]:
        target = self._target
        command = f"exec {shlex.quote(target.command)} host --for-ssh"
        options = ["-T", "-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-o", "StreamLocalBindUnlink=yes"]
        argv = [*self._program(), *options, *self._where(), "--", target.destination, command]
        # A Ctrl-C in the terminal is for the script, which then ends what it has there; yet ssh keeps the terminal, to
        # ask for a password.
        wrapped = ["/bin/sh", "-c", 'trap "" INT QUIT; exec "$@"', "sh", *argv]
        return subprocess.Popen(wrapped, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _forward(self, told: Connection) -> None:
        """Forward the sockets of the host there to ones in a folder of ours."""
        forwards: list[str] = []
        for name in SOCKETS:
            forwards += ["-L", f"{self._folder.path / name}:{told.beside(name)}"]
        argv = [*self._program(), *self._where(), "-O", "forward", *forwards, "--", self._target.destination]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=FORWARD_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConnectFailed(f"ssh cannot forward the sockets of the host at {self._address}: {error}") from error
        if done.returncode:
            raise self._not_forwarded(done.stderr.decode(errors="replace").strip())
        # Whether the far side allows it shows when the socket is used, and not before: a host greets whoever connects.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.settimeout(FORWARD_S)
            try:
                probe.connect(str(self._folder.path / SOCKETS[0]))
                if not probe.recv(1):
                    raise self._not_forwarded("it was refused there" + self._told())
            except OSError as error:
                raise self._not_forwarded(str(error)) from error

    def _not_forwarded(self, why: str) -> ConnectFailed:
        return ConnectFailed(
            f"ssh cannot forward the sockets of the host at {self._address} (is AllowStreamLocalForwarding on in the "
            f"sshd_config there?): {why}"
        )

    def _program(self) -> list[str]:
        return shlex.split(os.environ.get("RMBUS_SSH", "")) or ["ssh"]

    def _where(self) -> list[str]:
        port = [] if self._target.port is None else ["-p", str(self._target.port)]
        return ["-o", f"ControlPath={self._folder.path / 'ssh'}", *port]

    def _wait_for_word(self) -> Connection:
        """Wait until the far side tells how to speak to its host."""
        deadline, got = time.monotonic() + LOGIN_S, b""
        assert self._ssh.stdout is not None
        waiting = select.poll()  # unlike select() it takes descriptors of any number
        waiting.register(self._ssh.stdout, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectFailed(f"no host came up at {self._address} within {LOGIN_S:g} s{self._told()}")
            if not waiting.poll(left * 1000):
                continue
            data = os.read(self._ssh.stdout.fileno(), 4096)
            if not data:
                raise self._failed()
            *lines, got = (got + data).split(b"\n")
            for line in lines:
                if line.startswith(MARK.encode()):
                    return self._read(line[len(MARK) :])
            if len(got) > MAX_LINE_BYTES:
                raise ConnectFailed(f"what {self._address} prints at a login is no text of lines")

    def _read(self, line: bytes) -> Connection:
        try:
            told: dict[str, Any] = json.loads(line)
            known = {field.name for field in attrs.fields(Connection)}
            if not all(
                isinstance(told.get(name, ""), str) for name in ("address", "local", "server", "public", "secret")
            ):
                raise TypeError("its addresses and keys are no text")
            return Connection(**{name: value for name, value in told.items() if name in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise ConnectFailed(f"rmbus at {self._address} speaks otherwise than this one: {error}") from error

    def _failed(self) -> ConnectFailed:
        try:
            status = self._ssh.wait(END_S)
        except subprocess.TimeoutExpired:
            return ConnectFailed(f"cannot reach {self._address}: ssh has said its last, and does not end{self._told()}")
        self._hearing.join(END_S)
        if status == 127:
            return ConnectFailed(
                f"{self._target.command} is not there at {self._target.destination}: install rmbus there, or say where "
                f"it is, as in ssh://{self._target.destination}/opt/venv/bin/rmbus{self._told()}"
            )
        what = "ssh failed" if status == 255 else f"rmbus there ended with exit status {status}"
        return ConnectFailed(f"cannot reach {self._address}: {what}{self._told()}")

    def _told(self) -> str:
        return "".join(f"\n  {word}" for word in self._words)

    def _hear(self) -> None:
        """Take what ssh and the host there print to standard error; once the host is up, it is for the terminal."""
        assert self._ssh.stderr is not None
        errors: IO[bytes] = self._ssh.stderr
        for line in iter(lambda: errors.readline(MAX_LINE_BYTES), b""):
            text = line.decode(errors="replace").rstrip()
            if self._is_up and not self._is_closed:
                print_line(self._target.destination, text)
            elif text:
                self._words.append(plain(text))

    def _end(self, ssh: subprocess.Popen[bytes]) -> None:
        assert ssh.stdin is not None
        assert ssh.stdout is not None
        assert ssh.stderr is not None
        with contextlib.suppress(OSError):
            ssh.stdin.close()  # the far side sees it, and ends
        for end in (ssh.terminate, ssh.kill, ssh.kill):
            try:
                ssh.wait(END_S)
                break
            except subprocess.TimeoutExpired:
                end()
        self._hearing.join(END_S)
        ssh.stdout.close()
        if (
            not self._hearing.is_alive()
        ):  # else a process that ssh has left behind holds it, such as a master of its own
            ssh.stderr.close()


def tell(connection: Connection) -> None:
    """Tell whoever has logged in how to speak to a host here."""
    sys.stdout.write(f"{MARK}{json.dumps(attrs.asdict(connection))}\n")
    sys.stdout.flush()


def is_ssh(address: str) -> bool:
    """Whether an address is of a host that ssh reaches."""
    return address.startswith(SCHEME)
