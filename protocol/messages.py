"""Control messages: between a client and a host, and on the umbilical between a host and its node.

On the wire a message is msgpack `[tag, id, fields]`. `id` joins a reply to its request; 0 is an event that nobody asked
for. Unknown fields are ignored, unknown tags are answered with `Refused`.
"""

from __future__ import annotations

from typing import Any

import attrs

from rmbus.protocol import fields
from rmbus.protocol.envelope import Message as Message
from rmbus.protocol.envelope import UnknownTag as UnknownTag
from rmbus.protocol.envelope import decode as decode
from rmbus.protocol.envelope import encode as encode
from rmbus.protocol.envelope import message as _message
from rmbus.protocol.envelope import prepare as prepare
from rmbus.protocol.envelope import tags as tags
from rmbus.protocol.limits import (
    DEFAULT_CREDIT,
    MAX_CREDIT,
    MAX_EPOCH,
    MAX_ID,
    MAX_NUMBER,
    MAX_SEGMENT_BYTES,
    MAX_SLOTS,
)
from rmbus.protocol.needs import Needs as Needs

Fields = dict[str, Any]
_number = fields.number(0, MAX_NUMBER)
_number_or_elsewhere = fields.number(-1, MAX_NUMBER)  # -1: a node on another host, or no edge but a topic
_delivery = fields.one_of("latest", "drop_oldest", "reliable")
_frames = fields.number(1, MAX_NUMBER)
_credit = fields.number(1, MAX_CREDIT)
_size = fields.number(0, MAX_ID)


# --- both ways ------------------------------------------------------------------------------------------------------


@_message("ok")
class Ok(Message):
    """The request was carried out."""

    value: Fields = attrs.field(factory=dict[str, Any])


@_message("refused")
class Refused(Message):
    """The request was not carried out; `kind` is the name of a class of `rmbus.errors`."""

    kind: str
    message: str


# --- client to host -------------------------------------------------------------------------------------------------


@_message("hello")
class Hello(Message):
    """The first message of a client. `versions` is the lowest and the highest protocol version that it speaks."""

    versions: tuple[int, int]
    release: str
    implementation: str
    python: tuple[int, int]
    client: str = ""


@_message("welcome")
class Welcome(Message):
    """The host's answer to `hello`.

    Attributes:
        version: the protocol version that both will speak.
        host: the host's name. identity: unique to this run of it.
        level: the confinement that it gives. reasons: why no higher one.
        gateway: where its gateway listens ("" where it only dials), and `gateway_key` its public key.
    """

    version: int
    host: str
    identity: str
    release: str
    implementation: str
    python: tuple[int, int]
    pid: int
    level: str
    reasons: str = ""
    gateway: str = ""
    gateway_key: str = ""


@_message("ping")
class Ping(Message):
    """Are you there? Answered with `ok`."""


@_message("have")
class Have(Message):
    """How much of a package do you have? Answered with `ok {"complete": bool, "offset": int}`."""

    address: str = attrs.field(validator=fields.address)


@_message("put")
class Put(Message):
    """A chunk of a package; its bytes are the blob. Answered with `ok {"complete": bool, "offset": int}`."""

    address: str = attrs.field(validator=fields.address)
    offset: int = attrs.field(validator=_size)
    total: int = attrs.field(validator=_size)


@_message("start")
class Start(Message):
    """Start a node; its pickled state is the blob. Answered with `started`.

    Attributes:
        session: the session that it belongs to.
        node: its number in the session. name: its name.
        entry: the class, `module:QualName`, for display.
        address: the package with its code, or "" where the host is the user's own and reads the user's files.
        sys_path, folder: module search path and working folder; honoured by the user's own host only.
        inputs, outputs: names of the ports that are joined.
        topics: port to topic: outputs that are published; a name that is taken is given with the session's id.
        by_hand: no process is started: one of the user's will join with the same session and node.
        revives: the death of its process does not end what it is joined to: it may be started anew.
        lock: sha256 of the package's locked requirements, "" where it has none; the host makes their environment first.
        env: the name of an environment that the host's owner has prepared, instead.
        needs: what it must be granted; the start is refused where that cannot be.
    """

    session: str = attrs.field(validator=fields.session)
    node: int = attrs.field(validator=_number)
    name: str = attrs.field(validator=fields.name)
    entry: str
    address: str = attrs.field(default="", validator=fields.address)
    python: tuple[int, int] = (0, 0)
    implementation: str = ""
    sys_path: list[str] = attrs.field(factory=list[str])
    folder: str = ""
    inputs: list[str] = attrs.field(factory=list[str])
    outputs: list[str] = attrs.field(factory=list[str])
    topics: dict[str, str] = attrs.field(factory=dict[str, str], validator=fields.topics)
    by_hand: bool = False
    revives: bool = False
    lock: str = attrs.field(default="", validator=fields.address)
    env: str = attrs.field(default="", validator=fields.name)
    needs: Needs = Needs()


@_message("revive")
class Revive(Message):
    """Start a node anew whose process has died; its pickled state is the blob. Answered with `started`."""

    session: str = attrs.field(validator=fields.session)
    node: int = attrs.field(validator=_number)


@_message("started")
class Started(Message):
    """A node's process is there."""

    pid: int
    level: str
    warm: bool
    reason: str = ""


@_message("link")
class Link(Message):
    """Join two ports by an edge; one of them may be on another host, and then `peer` says how to reach it.

    Two hosts of one user on one machine meet: the producer's connects to the consumer's, which is told first. Others
    are joined by their gateways, of which one dials the other.

    Attributes:
        edge: its number, unique in the session.
        fast, shared: whether the fast lane and shared memory may be used where both nodes are on one machine.
        token: proves on the lane that a connection is this edge's.
        producer, consumer: number of the node, or -1 where it is on the other host.
        meet: whether the hosts meet. apart: why they do not, in words.
        resends: whether the edge outlives the death of an end: what is not acknowledged is kept, and sent again.
        dial: whether this host's gateway makes the connection; else it waits for it.
        peer: the other gateway's endpoint; `peer_key` its key, `public` and `secret` the client's pair. For the
            producer's host of two that meet the path of the other's `host.sock`, and `secret` is what it shows there.
    """

    session: str = attrs.field(validator=fields.session)
    edge: int = attrs.field(validator=_number)
    token: bytes = attrs.field(validator=fields.token)
    producer: int = attrs.field(validator=_number_or_elsewhere)
    out: str = attrs.field(validator=fields.name)
    consumer: int = attrs.field(validator=_number_or_elsewhere)
    into: str = attrs.field(validator=fields.name)
    delivery: str = attrs.field(default="reliable", validator=_delivery)
    n: int = attrs.field(default=8, validator=_frames)
    credit: int = attrs.field(default=DEFAULT_CREDIT, validator=_credit)
    fast: bool = True
    shared: bool = True
    meet: bool = False
    apart: str = ""
    dial: bool = False
    peer: str = ""
    peer_key: str = ""
    public: str = ""
    secret: str = attrs.field(default="", repr=False)
    resends: bool = False


@_message("go")
class Go(Message):
    """Everything is linked: let the sources of a session begin."""

    session: str = attrs.field(validator=fields.session)


@_message("stop")
class Stop(Message):
    """End a session: with `drain`, the sources stop and what is queued is finished; else its processes are killed."""

    session: str = attrs.field(validator=fields.session)
    drain: bool = True


@_message("report")
class Report(Message):
    """Say how a session stands. Answered with `ok {"edges": […], "nodes": […]}`."""

    session: str = attrs.field(validator=fields.session)


@_message("status")
class Status(Message):
    """Say how the host stands. Answered with `ok`."""


@_message("find")
class Find(Message):
    """Which topics match? Answered with `ok {"topics": [topic, …]}`; changes come as `topic` events."""

    pattern: str = attrs.field(validator=fields.pattern)


@_message("ship")
class Ship(Message):
    """Hold an object, in a process of its own; its pickled state is the blob. Answered with `held` or `node`.

    Attributes:
        start: as for a node; its session is the object's id.
        lease_s: how long it lives when nobody who holds it is connected any more.
        replaces: whether an object of this id is to make room for it when this one is ready.
    """

    start: Start
    lease_s: float = 30.0
    replaces: bool = False


@_message("held")
class Held(Message):
    """An object is there: its id, class, process, and what can be reached of it (name to kind)."""

    id: str = attrs.field(validator=fields.session)
    name: str
    entry: str
    pid: int
    level: str
    warm: bool
    names: dict[str, str]
    reason: str = ""


@_message("attach_object")
class AttachObject(Message):
    """Hold an object that is there already. Answered with `held`."""

    id: str = attrs.field(validator=fields.session)


@_message("release")
class Release(Message):
    """End an object; with `unheld`, only if nobody else holds it."""

    id: str = attrs.field(validator=fields.session)
    unheld: bool = False


@_message("admitted")
class Admitted(Message):
    """Reply to a `join` that came from another machine: there is a visit, of whoever shows its token to the gateway.

    Attributes:
        visit: its name. gateway: where the gateway listens, "" for beside the socket that was asked.
    """

    visit: str = attrs.field(validator=fields.session)
    token: bytes = attrs.field(repr=False, validator=fields.token)
    gateway: str = ""
    gateway_key: str = ""


@_message("objects")
class Objects(Message):
    """Which objects are there? Answered with `ok {"objects": [{id, name, entry, pid, level, holders, calls}, …]}`."""


# --- host to client: events -----------------------------------------------------------------------------------------


@_message("node")
class NodeEvent(Message):
    """A node's state has changed: `ready`, `ended`, `failed`, `lost`.

    Attributes:
        type_name, message, traceback, frame: for `failed`, what the user's code raised and on which frame.
        status: for `ended` and `lost`, how the process ended, in words.
    """

    session: str = attrs.field(validator=fields.session)
    node: int = attrs.field(validator=_number)
    state: str
    type_name: str = ""
    message: str = ""
    traceback: str = ""
    frame: int | None = None
    status: str = ""


@_message("linked")
class Linked(Message):
    """An edge's mark has come back: it is up."""

    session: str = attrs.field(validator=fields.session)
    edge: int = attrs.field(validator=_number_or_elsewhere)


@_message("log")
class Log(Message):
    """Lines that a node printed; `suppressed` more were held back since the last message."""

    session: str = attrs.field(validator=fields.session)
    node: int = attrs.field(validator=_number)
    lines: list[str]
    suppressed: int = 0


@_message("draining")
class Draining(Message):
    """The host was told to stop."""

    reason: str


@_message("peer_lost")
class PeerLost(Message):
    """The connection between two gateways has failed."""

    session: str = attrs.field(validator=fields.session)
    peer: str
    edges: list[int]


@_message("topic")
class Topic(Message):
    """A topic has appeared, or gone."""

    topic: str = attrs.field(validator=fields.topic)
    is_there: bool


# --- host to node, on the umbilical ---------------------------------------------------------------------------------


@_message("job")
class Job(Message):
    """What to be: descriptors ride along, `package` and `state` say which of them is which (-1: none).

    Attributes:
        start: the client's request. host: the host's name. work: a folder that the node may write to.
        page: the descriptor of the node's counters.
        holds: whether it is an object, and no node of a pipeline.
    """

    start: Start
    host: str
    level: str
    work: str
    package: int = -1
    state: int = -1
    page: int = -1
    holds: bool = False


@_message("input")
class Input(Message):
    """An edge that ends at the node. It comes by a `fast` lane, or to the listening socket for all those that do not.

    Attributes:
        page, lane, listener: places among the descriptors that ride along, -1: none. path: where the socket listens.
        topic: what feeds it, "" for an edge of a pipeline.
        epoch: from 1 up, as of `output`; a known edge with a further one is joined anew.
        life: how many processes have been its producer, this one included.
    """

    edge: int = attrs.field(validator=_number)
    port: str = attrs.field(validator=fields.name)
    token: bytes = attrs.field(validator=fields.token)
    credit: int = attrs.field(validator=_credit)
    page: int
    lane: int = -1
    listener: int = -1
    path: str = ""
    topic: str = ""
    epoch: int = attrs.field(default=1, validator=_frames)
    life: int = attrs.field(default=1, validator=_frames)


@_message("output")
class Output(Message):
    """An edge that begins at the node, by a `fast` lane, or by a connection to `path`.

    Attributes:
        page, lane: places among the descriptors that ride along, -1: none.
        shared: whether frames may go by reference. last: whether the last frame is to be told at once.
        epoch: from 1 up; a further one begins where an end of the edge has died and another has taken over.
        resends: whether what its consumer has not processed is kept for the next epoch.
    """

    edge: int = attrs.field(validator=_number)
    port: str = attrs.field(validator=fields.name)
    token: bytes = attrs.field(validator=fields.token)
    delivery: str = attrs.field(validator=_delivery)
    n: int = attrs.field(validator=_frames)
    path: str
    page: int
    lane: int = -1
    shared: bool = True
    last: bool = False
    epoch: int = attrs.field(default=1, validator=fields.number(1, MAX_EPOCH))
    resends: bool = False


@_message("publish")
class Publish(Message):
    """Outputs are topics from now on, port to topic: keep the last frame of each for those who come later."""

    topics: dict[str, str] = attrs.field(validator=fields.topics)


@_message("gone")
class Gone(Message):
    """The other end of an edge is gone: `consumer_ended`, `consumer_died`, `producer_died`."""

    edge: int = attrs.field(validator=_number)
    reason: str = attrs.field(validator=fields.one_of("consumer_ended", "consumer_died", "producer_died"))


@_message("segment")
class Segment(Message):
    """Memory for an output, as it was asked for by `grow`: its producer maps it for writing, and says `mapped`.

    Attributes:
        port: of the output. segment: its number on this host, 0 where there is none: `reason` says why.
        slots, slot_bytes: how it is divided. descriptor: its place among those that ride along, -1: none.
    """

    port: str = attrs.field(validator=fields.name)
    segment: int = attrs.field(validator=_number)
    slots: int = attrs.field(default=0, validator=fields.number(0, MAX_SLOTS))
    slot_bytes: int = attrs.field(default=0, validator=fields.number(0, MAX_SEGMENT_BYTES))
    descriptor: int = -1
    reason: str = ""


@_message("attach")
class Attach(Message):
    """Frames may come that lie in this segment: map it for reading, and say `mapped`."""

    segment: int = attrs.field(validator=_number)
    size: int = attrs.field(validator=fields.number(1, MAX_SEGMENT_BYTES))
    descriptor: int = 0


@_message("usable")
class Usable(Message):
    """The consumers of these edges, which begin at the port, have mapped a segment."""

    port: str = attrs.field(validator=fields.name)
    segment: int = attrs.field(validator=_number)
    edges: list[int]


@_message("detach")
class Detach(Message):
    """No further frame lies in this segment: unmap it when the last view has gone."""

    segment: int = attrs.field(validator=_number)


@_message("visit")
class Visit(Message):
    """To a gateway: somebody on another machine will come as this visit, and show its token.

    With it comes his umbilical: what his end of it would be told or given, the gateway keeps or sends on.
    """

    visit: str = attrs.field(validator=fields.session)
    token: bytes = attrs.field(repr=False, validator=fields.token)


@_message("counts")
class Counts(Message):
    """Between the two relays of a visit: what has been counted at this end of an edge."""

    edge: int = attrs.field(validator=_number)
    counts: list[int] = attrs.field(validator=fields.counts)


@_message("bridge")
class Bridge(Message):
    """To a gateway: carry an edge to or from another machine."""

    link: Link
    path: str = ""
    listener: int = -1


@_message("gateway")
class GatewayJob(Message):
    """To a gateway: its keys, where to listen ("": not on the network) and to whom. Answered with `listening`.

    Attributes:
        path: of the Unix socket where it listens too, for those who have the machine's user for a friend: by ssh.
    """

    listen: str
    public: str
    secret: str = attrs.field(repr=False)
    clients: list[str] = attrs.field(factory=list[str])
    path: str = ""


# --- node to host, on the umbilical ---------------------------------------------------------------------------------


@_message("spare")
class Spare(Message):
    """A process is ready to become a node; what is in force of its confinement."""

    confinement: dict[str, str]


@_message("join")
class Join(Message):
    """A process that was started by hand asks to become a node of this host; also said to one of another machine.

    Attributes:
        token: from the connection file: whoever can read that is the user.
        session, node: a node that a client has announced with `start` and `by_hand`; else "".
        inputs, outputs: port to topic, where it joins by topics alone; of an input, a pattern over topics.
        delivery, n: of its inputs. last: whether it wants the last frame of each topic at once.
        object: the id of a remote object that it calls; then it joins nothing else.
    """

    name: str = attrs.field(validator=fields.name)
    token: str = attrs.field(default="", repr=False, validator=fields.key)
    session: str = attrs.field(default="", validator=fields.session)
    node: int = attrs.field(default=0, validator=_number)
    inputs: dict[str, str] = attrs.field(factory=dict[str, str], validator=fields.patterns)
    outputs: dict[str, str] = attrs.field(factory=dict[str, str], validator=fields.topics)
    delivery: str = attrs.field(default="drop_oldest", validator=fields.one_of("latest", "drop_oldest"))
    n: int = attrs.field(default=8, validator=_frames)
    last: bool = False
    object: str = attrs.field(default="", validator=fields.session)


@_message("cancel")
class Cancel(Message):
    """A caller does not wait for a call any more; on to the object goes also who that is."""

    call: int = attrs.field(validator=fields.number(0, MAX_ID))
    caller: str = attrs.field(default="", validator=fields.name)


@_message("offers")
class Offers(Message):
    """What can be reached of an object, name to kind; said before it is ready."""

    names: dict[str, str]


# --- host to host, where two of one user meet on one machine ---------------------------------------------------------
#
# The producer's host connects to `host.sock` of the consumer's. The id of a message is that of its edge there: the one
# who connects counts them, from 2 up; 1 is `meet`. What else is said is what a host and its nodes say on an umbilical:
# `attach`, `detach`, `mapped`, `gone`, of one edge each.


@_message("meet")
class Meet(Message):
    """The first message of a host that has connected; answered by `ok {"host": name}` or `refused`.

    Attributes:
        token: of the other's connection file. host: what this one is called. versions: as in `hello`.
    """

    token: str = attrs.field(repr=False, validator=fields.key)
    host: str = attrs.field(validator=fields.name)
    versions: tuple[int, int]


@_message("claim")
class Claim(Message):
    """The producer of an edge is here, which waits at the other host. Answered by `offer` or `refused`."""

    session: str = attrs.field(validator=fields.session)
    edge: int = attrs.field(validator=_number)
    token: bytes = attrs.field(repr=False, validator=fields.token)


@_message("offer")
class Offer(Message):
    """What a claimed edge begins with, as places among the descriptors. Answered by `ok`: it is up; or `refused`."""

    page: int
    lane: int


# --- node to host, on the umbilical, again: memory -------------------------------------------------------------------


@_message("grow")
class Grow(Message):
    """Memory for an output is asked for; answered by `segment`."""

    port: str = attrs.field(validator=fields.name)
    slots: int = attrs.field(validator=fields.number(1, MAX_SLOTS))
    slot_bytes: int = attrs.field(validator=fields.number(1, MAX_SEGMENT_BYTES))


@_message("mapped")
class Mapped(Message):
    """A segment has been mapped; or not, and then `problem` says why."""

    segment: int = attrs.field(validator=_number)
    problem: str = ""


@_message("share")
class Share(Message):
    """Frames that the node has received in this segment are to be sent on by an output; answered by `usable`."""

    port: str = attrs.field(validator=fields.name)
    segment: int = attrs.field(validator=_number)


@_message("retire")
class Retire(Message):
    """The node writes no further frame to a segment of its own, and nothing of it is lent."""

    segment: int = attrs.field(validator=_number)


@_message("listening")
class Listening(Message):
    """A gateway is up; `endpoint` is where it listens."""

    endpoint: str
