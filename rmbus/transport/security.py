"""Keys: who may talk to a host, and how a client of the same user finds one.

A host makes its CURVE keys (RFC 26/CurveZMQ) and one pair for the clients of its user, and writes both into a
connection file in its run folder (0700), mode 0600. Whoever can read the file is the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import attrs
import zmq
from zmq.auth.thread import ThreadAuthenticator

from rmbus.errors import ConnectFailed
from rmbus.transport import runfolder
from rmbus.transport.sockets import ZAP_DOMAIN, Curve, Socket

CONNECTION_FILE = "connection.json"


def make_pair() -> tuple[bytes, bytes]:
    """Return a new CURVE key pair, public and secret, as Z85 text."""
    public, secret = zmq.curve_keypair()
    return public, secret


@attrs.frozen
class Connection:
    """What a client needs to reach a host.

    Attributes:
        address: `tcp://…` or `ipc://…`. server: the host's public key. public, secret: the client's pair.
        identity: unique to this run of the host. pid: its process. name: what it is called.
        local: the `ipc` address for clients on this machine. token: shown by processes that join by `host.sock`.
        prefix: of its interpreter: where that is the client's too, they have one environment.
        passing: whether it ends with whoever has started it: a script, or a login by ssh.
    """

    address: str
    identity: str
    pid: int
    name: str = ""
    local: str = ""
    token: str = attrs.field(default="", repr=False)
    server: str = ""
    public: str = ""
    secret: str = attrs.field(default="", repr=False)
    prefix: str = ""
    passing: bool = False

    @property
    def curve(self) -> Curve | None:
        """The keys, as a socket takes them; None where the address needs none."""
        if not self.server:
            return None
        return Curve(self.public.encode(), self.secret.encode(), self.server.encode())

    @property
    def shares_environment(self) -> bool:
        """Whether the host's environment is that of this process: what is installed here is there."""
        return bool(self.local) and self.prefix == sys.prefix

    @property
    def host_socket(self) -> Path | None:
        """Where processes join the host, and other hosts meet it; None where it is not on this machine."""
        return self.beside("host.sock") if self.local else None

    @property
    def is_forwarded(self) -> bool:
        """Whether its sockets are here, and the host is elsewhere."""
        return not self.local and self.address.startswith("ipc://")

    def beside(self, name: str) -> Path:
        """Return the path of another socket in the host's run folder, or of what ssh forwards to it."""
        return Path((self.local or self.address).removeprefix("ipc://")).with_name(name)

    def gateway_at(self, told: str) -> str:
        """Return the address of the host's gateway, from here.

        Args:
            told: where the host says that it listens.
        """
        return f"ipc://{self.beside('gateway.sock')}" if self.is_forwarded else told

    def write(self, folder: Path) -> None:
        """Write the connection file, readable for its owner only, in one step."""
        aside = folder / (CONNECTION_FILE + ".new")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(attrs.asdict(self), file)
        aside.rename(folder / CONNECTION_FILE)

    @classmethod
    def read(cls, folder: Path) -> Connection:
        """Read the connection file of a run folder.

        Raises:
            ConnectFailed: it cannot be read, belongs to somebody else, or others may read it.
        """
        path = folder / CONNECTION_FILE
        try:
            with path.open(encoding="utf-8") as file:
                facts = os.fstat(file.fileno())
                if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
                    raise ConnectFailed(f"{path} must belong to you and be readable for you alone (chmod 600)")
                known = {field.name for field in attrs.fields(cls)}
                return cls(**{name: value for name, value in json.load(file).items() if name in known})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ConnectFailed(f"cannot read {path}: {error}") from error


class _Known:
    """The credentials callback of ZAP; it never raises, since one exception would end the authenticator."""

    def __init__(self, keys: frozenset[bytes]) -> None:
        self.keys = keys

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self.keys


class KeyGuard:
    """Answers ZAP requests (RFC 27) of the CURVE servers of one context: known keys pass, others do not."""

    def __init__(self, context: zmq.Context[Socket], keys: frozenset[bytes]) -> None:
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain=ZAP_DOMAIN, credentials_provider=_Known(keys))

    def close(self) -> None:
        """Stop answering."""
        self._authenticator.stop()


def connections() -> list[Connection]:
    """Return the connections to this user's running hosts."""
    found: list[Connection] = []
    for folder in runfolder.folders():
        if runfolder.is_held(folder) and (folder / CONNECTION_FILE).exists():
            with contextlib.suppress(ConnectFailed):  # another host that is just ending, or that has made it wrong
                found.append(Connection.read(folder))
    return found
