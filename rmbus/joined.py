"""A node that runs in this process, joined to a host: one started by hand, or the script's own ends of a pipeline."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Mapping

import attrs

from rmbus.client import rebuilt
from rmbus.errors import Broken, ConnectFailed, ProtocolError, RmbusError
from rmbus.node import Node, node_name, ports
from rmbus.protocol import messages
from rmbus.protocol.topics import check_topic
from rmbus.reaching import reach_bus
from rmbus.runtime.loop import UpstreamFailed
from rmbus.runtime.process import Process
from rmbus.transport.counters import Page
from rmbus.transport.security import Connection
from rmbus.transport.umbilical import Umbilical, close_all
from rmbus.visiting import visit


def run(node: Node, *, inputs: Mapping[str, str], outputs: Mapping[str, str], bus: str | None = None) -> None:
    """Run a node in this process until its inputs have ended; topics join it to the others.

    Args:
        node: the node.
        inputs, outputs: port to topic.
        bus: address of the host, also by ssh; None: any of this user on this machine.

    Raises:
        ConnectFailed: no host. HostError: it refused, a topic's name is taken, say.
        and whatever the node's own code raises.
    """
    found = ports(node)
    for given, known, kind in ((inputs, found.inputs, "input"), (outputs, found.outputs, "output")):
        for port, topic in given.items():
            if port not in known:
                raise RmbusError(f"{node_name(node)} has no {kind} {port!r}; it has {', '.join(known) or 'none'}")
            check_topic(topic)
    join = messages.Join(node_name(node), inputs=dict(inputs), outputs=dict(outputs))
    way = reach_bus(bus)
    try:
        serve(node, way.connection, join)
    finally:
        way.close()


def enter(
    connection: Connection, join: messages.Join, *, timeout_s: float | None = None
) -> tuple[Umbilical, messages.Job, Page]:
    """Join a host; return the umbilical, what to be, and the page to count on.

    Raises:
        ConnectFailed: the host is gone, or has not answered in time. HostError: it refused.
    """
    umbilical = _at_door(connection, join, timeout_s) if connection.local else visit(connection, join, timeout_s)
    try:
        if not _answers(umbilical, timeout_s):
            raise ConnectFailed(f"the host at {connection.address} lives, but did not answer within {timeout_s:g} s")
        _, message, descriptors = umbilical.receive()
        if isinstance(message, messages.Refused):
            raise rebuilt(message, connection.address)
        if not isinstance(message, messages.Job):
            raise ProtocolError(f"the host answered with {message.tag!r} where a job was due")
    except BaseException:
        umbilical.close()
        raise
    page = Page(descriptors[message.page])
    close_all(descriptors)
    return umbilical, message, page


def _at_door(connection: Connection, join: messages.Join, timeout_s: float | None) -> Umbilical:
    """Join a host of this machine."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    path = connection.beside("host.sock")
    try:
        end.settimeout(timeout_s)
        end.connect(str(path))
        end.settimeout(None)
    except OSError as error:
        end.close()
        raise ConnectFailed(f"cannot join the host at {path}: {error}") from error
    umbilical = Umbilical(end)
    try:
        umbilical.send(attrs.evolve(join, token=connection.token))
    except BaseException:
        umbilical.close()
        raise
    return umbilical


def serve(node: Node, connection: Connection, join: messages.Join) -> None:
    """Join a host and run the node until it ends."""
    umbilical, message, page = enter(connection, join)
    gone = Broken(f"the host at {connection.address} has ended")
    process = Process(umbilical, message, page, on_cut=lambda loop: loop.abort(gone))
    try:
        process.run(lambda: node)
    finally:
        umbilical.close()


def serve_in_thread(
    node: Node, connection: Connection, session: str, number: int, on_error: Callable[[BaseException], None]
) -> threading.Thread:
    """Run one of a session's nodes in a thread of this process; what goes wrong is handed to `on_error`."""
    join = messages.Join(node_name(node), session=session, node=number)

    def body() -> None:
        try:
            serve(node, connection, join)
        except UpstreamFailed:
            return  # the node that has failed tells of it
        except BaseException as error:  # noqa: BLE001 - the supervisor around the script's own ends of a pipeline
            on_error(error)

    thread = threading.Thread(target=body, name=f"rmbus-{node_name(node)}", daemon=True)
    thread.start()
    return thread


def _answers(umbilical: Umbilical, timeout_s: float | None) -> bool:
    waiting = select.poll()  # unlike select() it takes descriptors of any number
    waiting.register(umbilical.fileno(), select.POLLIN)
    return bool(waiting.poll(None if timeout_s is None else timeout_s * 1000))
