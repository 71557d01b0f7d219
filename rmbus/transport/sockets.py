"""ZeroMQ sockets with the one profile of options that rmbus uses."""

from __future__ import annotations

import socket
from pathlib import Path

import attrs
import zmq

from rmbus.errors import ConnectFailed
from rmbus.protocol.limits import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES

Socket = zmq.Socket[bytes]

_PROFILE = {
    zmq.LINGER: 0,  # a sender that must not lose anything waits for the acknowledgement, not for a linger
    zmq.SNDHWM: 10_000,  # credit bounds what is under way; this only bounds what credit does not govern
    zmq.RCVHWM: 10_000,
    zmq.HANDSHAKE_IVL: 5_000,
    zmq.CONNECT_TIMEOUT: 1_000,
    zmq.RECONNECT_IVL: 100,
    zmq.RECONNECT_IVL_MAX: 1_000,
}
ZAP_DOMAIN = "rmbus"

_NETWORK = {zmq.HEARTBEAT_IVL: 500, zmq.HEARTBEAT_TIMEOUT: 1_500, zmq.TCP_KEEPALIVE: 1}


@attrs.frozen
class Curve:
    """The keys of one end of a CURVE connection, Z85 text. A client names its server's key; a server does not."""

    public: bytes
    secret: bytes = attrs.field(repr=False)
    server: bytes | None = None


def open_socket(
    context: zmq.Context[Socket],
    kind: int,
    *,
    curve: Curve | None = None,
    network: bool = False,
    max_bytes: int = MAX_PAYLOAD_BYTES + MAX_HEADER_BYTES,
) -> Socket:
    """Return a socket with the profile set.

    Args:
        context: the process's context.
        kind: `zmq.ROUTER` and so on.
        curve: keys; with `curve.server` this end is a client, without it the server.
        network: whether the peer may be on another machine: heartbeats are on.
        max_bytes: the largest message part that is taken; a peer that sends more is cut off.
    """
    opened: Socket = context.socket(kind)
    for option, value in _PROFILE.items():
        opened.setsockopt(option, value)
    opened.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    if network:
        for option, value in _NETWORK.items():
            opened.setsockopt(option, value)
    if kind == zmq.ROUTER:
        opened.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if curve is not None:
        opened.curve_publickey = curve.public
        opened.curve_secretkey = curve.secret
        if curve.server is None:
            opened.curve_server = True
            opened.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN.encode())
            opened.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        else:
            opened.curve_serverkey = curve.server
    return opened


def listen_unix(path: Path) -> socket.socket:
    """Bind and listen on a Unix socket; its descriptor can be handed to another process, which adopts it.

    Raises:
        ConnectFailed: the path is too long or taken.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConnectFailed(f"cannot listen on {path}: {error}") from error
    listener.listen(128)
    listener.setblocking(False)
    return listener


def adopt(opened: Socket, descriptor: int, path: str) -> None:
    """Make a ZeroMQ socket serve a listening Unix socket that another process has bound at `path`."""
    opened.setsockopt(zmq.USE_FD, descriptor)
    opened.bind(f"ipc://{path}")
