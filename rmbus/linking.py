"""How an edge of a session is linked: within one host, between two that meet on this machine, or by their gateways."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from rmbus.client import HostClient
from rmbus.errors import HostError
from rmbus.plan import PlannedEdge, dialer
from rmbus.protocol import messages


def link_edge(edge: PlannedEdge, link: messages.Link, clients: Mapping[str, HostClient]) -> None:
    """Have the hosts at both ends of an edge link it; that it is up they tell later.

    Args:
        link: what is to be linked, and how. clients: to every host, by place.

    Raises:
        HostError: one of them refuses.
    """
    producer, consumer = clients[edge.producer.place], clients[edge.consumer.place]
    if producer is consumer:
        producer.ask(link, messages.Ok)
        return
    apart = _meet(link, producer, consumer)
    if apart is not None:
        _bridge(edge, attrs.evolve(link, apart=apart), clients)


def _meet(link: messages.Link, producer: HostClient, consumer: HostClient) -> str | None:
    """Let the two hosts of an edge meet on this machine; return why they do not, "" where they are on two."""
    door = consumer.connection.host_socket
    if door is None or producer.connection.host_socket is None:
        return ""
    if not link.fast:
        return "fast=False"
    consumer.ask(attrs.evolve(link, producer=-1, meet=True), messages.Ok)
    token = consumer.connection.token
    going = attrs.evolve(link, consumer=-1, meet=True, peer=str(door), secret=token)
    try:
        producer.ask(going, messages.Ok)
    except HostError as error:
        return str(error)
    return None


def _bridge(edge: PlannedEdge, link: messages.Link, clients: Mapping[str, HostClient]) -> None:
    """Join an edge between two hosts by their gateways."""
    producer, consumer = edge.producer, edge.consumer
    ends = {producer.place: attrs.evolve(link, consumer=-1), consumer.place: attrs.evolve(link, producer=-1)}
    listens = {
        producer.place: _listens(clients[producer.place], clients[consumer.place]),
        consumer.place: _listens(clients[consumer.place], clients[producer.place]),
    }
    caller = dialer(producer.place, consumer.place, listens)
    (called,) = set(ends) - {caller}
    other = clients[called]
    other.ask(ends[called], messages.Ok)
    call = attrs.evolve(
        ends[caller],
        dial=True,
        peer=other.connection.gateway_at(other.welcome.gateway),
        peer_key=other.welcome.gateway_key,
        public=other.connection.public,
        secret=other.connection.secret,
    )
    clients[caller].ask(call, messages.Ok)


def _listens(host: HostClient, other: HostClient) -> bool:
    """Whether a gateway can be connected to from another place; what ssh forwards, from this machine alone."""
    if host.connection.is_forwarded:
        return bool(other.connection.local)
    return bool(host.welcome.gateway)
