"""The data thread of a node that may be started anew: its edges outlive the death of their other ends, and its own.

What it adds to `NodeLoop`: an input is acknowledged when all that was made from it has been; frames carry what they are
known again by; and an edge that is there already may be joined anew, at either end. See `transport.chain`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rmbus.delivery import Delivery
from rmbus.media import Frame
from rmbus.protocol import lane, messages
from rmbus.protocol.frames import Header, Identity, Kind, identities, with_identity
from rmbus.runtime.cooperative import CooperativeLoop
from rmbus.runtime.invoke import Invoker
from rmbus.runtime.links import Arrival, InputLink, OutputLink
from rmbus.runtime.loop import NodeLoop
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.outputs import OutputPort
from rmbus.transport import counters, memory
from rmbus.transport.chain import Cause, Chain, Due, Record, Seen
from rmbus.transport.counters import Edge, Page
from rmbus.transport.keeping import KeepingMailbox
from rmbus.transport.lanes import DealerLane, FastLane, Sending
from rmbus.transport.mailbox import Item
from rmbus.transport.memory import Held, Lending


class KnownArrival(Arrival):
    """An arrival that may turn out to have come before.

    Attributes:
        epoch: in which it came. identity: of its frame, None for a control frame. cause: from when it is begun with.
    """

    __slots__ = ("cause", "epoch", "identity")

    def __init__(
        self, link: InputLink, header: Header, place: int, frame: Frame | None, epoch: int, identity: Identity | None
    ) -> None:
        super().__init__(link, header, place, frame)
        self.epoch, self.identity = epoch, identity
        self.cause: Cause | None = None


class KnownInput(InputLink):
    """The consumer's end of an edge whose producer may be started anew: what it makes once more is dropped here.

    Args:
        life: how many processes have been the producer. seen: what was dealt with before this process.
    """

    def __init__(
        self, message: messages.Input, page: Page, segments: Mapping[int, memory.Mapping], seen: list[Identity]
    ) -> None:
        super().__init__(
            message.edge,
            message.port,
            page,
            segments,
            credit=message.credit,
            token=message.token,
            topic=message.topic,
        )
        self.life = message.life
        self.expected = message.epoch
        self._seen = Seen(seen)
        self._end: KnownArrival | None = None
        self._received = page.words[Edge.DELIVERED] + page.dropped_by_consumer()  # what waited was lost with the last
        page.words[Edge.RECEIVED] = self._received

    def receive(self, message: lane.Message) -> list[Arrival]:
        """Take frames off the lane; of those that have come before nothing is left but their place."""
        arrivals = super().receive(message)
        arrived: list[Arrival] = []
        for arrival, identity in zip(arrivals, identities(message.body), strict=True):
            header, frame = arrival.header, arrival.frame
            if frame is not None:
                identity = identity or (-self.life, header.seq)
                if self._seen.is_repeated(identity):
                    self.page.drop("repeated", by_consumer=True)
                    frame, identity = None, None
            arrived.append(KnownArrival(self, header, arrival.place, frame, self._epoch, identity))
        return arrived

    def finish(self, arrival: Arrival) -> bool:
        """An arrival has been dealt with here; its credit returns, and it is acknowledged when it is settled."""
        assert isinstance(arrival, KnownArrival)
        if arrival.header.kind == Kind.EOS:
            self._end = arrival
        if arrival.header.kind < 16:
            self._done_in_all += 1
            self._words[Edge.DONE] = self._done_in_all
            self._words[Edge.BEGAN] = 0
            if arrival.epoch == self._epoch:
                self._done += 1
        return False

    def settle(self, epoch: int, place: int) -> None:
        """All that was made from what came up to a place is dealt with."""
        if epoch == self._epoch:
            self._finished = max(self._finished, place)

    def settle_end(self) -> None:
        """The node has ended: so is all that came before the end of this input."""
        if self._end is not None:
            self.settle(self._end.epoch, self._end.place)

    def tell(self) -> None:
        """Return credit, and acknowledge, where there is anything new."""
        if self.lane is not None and (self._finished != self._acknowledged or self._done != self._told):
            self._told, self._acknowledged = self._done, self._finished
            grant = lane.pack_grant(self._done + self._credit)
            self._answer(lane.Message(lane.Type.CREDIT, self._finished, grant))

    def rejoin(self, message: messages.Input) -> None:
        """Its producer has died; another one will show the edge's token."""
        self.life, self.expected = message.life, message.epoch
        self.lane = None
        self.is_up = False


class KnownOutput(OutputLink):
    """The producer's end of an edge whose consumer may be started anew.

    Args:
        chain: of the node. first: the number of the first frame that this process makes again, None: of a source that
            makes others.
    """

    mailbox: KeepingMailbox

    def __init__(
        self, message: messages.Output, page: Page, end: Sending, readers: set[int], chain: Chain, first: int | None
    ) -> None:
        self._chain, self._first = chain, first
        self._was_up = False
        super().__init__(
            message.edge,
            end,
            message.token,
            Delivery(message.delivery, message.n),  # type: ignore[arg-type]  # checked by Delivery itself
            page,
            readers,
            shares=message.shared,
            epoch=message.epoch,
            resends=message.resends,
        )

    def _new_mailbox(self, delivery: Delivery, page: Page, resends: bool) -> KeepingMailbox:
        return KeepingMailbox(delivery, page, resends=resends)

    def offer(self, item: Item) -> None:
        """Put a frame into the mailbox, with what it is known again by, and send what can go."""
        if item.kind < 16:
            due = self._chain.due(kept=self.mailbox.keeps)
            frame = with_identity(item.frame, due.identity) if due.identity and item.held is None else item.frame
            item = item._replace(frame=frame, origin=due)
        super().offer(item)

    def answered(self, message: lane.Message) -> bool:
        """Take what the consumer has said; whether the link came up by it."""
        came_up = super().answered(message)
        if came_up and not self._was_up:
            self._was_up = True
            self.mailbox.take_over(self._first)
        return came_up

    def rejoin(self, message: messages.Output, end: Sending) -> list[Held]:
        """Its consumer has died, and another takes over; return what the dead one held."""
        held = self.lending.take_all()
        self.lending = Lending(self.page)
        self.shares = message.shared
        self.lane, self._epoch = end, message.epoch
        self.is_up = self.is_full = False
        if self._was_up:
            self.mailbox.begin_epoch(None)
        self._say(lane.Message(lane.Type.MARK, message.epoch, self._token))
        return held

    def _shared(self, item: Item) -> tuple[bytes, Any]:
        frame, payload = super()._shared(item)
        due = item.origin
        return (with_identity(frame, due.identity) if isinstance(due, Due) and due.identity else frame), payload


class KnownPort(OutputPort):
    """An output that goes on counting where the process before this one has settled its last."""

    def __init__(self, name: str, node_memory: NodeMemory, page: Page, chain: Chain, *, begins: bool) -> None:
        super().__init__(name, node_memory, page)
        self._chain, self._begins = chain, begins
        self._seq = chain.first[name]

    def add(self, link: OutputLink, *, last: bool = False) -> None:
        """Take an edge in; a source that makes other frames than its predecessor gives them other numbers."""
        if self._begins:
            self._seq = max(self._seq, link.page.words[Edge.PUBLISHED])
        super().add(link, last=last)

    def rejoin(self, link: KnownOutput, message: messages.Output, end: Sending) -> None:
        """An edge has a new consumer; what the last one still held is never written again."""
        self._spoil(link.rejoin(message, end))
        self._refused.clear()

    def send(self, frame: Frame, origin: Callable[[], None] | None = None) -> None:
        """Offer a frame to every edge, with what it was made from."""
        self._chain.make(self.name, self._seq)
        super().send(frame, origin)


class ReviveLoop(NodeLoop):
    """Runs one node that may be started anew, and whose neighbours may be."""

    def __init__(
        self, invoker: Invoker, outputs: list[str], page: Page, memory: NodeMemory, *, is_source: bool
    ) -> None:
        self._record = Record(page)
        deterministic = invoker.node.deterministic
        self._chain = Chain(outputs, self._record.read(), deterministic=deterministic)
        self._begins = is_source and not deterministic
        self._before: list[Arrival] = []
        super().__init__(invoker, outputs, page, memory, is_source=is_source)
        self._frames_in = page.words[counters.Node.FRAMES_IN]

    # --- wiring ------------------------------------------------------------------------------------------------------

    def _new_port(self, name: str, page: Page) -> OutputPort:
        return KnownPort(name, self._memory, page, self._chain, begins=self._begins)

    def _new_input(self, message: messages.Input, page: Page) -> InputLink:
        return KnownInput(message, page, self._memory.segments, self._chain.settled(message.edge).all())

    def _new_output(self, message: messages.Output, page: Page, end: DealerLane | FastLane) -> OutputLink:
        first = None if self._begins else self._chain.first[message.port]
        return KnownOutput(message, page, end, self._memory.readers(message.edge), self._chain, first)

    def add_input(self, message: messages.Input, page: Page, listener: int | None, fast: int | None) -> None:
        """Expect an edge; one that is known gets another producer."""
        known = next((link for link in self._inputs if link.edge == message.edge), None)
        if not isinstance(known, KnownInput):
            super().add_input(message, page, listener, fast)
            return
        page.close()
        self._take_rest(known)
        known.rejoin(message)
        if fast is not None:
            end = self._lanes_in[known.edge] = FastLane(socket.socket(fileno=fast))
            self.reactor.add(end.source, partial(self._read_fast, known, end))
        elif message.token in self._early:
            self._mark(known, *self._early.pop(message.token))

    def add_output(self, message: messages.Output, page: Page, fast: int | None, on_up: Callable[[], None]) -> None:
        """Begin an edge; one that is known gets another consumer."""
        if message.edge not in self._watched:
            super().add_output(message, page, fast, on_up)
            return
        page.close()
        port, link, old, _ = self._watched.pop(message.edge)
        assert isinstance(port, KnownPort)
        assert isinstance(link, KnownOutput)
        self.reactor.remove(old.source)
        old.close()
        end = self._new_lane(message, fast)
        port.rejoin(link, message, end)
        self._watch(port, link, end, on_up)

    def gone(self, message: messages.Gone) -> None:
        """The other end of an edge is gone for good: nobody is waited for there."""
        super().gone(message)
        self._settle()

    def go(self) -> None:
        """All edges are there: what has come meanwhile is taken in."""
        super().go()
        before, self._before = self._before, []
        for arrival in before:
            if arrival.header.kind == Kind.INTERRUPT:
                self._interrupt(arrival)
            else:
                self._inbox.append(arrival)

    def _arrive(self, link: InputLink, message: lane.Message) -> None:
        """Take frames in; neighbours are quick, and what is made before an output is joined would be lost."""
        if self._may_start:
            super()._arrive(link, message)
        else:
            self._before += link.receive(message)

    def conclude(self) -> None:
        """The node has ended and has cleaned up: tell its producers, whom nobody will ask for anything again."""
        self._words[counters.Node.CONCLUDED] = 1
        self._settle()
        for link in self._inputs:
            assert isinstance(link, KnownInput)
            link.settle_end()
            link.tell()

    def _take_rest(self, link: KnownInput) -> None:
        """Take what a producer that is dead has still sent, and nothing more from it."""
        end = self._lanes_in.pop(link.edge, None)
        if end is not None:
            self._read_out(link, end)
            self.reactor.remove(end.source)
            end.close()
        elif self._receiver is not None:
            self._receive()
        self._routes = {route: each for route, each in self._routes.items() if each is not link}

    def _introduced(self, route: bytes, message: lane.Message) -> None:
        """Take a mark; one of an epoch that the host has not told of yet waits for that."""
        link = self._tokens.get(bytes(message.body)) if message.type == lane.Type.MARK else None
        if isinstance(link, KnownInput) and message.number != link.expected:
            if message.number > link.expected:
                self._early[link.token] = route, message.number
            return
        super()._introduced(route, message)

    # --- running -----------------------------------------------------------------------------------------------------

    def _begin(self, arrival: Arrival) -> None:
        if not self._is_void(arrival):
            super()._begin(arrival)

    def _is_void(self, arrival: Arrival) -> bool:
        """Whether an arrival is of no use, since its input has ended already; then it is dealt with."""
        link = arrival.link
        if not link.ended or (arrival.frame is None and arrival.header.kind != Kind.EOS):
            return False
        if arrival.frame is not None:
            link.page.drop("consumer_ended", by_consumer=True)
            arrival.release()
        self._credit(arrival)  # an end: from a producer that had ended before it died
        return True

    def _note_begin(self, arrival: Arrival) -> None:
        assert isinstance(arrival, KnownArrival)
        super()._note_begin(arrival)
        arrival.cause = self._chain.open(arrival.link.edge, arrival.epoch, arrival.place, arrival.identity)

    def _note_flush(self) -> None:
        super()._note_flush()
        self._chain.open_flush()

    def _credit(self, arrival: Arrival) -> None:
        """An arrival is dealt with here; it is acknowledged when all that was made from it is."""
        assert isinstance(arrival, KnownArrival)
        super()._credit(arrival)
        if arrival.header.kind != Kind.EOS:  # which waits for the node's own end
            if arrival.cause is not None:
                self._chain.close(arrival.cause)
            else:
                self._chain.skip(arrival.link.edge, arrival.epoch, arrival.place, arrival.identity)
            self._settle()  # at once: what a sink is through with does not come again when it dies

    def _answered(
        self, port: OutputPort, link: OutputLink, end: DealerLane | FastLane, on_up: Callable[[], None]
    ) -> None:
        """Take what a consumer has said: with that, inputs of this node may be settled."""
        super()._answered(port, link, end, on_up)
        self._settle()

    def _settle(self) -> None:
        """Write down what is settled, then acknowledge it."""
        settled = self._chain.advance()
        if settled:
            self._record.write(self._chain.dump())
        last = {cause.edge: cause for cause in settled}
        for link in self._inputs:
            assert isinstance(link, KnownInput)
            for cause in settled if link.edge in last else ():
                if cause.edge == link.edge:
                    link.settle(cause.epoch, cause.place)
            link.tell()


class AsyncReviveLoop(ReviveLoop, CooperativeLoop):
    """Does so for a node whose code is async."""

    async def _handle(self, arrival: Arrival) -> None:
        if not self._is_void(arrival):
            await super()._handle(arrival)
