"""The lanes of one machine: what moves lane messages between the two ends of an edge. They know nothing of policy."""

from __future__ import annotations

import socket
from collections import deque
from typing import Final, Protocol

import zmq

from rmbus.errors import Broken, Closed, MalformedFrame
from rmbus.protocol import lane
from rmbus.protocol.lane import Buffer
from rmbus.protocol.limits import MAX_LANE_BYTES, MAX_PAYLOAD_BYTES
from rmbus.transport.sockets import Socket

_PIECE: Final = int(lane.Type.PIECE)
PIECE_BYTES: Final = 64 * 1024
"""Of a payload that travels apart on the fast lane."""


class Answering(Protocol):
    """The consumer's end of a lane."""

    def send(self, message: lane.Message) -> bool:
        """Send a message, or keep it; whether there is room for more."""
        ...


class Sending(Answering, Protocol):
    """The producer's end of a lane."""

    def put(self, data: bytes) -> bool:
        """Send a message of one part that is encoded already, or keep it; whether there is room for more."""
        ...

    def flush(self) -> bool:
        """Send what is kept; whether there is room for more."""
        ...


class DealerLane:
    """The producer's end of an `ipc` lane: a DEALER of its own.

    Attributes:
        source: what is waited for.
    """

    def __init__(self, opened: Socket) -> None:
        self.source: int | Socket = opened
        self._socket = opened

    def close(self) -> None:
        """Close the connection; what is queued is thrown away."""
        self._socket.close(linger=0)

    def send(self, message: lane.Message) -> bool:
        """Send a message; a large payload is not copied."""
        parts = lane.encode(message)
        if len(parts) == 1:
            self._socket.send(parts[0], zmq.DONTWAIT)
        else:
            self._socket.send(parts[0], zmq.DONTWAIT | zmq.SNDMORE)
            self._socket.send(parts[1], zmq.DONTWAIT, copy=False)
        return True

    def put(self, data: bytes) -> bool:
        """Send a message that is encoded already."""
        self._socket.send(data, zmq.DONTWAIT)
        return True

    def flush(self) -> bool:
        """There is nothing to do: ZeroMQ queues."""
        return True

    def receive(self) -> lane.Message | None:
        """Return the next message, None where none has come."""
        try:
            parts = self._socket.recv_multipart(zmq.DONTWAIT, copy=True)
        except zmq.Again:
            return None
        return lane.decode([memoryview(part) for part in parts])


class RouterLane:
    """The consumer's end of an `ipc` lane: one route of the ROUTER that all edges of a node share."""

    def __init__(self, router: Socket, route: bytes) -> None:
        self._router, self._route = router, route

    def send(self, message: lane.Message) -> bool:
        """Send a message; that the producer is gone is told by its host."""
        try:
            self._router.send_multipart([self._route, *lane.encode(message)], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
        return True


class FastLane:
    """An end of a `fast` lane: one of a pair of `SOCK_SEQPACKET` sockets, a lane message to a datagram.

    A payload that travels apart comes before its frame, in pieces.

    Attributes:
        source: what is waited for.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.source: int | Socket = end.fileno()
        self._socket = end
        self._send, self._recv_into = end.send, end.recv_into
        self._kept: deque[Buffer] = deque()
        self._buffer = bytearray(MAX_LANE_BYTES + 1)
        self._view = memoryview(self._buffer)
        self._pieces = bytearray()
        self._place: int = 0

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def send(self, message: lane.Message) -> bool:
        """Send a message, or keep it; whether there is room for more.

        Raises:
            Closed: the other end is gone.
        """
        payload = message.payload
        if not len(payload):
            return self.put(lane.encode(message)[0])
        bytes_of = memoryview(payload).cast("B")
        for at in range(0, len(bytes_of), PIECE_BYTES):
            piece = lane.Message(lane.Type.PIECE, message.number, bytes_of[at : at + PIECE_BYTES])
            self._kept.append(lane.encode(piece)[0])
        self._kept.append(lane.encode(message._replace(payload=b""))[0])
        return self.flush()

    def put(self, data: Buffer) -> bool:
        """Send a message that is encoded already, or keep it; whether there is room for more.

        Raises:
            Closed: the other end is gone.
        """
        if not self._kept or self.flush():
            try:
                self._send(data)
            except BlockingIOError:
                pass
            except OSError as error:
                raise Closed(f"the lane is cut: {error}") from error
            else:
                return True
        self._kept.append(data)
        return False

    def flush(self) -> bool:
        """Send what is kept, as far as there is room; whether all of it went.

        Raises:
            Closed: the other end is gone.
        """
        kept = self._kept
        while kept:
            try:
                self._send(kept[0])
            except BlockingIOError:
                return False
            except OSError as error:
                raise Closed(f"the lane is cut: {error}") from error
            kept.popleft()
        return True

    @property
    def kept_bytes(self) -> int:
        """How much is kept, for want of room."""
        return sum(map(len, self._kept))

    def receive(self) -> lane.Message | None:
        """Return the next message, which is good until the next call; None where none has come.

        Raises:
            Closed: the other end is gone. ProtocolError: it sent what is no message.
        """
        while True:
            try:
                size = self._recv_into(self._buffer)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # the other end has left something unread; what it had sent before is still here
            except OSError as error:
                raise Closed(f"the lane is cut: {error}") from error
            if not size:
                raise Closed("the other end of the lane is gone")
            message = lane.decode_one(self._view[:size])
            if message[0] != _PIECE:
                return self._whole(message) if self._pieces else message
            self._add(message)

    def _add(self, piece: lane.Message) -> None:
        if piece.number != self._place and self._pieces:
            raise MalformedFrame("pieces of two payloads are mixed")
        if not len(piece.body):  # else a peer that sends nothing for ever would hold its reader up for ever
            raise MalformedFrame("a piece of a payload has no bytes")
        if len(self._pieces) + len(piece.body) > MAX_PAYLOAD_BYTES:
            raise MalformedFrame("the pieces of a payload are larger than a payload may be")
        self._place = piece.number
        self._pieces += piece.body

    def _whole(self, message: lane.Message) -> lane.Message:
        if message.type != lane.Type.FRAMES or message.number != self._place:
            raise MalformedFrame("the pieces of a payload are followed by something else than its frame")
        payload, self._pieces = bytes(self._pieces), bytearray()
        return message._replace(payload=payload)


def fast_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a fast lane.

    Raises:
        Broken: there are no descriptors left.
    """
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise Broken(f"no fast lane can be made: {error}") from error
