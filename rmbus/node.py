"""Nodes and their ports: what a user writes, and what is known of it without running anything."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar
from weakref import WeakKeyDictionary

import attrs

from rmbus.errors import PipelineError
from rmbus.needs import Needs, texts
from rmbus.ports import LENDER, Input, Output, Port, Ports, Target

if TYPE_CHECKING:
    from rmbus.pipeline import Pipeline

__all__ = [
    "LENDER",
    "Call",
    "Input",
    "Interrupt",
    "Needs",
    "Node",
    "Options",
    "Output",
    "Port",
    "Ports",
    "Target",
    "call_of",
    "declared_requirements",
    "describe_ports",
    "node_name",
    "options_of",
    "ports",
]

Restart = Literal["never", "on-failure", "always"]
OnError = Literal["stop", "skip", "restart"]

_OPTIONS: Final = "_rmbus_options"
_JOINED_INPUTS: Final = "_rmbus_joined_inputs"
_JOINED_OUTPUTS: Final = "_rmbus_joined_outputs"

_PortT = TypeVar("_PortT", bound=Port)


@attrs.frozen
class Interrupt:
    """A new turn on an output: older frames downstream are dropped, counted, and what works on them is stopped."""


@attrs.frozen
class Options:
    """What `Node.options` has set; None where it has set nothing.

    Attributes:
        name: the node's name.
        on: the address of the host that runs it.
        needs, requirements: instead of those of the class.
        files: files, folders and local modules that travel with it, beside those that are found.
        env: the name of an environment that the host's owner has prepared.
        restart: when its process is started again.
        on_error: what happens when `process` raises.
    """

    name: str | None = None
    on: str | None = None
    needs: Needs | None = None
    requirements: tuple[str, ...] | None = None
    files: tuple[str, ...] | None = None
    env: str | None = None
    restart: Restart | None = None
    on_error: OnError | None = None


@attrs.frozen
class Call:
    """How `process` is called.

    Attributes:
        frame: it takes a frame; a source takes none.
        port: how it takes the name of the input: not, as the second argument, by keyword, or among `*args`.
    """

    frame: bool
    port: Literal["no", "second", "keyword", "rest"]


# --- nodes ----------------------------------------------------------------------------------------------------------


class _Name:
    """`node.name`, as long as the node's own code sets no attribute of that name."""

    def __get__(self, instance: Node | None, owner: type) -> object:
        return self if instance is None else node_name(instance)


class Node:
    """A class that consumes and produces frames; each instance runs as a process of its own.

    Subclasses write `process`, and declare ports as class attributes: `video = Input(Video("rgb24"))`. Where they
    declare none there is one input `in` and one output `out`; a source, whose `process` takes no frame, has no input.
    `__init__` runs where the object is built and takes parameters only: models and devices belong into `initialize`.

    Attributes:
        needs: what it asks of its host.
        requirements: Python packages that it needs, as for pip.
        independent: its outputs don't wait for its inputs (a browser, a sound card), so a cycle may pass through it.
        deterministic: the same input gives the same output, so that it may be run again after a crash.
        exclusive: at no moment may two of it run.
    """

    needs: Needs = Needs()
    requirements: Sequence[str] = ()
    independent: bool = False
    deterministic: bool = False
    exclusive: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A node is itself and no other, also where a dataclass would compare fields and take the hash away.
        if "__eq__" not in cls.__dict__:
            cls.__eq__ = Node.__eq__  # type: ignore[method-assign]  # on the subclass, which has none of its own
        if cls.__dict__.get("__hash__") is None:
            cls.__hash__ = Node.__hash__  # type: ignore[method-assign]  # as above

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self) >> 4

    def initialize(self) -> Any:
        """Prepare what `process` uses, in the node's own process, on every start, after the state is set."""

    def process(self, *args: Any, **kwargs: Any) -> Any:
        """Take a frame; return or yield what it gives.

        Written as `process(self, frame)`, with several inputs `process(self, frame, port)`, as a source
        `process(self)`; plain, async, generator or async generator. A value goes to the only output,
        `(self.boxes, value)` to a named one, `Interrupt()` begins a new turn, None is nothing. A frame goes as it is;
        an array takes the header of the input frame; anything else becomes `Data` with its pts.
        """
        raise PipelineError(f"{type(self).__name__} has no process(): write `def process(self, frame)`")

    def flush(self) -> Any:
        """All inputs have ended: emit what is held, in the ways of `process`."""

    def interrupted(self) -> Any:
        """Frames that waited were thrown away: forget what belongs to them."""

    def key_wanted(self, port: str) -> Any:
        """Whoever reads an output cannot decode what comes before its next key frame: force one, if this node encodes.

        It is called between two calls of `process`, or two values that it yields; again each second, until one comes.

        Args:
            port: the output.

        Returns:
            Whether those are to be asked too who send encoded video to this node; as it stands here, they are.
        """
        return True

    def cleanup(self) -> Any:
        """Release what `initialize` took; called at every end, also after an error."""

    def get_state(self) -> Any:
        """Return what makes this node what it is, as data; by default its attributes."""
        state = {name: value for name, value in self.__dict__.items() if not name.startswith("_rmbus_")}
        return state | {name: getattr(self, name) for name in _slots(type(self)) if hasattr(self, name)}

    def set_state(self, state: Any) -> None:
        """Take over a state that `get_state` returned."""
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def __getstate__(self) -> Any:
        return self.get_state()

    def __setstate__(self, state: Any) -> None:
        self.set_state(state)

    @property
    def joined_inputs(self) -> frozenset[str]:
        """The inputs that are joined; all, as long as the node is not part of a run."""
        found: frozenset[str] | None = self.__dict__.get(_JOINED_INPUTS)
        return frozenset(ports(self).inputs) if found is None else found

    @joined_inputs.setter
    def joined_inputs(self, names: frozenset[str]) -> None:
        self.__dict__[_JOINED_INPUTS] = names

    @property
    def joined_outputs(self) -> frozenset[str]:
        """The outputs that are joined; all, as long as the node is not part of a run."""
        found: frozenset[str] | None = self.__dict__.get(_JOINED_OUTPUTS)
        return frozenset(ports(self).outputs) if found is None else found

    @joined_outputs.setter
    def joined_outputs(self, names: frozenset[str]) -> None:
        self.__dict__[_JOINED_OUTPUTS] = names

    def ended(self, port: str) -> Any:
        """An input has ended; others may go on. `flush` follows when all have."""

    def options(
        self,
        *,
        name: str | None = None,
        on: str | None = None,
        needs: Needs | None = None,
        requirements: Sequence[str] | None = None,
        files: Sequence[str] | None = None,
        env: str | None = None,
        restart: Restart | None = None,
        on_error: OnError | None = None,
    ) -> Self:
        """Set how and where this node runs; what is left out stays as it was.

        Args:
            name: its name in the pipeline, by default that of the class in lower case.
            on: the address of the host that runs it.
            needs: what it asks of the host, instead of the class's.
            requirements: Python packages that it needs, instead of the class's; `()`: none, whatever the script or
                the project states.
            files: files, folders, or names of local modules that travel with it beside those that are found, such as
                modules that it imports by a name known only at run time.
            env: the name of an environment that the host's owner has prepared, instead of requirements.
            restart: when its process is started again: "never" (the default), "on-failure" or "always".
            on_error: when `process` raises, "stop" the pipeline (the default), "skip" the frame, or "restart" the node.

        Returns:
            The node itself.
        """
        _one_of("restart", restart, ("never", "on-failure", "always"))
        _one_of("on_error", on_error, ("stop", "skip", "restart"))
        if name is not None and (not name or set("/.\n\t\0 ") & set(name)):
            raise ValueError(f"a node's name is a word without space, dot or slash, not {name!r}")
        given: dict[str, Any] = {
            "name": name,
            "on": on,
            "needs": needs,
            "requirements": None if requirements is None else texts(requirements),
            "files": None if files is None else texts(files),
            "env": env,
            "restart": restart,
            "on_error": on_error,
        }
        changes = {key: value for key, value in given.items() if value is not None}
        self.__dict__[_OPTIONS] = attrs.evolve(_own_options(self), **changes)
        return self

    if TYPE_CHECKING:
        name: str  # so that a subclass may also have an attribute of this name
    else:
        name = _Name()

    def __getitem__(self, name: str) -> Port:
        found = ports(self)
        port = found.inputs.get(name) or found.outputs.get(name)
        if port is None:
            raise PipelineError(f"{node_name(self)} has no port {name!r}: {describe_ports(self)}")
        return port

    def __rshift__(self, target: Target) -> Pipeline:
        from rmbus.pipeline import join

        return join(self, target)

    def __or__(self, other: Node | Pipeline) -> Pipeline:
        from rmbus.pipeline import merge

        return merge(self, other)


def node_name(node: Node) -> str:
    """Return the name that the node was given, by default that of its class in lower case."""
    return _own_options(node).name or type(node).__name__.lower()


def options_of(node: Node) -> Options:
    """Return the node's options, with those of its class where it was given none."""
    own = _own_options(node)
    return attrs.evolve(
        own,
        name=node_name(node),
        needs=own.needs or node.needs,
        requirements=texts(node.requirements) if own.requirements is None else own.requirements,
        restart=own.restart or "never",
        on_error=own.on_error or "stop",
    )


def declared_requirements(node: Node | type[Node]) -> tuple[str, ...] | None:
    """Return the requirements that were stated for the node, its options before its class; None where none were."""
    own = None if isinstance(node, type) else _own_options(node).requirements
    if own is not None:
        return own
    cls = node if isinstance(node, type) else type(node)
    stated = "requirements" in vars(node) or any(
        "requirements" in vars(each) for each in cls.__mro__ if each is not Node
    )
    return texts(node.requirements) if stated else None


def ports(node: Node | type[Node]) -> Ports:
    """Return the ports of a node or of a class.

    Raises:
        PipelineError: `process` does not suit the ports that are declared.
    """
    cls = node if isinstance(node, type) else type(node)
    found = _PORTS.get(cls)
    if found is None:
        found = _PORTS[cls] = _ports_of(cls)
    if isinstance(node, type):
        return found
    return Ports(
        {name: port.of(node) for name, port in found.inputs.items()},
        {name: port.of(node) for name, port in found.outputs.items()},
    )


def call_of(cls: type[Node]) -> Call:
    """Return how the class's `process` is called.

    Raises:
        PipelineError: it has none.
    """
    if cls.process is Node.process:
        raise PipelineError(f"{cls.__name__} has no process(): write `def process(self, frame)`")
    written = inspect.getattr_static(cls, "process")
    parameters = list(inspect.signature(cls.process).parameters.values())
    if not isinstance(written, staticmethod | classmethod):
        parameters = parameters[1:]
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    more = any(each.kind == each.VAR_POSITIONAL for each in parameters)
    keyword = any(each.name == "port" and each.kind == each.KEYWORD_ONLY for each in parameters)
    second = len(positional) > 1 and (positional[1].name == "port" or positional[1].default is inspect.Parameter.empty)
    how: Literal["no", "second", "keyword", "rest"] = "second" if second else "keyword" if keyword else "no"
    return Call(frame=bool(positional) or more, port="rest" if more and how == "no" else how)


def describe_ports(node: Node | type[Node]) -> str:
    """Return the node's ports in words, for an error."""
    found = ports(node)
    inputs, outputs = (", ".join(each) for each in (found.inputs, found.outputs))
    return f"inputs: {inputs or 'none'}; outputs: {outputs or 'none'}"


_PORTS: WeakKeyDictionary[type[Node], Ports] = WeakKeyDictionary()
_NO_OPTIONS: Final = Options()


def _own_options(node: Node) -> Options:
    found: Options = node.__dict__.get(_OPTIONS, _NO_OPTIONS)
    return found


def _ports_of(cls: type[Node]) -> Ports:
    declared: dict[str, object] = {}
    for each in reversed(cls.__mro__):
        declared.update({name: value for name, value in vars(each).items() if name in declared or _is_port(value)})
    inputs = {port.name: port for port in declared.values() if isinstance(port, Input)}
    outputs = {port.name: port for port in declared.values() if isinstance(port, Output)}
    call = call_of(cls)
    if not inputs and not outputs:
        return Ports({"in": _named(Input(), "in")} if call.frame else {}, {"out": _named(Output(), "out")})
    if inputs and not call.frame:
        raise PipelineError(
            f"{cls.__name__} declares the input {next(iter(inputs))!r}, but its process() takes no frame"
        )
    if not inputs and call.frame:
        raise PipelineError(
            f"{cls.__name__} declares outputs only, and its process() takes a frame: "
            "declare its input too, `frames = Input()`"
        )
    if len(inputs) > 1 and call.port == "no":
        raise PipelineError(
            f"{cls.__name__} has the inputs {', '.join(inputs)}: "
            "write `def process(self, frame, port)` to tell them apart"
        )
    return Ports(inputs, outputs)


def _is_port(value: object) -> bool:
    return isinstance(value, Port)


def _named(port: _PortT, name: str) -> _PortT:
    port.name = name
    return port


def _slots(cls: type) -> list[str]:
    found = [vars(each).get("__slots__", ()) for each in cls.__mro__]
    names = [name for slots in found for name in ((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if not name.startswith("__")]


def _one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise ValueError(f"{what} is {', '.join(map(repr, allowed))}, not {value!r}")
