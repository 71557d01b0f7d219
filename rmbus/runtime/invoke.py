"""How the user's code is called: every kind of function in one way, every result as emissions."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from rmbus.media import Frame, bare
from rmbus.node import LENDER, Node, Ports, call_of, ports
from rmbus.protocol.limits import INLINE_BYTES
from rmbus.runtime.emissions import Converter, Emission
from rmbus.runtime.eventloop import EventLoop
from rmbus.runtime.loans import Loan, model_of
from rmbus.stamps import memory_of
from rmbus.transport.memory import Held

__all__ = ["Emission", "Invoker"]


class Invoker:
    """Calls one node. Of its methods only `cancel` may be called from another thread than the rest.

    What the user's code raises comes out as it is, with its traceback.

    Attributes:
        node: the node.
        ports: its ports.
        is_source: its `process` takes no frame.
    """

    def __init__(self, node: Node, its_ports: Ports | None = None) -> None:
        self.node = node
        self.ports = ports(node) if its_ports is None else its_ports
        self._call = call_of(type(node))
        self.is_source = not self._call.frame
        self._many = len(self.ports.inputs) > 1
        self._converter = Converter(node, self.ports)
        self._loop: EventLoop | None = None
        self._lent: deque[Emission] = deque()
        self._origin: Frame | None = None
        self._room: Callable[[str, int], Held | None] = _no_room
        node.__dict__[LENDER] = self._lend

    def lend_from(self, room: Callable[[str, int], Held | None]) -> None:
        """Take what `loan` lends from shared memory: `room` returns some for an output and a size, or None."""
        self._room = room

    def forget(self) -> None:
        """Let go of the content of the last input frame; `flush` needs its header alone."""
        if self._origin is not None and memory_of(self._origin) is not None:
            self._origin = bare(self._origin)

    def initialize(self) -> None:
        """Call the node's `initialize`."""
        self._run(self.node.initialize())

    def source(self) -> Iterator[Emission]:
        """Return what a source emits; each pull runs its code to the next value."""
        yield from self._emissions(self.node.process(), None)

    def process(self, frame: Frame, port: str) -> Iterable[Emission]:
        """Give the node a frame of the named input.

        Returns:
            What it emits: done already where `process` is a plain function or a coroutine; from a generator, lazily:
            each pull runs the user's code to its next value, and closing the iterator closes the generator.
        """
        self._origin = frame
        how = self._call.port
        if how == "second" or (how == "rest" and self._many):
            result = self.node.process(frame, port)
        elif how == "keyword":
            result = self.node.process(frame, port=port)
        else:
            result = self.node.process(frame)
        return self._emissions(result, frame)

    def flush(self) -> Iterable[Emission]:
        """All inputs have ended: return what the node still emits, as `process` does."""
        return self._emissions(self.node.flush(), self._origin)

    def join(self, inputs: Collection[str], outputs: Collection[str]) -> None:
        """Tell the node which of its ports are joined, before it is initialized; what nobody reads need not be made."""
        self.node.joined_inputs = frozenset(inputs)
        self.node.joined_outputs = frozenset(outputs)

    def ended(self, port: str) -> None:
        """Tell the node that an input has ended."""
        self._run(self.node.ended(port))

    def interrupted(self) -> None:
        """Tell the node that frames which waited were thrown away."""
        self._run(self.node.interrupted())

    def cancel(self) -> None:
        """Cancel the coroutine or async generator that runs now: its emissions end. From any thread."""
        if self._loop is not None:
            self._loop.cancel()

    def cleanup(self) -> None:
        """Call the node's `cleanup`."""
        self._run(self.node.cleanup())

    def close(self) -> None:
        """End the thread of the node's event loop, if it had one. The node can be used by a new Invoker."""
        self.node.__dict__.pop(LENDER, None)
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    # --- inside ------------------------------------------------------------------------------------------------------

    @property
    def _event_loop(self) -> EventLoop:
        if self._loop is None:
            self._loop = EventLoop()
        return self._loop

    def _run(self, result: Any) -> None:
        """Finish what a call of the user's code has begun, if it is async or a generator; what it gives is not used."""
        value: Any = self._awaited(result)
        if _is_iterator(value):
            deque(value, maxlen=0)

    def _emissions(self, result: Any, origin: Frame | None) -> Iterable[Emission]:
        value: Any = self._awaited(result)
        if _is_iterator(value):
            return self._stream(value, origin)
        return tuple(self._taken(value, origin))

    def _awaited(self, result: Any) -> Any:
        """Return what a call gave: of a coroutine its value, of an async iterator an iterator."""
        value = self._event_loop.call(result) if _is_coroutine(result) else result
        return self._event_loop.iterate(value) if _is_async_iterator(value) else value

    def _stream(self, steps: Iterator[Any], origin: Frame | None) -> Generator[Emission, None, None]:
        over = False
        try:
            while not over:
                try:
                    value = next(steps)
                except StopIteration as end:
                    value, over = end.value, True
                yield from self._taken(value, origin)
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()

    def _taken(self, value: object, origin: Frame | None) -> Iterator[Emission]:
        """Yield what was lent and is finished, then what the value means."""
        emission = self._converter.emission(value, origin)
        while self._lent:
            yield self._lent.popleft()
        if emission is not None:
            yield emission

    @contextmanager
    def _lend(self, port: str, like: Frame | None) -> Generator[Frame]:
        """Lend a frame to write to; it is emitted when the context ends without an error."""
        model = model_of(self._origin if like is None else like)
        size = model.array.nbytes
        loan = Loan(model, self._room(port, size) if size > INLINE_BYTES else None)
        yield loan.frame
        emission = self._converter.emission((self.ports.outputs[port], loan.finish()), model)
        if emission is not None:
            self._lent.append(emission)


def _no_room(port: str, size: int) -> None:
    """Lend from the heap: there is no shared memory where a node runs inline."""


# As functions, for isinstance() would leave what they yield unknown to the type checkers.


def _is_coroutine(value: object) -> TypeGuard[Coroutine[Any, Any, Any]]:
    return isinstance(value, Coroutine)


def _is_iterator(value: object) -> TypeGuard[Iterator[Any]]:
    return isinstance(value, Iterator)


def _is_async_iterator(value: object) -> TypeGuard[AsyncIterator[Any]]:
    return isinstance(value, AsyncIterator)
