"""Topics: XPUB/SUB, best effort by declaration; gaps are known by the numbers of the frames.

A topic message is that of a lane with the topic and a zero byte before its first part (ZeroMQ matches prefixes, and the
zero byte ends the name). Its `number` counts the data frames of the topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import zmq

from rmbus.errors import MalformedFrame
from rmbus.protocol import lane
from rmbus.runtime.links import Arrival, InputLink, OutputPort, send_parts
from rmbus.transport.counters import Edge
from rmbus.transport.sockets import Socket, adopt, open_socket


class TopicWriter:
    """Publishes outputs of a node, each only while somebody subscribes to it."""

    def __init__(self, context: zmq.Context[Socket], listener: int, path: str, topics: dict[OutputPort, str]) -> None:
        self.socket = open_socket(context, zmq.XPUB)
        self.socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self.socket.setsockopt(zmq.SNDHWM, 64)
        adopt(self.socket, listener, path)
        self._ports: dict[bytes, OutputPort] = {}
        self._subscribers: dict[bytes, int] = {}
        for port, topic in topics.items():
            port.topic = topic.encode() + b"\0"
            self._ports[port.topic] = port

    def subscribed(self) -> None:
        """Take subscriptions in: whoever is new is told the mark and the format."""
        while True:
            try:
                event = self.socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            for topic, port in self._ports.items():
                if event[:1] in (b"\0", b"\1") and topic.startswith(event[1:]):
                    self._count(topic, port, joined=event[:1] == b"\1")

    def pump(self) -> None:
        """Publish what the outputs have."""
        for topic, port in self._ports.items():
            while port.published:
                self._send(topic, port.published.popleft())

    def close(self) -> None:
        """Send what is queued and close."""
        self.socket.close(linger=500)

    def _count(self, topic: bytes, port: OutputPort, *, joined: bool) -> None:
        self._subscribers[topic] = max(0, self._subscribers.get(topic, 0) + (1 if joined else -1))
        port.is_heard = self._subscribers[topic] > 0
        if joined:
            for message in port.introduction():
                self._send(topic, message)

    def _send(self, topic: bytes, message: lane.Message) -> None:
        parts = lane.encode(message)
        send_parts(self.socket, [topic + bytes(parts[0]), *parts[1:]])


class TopicReader:
    """Reads one topic into an input."""

    def __init__(self, context: zmq.Context[Socket], path: str, link: InputLink, on_up: Callable[[], None]) -> None:
        self.socket = open_socket(context, zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, 64)
        self._prefix = link.topic.encode() + b"\0"
        self._link = link
        self._on_up = on_up
        self._is_up = False
        self._last = 0
        self.socket.setsockopt(zmq.SUBSCRIBE, self._prefix)
        self.socket.connect(f"ipc://{path}")

    def read(self) -> Iterator[Arrival]:
        """Return the frames that have come; what is missing between them is counted as dropped."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            first = frames[0].buffer
            if bytes(first[: len(self._prefix)]) != self._prefix:
                raise MalformedFrame("a topic message does not begin with its topic")
            message = lane.decode([first[len(self._prefix) :], *(frame.buffer for frame in frames[1:])])
            arrival = self._take(message)
            if arrival is not None:
                yield arrival

    def _take(self, message: lane.Message) -> Arrival | None:
        if message.type == lane.Type.MARK:
            if not self._is_up:
                self._is_up = True
                self._last = message.number
                self._on_up()
            return None
        if not self._is_up or message.type != lane.Type.FRAME:
            return None  # published before this subscription was known
        arrival = self._link.decode(message)
        if arrival.frame is not None:
            words = self._link.page.words
            missed = message.number - self._last - 1
            words[Edge.PUBLISHED] += missed + 1
            if missed:
                self._link.page.drop("overflow", missed, by_consumer=True)
            self._last = message.number
        return arrival
