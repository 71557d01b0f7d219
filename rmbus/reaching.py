"""The way to a host at an address: one of this user's own on this machine, or one that ssh reaches."""

from __future__ import annotations

import attrs

from rmbus.client import find_bus, find_connection
from rmbus.ssh import Tunnel, is_ssh
from rmbus.transport.security import Connection


@attrs.frozen
class Way:
    """A connection, and what has to be closed after it.

    Attributes:
        tunnel: what it goes through, if anything.
    """

    connection: Connection
    tunnel: Tunnel | None = None

    def close(self) -> None:
        """Close what it goes through."""
        if self.tunnel is not None:
            self.tunnel.close()


def reach(address: str) -> Way:
    """Return the way to the host at an address.

    Raises:
        ConnectFailed: there is none, or ssh cannot log in.
    """
    if is_ssh(address):
        tunnel = Tunnel(address)
        return Way(tunnel.connection, tunnel)
    return Way(find_connection(address))


def reach_bus(address: str | None) -> Way:
    """Return the way to the host at an address, None: to any of this user's on this machine.

    Raises:
        ConnectFailed: there is none, or ssh cannot log in.
    """
    return reach(address) if address is not None and is_ssh(address) else Way(find_bus(address))
