"""The one tree of errors. Each carries its facts as fields, builds its own message, and says what to do next."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final


class RmbusError(Exception):
    """The root of every error that rmbus raises on its own account."""


# --- the wire -------------------------------------------------------------------------------------------------------


class ProtocolError(RmbusError):
    """A peer broke the specification of the wire."""


class MalformedFrame(ProtocolError):
    """Bytes that are no message of this protocol."""


class UnsupportedVersion(ProtocolError):
    """Two peers have no protocol version, implementation or Python minor version in common."""


class TooLarge(ProtocolError):
    """Something is over a limit of the wire.

    Attributes:
        what: what was too large.
        size: its size, in the unit of the limit.
        limit: the greatest size that is taken.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} has size {size}; the limit is {limit}")
        self.what, self.size, self.limit = what, size, limit


# --- transport ------------------------------------------------------------------------------------------------------


class TransportError(RmbusError):
    """Bytes could not be moved."""


class ConnectFailed(TransportError):
    """Nobody answered at an address, or the one who did refused."""


class Broken(TransportError):
    """A connection that was up has failed."""


class Closed(TransportError):
    """This end was closed."""


# --- building -------------------------------------------------------------------------------------------------------


class PipelineError(RmbusError):
    """A graph is invalid, or cannot go on."""


class Stalled(PipelineError):
    """Every node waits for another; the edges that wait are named.

    Attributes:
        edges: the edges that wait, as `producer.port -> consumer.port: why`.
    """

    def __init__(self, edges: Sequence[str], waited_s: float) -> None:
        lines = "\n  ".join(edges)
        super().__init__(
            f"the pipeline cannot go on: nothing has moved for {waited_s:.1f} s and every node waits:\n  {lines}\n"
            "give the edge that is full a larger delivery, or read the inputs that nobody reads"
        )
        self.edges = tuple(edges)


class FormatError(PipelineError):
    """A frame or a port does not have the format that is wanted there."""


class ConfigurationError(PipelineError):
    """A node cannot be built with what it is given: its constructor does not take that.

    Attributes:
        faults: what is wrong, one by one, each with its parameter; empty where the error has come from a host.
    """

    faults: Sequence[str] = ()

    def __init__(self, what: str, faults: Sequence[str], remedy: str) -> None:
        lines = "\n  ".join(faults)
        super().__init__(f"{what} cannot be built so:\n  {lines}\n{remedy}")
        self.faults = tuple(faults)


class PackagingError(RmbusError):
    """Code or state cannot be shipped; nothing has run."""


class SerializationError(RmbusError):
    """A value cannot be made into bytes of a form, or bytes are none of that form."""


# --- hosts and nodes ------------------------------------------------------------------------------------------------


class HostError(RmbusError):
    """A host refused, or was lost.

    Attributes:
        host: the host's name or address.
    """

    def __init__(self, message: str, *, host: str = "") -> None:
        super().__init__(message)
        self.host = host


class ConfinementError(HostError):
    """The level of confinement that is required is not to be had on this machine."""


class NodeError(RmbusError):
    """A node failed: its code raised, or its process ended.

    A failure of user code arrives as a class that is both `NodeError` and the original type, where that type is a
    builtin or already imported here. It is rebuilt from names and text; nothing is unpickled.

    Attributes:
        node: the node's name.
        host: the host that the node ran on.
        frame: the number of the frame on which it failed (counted from 0 for each input), or None.
        type_name: the qualified name of the original type, or "" where the process just ended.
        traceback_text: the traceback on the far side, or "".
        output: the last lines that the node printed.
    """

    def __init__(
        self,
        message: str,
        *,
        node: str = "",
        host: str = "",
        frame: int | None = None,
        type_name: str = "",
        traceback_text: str = "",
        output: Sequence[str] = (),
    ) -> None:
        Exception.__init__(self, message)
        self.message = message
        self.node, self.host, self.frame = node, host, frame
        self.type_name, self.traceback_text = type_name, traceback_text
        self.output = tuple(output)

    def __str__(self) -> str:
        place = f"node {self.node!r} on {self.host or 'this machine'}"
        at = "" if self.frame is None else f", frame {self.frame}"
        kind = f"{self.type_name}: " if self.type_name else ""
        remote = f"\n\nremote traceback:\n{self.traceback_text.rstrip()}" if self.traceback_text else ""
        return f"{kind}{self.message} ({place}{at}){remote}"


UPSTREAM_FAILED: Final = "UpstreamFailed"
"""The `type_name` of a node that ended because one before it has failed, and not by itself."""


def node_error(
    message: str,
    *,
    node: str,
    host: str,
    type_name: str = "",
    frame: int | None = None,
    traceback_text: str = "",
    output: Sequence[str] = (),
) -> NodeError:
    """Rebuild a remote failure from names and text.

    Returns:
        An instance of a class that is both `NodeError` and the type named by `type_name` where that is a builtin
        exception or an exception class of a module that is already imported here; else a plain `NodeError`.
    """
    cls: type[NodeError] = NodeError
    original = _known_exception(type_name)
    if original is not None and not issubclass(original, NodeError):
        try:
            cls = type(original.__name__, (NodeError, original), {"__module__": original.__module__})
        except Exception:  # noqa: BLE001 - the layouts of the two conflict, or its metaclass refuses: the name still tells
            cls = NodeError
    try:
        error = cls.__new__(cls)
    except Exception:  # noqa: BLE001 - the original's own __new__ wants arguments (ExceptionGroup)
        error = NodeError.__new__(NodeError)
    NodeError.__init__(
        error,
        message,
        node=node,
        host=host,
        frame=frame,
        type_name=type_name,
        traceback_text=traceback_text,
        output=output,
    )
    return error


def _known_exception(type_name: str) -> type[Exception] | None:
    """Return the exception class of a qualified name, without importing or running anything."""
    parts = type_name.split(".")
    found: object = builtins
    for length in range(len(parts) - 1, 0, -1):  # the class may stand within others
        if (module := sys.modules.get(".".join(parts[:length]))) is not None:
            found, parts = module, parts[length:]
            break
    for name in parts:
        found = vars(found).get(name) if isinstance(found, ModuleType | type) else None
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    # Raised in the middle of an iteration these would end it, and say nothing.
    return None if issubclass(found, StopIteration | StopAsyncIteration) else found
