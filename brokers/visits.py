"""Visits: processes on other machines that have joined this host, and reach it by the gateway."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs

from rmbus.errors import MalformedFrame
from rmbus.protocol import messages
from rmbus.protocol.lane import Buffer
from rmbus.transport.lane_ends import take_end
from rmbus.transport.mirroring import Mirror
from rmbus.transport.reactor import Reactor
from rmbus.transport.umbilical import Umbilical, close_all
from rmbus.transport.visits import SETTLE_S, Relay

CLAIM_S: Final = 10.0
"""Whoever has been admitted has so long to come."""

MAX_EXPECTED: Final = 256
"""So many may have been admitted and not come yet."""

MAX_VISITS: Final = 1024
"""So many may be there or be expected: each takes descriptors of the gateway."""

Send = Callable[[Sequence[Buffer]], None]
"""Sends parts to a visitor; Closed: they cannot be sent."""


class Host(Relay):
    """The relay that stands where the process would: at the host's end of things."""

    def _told(self, message: messages.Message) -> None:
        """Pass on what a process may say that sees no memory of this machine."""
        if isinstance(message, messages.NodeEvent):
            self.settle(partial(self.hand_on, message))  # its last word comes after its last frame
        elif isinstance(message, messages.Cancel | messages.Linked):
            self.hand_on(message)
        else:
            raise MalformedFrame(f"a process on another machine does not say {message.tag!r}")

    def _far_ended(self) -> None:
        self._reactor.call_later(SETTLE_S, partial(self.end, "what it has sent is not read"))
        self.settle(self._umbilical.finish)

    def _pass_on(self, message: messages.Message, descriptors: list[int]) -> None:
        if isinstance(message, messages.Input | messages.Output):
            page, end = take_end(message, descriptors)
            mirror = Mirror(page, is_producer_near=isinstance(message, messages.Input))
            self.carry(message.edge, end, mirror)
            self.say(message)
            return
        close_all(descriptors)
        if isinstance(message, messages.Gone):
            self.take_down(message.edge, partial(self.say, message))
        else:
            self.say(message)

    def _near_ended(self) -> None:
        self.say_end()
        self.end("it was cut off by the host")

    def _over(self, reason: str) -> None:
        """Its host sees the end of the umbilical."""


@attrs.define(eq=False)
class _Expected:
    """A visit that nobody has come for yet."""

    umbilical: socket.socket
    token: bytes


class Visits:
    """All of a gateway's visits."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._expected: dict[bytes, _Expected] = {}
        self._there: dict[bytes, tuple[Host, object]] = {}

    def expect(self, message: messages.Visit, umbilical: int) -> None:
        """Somebody will come; the descriptor is given away. Of too many the rest is turned away: the host sees that."""
        if len(self._expected) >= MAX_EXPECTED or len(self._expected) + len(self._there) >= MAX_VISITS:
            close_all([umbilical])
            return
        name = message.visit.encode()
        expected = self._expected[name] = _Expected(socket.socket(fileno=umbilical), message.token)
        self._reactor.call_later(CLAIM_S, partial(self._give_up, name, expected))

    def claim(self, name: bytes, token: bytes, place: object, send: Send) -> bool:
        """Somebody shows a token for a visit; whether it is one that is expected.

        Args:
            name: of the visit. place: where he is: only what comes from there is of his visit.
            send: sends parts there; the name of the visit is put in front.
        """
        expected = self._expected.get(name)
        if expected is None or not secrets.compare_digest(expected.token, token):
            return False
        del self._expected[name]
        umbilical = Umbilical(expected.umbilical, is_host=True)
        relay = Host(self._reactor, umbilical, lambda parts: send([name, *parts]), partial(self._forget, name))
        self._there[name] = relay, place
        return True

    def arrive(self, name: bytes, place: object, parts: Sequence[memoryview]) -> bool:
        """Take what has come; whether it is of a visit."""
        relay, its_place = self._there.get(name, (None, None))
        if relay is not None and its_place == place:
            relay.arrive(parts)
        return relay is not None

    def lost(self, is_lost: Callable[[object], bool]) -> None:
        """The connection to some places has gone."""
        for relay, place in list(self._there.values()):
            if is_lost(place):
                relay.lose("the connection was lost")

    def _forget(self, name: bytes) -> None:
        del self._there[name]

    def _give_up(self, name: bytes, expected: _Expected) -> None:
        if self._expected.get(name) is expected:
            del self._expected[name]
            expected.umbilical.close()
