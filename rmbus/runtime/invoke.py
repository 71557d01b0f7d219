"""How the user's code is called: every kind of function in one way, every result as emissions."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, contextmanager
from typing import Any, Final

from rmbus.errors import FormatError
from rmbus.formats import fits, kind, show
from rmbus.framing import bare
from rmbus.media import Data, Frame, VideoFrame, now_ns
from rmbus.node import LENDER, Node, Ports, call_of, ports
from rmbus.protocol.frames import Kind
from rmbus.protocol.limits import INLINE_BYTES
from rmbus.runtime.emissions import NOTHING, Converter, Emission, SendArray
from rmbus.runtime.eventloop import EventLoop
from rmbus.runtime.loans import Loan, model_of
from rmbus.stamps import memory_of
from rmbus.transport.memory import Held

__all__ = ["AsyncEmissions", "Emission", "Invoker"]

_VIDEO: Final = int(Kind.VIDEO)
AsyncEmissions = AsyncGenerator[Emission, None]
"""What a node emits, awaited."""


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
        how = self._call.port
        if how == "rest":
            how = "second" if len(self.ports.inputs) > 1 else "no"
        self._how = how
        self._declared = {name: port.format for name, port in self.ports.inputs.items() if port.format is not Any}
        self._fitting: dict[str, object] = {}
        self._converter = Converter(node, self.ports)
        self._loop: EventLoop | None = None
        self._lent: deque[Emission] = deque()
        self._send: Mapping[str, SendArray] = {}
        self._kinds: dict[type, str] = {}
        self._origin: Frame | None = None
        self._room: Callable[[str, int], Held | None] = _no_room
        self._breathes = False
        self._leave: Callable[[], object] = _nothing
        self._enter: Callable[[], object] = _nothing
        node.__dict__[LENDER] = self._lend

    def lend_from(self, room: Callable[[str, int], Held | None]) -> None:
        """Take what `loan` lends from shared memory: `room` returns some for an output and a size, or None."""
        self._room = room

    def breathe(self) -> None:
        """Let a None that a generator yields come out as `NOTHING`, so that whoever pulls has time for other things."""
        self._breathes = True

    @contextmanager
    def giving_way(self, lock: threading.RLock) -> Generator[None]:
        """Let go of a lock, which the caller holds, while the user's `process` runs."""
        self._leave, self._enter = lock.release, lock.acquire
        try:
            yield
        finally:
            self._leave = self._enter = _nothing

    def send_by(self, outputs: Mapping[str, SendArray]) -> None:
        """Send pictures that are lent, and plain arrays of a source, by these, at once where they take them."""
        self._send = outputs
        self._converter.send_by(outputs)

    def forget(self) -> None:
        """Let go of the content of the last input frame; `flush` needs its header alone."""
        origin = self._origin
        if origin is not None and memory_of(origin) is not None:
            self._origin = bare(origin)

    def initialize(self) -> None:
        """Call the node's `initialize`."""
        self._run(self.node.initialize())

    def source(self) -> Iterator[Emission]:
        """Return what a source emits; each pull runs its code to the next value."""
        return iter(self._emissions(self.node.process(), None))

    def process(self, frame: Frame, port: str) -> Iterable[Emission]:
        """Give the node a frame of the named input.

        Returns:
            What it emits: done already where `process` is a plain function or a coroutine; from a generator, lazily:
            each pull runs the user's code to its next value, and closing the iterator closes the generator.
        """
        if self._declared and self._fitting.get(port, self) is not frame.format:
            self._check(port, frame)
        if self._how != "no":
            result = self._call_process(frame, port)
        else:  # as most do
            self._origin = frame
            self._leave()
            try:
                result = self.node.process(frame)
            finally:
                self._enter()
        return () if result is None and not self._lent else self._emissions(result, frame)

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

    def key_wanted(self, port: str) -> bool:
        """Tell the node that an output's reader waits for a key frame; whether those before it are to be asked too."""
        return bool(self._awaited(self.node.key_wanted(port)))

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

    # --- for a loop that is the node's event loop; the same, awaited --------------------------------------------------

    @property
    def is_async(self) -> bool:
        """Whether `process` is a coroutine function or an async generator function."""
        process = inspect.unwrap(type(self.node).process)
        return inspect.iscoroutinefunction(process) or inspect.isasyncgenfunction(process)

    def run_in_loop(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine to its end in the node's event loop, where also its `initialize` has run."""
        self._event_loop.call(work())

    def source_async(self) -> AsyncEmissions:
        """Return what a source emits."""
        return self._emissions_async(self.node.process(), None)

    def process_async(self, frame: Frame, port: str) -> AsyncEmissions:
        """Give the node a frame; return what it emits."""
        if self._declared and self._fitting.get(port, self) is not frame.format:
            self._check(port, frame)
        return self._emissions_async(self._call_process(frame, port), frame)

    def flush_async(self) -> AsyncEmissions:
        """All inputs have ended: return what the node still emits."""
        return self._emissions_async(self.node.flush(), self._origin)

    async def ended_async(self, port: str) -> None:
        """Tell the node that an input has ended."""
        await self._run_async(self.node.ended(port))

    async def interrupted_async(self) -> None:
        """Tell the node that frames which waited were thrown away."""
        await self._run_async(self.node.interrupted())

    async def key_wanted_async(self, port: str) -> bool:
        """Tell the node that an output's reader waits for a key frame; whether those before it are to be asked too."""
        result = self.node.key_wanted(port)
        return bool(await result if self._kind_of(result) == "coroutine" else result)

    async def _run_async(self, result: Any) -> None:
        async for _ in self._values(result):
            continue

    async def _emissions_async(self, result: Any, origin: Frame | None) -> AsyncEmissions:
        async with aclosing(self._values(result)) as values:
            async for value in values:
                emission = self._converter.emission(value, origin)
                while self._lent:
                    yield self._lent.popleft()
                if emission is not None:
                    yield emission
                elif self._breathes:
                    yield NOTHING

    async def _values(self, result: Any) -> AsyncGenerator[Any]:
        """Return what a call gives, one by one, whatever its kind; None at the end, for what was lent last."""
        value: Any = await result if self._kind_of(result) == "coroutine" else result
        kind = self._kind_of(value)
        if kind == "async iterator":
            try:
                async for each in value:
                    yield each
            finally:
                close = getattr(value, "aclose", None)
                if close is not None:
                    await close()
        elif kind == "iterator":
            for each in _and_returned(value):
                yield each
        else:
            yield value
            return
        yield None

    # --- inside ------------------------------------------------------------------------------------------------------

    @property
    def _event_loop(self) -> EventLoop:
        if self._loop is None:
            self._loop = EventLoop()
        return self._loop

    def _call_process(self, frame: Frame, port: str) -> Any:
        self._origin = frame
        how = self._how
        self._leave()
        try:
            if how == "no":
                return self.node.process(frame)
            if how == "second":
                return self.node.process(frame, port)
            return self.node.process(frame, port=port)
        finally:
            self._enter()

    def _check(self, port: str, frame: Frame) -> None:
        """Refuse a frame that an input does not take; each format is looked at once.

        Raises:
            FormatError: input, node, and what differs.
        """
        declared = self._declared.get(port, Any)
        if isinstance(frame, Data):
            misfit = None if kind(declared) in ("any", "data") else f"a {type(frame.value).__name__} came"
        else:
            misfit = fits(frame.format, declared)
        if misfit is not None:
            raise FormatError(f"input {port!r} of {self.node.name} takes {show(declared)}: {misfit}")
        self._fitting[port] = frame.format

    def _run(self, result: Any) -> None:
        """Finish what a call of the user's code has begun, if it is async or a generator; what it gives is not used."""
        value: Any = self._awaited(result)
        if self._kind_of(value) == "iterator":
            deque(value, maxlen=0)

    def _emissions(self, result: Any, origin: Frame | None) -> Iterable[Emission]:
        if result is None and not self._lent:
            return ()
        value: Any = self._awaited(result)
        if self._kind_of(value) == "iterator":
            return self._stream(value, origin)
        emission = self._converter.emission(value, origin)
        if self._lent:
            return self._with_lent(emission)
        return () if emission is None else (emission,)

    def _with_lent(self, emission: Emission | None) -> tuple[Emission, ...]:
        """Return what was lent and is finished, then what was returned."""
        lent = tuple(self._lent)
        self._lent.clear()
        return lent if emission is None else (*lent, emission)

    def _kind_of(self, value: object) -> str:
        """Say how a value is taken; asking each type once, since asking an abstract class is slow."""
        kind = self._kinds.get(type(value))
        if kind is None:
            kind = self._kinds[type(value)] = _kind(value)
        return kind

    def _awaited(self, result: Any) -> Any:
        """Return what a call gave: of a coroutine its value, of an async iterator an iterator."""
        value: Any = self._event_loop.call(result) if self._kind_of(result) == "coroutine" else result
        return self._event_loop.iterate(value) if self._kind_of(value) == "async iterator" else value

    def _stream(self, steps: Iterator[Any], origin: Frame | None) -> Generator[Emission, None, None]:
        over = False
        lent, convert = self._lent, self._converter.emission
        try:
            while not over:
                self._leave()
                try:
                    value = next(steps)
                except StopIteration as end:
                    value, over = end.value, True
                finally:
                    self._enter()
                emission = convert(value, origin)
                while lent:
                    yield lent.popleft()
                if emission is not None:
                    yield emission
                elif self._breathes:
                    yield NOTHING
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()

    @contextmanager
    def _lend(self, port: str, like: Frame | None) -> Generator[Frame]:
        """Lend a frame to write to; it is emitted when the context ends without an error."""
        model = model_of(self._origin if like is None else like)
        size = model.array.nbytes
        self._enter()
        try:
            loan = Loan(model, self._room(port, size) if size > INLINE_BYTES else None)
        finally:
            self._leave()
        yield loan.frame
        if self._is_sent(port, loan):
            return
        emission = self._converter.emission((self.ports.outputs[port], loan.finish()), model)
        if emission is not None:
            self._lent.append(emission)

    def _is_sent(self, port: str, loan: Loan) -> bool:
        """Send a picture that is finished at once, if its output can do that; whether it was sent."""
        send, model = self._send.get(port), loan.frame
        if send is None or self._lent or not isinstance(model, VideoFrame):
            return False
        captured_ns = model.captured_ns
        if not captured_ns and self._origin is None:
            captured_ns = now_ns()
        loan.seal()
        self._enter()
        try:
            return send(_VIDEO, model.format, model.pts, model.time_base, captured_ns, model.array, loan.held)
        finally:
            self._leave()


def _nothing() -> None:
    """Nobody stands in for this thread."""


def _no_room(port: str, size: int) -> None:
    """Lend from the heap: there is no shared memory where a node runs inline."""


def _and_returned(steps: Iterator[Any]) -> Generator[Any]:
    """Yield what a generator yields, then what it returns."""
    while True:
        try:
            yield next(steps)
        except StopIteration as end:
            yield end.value
            return


def _kind(value: object) -> str:
    if isinstance(value, Coroutine):
        return "coroutine"
    if isinstance(value, AsyncIterator):
        return "async iterator"
    return "iterator" if isinstance(value, Iterator) else "value"
