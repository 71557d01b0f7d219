"""A process here that has joined a host on another machine: its end of what carries it, in a thread beside."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs
import zmq
from zmq.utils.monitor import recv_monitor_message

from rmbus.client import HostClient
from rmbus.errors import Closed
from rmbus.protocol import messages
from rmbus.protocol.lane import Buffer
from rmbus.runtime.forks import own
from rmbus.transport import counters
from rmbus.transport.lanes import FastLane, fast_pair
from rmbus.transport.mirroring import Mirror
from rmbus.transport.reactor import Reactor
from rmbus.transport.security import Connection
from rmbus.transport.sockets import Curve, Socket, open_socket
from rmbus.transport.umbilical import Umbilical, close_all
from rmbus.transport.visits import Relay

LEAVE_S: Final = 2.0
"""How long the host may take to hear that the process leaves."""

GREET_S: Final = 10.0

CLAIM_S: Final = 10.0
"""How long the host's gateway may take to let the process in."""

_LOST: Final = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


class Process(Relay):
    """The relay that stands where the host would: at the process's end of things."""

    def disown(self) -> None:
        """Close the descriptors alone, in a forked child: all of it is its parent's."""
        self._is_over = True
        self._umbilical.disown()
        for each in self._carried.values():
            each.disown()

    def _told(self, message: messages.Message) -> None:
        if isinstance(message, messages.Job):
            self.hand_on(attrs.evolve(message, page=0, package=-1, state=-1), [counters.create()])
        elif isinstance(message, messages.Input | messages.Output):
            ours, theirs = fast_pair()
            is_ours = isinstance(message, messages.Output)
            mirror = self.mirror(message.edge) or Mirror.made(is_producer_near=is_ours)
            self.carry(message.edge, FastLane(ours), mirror)
            self.hand_on(attrs.evolve(message, page=0, lane=1, path=""), [mirror.lend(), theirs.detach()])
        elif isinstance(message, messages.Gone):
            self.take_down(message.edge, partial(self.hand_on, message))
        else:
            self.hand_on(message)

    def _far_ended(self) -> None:
        self.end("the host has ended it")

    def _pass_on(self, message: messages.Message, descriptors: list[int]) -> None:
        close_all(descriptors)
        if isinstance(message, messages.Grow):
            self.hand_on(messages.Segment(message.port, 0, reason="its readers are on another machine"))
        elif isinstance(message, messages.NodeEvent):
            self.settle(partial(self.say, message))  # the last word comes after the last frame
        else:
            self.say(message)

    def _near_ended(self) -> None:
        self.say_end()
        self._reactor.call_later(LEAVE_S, partial(self.end, "the host did not answer"))

    def _over(self, reason: str) -> None:
        """The process sees the end of its umbilical."""


class Visit:
    """One process that visits a host; the thread ends with the visit."""

    def __init__(self, connection: Connection, join: messages.Join, timeout_s: float | None) -> None:
        """Join.

        Raises:
            ConnectFailed: the host does not answer. HostError: it refused.
        """
        self._connection = connection
        self._reactor = Reactor()
        self._context: zmq.Context[Socket] = zmq.Context()
        self._relay: Process | None = None
        self._gateway: Socket | None = None
        self._process = os.getpid()
        self._is_heard = False
        self._thread = threading.Thread(target=self._serve, name=f"rmbus-visit-{join.name}", daemon=True)
        self._thread.start()
        timeout_s = GREET_S if timeout_s is None else timeout_s
        try:
            client = HostClient(self._reactor, self._context, connection)
            try:
                client.greet(timeout_s)
                admitted = client.ask(join, messages.Admitted, timeout_s=timeout_s)
            finally:
                self._reactor.call_soon(client.close)
        except BaseException:
            self._reactor.call_soon(self._reactor.stop)
            self._thread.join()
            raise
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self.umbilical = Umbilical(theirs)
        own(self)
        self._reactor.call_soon(partial(self._begin, admitted, ours))

    def disown(self) -> None:
        """Another process has it, of which this one is a child."""
        if self._relay is not None:
            self._relay.disown()

    def _begin(self, admitted: messages.Admitted, ours: socket.socket) -> None:
        name, keys = admitted.visit.encode(), self._connection
        curve = Curve(keys.public.encode(), keys.secret.encode(), admitted.gateway_key.encode())
        gateway = self._gateway = open_socket(self._context, zmq.DEALER, curve=curve, network=True)
        monitor = gateway.get_monitor_socket(_LOST)
        relay = self._relay = Process(
            self._reactor, Umbilical(ours, is_host=True), partial(self._send, name), self._reactor.stop
        )
        self._reactor.add(monitor, lambda: self._lost(monitor))
        self._reactor.add(gateway, self._receive)
        try:
            gateway.connect(keys.gateway_at(admitted.gateway))
            gateway.send_multipart([b"", name, admitted.token], zmq.DONTWAIT)
            self._reactor.call_later(CLAIM_S, self._check_heard)
        except zmq.ZMQError as error:
            relay.end(str(error))

    def _check_heard(self) -> None:
        """Nothing answers a claim but the host's first word, which follows it at once."""
        assert self._relay is not None
        if not self._is_heard:
            self._relay.end(f"the host's gateway did not answer within {CLAIM_S:g} s")

    def _send(self, name: bytes, parts: Sequence[Buffer]) -> None:
        assert self._gateway is not None
        try:
            self._gateway.send_multipart([name, *parts], zmq.DONTWAIT)
        except zmq.Again:
            raise Closed("the gateway takes nothing more") from None

    def _receive(self) -> None:
        assert self._gateway is not None
        assert self._relay is not None
        while not self._relay.is_over:
            try:
                frames = self._gateway.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            self._is_heard = True
            self._relay.arrive([frame.buffer for frame in frames[1:]])

    def _lost(self, monitor: Socket) -> None:
        recv_monitor_message(monitor)
        assert self._relay is not None
        self._relay.lose("the connection to the host was lost")

    def _serve(self) -> None:
        try:
            self._reactor.run()
        finally:
            if self._process == os.getpid():
                if self._relay is not None:
                    self._relay.end("its thread has ended")
                self._context.destroy(linger=300)
                self._reactor.close()


def visit(connection: Connection, join: messages.Join, timeout_s: float | None) -> Umbilical:
    """Join a host on another machine; return the umbilical, by which it will say what to be.

    Raises:
        ConnectFailed: the host does not answer. HostError: it refused.
    """
    return Visit(connection, join, timeout_s).umbilical
