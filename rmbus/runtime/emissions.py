"""From what a user's code returns to frames on named outputs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final, NamedTuple, Protocol, cast

import numpy as np

from rmbus.errors import FormatError, PipelineError
from rmbus.formats import Audio, Video, fits, kind, show
from rmbus.layouts import Array
from rmbus.media import AudioFrame, Data, Frame, Packet, VideoFrame, datum, now_ns, picture, sound
from rmbus.node import Interrupt, Node, Output, Port, Ports, describe_ports
from rmbus.protocol.codec import named
from rmbus.protocol.frames import Kind
from rmbus.stamps import Stamp
from rmbus.transport.memory import Held

FRAMES: Final = (VideoFrame, AudioFrame, Packet, Data)
_VIDEO: Final = int(Kind.VIDEO)
_AUDIO: Final = int(Kind.AUDIO)
_wall_ns: Final = time.time_ns
_MICROSECOND: Final = Fraction(1, 1_000_000)


class Emission(NamedTuple):
    """What an output emits: a frame, or the beginning of a new turn."""

    port: str
    value: Frame | Interrupt


NOTHING: Final = Emission("", Interrupt())
"""What a node gives that has nothing to give, or whose value is sent already: no output is meant."""


class SendArray(Protocol):
    """Sends an array, of which everything is known that a frame's header says, at once; or returns False."""

    def __call__(
        self,
        kind: int,
        form: Video | Audio,
        pts: int | None,
        base: Fraction,
        captured_ns: int,
        array: Array,
        held: Held | None = None,
        /,
    ) -> bool:
        """Whether it was sent; if not, nothing has been done. `held` is the shared memory that it lies in."""
        ...


class _Known(NamedTuple):
    """What the arrays of a source are like: one of the same shape and type has the same format."""

    shape: tuple[int, ...]
    dtype: object
    kind: int
    form: Video | Audio
    base: Fraction | None  # the time of one picture or sample; None: pictures are of the moment in which they came
    step: int
    send: SendArray | None


class Converter:
    """Makes emissions of values, and keeps the time of outputs that count for themselves."""

    def __init__(self, node: Node, ports: Ports) -> None:
        self._node = node
        self._send: Mapping[str, SendArray] = {}
        self._outputs = ports.outputs
        self._only = next(iter(ports.outputs)) if len(ports.outputs) == 1 else None
        self._counts: dict[str, int] = dict.fromkeys(ports.outputs, 0)
        self._began_ns: dict[str, int] = {}
        self._bases: dict[str, Fraction] = {}
        self._fitting: dict[str, object] = {}
        self._known: dict[str, _Known] = {}

    def send_by(self, outputs: Mapping[str, SendArray]) -> None:
        """Send arrays of a source that are as the one before by these, where they take them, instead of emitting."""
        self._send = outputs

    def emission(self, value: object, origin: Frame | None) -> Emission | None:
        """Return the emission that a returned or yielded value means, None for none.

        Args:
            value: a frame, an array, any other value, `Interrupt()`, `(output, value)`, or None.
            origin: the frame that it was made from; None in a source.

        Raises:
            PipelineError: it is not clear which output is meant. FormatError: it does not suit the output.
        """
        if value is None:
            return None
        port = self._only
        if port is not None and origin is None and isinstance(value, np.ndarray):
            known = self._like_before(port, cast("Array", value))
            if known is not None:
                return known
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Port):  # pyright: ignore[reportUnknownArgumentType] -- a user's tuple
            port, value = self._named(value[0]), value[1]  # pyright: ignore[reportUnknownVariableType] -- likewise
            if value is None:
                return None
        if port is None or isinstance(value, Port):
            raise PipelineError(self._unclear(value))  # pyright: ignore[reportUnknownArgumentType] -- likewise
        if isinstance(value, Interrupt) or value is Interrupt:
            return Emission(port, Interrupt())
        frame = _captured(self._frame(port, value, origin), origin)
        if self._fitting.get(port, self) is not frame.format:
            self._check(port, frame)
        if isinstance(value, np.ndarray) and isinstance(frame, VideoFrame | AudioFrame):
            array = cast("Array", value)
            if origin is None:
                self._know(port, array, frame)
        return named(Emission, (port, frame))

    def _know(self, port: str, array: Array, frame: VideoFrame | AudioFrame) -> None:
        """Note what the arrays of an output are like, where it says enough for the next one to be told from that."""
        declared, form = self._outputs[port].format, frame.format
        send = self._send.get(port)
        if isinstance(form, Video) and isinstance(declared, Video):
            base = None if declared.rate is None else self._base(port, declared.rate)
            self._known[port] = _Known(array.shape, array.dtype, _VIDEO, form, base, 1, send)
        elif isinstance(form, Audio) and isinstance(declared, Audio) and str(form.samples).endswith("p"):
            self._known[port] = _Known(
                array.shape, array.dtype, _AUDIO, form, self._base(port, declared.rate), array.shape[-1], send
            )

    def _like_before(self, port: str, array: Array) -> Emission | None:
        """Return the emission of an array of a source that is as the one before it; `NOTHING` if it is sent already."""
        known = self._known.get(port)
        if known is None:
            return None
        shape, dtype, what, form, base, step, send = known
        if array.dtype is not dtype or array.shape != shape:
            return None
        if base is None:
            pts, base = self._moment(port)
        else:
            pts = self._counts[port]
            self._counts[port] = pts + step
        captured_ns = _wall_ns()
        if send is not None and send(what, form, pts, base, captured_ns, array):
            return NOTHING
        if not array.flags.c_contiguous:
            array = array.copy()
        if what == _VIDEO:
            return named(Emission, (port, picture(array, cast("Video", form), pts, base, captured_ns)))
        return named(Emission, (port, sound(array, cast("Audio", form), pts, base, captured_ns)))

    def _named(self, output: Port) -> str:
        if output.name in self._outputs and isinstance(output, Output) and output.node in (None, self._node):
            return output.name
        raise PipelineError(f"{output!r} is no output of {self._node.name}, which has {describe_ports(self._node)}")

    def _unclear(self, value: object) -> str:
        name, what = self._node.name, type(value).__name__
        if isinstance(value, Port):
            return f"{name} emitted the port {value.name!r} with no value: write `yield self.{value.name}, value`"
        if not self._outputs:
            return f"{name} has no output, and emitted a {what}: declare `out = Output()`, or return None"
        named = next(iter(self._outputs))
        return (
            f"{name} emitted a {what} without naming the output; it has {', '.join(self._outputs)}: "
            f"write `yield self.{named}, value`"
        )

    def _frame(self, port: str, value: Any, origin: Frame | None) -> Frame:
        if isinstance(value, FRAMES):
            return value
        declared = self._outputs[port].format
        if isinstance(value, np.ndarray):
            return self._from_array(port, cast("Array", value), origin)
        if origin is None:
            return datum(value, declared, captured_ns=now_ns())
        return datum(value, declared, origin.pts, origin.time_base, origin.captured_ns)

    def _from_array(self, port: str, array: Array, origin: Frame | None) -> Frame:
        declared = self._outputs[port].format
        wanted = kind(declared)
        if isinstance(origin, VideoFrame) and wanted in ("any", "video"):
            named = declared.pixels if isinstance(declared, Video) else None
            return origin.with_array(array, named)
        if isinstance(origin, AudioFrame) and wanted in ("any", "audio"):
            return origin.with_array(array)
        if isinstance(declared, Video):
            stamp = self._video_stamp(port, declared, origin)
            return VideoFrame(array, declared.pixels, rate=declared.rate, **stamp)
        if isinstance(declared, Audio):
            return self._audio(port, declared, array)
        stamp = Stamp() if origin is None else Stamp(pts=origin.pts, time_base=origin.time_base)
        return Data(array, format=declared, **stamp)

    def _video_stamp(self, port: str, declared: Video, origin: Frame | None) -> Stamp:
        if origin is not None and origin.pts is not None:
            return Stamp(pts=origin.pts, time_base=origin.time_base)
        pts, base = self._video_time(port, declared)
        return Stamp(pts=pts, time_base=base)

    def _video_time(self, port: str, declared: Video) -> tuple[int, Fraction]:
        if declared.rate is None:
            return self._moment(port)
        count = self._counts[port]
        self._counts[port] += 1
        return count, self._base(port, declared.rate)

    def _moment(self, port: str) -> tuple[int, Fraction]:
        """Return the time of a picture that is of the moment in which it came."""
        now = time.monotonic_ns()
        return (now - self._began_ns.setdefault(port, now)) // 1000, _MICROSECOND

    def _base(self, port: str, rate: Fraction | int | None) -> Fraction:
        """Return the time of one picture or sample; a division of fractions is dear."""
        base = self._bases.get(port)
        if base is None:
            assert rate is not None
            base = self._bases[port] = 1 / Fraction(rate)
        return base

    def _audio(self, port: str, declared: Audio, array: Array) -> AudioFrame:
        if declared.rate is None:
            raise FormatError(
                f"output {port!r} of {self._node.name} gives no rate for its samples: declare "
                "Output(Audio(rate=48000)), or emit AudioFrame(array, rate)"
            )
        count = self._counts[port]
        self._counts[port] += array.shape[-1]
        time_base = Fraction(1, declared.rate)
        return AudioFrame(
            array, declared.rate, layout=declared.layout, samples=declared.samples, pts=count, time_base=time_base
        )

    def _check(self, port: str, frame: Frame) -> None:
        """Refuse a frame that its output does not carry; each format is looked at once."""
        if self._fitting.get(port, self) == frame.format:
            return
        declared = self._outputs[port].format
        offered = Any if isinstance(frame, Data) and kind(declared) in ("any", "data") else frame.format
        misfit = None if offered is Any and isinstance(frame, Data) else fits(offered, declared)
        if isinstance(frame, Data) and kind(declared) not in ("any", "data"):
            misfit = f"it was given a {type(frame.value).__name__}"
        if misfit is not None:
            raise FormatError(f"output {port!r} of {self._node.name} carries {show(declared)}: {misfit}")
        self._fitting[port] = frame.format


def _captured(frame: Frame, origin: Frame | None) -> Frame:
    """Return the frame with the capture time of what it was made from; in a source, now."""
    if frame.captured_ns:
        return frame
    captured_ns = now_ns() if origin is None else origin.captured_ns
    return frame.stamped(captured_ns=captured_ns) if captured_ns else frame
