"""The ends of a node's edges inside its process: what comes in, with credit, and what goes out, by mailbox."""

from __future__ import annotations

import time
from collections import deque
from fractions import Fraction
from typing import Any

import zmq

from rmbus import formats, media
from rmbus.delivery import Delivery
from rmbus.errors import Broken, MalformedFrame
from rmbus.media import Frame
from rmbus.protocol import lane
from rmbus.protocol.frames import Header, Kind, decode_header, encode_header
from rmbus.transport.counters import Edge, Page
from rmbus.transport.mailbox import Item, Mailbox
from rmbus.transport.sockets import Socket, open_socket

Parts = list[memoryview]


class Arrival:
    """A frame that has arrived and waits for its turn in `process`; `frame` is None for control frames."""

    __slots__ = ("frame", "header", "link", "place")

    def __init__(self, link: InputLink, header: Header, place: int, frame: Frame | None) -> None:
        self.link, self.header, self.place, self.frame = link, header, place, frame


class InputLink:
    """The consumer's end of one edge, or of a topic.

    It checks the order, decodes, and grants credit: a frame's credit returns when its `process` ends.
    """

    def __init__(self, port: str, page: Page, *, credit: int, token: bytes = b"", topic: str = "") -> None:
        self.port, self.token, self.topic = port, token, topic
        self.page = page
        self.ended = False
        self.format: formats.Format = Any
        self.route: bytes | None = None
        self._credit = credit
        self._last_place = 0
        self._done = 0

    @property
    def grant(self) -> int:
        """The data frame up to which the producer may send."""
        return self._done + self._credit

    def receive(self, message: lane.Message) -> Arrival:
        """Take a frame off the lane.

        Raises:
            Broken: one before it is missing. ProtocolError: it is not as specified.
        """
        if message.number != self._last_place + 1:
            raise Broken(f"input {self.port!r} received place {message.number} after {self._last_place}")
        self._last_place = message.number
        return self.decode(message)

    def decode(self, message: lane.Message) -> Arrival:
        """Decode a frame, whatever its place."""
        header = decode_header(message.header)
        if header.kind == Kind.FORMAT:
            self.format = formats.from_wire(header.extra)
        if header.kind >= 16:
            return Arrival(self, header, message.number, None)
        self.page.words[Edge.RECEIVED] += 1
        frame = media.decode(header, message.payload, self.format, topic=self.topic)
        return Arrival(self, header, message.number, frame)

    def begin(self, arrival: Arrival) -> None:
        """Count a data frame as delivered: its `process` begins now."""
        words = self.page.words
        words[Edge.DELIVERED] += 1
        words[Edge.BEGAN] = time.monotonic_ns()
        if arrival.header.captured_ns:
            self.page.latency(time.time_ns() - arrival.header.captured_ns)

    def finish(self, arrival: Arrival) -> lane.Message:
        """Return the credit and acknowledgement that an arrival's end gives."""
        if arrival.frame is not None:
            self._done += 1
            words = self.page.words
            words[Edge.DONE] = self._done
            words[Edge.BEGAN] = 0
        return lane.Message(lane.Type.CREDIT, arrival.place, lane.pack_grant(self.grant))


class OutputLink:
    """The producer's end of one edge: its mailbox and its socket."""

    def __init__(
        self, number: int, context: zmq.Context[Socket], path: str, token: bytes, delivery: Delivery, page: Page
    ) -> None:
        self.number = number
        self.page = page
        self.mailbox = Mailbox(delivery, page)
        self.is_up = False
        self.socket = open_socket(context, zmq.DEALER)
        self.socket.connect(f"ipc://{path}")
        self._send(lane.Message(lane.Type.MARK, 1, token))

    def pump(self) -> None:
        """Send what the mailbox and the window allow."""
        take = self.mailbox.take
        message = take()
        while message is not None:
            self._send(message)
            message = take()

    def answered(self) -> bool:
        """Take what the consumer has said; whether the link came up by it."""
        came_up = False
        while True:
            try:
                parts = self.socket.recv_multipart(zmq.DONTWAIT, copy=True)
            except zmq.Again:
                return came_up
            message = lane.decode([memoryview(part) for part in parts])
            grant = lane.unpack_grant(message.header)
            if message.type == lane.Type.MARK_BACK:
                came_up = not self.is_up
                self.is_up = True
                self.page.words[Edge.LINKED] = 1
                self.mailbox.grant(grant)
            elif message.type == lane.Type.CREDIT:
                self.mailbox.acknowledge(message.number, grant)
            else:
                raise MalformedFrame(f"a consumer sent a lane message of type {message.type}")

    def note_blocked(self, blocked: bool) -> None:
        """Write into the account since when the node waits for this edge."""
        words = self.page.words
        if blocked != bool(words[Edge.BLOCKED_SINCE]):
            words[Edge.BLOCKED_SINCE] = time.monotonic_ns() if blocked else 0

    def _send(self, message: lane.Message) -> None:
        send_parts(self.socket, lane.encode(message))


def send_parts(socket: Socket, parts: list[lane.Buffer]) -> None:
    """Send the parts of a message; a large payload is not copied."""
    if len(parts) == 1:
        socket.send(parts[0], zmq.DONTWAIT)
        return
    socket.send(parts[0], zmq.DONTWAIT | zmq.SNDMORE)
    socket.send(parts[1], zmq.DONTWAIT, copy=False)


class OutputPort:
    """One output: encodes each frame once, whatever the number of its edges.

    Attributes:
        links: its edges. topic: what a message of its topic begins with, b"" where it has none.
        is_heard: whether somebody subscribes to the topic; only then is it published.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.links: list[OutputLink] = []
        self.topic = b""
        self.is_heard = False
        self.published: deque[lane.Message] = deque()
        self._seq = 0
        self._turn = 0
        self._places = 0
        self._format: formats.Format = Any
        self._format_item: Item | None = None

    @property
    def has_room(self) -> bool:
        """Whether no edge of this output is full."""
        return all(link.mailbox.has_room for link in self.links)

    @property
    def is_settled(self) -> bool:
        """Whether everything that left here has been processed, or dropped."""
        return all(link.mailbox.is_settled for link in self.links)

    def send(self, frame: Frame) -> None:
        """Offer a frame to every edge, a `format` frame before it where the format is new."""
        if not self.links and not self.is_heard:
            self._seq += 1
            self._places += 1
            return
        form = frame.format
        if form != self._format or self._format_item is None:
            self._format = form
            self._format_item = self._control(Kind.FORMAT, formats.to_wire(form))
            self._offer(self._format_item)
        kind, extra, payload = media.encode(frame)
        base: Fraction = frame.time_base
        header = Header(
            kind, self._seq, self._turn, frame.pts, base.numerator, base.denominator, frame.captured_ns, extra
        )
        self._seq += 1
        key = bool(extra[0]) if kind == Kind.PACKET and formats.is_inter_coded(form) else None
        self._offer(Item(kind, encode_header(header), payload, key))

    def control(self, kind: Kind, extra: Any = None) -> None:
        """Put a control frame in band."""
        self._offer(self._control(kind, extra))

    def interrupt(self) -> None:
        """Open a new turn: queued frames of older turns are thrown away."""
        self._turn += 1
        item = self._control(Kind.INTERRUPT, None)
        for link in self.links:
            link.mailbox.interrupt(item)
        self._publish(item)

    def introduction(self) -> list[lane.Message]:
        """Return what a new subscriber of the topic must be told: the mark, and the format."""
        told = [lane.Message(lane.Type.MARK, self._places, b"")]
        if self._format_item is not None:
            told.append(lane.Message(lane.Type.FRAME, self._places, self._format_item.header))
        return told

    def _control(self, kind: Kind, extra: Any) -> Item:
        return Item(kind, encode_header(Header(kind, self._seq, self._turn, extra=extra)), b"")

    def _offer(self, item: Item) -> None:
        for link in self.links:
            link.mailbox.offer(item)
        self._publish(item)

    def _publish(self, item: Item) -> None:
        self._places += item.is_data
        if self.is_heard:
            self.published.append(lane.Message(lane.Type.FRAME, self._places, item.header, item.payload))
