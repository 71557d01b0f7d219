"""A host from any script: publish values to topics, iterate over those of others, ship objects and call them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

from rmbus.delivery import Delivery, latest
from rmbus.errors import Closed, ConnectFailed, HostError, PackagingError, RmbusError
from rmbus.handle import Handle
from rmbus.joined import enter
from rmbus.node import Needs, Node, declared_requirements, node_name, options_of
from rmbus.protocol import messages
from rmbus.protocol.published import EVENTS
from rmbus.protocol.topics import check_pattern, check_topic
from rmbus.proxies import handle_of, make_proxy
from rmbus.reaching import Way, reach_bus
from rmbus.remote import About, Holding, local_class
from rmbus.runtime import inlet, outlet
from rmbus.runtime.applying import Applied, check_config
from rmbus.runtime.awaiting import Intake
from rmbus.runtime.events import EventIntake
from rmbus.runtime.inlet import Inlet
from rmbus.runtime.outlet import Outlet
from rmbus.shipping.pickling import dumps
from rmbus.shipping.states import take_content
from rmbus.topics import Publisher, Subscription

ENCODED_FRAMES: Final = 8
"""How many frames of encoded video wait for a reader that has chosen no delivery."""


_T = TypeVar("_T", Publisher, Subscription)
_O = TypeVar("_O")


class Bus:
    """The topics and remote objects of a host: on this machine, or where ssh reaches it.

    A context manager: leaving it closes what was opened on it.

    Attributes:
        address: of the host.
    """

    def __init__(self, way: Way, timeout_s: float, address: str | None = None) -> None:
        self._way, connection = way, way.connection
        self.address = address if address is not None and connection.is_forwarded else connection.address
        self._connection = connection
        self._timeout_s = timeout_s
        self._opened: weakref.WeakSet[Publisher | Subscription] = weakref.WeakSet()
        self._is_closed = False
        self._greeting = threading.Lock()
        self._keeping = threading.Lock()
        self._holding: Holding | None = None
        self._kept_nodes: dict[tuple[int | str, bytes], tuple[Handle, Node | type[Node] | str]] = {}

    def publish(self, topic: str, format: object = None) -> Publisher:
        """Begin a topic; whoever has waited for it reads it when this returns.

        Args:
            topic: its name: words with slashes between, such as `camera/front`.
            format: what it carries, and so what an array is: `Video("rgb24", rate=25)`, say. By default anything, and
                an array is data.

        Raises:
            HostError: the name is taken, or the host is gone. ConnectFailed: it does not answer.
        """
        return self._kept(Publisher(topic, self.open_outlet(topic, format)))

    def subscribe(self, pattern: str, *, delivery: Delivery | None = None, last: bool = False) -> Subscription:
        """Read a topic, or all that match a pattern; they may begin later.

        Args:
            pattern: a topic's name, or a pattern: `*` stands for one word, a last `**` for any number of them.
            delivery: which frames wait here while others are dealt with: `latest` or `drop_oldest(n)`. By default the
                latest alone; of encoded video, which needs what was before, eight.
            last: whether the last frame of a topic that has begun, or its last key frame, comes at once.

        Raises:
            HostError: the host is gone. ConnectFailed: it does not answer. RmbusError: topics do not do that.
        """
        return self._kept(Subscription(pattern, self.open_intake(pattern, delivery, last=last)))

    # --- remote objects ----------------------------------------------------------------------------------------------

    def ship(
        self,
        obj: _O,
        *,
        requirements: Sequence[str] | None = None,
        files: Sequence[str | Path] = (),
        env: str | None = None,
        needs: Needs | None = None,
    ) -> _O:
        """Let the host hold an object, in a confined process of its own, with all the source that it needs.

        Args:
            obj: the object; its `initialize`, if it has one, runs there before it is used, its `cleanup` at the end.
            requirements: distributions that its code must have there, as pip writes them; by default those of its
                class, its script or its project, as for a node.
            files: files, folders and local modules to go along, beside those that are found.
            env: the name of an environment that the host's owner has prepared, instead of requirements.
            needs: what the host is to grant it, by default the `needs` of its class.

        Returns:
            A stand-in with the names of the class, and no others: methods of every kind, properties, attributes. What
            a call is given is pickled; what it returns comes back as data. It ends by `release`, when the bus is
            closed, or half a minute after the last process that holds it is gone.

        Raises:
            PackagingError: it cannot be shipped. HostError: the host refuses. NodeError: its code fails there, also of
            the original type.
        """
        holding = self.holding()
        stated = getattr(type(obj), "requirements", None) if requirements is None else requirements
        handle = Handle(holding, holding.ship(obj, requirements=stated, files=files, env=env, needs=needs), obj)
        return cast("_O", make_proxy(handle, type(obj)))

    def attach(self, id: str) -> Any:
        """Return a stand-in for an object that another process has shipped; both hold it.

        Raises:
            HostError: there is none of that id.
        """
        holding = self.holding()
        about = holding.attach(id)
        return make_proxy(Handle(holding, about), local_class(about.entry))

    def fetch(self, proxy: _O) -> _O:
        """Bring the state of a remote object home: into the object that was shipped, which is returned.

        For one that was attached to, a new object of its class, which must be imported here already.

        Raises:
            PackagingError: the state is no data, or the class is not known here.
        """
        handle = handle_of(proxy)
        state = handle.do("state")
        obj = handle.local
        if obj is None:
            cls = local_class(handle.about.entry)
            if cls is None:
                raise PackagingError(f"{handle.about.entry} is not known here: import its module first")
            obj = handle.local = object.__new__(cls)
        take_content(obj, state)
        return cast("_O", obj)

    def state(self, proxy: object) -> Any:
        """Return the state of a remote object, as data: what its `get_state` gives, else its attributes."""
        return handle_of(proxy).do("state")

    def restore(self, proxy: object, state: object) -> None:
        """Give a remote object a state, on this host or another, instead of the one it has."""
        handle_of(proxy).do("restore", value=state)

    def replace(self, proxy: object, obj: _O) -> _O:
        """Give a remote object new code: that of another object, which takes over its state and its id.

        What others call between the moment at which the state is taken and that at which the new one has it, changes
        the old object, or the new one before it has its state: it is lost.

        Raises:
            as `ship`; then all is as it was. What the new `set_state` raises; then the new one has its own state.
        """
        handle, holding = handle_of(proxy), self.holding()
        state = handle.do("state")
        about = holding.ship(obj, instead_of=handle.about.id)
        handle.begin_anew()
        new = make_proxy(Handle(holding, about, obj), type(obj))
        self.restore(new, state)
        return cast("_O", new)

    def release(self, proxy: object) -> None:
        """End a remote object, also for others who hold it.

        Raises:
            HostError: it has ended.
        """
        handle = handle_of(proxy)
        self.holding().release(handle.about.id)
        handle.begin_anew()

    def call(
        self,
        node: Node | type[Node] | str,
        value: object,
        *,
        config: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Give a value to a node of the host, and return what it makes of it; the node is kept for further calls.

        Args:
            node: a node with one input, or its class, which is shipped; or the name of one that is registered on the
                host.
            value: a frame, or any value that a `Data` can hold. config: what a class or a named one is built with, by
                the names of its constructor: see `rmbus nodes NAME`. It is checked here, and again on the host.
            timeout_s: how long its `process` may take before it is stopped.

        Returns:
            None where it emits nothing, the value where it emits one, a list where more; of a node with several outputs
            `{port: list}`. The value of a `Data` stands for that.

        Raises:
            ConfigurationError: the constructor does not take `config`; where the host has found it, NodeError as well.
            NodeError: its code has failed; also of the original type. TimeoutError: its time was over.
        """
        return self._applied(node, config).run("process", value, limit_s=timeout_s)

    def stream(
        self, node: Node | type[Node] | str, items: Iterable[object], *, config: Mapping[str, Any] | None = None
    ) -> Generator[Any]:
        """Give values to a node of the host, one after the other, and yield what it makes of them as it comes.

        The node is a new one, and ends with the stream; what it emits at the end of its input comes last. Of a node
        with several outputs each is `(port, value)`.

        Args:
            node, config: as for `call`. items: they are taken as the results are, a few ahead.

        Raises:
            as `call`.
        """
        holding = self.holding()
        handle = Handle(holding, _ship_node(holding, node, config))
        try:
            for found in handle.each("emissions", items):
                yield from found
            yield from handle.run("flush")
        finally:
            with suppress(HostError):  # it has ended by itself
                holding.release(handle.about.id)
            handle.begin_anew()

    def nodes(self) -> list[dict[str, Any]]:
        """Return the remote objects of the host: id, name, entry, state, pid, level, holders, callers."""
        return self.holding().objects()

    def status(self) -> dict[str, Any]:
        """Return how the host stands."""
        return self.holding().status()

    def close(self) -> None:
        """Close what was opened on the bus; harmless when that has been done."""
        self._is_closed = True
        for each in list(self._opened):
            each.close()
        with self._greeting:
            if self._holding is not None:
                self._holding.close()
        self._way.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for each in list(self._opened):
                each.__exit__(kind, error, trace)
        self.close()

    def holding(self) -> Holding:
        """Return what holds remote objects; not for scripts.

        Raises:
            ConnectFailed: the host does not answer.
        """
        self._check()
        with self._greeting:
            if self._holding is None:
                self._holding = Holding(self._connection, self._timeout_s)
            self._holding.check()
            return self._holding

    def _applied(self, node: Node | type[Node] | str, config: Mapping[str, Any] | None) -> Handle:
        holding = self.holding()
        key = (node if isinstance(node, str) else id(node), dumps(dict(config or {})))
        with self._keeping:
            handle, _ = self._kept_nodes.get(key, (None, None))
            if handle is None or handle.has_failed:
                handle = Handle(holding, _ship_node(holding, node, config))
                self._kept_nodes[key] = handle, node  # which is kept, so that its id stays its own
        return handle

    # --- for this package alone --------------------------------------------------------------------------------------

    def open_outlet(self, topic: str, format: object) -> Outlet:
        """Join the host as one output that is a topic."""
        self._check()
        join = messages.Join(topic, outputs={outlet.PORT: check_topic(topic)})
        umbilical, _, page = enter(self._connection, join, timeout_s=self._timeout_s)
        opened = Outlet(umbilical, page, topic, Any if format is None else format, self.address)
        try:
            opened.begin(self._timeout_s)
        except BaseException:
            opened.close(0)
            raise
        return opened

    def open_intake(self, pattern: str, delivery: Delivery | None, *, last: bool) -> Intake:
        """Join the host as one input that topics feed."""
        self._check()
        if delivery is not None and delivery.kind == "reliable":
            raise RmbusError(
                f"a subscription to {pattern} cannot be {delivery}: a topic waits for none of its readers. "
                "Choose latest or drop_oldest(n), or join the two nodes by an edge of a pipeline"
            )
        if pattern == EVENTS:
            return self._events(delivery)
        join = messages.Join(
            pattern,
            inputs={inlet.PORT: check_pattern(pattern)},
            delivery=delivery.kind if delivery else "latest",
            n=delivery.n if delivery else ENCODED_FRAMES,
            last=last,
        )
        umbilical, _, _ = enter(self._connection, join, timeout_s=self._timeout_s)
        return Inlet(umbilical, pattern, self.address, takes_latest=delivery == latest)

    def _events(self, delivery: Delivery | None) -> Intake:
        if delivery is not None:
            raise RmbusError(f"{EVENTS} tells what there is, to whoever listens: its delivery cannot be chosen")
        return EventIntake([self._connection])

    def _check(self) -> None:
        if self._is_closed:
            raise Closed("the bus was closed: connect() anew")

    def _kept(self, opened: _T) -> _T:
        self._opened.add(opened)
        return opened


def _ship_node(holding: Holding, node: Node | type[Node] | str, config: Mapping[str, Any] | None) -> About:
    check_config(node, config)
    applied = Applied(node, config)
    if isinstance(node, str):
        return holding.ship(applied, requirements=(), name=node)
    if isinstance(node, type):
        return holding.ship(applied, requirements=declared_requirements(node), name=node.__name__.lower())
    options = options_of(node)
    return holding.ship(
        applied,
        requirements=declared_requirements(node),
        files=options.files or (),
        env=options.env,
        needs=options.needs,
        name=node_name(node),
    )


def connect(address: str | None = None, *, key: str | None = None, timeout_s: float = 10.0) -> Bus:
    """Connect to the bus of this user: any host of his that runs on this machine, also that of a pipeline, or another.

    Args:
        address: None: any on this machine. `tcp://…` or `ipc://…`: that one, on this machine.
            `ssh://[user@]host[:port][/path/to/rmbus]`: the user's host there, by his own ssh; one is started, for as
            long as this lasts, if none runs.
        key: for hosts on other machines that listen on the network, which cannot be reached in this way yet.
        timeout_s: how long the host may take for each answer.

    Raises:
        ConnectFailed: there is none, or ssh cannot log in.
    """
    if key is not None or (address is not None and not address.startswith(("tcp://", "ipc://", "ssh://"))):
        what = "with a key" if key is not None else f"to {address}"
        raise ConnectFailed(
            f"cannot connect {what} yet: connect() reaches this user's hosts on this machine, at no address or at "
            "tcp://… or ipc://…, and by ssh those of other machines: ssh://[user@]host"
        )
    return Bus(reach_bus(address), timeout_s, address)
