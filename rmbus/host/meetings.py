"""Two hosts of one user on one machine meet by `host.sock`, so that edges between them need no gateways.

A client tells the consumer's host of an edge first, which awaits the other; then the producer's host, which connects to
the consumer's once and keeps the connection, and claims the edge there. The consumer's host makes the page of counters
and the lane, as it does for its own edges, and offers the producer's end. Only when that was taken has either process
heard of the edge: until then the client may still join the two by their gateways instead.

From there on each host speaks to the other's process as to one of its own, by `FarEnd`: of memory that it lends or has
mapped, and of its end. What comes from another host is checked: it may break its connection, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from rmbus.errors import Broken, HostError, MalformedFrame, RmbusError
from rmbus.host.edges import Wiring
from rmbus.host.hosted import HostedSession
from rmbus.host.memory import is_sealed
from rmbus.host.peers import MAX_EDGES, FarEnd, Peer
from rmbus.protocol import messages
from rmbus.protocol.version import VERSIONS, negotiate
from rmbus.transport.counters import PAGE_BYTES
from rmbus.transport.reactor import Reactor, Timer
from rmbus.transport.umbilical import Umbilical

MEET_S: Final = 2.0
"""How long another host has to answer a claim."""

MAX_PEERS: Final = 64
"""Other hosts that a host meets at a time, each way."""

MAX_PATH_BYTES: Final = 107
"""Of a Unix socket."""

_MEET: Final = 1
"""The id of `meet`; edges are numbered after it."""

_CREDENTIALS: Final = struct.Struct("3i")

Reply = Callable[[messages.Message], None]


@attrs.define(eq=False)
class _Claimed:
    """An edge that another host was asked for, on behalf of a client that waits for the reply."""

    session: HostedSession
    link: messages.Link
    reply: Reply
    timer: Timer

    def fail(self, reason: str) -> None:
        self.timer.cancel()
        self.reply(messages.Refused("HostError", reason))


@attrs.define(eq=False)
class _Dialled:
    """A host that we have connected to, which has the consumers of our producers.

    Attributes:
        claims: what it was asked for; while it has not let us in (`is_met`), what it will be asked for.
    """

    peer: Peer
    claims: dict[int, _Claimed] = attrs.field(factory=dict[int, _Claimed])
    last_number: int = _MEET
    is_met: bool = False

    def ask(self, number: int) -> None:
        """Ask for an edge."""
        link = self.claims[number].link
        self.peer.send(messages.Claim(link.session, link.edge, link.token), number)


class Meetings:
    """The other hosts that this one has met.

    Args:
        sessions: those of this host, by name. name: of this host. token: what another host has to show here.
    """

    def __init__(
        self, reactor: Reactor, wiring: Wiring, sessions: Mapping[str, HostedSession], *, name: str, token: str
    ) -> None:
        self._reactor = reactor
        self._wiring = wiring
        self._memory = wiring.memory
        self._sessions = sessions
        self._name = name
        self._token = token
        self._dialled: dict[str, _Dialled] = {}
        self._guests: set[Peer] = set()

    def forget(self, session: HostedSession) -> None:
        """A session has ended: what it still waits for is not wanted any more."""
        for dialled in self._dialled.values():
            for number in [number for number, claim in dialled.claims.items() if claim.session is session]:
                self._fail(dialled, number, "the session has ended")

    # --- as the producer's host --------------------------------------------------------------------------------------

    def claim(self, session: HostedSession, link: messages.Link, reply: Reply) -> None:
        """Ask the consumer's host for an edge. The reply comes when that has answered, or has had its time.

        Raises:
            HostError: it cannot be reached.
        """
        session.endpoint(link.producer, None)
        dialled = self._reach(link.peer, link.secret)
        if len(dialled.claims) + len(dialled.peer.ends) >= MAX_EDGES:
            raise HostError(f"{MAX_EDGES} edges go to the host {dialled.peer.name} already")
        dialled.last_number += 1
        number = dialled.last_number
        late = f"the other host has not answered within {MEET_S:g} s"
        timer = self._reactor.call_later(MEET_S, lambda: self._fail(dialled, number, late))
        dialled.claims[number] = _Claimed(session, link, reply, timer)
        if dialled.is_met:
            dialled.ask(number)

    def _reach(self, path: str, token: str) -> _Dialled:
        """Return the connection to a host, made if there is none."""
        known = self._dialled.get(path)
        if known is not None and not known.peer.is_closed:
            return known
        if len(self._dialled) >= MAX_PEERS:
            raise HostError(f"this host has met {MAX_PEERS} others already")

        def said(_: Peer, number: int, message: messages.Message, descriptors: list[int]) -> None:
            self._from_consumers(dialled, number, message, descriptors)

        umbilical = Umbilical(_connect(path), is_host=True)
        peer = Peer(
            self._reactor,
            umbilical,
            "on this machine",
            on_message=said,
            on_lost=lambda _, reason: self._lost_dialled(path, dialled, reason),
        )
        dialled = self._dialled[path] = _Dialled(peer)
        peer.send(messages.Meet(token, self._name, VERSIONS), _MEET)
        return dialled

    def _from_consumers(
        self, dialled: _Dialled, number: int, message: messages.Message, descriptors: list[int]
    ) -> None:
        """Take what the consumer's host says."""
        if number == _MEET:
            self._let_in(dialled, message)
        elif isinstance(message, messages.Offer):
            self._offered(dialled, number, message, descriptors)
        elif isinstance(message, messages.Refused):
            self._fail(dialled, number, message.message)
        elif isinstance(message, messages.Gone) and number in dialled.claims:
            self._fail(dialled, number, "its consumer has ended")
        else:
            self._about(dialled.peer, number, message, messages.Mapped)

    @staticmethod
    def _let_in(dialled: _Dialled, message: messages.Message) -> None:
        """The other host has looked at our token."""
        if isinstance(message, messages.Refused):
            raise HostError(message.message)
        name = message.value.get("host") if isinstance(message, messages.Ok) else None
        if not isinstance(name, str) or dialled.is_met:
            raise MalformedFrame("a host answers `meet` once, with its name")
        dialled.peer.name = name[:80]
        dialled.is_met = True
        for number in dialled.claims:
            dialled.ask(number)

    def _offered(self, dialled: _Dialled, number: int, offer: messages.Offer, descriptors: list[int]) -> None:
        claim = dialled.claims.pop(number, None)
        if claim is None:
            dialled.peer.send(messages.Refused("HostError", "nobody waits for this edge any more"), number)
            return
        far = FarEnd(claim.session.name)
        try:
            page, lane = _checked_offer(offer, descriptors)
            edge = claim.session.take(claim.link, far, page, lane)
        except (RmbusError, OSError) as error:
            dialled.peer.send(messages.Refused("HostError", str(error)), number)
            claim.fail(str(error))
            return
        claim.timer.cancel()
        far.attach(dialled.peer, number)
        dialled.peer.send(messages.Ok(), number)
        self._memory.joined(edge)
        claim.reply(messages.Ok())

    @staticmethod
    def _fail(dialled: _Dialled, number: int, reason: str) -> None:
        """An edge was not had; where nobody waits for it any more, it does not matter."""
        claim = dialled.claims.pop(number, None)
        if claim is not None:
            claim.fail(reason)

    def _lost_dialled(self, path: str, dialled: _Dialled, reason: str) -> None:
        if self._dialled.get(path) is dialled:
            del self._dialled[path]
        for number in list(dialled.claims):
            self._fail(dialled, number, f"the other host: {reason}")
        self._lost(dialled.peer)

    # --- as the consumer's host --------------------------------------------------------------------------------------

    def arrived(self, umbilical: Umbilical, number: int, meet: messages.Meet) -> None:
        """Another host has connected. From now on it may claim what waits for it here.

        Raises:
            HostError: it may not. UnsupportedVersion: no version in common.
        """
        if not secrets.compare_digest(meet.token, self._token):
            raise HostError("a host that comes to meet this one shows the token of its connection file")
        negotiate(meet.versions, VERSIONS)
        if number != _MEET:
            raise HostError(f"a host that comes to meet this one numbers its first message {_MEET}")
        if len(self._guests) >= MAX_PEERS:
            raise HostError(f"{MAX_PEERS} other hosts have come here already")
        guest = Peer(self._reactor, umbilical, meet.host, on_message=self._from_producers, on_lost=self._lost_guest)
        self._guests.add(guest)
        guest.send(messages.Ok({"host": self._name}), _MEET)

    def _from_producers(self, guest: Peer, number: int, message: messages.Message, descriptors: list[int]) -> None:
        """Take what the producer's host says."""
        far = guest.ends.get(number)
        if isinstance(message, messages.Claim):
            self._claimed(guest, number, message)
        elif far is not None and far.edge.is_awaited:
            self._answered(far, message)
        elif isinstance(message, messages.Attach):
            if far is not None and not far.is_gone:
                self._lent(far, message, descriptors)
        elif far is not None or not isinstance(message, messages.Ok | messages.Refused):  # else: of a former offer
            self._about(guest, number, message, messages.Detach)

    def _claimed(self, guest: Peer, number: int, claim: messages.Claim) -> None:
        """Offer an edge to the host of its producer, if it is this one's and waits."""
        session = self._sessions.get(claim.session)
        edge = None if session is None else session.edges.get(claim.edge)
        far = None if edge is None else edge.producer
        refusal = ""
        if edge is None or not isinstance(far, FarEnd) or not secrets.compare_digest(edge.link.token, claim.token):
            refusal = f"no edge {claim.edge} of session {claim.session} is expected here, or not with this token"
        elif not edge.is_awaited or far.peer is not None or far.is_gone:
            refusal = f"edge {claim.edge} of session {claim.session} is taken, or its consumer has ended"
        elif len(guest.ends) >= MAX_EDGES:
            refusal = f"{MAX_EDGES} edges come from this host already"
        if edge is None or not isinstance(far, FarEnd) or refusal:
            guest.send(messages.Refused("HostError", refusal), number)
            return
        far.attach(guest, number)
        guest.send(messages.Offer(page=0, lane=1), number, self._wiring.offer(edge))

    def _answered(self, far: FarEnd, message: messages.Message) -> None:
        """The producer's host has taken the offer, or not."""
        if isinstance(message, messages.Ok):
            self._wiring.begin(far.edge)
        elif isinstance(message, messages.Refused | messages.Gone):
            _take_back(far)
        else:
            raise MalformedFrame(f"an offer is answered by ok or refused, and not by {message.tag!r}")

    def _lent(self, far: FarEnd, attach: messages.Attach, descriptors: list[int]) -> None:
        far.asked(attach.segment)
        try:
            self._memory.lent(far, far.edge.link.out, attach, _given(descriptors, attach.descriptor))
        except Broken as error:
            far.send(messages.Mapped(attach.segment, str(error)))

    def _lost_guest(self, guest: Peer, reason: str) -> None:
        self._guests.discard(guest)
        self._lost(guest)

    # --- both --------------------------------------------------------------------------------------------------------

    def _about(self, peer: Peer, number: int, message: messages.Message, allowed: type[messages.Message]) -> None:
        """Take what is said of an edge that is up; of one that has been left meanwhile it means nothing any more."""
        if not isinstance(message, messages.Gone | allowed):
            raise MalformedFrame(f"a host does not say {message.tag!r} of an edge to the host at its other end")
        far = peer.ends.get(number)
        if far is None or far.is_gone:
            return
        if isinstance(message, messages.Gone):
            far.is_gone = True
            self._wiring.ended(far, died=message.reason != "consumer_ended")
        elif isinstance(message, messages.Detach):
            self._memory.withdrawn(far, message.segment)
        else:
            self._memory.heard(far, message)

    def _lost(self, peer: Peer) -> None:
        """A connection is gone: its edges have lost their other ends, and their sessions are told."""
        lost: dict[str, list[int]] = {}
        for far in list(peer.ends.values()):
            if far.edge.is_awaited:
                _take_back(far)
            elif not far.is_gone:
                far.is_gone = True
                self._wiring.ended(far, died=True)
                lost.setdefault(far.session, []).append(far.edge.link.edge)
            far.detach()
        for name, edges in lost.items():
            if name in self._sessions:
                self._sessions[name].tell(messages.PeerLost(name, f"the host {peer.name}", edges))


def _take_back(far: FarEnd) -> None:
    """An edge was not taken: it waits for somebody else."""
    far.detach()
    far.edge.take_back()


def _connect(path: str) -> socket.socket:
    """Connect to the `host.sock` of another host of this user, and of nobody else.

    Raises:
        HostError: there is none to be reached.
    """
    door = Path(path)
    if door.name != "host.sock" or not door.is_absolute() or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise HostError(f"{path[:200]!r} is no path of a host.sock")
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        facts = door.parent.stat()
        if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise HostError("the folder of the other host's host.sock is not this user's alone")
        end.setblocking(False)  # a host that does not take in those who come is not waited for
        end.connect(path)
        _, uid, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.getuid():
            raise HostError("who listens at the other host's host.sock is another user")
    except OSError as error:
        end.close()
        raise HostError(f"host.sock of the other host cannot be reached: {error.strerror}") from error
    except HostError:
        end.close()
        raise
    return end


def _given(descriptors: list[int], place: int) -> int:
    """Return the descriptor at a place among those that came."""
    if not 0 <= place < len(descriptors):
        raise MalformedFrame("a message names a descriptor that has not come with it")
    return descriptors[place]


def _checked_offer(offer: messages.Offer, descriptors: list[int]) -> tuple[int, int]:
    """Return the page and the lane that came with an offer, if they are what they should be.

    Raises:
        MalformedFrame: they are not.
    """
    page, lane = _given(descriptors, offer.page), _given(descriptors, offer.lane)
    if os.fstat(page).st_size != PAGE_BYTES or not is_sealed(page, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW):
        raise MalformedFrame("what came as a page of counters is none")
    if not stat.S_ISSOCK(os.fstat(lane).st_mode):
        raise MalformedFrame("what came as a lane is no socket")
    with socket.socket(fileno=os.dup(lane)) as end:
        if (end.family, end.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            raise MalformedFrame("what came as a lane is none")
    return page, lane
