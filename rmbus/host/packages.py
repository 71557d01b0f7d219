"""The packages of a host for its clients: whoever was told that one is here finds it here when he starts a node."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Final

import attrs

from rmbus.errors import HostError, PackagingError
from rmbus.shipping.store import Held, Hold, Store
from rmbus.transport.reactor import Reactor

LEASE_S: Final = 120.0
"""A client that was told of packages, and then asks and sends nothing for so long, has given up its start. (Up to twice
as long, by the clock that is looked at.)"""

MAX_LEASES: Final = 256
"""Packages that may be kept for starts that are to come, over all clients: each takes a descriptor."""


@attrs.define
class _Leases:
    """What is kept for one client, by address; and whether it has been heard since the clock was last looked at."""

    holds: dict[str, Hold] = attrs.field(factory=dict[str, Hold])
    heard: bool = True


class Packages:
    """The store, with a lease on every package that a client was told of, until its start or its end, or for a time.

    Args:
        store: the store. reactor: calls when leases are over.
    """

    def __init__(self, store: Store, reactor: Reactor) -> None:
        self._store = store
        self._reactor = reactor
        self._clients: dict[Hashable, _Leases] = {}

    def have(self, client: Hashable, address: str) -> Held:
        """Return how much of a package is here. What is complete stays until the client's `start`.

        Raises:
            HostError: too many packages are kept for starts already.
        """
        return self._leased(client, address, self._store.have(address))

    def put(self, client: Hashable, address: str, offset: int, data: bytes, total: int) -> Held:
        """Take a chunk, as `Store.put` does. A package that is complete by it stays until the client's `start`.

        Raises:
            RmbusError: see `Store.put` and `have`.
        """
        return self._leased(client, address, self._store.put(address, offset, data, total))

    def start(self, client: Hashable, address: str) -> tuple[int, Hold]:
        """Return a descriptor of a package for a node's process, and what keeps it here for as long as that runs.

        Raises:
            PackagingError: it is not here.
        """
        hold = self._store.hold(address)
        try:
            package = self._store.open(address)
        except BaseException:
            hold.close()
            raise
        leases = self._clients.get(client)
        if leases is not None and address in leases.holds:
            leases.holds.pop(address).close()
        return package, hold

    def open(self, address: str) -> int:
        """Return a descriptor of a package that is held, for another process of the same node.

        Raises:
            PackagingError: it is not here.
        """
        return self._store.open(address)

    def lost(self, client: Hashable) -> None:
        """Let go of what was kept for a client that is gone."""
        leases = self._clients.pop(client, None)
        for hold in leases.holds.values() if leases is not None else ():
            hold.close()

    def close(self) -> None:
        """Let go of everything."""
        for client in list(self._clients):
            self.lost(client)

    def _leased(self, client: Hashable, address: str, held: Held) -> Held:
        leases = self._clients.get(client)
        if leases is not None:
            leases.heard = True
        if not held.complete or (leases is not None and address in leases.holds):
            return held
        if sum(len(each.holds) for each in self._clients.values()) >= MAX_LEASES:
            raise HostError(
                f"{MAX_LEASES} packages are kept here for nodes that have not been started; start them first"
            )
        try:
            hold = self._store.hold(address)
        except PackagingError:  # another host has collected it this very moment
            return Held(complete=False, offset=0)
        if leases is None:
            leases = self._clients[client] = _Leases()
            self._reactor.call_later(LEASE_S, partial(self._tick, client, leases))
        leases.holds[address] = hold
        return held

    def _tick(self, client: Hashable, leases: _Leases) -> None:
        if self._clients.get(client) is not leases:
            return
        if leases.heard and leases.holds:
            leases.heard = False
            self._reactor.call_later(LEASE_S, partial(self._tick, client, leases))
        else:
            self.lost(client)
