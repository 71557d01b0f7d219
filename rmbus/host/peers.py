"""Other hosts of the same user on this machine: the connection to one, and the ends of edges that are there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from rmbus.errors import Closed, MalformedFrame, RmbusError
from rmbus.host.endpoints import End
from rmbus.protocol import messages
from rmbus.transport.reactor import Reactor
from rmbus.transport.umbilical import Umbilical, close_all

if TYPE_CHECKING:
    from rmbus.host.edges import HostedEdge

MAX_EDGES: Final = 1024
"""Edges over one connection at a time."""

MAX_UNSENT: Final = 4 * MAX_EDGES
"""Messages that wait for another host to read; one that lets more of them wait is taken for lost."""

OnMessage = Callable[["Peer", int, messages.Message, list[int]], None]
"""Takes a message of another host: the connection, the number of the edge, the message, the descriptors with it, which
are closed when this returns."""

OnLost = Callable[["Peer", str], None]


@attrs.define(eq=False)
class _Unsent:
    message: messages.Message
    number: int
    descriptors: list[int]


class Peer:
    """The connection to another host.

    Whatever comes over it, this end of it may close, but the host goes on.

    Attributes:
        name: what the other host is called. ends: the far ends of the edges that it carries, by number.
    """

    def __init__(
        self, reactor: Reactor, umbilical: Umbilical, name: str, *, on_message: OnMessage, on_lost: OnLost
    ) -> None:
        self.name = name
        self.ends: dict[int, FarEnd] = {}
        self.is_closed = False
        self._reactor = reactor
        self._umbilical = umbilical
        self._on_message = on_message
        self._on_lost = on_lost
        self._unsent: deque[_Unsent] = deque()
        reactor.add(umbilical.fileno(), self._readable)

    def send(self, message: messages.Message, number: int, descriptors: Sequence[int] = ()) -> None:
        """Send a message about an edge, or keep it until there is room; the descriptors are given away."""
        if self.is_closed:
            close_all(descriptors)
            return
        self._unsent.append(_Unsent(message, number, list(descriptors)))
        if len(self._unsent) == 1:
            self._flush()
        elif len(self._unsent) > MAX_UNSENT:
            self.close("it does not read")

    def close(self, reason: str) -> None:
        """Close the connection; `on_lost` is called afterwards, never from within."""
        if self.is_closed:
            return
        self.is_closed = True
        self._reactor.remove(self._umbilical.fileno())
        self._umbilical.close()
        for each in self._unsent:
            close_all(each.descriptors)
        self._unsent.clear()
        self._reactor.call_soon(partial(self._on_lost, self, reason))

    def _flush(self) -> None:
        while self._unsent:
            first = self._unsent[0]
            try:
                if not self._umbilical.try_send(first.message, first.descriptors, first.number):
                    self._reactor.add_writer(self._umbilical.fileno(), self._flush)
                    return
            except RmbusError as error:
                self.close(str(error))
                return
            close_all(first.descriptors)
            self._unsent.popleft()

    def _readable(self) -> None:
        descriptors: list[int] = []
        try:
            number, message, descriptors = self._umbilical.receive()
            self._on_message(self, number, message, descriptors)
        except BlockingIOError:
            return
        except Closed:
            self.close("it has ended")
        except (RmbusError, OSError) as error:  # OSError: no descriptor is left to take what came
            self.close(f"it broke off: {error}")
        finally:
            close_all(descriptors)


class FarEnd:
    """The end of an edge that is at another host. What would be said to a process here, that host is told.

    Attributes:
        session: as of the process that it stands for. peer: the connection, None while nobody has come for the edge.
        number: of the edge there. is_gone: whether the edge has lost an end, here or there.
    """

    edge: HostedEdge

    def __init__(self, session: str) -> None:
        self.session = session
        self.peer: Peer | None = None
        self.number = 0
        self.is_gone = False
        self._answers: dict[int, str] = {}

    @property
    def worker(self) -> FarEnd:
        """What is spoken to: itself."""
        return self

    def may_lend_on(self, owner: End) -> bool:
        """Whether it may see memory of another process that comes by way of a third."""
        return self.session != "" and self.session == owner.session

    def attach(self, peer: Peer, number: int) -> None:
        """From now on it is at that host.

        Raises:
            MalformedFrame: the number is taken, or none.
        """
        if number < 1 or number in peer.ends:
            raise MalformedFrame(f"the number {number} of an edge is taken, or none")
        peer.ends[number] = self
        self.peer, self.number = peer, number

    def detach(self) -> None:
        """It is nowhere any more."""
        if self.peer is not None:
            self.peer.ends.pop(self.number, None)
            self.peer = None

    def leave(self) -> None:
        """The edge is forgotten here: tell the other host, if it does not know yet."""
        self.send(messages.Gone(self.edge.link.edge, "consumer_ended" if self.is_producer else "producer_died"))
        self.detach()

    @property
    def is_producer(self) -> bool:
        """Whether the edge begins here."""
        return self.edge.producer is self

    def send(self, message: messages.Message, descriptors: Sequence[int] = ()) -> None:
        """Tell the other host; the descriptors are given away. Nothing is told of an edge that has lost an end."""
        said = self._answer(message) if isinstance(message, messages.Usable) else message
        peer = None if self.is_gone else self.peer
        self.is_gone = self.is_gone or isinstance(said, messages.Gone)
        if peer is None or said is None:
            close_all(descriptors)
        else:
            peer.send(said, self.number, descriptors)

    def asked(self, segment: int) -> None:
        """The other host lends a segment, and waits for the word that it is mapped here."""
        self._answers.pop(segment, None)

    def _answer(self, usable: messages.Usable) -> messages.Mapped | None:
        """Return the word about a segment for the other host; None where that would say nothing new.

        That the segment is given up here, the other host knows by itself: it was its own, or it was told.
        """
        problem = "" if usable.edges else self.edge.problem
        if self._answers.get(usable.segment) == problem or not (usable.edges or problem):
            return None
        self._answers[usable.segment] = problem
        return messages.Mapped(usable.segment, problem)
